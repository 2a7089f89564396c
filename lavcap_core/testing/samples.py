"""What the conformance kit feeds to components: seeded tokens with padding, and ways to spoil what must not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from lavcap_core.component import Component, Port, Use
from lavcap_core.data import AUDIO, VISUAL, Alignment, Tokens

__all__ = [
    "CLIP_SECONDS",
    "WIDTH",
    "Built",
    "Make",
    "TestContext",
    "alignment_of",
    "both",
    "close",
    "evaluated",
    "from_component",
    "only",
    "random_tokens",
    "same_valid",
    "seeded",
    "spoiled",
    "valid",
    "without",
]

WIDTH = 24
"""Width of the kit's tokens: small, and divided by 1, 2, 3, 4, 6, 8 and 12 heads."""

CLIP_SECONDS = 4.0
"""Seconds of the kit's clips: all times lie between 0 and this."""

Built = Any
"""A component of any kind, as its factory built it."""

Make = Callable[[Mapping[str, Port]], Built]
"""Builds a fresh component for what arrives at it, as a factory does with ``context.inputs``."""


@dataclass(frozen=True)
class TestContext:
    """A `lavcap_core.component.Context` for tests: nested components are built, models are left as they are named."""

    __test__ = False  # its name would make pytest collect it

    inputs: Mapping[str, Port] = field(default_factory=dict)

    def build(self, use: Use, inputs: Mapping[str, Port] | None = None) -> Built:
        """Builds a nested component from its descriptor."""
        return _build(use.component, use.config, TestContext(self.inputs if inputs is None else inputs))

    def locate(self, model: str) -> str:
        """The model as it is named."""
        return model


def _build(component: Component, config: Any, context: TestContext) -> Built:
    module, function = component.factory.split(":")
    return getattr(import_module(module), function)(config, context)


def from_component(component: Component, **settings: Any) -> Make:
    """A `Make` out of a descriptor and its settings, with its ports checked as in a pipeline.

    Args:
        component: the descriptor, as in the plugin's ``plugin.py``.
        settings: fields of its configuration; the rest have their defaults.
    """
    config = component.config(**settings)

    def make(inputs: Mapping[str, Port]) -> Built:
        component.ports(config, inputs)
        return _build(component, config, TestContext(inputs))

    return make


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Torch's random state set to a seed, and put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def evaluated(component: Built) -> Built:
    """The component in eval mode, where it has modes, with its trainable parameters moved off their start.

    A gate or a projection that starts at zero would hide every mistake behind it.
    """
    if isinstance(component, torch.nn.Module):
        component.eval()
        with seeded(7), torch.no_grad():
            for parameter in component.parameters():
                if parameter.requires_grad and parameter.is_floating_point():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return component


def random_tokens(modality: int, lengths: Sequence[int], *, width: int = WIDTH, seed: int = 0) -> Tokens:
    """Normally distributed tokens [B, max(lengths), width] whose valid ones spread evenly over `CLIP_SECONDS`."""
    generator = torch.Generator().manual_seed(seed * 2 + modality)
    count = max(lengths)
    data = torch.randn(len(lengths), count, width, generator=generator)
    length = torch.tensor(lengths)[:, None]
    index = torch.arange(count)[None]
    mask = index < length
    times = ((index + 0.5) * CLIP_SECONDS / length.clamp(min=1)) * mask
    return Tokens.of(data * mask[:, :, None], modality, mask, times)


def both(
    audio: Sequence[int] = (7, 4, 5), visual: Sequence[int] = (3, 5, 2), *, width: int = WIDTH
) -> tuple[Tokens, Tokens]:
    """Audio and visual tokens of a batch with different lengths; length 0: the sample lacks the modality."""
    return random_tokens(AUDIO, audio, width=width), random_tokens(VISUAL, visual, width=width)


def spoiled(tokens: Tokens, extra: int = 3, seed: int = 11) -> Tokens:
    """The same tokens with more padding, all of it filled with large numbers that must not matter."""
    generator = torch.Generator().manual_seed(seed)
    batch, _, width = tokens.data.shape
    more = torch.zeros(batch, extra, width, dtype=tokens.data.dtype)
    mask = torch.cat([tokens.mask, torch.zeros(batch, extra, dtype=torch.bool)], dim=1)
    data = torch.cat([tokens.data, more], dim=1)
    junk = 100 * torch.randn(data.shape, generator=generator).to(data.dtype)
    modality = torch.cat([tokens.modality, tokens.modality.new_full((batch, extra), int(tokens.modality[0, 0]))], dim=1)
    times = tokens.times
    if times is not None:
        late = torch.cat([times, times.new_zeros(batch, extra)], dim=1)
        times = torch.where(mask, late, CLIP_SECONDS * torch.rand(mask.shape, generator=generator))
    return Tokens(torch.where(mask[:, :, None], data, junk), mask, modality, times)


def only(tokens: Tokens, row: int) -> Tokens:
    """One sample alone, without its padding: a batch of 1."""
    keep = tokens.mask[row]
    times = None if tokens.times is None else tokens.times[row][keep][None]
    return Tokens(tokens.data[row][keep][None], keep[keep][None], tokens.modality[row][keep][None], times)


def without(tokens: Tokens, row: int) -> Tokens:
    """The same tokens, of which one sample has none."""
    keep = torch.ones(len(tokens.mask), 1, dtype=torch.bool)
    keep[row] = False
    return replace(tokens, mask=tokens.mask & keep)


def alignment_of(audio: Tokens, visual: Tokens) -> Alignment:
    """An alignment as an aligner would give: cosine similarity, and a plan that goes by it; 0 where masked."""
    pairs = audio.mask[:, :, None] & visual.mask[:, None, :]
    rows = torch.nn.functional.normalize(audio.data, dim=2)
    columns = torch.nn.functional.normalize(visual.data, dim=2)
    similarity = (rows @ columns.transpose(1, 2)).masked_fill(~pairs, 0)
    weight = similarity.exp().masked_fill(~pairs, 0)
    plan = weight / weight.sum(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    return Alignment(similarity, plan, torch.zeros(len(plan)), torch.zeros(len(plan)))


def valid(tokens: Tokens, row: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Data [n, D], modality [n] and times [n] of one sample's valid tokens, in order."""
    mask = tokens.mask[row]
    times = None if tokens.times is None else tokens.times[row][mask]
    return tokens.data[row][mask], tokens.modality[row][mask], times


def close(left: Tensor, right: Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Asserts that tensors are equal but for rounding.

    Raises:
        AssertionError: with the largest difference.
    """
    assert left.shape == right.shape, f"{what}: shapes {tuple(left.shape)} and {tuple(right.shape)}"
    if not torch.allclose(left.double(), right.double(), rtol=tolerance, atol=tolerance):
        worst = float((left.double() - right.double()).abs().max())
        raise AssertionError(f"{what}: differs by up to {worst:.3g}")


def same_valid(left: Tokens, left_row: int, right: Tokens, right_row: int, what: str) -> None:
    """Asserts that one sample's valid tokens are the same in two batches."""
    for name, one, other in zip(
        ("data", "modality", "times"), valid(left, left_row), valid(right, right_row), strict=True
    ):
        assert (one is None) == (other is None), f"{what}: {name} is there in one case only"
        if one is not None and other is not None:
            close(one.detach(), other.detach(), f"{what}: {name}")
