"""SPICE 1.0: the jar of pycocoevalcap on the class path of its libraries and of CoreNLP."""

from __future__ import annotations

import json
import math
import os
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lavcap_core.component import Context
from lavcap_core.errors import RunError
from lavcap_core.files import cache_folder
from lavcap_core.scores import Score
from lavcap_metrics import corenlp, java, tokens
from lavcap_metrics.java import Java
from lavcap_metrics.memo import Memo
from lavcap_metrics.plugin import SpiceConfig
from lavcap_metrics.process import Watched
from lavcap_metrics.tokens import Captions

__all__ = ["NEWEST", "OLDEST", "Spice", "build", "command", "facts", "jar", "spice"]

_MAIN = "edu.anu.spice.SpiceScorer"
OLDEST, NEWEST = 8, 11
"""Versions of Java that SPICE was made for; others need flags and a stand-in for JavaScript."""

_OPENED = ("lang", "math", "net", "text", "util", "util.concurrent")
"""Packages of java.base into which SPICE's library for its cache looks, which Java 16 and newer must allow."""


class Spice:
    """SPICE (Anderson et al. 2016): F-score of what is said, as graphs of objects, attributes and relations."""

    def __init__(self, config: SpiceConfig) -> None:
        self._config = config

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Scores captions; see `lavcap_core.scores.Metric`.

        Raises:
            BuildError: E030 if there is no Java; E040, E041 if the jars of CoreNLP are missing or others.
            RunError: E031, E032 if a Java process hangs or ends; E043 if SPICE's results can't be read.
        """
        corpus, clips = spice(candidates, references, self._config)
        return Score({"SPICE": corpus}, {"SPICE": clips}, facts=facts(self._config))


def facts(config: SpiceConfig) -> dict[str, str]:
    """What scores that are compared must have in common."""
    return {"spice": "1.0, CoreNLP 3.6.0", **tokens.facts(config)}


_known: Memo[tuple[float, list[float]]] = Memo()


def spice(
    candidates: Sequence[str], references: Sequence[Sequence[str]], config: SpiceConfig
) -> tuple[float, list[float]]:
    """SPICE of the corpus and of each clip; the last results are remembered. Raises what `Spice` does."""
    jars = corenlp.find(config.jars)
    texts = tokens.captions(candidates, references, config)
    return _known.get((texts, tuple(jars)), lambda: _spice(texts, jars, config))


def _spice(texts: Captions, jars: Sequence[Path], config: SpiceConfig) -> tuple[float, list[float]]:
    pairs = enumerate(zip(texts.candidates, texts.references, strict=True))
    rows = [{"image_id": i, "test": candidate, "refs": list(told)} for i, (candidate, told) in pairs]
    with tempfile.TemporaryDirectory(prefix="lavcap-spice-") as name:
        asked, answered = Path(name) / "in.json", Path(name) / "out.json"
        # In ASCII: SPICE reads in the encoding of the machine.
        asked.write_text(json.dumps(rows), encoding="ascii")
        words = command(java.oldest_fitting(OLDEST, NEWEST), jars, asked, answered, config)
        Watched("SPICE's Java process", words, cwd=Path(name)).wait(config.timeout)
        return _scores(answered, len(rows))


def _scores(path: Path, count: int) -> tuple[float, list[float]]:
    """Mean and scores of each clip, in the order of their numbers; as in pycocoevalcap, no number is NaN."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        found = {row["image_id"]: _number(row["scores"]["All"]["f"]) for row in rows}
        clips = [found[i] for i in range(count)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError("E043", f"SPICE's results can't be read: {error!r}", help="run it again") from None
    return float(np.mean(clips)), clips


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def command(found: Java, jars: Sequence[Path], asked: Path, answered: Path, config: SpiceConfig) -> list[str]:
    """The command that runs SPICE, with pycocoevalcap's options."""
    cache = cache_folder("spice") / "parses"
    if config.cache:
        cache.mkdir(parents=True, exist_ok=True)
    return [
        found.program,
        f"-Xmx{config.memory}",
        *_flags(found.major),
        "-Dfile.encoding=UTF-8",
        "-Duser.language=en",
        "-cp",
        os.pathsep.join(str(path) for path in _class_path(jars, found.major)),
        _MAIN,
        str(asked),
        *(["-cache", str(cache)] if config.cache else []),
        *["-out", str(answered), "-subset", "-silent"],
    ]


def _flags(major: int) -> list[str]:
    flags = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENED] if major >= 9 else []
    # Newer ones warn of what SPICE's libraries do, and say that they will refuse it.
    flags += ["--enable-native-access=ALL-UNNAMED"] if major >= 22 else []
    return flags + (["--sun-misc-unsafe-memory-access=allow"] if major >= 23 else [])


def jar() -> Path:
    """The jar of SPICE, in pycocoevalcap."""
    return Path(str(resources.files("pycocoevalcap.spice") / "spice-1.0.jar"))


def _class_path(jars: Sequence[Path], major: int) -> list[Path]:
    """CoreNLP and the other libraries in the order of SPICE's manifest; SPICE last, as its jar brings in its folder."""
    manifest = zipfile.ZipFile(jar()).read("META-INF/MANIFEST.MF").decode("utf-8").replace("\r\n", "\n")
    line = next(line for line in manifest.replace("\n ", "").split("\n") if line.startswith("Class-Path:"))
    known = {path.name: path for path in jars}
    names = [Path(name).name for name in line.removeprefix("Class-Path:").split()]
    paths = [*(known.get(name, jar().parent / "lib" / name) for name in names), jar()]
    # SPICE lays out its results with JavaScript, which Java has lost with version 15.
    return paths + ([Path(__file__).parent / "script"] if major >= 15 else [])


def build(config: SpiceConfig, context: Context) -> Spice:
    """Builds `spice`."""
    return Spice(config)
