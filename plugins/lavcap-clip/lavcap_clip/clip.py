"""CLIP's image encoder (Radford et al. 2021, arXiv 2103.00020) through transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from lavcap_clip.frames import encode_frames, normalise, resize
from lavcap_clip.plugin import KNOWN, ClipConfig, vision_config
from lavcap_core.component import Context
from lavcap_core.data import Padded, Tokens
from lavcap_core.errors import BuildError, MediaError, WeightsError
from lavcap_core.media import Clip
from lavcap_core.pretrained import fetch_options, quiet, reading, require_complete, unknown_size
from lavcap_core.tuning import apply_tune

__all__ = ["MEAN", "STD", "ClipEncoder", "build", "skeleton"]

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of CLIP's training pictures, per channel."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of CLIP's training pictures, per channel."""

_FILES = "config.json, preprocessor_config.json and model.safetensors"
_TARGETS = ("q_proj", "v_proj")


class ClipEncoder(nn.Module):
    """Frames to tokens: one projected embedding per frame (as in LAVCap), or patches.

    Args:
        model: CLIP's image encoder; for patches, cut after the layer that is wanted.
        config: output, pooling, frames and batch.
        mean: of the pictures, per channel, in 0..1.
        std: their standard deviation.
    """

    def __init__(
        self, model: Any, config: ClipConfig, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = tuple(mean), tuple(std)
        self.output, self.pool, self.grid = config.output, config.pool, config.grid
        self.frames, self.chunk = config.frames, config.batch
        self.image_size: int = model.config.image_size
        self.width: int = model.config.projection_dim if self.output == "projected" else model.config.hidden_size

    def prepare(self, clip: Clip) -> Tensor:
        """The clip's frames as uint8 [T, 3, S, S], resized where they have another size than the model wants.

        Raises:
            MediaError: M070 if the clip has no frames.
        """
        if clip.frames is None:
            raise MediaError("M070", "the clip has no frames to encode", file=clip.path)
        return resize(clip.frames, self.image_size)

    def __call__(self, batch: Padded) -> Tokens:
        """Tokens [B, T * P, D] of prepared frames, P per frame (1 unless patches are kept), with relative times."""
        tokens: Tokens = super().__call__(batch)
        return tokens

    def forward(self, batch: Padded) -> Tokens:
        """See `__call__`."""
        return encode_frames(batch, self._encode, self.chunk)

    def _encode(self, pictures: Tensor) -> Tensor:
        pixels = normalise(pictures, self.mean, self.std).to(self.model.dtype)
        if self.output == "projected":
            embedded: Tensor = self.model(pixel_values=pixels).image_embeds
            return embedded[:, None]
        patches: Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state[:, 1:]  # without the class
        return self._pooled(patches)

    def _pooled(self, patches: Tensor) -> Tensor:
        """Patches [n, P, D] to [n, 1, D], [n, grid^2, D] in rows from the top left, or all."""
        if self.pool == "none":
            return patches
        if self.pool == "mean":
            return patches.mean(dim=1, keepdim=True)
        side = self.image_size // self.model.config.patch_size
        plane = patches.transpose(1, 2).reshape(len(patches), -1, side, side)
        return functional.adaptive_avg_pool2d(plane, self.grid).flatten(2).transpose(1, 2)


def build(config: ClipConfig, context: Context) -> ClipEncoder:
    """Builds the visual encoder `clip`.

    Raises:
        WeightsError: W070 if there is no such folder, W071 if the hub can't be reached, W072 if files are broken.
        BuildError: B070 if the model lacks the layer or is coarser than the grid, or B030 and B031 of LoRA.
    """
    name = context.locate(config.model)
    return ClipEncoder(_tuned(_load(name), config), config, *_statistics(name))


def skeleton(config: ClipConfig, context: Context) -> ClipEncoder:
    """What `build` gives, on the meta device and without reading weights.

    Raises:
        BuildError: B050 if the size of the model isn't known, B070, B030 and B031 as `build`.
        WeightsError: W072 if config.json is broken.
    """
    name = context.locate(config.model)
    with reading(name, _FILES, "W071", "W072"):
        said = vision_config(name)
        sizes = None if said is None else CLIPVisionConfig.from_dict(dict(said))
    if sizes is None:
        raise unknown_size(name, KNOWN)
    return ClipEncoder(_tuned(CLIPVisionModelWithProjection(sizes).eval(), config), config)


def _tuned(model: Any, config: ClipConfig) -> Any:
    """Cut after the layer that is wanted, with what is trained of it made so."""
    if config.output == "patches":
        _cut(model, config)
    apply_tune(model, config.tune, _TARGETS)
    if config.output == "patches":
        # What nothing reads gets no gradient, and must not count as trained.
        model.visual_projection.requires_grad_(False)
        model.vision_model.post_layernorm.requires_grad_(False)
    return model


def _load(name: str) -> Any:
    path = Path(name)
    if not (path / "config.json").is_file() and (path.exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name)):
        raise WeightsError("W070", f"{name} is no folder with config.json", help=f"a folder should hold {_FILES}")
    with reading(name, _FILES, "W071", "W072"), quiet():
        model, report = CLIPVisionModelWithProjection.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **fetch_options(name)
        )
    require_complete(name, report, "W072")
    return model.eval()


def _cut(model: Any, config: ClipConfig) -> None:
    """Drops the layers after the one whose patches are taken."""
    encoder = model.vision_model.encoder
    count = len(encoder.layers)
    keep = config.layer if config.layer >= 0 else count + 1 + config.layer
    if not 0 <= keep <= count:
        raise BuildError(
            "B070", f"layer {config.layer} of a model with {count}", help=f"take a layer from {-count - 1} to {count}"
        )
    side = model.config.image_size // model.config.patch_size
    if config.pool == "grid" and config.grid > side:
        raise BuildError(
            "B070", f"a grid of {config.grid} over {side} x {side} patches", help=f"take a grid of at most {side}"
        )
    encoder.layers = encoder.layers[:keep]


def _statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation that the model's preprocessor_config.json says, else CLIP's."""
    file = _preprocessor(name)
    if file is None:
        return MEAN, STD
    with reading(name, _FILES, "W071", "W072"):
        said = json.loads(file.read_text(encoding="utf-8"))
        mean, std = said.get("image_mean", MEAN), said.get("image_std", STD)
        return [float(value) for value in mean], [float(value) for value in std]


def _preprocessor(name: str) -> Path | None:
    here = Path(name) / "preprocessor_config.json"
    if Path(name).is_dir():
        return here if here.is_file() else None
    if name.startswith("openai/clip-"):
        return None  # whose statistics MEAN and STD are
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with reading(name, _FILES, "W071", "W072"):
        try:
            return Path(hf_hub_download(name, here.name, **fetch_options(name)))
        except LocalEntryNotFoundError:
            raise  # the hub may have one; other statistics than the model's would go unnoticed
        except EntryNotFoundError:
            return None
