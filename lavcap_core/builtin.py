"""Descriptors of the components that the core itself offers: recipe, backend, data set, encoders of ready features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lavcap_core.backends.plugin import TorchConfig, torch
from lavcap_core.component import Component, Config, LocalPath, Port, RecipeSlot, Slot, Use

__all__ = [
    "AudioFeaturesConfig",
    "CaptionerConfig",
    "GenerateConfig",
    "ManifestConfig",
    "TorchConfig",
    "TrainConfig",
    "VisualFeaturesConfig",
    "Windows",
    "audio_features",
    "captioner",
    "manifest",
    "torch",
    "visual_features",
]


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

    data: Annotated[Use, Slot("dataset", file=("manifest", "file"))] | None = Field(
        None, description="Clips and captions to learn from: a manifest (.jsonl, .csv), or a dataset component."
    )
    validation: Annotated[Use, Slot("dataset", file=("manifest", "file"))] | None = Field(
        None, description="Clips and captions that the run is judged by; never those of a test."
    )
    epochs: int = Field(100, ge=1, description="Passes over the data.")
    steps: int | None = Field(None, ge=1, description="Optimiser steps, in place of epochs.")
    batch: int = Field(4, ge=1, description="Clips at once on each device.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients make one step.")
    lr: float = Field(5e-6, gt=0, le=1, description="Peak learning rate.")
    lr_factors: dict[str, float] = Field(
        default_factory=dict, description="Factors of the learning rate of parameters whose name contains a text."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Of the rate after the warm-up.")
    final_lr: float = Field(1e-8, ge=0, le=1, description="Learning rate at the end.")
    warmup_epochs: float = Field(2.0, ge=0, description="Epochs of linear warm-up.")
    warmup_steps: int | None = Field(None, ge=0, description="Steps of linear warm-up, in place of epochs.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Of AdamW.")
    weight_decay: float = Field(1e-6, ge=0, le=1, description="On matrices; none on biases, norms and single numbers.")
    clip: float = Field(1.0, ge=0, description="Largest norm of the gradient; 0: no limit.")
    nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="What a loss or gradient that is not finite does: stop the run, or skip the step."
    )
    bucket: int = Field(
        32, ge=0, description="Steps' worth of shuffled clips that are sorted by length into batches; 0: no sorting."
    )
    workers: int = Field(2, ge=0, le=256, description="Threads that read clips ahead.")
    cache: bool = Field(True, description="Compute what is frozen once, and keep it.")
    cache_folder: LocalPath | None = Field(None, description="Where it is kept; default: in the user's cache.")
    save_every: int | None = Field(None, ge=1, description="Steps between checkpoints; default: an epoch.")
    keep: int = Field(2, ge=1, description="Newest checkpoints that are kept, besides the best one.")
    validate_every: float = Field(1.0, gt=0, description="Epochs between validations.")
    metrics: tuple[str, ...] = Field((), description="Metrics of the validation clips' captions, besides the loss.")
    best: str = Field("loss", description="What the best checkpoint is chosen by: loss, or a metric's score.")
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="Where else the log goes.")
    log_every: int = Field(10, ge=1, description="Steps between lines on the console.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of everything drawn at random.")


MAY_CHANGE = ("workers", "cache", "cache_folder", "save_every", "keep", "trackers", "log_every", "nonfinite")
"""Settings of `train` that a resumed run may change: no number of the training depends on them."""


class ManifestConfig(Config):
    """Settings of the dataset `manifest`."""

    file: LocalPath = Field(description="The manifest (.jsonl, .csv): clips with their captions.")


class AudioFeaturesConfig(Config):
    """Settings of the audio encoder `features`."""

    width: int = Field(768, ge=1, le=65536, description="Width of the vectors in the files.")


class VisualFeaturesConfig(Config):
    """Settings of the visual encoder `features`."""

    width: int = Field(768, ge=1, le=65536, description="Width of the vectors in the files.")
    frames: int = Field(
        20, ge=1, le=1000, description="Vectors per window; of more, so many are taken; fewer stay as they are."
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

manifest = Component(
    kind="dataset",
    name="manifest",
    config=ManifestConfig,
    factory="lavcap_core.run.datasets:build",
    summary="clips and captions listed in a jsonl or csv file",
)

audio_features = Component(
    kind="audio_encoder",
    name="features",
    config=AudioFeaturesConfig,
    factory="lavcap_core.ready:build_audio",
    summary="ready vectors of the sound, from the manifest's audio_features",
    ports=lambda config, inputs: {"audio": Port("audio", config.width)},
)

visual_features = Component(
    kind="visual_encoder",
    name="features",
    config=VisualFeaturesConfig,
    factory="lavcap_core.ready:build_visual",
    summary="ready vectors of the frames, from the manifest's visual_features",
    ports=lambda config, inputs: {"visual": Port("visual", config.width)},
)
