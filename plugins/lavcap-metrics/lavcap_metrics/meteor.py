"""METEOR 1.5, through the protocol of its jar, in one process for all calls."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavcap_core.component import Context
from lavcap_core.errors import RunError
from lavcap_core.scores import Score
from lavcap_metrics import java, tokens
from lavcap_metrics.plugin import MeteorConfig
from lavcap_metrics.process import Watched

__all__ = ["Meteor", "build", "jar"]

# Parameters of METEOR 1.5 for English, ranking (Denkowski and Lavie 2014, section 3).
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
"""Of matches of words, stems, synonyms and paraphrases."""

# Places in the statistics; where there are two, of the caption and of the reference.
_WORDS, _FUNCTION, _STAGES, _CHUNKS, _MATCHED = slice(0, 2), slice(2, 4), slice(4, 20), 20, slice(21, 23)

Array = NDArray[np.float64]


class Meteor:
    """METEOR (Denkowski and Lavie 2014).

    Statistics are the 23 numbers that the jar gives for each caption: words of caption and reference, function words of
    both; for each of 4 kinds of match the content words of both, then the function words of both; chunks; matched words
    of both. As in the jar's own sums, a caption that is a reference word for word has no chunk.
    """

    def __init__(self, config: MeteorConfig) -> None:
        self._config = config

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Scores captions; see `lavcap_core.scores.Metric`.

        Raises:
            BuildError: E030 if there is no Java.
            RunError: E031, E032 if a Java process hangs or ends.
        """
        process = _shared(self._config.memory)
        process.start()  # it loads for seconds, in which the captions are tokenised
        texts = tokens.captions(candidates, references, self._config)
        questions = [_question(text, told) for text, told in zip(texts.candidates, texts.references, strict=True)]
        statistics, clips, corpus = process.score(questions, self._config.timeout)
        return Score(
            {"METEOR": corpus},
            {"METEOR": clips},
            _summable(np.array(statistics, dtype=np.float64)),
            {"meteor": "1.5 -l en -norm", **tokens.facts(self._config)},
        )

    def resampled(self, statistics: Array) -> Mapping[str, Array]:
        """Corpus scores [...] of sums of statistics [..., 23], as the jar computes them."""
        # Kind of match, content or function words, caption or reference.
        stages = statistics[..., _STAGES].reshape(*statistics.shape[:-1], 4, 2, 2)
        words, function_words, chunks, matched = (statistics[..., i] for i in (_WORDS, _FUNCTION, _CHUNKS, _MATCHED))
        weights = _WEIGHTS[:, None, None] * np.array([_DELTA, 1 - _DELTA])[:, None]
        lengths = _DELTA * (words - function_words) + (1 - _DELTA) * function_words
        # Nothing matched, or nothing there: the jar turns what isn't a number into 0.
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (stages * weights).sum((-3, -2)) / lengths
            mean = 1 / ((1 - _ALPHA) / share[..., 0] + _ALPHA / share[..., 1])
            score = mean * (1 - _GAMMA * (chunks / (matched.sum(-1) / 2)) ** _BETA)
        return {"METEOR": np.maximum(np.nan_to_num(score), 0)}


def _summable(statistics: Array) -> Array:
    matches = statistics[:, _STAGES].reshape(-1, 8, 2).sum(1)
    perfect = (matches == statistics[:, _WORDS]).all(1) & (statistics[:, _CHUNKS] == 1)
    statistics[perfect, _CHUNKS] = 0
    return statistics


def _question(candidate: str, references: Sequence[str]) -> str:
    """A line of the jar's protocol, as pycocoevalcap writes it."""
    words = candidate.replace("|||", "").replace("  ", " ")
    line = " ||| ".join(("SCORE", " ||| ".join(references), words))
    return line.replace("\n", " ").replace("\r", " ")


def jar() -> Path:
    """The jar of METEOR, in pycocoevalcap."""
    return Path(str(resources.files("pycocoevalcap.meteor") / "meteor-1.5.jar"))


class _Process:
    """METEOR's jar, which loads its tables of paraphrases once."""

    def __init__(self, memory: str) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._process: Watched | None = None

    def start(self) -> None:
        """Starts it, if it doesn't run; doesn't wait until it is ready."""
        with self._lock:
            self._running()

    def score(self, questions: Sequence[str], timeout: float) -> tuple[list[list[float]], list[float], float]:
        """Statistics and score of each question, and the score of all together."""
        with self._lock:
            answers = self._first(questions, timeout)
            line = "EVAL ||| " + " ||| ".join(answers)
            scores = self._running().ask([line], len(questions) + 1, timeout)
        try:
            numbers = [[float(word) for word in answer.split()] for answer in answers]
            *clips, corpus = [float(score) for score in scores]
        except ValueError as error:
            self.close()
            raise RunError("E032", f"METEOR's Java process answered something else: {error}") from None
        return numbers, clips, corpus

    def close(self) -> None:
        """Ends it; the next score starts it again."""
        with self._lock:
            if self._process is not None:
                self._process.close()
            self._process = None

    def _first(self, questions: Sequence[str], timeout: float) -> list[str]:
        try:
            return self._running().ask(questions, len(questions), timeout)
        except RunError:
            if self._process is None or not self._memory or "heap" not in self._process.last_words:
                raise
        # A machine that can't promise so much memory: Java takes what it thinks right.
        self._memory = ""
        return self._running().ask(questions, len(questions), timeout)

    def _running(self) -> Watched:
        if self._process is None or not self._process.alive:
            memory = [f"-Xmx{self._memory}"] if self._memory else []
            # This collector needs half the memory of the default one, and no more time.
            options = ["-XX:+UseSerialGC", "-Duser.language=en", "-Dfile.encoding=UTF-8", "-jar", str(jar())]
            command = [java.find().program, *memory, *options, "-", "-", "-stdio", "-l", "en", "-norm"]
            self._process = Watched("METEOR's Java process", command, talks=True)
        return self._process


_processes: dict[str, _Process] = {}
_processes_lock = threading.Lock()


def _shared(memory: str) -> _Process:
    with _processes_lock:
        return _processes.setdefault(memory, _Process(memory))


def build(config: MeteorConfig, context: Context) -> Meteor:
    """Builds `meteor`."""
    return Meteor(config)
