"""What a pipeline costs: parameters, floating-point operations of a training step, bytes.

All is counted on torch's meta device, where a network of any size has its shapes and no values: no weights are read, no
hub is asked, and nothing is computed. Forward and backward pass run the parts' own code, so that what is counted is
what autograd does: a frozen part in front of all that is trained has no backward pass, and a frozen part behind has one
for its activations and none for its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lavcap_core.builder import recipe_builder
from lavcap_core.component import Port
from lavcap_core.data import Padded, Tokens
from lavcap_core.errors import BuildError, LavcapError
from lavcap_core.media import SAMPLE_RATE, Clip
from lavcap_core.run.shadow import Shadow
from lavcap_core.spec import Spec
from lavcap_core.tuning import trained_tensors

__all__ = ["Cost", "SlotCost", "count"]

_READY_STEP = 0.16  # seconds of sound to a ready vector, as CED's tokens stand


@dataclass
class SlotCost:
    """What one part costs; None is what could not be told.

    Attributes:
        use: the component.
        parameters: how many it has.
        trained: how many of them are trained.
        weights: bytes of the parameters, by precision.
        checkpoint: bytes of what a checkpoint holds of it.
        reads: bytes of sound or pictures that it reads of a clip.
        tokens: number and width of the tokens that it gives.
        forward: FLOPs of a forward pass in training.
        backward: FLOPs of the backward pass.
        assumes: what was taken for granted.
        unknown: why something could not be told, or None.
    """

    use: str
    parameters: int | None = None
    trained: int | None = None
    weights: Mapping[str, int] = field(default_factory=dict)
    checkpoint: int | None = None
    reads: int | None = None
    tokens: tuple[int, int] | None = None
    forward: int | None = None
    backward: int | None = None
    assumes: tuple[str, ...] = ()
    unknown: str | None = None

    @property
    def step(self) -> int | None:
        """FLOPs of a training step: forward and backward pass."""
        return None if self.forward is None or self.backward is None else self.forward + self.backward

    @property
    def cached(self) -> int | None:
        """Bytes of an encoder's tokens in float16, as a cache keeps them; None for what is no encoder."""
        return None if self.tokens is None or self.reads is None else 2 * self.tokens[0] * self.tokens[1]

    def plain(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "step": self.step, "cached": self.cached}


@dataclass(frozen=True)
class Cost:
    """What a pipeline costs, for one clip and one caption.

    A FLOP is an addition or a multiplication. Those of matrix products, convolutions and attention are counted; others
    (norms, activations, logarithmic Sinkhorn iterations) are few beside them, and so is what prepares a clip.

    Attributes:
        slots: by slot of the recipe.
        seconds: length of the clip.
        caption_tokens: tokens of the caption with its end token, or None if the decoder can't tell.
    """

    slots: Mapping[str, SlotCost]
    seconds: float
    caption_tokens: int | None

    def total(self) -> SlotCost:
        """Sums over the slots; FLOPs are None if those of a slot are."""
        slots = list(self.slots.values())
        weights: dict[str, int] = {}
        for slot in slots:
            for name, size in slot.weights.items():
                weights[name] = weights.get(name, 0) + size
        # Only encoders read something; one that couldn't be built doesn't tell.
        told = not any(slot.reads is None and slot.parameters is None for slot in slots)
        total = SlotCost("total", weights=weights, reads=sum(slot.reads or 0 for slot in slots) if told else None)
        for name in ("parameters", "trained", "checkpoint", "forward", "backward"):
            values = [getattr(slot, name) for slot in slots]
            setattr(total, name, None if None in values else sum(values))
        return total

    def plain(self) -> dict[str, Any]:
        """All of it as plain data for JSON: counts, bytes and FLOPs as whole numbers."""
        slots = {slot: part.plain() for slot, part in self.slots.items()}
        given = {"seconds": self.seconds, "caption_tokens": self.caption_tokens}
        return {**given, "slots": slots, "total": self.total().plain()}


def count(spec: Spec, caption_tokens: int = 20) -> Cost:
    """Counts what a training step of a spec costs, for a clip that fills its window and a caption.

    A part that can't be built without its weights, or whose code needs values, is unknown, with the reason; the others
    are counted.

    Args:
        spec: a checked spec of the recipe `captioner`.
        caption_tokens: tokens of the caption with its end token, as near as the tokenizer allows.
    """
    parts = {slot: use for slot, use in spec.parts.items() if use is not None}
    slots = {slot: SlotCost(use.name) for slot, use in parts.items()}
    built = _build(spec, slots)
    for slot, part in built.items():
        _weigh(part, slots[slot])
    seconds: float = spec.sections["windows"].seconds  # type: ignore[attr-defined]
    before = {slot: {wire.source for wire in spec.wiring.wires if wire.target == slot} for slot in slots}
    return Cost(slots, seconds, _Walk(built, slots, before, seconds).run(caption_tokens))


def _build(spec: Spec, slots: Mapping[str, SlotCost]) -> dict[str, Any]:
    """Every part on the meta device, in training mode; of one that can't be built, the reason is noted."""
    builder = recipe_builder(spec, skeleton=True)
    ports: dict[str, Port] = {}
    built = {}
    for slot, cost in slots.items():
        leaving = {wire.name: wire.port for wire in spec.wiring.wires if wire.source == slot}
        lost = [wire for wire in spec.wiring.wires if wire.target == slot and isinstance(ports[wire.name].width, str)]
        try:
            if lost:
                raise BuildError("B053", f"it needs the width of what {lost[0].source} gives, which isn't known")
            built[slot] = builder.build_slot(slot, ports)
        # A factory may fail on the meta device in any way; the others are counted all the same.
        except Exception as error:
            cost.unknown = _reason(error)
            ports.update(leaving)
    for part in built.values():
        if isinstance(part, nn.Module):
            part.train()
    return built


def _reason(error: Exception) -> str:
    if isinstance(error, LavcapError):
        problem = error.problems[0]
        return f"{problem.code} {problem.message}"
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _weigh(part: Any, cost: SlotCost) -> None:
    """Notes parameters and bytes of a part."""
    cost.assumes = tuple(getattr(part, "assumes", ()))
    module = part if isinstance(part, nn.Module) else nn.Module()
    parameters = list(module.parameters())
    cost.parameters = sum(parameter.numel() for parameter in parameters)
    cost.trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    cost.checkpoint = sum(tensor.nbytes for tensor in trained_tensors(module).values())
    weights: dict[str, int] = {}
    for parameter in parameters:
        name = str(parameter.dtype).removeprefix("torch.")
        weights[name] = weights.get(name, 0) + parameter.nbytes
    cost.weights = weights


@dataclass(frozen=True)
class _Stage:
    """A slot's forward pass: what it gave, and where the graph was cut before it."""

    slot: str
    out: Any
    cuts: Sequence[tuple[Tensor, Tensor]]


class _Walk:
    """One training step on the meta device, slot by slot.

    Between slots the graph is cut, so that the backward pass of each is counted apart.

    Args:
        parts: what could be built.
        slots: gets the counts.
        before: for each slot, those that it takes tokens from.
        seconds: length of the clip.
    """

    def __init__(
        self, parts: Mapping[str, Any], slots: Mapping[str, SlotCost], before: Mapping[str, set[str]], seconds: float
    ) -> None:
        self.parts = parts
        self.slots = slots
        self.before = before
        self.seconds = seconds
        self.stages: list[_Stage] = []
        self.shadow = Shadow()

    def run(self, caption_tokens: int) -> int | None:
        """Counts all slots; gives the tokens of the caption, or None if the decoder can't tell."""
        sounds = self._encode("audio_encoder", self._sound)
        pictures = self._encode("visual_encoder", self._frames)
        aligned = self._stage("aligner", (sounds, pictures), lambda part, *given: part(*given))
        given = (sounds, pictures, None) if aligned is None else (aligned.audio, aligned.visual, aligned.alignment)
        tokens = self._stage("fuser", given, lambda part, *given: part(*given))
        self._note("fuser", tokens)
        caption = self._caption(caption_tokens)
        if caption is not None:
            self._stage("decoder", (tokens,), lambda part, tokens: part.loss(tokens, [caption]))
        self._backward(None if aligned is None else aligned.alignment.loss)
        return None if caption is None else int(self.parts["decoder"].caption_tokens([caption]))

    def _encode(self, slot: str, prepare: Callable[[Any], tuple[Tensor, int]]) -> Tokens | None:
        """Tokens of a prepared clip; its features are computed for real, and only their shape is kept."""
        prepared = self._try(slot, prepare)
        if prepared is None:
            return None
        features, self.slots[slot].reads = prepared
        data = torch.empty((1, *features.shape), dtype=features.dtype, device="meta")

        def encode(part: Any) -> Tokens:
            tokens: Tokens = part(Padded(data, torch.tensor([len(features)]).to("meta")))
            if slot == "visual_encoder" and tokens.times is not None:
                tokens = replace(tokens, times=tokens.times * self.seconds)  # as the recipe does
            return tokens

        tokens: Tokens | None = self._stage(slot, (), encode)
        self._note(slot, tokens)
        return tokens

    def _sound(self, part: Any) -> tuple[Tensor, int]:
        if getattr(part, "takes_features", False):
            count = round(self.seconds / _READY_STEP)
            ready = np.zeros((count, part.width), dtype=np.float32)
            self.slots["audio_encoder"].assumes += (f"{count} vectors for {self.seconds:g} s of sound",)
            return part.prepare(Clip(None, None, None, seconds=self.seconds, audio_features=ready)), ready.nbytes
        waveform = np.zeros(round(self.seconds * SAMPLE_RATE), dtype=np.float32)
        return part.prepare(Clip(None, waveform, None, seconds=self.seconds)), waveform.nbytes

    def _frames(self, part: Any) -> tuple[Tensor, int]:
        if getattr(part, "takes_features", False):
            ready = np.zeros((part.frames, part.width), dtype=np.float32)
            return part.prepare(Clip(None, None, None, seconds=self.seconds, visual_features=ready)), ready.nbytes
        frames = np.zeros((part.frames, part.image_size, part.image_size, 3), dtype=np.uint8)
        return part.prepare(Clip(None, None, frames, seconds=self.seconds)), frames.nbytes

    def _note(self, slot: str, tokens: Tokens | None) -> None:
        if tokens is not None:
            self.slots[slot].tokens = (tokens.data.shape[1], tokens.data.shape[2])

    def _caption(self, tokens: int) -> str | None:
        """A caption of so many tokens, or the next longer one; None if there is no decoder to tell."""

        def lengthen(decoder: Any) -> str:
            words = ["a"]
            while len(words) < tokens and int(decoder.caption_tokens([" ".join(words)])) < tokens:
                words.append("a")
            return " ".join(words)

        found: str | None = self._try("decoder", lengthen)
        return found

    def _stage(self, slot: str, given: Sequence[Any], call: Callable[..., Any]) -> Any:
        """Runs and counts a slot's forward pass; None if it isn't there, or can't be run."""
        lost = [name for name in self.before.get(slot, ()) if self.slots[name].unknown]
        if lost and slot in self.parts:
            self.slots[slot].unknown = f"B053 it needs the tokens that {lost[0]} gives, which aren't known"
        cuts: list[tuple[Tensor, Tensor]] = []
        given = [_cut(value, cuts) for value in given]

        def run(part: Any) -> Any:
            with self.shadow, FlopCounterMode(display=False) as counter:
                out = call(part, *given)
            self.slots[slot].forward = counter.get_total_flops()
            self.stages.append(_Stage(slot, out, cuts))
            return out

        return self._try(slot, run)

    def _try(self, slot: str, call: Callable[[Any], Any]) -> Any:
        """Does something with a part; None if it isn't there, isn't known, or fails, and then the reason is noted."""
        if slot not in self.parts or self.slots[slot].unknown:
            return None
        try:
            return call(self.parts[slot])
        # Code that was never meant for the meta device may fail in any way; the others are counted all the same.
        except Exception as error:
            self.slots[slot].unknown = _reason(error)
            return None

    def _backward(self, alignment: Tensor | None) -> None:
        """Runs and counts the backward passes, last slot first, if all forward passes could be run."""
        if any(cost.unknown for cost in self.slots.values()):
            return
        # The loss is the sum of the caption's and the alignment's.
        losses = [self.stages[-1].out, *([] if alignment is None else [alignment])]
        gradients = {id(loss): torch.ones_like(loss) for loss in losses}
        for stage in reversed(self.stages):
            outs = [out for out in _tensors(stage.out) if id(out) in gradients and out.requires_grad]
            with self.shadow, FlopCounterMode(display=False) as counter:
                if outs:
                    torch.autograd.backward(outs, [gradients[id(out)] for out in outs])
            self.slots[stage.slot].backward = counter.get_total_flops()
            gradients.update({id(source): leaf.grad for source, leaf in stage.cuts if leaf.grad is not None})


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in data classes, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for part in fields(value):
            yield from _tensors(getattr(value, part.name))


def _cut(value: Any, cuts: list[tuple[Tensor, Tensor]]) -> Any:
    """The same data with tensors that begin a new graph where the old one is cut; notes pairs of old and new."""
    if isinstance(value, Tensor):
        if not value.requires_grad:
            return value
        cuts.append((value, value.detach().requires_grad_(True)))
        return cuts[-1][1]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _cut(getattr(value, part.name), cuts) for part in fields(value)})
    return value
