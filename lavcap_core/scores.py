"""What a metric is and gives. Light: captions are scored on machines without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Metric", "Resampled", "Score"]


@dataclass(frozen=True)
class Score:
    """What a metric says of captions.

    Attributes:
        corpus: the scores of all captions together, by the name that tables show, such as ``BLEU-4``; higher is better.
        clips: each caption's own, by the same names, in the order of the captions; a name may be missing.
        statistics: [N, K], counts of each caption that `Resampled.resampled` makes corpus scores of; None where the
            corpus score is the mean of the clips'.
        facts: what it was computed with and must not differ between scores that are compared: tokeniser, versions.
    """

    corpus: Mapping[str, float]
    clips: Mapping[str, Sequence[float]] = field(default_factory=dict)
    statistics: NDArray[np.float64] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Metric(Protocol):
    """A score of captions.

    Metrics of one evaluation may run at the same time, in threads. What is missing on the machine (a program, a model)
    is a `LavcapError` with a help line: that metric is reported as unavailable, and the others still come.
    One that runs a model has a setting ``device``, and is computed only where it is named.
    """

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Scores captions, each against the references of its clip, of which there is at least one."""


@runtime_checkable
class Resampled(Protocol):
    """A metric whose corpus score is no mean of the clips' scores, such as BLEU; for confidence intervals."""

    def resampled(self, statistics: NDArray[np.float64]) -> Mapping[str, NDArray[Any]]:
        """Corpus scores [...] of sums of `Score.statistics` [..., K] over drawn captions, by name."""
