"""The words of captions: Stanford's PTBTokenizer as pycocoevalcap drives it, in one process for all calls."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

from lavcap_core.errors import RunError
from lavcap_metrics import java
from lavcap_metrics.memo import Memo
from lavcap_metrics.plugin import TokenisedConfig
from lavcap_metrics.process import Watched

__all__ = ["Captions", "captions", "facts", "jar", "tokenise"]

_MAIN = "edu.stanford.nlp.process.PTBTokenizer"
_OPTIONS = ("-preserveLines", "-lowerCase")
# What the tokeniser takes for the end of a line. pycocoevalcap puts a blank for the first only; with one of the others
# in a caption it would give each caption after it the words of its neighbour.
_LINE_ENDS = re.compile("[\n\r\x0b\x0c\u2028\u2029]")
_DOCUMENTS = 10_000
"""How many documents a process is told of when it starts; then another is started."""
_GRACE = 1.0
"""Seconds in which what a process wrote before its end is read."""
_EXIT = 0.005
"""Seconds between the end of a process's files, where it was killed, and its own end."""


@dataclass(frozen=True)
class Captions:
    """What is scored, as pycocoevalcap's scorers take it.

    Attributes:
        candidates: N captions.
        references: for each, one text or more.
    """

    candidates: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]

    @property
    def res(self) -> dict[int, list[str]]:
        """The candidates by number."""
        return {i: [text] for i, text in enumerate(self.candidates)}

    @property
    def gts(self) -> dict[int, list[str]]:
        """The references by number."""
        return {i: list(texts) for i, texts in enumerate(self.references)}


def captions(candidates: Sequence[str], references: Sequence[Sequence[str]], config: TokenisedConfig) -> Captions:
    """Candidates and references after the tokeniser that a metric is set to.

    As in pycocoevalcap, all references are one document of the tokeniser, and all candidates another: where a sentence
    ends can depend on the line below.

    Raises:
        BuildError: E030 if there is no Java.
        RunError: E031, E032 if its process hangs or ends; E033 if lines were lost.
    """
    if len(candidates) != len(references) or not all(references):
        raise ValueError(f"{len(candidates)} captions with {len(references)} sets of references, none of them empty")
    if config.tokeniser == "none":
        return Captions(tuple(candidates), tuple(tuple(texts) for texts in references))
    flat = iter(tokenise([text for texts in references for text in texts], config.timeout))
    told = tuple(tuple(next(flat) for _ in texts) for texts in references)
    return Captions(tokenise(candidates, config.timeout), told)


def facts(config: TokenisedConfig) -> dict[str, str]:
    """What scores that are compared must have in common."""
    named = "PTBTokenizer 3.4.1, lower case, no punctuation" if config.tokeniser == "ptb" else "none"
    return {"tokeniser": named, "pycocoevalcap": metadata.version("pycocoevalcap")}


def jar() -> Path:
    """The jar of the tokeniser, in pycocoevalcap."""
    return Path(str(resources.files("pycocoevalcap.tokenizer") / STANFORD_CORENLP_3_4_1_JAR))


_known: Memo[tuple[str, ...]] = Memo(16)


def tokenise(texts: Sequence[str], timeout: float = 120.0) -> tuple[str, ...]:
    """Words in lower case without punctuation, with a blank between two.

    Equals pycocoevalcap's PTBTokenizer on the same texts in the same order. The last documents are remembered.

    Raises:
        BuildError: E030 if there is no Java.
        RunError: E031, E032 if its process hangs or ends; E033 if lines were lost.
    """
    lines = tuple(_LINE_ENDS.sub(" ", text) for text in texts)
    if not any(line.strip() for line in lines):
        return ("",) * len(lines)
    return _known.get(lines, lambda: _tokenised(lines, timeout))


def _tokenised(lines: Sequence[str], timeout: float) -> tuple[str, ...]:
    document = "\n".join(lines).encode("utf-8", errors="replace")
    found = _tokeniser.run(document, timeout).decode("utf-8").split("\n")
    if len(found) != len(lines):
        raise RunError(
            "E033",
            f"the tokeniser made {len(found)} lines of {len(lines)} captions",
            help="a caption holds characters that end a line or a document: look for control characters",
        )
    return tuple(" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATIONS) for line in found)


class _Tokeniser:
    """One process that turns document after document into words.

    PTBTokenizer closes and so writes out its output after each pair of files that it is told of at its start. The pair
    is always the same two named pipes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Watched | None = None
        self._folder: Path | None = None
        self._owner = os.getpid()
        self._left = 0

    def run(self, document: bytes, timeout: float) -> bytes:
        """What the tokeniser writes for a document, UTF-8."""
        if not hasattr(os, "mkfifo"):
            return _run_once(document, timeout)
        with self._lock:
            try:
                process, folder = self._running()
            except OSError:  # a file system without named pipes
                return _run_once(document, timeout)
            self._left -= 1
            return _exchange(process, folder, document, timeout)

    def close(self) -> None:
        """Ends the process and takes away its pipes."""
        if self._process is not None:
            self._process.close()
        # A process that was forked from this one must leave it its pipes.
        if self._folder is not None and self._owner == os.getpid():
            shutil.rmtree(self._folder, ignore_errors=True)
        self._process = self._folder = None

    def _running(self) -> tuple[Watched, Path]:
        if self._process is None or self._folder is None or not self._process.alive or self._left == 0:
            self.close()
            program = java.find().program
            self._owner = os.getpid()
            self._folder = Path(tempfile.mkdtemp(prefix="lavcap-ptb-"))
            os.mkfifo(self._folder / "in")
            os.mkfifo(self._folder / "out")
            (self._folder / "files").write_text("in out\n" * _DOCUMENTS)
            self._left = _DOCUMENTS
            command = [program, "-cp", str(jar()), _MAIN, *_OPTIONS, "-ioFileList", "files"]
            self._process = Watched("the tokeniser's Java process", command, cwd=self._folder)
        return self._process, self._folder


def _exchange(process: Watched, folder: Path, document: bytes, timeout: float) -> bytes:
    """Writes a document into one pipe and reads the other, each in a thread of its own: opening them waits."""
    found: list[bytes] = []
    threads = [
        threading.Thread(target=_write, args=(folder / "in", document), daemon=True),
        threading.Thread(target=lambda: found.append((folder / "out").read_bytes()), daemon=True),
    ]
    process.touch()
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            process.check(timeout)
            threads[-1].join(0.05)
            # After its last document it ends by itself: what it wrote may still be on its way here.
            if not process.alive:
                threads[-1].join(_GRACE)
                break
        time.sleep(_EXIT)
        if process.failed or not found:
            raise process.ended()
    except BaseException:
        process.close()
        while any(thread.is_alive() for thread in threads):
            _release(folder)
            threads[-1].join(0.05)
        raise
    return found[0]


def _write(path: Path, document: bytes) -> None:
    with suppress(OSError):  # the process ended, which the reader learns
        path.write_bytes(document)


def _release(folder: Path) -> None:
    """Opens the other ends of the pipes for a moment, for threads that wait for a process that is gone."""
    for name, flags in (("in", os.O_RDONLY), ("out", os.O_WRONLY)):
        with suppress(OSError):  # nobody waits
            os.close(os.open(folder / name, flags | os.O_NONBLOCK))


def _run_once(document: bytes, timeout: float) -> bytes:
    """Where there are no named pipes, as on Windows: a process for each document."""
    with tempfile.TemporaryDirectory(prefix="lavcap-ptb-") as folder:
        (Path(folder) / "in").write_bytes(document)
        command = [java.find().program, "-cp", str(jar()), _MAIN, *_OPTIONS, "in"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=timeout, check=True)
        except subprocess.SubprocessError as error:
            raise RunError("E032", f"the tokeniser's Java process failed: {error}") from None
    return done.stdout


_tokeniser = _Tokeniser()
atexit.register(_tokeniser.close)
