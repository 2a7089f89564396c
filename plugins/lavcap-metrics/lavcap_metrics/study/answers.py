"""What raters saved: files of scores, each of which is right or is told why not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavcap_core.errors import Problem
from lavcap_metrics.study.key import Key

__all__ = ["SCORES", "Answers", "files", "gather"]

SCORES = (1, 2, 3, 4, 5)
_FORMAT = 1


@dataclass(frozen=True)
class Answers:
    """One rater's scores.

    Attributes:
        file: where they are.
        rater: whose.
        saved: when, as ISO 8601 says it; "" if the file doesn't tell.
        scores: 1 to 5 by id of the caption.
    """

    file: str
    rater: str
    saved: str
    scores: dict[str, int]


class _ForeignError(ValueError):
    """Of another study."""


def files(inputs: Iterable[Path]) -> list[Path]:
    """Files, and all files ``.json`` of folders, each once, however it is named."""
    found: dict[Path, Path] = {}
    for path in inputs:
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def gather(paths: Sequence[Path], key: Key) -> tuple[list[Answers], list[Problem]]:
    """Reads files; gives what can be used, in the order of raters, and what is wrong with the others.

    A file that is damaged (E064), of another study (E065), or of a rater who saved another later (E066) is left out.
    """
    captions = frozenset(caption.id for clip in key.clips for caption in clip.captions)
    by_rater: dict[str, list[Answers]] = {}
    problems = []
    for path in paths:
        try:
            one = _read(path, key.study, captions)
            by_rater.setdefault(one.rater, []).append(one)
        except _ForeignError as error:
            help = "take the key of that study, or leave the file out"
            problems.append(Problem("E065", str(error), help, file=str(path)))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            help = "ask the rater to save the file again: the page still has the scores"
            problems.append(Problem("E064", f"holds no answers: {_reason(error)}", help, file=str(path)))
    used = []
    for rater in sorted(by_rater):
        last, *others = sorted(by_rater[rater], key=lambda one: (one.saved, len(one.scores), one.file), reverse=True)
        used.append(last)
        problems += [_twice(one, last) for one in others]
    return used, problems


def _read(path: Path, study: str, captions: frozenset[str]) -> Answers:
    row: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(row, dict):
        raise ValueError("not an object")
    if row["lavcap_study_answers"] != _FORMAT:
        raise ValueError(f"of version {row['lavcap_study_answers']!r}")
    if row["study"] != study:
        raise _ForeignError(f"answers study {row['study']!r}, not {study!r}")
    scores = row["scores"]
    if not isinstance(scores, dict):
        raise ValueError("scores that are no object")
    other = sorted(scores.keys() - captions)
    if other:
        raise ValueError(f"{len(other)} captions that the study doesn't have, such as {other[0]!r}")
    wrong = [score for score in scores.values() if isinstance(score, bool) or score not in SCORES]
    if wrong:
        raise ValueError(f"a score of {wrong[0]!r}, which is none of 1 to 5")
    rater = row["rater"]
    if not isinstance(rater, str) or not rater.strip():
        raise ValueError(f"a rater called {rater!r}")
    return Answers(str(path), rater.strip(), str(row.get("saved", "")), {k: int(v) for k, v in scores.items()})


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r} in it"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _twice(one: Answers, last: Answers) -> Problem:
    same = one.scores == last.scores
    message = f"rater '{one.rater}' saved {'the same' if same else 'other'} scores in {last.file}, which is used"
    help = "remove one of the files; if two people took one name, change 'rater' in one of them"
    return Problem("E066", message, help, file=one.file)
