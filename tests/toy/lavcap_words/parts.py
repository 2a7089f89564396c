"""The metrics themselves."""

import numpy as np

from lavcap_core.errors import RunError
from lavcap_core.scores import Score


def counts(candidates, references, lower=False):
    """Words of each caption that a reference has, and words of each caption: [N, 2]."""
    rows = []
    for caption, texts in zip(candidates, references, strict=True):
        words = (caption.lower() if lower else caption).split()
        known = {word for text in texts for word in text.split()}
        rows.append([sum(word in known for word in words), len(words)])
    return np.array(rows, dtype=np.float64)


class Share:
    """The mean of the clips' shares of known words."""

    def __init__(self, tokeniser):
        self.tokeniser = tokeniser

    def __call__(self, candidates, references):
        rows = counts(candidates, references, self.tokeniser == "ptb")
        shares = (rows[:, 0] / np.maximum(rows[:, 1], 1)).tolist()
        return Score({"share": sum(shares) / len(shares)}, {"share": shares}, facts={"tokeniser": self.tokeniser})


class Ratio:
    """Known words of all captions by words of all captions, which is no mean."""

    def __call__(self, candidates, references):
        rows = counts(candidates, references)
        clips = (rows[:, 0] / np.maximum(rows[:, 1], 1)).tolist()
        return Score({"ratio": float(self.resampled(rows.sum(0))["ratio"])}, {"ratio": clips}, rows)

    def resampled(self, statistics):
        return {"ratio": statistics[..., 0] / np.maximum(statistics[..., 1], 1)}


class Fixed:
    def __init__(self, corpus, clips=None):
        self.corpus, self.clips = corpus, clips or {}

    def __call__(self, candidates, references):
        return Score(self.corpus, self.clips)


class Failing:
    def __init__(self, error):
        self.error = error

    def __call__(self, candidates, references):
        raise self.error


def share(config, context):
    return Share(config.tokeniser)


def ratio(config, context):
    return Ratio()


def twin(config, context):
    return Fixed({"share": 0.5, "other": 1.0})


def missing(config, context):
    return Failing(RunError("C001", "its program is not there", help="install the program"))


def broken(config, context):
    return Failing(ZeroDivisionError("division by zero"))


def short(config, context):
    return Fixed({"short": 1.0}, {"short": [1.0]})


def model(config, context):
    return Fixed({"model": 0.25 + config.bonus})
