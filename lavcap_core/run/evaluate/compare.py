"""Whether evaluations can be compared, and what the difference is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lavcap_core.errors import RunError
from lavcap_core.run.evaluate import resample
from lavcap_core.run.evaluate.evaluation import rescored, sources
from lavcap_core.run.evaluate.resample import Compared
from lavcap_core.run.evaluate.result import Evaluation

__all__ = ["compared", "intersection", "unlike"]


def unlike(evaluations: Sequence[Evaluation]) -> list[str]:
    """Why evaluations can't simply be compared, a line each; nothing if they can."""
    return list(dict.fromkeys(line for other in evaluations[1:] for line in _unlike(evaluations[0], other)))


def _unlike(one: Evaluation, other: Evaluation) -> Iterator[str]:
    both = f"{one.system} and {other.system}"
    if one.facts["list"] != other.facts["list"]:
        common = len(_ids(one) & _ids(other))
        counts = f"{one.facts['clips']} and {other.facts['clips']}, {common} in common"
        hint = "; --intersect scores both on these" if common else ""
        yield f"{both} are on different lists of clips ({counts}){hint}"
    if _texts_differ(one, other):
        yield f"{both} have other reference texts for the same clips"
    for metric, facts in one.facts["metrics"].items():
        theirs = other.facts["metrics"].get(metric, facts)
        for name in sorted(facts.keys() | theirs.keys()):
            if facts.get(name) != theirs.get(name):
                yield f"{both}: {metric} with another {name} ({facts.get(name)} and {theirs.get(name)})"
    for name, here in _versions(one).items():
        there = _versions(other).get(name, here)
        if here != there:
            yield f"{both}: scored by {name} {here} and {there}"


def _ids(evaluation: Evaluation) -> frozenset[str]:
    return frozenset(clip.id for clip in evaluation.clips)


def _texts_differ(one: Evaluation, other: Evaluation) -> bool:
    before = {clip.id: sorted(clip.references) for clip in one.clips}
    return any(before.get(clip.id, sorted(clip.references)) != sorted(clip.references) for clip in other.clips)


def _versions(evaluation: Evaluation) -> Mapping[str, Any]:
    versions: Mapping[str, Any] = evaluation.facts["versions"]
    return versions


def intersection(evaluations: Sequence[Evaluation], seed: int = 0) -> list[Evaluation]:
    """Evaluations on the clips that all have; scored anew where that isn't their own list.

    Raises:
        RunError: E015 if they have no clip in common.
    """
    common = frozenset.intersection(*map(_ids, evaluations))
    if not common:
        raise RunError("E015", f"no clip is in all of {', '.join(e.system for e in evaluations)}")
    return [each if _ids(each) == common else rescored(each, common, seed) for each in evaluations]


def compared(evaluations: Sequence[Evaluation], seed: int = 0) -> list[Mapping[str, Compared] | None]:
    """Every further evaluation against the first, by name of the score; None where the clips or texts are others."""
    first, *others = evaluations
    mine = sources(first) if any(_paired(first, other) for other in others) else {}
    return [resample.compare(mine, sources(other), seed) if _paired(first, other) else None for other in others]


def _paired(one: Evaluation, other: Evaluation) -> bool:
    return all(one.facts[name] == other.facts[name] for name in ("list", "texts"))
