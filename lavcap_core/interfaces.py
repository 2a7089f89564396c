"""The interfaces that plugins implement: Protocols, not base classes. Shapes: B batch, N tokens, D width.

Components with parameters are `torch.nn.Module`s; the protocols name only what others call.
Everything that varies in length carries its mask; padding changes nothing, and receives nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lavcap_core.data import Aligned, Alignment, Padded, Tokens
from lavcap_core.media import Clip

__all__ = [
    "Aligner",
    "AudioEncoder",
    "Backend",
    "Decoder",
    "Fuser",
    "Generate",
    "Metric",
    "Transport",
    "Transported",
    "VisualEncoder",
]


@runtime_checkable
class AudioEncoder(Protocol):
    """Sound to tokens."""

    width: int
    """D of the tokens it gives."""
    window: float | None
    """The longest sound in seconds that it takes at once by design, or None if any."""

    def prepare(self, clip: Clip) -> Tensor:
        """Features of one clip that has a waveform, [T, ...]; runs on a worker, on the CPU, without the model."""

    def __call__(self, batch: Padded) -> Tokens:
        """Tokens [B, N, D] of prepared features; a sample of length 0 gets an all-False mask."""


@runtime_checkable
class VisualEncoder(Protocol):
    """Frames to tokens."""

    width: int
    """D of the tokens it gives."""
    frames: int
    """Frames that it wants per window."""
    image_size: int
    """Height and width of the frames it wants, in pixels."""

    def prepare(self, clip: Clip) -> Tensor:
        """Features of one clip that has frames, [T, ...] with T frames; runs on a worker, without the model."""

    def __call__(self, batch: Padded) -> Tokens:
        """Tokens [B, N, D] of prepared features; a sample of length 0 gets an all-False mask.

        Their times are relative: a token of frame i of a sample with T frames covers fractions i/T to (i+1)/T of the
        window; the recipe scales them to seconds.
        """


@dataclass(frozen=True)
class Transported:
    """What a transport gives: plan [B, N, M], value [B], marginal_error [B]; all float32 or better."""

    plan: Tensor
    value: Tensor
    marginal_error: Tensor


@runtime_checkable
class Transport(Protocol):
    """Optimal transport between two weighted sets."""

    def __call__(self, cost: Tensor, a: Tensor, b: Tensor) -> Transported:
        """Transports weights a [B, N] to b [B, M] at cost [B, N, M].

        Weights are 0 on masked tokens and sum to 1 over the others. A sample with an empty side (all weights 0) gets
        plan 0, value 0 and error 0.
        """


@runtime_checkable
class Aligner(Protocol):
    """Says which tokens of two modalities correspond."""

    def __call__(self, audio: Tokens, visual: Tokens) -> Aligned:
        """Aligns; a sample that lacks a modality gets plan 0, loss 0 and keeps its tokens."""


@runtime_checkable
class Fuser(Protocol):
    """Makes one sequence of tokens out of two."""

    width: int
    """D of the tokens it gives."""

    def __call__(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        """Fuses; a modality that the pipeline (None) or a sample (mask) lacks is a normal case."""


@dataclass(frozen=True)
class Generate:
    """How captions are generated.

    Attributes:
        beams: beams of the search; 1 is greedy.
        max_new_tokens: longest caption in tokens.
        min_new_tokens: shortest caption in tokens.
        length_penalty: exponent of the length by which a beam's score is divided.
        repetition_penalty: above 1, makes tokens that were already written less likely.
        no_repeat_ngram: length of n-grams that may not come twice; 0: no limit.
        sample: draw from the distribution instead of searching.
        temperature: of the drawing.
        top_p: nucleus of the drawing.
        seed: of the drawing; None takes torch's state.
    """

    beams: int = 4
    max_new_tokens: int = 64
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


@runtime_checkable
class Decoder(Protocol):
    """Writes captions from tokens. Owns its projector, its template and its instructions."""

    width: int
    """Width of the language model's embeddings."""

    def loss(self, tokens: Tokens, captions: Sequence[str], prompts: Sequence[str] | None = None) -> Tensor:
        """Cross-entropy of each sample's caption, [B] sums over tokens in float32 (LAVCap eq. 8 before averaging).

        ``prompts`` overrides the instruction, one per sample. See also `caption_tokens`.
        """

    def caption_tokens(self, captions: Sequence[str]) -> Tensor:
        """[B] int64, number of tokens that `loss` counts for each caption (with the end token)."""

    def generate(self, tokens: Tokens, options: Generate, prompts: Sequence[str] | None = None) -> list[str]:
        """Captions of a batch; every sample stops on its own end token."""


@runtime_checkable
class Backend(Protocol):
    """What differs between devices: where to compute, in which precision, how to take a training step."""

    @property
    def device(self) -> Any:
        """The torch device of this process."""

    def place(self, module: Any) -> Any:
        """Moves a module to the device, in the precision of inference or training."""

    def autocast(self) -> Any:
        """Context manager of mixed precision."""

    def describe(self) -> Mapping[str, Any]:
        """Hardware and versions, for `lavcap info` and logs."""

    def mark(self) -> None:
        """End of a unit of work, for devices that record a graph; nothing elsewhere."""


@runtime_checkable
class Metric(Protocol):
    """A score of captions."""

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Mapping[str, Any]:
        """Corpus score and per-clip scores."""
