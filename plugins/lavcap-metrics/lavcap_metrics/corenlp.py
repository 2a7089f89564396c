"""Stanford CoreNLP 3.6.0, which SPICE parses with: where its jars are kept, and how they get there.

No SHA-256 of the jars is published. What comes from Maven Central is compared with the SHA-1 that is published beside
it; the publisher's archive with the SHA-1 that the installer of a public project records. Every jar must hold what
SPICE asks of it. The SHA-256 of what was installed is written down, and compared before every use.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from tqdm import tqdm

from lavcap_core.errors import BuildError
from lavcap_core.files import cache_folder, replace_text, sync

__all__ = ["JARS", "Installed", "find", "folder", "install", "installed"]

JARS = {
    "stanford-corenlp-3.6.0.jar": "edu/stanford/nlp/pipeline/StanfordCoreNLP.class",
    "stanford-corenlp-3.6.0-models.jar": "edu/stanford/nlp/models/lexparser/englishPCFG.ser.gz",
}
"""The jars, and a file that each must hold."""

MAVEN = "https://repo1.maven.org/maven2/edu/stanford/nlp/stanford-corenlp/3.6.0/"
ARCHIVE = "stanford-corenlp-full-2015-12-09.zip"
PUBLISHER = "https://nlp.stanford.edu/software/"
ARCHIVE_SHA1 = "55c9d653eb30ace7d5a60eb3138e424f9442e539"

_RECORD = "installed.json"
_BLOCK = 1 << 20
_HELP = "lavcap metrics install-spice   downloads them; with --from FOLDER it takes them from there"


@dataclass(frozen=True)
class Installed:
    """What is written down of a jar.

    Attributes:
        sha256: of the file, as it was installed.
        source: where it came from.
        checked: what it was compared with.
    """

    sha256: str
    source: str
    checked: str


def folder() -> Path:
    """Where the jars are kept, in the user's cache."""
    return cache_folder("spice") / "stanford-corenlp-3.6.0"


def installed() -> dict[str, Installed]:
    """What is written down of the installed jars, by name; empty if there are none."""
    try:
        rows = json.loads((folder() / _RECORD).read_text(encoding="utf-8"))
        return {name: Installed(**row) for name, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def find(other: str | None = None) -> list[Path]:
    """The jars: of a folder that the user names, or those that were installed, or those that pycocoevalcap fetched.

    Raises:
        BuildError: E040 if they are not there; E041 if they are not what they should be.
    """
    places = [folder(), _theirs()] if other is None else [Path(other)]
    place = next((place for place in places if not _missing(place)), places[0])
    if _missing(place):
        raise BuildError("E040", f"SPICE needs {' and '.join(_missing(place))}, not found in {place}", help=_HELP)
    known = installed() if place == folder() else {}
    for name in JARS:
        _require_content(place / name, name)
        if name in known and _sha256(place / name) != known[name].sha256:
            raise BuildError("E041", f"{place / name} is not the file that was installed", help=_HELP)
    return [place / name for name in JARS]


def _missing(place: Path) -> list[str]:
    return [name for name in JARS if not (place / name).is_file()]


def _theirs() -> Path:
    """Where pycocoevalcap puts the jars when it is asked for SPICE."""
    return Path(str(resources.files("pycocoevalcap.spice") / "lib"))


def install(source: Path | None = None) -> dict[str, Installed]:
    """Puts the jars into the user's cache, all or nothing.

    Args:
        source: a folder with the jars or the publisher's archive, or that archive; None: Maven Central, and the
            publisher if it doesn't answer.

    Raises:
        BuildError: E040 if the folder lacks them, E041 if a file is not what it should be, E042 if none can be had.
    """
    folder().mkdir(parents=True, exist_ok=True)
    # In the same folder: a jar moves to its place in one step, and never half.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder()) as name:
        place = Path(name)
        found = dict(_from_network(place) if source is None else _from_files(Path(source), place))
        for jar in JARS:
            _require_content(place / jar, jar)
        for jar in JARS:
            sync(place / jar)
            (place / jar).replace(folder() / jar)
    replace_text(folder() / _RECORD, json.dumps({jar: asdict(row) for jar, row in found.items()}, indent=1) + "\n")
    return found


def _from_network(place: Path) -> dict[str, Installed]:
    reasons = []
    for fetch in (_from_maven, _from_publisher):
        try:
            return dict(fetch(place))
        except (OSError, urllib.error.URLError) as error:
            reasons.append(f"{error}")
    raise BuildError(
        "E042",
        f"the jars of CoreNLP can't be downloaded: Maven Central: {reasons[0]}; nlp.stanford.edu: {reasons[1]}",
        help="fetch them elsewhere, then: lavcap metrics install-spice --from FOLDER",
    )


def _from_maven(place: Path) -> Iterator[tuple[str, Installed]]:
    for name in JARS:
        with urllib.request.urlopen(MAVEN + name + ".sha1", timeout=60) as answer:
            sha1 = answer.read(200).decode("ascii", errors="replace").split()[0].lower()
        _download(MAVEN + name, place / name)
        _require_sum(place / name, "sha1", sha1, f"{MAVEN}{name}.sha1")
        yield name, Installed(_digest(place / name), MAVEN + name, f"SHA-1 {sha1}, published beside it")


def _from_publisher(place: Path) -> Iterator[tuple[str, Installed]]:
    _download(PUBLISHER + ARCHIVE, place / ARCHIVE)
    return _from_archive(place / ARCHIVE, place, PUBLISHER + ARCHIVE)


def _from_files(source: Path, place: Path) -> Iterator[tuple[str, Installed]]:
    files = [source] if source.is_file() else sorted(source.rglob("*")) if source.is_dir() else []
    found = {file.name: file for file in reversed(files) if file.name in (*JARS, ARCHIVE) or file == source}
    if JARS.keys() <= found.keys():
        return _copied({name: found[name] for name in JARS}, place)
    archive = found.get(ARCHIVE) or (source if source.is_file() else None)
    if archive is None:
        help = f"it must hold {' and '.join(JARS)}, or {ARCHIVE}"
        raise BuildError("E040", f"{source} lacks the jars of CoreNLP", help=help)
    return _from_archive(archive, place, str(archive))


def _copied(files: dict[str, Path], place: Path) -> Iterator[tuple[str, Installed]]:
    for name, file in files.items():
        shutil.copyfile(file, place / name)
        checked = "what it holds only: no .sha256 or .sha1 lies beside it"
        for kind in ("sha256", "sha1"):
            beside = file.with_name(f"{name}.{kind}")
            if beside.is_file():
                _require_sum(place / name, kind, beside.read_text(errors="replace").split()[0].lower(), str(beside))
                checked = f"{beside}"
                break
        yield name, Installed(_digest(place / name), str(file), checked)


def _from_archive(archive: Path, place: Path, source: str) -> Iterator[tuple[str, Installed]]:
    _require_sum(archive, "sha1", ARCHIVE_SHA1, "another project's installer")
    with zipfile.ZipFile(archive) as inside:
        for name in JARS:
            with inside.open(f"{ARCHIVE.removesuffix('.zip')}/{name}") as packed, (place / name).open("wb") as file:
                shutil.copyfileobj(packed, file, _BLOCK)
            yield name, Installed(_digest(place / name), source, f"SHA-1 of the archive, {ARCHIVE_SHA1}")


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
            for block in iter(lambda: answer.read(_BLOCK), b""):
                file.write(block)
                bar.update(len(block))


def _require_sum(path: Path, kind: str, expected: str, source: str) -> None:
    found = _digest(path, kind)
    if found != expected:
        message = f"{path.name} has the {kind} {found}, and {source} says {expected}"
        raise BuildError("E041", message, help="it was damaged on its way, or is another file: fetch it again")


def _require_content(path: Path, name: str) -> None:
    """Raises E041 if a jar can't be read or lacks what SPICE asks of it."""
    try:
        with zipfile.ZipFile(path) as inside:
            inside.getinfo(JARS[name])
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BuildError("E041", f"{path} is not {name}: {error}", help=_HELP) from None


def _sha256(path: Path) -> str:
    """Of a file; read again only when it has changed: SPICE and SPIDEr of one evaluation both ask."""
    state = path.stat()
    return _sha256_once(path, state.st_size, state.st_mtime_ns)


@cache
def _sha256_once(path: Path, size: int, changed: int) -> str:
    return _digest(path)


def _digest(path: Path, kind: str = "sha256") -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
