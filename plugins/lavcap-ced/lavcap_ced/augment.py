"""SpecAugment: masks over the features of training clips (Park et al. 2019, arXiv 1904.08779)."""

from __future__ import annotations

import torch
from torch import Tensor

from lavcap_ced.plugin import SpecAugment
from lavcap_core.data import Padded

__all__ = ["augment"]


def augment(batch: Padded, settings: SpecAugment, fill: float | None) -> Tensor:
    """Masks one band of mel bins and one stretch of time in each clip.

    The width of a mask is drawn uniformly from 0 to what the settings allow, and then its place within the clip's real
    frames. Random numbers come from torch's global state.

    Args:
        batch: [B, T, M] features.
        settings: largest widths.
        fill: what masked values become; None: the mean of the clip's real values, which under a later normalisation is
            what the paper's zero is.

    Returns:
        [B, T, M] features.
    """
    data, mask = batch.data, batch.mask
    bins = torch.full_like(batch.lengths, data.shape[2])
    hidden = _stretch(bins, settings.frequency, data.shape[2])[:, None, :]
    hidden = hidden | _stretch(batch.lengths, settings.time, data.shape[1])[:, :, None]
    value = _means(data, mask) if fill is None else torch.full_like(data[:, 0, 0], fill)
    return torch.where(hidden & mask[:, :, None], value[:, None, None], data)


def _means(data: Tensor, mask: Tensor) -> Tensor:
    total = (data * mask[:, :, None]).sum(dim=(1, 2))
    return total / (mask.sum(dim=1) * data.shape[2]).clamp(min=1)


def _stretch(sizes: Tensor, most: int, length: int) -> Tensor:
    """[B, length] bool: a stretch of random width below `most` at a random place within each of ``sizes`` [B]."""
    draws = torch.rand(2, sizes.shape[0], device=sizes.device)
    widths = torch.minimum(draws[0] * most, sizes)
    starts = (draws[1] * (sizes - widths)).long()[:, None]
    steps = torch.arange(length, device=sizes.device)
    return (steps >= starts) & (steps < starts + widths.long()[:, None])
