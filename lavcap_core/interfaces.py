"""The interfaces that plugins implement: Protocols, not base classes. Shapes: B batch, N tokens, D width.

Components with parameters are `torch.nn.Module`s; the protocols name only what others call.
Everything that varies in length carries its mask; padding changes nothing, and receives nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lavcap_core.data import Aligned, Alignment, Padded, Sample, Tokens
from lavcap_core.media import Clip
from lavcap_core.scores import Metric

__all__ = [
    "Aligner",
    "AudioEncoder",
    "Backend",
    "Dataset",
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
    """Sound to tokens.

    An encoder may have the attribute ``augments: bool``: whether training mode changes what it gives though none of its
    weights are trained (masks on its input, say). The feature cache leaves such an encoder alone.
    """

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
    """Frames to tokens. It may have ``augments``, see `AudioEncoder`."""

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
class Dataset(Protocol):
    """Clips with captions, to train on or to be judged by.

    A dataset may also have `splits`, a set of the parts that its clips are marked with, such as ``test``: training
    refuses what does not belong into it (C027). Whatever wraps a dataset passes it on.
    """

    names: Sequence[str]
    """What logs and caches call each clip; no two alike."""
    lengths: Sequence[float]
    """How long each clip is, in any unit: batches are made of clips of like length."""

    def captions(self, index: int) -> Sequence[str]:
        """All captions of a clip."""

    def identity(self, index: int) -> str | None:
        """A hash of all that the encoders' features of a clip depend on, or None if they differ at each reading."""

    def read(self, index: int, recipe: Any, seed: tuple[int, ...], ready: frozenset[str] = frozenset()) -> Sample:
        """One clip, prepared by a recipe; runs on a worker.

        Args:
            index: which one.
            recipe: its `prepare` and `request` make features of media.
            seed: all that is drawn at random (which of several captions, say) depends on this alone.
            ready: modalities (``audio``, ``visual``) that are left out, since their tokens are at hand.

        Raises:
            LavcapError: if the clip can't be read.
        """


@runtime_checkable
class Backend(Protocol):
    """What differs between devices: where to compute, in which precision, how to take a training step.

    A training step calls, on every process: `seed`, then for each of its batches the model (under `autocast`) and
    `backward`, then `gradients` and `step`.
    """

    index: int
    """Number of this process, from 0."""
    processes: int
    """How many processes train together."""
    scaled: bool
    """Whether losses are scaled for float16: a gradient that overflows then lowers the scale, and is no failure."""

    @property
    def device(self) -> Any:
        """The torch device of this process."""

    def place(self, module: Any) -> Any:
        """Moves a module to the device, ready for inference."""

    def autocast(self) -> Any:
        """Context manager of mixed precision, and of whatever else a forward pass needs."""

    def shapes(self) -> Any:
        """Context manager in which batches are made and computed: pads them where few shapes are faster than many.

        See `lavcap_core.data.padding`.
        """

    def describe(self) -> Mapping[str, Any]:
        """Hardware and versions, for `lavcap info` and logs."""

    def mark(self) -> None:
        """End of a unit of work, for devices that record a graph; nothing elsewhere."""

    def launch(self) -> None:
        """Joins the other processes that a launcher started, if any; sets `index` and `processes`."""

    def wrap(self, model: Any) -> Any:
        """Moves a model to the device, ready for training; gives what is called in its place."""

    def optimiser(self, groups: Sequence[Mapping[str, Any]], betas: tuple[float, float]) -> Any:
        """AdamW over parameter groups, in the device's fastest form."""

    def seed(self, seed: int) -> None:
        """Seeds the generators of this process and of its device."""

    def backward(self, loss: Any) -> None:
        """Adds the gradient of this process's part of the loss."""

    def gradients(self, model: Any, clip: float) -> Tensor:
        """Sums gradients over all processes, clips their norm (0: no limit), and gives the norm before clipping."""

    def step(self, optimiser: Any) -> None:
        """Takes the step and clears the gradients."""

    def sum(self, values: Tensor) -> Tensor:
        """Sums numbers over all processes."""

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """Joins plain lists (numbers, texts, tuples of them) of all processes, in their order."""

    def barrier(self) -> None:
        """Waits for all processes."""

    def trained(self, model: Any) -> dict[str, Tensor]:
        """`lavcap_core.tuning.trained_state` of a wrapped model, whole on process 0 (all processes call it)."""

    def load_trained(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Puts `trained` back into a wrapped model, on every process; see `lavcap_core.tuning.load_trained`."""

    def optimiser_state(self, model: Any, optimiser: Any) -> dict[str, Any]:
        """State of the optimiser, whole on process 0 (all processes call it)."""

    def load_optimiser(self, model: Any, optimiser: Any, state: Mapping[str, Any]) -> None:
        """Puts `optimiser_state` back, on every process."""
