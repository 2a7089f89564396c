"""Makes an evaluation: scores, how sure they are, and the facts without which they can't be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from lavcap_core.builder import build_use
from lavcap_core.component import Use
from lavcap_core.errors import LavcapError
from lavcap_core.manifest import Item, list_hash
from lavcap_core.run.evaluate import resample
from lavcap_core.run.evaluate.read import Matched
from lavcap_core.run.evaluate.result import ClipScores, Evaluation
from lavcap_core.run.evaluate.score import Chosen, Scored, choose, score

__all__ = ["evaluate", "reason", "rescored", "sources"]


def evaluate(matched: Matched, chosen: Chosen, seed: int = 0) -> Evaluation:
    """Scores one system's captions.

    Args:
        matched: captions and references.
        chosen: metrics.
        seed: of the bootstrap's draws.
    """
    scored = score(chosen.uses, matched.candidates, matched.references)
    clips = {name: values for found in scored.scores.values() for name, values in found.clips.items()}
    statistics = {name: found.statistics for name, found in scored.scores.items() if found.statistics is not None}
    drawn = resample.sums(scored.corpus, clips, statistics, scored.resample)
    return Evaluation(
        system=matched.system,
        scores=scored.corpus,
        intervals=resample.intervals(drawn, seed),
        unavailable={name: reason(error) for name, error in {**chosen.broken, **scored.errors}.items()},
        clips=tuple(_clips(matched, clips)),
        facts={
            **_facts(matched),
            **_metric_facts(chosen.uses, scored),
            "bootstrap": {"draws": resample.DRAWS, "seed": seed},
        },
        statistics={name: rows.tolist() for name, rows in statistics.items()},
    )


def reason(error: LavcapError) -> str:
    """Why something isn't there and what to do, in one line per problem."""
    return "; ".join(
        f"{problem.code} {problem.message}" + (f" ({' '.join(problem.help.split())})" if problem.help else "")
        for problem in error.problems
    )


def _clips(matched: Matched, clips: Mapping[str, Sequence[float]]) -> list[ClipScores]:
    columns = zip(matched.ids, matched.candidates, matched.references, matched.media, strict=True)
    return [
        ClipScores(name, candidate, texts, {score: float(values[i]) for score, values in clips.items()}, media)
        for i, (name, candidate, texts, media) in enumerate(columns)
    ]


def _facts(matched: Matched) -> dict[str, Any]:
    counts = [len(texts) for texts in matched.references]
    lines = (
        json.dumps([name, sorted(texts)]) + "\n" for name, texts in zip(matched.ids, matched.references, strict=True)
    )
    return {
        "clips": len(matched.ids),
        "references": _span(counts),
        "list": list_hash(Item(None, name) for name in matched.ids),
        "texts": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "left_out": {kind: list(names) for kind, names in matched.left_out.items()},
        "empty": list(matched.empty),
        "words": {
            "captions": _span([len(text.split()) for text in matched.candidates]),
            "references": _span([len(text.split()) for texts in matched.references for text in texts]),
        },
    }


def _span(numbers: Sequence[int]) -> dict[str, float]:
    return {"least": min(numbers), "most": max(numbers), "mean": float(np.mean(numbers))}


def _metric_facts(uses: Sequence[Use], scored: Scored) -> dict[str, Any]:
    used = {use.name: use for use in uses if use.name in scored.scores}
    return {
        "metrics": {name: dict(found.facts) for name, found in scored.scores.items()},
        "gives": {name: list(found.corpus) for name, found in scored.scores.items()},
        "settings": {name: use.config.model_dump(mode="json") for name, use in used.items()},
        "versions": {name: version(name) for name in sorted({use.distribution for use in used.values()})},
    }


def sources(evaluation: Evaluation) -> dict[str, resample.Sums]:
    """What of a saved evaluation can be resampled; a metric that isn't installed any more leaves its scores out."""
    uses, _ = _uses(evaluation, evaluation.statistics)
    metrics = {}
    for use in uses:
        with suppress(LavcapError):
            metrics[use.name] = build_use(use)
    names = dict.fromkeys(name for clip in evaluation.clips for name in clip.scores)
    clips = {name: [clip.scores.get(name, np.nan) for clip in evaluation.clips] for name in names}
    return resample.sums(evaluation.scores, clips, evaluation.statistics, metrics)


def _uses(evaluation: Evaluation, names: Iterable[str]) -> tuple[list[Use], dict[str, LavcapError]]:
    """An evaluation's metrics with its settings, and why others can't be had any more."""
    uses: list[Use] = []
    broken: dict[str, LavcapError] = {}
    for name in names:
        try:
            uses += choose([name], settings={name: evaluation.facts["settings"][name]}).uses
        except LavcapError as error:
            broken[name] = error
    return uses, broken


def rescored(evaluation: Evaluation, ids: frozenset[str], seed: int = 0) -> Evaluation:
    """The same captions and references, of some of the clips, scored anew by the same metrics.

    Scores of fewer clips don't follow from the clips' own: CIDEr-D weighs words by how rare they are on the list.
    """
    kept = [clip for clip in evaluation.clips if clip.id in ids]
    matched = Matched(
        evaluation.system,
        tuple(clip.id for clip in kept),
        tuple(clip.candidate for clip in kept),
        tuple(clip.references for clip in kept),
        tuple(clip.media for clip in kept),
        evaluation.facts["left_out"],
        tuple(clip.id for clip in kept if not clip.candidate),
    )
    uses, broken = _uses(evaluation, evaluation.facts["settings"])
    made = evaluate(matched, Chosen(tuple(uses), broken), seed)
    return replace(made, unavailable={**evaluation.unavailable, **made.unavailable})
