"""Descriptors of the toy components."""

from typing import Annotated

from pydantic import Field

from lavcap_core.component import Component, Config, ModelName, Port, Slot, Tune, Use, require_equal_width
from lavcap_core.errors import PortError


class EncoderConfig(Config):
    width: int = Field(2, ge=1, description="Width of the tokens.")


class NumbersConfig(Config):
    model: ModelName | None = None
    tune: Tune = Tune()
    fail_above: float = Field(1e9, description="Captions fail for tokens above this.")


class SpellerConfig(Config):
    dropout: float = 0.2


class TonesConfig(Config):
    count: int = 16
    first: int = Field(0, description="Number of the first clip; clips of one number are alike.")
    broken: tuple[int, ...] = Field((), description="Clips that can't be read.")
    silly: tuple[int, ...] = Field((), description="Clips whose features are not a number.")
    split: str | None = None


class HolderConfig(Config):
    transport: Annotated[Use, Slot("transport")]
    other: Annotated[Use, Slot("fuser")] | None = None


class EmptyConfig(Config):
    pass


def _numbers_ports(config, inputs):
    if inputs["tokens"].width == 13:
        raise PortError("P040", "can't read tokens of width 13")
    return {}


loudness = Component(
    "audio_encoder",
    "loudness",
    EncoderConfig,
    "lavcap_toy.parts:loudness",
    "mean square of each half second",
    ports=lambda config, inputs: {"audio": Port("audio", config.width)},
)
brightness = Component(
    "visual_encoder",
    "brightness",
    EncoderConfig,
    "lavcap_toy.parts:brightness",
    "mean of each frame",
    ports=lambda config, inputs: {"visual": Port("visual", config.width)},
)
join = Component(
    "fuser",
    "join",
    EmptyConfig,
    "lavcap_toy.parts:join",
    "one after the other",
    ports=lambda config, inputs: {
        "tokens": Port("fused", require_equal_width(inputs, "set aligner.project: WIDTH")),
    },
)
numbers = Component(
    "decoder", "numbers", NumbersConfig, "lavcap_toy.parts:numbers", "writes the means", ports=_numbers_ports
)
holder = Component("aligner", "holder", HolderConfig, "lavcap_toy.parts:holder", "holds a transport")

speller = Component("decoder", "speller", SpellerConfig, "lavcap_toy.parts:speller", "spells, and learns to")
tones = Component("dataset", "tones", TonesConfig, "lavcap_toy.parts:tones", "made-up clips, said by their loudness")
exact = Component("metric", "exact", EmptyConfig, "lavcap_toy.parts:exact", "share of captions that are a reference")
