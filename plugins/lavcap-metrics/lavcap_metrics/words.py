"""BLEU, ROUGE-L and CIDEr-D: pycocoevalcap's scorers, called one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from lavcap_core.component import Context
from lavcap_core.errors import RunError
from lavcap_core.scores import Score
from lavcap_metrics import tokens
from lavcap_metrics.memo import Memo
from lavcap_metrics.plugin import TokenisedConfig
from lavcap_metrics.tokens import Captions

__all__ = ["Bleu", "CiderD", "RougeL", "build_bleu", "build_cider_d", "build_rouge_l", "cider_d"]

_N = 4
_SMALL, _TINY = 1e-9, 1e-15
"""What pycocoevalcap adds to counts, so that nothing is divided by zero."""

Array = NDArray[np.float64]


class Bleu:
    """BLEU-1 to BLEU-4 (Papineni et al. 2002) with the reference length that is closest to the caption's.

    Statistics are, for each clip: words of the caption, of the reference, and for n from 1 to 4 the n-grams of the
    caption, then those of them that a reference has.
    """

    def __init__(self, config: TokenisedConfig) -> None:
        self._config = config

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Scores captions; see `lavcap_core.scores.Metric`."""
        texts = tokens.captions(candidates, references, self._config)
        scorer = BleuScorer(n=_N)
        for candidate, told in zip(texts.candidates, texts.references, strict=True):
            scorer += (candidate, list(told))
        corpus, clips = scorer.compute_score(option="closest", verbose=0)
        return Score(
            corpus={name: float(value) for name, value in zip(_BLEU, corpus, strict=True)},
            clips={name: [float(value) for value in values] for name, values in zip(_BLEU, clips, strict=True)},
            statistics=np.array([_counts(scorer, clip) for clip in scorer.ctest], dtype=np.float64),
            facts=tokens.facts(self._config),
        )

    def resampled(self, statistics: Array) -> Mapping[str, Array]:
        """Corpus scores [...] of sums of statistics [..., 10]."""
        length, reference = statistics[..., 0], statistics[..., 1]
        shares = (statistics[..., 2 + _N :] + _TINY) / (statistics[..., 2 : 2 + _N] + _SMALL)
        ratio = (length + _TINY) / (reference + _SMALL)
        brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
        bleu = np.cumprod(shares, axis=-1) ** (1 / np.arange(1, _N + 1)) * brevity[..., None]
        return {name: bleu[..., k] for k, name in enumerate(_BLEU)}


_BLEU = tuple(f"BLEU-{n}" for n in range(1, _N + 1))


def _counts(scorer: Any, clip: Mapping[str, Any]) -> list[float]:
    reference = scorer._single_reflen(clip["reflen"], "closest", clip["testlen"])
    return [clip["testlen"], reference, *clip["guess"], *clip["correct"]]


class RougeL:
    """ROUGE-L (Lin 2004): F-score, beta 1.2, of the longest common subsequence, best recall and precision of all."""

    def __init__(self, config: TokenisedConfig) -> None:
        self._config = config

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Scores captions; see `lavcap_core.scores.Metric`."""
        texts = tokens.captions(candidates, references, self._config)
        corpus, clips = Rouge().compute_score(texts.gts, texts.res)
        return Score({"ROUGE-L": float(corpus)}, {"ROUGE-L": clips.tolist()}, facts=tokens.facts(self._config))


class CiderD:
    """CIDEr-D (Vedantam et al. 2015), with document frequencies of the references that it is given."""

    def __init__(self, config: TokenisedConfig) -> None:
        self._config = config

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Scores captions; see `lavcap_core.scores.Metric`.

        Raises:
            RunError: E034 if no reference has a word.
        """
        corpus, clips = cider_d(tokens.captions(candidates, references, self._config))
        return Score({"CIDEr-D": corpus}, {"CIDEr-D": clips}, facts=tokens.facts(self._config))


_known: Memo[tuple[float, list[float]]] = Memo()


def cider_d(texts: Captions) -> tuple[float, list[float]]:
    """CIDEr-D of the corpus and of each clip; the last results are remembered.

    Raises:
        RunError: E034 if no reference has a word.
    """
    return _known.get(texts, lambda: _cider_d(texts))


def _cider_d(texts: Captions) -> tuple[float, list[float]]:
    if not any(text.split() for told in texts.references for text in told):
        raise RunError("E034", "CIDEr-D can't weigh words: no reference has one", help="look at the references")
    corpus, clips = Cider().compute_score(texts.gts, texts.res)
    return float(corpus), clips.tolist()


def build_bleu(config: TokenisedConfig, context: Context) -> Bleu:
    """Builds `bleu`."""
    return Bleu(config)


def build_rouge_l(config: TokenisedConfig, context: Context) -> RougeL:
    """Builds `rouge_l`."""
    return RougeL(config)


def build_cider_d(config: TokenisedConfig, context: Context) -> CiderD:
    """Builds `cider_d`."""
    return CiderD(config)
