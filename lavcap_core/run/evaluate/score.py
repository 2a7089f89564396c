"""Metrics computed at the same time; one that can't be computed costs no other. Training uses it as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np

from lavcap_core.builder import build_use
from lavcap_core.component import Use
from lavcap_core.errors import LavcapError, PluginError, Problem, RunError
from lavcap_core.registry import Registry, installed
from lavcap_core.scores import Metric, Resampled, Score
from lavcap_core.spec import check_component

__all__ = ["Chosen", "Scored", "choose", "require", "score"]


@dataclass(frozen=True)
class Chosen:
    """Metrics to compute, and those that are installed but broken, with the reason."""

    uses: tuple[Use, ...]
    broken: Mapping[str, LavcapError] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """What metrics gave, by the name of the metric.

    Attributes:
        scores: in the order in which they were chosen.
        resample: what makes corpus scores of statistics, of metrics whose corpus score is no mean.
        errors: of those that could not be computed.
    """

    scores: Mapping[str, Score]
    resample: Mapping[str, Resampled]
    errors: Mapping[str, LavcapError]

    @property
    def corpus(self) -> dict[str, float]:
        """All corpus scores by name."""
        return {name: float(value) for score in self.scores.values() for name, value in score.corpus.items()}


def choose(
    names: Sequence[str] | None = None,
    tokeniser: str | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    registry: Registry | None = None,
) -> Chosen:
    """Metrics with their settings, checked.

    Args:
        names: of metrics; None: every installed one that runs no model, as its lack of a setting ``device`` shows.
        tokeniser: for every metric that has this setting.
        settings: more settings, by metric.
        registry: default: what is installed.

    Raises:
        PluginError: R001 if there is no such metric, and what else the registry raises for one that is named.
        SpecError: if a setting is wrong.
        RunError: E012 if names is None and no metric is installed; E016 for settings of a metric that isn't named.
    """
    registry = registry or installed()
    settings = {_bare(name): values for name, values in (settings or {}).items()}
    if names is not None:
        unused = [name for name in settings if name not in map(_bare, names)]
        if unused:
            raise RunError("E016", f"settings of '{unused[0]}', which isn't computed", help="name it in --metrics")
        return Chosen(tuple(_use(n, tokeniser, settings.get(_bare(n), {}), registry) for n in dict.fromkeys(names)))
    for name in settings:
        registry.find("metric", name)  # else a mistyped one would be ignored
    uses, broken = [], {}
    for name in dict.fromkeys(entry.name for entry in registry.entries("metric")):
        try:
            if "device" not in registry.get("metric", name)[1].config.model_fields or name in settings:
                uses.append(_use(name, tokeniser, settings.get(name, {}), registry))
        except PluginError as error:
            broken[name] = error
    if not uses and not broken:
        raise RunError("E012", "no metric is installed", help="pip install lavcap-metrics")
    return Chosen(tuple(uses), broken)


def _bare(name: str) -> str:
    """A metric's name without that of its distribution."""
    return name.rpartition("/")[2]


def _use(name: str, tokeniser: str | None, settings: Mapping[str, Any], registry: Registry) -> Use:
    _, component = registry.get("metric", name)
    common = {} if tokeniser is None or "tokeniser" not in component.config.model_fields else {"tokeniser": tokeniser}
    return check_component("metric", name, {**common, **settings}, registry)


def score(uses: Sequence[Use], candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Builds and computes metrics, each in a thread of its own.

    Args:
        uses: the metrics.
        candidates: N captions.
        references: for each, what people said; at least one text.
    """
    results = _all(uses, candidates, references)
    scores: dict[str, Score] = {}
    resample: dict[str, Resampled] = {}
    errors: dict[str, LavcapError] = {}
    for use, (metric, result) in zip(uses, results, strict=True):
        if isinstance(result, Score):
            result = _unless_given(use.name, result, scores)
        if isinstance(result, LavcapError):
            errors[use.name] = result
            continue
        scores[use.name] = result
        if isinstance(metric, Resampled) and result.statistics is not None:
            resample[use.name] = metric
    return Scored(scores, resample, errors)


_Result = tuple[Metric | None, Score | LavcapError]


def _all(uses: Sequence[Use], candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[_Result]:
    results: dict[int, _Result] = {}

    def work(index: int) -> None:
        results[index] = _one(uses[index], candidates, references)

    # Daemons, not a pool, which would keep an interrupted process until the slowest metric is done.
    threads = [Thread(target=work, args=(index,), daemon=True) for index in range(len(uses))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[index] for index in range(len(uses))]


def _one(use: Use, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> _Result:
    metric: Any = None
    try:
        metric = build_use(use)
        found = metric(candidates, references)
        _check(found, len(candidates))
        if isinstance(metric, Resampled) and found.statistics is not None:
            metric.resampled(found.statistics.sum(0))  # what fails in it fails here, where it costs no other metric
    except LavcapError as error:
        return metric, error
    # What a plugin raises by mistake must not take the other metrics with it.
    except (Exception, SystemExit) as error:
        help = f"report it to the authors of {use.distribution}"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return metric, RunError("E011", f"metric '{use.name}' failed: {reason}", help=help)
    return metric, found


def _check(found: Score, count: int) -> None:
    """Raises ValueError if a score isn't one of so many captions."""
    for name, values in found.clips.items():
        if len(values) != count:
            raise ValueError(f"{len(values)} clip scores '{name}' of {count} captions")
    if found.statistics is not None and (found.statistics.ndim != 2 or len(found.statistics) != count):
        raise ValueError(f"statistics of shape {np.shape(found.statistics)} for {count} captions")


def _unless_given(metric: str, found: Score, before: Mapping[str, Score]) -> Score | LavcapError:
    """The score, or an error if another metric gave one of its names: a table has one column of a name."""
    for other, score in before.items():
        both = sorted(score.corpus.keys() & found.corpus.keys())
        if both:
            message = f"metric '{metric}' gives {', '.join(both)}, as '{other}' does"
            return RunError("E013", message, help=f"choose one of them: --metrics {metric}")
    return found


def require(uses: Sequence[Use]) -> list[str]:
    """Computes metrics of two made-up captions: what is missing is known before hours of work; gives the scores' names.

    Raises:
        RunError: E014 with everything that is missing.
    """
    texts = ["a dog barks while rain falls", "a man speaks and a car passes by"]
    found = score(uses, texts, [[text, "people talk"] for text in texts])
    if found.errors:
        raise RunError(
            [
                Problem("E014", f"metric '{name}' can't be computed: {problem.code} {problem.message}", problem.help)
                for name, error in found.errors.items()
                for problem in error.problems
            ]
        )
    return list(found.corpus)
