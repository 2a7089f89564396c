"""An evaluation as a page of one file that asks the network for nothing: tables, clips to sort and filter, a player."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lavcap_core.files import replace_text
from lavcap_core.manifest import MEDIA, VIDEOS, natural
from lavcap_core.run.evaluate.compare import unlike
from lavcap_core.run.evaluate.published import Published
from lavcap_core.run.evaluate.resample import Compared
from lavcap_core.run.evaluate.result import ClipScores, Evaluation
from lavcap_core.webpage import assemble, embed

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

_UNSHOWN = ("gives",)

_PLAIN = "diversity"
"""The metric whose numbers are counts and lengths: they are shown as they are, all others times 100."""


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
    data = embed({"title": title, **_data(evaluations, path.parent, published, compared)})
    replace_text(
        path, assemble(template, {"title": _printable(title), "version": version("lavcap-core")}, {"data": data})
    )


def _printable(text: str) -> str:
    """Without lone surrogates, which no encoding has; names of files may hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class _Shape:
    """How scores are shown.

    Attributes:
        columns: names of all scores.
        plain: the names of those that are not times 100.
    """

    columns: Sequence[str]
    plain: frozenset[str]

    def value(self, name: str, value: float) -> float:
        """A score as tables print it; rounded, so that one shown as 115.00 isn't below 115."""
        return round(value if name in self.plain else value * 100, 6)

    def digits(self, name: str) -> int | None:
        """Digits behind the point; None for four in all."""
        return None if name in self.plain else 2

    def row(self, scores: Mapping[str, float]) -> list[float | None]:
        """A value for each column."""
        return [self.value(name, scores[name]) if name in scores else None for name in self.columns]


def _shape(rows: Iterable[Iterable[str]], evaluations: Sequence[Evaluation]) -> _Shape:
    """Counts and lengths stand last: a published row would else be torn apart."""
    plain = frozenset(name for each in evaluations for name in each.facts.get("gives", {}).get(_PLAIN, ()))
    names = dict.fromkeys(name for row in rows for name in row)
    return _Shape(sorted(names, key=lambda name: name in plain), plain)


def _data(
    evaluations: Sequence[Evaluation],
    folder: Path,
    published: Sequence[Published],
    compared: Sequence[Mapping[str, Compared] | None],
) -> dict[str, Any]:
    by_clip = dict.fromkeys(name for each in evaluations for clip in each.clips for name in clip.scores)
    corpus = [*(each.scores for each in evaluations), *(row.scores for row in published)]
    shape = _shape([*corpus, by_clip], evaluations)
    names = [name for name in shape.columns if name in by_clip]
    return {
        "columns": [{"name": name, "digits": shape.digits(name)} for name in shape.columns],
        "systems": [_system(each, shape) for each in evaluations],
        "published": [
            {"name": row.system, "note": row.note, "scores": [row.scores.get(name) for name in shape.columns]}
            for row in published
        ],
        "differences": [
            {"name": each.system, "scores": [_difference(found, name, shape) for name in shape.columns]}
            for each, found in zip(evaluations[1:], compared, strict=False)
            if found is not None
        ],
        "notices": list(_notices(evaluations)),
        "facts": _facts(evaluations),
        "names": [{"name": name, "column": shape.columns.index(name)} for name in names],
        "clips": _clips(evaluations, replace(shape, columns=names), folder),
    }


def _difference(found: Mapping[str, Compared], name: str, shape: _Shape) -> dict[str, float] | None:
    if name not in found:
        return None
    one = found[name]
    bounds = {key: shape.value(name, getattr(one, key)) for key in ("difference", "low", "high")}
    return {**bounds, "p": one.p}


def _system(evaluation: Evaluation, shape: _Shape) -> dict[str, Any]:
    bounds = evaluation.intervals
    intervals = [[shape.value(name, x) for x in bounds[name]] if name in bounds else None for name in shape.columns]
    return {"name": evaluation.system, "scores": shape.row(evaluation.scores), "intervals": intervals}


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
    """A row per fact, with a value per system; ``inner`` are those of single metrics."""
    found = [dict(_flat(evaluation.facts, ())) for evaluation in evaluations]
    keys = dict.fromkeys(key for facts in found for key in facts)
    return [
        {"name": " › ".join((_FACTS.get(key[0], key[0]), *key[1:])), "inner": key[0] not in _FACTS, "values": values}
        for key in keys
        if key[0] not in _UNSHOWN
        for values in [[facts.get(key) for facts in found]]
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


def _clips(evaluations: Sequence[Evaluation], shape: _Shape, folder: Path) -> list[dict[str, Any]]:
    """A row per clip of any system."""
    by_id = [{clip.id: clip for clip in evaluation.clips} for evaluation in evaluations]
    ids = sorted({name for clips in by_id for name in clips}, key=natural)
    return [_clip(name, [clips.get(name) for clips in by_id], shape, folder) for name in ids]


def _clip(name: str, rows: Sequence[ClipScores | None], shape: _Shape, folder: Path) -> dict[str, Any]:
    there = [row for row in rows if row is not None]
    media = next((Path(row.media) for row in there if row.media), None)
    return {
        "id": name,
        "captions": [None if row is None else row.candidate for row in rows],
        "references": list(dict.fromkeys(text for row in there for text in row.references)),
        "scores": [None if row is None else shape.row(row.scores) for row in rows],
        "media": None if media is None else _link(media, folder),
        "kind": "video" if media is not None and media.suffix.lower() in VIDEOS else "audio",
    }


def _link(media: Path, folder: Path) -> str | None:
    """The file relative to the page, so that both can be moved together; None if there is no such file of media."""
    if media.suffix.lower() not in MEDIA or not media.is_file():
        return None
    try:
        return quote(Path(os.path.relpath(media, folder)).as_posix(), errors="surrogateescape")
    except ValueError:  # on another drive
        return media.absolute().as_uri()
