"""The table of a sweep: what came out of its runs, and published numbers beside it, marked as such."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lavcap_core.files import replace_text
from lavcap_core.registry import suggest
from lavcap_core.run.evaluate.published import score_name
from lavcap_core.run.sweep.plan import Row, Run, Sweep
from lavcap_core.run.sweep.work import Place, status

__all__ = ["gather", "markdown", "text", "write"]

_BEST = "best_validation"
_OTHER = ("step", "epoch", "clips", "alignment")
"""What a validation says besides losses and metrics; `caption` is what rows with and without an OT loss share."""

Table = dict[str, Any]


def gather(sweep: Sweep, out: Path) -> Table:
    """What is known of a sweep's runs, as plain data for JSON.

    Returns:
        ``title``, ``base``; ``columns``, dotted names within a run's summary; ``published``, names of published
        numbers; ``rows``, each with ``name``, ``title``, ``set`` (what it changes), ``runs`` (name, seed, state,
        reason, versions, data, values), ``values`` (per column: mean, standard deviation sd and number n of runs) and
        ``published`` (values and source, or None); ``notes``.
    """
    found = {run.name: _run(out, run) for row in sweep.rows for run in row.runs}
    columns = sweep.columns or _default_columns(found.values())
    for run in found.values():
        summary = run.pop("summary")
        run["values"] = {name: value for name in columns if (value := _at(summary, name)) is not None}
    rows = [_row(row, [found[run.name] for run in row.runs], columns) for row in sweep.rows]
    published = list(dict.fromkeys(name for row in rows if row["published"] for name in row["published"]["values"]))
    return {
        "title": sweep.title,
        "base": sweep.base,
        "columns": list(columns),
        "published": published,
        "rows": rows,
        "notes": [*_notes(rows, columns, out), *_sources(rows)],
    }


def _run(out: Path, run: Run) -> dict[str, Any]:
    known = status(out, run)
    place = Place(out, run.name)
    summary = json.loads(place.summary.read_text(encoding="utf-8")) if known.state == "done" else {}
    states = sorted(place.folder.glob("checkpoints/step-*/state.json")) if summary else []
    state = json.loads(states[-1].read_text(encoding="utf-8")) if states else {}
    facts = {"name": run.name, "seed": run.seed, "state": known.state, "reason": known.reason}
    # Of the last checkpoint: the plugins that wrote it, and a hash of the names of the clips that it learnt from.
    return {**facts, "versions": state.get("versions"), "data": state.get("data"), "summary": summary}


def _at(summary: Any, dotted: str) -> float | None:
    """A finite number of a summary by its dotted name, or None."""
    for name in dotted.split("."):
        summary = summary.get(name) if isinstance(summary, dict) else None
    return float(summary) if _is_number(summary) and math.isfinite(summary) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _default_columns(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Losses and metrics of the best validation; the last training loss where nothing was validated."""
    summaries = [run["summary"] for run in runs if run["summary"]]
    names = (name for summary in summaries for name in summary.get(_BEST) or {} if name not in _OTHER)
    return [f"{_BEST}.{name}" for name in dict.fromkeys(names)] or ["last.loss"]


def _row(row: Row, runs: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    values = {}
    for name in columns:
        numbers = [run["values"][name] for run in runs if name in run["values"]]
        if numbers:
            sd = statistics.stdev(numbers) if len(numbers) > 1 else None
            values[name] = {"mean": sum(numbers) / len(numbers), "sd": sd, "n": len(numbers)}
    # Under the name that the score has here, so that it is read beside the one that was measured.
    theirs = {score_name(name): value for name, value in row.published.items()}
    published = {"values": theirs, "source": row.source} if theirs else None
    facts = {"name": row.name, "title": row.title, "set": dict(row.changes)}
    return {**facts, "runs": list(runs), "values": values, "published": published}


def _notes(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], out: Path) -> list[str]:
    runs = [run for row in rows for run in row["runs"]]
    notes = [f"{run['name']}: failed: {run['reason']}" for run in runs if run["state"] == "failed"]
    notes += [f"{run['name']}: not shown, it was of another spec: {run['reason']}" for run in runs if _changed(run)]
    done = [run for run in runs if run["state"] == "done"]
    for name in columns if done else ():
        if not any(name in run["values"] for run in done):
            have = _numbers(json.loads(Place(out, done[0]["name"]).summary.read_text(encoding="utf-8")))
            notes.append(f"{name}: no run has it; {suggest(name, have) or 'there are: ' + ', '.join(have)}")
    for key, what in (("versions", "made by the same versions of the plugins"), ("data", "trained on the same clips")):
        if len({json.dumps(run[key], sort_keys=True) for run in done}) > 1:
            notes.append(f"not all runs were {what}: see {key} in table.json")
    return notes


def _changed(run: Mapping[str, Any]) -> bool:
    return bool(run["state"] == "changed")


def _sources(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    sources = dict.fromkeys(row["published"]["source"] for row in rows if row["published"])
    return [
        f"published: {source or 'source not given'}; printed for comparison, not measured here" for source in sources
    ]


def _numbers(summary: Any, key: str = "") -> list[str]:
    """Dotted names of all numbers of a summary."""
    if not isinstance(summary, dict):
        return [key] if _is_number(summary) else []
    return [name for k, v in summary.items() for name in _numbers(v, f"{key}.{k}" if key else k)]


def write(table: Table, out: Path) -> None:
    """Writes ``table.json`` and ``table.md``."""
    replace_text(out / "table.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    replace_text(out / "table.md", markdown(table))


def markdown(table: Table) -> str:
    """The table in Markdown."""
    head, *lines = ([cell.replace("|", "\\|") for cell in line] for line in _cells(table))
    rule = ["---", *["---:"] * (len(head) - 1)]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
    notes = "".join(f"- {note}\n" for note in table["notes"])
    return f"{table['title']}\n\n{rows}\n" + (f"\n{notes}" if notes else "")


def text(table: Table) -> str:
    """The table for a terminal."""
    lines = _cells(table)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
    return "\n".join([table["title"], "", *shown, *(["", *table["notes"]] if table["notes"] else [])]) + "\n"


def _cells(table: Table) -> list[list[str]]:
    """Head and rows."""
    columns, published = table["columns"], table["published"]
    head = ["", "runs", *_short(columns), *(f"{name} (published)" for name in published)]
    return [head, *(_line(row, columns, published) for row in table["rows"])]


def _line(row: Mapping[str, Any], columns: Sequence[str], published: Sequence[str]) -> list[str]:
    states = [run["state"] for run in row["runs"]]
    done = states.count("done")
    runs = str(done) if done == len(states) else f"{done} of {len(states)}"
    if not done:
        runs = "failed" if "failed" in states else "-"
    theirs = row["published"]["values"] if row["published"] else {}
    ours = [_spread(row["values"].get(name)) for name in columns]
    return [row["title"], runs, *ours, *(str(theirs[name]) if name in theirs else "-" for name in published)]


def _spread(value: Mapping[str, Any] | None) -> str:
    """Mean and, of several runs, standard deviation."""
    if value is None:
        return "-"
    mean = f"{value['mean']:.4g}"
    return mean if value["sd"] is None else f"{mean} ± {value['sd']:.2g}"


def _short(columns: Sequence[str]) -> list[str]:
    """The last words of dotted names, where they differ."""
    last = [name.rpartition(".")[2] for name in columns]
    return [word if last.count(word) == 1 else name for word, name in zip(last, columns, strict=True)]
