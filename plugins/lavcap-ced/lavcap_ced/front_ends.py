"""From waveforms to the log-mel features of CED: `native`, what it was trained on, and `kaldi`, what LAVCap fed it.

Both give 64 bins every 10 ms out of 16 kHz mono sound, and differ in all else; per bin, their correlation on real clips
is 0.34 to 0.86. Shapes: S samples, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from lavcap_core.media import SAMPLE_RATE

__all__ = ["FRONT_ENDS", "HOP", "MELS", "FrontEnd", "kaldi", "native"]

MELS = 64
"""Mel bins of both front ends."""
HOP = 160
"""Samples from one frame to the next."""
_FFT = 512
_FRAME = 400  # kaldi: 25 ms
_MEAN, _SCALE = -4.346, 4.332  # of the released LAVCap's features over its training clips


@dataclass(frozen=True)
class FrontEnd:
    """A way to compute features, and what the encoder must know of it.

    Attributes:
        compute: [S] float32 waveform, S > 0, to [T, 64] float32 features.
        frames: frames of the longest input that the network takes at once.
        fixed: whether shorter inputs are padded to `frames`, and longer ones cut.
        fill: value of frames that pad, and what masks of SpecAugment write; None: the latter write the clip's mean.
        silence: value of frames that pad an input too short for a single token.
        centre: seconds from the start of the sound to the middle of frame 0.
        window: seconds of the longest sound that gives no more than `frames`.
    """

    compute: Callable[[Tensor], Tensor]
    frames: int
    fixed: bool
    fill: float | None
    silence: float
    centre: float
    window: float


def native(waveform: Tensor) -> Tensor:
    """Features that CED was trained on: decibels of a mel spectrogram.

    Power spectrum of periodic Hann windows of 512 samples, centred with reflect padding; 64 HTK mel bins from 0 to
    8 kHz, triangular in Hz, not normalised; 10 log10, floored at 1e-10 and at 120 dB under the clip's loudest bin. No
    mean or deviation is removed: CED does it with a BatchNorm of its own.

    Args:
        waveform: [S] float32 at 16 kHz, in -1..1; zeros are appended where it has under 257 samples.

    Returns:
        [1 + S // 160, 64] float32.
    """
    waveform = _at_least(waveform, _FFT // 2 + 1)  # what reflect padding takes
    spectrum = torch.stft(waveform, _FFT, HOP, window=torch.hann_window(_FFT), center=True, return_complex=True)
    power = spectrum.abs().square().T
    decibels = 10 * (power @ _htk_bank()).clamp(min=1e-10).log10()
    return decibels.clamp(min=decibels.max() - 120)


def kaldi(waveform: Tensor) -> Tensor:
    """Features of the released LAVCap: a Kaldi filterbank, shifted and scaled by constants.

    The clip's mean is removed; then symmetric Hann windows of 25 ms whose mean is removed, pre-emphasis 0.97, power
    spectrum of 512 points, 64 bins from 20 Hz to 8 kHz, triangular in mel, natural logarithm; no dither, no energy.

    Args:
        waveform: [S] float32 at 16 kHz, in -1..1; zeros are appended where it has under 400 samples.

    Returns:
        [min(1 + (S - 400) // 160, 1024), 64] float32, (x + 4.346) / 4.332.
    """
    return (filterbank(waveform - waveform.mean())[: FRONT_ENDS["kaldi"].frames] - _MEAN) / _SCALE


def filterbank(waveform: Tensor) -> Tensor:
    """Kaldi's log-mel filterbank as in `kaldi`, before anything is shifted: [S] to [1 + (S - 400) // 160, 64]."""
    frames = _at_least(waveform, _FRAME).unfold(0, _FRAME, HOP)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - 0.97 * before) * torch.hann_window(_FRAME, periodic=False)
    power = torch.fft.rfft(frames, n=_FFT).abs().square()
    energy: Tensor = power @ _kaldi_bank()
    return energy.clamp(min=torch.finfo(torch.float32).eps).log()


def _at_least(waveform: Tensor, samples: int) -> Tensor:
    return F.pad(waveform, (0, max(0, samples - waveform.shape[0])))


def _frequencies() -> Tensor:
    return torch.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1, dtype=torch.float64)


@cache
def _htk_bank() -> Tensor:
    top = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700, dtype=torch.float64))
    corners = torch.linspace(0, 1, MELS + 2, dtype=torch.float64) * top
    return _triangles(700 * (10 ** (corners / 2595) - 1), _frequencies())


@cache
def _kaldi_bank() -> Tensor:
    low, high = (1127 * log(1 + hertz / 700) for hertz in (20, SAMPLE_RATE / 2))
    corners = torch.linspace(low, high, MELS + 2, dtype=torch.float64)
    return _triangles(corners, 1127 * torch.log(1 + _frequencies() / 700))


def _triangles(corners: Tensor, positions: Tensor) -> Tensor:
    """Triangles over three consecutive corners each, height 1: [M + 2], [K] to [K, M] float32."""
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (positions[:, None] - left) / (middle - left)
    falling = (right - positions[:, None]) / (right - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()


FRONT_ENDS: Mapping[str, FrontEnd] = {
    "native": FrontEnd(
        native, frames=1012, fixed=False, fill=None, silence=-100.0, centre=0.0, window=(1012 - 1) * HOP / SAMPLE_RATE
    ),
    "kaldi": FrontEnd(
        kaldi,
        frames=1024,
        fixed=True,
        fill=-_MEAN / _SCALE,
        silence=-_MEAN / _SCALE,
        centre=_FRAME / 2 / SAMPLE_RATE,
        window=((1024 - 1) * HOP + _FRAME) / SAMPLE_RATE,
    ),
}
"""The front ends by name."""
