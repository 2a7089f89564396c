"""Descriptor of the CED audio encoder; imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lavcap_core.component import Component, Config, ModelName, Port, Tune

__all__ = ["HUB", "WIDTHS", "CedConfig", "SpecAugment", "ced"]

WIDTHS: Mapping[str, int] = {"tiny": 192, "mini": 256, "small": 384, "base": 768}
"""Width of a token by size of the network; heads are 64 wide, and there are 12 blocks."""
HUB: Mapping[str, str] = {f"mispeech/ced-{size}": size for size in WIDTHS}
"""Sizes of the published checkpoints by hub name."""

Size = Literal["tiny", "mini", "small", "base"]


class SpecAugment(Config):
    """Masks over features while training (Park et al. 2019, arXiv 1904.08779), one per axis and clip.

    The defaults are those of the released LAVCap, which were made for 128 mel bins.
    """

    frequency: int = Field(default=48, ge=0, le=64, description="Mel bins that the mask covers at most; 0: none.")
    time: int = Field(default=192, ge=0, le=1024, description="Frames that the mask covers at most; 0: none.")


class CedConfig(Config):
    """Settings of the CED audio encoder."""

    model: ModelName | None = Field(
        default=None,
        description="Weights: a folder with config.json and model.safetensors (or pytorch_model.bin), a .pt file "
        "of the original layout, or a hub name such as mispeech/ced-base. Without it, `size` gives random weights.",
    )
    size: Size | None = Field(
        default=None,
        description="Size of the network: needed without `model`; with it, the size that its weights must have.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub name.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of random weights.")
    front_end: Literal["native", "kaldi"] = Field(
        default="native",
        description="Features: `native`, what CED was trained on, or `kaldi`, what the released LAVCap feeds it.",
    )
    padding: Literal["mask", "token"] = Field(
        default="mask",
        description="What padding of `kaldi` features to 1024 frames is: masked, or `token`, tokens like any other, as "
        "in the released LAVCap.",
    )
    pool: Literal["frequency", "none"] = Field(
        default="frequency",
        description="`frequency`: mean over the 4 frequency rows; `none`: 4 tokens per 0.16 s, rows in turn.",
    )
    tune: Tune = Field(
        default=Tune(), description="How much is trained. LoRA's targets are q_proj and v_proj unless named."
    )
    spec_augment: SpecAugment | None = Field(
        default=None, description="Masks over features while training; None: no masks."
    )

    @model_validator(mode="after")
    def _check(self) -> CedConfig:
        if self.model is None and self.size is None:
            raise ValueError("needs `model` (such as mispeech/ced-base), or `size` for random weights")
        if self.padding == "token" and self.front_end != "kaldi":
            raise ValueError(
                "`padding: token` needs `front_end: kaldi`: native features aren't padded to a fixed length"
            )
        return self


def _width(config: CedConfig) -> int | str:
    size = config.size or HUB.get(config.model or "")
    if size is not None:
        return WIDTHS[size]
    try:
        width = json.loads((Path(config.model or "") / "config.json").read_text("utf-8"))["embed_dim"]
    except (OSError, ValueError, KeyError, TypeError):  # whatever is wrong with it is told when weights are read
        return "ced.width"
    return width if isinstance(width, int) else "ced.width"


def _ports(config: CedConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    return {"audio": Port("audio", _width(config))}


ced = Component(
    kind="audio_encoder",
    name="ced",
    config=CedConfig,
    factory="lavcap_ced.encoder:build",
    summary="CED: a ViT over log-mel patches, distilled on AudioSet; one token per 0.16 s",
    source="Dinkel et al. 2024 (CED, arXiv 2308.11957); LAVCap (arXiv 2501.09291) sec. III-A",
    ports=_ports,
    skeleton="lavcap_ced.encoder:skeleton",
)
