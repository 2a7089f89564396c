"""Descriptors of the components that the core itself offers: the recipe `captioner` and the backend `torch`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lavcap_core.component import Component, Config, LocalPath, RecipeSlot

__all__ = ["CaptionerConfig", "GenerateConfig", "TorchConfig", "TrainConfig", "Windows", "captioner", "torch"]


class CaptionerConfig(Config):
    """Settings of the recipe itself."""


class Windows(Config):
    """How clips longer than one window are captioned."""

    seconds: float = Field(10.0, ge=1, le=600, description="Length of a window.")
    hop: float = Field(10.0, gt=0, le=600, description="Seconds from the start of a window to that of the next.")
    merge: Literal["auto", "tokens", "segments"] = Field(
        "auto",
        description="tokens: one caption of all windows' tokens; segments: a caption per window, with start and end; "
        "auto: tokens for clips of up to 30 s, segments for longer ones.",
    )
    limit: float = Field(600.0, gt=0, le=86400, description="Seconds of a file that are read at most.")

    @model_validator(mode="after")
    def _hop_leaves_no_gap(self) -> Windows:
        if self.hop > self.seconds:
            raise ValueError(f"hop ({self.hop:g}) is longer than the window ({self.seconds:g}): sound would be skipped")
        return self


class GenerateConfig(Config):
    """How captions are generated."""

    beams: int = Field(4, ge=1, le=64, description="Beams of the search; 1 is greedy.")
    max_new_tokens: int = Field(64, ge=1, le=4096, description="Longest caption in tokens.")
    min_new_tokens: int = Field(0, ge=0, le=4096, description="Shortest caption in tokens.")
    length_penalty: float = Field(1.0, ge=-10, le=10, description="Exponent of the length that divides a score.")
    repetition_penalty: float = Field(1.0, gt=0, le=10, description="Above 1: what was written becomes less likely.")
    no_repeat_ngram: int = Field(0, ge=0, le=100, description="Length of n-grams that may not come twice; 0: any may.")
    sample: bool = Field(False, description="Draw from the distribution instead of searching.")
    temperature: float = Field(1.0, gt=0, le=100, description="Of the drawing.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus of the drawing.")
    seed: int | None = Field(None, ge=0, description="Of the drawing.")


class TrainConfig(Config):
    """How the pipeline is trained (LAVCap III-A2)."""

    data: LocalPath | None = Field(None, description="Manifest of clips and captions.")
    epochs: int = Field(100, ge=1, description="Passes over the data.")
    batch: int = Field(4, ge=1, description="Clips per step and device.")
    lr: float = Field(5e-6, gt=0, le=1, description="Peak learning rate.")
    warmup_epochs: float = Field(2.0, ge=0, description="Epochs of linear warm-up.")
    weight_decay: float = Field(1e-6, ge=0, le=1, description="None on biases and norms.")
    seed: int = Field(0, ge=0, description="Of everything drawn at random.")


class TorchConfig(Config):
    """Settings of the torch backend."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, ...", min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of autocast; auto: bfloat16 where the device is fast at it, else float32."
    )


captioner = Component(
    kind="recipe",
    name="captioner",
    config=CaptionerConfig,
    factory="lavcap_core.recipes.captioner:build",
    summary="audio and visual tokens, aligned, fused and captioned",
    source="LAVCap, Fig. 1",
    slots={
        "audio_encoder": RecipeSlot("audio_encoder"),
        "visual_encoder": RecipeSlot("visual_encoder"),
        "aligner": RecipeSlot("aligner", takes=("audio", "visual"), needs_all=True),
        "fuser": RecipeSlot("fuser", required=True, takes=("audio", "visual"), help="such as fuser: {use: concat}"),
        "decoder": RecipeSlot(
            "decoder", required=True, takes=("tokens",), help="such as decoder: {use: llama, model: FOLDER}"
        ),
    },
    sections={"windows": Windows, "generate": GenerateConfig, "train": TrainConfig},
)

torch = Component(
    kind="backend",
    name="torch",
    config=TorchConfig,
    factory="lavcap_core.backends.torch:build",
    summary="cpu, cuda and mps through accelerate",
)
