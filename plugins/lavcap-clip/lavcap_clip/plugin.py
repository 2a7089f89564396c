"""What the registry knows of this distribution; pydantic only, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from lavcap_core.component import Component, Config, LocalPath, ModelName, Port, Tune

__all__ = ["KNOWN", "ClipConfig", "TimmConfig", "clip", "timm", "vision_config"]


def _vit(width: int, depth: int, image: int, patch: int, projection: int) -> Mapping[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 64,
        "image_size": image,
        "patch_size": patch,
        "projection_dim": projection,
    }


KNOWN: Mapping[str, Mapping[str, int]] = {
    "openai/clip-vit-large-patch14": _vit(1024, 24, 224, 14, 768),
    "openai/clip-vit-large-patch14-336": _vit(1024, 24, 336, 14, 768),
    "openai/clip-vit-base-patch16": _vit(768, 12, 224, 16, 512),
    "openai/clip-vit-base-patch32": _vit(768, 12, 224, 32, 512),
}
"""Sizes of published image encoders (Radford et al. 2021, table 20), as a configuration of transformers has them."""


class ClipConfig(Config):
    """Settings of the visual encoder `clip`."""

    model: ModelName = Field(
        default="openai/clip-vit-large-patch14",
        description="A folder of transformers, `source:name` of a weights plugin, or a hub name.",
    )
    output: Literal["projected", "patches"] = Field(
        default="projected", description="The projected image embedding of each frame, or its patches."
    )
    pool: Literal["mean", "none", "grid"] = Field(
        default="mean", description="What becomes of a frame's patches: their mean, all of them, or a grid of means."
    )
    grid: int = Field(default=2, ge=1, le=64, description="Rows and columns of the grid, for pool: grid.")
    layer: int = Field(
        default=-1, ge=-200, le=200, description="Layer whose patches are taken: 0 before the first, -1 after the last."
    )
    frames: int = Field(default=20, ge=1, le=1000, description="Frames per window.")
    batch: int = Field(default=32, ge=1, le=4096, description="Frames encoded at a time; bounds memory.")
    tune: Tune = Field(default=Tune(), description="What is trained of the model; LoRA: on q_proj and v_proj.")

    @model_validator(mode="after")
    def _projection_is_of_the_last_layer(self) -> Self:
        if self.output == "projected" and self.layer != -1:
            raise ValueError("layer: only patches can be taken from another layer; set output: patches")
        return self


class TimmConfig(Config):
    """Settings of the visual encoder `timm`."""

    model: str = Field(min_length=1, description="Name of a timm model, such as vit_base_patch16_clip_224.openai.")
    weights: LocalPath | None = Field(
        default=None, description="A local .safetensors or .pth file of this model; null: fetched from the hub."
    )
    frames: int = Field(default=20, ge=1, le=1000, description="Frames per window.")
    batch: int = Field(default=32, ge=1, le=4096, description="Frames encoded at a time; bounds memory.")
    tune: Tune = Field(default=Tune(), description="What is trained of the model; LoRA: on qkv, which is one layer.")


def _widths(model: str) -> tuple[int, int] | None:
    """Widths of the projected embedding and of a patch, as far as known before the weights are here."""
    try:
        said = vision_config(model)
        return None if said is None else (int(said.get("projection_dim", 512)), int(said.get("hidden_size", 768)))
    except (OSError, ValueError, AttributeError, TypeError):
        return None  # a broken file is reported where the weights are loaded


def vision_config(model: str) -> Mapping[str, Any] | None:
    """What config.json of a local folder says of the image encoder, or what is known of a published model."""
    file = Path(model) / "config.json"
    if not file.is_file():
        return KNOWN.get(model)
    said: Any = json.loads(file.read_text(encoding="utf-8"))
    found: Mapping[str, Any] = said.get("vision_config") or said
    return found


def _clip_ports(config: ClipConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    widths = _widths(config.model)
    width = "clip.width" if widths is None else widths[0 if config.output == "projected" else 1]
    return {"visual": Port("visual", width)}


def _timm_ports(config: TimmConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    return {"visual": Port("visual", "timm.width")}


clip = Component(
    kind="visual_encoder",
    name="clip",
    config=ClipConfig,
    factory="lavcap_clip.clip:build",
    summary="CLIP image encoder of transformers: one projected embedding per frame, or patches",
    source="LAVCap II-A; Radford et al. 2021, arXiv 2103.00020",
    ports=_clip_ports,
    skeleton="lavcap_clip.clip:skeleton",
)

timm = Component(
    kind="visual_encoder",
    name="timm",
    config=TimmConfig,
    factory="lavcap_clip.timm:build",
    summary="Any image model of timm: one pooled feature vector per frame",
    source="",
    ports=_timm_ports,
    skeleton="lavcap_clip.timm:skeleton",
)
