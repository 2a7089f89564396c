"""Descriptors of the metrics."""

from typing import Literal

from pydantic import Field

from lavcap_core.component import Component, Config


class WordsConfig(Config):
    tokeniser: Literal["ptb", "none"] = "ptb"


class PlainConfig(Config):
    pass


class ModelConfig(Config):
    device: str = Field("cpu", description="Where its model runs.")
    bonus: float = 0.0
    layers: tuple[int, ...] = (1, 2)


def metric(name, config=PlainConfig):
    return Component("metric", name, config, f"lavcap_words.parts:{name}", "for tests")


share = metric("share", WordsConfig)
ratio = metric("ratio")
twin = metric("twin")
missing = metric("missing")
broken = metric("broken")
short = metric("short")
model = metric("model", ModelConfig)
