"""How sure a score is: bootstrap intervals, and paired tests of two systems on the same clips.

Both work on sums over clips: a mean is the sum of the clips' scores, and what is no mean, such as BLEU, is made of sums
of counts (`lavcap_core.scores.Resampled`). CIDEr-D weighs n-grams by how rare they are among all references; a draw of
clips doesn't change these weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAWS", "Compared", "Sums", "compare", "intervals", "sums"]

DRAWS = 10_000
_CHUNK = 500
_LEVEL = 95.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Scores of a corpus as a function of sums over its clips.

    Attributes:
        rows: [N, K], what is summed.
        corpus: scores [...] by name of sums [..., K].
    """

    rows: Array
    corpus: Callable[[Array], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Compared:
    """A score of two systems on the same clips.

    Attributes:
        difference: the second's minus the first's.
        low: lower bound of its 95 % interval, by paired bootstrap.
        high: upper bound.
        p: two-sided, of approximate randomisation: how often a difference as large comes of swapping the systems'
            captions at random, clip by clip.
    """

    difference: float
    low: float
    high: float
    p: float


def sums(
    corpus: Mapping[str, float],
    clips: Mapping[str, Sequence[float]],
    statistics: Mapping[str, Any],
    resample: Mapping[str, Any],
) -> dict[str, Sums]:
    """What can be resampled: by metric what has statistics, and by score what is the mean of the clips' scores.

    Args:
        corpus: all corpus scores.
        clips: clip scores, [N] each.
        statistics: [N, K] by metric.
        resample: `Resampled` by metric.
    """
    found: dict[str, Sums] = {}
    named: set[str] = set()
    for metric in statistics.keys() & resample.keys():
        rows = np.asarray(statistics[metric], dtype=np.float64)
        found[metric] = Sums(rows, resample[metric].resampled)
        named |= set(resample[metric].resampled(rows.sum(0)))
    # A score that isn't what the mean gives, and comes without statistics, has no interval: it would be another's.
    for name, values in clips.items():
        if name in corpus and name not in named and np.isclose(np.mean(values), corpus[name], rtol=1e-6, atol=1e-9):
            found[f"mean of {name}"] = _mean(name, np.asarray(values, dtype=np.float64))
    return found


def _mean(name: str, values: Array) -> Sums:
    return Sums(values[:, None], lambda sums: {name: sums[..., 0] / len(values)})


def intervals(sources: Mapping[str, Sums], seed: int, draws: int = DRAWS) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals over clips, by name of the score; none of a single clip."""
    count = max((len(source.rows) for source in sources.values()), default=0)
    if count < 2:
        return {}
    drawn = _joined([_scores(sources, d) for d in _draws(count, seed, draws)])
    return {name: _bounds(values) for name, values in drawn.items()}


def compare(
    first: Mapping[str, Sums], second: Mapping[str, Sums], seed: int, draws: int = DRAWS
) -> dict[str, Compared]:
    """Paired bootstrap and approximate randomisation of two systems on the same clips, by name of the score."""
    pairs = [(first[key], second[key]) for key in first if key in second]
    if not pairs:
        return {}
    count = len(pairs[0][0].rows)
    whole = _differences(pairs, _drawn, np.ones(count))
    drawn = _joined([_differences(pairs, _drawn, times) for times in _draws(count, seed, draws)])
    swapped = _joined([_differences(pairs, _swapped, swaps) for swaps in _swaps(count, seed, draws)])
    found = {}
    for name, value in whole.items():
        # Sums in another order differ by rounding; what equals the difference counts as as large.
        as_large = np.abs(swapped[name]) >= np.abs(value) * (1 - 1e-9) - 1e-12
        p = (1 + int(as_large.sum())) / (1 + draws)
        found[name] = Compared(float(value), *_bounds(drawn[name]), p)
    return found


def _bounds(values: NDArray[Any]) -> tuple[float, float]:
    low, high = np.percentile(values, ((100 - _LEVEL) / 2, (100 + _LEVEL) / 2))
    return float(low), float(high)


def _scores(sources: Mapping[str, Sums], drawn: Array) -> dict[str, NDArray[Any]]:
    return {k: v for source in sources.values() for k, v in _corpus(source, drawn @ source.rows).items()}


_Total = Callable[[Array, Array, Array], tuple[Array, Array]]


def _differences(pairs: Sequence[tuple[Sums, Sums]], total: _Total, clips: Array) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for first, second in pairs:
        one, other = total(first.rows, second.rows, clips)
        left, right = _corpus(first, one), _corpus(second, other)
        found |= {name: right[name] - left[name] for name in left if name in right}
    return found


def _drawn(one: Array, other: Array, times: Array) -> tuple[Array, Array]:
    return times @ one, times @ other


def _swapped(one: Array, other: Array, swaps: Array) -> tuple[Array, Array]:
    moved = swaps @ (other - one)
    return one.sum(0) + moved, other.sum(0) - moved


def _corpus(source: Sums, total: Array) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(values, dtype=np.float64) for name, values in source.corpus(total).items()}


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _draws(count: int, seed: int, draws: int) -> Iterator[Array]:
    """How often each clip is in each draw of ``count`` clips, [draws, count] in parts; the same for every score."""
    generator = np.random.default_rng((seed, 1))
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        picked = generator.integers(count, size=(size, count)) + np.arange(size)[:, None] * count
        yield np.bincount(picked.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def _swaps(count: int, seed: int, draws: int) -> Iterator[Array]:
    """Which clips' captions are swapped in each draw, as 0 and 1: [draws, count] in parts."""
    generator = np.random.default_rng((seed, 2))
    for start in range(0, draws, _CHUNK):
        yield generator.integers(2, size=(min(_CHUNK, draws - start), count)).astype(np.float64)
