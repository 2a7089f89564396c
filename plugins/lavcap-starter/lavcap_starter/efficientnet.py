"""EfficientNet-Lite0 in torch, and the visual encoder that speaks its classes' names.

EfficientNet (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6, trained on ImageNet-1k.
Module names are those of the weights' keys. Shapes: F frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.data import VISUAL, Padded, Tokens
from lavcap_core.media import Clip
from lavcap_core.tuning import keep_eval
from lavcap_starter.classes import load
from lavcap_starter.encoding import Speaker, load_weights, vocabulary
from lavcap_starter.plugin import WIDTH, EfficientNetConfig
from lavcap_starter.tokens import Mixing, Vocabulary

__all__ = ["EfficientNetEncoder", "EfficientNetLite0", "build", "skeleton"]

# Kernel, stride, expansion, channels of each of the 16 blocks.
_BLOCKS = (
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (3, 1, 6, 24),
    (5, 2, 6, 40),
    (5, 1, 6, 40),
    (3, 2, 6, 80),
    *[(3, 1, 6, 80)] * 2,
    *[(5, 1, 6, 112)] * 3,
    (5, 2, 6, 192),
    *[(5, 1, 6, 192)] * 3,
    (3, 1, 6, 320),
)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Convolution(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's "same": what is odd of the padding comes after the end."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max(kernel - (size % stride or stride), 0) for size in input.shape[-2:])
        sides = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(nn.functional.pad(input, sides))


class _Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; with a residual where shapes allow."""

    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int, outputs: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = _Convolution(inputs, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = _Convolution(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = _Convolution(wide, outputs, 1), _norm(outputs)
        self.expands, self.residual = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, input: Tensor) -> Tensor:
        hidden = nn.functional.relu6(self._bn0(self._expand_conv(input))) if self.expands else input
        hidden = nn.functional.relu6(self._bn1(self._depthwise_conv(hidden)))
        output: Tensor = self._bn2(self._project_conv(hidden))
        return input + output if self.residual else output


class EfficientNetLite0(nn.Module):
    """Pictures [F, 3, S, S] of values (x - 127) / 128 to logits [F, 1000]; 4.7 M weights."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Convolution(3, 32, 3, 2), _norm(32)
        widths = (32, *(block[-1] for block in _BLOCKS))
        self._blocks = nn.Sequential(
            *(_Block(inputs, *block) for inputs, block in zip(widths[:-1], _BLOCKS, strict=True))
        )
        self._conv_head, self._bn1 = _Convolution(320, 1280, 1), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits; their softmax is the posterior."""
        features = self._blocks(nn.functional.relu6(self._bn0(self._conv_stem(pictures))))
        features = nn.functional.relu6(self._bn1(self._conv_head(features)))
        logits: Tensor = self._fc(features.mean(dim=(2, 3)))
        return logits


class EfficientNetEncoder(nn.Module):
    """Frames to tokens: one each, the embedded names of what EfficientNet sees (see `lavcap_starter.tokens`).

    Args:
        state: weights of `EfficientNetLite0`.
        vocabulary: the class names' embeddings.
        mixing: how posteriors become tokens.
        frames: frames per window.
        image_size: their height and width in pixels.
    """

    def __init__(
        self, state: Mapping[str, Tensor], vocabulary: Vocabulary, mixing: Mixing, frames: int, image_size: int
    ) -> None:
        super().__init__()
        self.network = EfficientNetLite0()
        self.network.load_state_dict(state, strict=False)  # only counters of training steps are not there
        # Batch norms keep the statistics they were trained with, and a checkpoint need not hold them.
        keep_eval(self.requires_grad_(False))
        self.speaker = Speaker(vocabulary, mixing)
        self.width, self.frames, self.image_size = self.speaker.width, frames, image_size

    def prepare(self, clip: Clip) -> Tensor:
        """Frames [F, 3, S, S] uint8 of a clip."""
        if clip.frames is None:
            return torch.zeros(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return torch.tensor(clip.frames).permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def posteriors(self, batch: Padded) -> Tensor:
        """What EfficientNet sees: [B, F, 1000] in 0..1, 0 where there is no frame. Equal frames are looked at once."""
        mask, weight = batch.mask, self.network._fc.weight
        seen = torch.zeros(*mask.shape, weight.shape[0], device=weight.device)
        if mask.any():
            pictures, which = _distinct(batch.data[mask])
            pictures = (pictures.to(weight.device, weight.dtype) - 127) / 128
            seen[mask] = self.network(pictures).float().softmax(dim=-1)[which]
        return seen

    def forward(self, batch: Padded) -> Tokens:
        """Tokens [B, F, 576]; frames that show nothing known are masked.

        Times are relative: token i of F covers the fractions i/F to (i+1)/F of the clip.
        """
        data, mask = self.speaker(self.posteriors(batch), batch.mask)
        middles = torch.arange(mask.shape[1], device=data.device)[None] + 0.5
        times = middles / batch.lengths.to(data.device)[:, None].clamp(min=1)
        return Tokens.of(data, VISUAL, mask, times)


def _distinct(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures [K, ...] without repetitions of the one before, and [F] which of them each one is."""
    new = torch.ones(len(pictures), dtype=torch.bool, device=pictures.device)
    new[1:] = (pictures[1:] != pictures[:-1]).flatten(1).any(dim=1)
    return pictures[new], new.cumsum(0) - 1


def build(config: EfficientNetConfig, context: Context) -> EfficientNetEncoder:
    """The factory that the descriptor names.

    Raises:
        WeightsError: see `lavcap_starter.fetch.Store.get`; W096 if the file does not hold EfficientNet-Lite0.
    """
    state = load_weights(context.locate(config.model), EfficientNetLite0)
    names = vocabulary(context, load("picture"), "picture", config.centre, WIDTH)
    mixing = Mixing(config.top, config.power, config.floor, config.vague)
    return EfficientNetEncoder(state, names, mixing, config.frames, config.image_size)


def skeleton(config: EfficientNetConfig, context: Context) -> EfficientNetEncoder:
    """What `build` gives, on the meta device and without reading weights."""
    names = Vocabulary.of(load("picture"), torch.empty(len(load("picture").names), WIDTH), centre=False)
    mixing = Mixing(config.top, config.power, config.floor, config.vague)
    return EfficientNetEncoder(EfficientNetLite0().state_dict(), names, mixing, config.frames, config.image_size)
