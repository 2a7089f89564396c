"""What flows through a pipeline: padded batches, tokens, alignments, captions. Shapes: B batch, N tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["AUDIO", "VISUAL", "Aligned", "Alignment", "Caption", "Padded", "Tokens", "collate"]

AUDIO = 0
"""Value of `Tokens.modality` for a token that came from sound."""
VISUAL = 1
"""Value of `Tokens.modality` for a token that came from a picture."""


@dataclass(frozen=True)
class Padded:
    """Prepared inputs of different lengths in one tensor.

    Attributes:
        data: [B, T, ...], zero where there is nothing.
        lengths: [B] int64, valid steps along T; 0 where a clip lacks the modality.
    """

    data: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """[B, T] bool, True where `data` is real."""
        return torch.arange(self.data.shape[1], device=self.data.device) < self.lengths[:, None]

    def to(self, device: torch.device | str) -> Padded:
        """The same on a device."""
        return Padded(self.data.to(device), self.lengths.to(device))


def collate(items: Sequence[Tensor | None]) -> Padded | None:
    """Pads tensors [T_i, ...] into one batch; None is a clip without the modality.

    Returns:
        The batch, or None if no clip has the modality.
    """
    present = [item for item in items if item is not None]
    if not present:
        return None
    longest = max(item.shape[0] for item in present)
    data = present[0].new_zeros(len(items), longest, *present[0].shape[1:])
    for row, item in enumerate(items):
        if item is not None:
            data[row, : item.shape[0]] = item
    lengths = torch.tensor([0 if item is None else item.shape[0] for item in items])
    return Padded(data, lengths)


@dataclass(frozen=True)
class Tokens:
    """Tokens of a batch. What the mask leaves out changes nothing and receives nothing.

    Attributes:
        data: [B, N, D] float.
        mask: [B, N] bool, True for real tokens.
        modality: [B, N] int8, `AUDIO` or `VISUAL`; every fuser keeps it.
        times: [B, N] float seconds, the middle of what the token covers, or None.
    """

    data: Tensor
    mask: Tensor
    modality: Tensor
    times: Tensor | None = None

    @classmethod
    def of(cls, data: Tensor, modality: int, mask: Tensor | None = None, times: Tensor | None = None) -> Tokens:
        """Tokens of one modality; without a mask all are real; ``times`` [N] or [B, N]."""
        shape = data.shape[:2]
        if mask is None:
            mask = torch.ones(shape, dtype=torch.bool, device=data.device)
        if times is not None:
            times = times.to(data.device).expand(shape)
        kinds = torch.full(shape, modality, dtype=torch.int8, device=data.device)
        return cls(data, mask, kinds, times)

    @property
    def width(self) -> int:
        """D."""
        return self.data.shape[2]

    def with_data(self, data: Tensor) -> Tokens:
        """The same tokens with other values [B, N, D']."""
        return replace(self, data=data)

    def present(self) -> Tensor:
        """[B] bool, whether a sample has any real token."""
        return self.mask.any(dim=1)

    @staticmethod
    def concat(parts: Sequence[Tokens]) -> Tokens:
        """Tokens one after another along N; times are kept only if every part has them."""
        times = [part.times for part in parts]
        joined = None if any(t is None for t in times) else torch.cat([t for t in times if t is not None], dim=1)
        return Tokens(
            torch.cat([part.data for part in parts], dim=1),
            torch.cat([part.mask for part in parts], dim=1),
            torch.cat([part.modality for part in parts], dim=1),
            joined,
        )


@dataclass(frozen=True)
class Alignment:
    """How the tokens of two modalities correspond.

    Attributes:
        similarity: [B, N_a, N_v] float32.
        plan: [B, N_a, N_v] float32 transport plan whose entries sum to 1 for a sample with both modalities and to 0
            for one without; or None for aligners that make none.
        loss: [B] float32 alignment loss of each sample (0 where a modality is missing), or None.
        marginal_error: [B] float32, total violation of the plan's marginals, or None.
    """

    similarity: Tensor
    plan: Tensor | None = None
    loss: Tensor | None = None
    marginal_error: Tensor | None = None

    def mean_loss(self, audio: Tokens, visual: Tokens) -> Tensor | None:
        """Mean of the loss over samples that have both modalities, 0 if none has; or None without a loss."""
        if self.loss is None:
            return None
        both = (audio.present() & visual.present()).to(self.loss.dtype)
        return (self.loss * both).sum() / both.sum().clamp(min=1)


@dataclass(frozen=True)
class Aligned:
    """Tokens of both modalities as the aligner compared them (projected, normalised), and their alignment."""

    audio: Tokens
    visual: Tokens
    alignment: Alignment


@dataclass(frozen=True)
class Caption:
    """What a pipeline says of a clip.

    Attributes:
        text: the caption.
        clip: name of the file, or None for tensors.
        status: ``ok`` or ``partial`` (`reason` says why, `seconds` how much was read).
        alignment: the alignment of the clip's tokens (B = 1, on the CPU), or None; with segments, of the first one.
        audio: the audio tokens that were aligned (B = 1), or None.
        visual: the visual tokens that were aligned (B = 1), or None.
        segments: captions of parts, each with ``start``, ``end`` and ``text``; empty for a clip captioned whole.
    """

    text: str
    clip: str | None = None
    status: str = "ok"
    reason: str | None = None
    seconds: float | None = None
    alignment: Alignment | None = None
    audio: Tokens | None = None
    visual: Tokens | None = None
    segments: tuple[dict[str, Any], ...] = field(default=())

    def __str__(self) -> str:
        return self.text
