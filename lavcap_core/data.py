"""What flows through a pipeline: padded batches, tokens, alignments, captions. Shapes: B batch, N tokens, D width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "AUDIO",
    "VISUAL",
    "Aligned",
    "Alignment",
    "Batch",
    "Caption",
    "Padded",
    "Ready",
    "Sample",
    "Sums",
    "Tokens",
    "collate",
    "collate_ready",
    "padded_length",
    "padding",
]

AUDIO = 0
"""Value of `Tokens.modality` for a token that came from sound."""
VISUAL = 1
"""Value of `Tokens.modality` for a token that came from a picture."""


_PADDING: ContextVar[Callable[[int], int] | None] = ContextVar("padding", default=None)


@contextmanager
def padding(rule: Callable[[int], int]) -> Iterator[None]:
    """While it is open, batches are padded to ``rule(longest)`` instead of their longest row.

    For backends that compile a graph per shape: few shapes, few graphs.
    """
    token = _PADDING.set(rule)
    try:
        yield
    finally:
        _PADDING.reset(token)


def padded_length(longest: int) -> int:
    """Length to which a batch is padded whose longest row is given (see `padding`)."""
    rule = _PADDING.get()
    return longest if rule is None else max(longest, rule(longest))


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
    longest = padded_length(max(item.shape[0] for item in present))
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

    def to(self, device: torch.device | str) -> Tokens:
        """The same on a device."""
        times = None if self.times is None else self.times.to(device)
        return Tokens(self.data.to(device), self.mask.to(device), self.modality.to(device), times)


@dataclass(frozen=True)
class Ready:
    """Tokens of one modality of one clip that an encoder gave before: from a cache, or simulated.

    Attributes:
        data: [N, D] float.
        mask: [N] bool.
        times: [N] seconds, or None.
    """

    data: Tensor
    mask: Tensor
    times: Tensor | None = None


def collate_ready(items: Sequence[Ready | None], modality: int) -> Tokens | None:
    """Pads ready tokens into one batch, in float32; None is a clip without the modality.

    Returns:
        The batch, or None if no clip has the modality. Times are kept only if every clip that is there has them.
    """
    present = [item for item in items if item is not None]
    if not present:
        return None
    longest = padded_length(max(len(item.data) for item in present))
    data = torch.zeros(len(items), longest, present[0].data.shape[1])
    mask = torch.zeros(len(items), longest, dtype=torch.bool)
    times = torch.zeros(len(items), longest) if all(item.times is not None for item in present) else None
    for row, item in enumerate(items):
        if item is not None:
            place = (row, slice(0, len(item.data)))
            data[place], mask[place] = item.data.float(), item.mask
            if times is not None and item.times is not None:
                times[place] = item.times
    return Tokens.of(data, modality, mask, times)


@dataclass(frozen=True)
class Sample:
    """One clip with the caption that is learnt from it.

    Attributes:
        name: what logs call it.
        caption: the caption.
        audio: what the audio encoder prepared, or its tokens, or None without sound.
        visual: what the visual encoder prepared, or its tokens, or None without pictures.
        seconds: length of the clip.
        prompt: an instruction of its own, or None.
    """

    name: str
    caption: str
    audio: Tensor | Ready | None = None
    visual: Tensor | Ready | None = None
    seconds: float = 10.0
    prompt: str | None = None


@dataclass(frozen=True)
class Batch:
    """Samples of one forward pass of training.

    Attributes:
        names: what logs call the samples.
        captions: one per sample.
        audio: what the encoder takes, or its tokens, or None if no sample has sound.
        visual: what the encoder takes, or its tokens, or None if no sample has pictures.
        seconds: [B] length of each clip.
        weights: [B] float32, 1 for what counts, 0 for a sample that only fills up.
        prompts: instructions, one per sample, or None.
    """

    names: tuple[str, ...]
    captions: tuple[str, ...]
    audio: Padded | Tokens | None
    visual: Padded | Tokens | None
    seconds: Tensor
    weights: Tensor
    prompts: tuple[str, ...] | None = None

    @classmethod
    def of(cls, samples: Sequence[Sample], weights: Sequence[float] | None = None) -> Batch:
        """Pads samples; in one modality either all are ready tokens or none."""
        prompts = tuple(sample.prompt or "" for sample in samples)
        return cls(
            tuple(sample.name for sample in samples),
            tuple(sample.caption for sample in samples),
            _join([sample.audio for sample in samples], AUDIO),
            _join([sample.visual for sample in samples], VISUAL),
            torch.tensor([sample.seconds for sample in samples]),
            torch.ones(len(samples)) if weights is None else torch.tensor(weights),
            prompts if any(prompts) else None,
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device."""
        return replace(
            self,
            audio=None if self.audio is None else self.audio.to(device),
            visual=None if self.visual is None else self.visual.to(device),
            seconds=self.seconds.to(device),
            weights=self.weights.to(device),
        )

    def pairs(self) -> Tensor:
        """[B] bool, which samples have both modalities."""
        return _present(self.audio, self.weights) & _present(self.visual, self.weights)


def _join(items: Sequence[Tensor | Ready | None], modality: int) -> Padded | Tokens | None:
    ready = [item for item in items if not isinstance(item, Tensor)]
    if len(ready) == len(items):
        return collate_ready(ready, modality)
    if any(isinstance(item, Ready) for item in ready):
        raise ValueError("ready tokens and features of one modality can't share a batch")
    return collate([item if isinstance(item, Tensor) else None for item in items])


def _present(values: Padded | Tokens | None, like: Tensor) -> Tensor:
    if values is None:
        return torch.zeros_like(like, dtype=torch.bool)
    return values.present() if isinstance(values, Tokens) else values.lengths > 0


@dataclass(frozen=True)
class Sums:
    """Loss terms of a batch before they are averaged, a number per sample (LAVCap eq. 8 and 4).

    Attributes:
        caption: [B] cross-entropy summed over the caption's tokens.
        tokens: [B] int64 number of these tokens.
        alignment: [B] weighted alignment loss, 0 where a modality is missing; or None without one.
    """

    caption: Tensor
    tokens: Tensor
    alignment: Tensor | None


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
