"""The audio encoder that pipelines see: features in, pooled tokens with masks and times out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lavcap_ced.augment import augment
from lavcap_ced.front_ends import FRONT_ENDS, HOP
from lavcap_ced.model import PATCH, ROWS, Ced
from lavcap_ced.plugin import CedConfig
from lavcap_ced.weights import load, outline, random
from lavcap_core.component import Context
from lavcap_core.data import AUDIO, Padded, Tokens
from lavcap_core.media import SAMPLE_RATE, Clip
from lavcap_core.tuning import apply_tune

__all__ = ["TARGETS", "CedEncoder", "build", "skeleton"]

TARGETS = ("q_proj", "v_proj")
"""Layers that LoRA adapts unless a spec names others (LAVCap, sec. III-A2)."""
_SECONDS = HOP / SAMPLE_RATE  # from one frame to the next


class CedEncoder(nn.Module):
    """CED as an `AudioEncoder`.

    Args:
        model: the network, with what is trained of it made so.
        config: settings; what concerns weights is not looked at.

    Attributes:
        width: D, size of a token.
        window: seconds of the longest sound that the network takes at once. A longer one is encoded in parts of that
            length by `native`, and cut by `kaldi`.
        augments: whether features are masked in training (SpecAugment).
    """

    def __init__(self, model: Ced, config: CedConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.front_end = FRONT_ENDS[config.front_end]
        self.width: int = model.geometry.width
        self.window: float | None = self.front_end.window
        self.augments = config.spec_augment is not None

    def prepare(self, clip: Clip) -> Tensor:
        """Log-mel features of a clip with a waveform: [T, 64] float32, one frame per 10 ms; T = 0 for no samples.

        Raises:
            ValueError: the clip has no waveform.
        """
        if clip.waveform is None:
            raise ValueError("prepare takes clips that have a waveform")
        waveform = torch.from_numpy(clip.waveform).float()
        return self.front_end.compute(waveform) if len(waveform) else torch.zeros(0, 64)

    def forward(self, batch: Padded) -> Tokens:
        """Encodes prepared features.

        A clip of T frames gives T // 16 tokens (four times as many without pooling), but at least one; with `kaldi` the
        tensor always has 64, of which `padding: mask` leaves out those that aren't sound all through. Frames beyond the
        window are encoded in further parts, each of at least 16 frames, joined in time.

        Args:
            batch: [B, T, 64].

        Returns:
            [B, N, D] tokens, 0 where masked. `times` are seconds from the start of the clip: the middle of the
            16 frames.
        """
        batch = self._fit(batch)
        if self.training and self.config.spec_augment is not None:
            batch = replace(batch, data=augment(batch, self.config.spec_augment, self.front_end.fill))
        longest = max(PATCH, batch.data.shape[1])
        starts = [start for start in range(0, longest, self.front_end.frames) if longest - start >= PATCH]
        return Tokens.concat([self._encode(batch, start) for start in starts])

    def _fit(self, batch: Padded) -> Padded:
        """Length that the network takes: all that isn't sound gets the front end's value of it."""
        end = self.front_end
        limit = end.frames if end.fixed else max(PATCH, batch.data.shape[1])
        lengths = batch.lengths.clamp(max=limit)
        data = nn.functional.pad(batch.data[:, :limit].float(), (0, 0, 0, max(0, limit - batch.data.shape[1])))
        data = torch.where(Padded(data, lengths).mask[:, :, None], data, end.silence)
        least = limit if self.config.padding == "token" else PATCH
        return Padded(data, torch.where(lengths > 0, lengths.clamp(min=least), 0))

    def _encode(self, batch: Padded, start: int) -> Tokens:
        part = batch.data[:, start : start + self.front_end.frames]
        lengths = (batch.lengths - start).clamp(min=0)
        data, valid = self.model(part, Padded(part, lengths).mask)
        columns = torch.arange(valid.shape[1], device=data.device)
        frames = start + PATCH * columns + (PATCH - 1) / 2
        times = frames * _SECONDS + self.front_end.centre
        if self.config.pool == "frequency":
            return Tokens.of(data.view(len(data), ROWS, -1, self.width).mean(dim=1), AUDIO, valid, times)
        return Tokens.of(data, AUDIO, valid.repeat(1, ROWS), times.repeat(ROWS))


def build(config: CedConfig, context: Context) -> CedEncoder:
    """Reads or draws the weights, and makes trainable of them what the configuration says.

    Returns:
        The encoder in eval mode.

    Raises:
        WeightsError: W060 to W064, see `lavcap_ced.weights.load`.
        BuildError: as of `lavcap_core.tuning.apply_tune`.
    """
    if config.model is None:
        assert config.size is not None  # the configuration's own check
        model = random(config.size, config.seed)
    else:
        model = load(context.locate(config.model), revision=config.revision, size=config.size)
    return _tuned(model, config)


def skeleton(config: CedConfig, context: Context) -> CedEncoder:
    """What `build` gives, on the meta device and without reading weights.

    Raises:
        BuildError: B050 if the size of the model isn't known.
    """
    place = None if config.model is None else context.locate(config.model)
    return _tuned(outline(place, config.size), config)


def _tuned(model: Ced, config: CedConfig) -> CedEncoder:
    apply_tune(model, config.tune, TARGETS)
    return CedEncoder(model, config).eval()
