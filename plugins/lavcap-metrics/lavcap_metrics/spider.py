"""SPIDEr and SPIDEr-FL, of CIDEr-D and SPICE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lavcap_core.component import Context
from lavcap_core.scores import Score
from lavcap_metrics import tokens
from lavcap_metrics.fense import fluency
from lavcap_metrics.plugin import SpiceConfig, SpiderFlConfig
from lavcap_metrics.spice import facts, spice
from lavcap_metrics.words import cider_d

__all__ = ["Spider", "SpiderFl", "build", "build_fl"]


class Spider:
    """SPIDEr (Liu et al. 2017): mean of CIDEr-D and SPICE. Beside these metrics it computes nothing again."""

    def __init__(self, config: SpiceConfig) -> None:
        self._config = config

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Scores captions; see `lavcap_core.scores.Metric`. Raises what SPICE does."""
        corpus, clips = _spider(candidates, references, self._config)
        return Score({"SPIDEr": corpus}, {"SPIDEr": clips.tolist()}, facts=facts(self._config))


class SpiderFl:
    """SPIDEr-FL (DCASE 2023, task 6a): SPIDEr, less for captions with errors of fluency."""

    def __init__(self, config: SpiderFlConfig) -> None:
        self._config = config

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Scores captions; see `lavcap_core.scores.Metric`.

        Raises:
            BuildError: E050, E051 if the model of errors is missing or another; what SPICE raises.
        """
        factors, described = fluency(candidates, self._config)
        _, clips = _spider(candidates, references, self._config)
        clips = clips * factors
        return Score(
            {"SPIDEr-FL": float(np.mean(clips))},
            {"SPIDEr-FL": clips.tolist()},
            facts={**facts(self._config), **described},
        )


def _spider(
    candidates: Sequence[str], references: Sequence[Sequence[str]], config: SpiceConfig
) -> tuple[float, np.ndarray]:
    parsed, parsed_clips = spice(candidates, references, config)
    rare, rare_clips = cider_d(tokens.captions(candidates, references, config))
    return (rare + parsed) / 2, (np.array(rare_clips) + np.array(parsed_clips)) / 2


def build(config: SpiceConfig, context: Context) -> Spider:
    """Builds `spider`."""
    return Spider(config)


def build_fl(config: SpiderFlConfig, context: Context) -> SpiderFl:
    """Builds `spider_fl`."""
    return SpiderFl(config)
