"""What every encoder of single frames shares: resizing, batches of frames, tokens. B batch, T frames, S pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lavcap_core.data import VISUAL, Padded, Tokens

__all__ = ["encode_frames", "normalise", "resize"]


def resize(frames: NDArray[np.uint8], size: int) -> Tensor:
    """Frames [T, H, W, 3] as uint8 [T, 3, size, size]: short side by antialiased bicubic, then the centre."""
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    height, width = pictures.shape[2:]
    if (height, width) == (size, size):
        return pictures.contiguous()
    scale = size / min(height, width)
    shape = [max(size, round(height * scale)), max(size, round(width * scale))]
    # Bicubic goes below 0 and above 255 beside edges; in uint8 that would wrap.
    large = functional.interpolate(pictures.float(), shape, mode="bicubic", antialias=True, align_corners=False)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return large[:, :, top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8).contiguous()


def normalise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pictures uint8 [n, 3, S, S] as float32 of the mean and deviation that the model was trained with, per channel."""
    shift, scale = (torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (mean, std))
    return (pictures.float() / 255 - shift) / scale


def encode_frames(batch: Padded, encode: Callable[[Tensor], Tensor], chunk: int) -> Tokens:
    """Tokens of a batch of frames, with relative times: a token of frame i of T stands at (i + 0.5) / T.

    A frame that equals the one before it (a still picture, a slide) is encoded once.

    Args:
        batch: frames uint8 [B, T, 3, S, S].
        encode: from uint8 [n, 3, S, S] to [n, P, D], P tokens per frame.
        chunk: frames that are encoded at a time.

    Returns:
        Tokens [B, T * P, D], frame by frame.
    """
    mask = batch.mask
    pictures = batch.data[mask]
    if len(pictures) == 0:  # clips without a picture: one black frame tells P and D
        encoded = encode(batch.data.new_zeros(1, *batch.data.shape[2:]))[:0]
    else:
        new = torch.ones(len(pictures), dtype=torch.bool, device=pictures.device)
        new[1:] = (pictures[1:] != pictures[:-1]).flatten(1).any(dim=1)
        parts = [encode(part) for part in _chunks(pictures[new], chunk)]
        encoded = torch.cat(parts)[new.cumsum(0) - 1]
    return _tokens(encoded, mask, batch.lengths)


def _chunks(pictures: Tensor, size: int) -> list[Tensor]:
    return [pictures[start : start + size] for start in range(0, len(pictures), size)]


def _tokens(encoded: Tensor, mask: Tensor, lengths: Tensor) -> Tokens:
    per_frame, width = encoded.shape[1:]
    data = encoded.new_zeros(*mask.shape, per_frame, width)
    data[mask] = encoded
    middles = torch.arange(mask.shape[1], device=mask.device) + 0.5
    times = (middles / lengths[:, None].clamp(min=1)).masked_fill(~mask, 0)
    return Tokens.of(
        data.flatten(1, 2),
        VISUAL,
        mask.repeat_interleave(per_frame, dim=1),
        times.repeat_interleave(per_frame, dim=1),
    )
