"""Evaluations as text: for a terminal, for Markdown, and each clip's scores as csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lavcap_core.files import replace_text
from lavcap_core.run.evaluate.published import Published
from lavcap_core.run.evaluate.read import shown
from lavcap_core.run.evaluate.resample import Compared
from lavcap_core.run.evaluate.result import Evaluation

__all__ = ["Section", "differences", "factor", "markdown", "ordered", "scores", "text", "write_csv", "write_json"]

_FIELDS = ("BLEU", "ROUGE", "METEOR", "CIDEr", "SPICE", "SPIDEr", "FENSE")
"""How the scores begin that papers on captioning print times 100, in their order."""

Differences = Sequence[Mapping[str, Compared] | None]


@dataclass(frozen=True)
class Section:
    """A table with its title."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def factor(name: str) -> int:
    """What a score is multiplied by where people read it: 100 as papers do, or 1 for what isn't one of theirs."""
    return 100 if name.startswith(_FIELDS) else 1


def ordered(names: Iterable[str]) -> list[str]:
    """Names of scores, each once: as papers order theirs, then the others."""
    return sorted(dict.fromkeys(names), key=lambda name: [not name.startswith(start) for start in _FIELDS])


def scores(evaluations: Sequence[Evaluation], published: Sequence[Published] = ()) -> list[Section]:
    """A row for each score, a column for each system; published numbers behind, marked as such."""
    names = list(dict.fromkeys(name for each in evaluations for name in each.scores))
    systems = [each.system for each in evaluations]
    rows = [
        [name, *(_value(each, name) for each in evaluations), *(_printed(row, name) for row in published)]
        for name in ordered([*names, *(name for row in published for name in row.scores)])
        if factor(name) == 100
    ]
    head = ["", *systems, *(f"{row.system} (published)" for row in published)]
    sections = [Section(f"Scores times 100{_BOUNDS}", head, rows)] if rows else []
    others = [[name, *(_value(each, name) for each in evaluations)] for name in names if factor(name) == 1]
    title = f"{'Others' if rows else 'Scores'}, as they are{_BOUNDS}"
    return [*sections, *([Section(title, ["", *systems], others)] if others else [])]


_BOUNDS = ", with 95 % bootstrap intervals over clips"


def _value(evaluation: Evaluation, name: str) -> str:
    if name not in evaluation.scores:
        return "-"
    value = _number(evaluation.scores[name], name)
    if name not in evaluation.intervals:
        return value
    low, high = evaluation.intervals[name]
    return f"{value} [{_number(low, name)}, {_number(high, name)}]"


def _number(value: float, name: str, sign: str = "") -> str:
    return f"{value * 100:{sign}.2f}" if factor(name) == 100 else f"{value:{sign}.4g}"


def _printed(row: Published, name: str) -> str:
    return f"{row.scores[name]:.1f}" if name in row.scores else "-"


def differences(evaluations: Sequence[Evaluation], found: Differences) -> list[Section]:
    """A row for each score, a column for each system but the first, from which they differ."""
    first, *others = evaluations
    columns = [(other, each) for other, each in zip(others, found, strict=True) if each]
    if not columns:
        return []
    names = [name for name in ordered(first.scores) if any(name in each for _, each in columns)]
    title = (
        f"Difference from {first.system}, with 95 % interval (paired bootstrap) and p (approximate randomisation, "
        "two-sided, not corrected for several tests)"
    )
    rows = [[name, *(_difference(each.get(name), name) for _, each in columns)] for name in names]
    return [Section(title, ["", *(other.system for other, _ in columns)], rows)]


def _difference(found: Compared | None, name: str) -> str:
    if found is None:
        return "-"
    bounds = ", ".join(_number(bound, name, "+") for bound in (found.low, found.high))
    return f"{_number(found.difference, name, '+')} [{bounds}] p={found.p:.2g}"


def text(evaluations: Sequence[Evaluation], sections: Sequence[Section], notes: Sequence[str]) -> str:
    """For a terminal."""
    parts = ["\n".join(_about(each)) for each in evaluations]
    parts += [f"{section.title}\n\n{_aligned([section.head, *section.rows])}" for section in sections]
    parts += ["\n".join(lines) for lines in (_unavailable(evaluations), notes) if lines]
    return "\n\n".join(parts) + "\n"


def markdown(evaluations: Sequence[Evaluation], sections: Sequence[Section], notes: Sequence[str]) -> str:
    """In Markdown."""
    parts = ["\n".join(f"- {line}" for each in evaluations for line in _about(each))]
    for section in sections:
        rule = ["---", *["---:"] * (len(section.head) - 1)]
        lines = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in section.rows)
        head = f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in section.head)} |"
        parts.append("\n".join([f"{section.title}\n", head, f"| {' | '.join(rule)} |", *lines]))
    parts += ["\n".join(f"- {line}" for line in lines) for lines in (_unavailable(evaluations), notes) if lines]
    return "\n\n".join(parts) + "\n"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _about(evaluation: Evaluation) -> Iterator[str]:
    """What was scored: a line, and one for each kind of what was left out."""
    facts = evaluation.facts
    clips, references, words = facts["clips"], facts["references"], facts["words"]
    yield (
        f"{evaluation.system}: {clips} clip{'' if clips == 1 else 's'} (list {facts['list'][:12]}), "
        f"{_span(references)} reference{'' if references['most'] == 1 else 's'} each (texts {facts['texts'][:12]}), "
        f"captions of {words['captions']['mean']:.1f} words (references {words['references']['mean']:.1f}), "
        f"{len(facts['empty'])} empty"
    )
    for kind, names in facts["left_out"].items():
        yield f"{evaluation.system}: {left_out(kind, names)}"


def left_out(kind: str, names: Sequence[str]) -> str:
    """What became of clips that aren't as they should be, as the user allowed it."""
    what = "first caption scored, as there are several" if kind == "duplicate" else f"not scored, since {kind}"
    return f"{what}: {shown(names)}"


def _span(numbers: Mapping[str, Any]) -> str:
    if numbers["least"] == numbers["most"]:
        return str(numbers["least"])
    return f"{numbers['least']} to {numbers['most']} (mean {numbers['mean']:.2f})"


def _unavailable(evaluations: Sequence[Evaluation]) -> list[str]:
    """Metrics that could not be computed; of several systems, said once if it is the same."""
    found: dict[tuple[str, str], list[str]] = {}
    for evaluation in evaluations:
        for metric, why in evaluation.unavailable.items():
            found.setdefault((metric, why), []).append(evaluation.system)
    return [
        f"not computed: {metric}{'' if len(systems) == len(evaluations) else ' of ' + ', '.join(systems)}: {why}"
        for (metric, why), systems in found.items()
    ]


def write_csv(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Writes a row for each clip of each system: system, id, caption, and the clip's scores."""
    names = list(dict.fromkeys(name for each in evaluations for clip in each.clips for name in clip.scores))
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["system", "id", "caption", *names])
    for each in evaluations:
        for clip in each.clips:
            writer.writerow([each.system, clip.id, clip.candidate, *(clip.scores.get(name, "") for name in names)])
    replace_text(path, out.getvalue())


def write_json(evaluations: Sequence[Evaluation], found: Differences, path: Path) -> None:
    """Writes one evaluation, to be read and compared later; or several, with what they differ by."""
    if len(evaluations) == 1:
        evaluations[0].write(path)
        return
    systems = [each.system for each in evaluations[1:]]
    content = {
        "comparison": 1,
        "evaluations": [asdict(each) for each in evaluations],
        "differences": {
            system: {name: asdict(value) for name, value in each.items()} if each else None
            for system, each in zip(systems, found, strict=True)
        },
    }
    replace_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
