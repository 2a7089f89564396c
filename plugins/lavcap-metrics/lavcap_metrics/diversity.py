"""How varied captions are. Needs neither references nor Java."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lavcap_core.component import Config, Context
from lavcap_core.scores import Score

__all__ = ["Diversity", "build", "words"]

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation: ``Don't, re-start`` gives ``don't`` and ``re-start``."""
    return _WORD.findall(text.lower())


class Diversity:
    """Counts of words: more is not always better, captions at random are the most varied.

    Gives the size of the vocabulary; distinct-n (Li et al. 2016), different n-grams among all n-grams, for n up to 3;
    the mean length in words; and the number of captions without a word.
    """

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Counts words; see `lavcap_core.scores.Metric`. References are not looked at."""
        captions = [words(text) for text in candidates]
        lengths = [float(len(caption)) for caption in captions]
        corpus = {"vocabulary": float(len({word for caption in captions for word in caption}))}
        corpus |= {f"distinct-{n}": _distinct(captions, n) for n in (1, 2, 3)}
        corpus["length"] = sum(lengths) / max(1, len(lengths))
        corpus["empty"] = float(lengths.count(0.0))
        return Score(corpus, {"length": lengths}, facts={"better": "neither more nor less", "words": "lower case"})


def _distinct(captions: Sequence[Sequence[str]], n: int) -> float:
    grams = [gram for caption in captions for gram in _grams(caption, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(caption: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(caption[i : i + n]) for i in range(len(caption) - n + 1))


def build(config: Config, context: Context) -> Diversity:
    """Builds `diversity`."""
    return Diversity()
