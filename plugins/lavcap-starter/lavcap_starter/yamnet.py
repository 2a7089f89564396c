"""YAMNet in torch, and the audio encoder that speaks its classes' names.

YAMNet (Plakal and Ellis, 2020) is MobileNet v1 (Howard et al. 2017, arXiv:1704.04861) on log-mel patches of 0.96 s,
trained on AudioSet's 521 classes. Batch norms are folded into the convolutions. Shapes: P patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.data import AUDIO, Padded, Tokens
from lavcap_core.media import SAMPLE_RATE, Clip
from lavcap_starter.classes import load
from lavcap_starter.encoding import Speaker, load_weights, vocabulary
from lavcap_starter.plugin import WIDTH, YamnetConfig
from lavcap_starter.tokens import Mixing, Vocabulary

__all__ = ["PATCH_HOP", "PATCH_SECONDS", "YamnetEncoder", "YamnetNetwork", "build", "log_mel", "patches"]
__all__ += ["skeleton"]

_WINDOW, _HOP, _FFT = 400, 160, 512
_MELS, _LOW, _HIGH, _OFFSET = 64, 125.0, 7500.0, 0.001
_FRAMES, _FRAMES_HOP = 96, 48

PATCH_SECONDS = _FRAMES * _HOP / SAMPLE_RATE
"""Seconds that a patch covers: 0.96."""
PATCH_HOP = _FRAMES_HOP * _HOP / SAMPLE_RATE
"""Seconds from one patch's start to the next one's: 0.48."""

# The samples that the 96 frames of one patch span: 0.975 s.
_SHORTEST = (_FRAMES - 1) * _HOP + _WINDOW

# Channels and stride of the 13 separable layers.
_LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def _mel(hertz: Tensor) -> Tensor:
    return 1127 * torch.log1p(hertz / 700)


@cache
def _mel_matrix() -> Tensor:
    """[257, 64] triangular filters, linear in HTK mel between 125 and 7500 Hz."""
    bins = _mel(torch.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1, dtype=torch.float64))[:, None]
    low, high = _mel(torch.tensor([_LOW, _HIGH], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, _MELS + 2, dtype=torch.float64)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def log_mel(waveform: Tensor) -> Tensor:
    """Log-mel spectrogram [T, 64] of a waveform [S] at 16 kHz, 100 frames a second, frame t from sample 160 t on.

    Periodic Hann window of 25 ms, magnitudes of a 512-point FFT, ``log(mel + 0.001)``.
    """
    frames = waveform.unfold(0, _WINDOW, _HOP) * torch.hann_window(_WINDOW, periodic=True)
    return torch.log(torch.fft.rfft(frames, n=_FFT).abs() @ _mel_matrix() + _OFFSET)


def patches(waveform: Tensor) -> Tensor:
    """Patches [P, 96, 64] every 0.48 s, 20 for 10 s.

    A sound below 0.975 s is repeated up to that length, because a burst followed by nothing is another sound; the tail
    of a longer one is filled with silence up to a whole patch, if half a hop or more of it would be lost.

    Args:
        waveform: [S] float32 at 16 kHz, S at least 1.
    """
    if len(waveform) < _SHORTEST:
        waveform = waveform.repeat(math.ceil(_SHORTEST / len(waveform)))[:_SHORTEST]
    hop = _FRAMES_HOP * _HOP
    count = 1 + math.floor((len(waveform) - _SHORTEST) / hop + 0.5)
    needed = _SHORTEST + (count - 1) * hop
    waveform = nn.functional.pad(waveform, (0, max(0, needed - len(waveform))))
    return log_mel(waveform[:needed]).unfold(0, _FRAMES, _FRAMES_HOP).transpose(1, 2)


class _Convolution(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding for even sizes: at stride 2, only after the end."""

    def forward(self, input: Tensor) -> Tensor:
        before, after = ((0, 1) if self.stride[0] == 2 else (1, 1)) if self.kernel_size[0] == 3 else (0, 0)
        padded = nn.functional.pad(input, (before, after, before, after))
        return torch.relu(super().forward(padded))


class _Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _Convolution(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = _Convolution(inputs, outputs, 1)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.pointwise(self.depthwise(input))
        return output


class YamnetNetwork(nn.Module):
    """Patches [P, 96, 64] to logits [P, 521]; 3.7 M weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(1, 32, 3, 2)
        widths = (32, *(outputs for outputs, _ in _LAYERS))
        self.layers = nn.Sequential(
            *(_Separable(inputs, *layer) for inputs, layer in zip(widths[:-1], _LAYERS, strict=True))
        )
        self.classifier = nn.Linear(1024, 521)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits; their sigmoid is each class's posterior."""
        features = self.layers(self.stem(patches[:, None]))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


class YamnetEncoder(nn.Module):
    """Sound to tokens: one each 0.48 s, the embedded names of what YAMNet hears (see `lavcap_starter.tokens`).

    Args:
        state: weights of `YamnetNetwork`.
        vocabulary: the class names' embeddings.
        mixing: how posteriors become tokens.
    """

    window: float | None = None

    def __init__(self, state: Mapping[str, Tensor], vocabulary: Vocabulary, mixing: Mixing) -> None:
        super().__init__()
        self.network = YamnetNetwork()
        self.network.load_state_dict(state)
        self.requires_grad_(False).eval()
        self.speaker = Speaker(vocabulary, mixing)
        self.width = self.speaker.width

    def prepare(self, clip: Clip) -> Tensor:
        """Log-mel patches [P, 96, 64] of a clip's waveform."""
        if clip.waveform is None or len(clip.waveform) == 0:
            return torch.zeros(0, _FRAMES, _MELS)
        return patches(torch.from_numpy(clip.waveform))

    @torch.no_grad()
    def posteriors(self, batch: Padded) -> Tensor:
        """What YAMNet hears: [B, P, 521] in 0..1, 0 where there is no patch."""
        mask = batch.mask
        heard = batch.data.new_zeros(*mask.shape, self.network.classifier.out_features, dtype=torch.float32)
        if mask.any():
            patches = batch.data[mask].to(self.network.classifier.weight.dtype)
            heard[mask] = self.network(patches).float().sigmoid()
        return heard

    def forward(self, batch: Padded) -> Tokens:
        """Tokens [B, P, 576] with their times; patches in which nothing is recognised are masked."""
        data, mask = self.speaker(self.posteriors(batch), batch.mask)
        times = torch.arange(mask.shape[1], device=data.device) * PATCH_HOP + PATCH_SECONDS / 2
        return Tokens.of(data, AUDIO, mask, times)


def build(config: YamnetConfig, context: Context) -> YamnetEncoder:
    """The factory that the descriptor names.

    Raises:
        WeightsError: see `lavcap_starter.fetch.Store.get`; W096 if the file does not hold YAMNet.
    """
    state = load_weights(context.locate(config.model), YamnetNetwork)
    names = vocabulary(context, load("sound"), "sound", config.centre, WIDTH)
    return YamnetEncoder(state, names, Mixing(config.top, config.power, config.floor, config.vague))


def skeleton(config: YamnetConfig, context: Context) -> YamnetEncoder:
    """What `build` gives, on the meta device and without reading weights."""
    names = Vocabulary.of(load("sound"), torch.empty(len(load("sound").names), WIDTH), centre=False)
    mixing = Mixing(config.top, config.power, config.floor, config.vague)
    return YamnetEncoder(YamnetNetwork().state_dict(), names, mixing)
