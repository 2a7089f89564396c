"""An evaluation as a page of one file that asks the network for nothing: tables, clips to sort and filter, a player."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lavcap_core.files import replace_text
from lavcap_core.manifest import MEDIA, VIDEOS, natural
from lavcap_core.run.evaluate.compare import unlike
from lavcap_core.run.evaluate.published import Published
from lavcap_core.run.evaluate.resample import Compared
from lavcap_core.run.evaluate.result import ClipScores, Evaluation
from lavcap_core.run.evaluate.table import factor, ordered
from lavcap_core.webpage import assemble, embed, link

__all__ = ["write_page"]

_FACTS = {
    "clips": "clips",
    "references": "references per clip",
    "list": "SHA-256 of the clip list",
    "texts": "SHA-256 of the references",
    "words": "words",
    "empty": "empty captions",
    "left_out": "left out",
    "bootstrap": "bootstrap",
    "versions": "versions",
}
"""The facts of an evaluation that all systems share, and what the page calls them; the others are of single metrics."""

_OWN = ("words", "empty", "left_out")
"""Facts of the captions, which differ between systems."""

_UNSHOWN = ("gives",)


def write_page(
    evaluations: Sequence[Evaluation],
    path: Path,
    *,
    published: Sequence[Published] = (),
    compared: Sequence[Mapping[str, Compared] | None] = (),
) -> None:
    """Writes the page; all or nothing.

    Args:
        evaluations: one or several systems', in the order of the page; a clip that one of them lacks is shown without
            its caption.
        path: an HTML file. Players name media relative to its folder.
        published: rows to print beside, marked as such.
        compared: what `lavcap_core.run.evaluate.compare.compared` says of all systems but the first.
    """
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    title = f"Evaluation of {', '.join(evaluation.system for evaluation in evaluations)}"
    data = embed(_data(evaluations, path.parent, published, compared))
    replace_text(path, assemble(template, {"title": title, "version": version("lavcap-core")}, {"data": data}))


def _shown(name: str, value: float) -> float:
    """A score as tables print it; rounded, so that one shown as 115.00 isn't below 115."""
    return round(value * factor(name), 6)


def _digits(name: str) -> int | None:
    """Digits behind the point; None for four in all."""
    return 2 if factor(name) == 100 else None


def _row(scores: Mapping[str, float], names: Sequence[str]) -> list[float | None]:
    return [_shown(name, scores[name]) if name in scores else None for name in names]


def _data(
    evaluations: Sequence[Evaluation],
    folder: Path,
    published: Sequence[Published],
    compared: Sequence[Mapping[str, Compared] | None],
) -> dict[str, Any]:
    by_clip = dict.fromkeys(name for each in evaluations for clip in each.clips for name in clip.scores)
    corpus = [*(each.scores for each in evaluations), *(row.scores for row in published)]
    columns = ordered(name for names in (*corpus, by_clip) for name in names)
    names = [name for name in columns if name in by_clip]
    return {
        "columns": [{"name": name, "digits": _digits(name)} for name in columns],
        "systems": [_system(each, columns) for each in evaluations],
        "published": [
            {"name": row.system, "note": row.note, "scores": [row.scores.get(name) for name in columns]}
            for row in published
        ],
        "differences": [
            {"name": each.system, "scores": [_difference(found, name) for name in columns]}
            for each, found in zip(evaluations[1:], compared, strict=False)
            if found is not None
        ],
        "notices": list(_notices(evaluations)),
        "facts": _facts(evaluations),
        "names": [{"name": name, "column": columns.index(name)} for name in names],
        "clips": _clips(evaluations, names, folder),
    }


def _system(evaluation: Evaluation, columns: Sequence[str]) -> dict[str, Any]:
    bounds = evaluation.intervals
    intervals = [[_shown(name, x) for x in bounds[name]] if name in bounds else None for name in columns]
    return {"name": evaluation.system, "scores": _row(evaluation.scores, columns), "intervals": intervals}


def _difference(found: Mapping[str, Compared], name: str) -> dict[str, float] | None:
    if name not in found:
        return None
    one = found[name]
    return {key: _shown(name, getattr(one, key)) for key in ("difference", "low", "high")} | {"p": one.p}


def _notices(evaluations: Sequence[Evaluation]) -> Iterable[dict[str, Any]]:
    """What a reader must know before numbers are compared."""
    missing: dict[str, list[str]] = {}
    for evaluation in evaluations:
        for metric, why in evaluation.unavailable.items():
            missing.setdefault(f"{metric}: {why}", []).append(evaluation.system)
    if missing:
        every = len(evaluations)
        lines = [why if len(of) == every else f"{', '.join(of)}: {why}" for why, of in missing.items()]
        yield {"title": "Not computed:", "lines": lines}
    lines = unlike(evaluations)
    if lines:
        yield {"title": "These scores can't simply be compared:", "lines": lines}


def _facts(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """A row per fact, with a value per system; ``inner`` are those of single metrics, ``own`` those that may differ."""
    found = [dict(_flat(evaluation.facts, ())) for evaluation in evaluations]
    keys = dict.fromkeys(key for facts in found for key in facts)
    return [
        {
            "name": " › ".join((_FACTS.get(key[0], key[0]), *key[1:])),
            "inner": key[0] not in _FACTS,
            "own": key[0] in _OWN,
            "values": [facts.get(key) for facts in found],
        }
        for key in keys
        if key[0] not in _UNSHOWN
    ]


def _flat(value: Any, key: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping) and set(value) != _SPAN:
        for name, inner in value.items():
            yield from _flat(inner, (*key, str(name)))
    else:
        yield key, _fact(value)


_SPAN = {"least", "most", "mean"}


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        same = value["least"] == value["most"]
        return str(value["least"]) if same else f"{value['least']} to {value['most']}, mean {value['mean']:.4g}"
    if isinstance(value, list | tuple):
        return f"{len(value)}: {', '.join(map(str, value))}" if value else "none"
    return str(value)


def _clips(evaluations: Sequence[Evaluation], names: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """A row per clip of any system."""
    by_id = [{clip.id: clip for clip in evaluation.clips} for evaluation in evaluations]
    ids = sorted({name for clips in by_id for name in clips}, key=natural)
    return [_clip(name, [clips.get(name) for clips in by_id], names, folder) for name in ids]


def _clip(name: str, rows: Sequence[ClipScores | None], names: Sequence[str], folder: Path) -> dict[str, Any]:
    there = [row for row in rows if row is not None]
    media = next((Path(row.media) for row in there if row.media), None)
    return {
        "id": name,
        "captions": [None if row is None else row.candidate for row in rows],
        "references": list(dict.fromkeys(text for row in there for text in row.references)),
        "scores": [None if row is None else _row(row.scores, names) for row in rows],
        "media": None if media is None else _link(media, folder),
        "kind": "video" if media is not None and media.suffix.lower() in VIDEOS else "audio",
    }


def _link(media: Path, folder: Path) -> str | None:
    """Its place seen from the page; None if there is no such file of media."""
    return link(media, folder) if media.suffix.lower() in MEDIA and media.is_file() else None
