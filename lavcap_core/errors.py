"""What goes wrong, said so that a user can mend it.

A `Problem` is one thing to mend: a code with a page (`lavcap explain CODE`), what was met, where, and what to do.
A `LavcapError` carries one or many of them, because a spec with five mistakes should be mended in one go.
This module is light: it imports nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = [
    "BuildError",
    "DataError",
    "LavcapError",
    "MediaError",
    "PluginError",
    "PortError",
    "Problem",
    "RunError",
    "SpecError",
    "WeightsError",
]


@dataclass(frozen=True)
class Problem:
    """One thing to mend.

    Attributes:
        code: a letter and three digits, such as ``S002``; each has a page in ``lavcap_core/pages``.
        message: what was met, without the place.
        help: what to do about it, or None.
        key: dotted path of the key in a spec, such as ``aligner.epsilon``, or None.
        file: name of the file at fault, or None.
        line: line in that file, from 1, or None.
        column: column in that line, from 1, or None.
        source: the text of that line, or None.
    """

    code: str
    message: str
    help: str | None = None
    key: str | None = None
    file: str | None = None
    line: int | None = None
    column: int | None = None
    source: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        head = f"{place}: " if place else ""
        key = f"{self.key}: " if self.key else ""
        lines = [f"{head}{self.code} {key}{self.message}"]
        if self.source is not None and self.line is not None:
            lines.append(f"{self.line:>6} | {self.source}")
            lines.append(f"       | {' ' * ((self.column or 1) - 1)}^")
        if self.help:
            lines.append(f"   help: {self.help}")
        return "\n".join(lines)


class LavcapError(Exception):
    """Base of all errors that lavcap raises on purpose.

    Args:
        problems: one `Problem`, several, or the code of one whose message and help follow.
        message: the message, where the first argument is a code.
        help: what to do, where the first argument is a code.
        file: the file at fault, where the first argument is a code.
    """

    def __init__(
        self,
        problems: Problem | Sequence[Problem] | str,
        message: str = "",
        *,
        help: str | None = None,
        file: str | None = None,
    ) -> None:
        if isinstance(problems, str):
            problems = Problem(problems, message, help=help, file=file)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    # Exceptions cross process boundaries (workers); the default reduction would pass the joined text as a code.
    def __reduce__(self) -> tuple[type[LavcapError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)

    @property
    def code(self) -> str:
        """Code of the first problem."""
        return self.problems[0].code

    def at(self, **place: str | int | None) -> LavcapError:
        """The same error with fields of every problem (``key``, ``file``, ...) replaced."""
        return type(self)([replace(problem, **place) for problem in self.problems])  # type: ignore[arg-type]


class SpecError(LavcapError):
    """A spec that can't be read or is wrong (codes Y and S)."""


class PluginError(LavcapError):
    """A component that is missing, ambiguous, broken or too old (codes R)."""


class PortError(LavcapError):
    """Neighbouring parts that don't fit: modality, width or space (codes P)."""


class MediaError(LavcapError):
    """A clip that can't be read (codes M)."""


class DataError(LavcapError):
    """Training data that is missing or wrong (codes D)."""


class WeightsError(LavcapError):
    """Weights that are missing, of another shape, or not what they should be (codes W)."""


class BuildError(LavcapError):
    """A component that can't be built on this machine (codes B)."""


class RunError(LavcapError):
    """A run that can't start or go on (codes C)."""
