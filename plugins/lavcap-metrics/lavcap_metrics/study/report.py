"""Mean opinion scores of systems, and how sure they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavcap_core.errors import RunError
from lavcap_core.files import replace_text
from lavcap_metrics.study.answers import SCORES, Answers
from lavcap_metrics.study.key import Key

__all__ = ["DRAWS", "PUBLISHED", "SOURCE", "Difference", "Opinion", "Report", "report", "text", "write"]

DRAWS = 10_000
_LEVEL = 95.0
_FEW = 5
METHOD = "percentiles of a bootstrap over raters and clips, both drawn with replacement (crossed)"

PUBLISHED = {"ground truth": 3.81, "audio only": 2.89, "visual only": 2.71, "audio-visual": 4.08}
"""Mean opinion scores that LAVCap's authors printed."""
SOURCE = "LAVCap, arXiv 2501.09291, Table VII: 20 raters, 35 clips"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Opinion:
    """What raters think of a system.

    Attributes:
        system: its name.
        mean: mean opinion score.
        low: lower bound of the 95 % interval.
        high: upper bound.
        ratings: how many scores it got.
        counts: how often 1, 2, 3, 4, 5.
    """

    system: str
    mean: float
    low: float
    high: float
    ratings: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """How much better the first of two systems is, with the 95 % interval of the difference on the same draws."""

    first: str
    second: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Report:
    """A study's outcome.

    Attributes:
        study: its id.
        clips: how many it has.
        raters: each one's file, number of captions scored, and whether all were; who scored none changes nothing.
        systems: in the order in which the study was made; those that got no score are missing.
        differences: of all pairs.
        notes: what must be known about the intervals.
        facts: how the intervals were computed.
    """

    study: str
    clips: int
    raters: tuple[Mapping[str, Any], ...]
    systems: tuple[Opinion, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    facts: Mapping[str, Any]


def report(key: Key, answers: Sequence[Answers], seed: int = 0) -> Report:
    """Means and intervals.

    The scores of a study have two sources of chance, who rates and which clips are rated. The bootstrap draws both anew
    (Owen, The pigeonhole bootstrap, 2007), so that an interval speaks of other raters and other clips of their kinds;
    intervals over single scores, as if they were independent, are far too narrow. It errs on the wide side.

    Raises:
        RunError: E067 if nobody scored anything.
    """
    given = [one for one in answers if one.scores]
    if not given:
        raise RunError("E067", "no file has a score that can be used", help="each file that is left out is told above")
    tables = {system: _table(key, system, given) for system in key.systems}
    tables = {system: table for system, table in tables.items() if not np.isnan(table).all()}
    drawn = _drawn(tables, seed)
    return Report(
        key.study,
        len(key.clips),
        tuple(_rater(one, key) for one in answers),
        tuple(_opinion(system, table, drawn[system]) for system, table in tables.items()),
        tuple(_difference(a, b, tables, drawn) for a, b in combinations(tables, 2)),
        tuple(_notes(key, given)),
        {"method": METHOD, "level": _LEVEL, "draws": DRAWS, "seed": seed},
    )


def _table(key: Key, system: str, answers: Sequence[Answers]) -> Array:
    """[raters, clips], scores of a system's captions; NaN where there is none."""
    captions = [next((c.id for c in clip.captions if system in c.systems), "") for clip in key.clips]
    return np.array([[one.scores.get(caption, np.nan) for caption in captions] for one in answers], dtype=np.float64)


def _drawn(tables: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """Means [draws] of each system; all systems' on the same draws of raters and clips."""
    raters, clips = next(iter(tables.values())).shape
    generator = np.random.default_rng(seed)
    who = generator.multinomial(raters, np.full(raters, 1 / raters), size=DRAWS)
    what = generator.multinomial(clips, np.full(clips, 1 / clips), size=DRAWS)
    means = {}
    for system, table in tables.items():
        there = (~np.isnan(table)).astype(np.float64)
        total = ((who @ np.nan_to_num(table)) * what).sum(axis=1)
        count = ((who @ there) * what).sum(axis=1)
        # A draw may hold no score of a system, where raters skipped many.
        means[system] = np.divide(total, count, out=np.full(DRAWS, np.nan), where=count > 0)
    return means


def _bounds(values: Array) -> tuple[float, float]:
    low, high = np.nanpercentile(values, ((100 - _LEVEL) / 2, (100 + _LEVEL) / 2))
    return float(low), float(high)


def _opinion(system: str, table: Array, drawn: Array) -> Opinion:
    counts = tuple(int((table == score).sum()) for score in SCORES)
    return Opinion(system, float(np.nanmean(table)), *_bounds(drawn), sum(counts), counts)


def _difference(first: str, second: str, tables: Mapping[str, Array], drawn: Mapping[str, Array]) -> Difference:
    difference = float(np.nanmean(tables[first]) - np.nanmean(tables[second]))
    return Difference(first, second, difference, *_bounds(drawn[first] - drawn[second]))


def _rater(one: Answers, key: Key) -> dict[str, Any]:
    complete = len(one.scores) == sum(len(clip.captions) for clip in key.clips)
    return {"rater": one.rater, "file": one.file, "scored": len(one.scores), "complete": complete}


def _notes(key: Key, answers: Sequence[Answers]) -> list[str]:
    notes = ["one rater: the intervals are over clips alone"] if len(answers) == 1 else []
    for count, what in ((len(answers), "raters"), (len(key.clips), "clips")):
        if 1 < count < _FEW:
            notes.append(f"only {count} {what}: a bootstrap of so few gives intervals that are too narrow")
    shared = sum(len(caption.systems) > 1 for clip in key.clips for caption in clip.captions)
    if shared:
        notes.append(f"captions that several systems have, which share their scores: {shared}")
    return notes


def text(found: Report) -> str:
    """For a terminal."""
    ratings = sum(rater["scored"] for rater in found.raters)
    incomplete = [rater["rater"] for rater in found.raters if not rater["complete"]]
    raters = sum(rater["scored"] > 0 for rater in found.raters)
    head = ", ".join(map(_counted, (raters, found.clips, ratings), ("rater", "clip", "score")))
    head += f"; not complete: {', '.join(incomplete)}" if incomplete else ""
    lines = [["", "mean opinion score", "95 % interval", "scores", *map(str, SCORES)]]
    lines += [
        [one.system, f"{one.mean:.2f}", f"[{one.low:.2f}, {one.high:.2f}]", str(one.ratings), *map(str, one.counts)]
        for one in found.systems
    ]
    lines += [[f"{name} (published)", f"{mean:.2f}", *["-"] * 7] for name, mean in PUBLISHED.items()]
    parts = [head, _aligned(lines)]
    if found.differences:
        rows = [
            [f"{one.first} - {one.second}", f"{one.difference:+.2f}", f"[{one.low:+.2f}, {one.high:+.2f}]"]
            for one in found.differences
        ]
        parts.append(_aligned([["", "difference", "95 % interval"], *rows]))
    notes = [f"intervals: {METHOD}, {DRAWS} draws", *found.notes]
    notes.append(f"published: {SOURCE}; of other clips and raters, not measured here")
    return "\n\n".join([*parts, "\n".join(notes)]) + "\n"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def write(found: Report, left_out: Mapping[str, str], path: Path) -> None:
    """Writes JSON; all or nothing.

    Args:
        found: the outcome.
        left_out: files that could not be used, with the reason.
        path: the file.
    """
    published = {"source": SOURCE, "means": PUBLISHED}
    content = {"lavcap_study_report": 1, **asdict(found), "published": published, "left_out": dict(left_out)}
    replace_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
