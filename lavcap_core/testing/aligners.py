"""Checks of aligners: ``make`` builds one for audio and visual tokens of `samples.WIDTH`."""

from __future__ import annotations

import torch
from torch import Tensor

from lavcap_core.component import Port
from lavcap_core.data import Aligned, Tokens
from lavcap_core.testing.samples import (
    WIDTH,
    Built,
    Make,
    both,
    close,
    evaluated,
    only,
    same_valid,
    seeded,
    spoiled,
    without,
)

__all__ = ["CHECKS"]


def _aligner(make: Make) -> Built:
    with seeded():
        return evaluated(make({"audio": Port("audio", WIDTH), "visual": Port("visual", WIDTH)}))


def _align(aligner: Built, audio: Tokens, visual: Tokens) -> Aligned:
    aligned: Aligned = aligner(audio, visual)
    return aligned


def _pairs(audio: Tokens, visual: Tokens) -> Tensor:
    return audio.mask[:, :, None] & visual.mask[:, None, :]


def _samples(aligned: Aligned) -> dict[str, Tensor]:
    """What an alignment says of each sample, [B]."""
    found = {"loss": aligned.alignment.loss, "marginal_error": aligned.alignment.marginal_error}
    return {name: tensor.detach() for name, tensor in found.items() if tensor is not None}


def check_shapes(make: Make) -> None:
    """Similarity and plan are [B, N_a, N_v], loss and marginal error [B], all of them float32 and finite."""
    audio, visual = both()
    aligned = _align(_aligner(make), audio, visual)
    expected = {"similarity": (3, 7, 5), "plan": (3, 7, 5), "loss": (3,), "marginal_error": (3,)}
    for name, shape in expected.items():
        tensor = getattr(aligned.alignment, name)
        if tensor is None and name != "similarity":
            continue
        assert tensor.shape == shape, f"{name} is {tuple(tensor.shape)}, not {shape}"
        assert tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"
        assert bool(torch.isfinite(tensor).all()), f"{name} isn't finite"


def check_float32_under_autocast(make: Make) -> None:
    """Under autocast to bfloat16, plan and loss are still computed in float32."""
    audio, visual = both()
    aligner = _aligner(make)
    with torch.autocast("cpu", torch.bfloat16):
        aligned = _align(aligner, audio, visual)
    for name in ("plan", "loss"):
        tensor = getattr(aligned.alignment, name)
        assert tensor is None or tensor.dtype == torch.float32, f"{name} is {tensor.dtype} under autocast"


def check_tokens_kept(make: Make) -> None:
    """Mask, modality and times of the tokens stay as they came; both modalities leave with one width."""
    audio, visual = both()
    aligned = _align(_aligner(make), audio, visual)
    for name, before, after in (("audio", audio, aligned.audio), ("visual", visual, aligned.visual)):
        assert torch.equal(before.mask, after.mask), f"mask of {name} changed"
        assert torch.equal(before.modality, after.modality), f"modality of {name} changed"
        assert after.times is not None, f"times of {name} are gone"
        assert before.times is not None
        assert torch.equal(before.times, after.times), f"times of {name} changed"
    widths = (aligned.audio.width, aligned.visual.width)
    assert widths[0] == widths[1], f"audio leaves {widths[0]} wide, visual {widths[1]}"


def check_plan_mass(make: Make) -> None:
    """A plan isn't negative, sums to 1 over the valid pairs of each sample, and is 0 elsewhere."""
    audio, visual = (spoiled(side) for side in both())
    plan = _align(_aligner(make), audio, visual).alignment.plan
    if plan is None:
        return
    assert bool((plan >= 0).all()), "the plan has negative entries"
    assert not bool(plan[~_pairs(audio, visual)].any()), "the plan sends mass to padding"
    close(plan.detach().sum(dim=(1, 2)), torch.ones(3), "mass of the plan", 1e-3)


def check_padding_invariance(make: Make) -> None:
    """More padding, whatever is in it, and other samples in the batch change nothing."""
    aligner = _aligner(make)
    audio, visual = both()
    aligned = _align(aligner, audio, visual)
    padded_in = (spoiled(audio), spoiled(visual, extra=2))
    padded = _align(aligner, *padded_in)
    _same(aligned, _pairs(audio, visual), padded, _pairs(*padded_in), range(3), "with more padding")
    for row in range(3):
        pair = (only(audio, row), only(visual, row))
        _same_row(aligned, _pairs(audio, visual)[row], row, _align(aligner, *pair), "alone instead of in a batch")


def _same(left: Aligned, where: Tensor, right: Aligned, there: Tensor, rows: range, what: str) -> None:
    for row in rows:
        same_valid(left.audio, row, right.audio, row, what)
        same_valid(left.visual, row, right.visual, row, what)
        for name in ("similarity", "plan"):
            one, other = getattr(left.alignment, name), getattr(right.alignment, name)
            if one is not None:
                close(one[row][where[row]].detach(), other[row][there[row]].detach(), f"{name} {what}")
        for name, tensor in _samples(left).items():
            close(tensor[row], _samples(right)[name][row], f"{name} {what}", 1e-3)


def _same_row(batch: Aligned, where: Tensor, row: int, single: Aligned, what: str) -> None:
    for name in ("similarity", "plan"):
        one, other = getattr(batch.alignment, name), getattr(single.alignment, name)
        if one is not None:
            close(one[row][where].detach(), other[0].flatten().detach(), f"{name} {what}")
    for name, tensor in _samples(batch).items():
        close(tensor[row], _samples(single)[name][0], f"{name} {what}", 1e-3)


def check_missing_modality(make: Make) -> None:
    """A sample that lacks a modality, by mask or by an empty tensor, gets plan and loss 0 and leaves others unmoved."""
    aligner = _aligner(make)
    audio, visual = both()
    complete = _align(aligner, audio, visual)
    for parts in ((without(audio, 1), visual), (audio, without(visual, 1)), (without(audio, 1), without(visual, 1))):
        aligned = _align(aligner, *parts)
        alignment = aligned.alignment
        assert bool(torch.isfinite(alignment.similarity).all()), "similarity isn't finite"
        assert alignment.plan is None or not bool(alignment.plan[1].any()), "a plan for a sample without both"
        assert alignment.loss is None or not bool(alignment.loss[1].any()), "a loss for a sample without both"
        for side in (aligned.audio, aligned.visual):
            assert bool(torch.isfinite(side.data[side.mask]).all()), "tokens aren't finite"
        pairs = _pairs(audio, visual)
        for row in (0, 2):
            _same(complete, pairs, aligned, pairs, range(row, row + 1), "beside a sample without both")
        single = _align(aligner, only(parts[0], 1), only(parts[1], 1))
        _same_row(aligned, _pairs(*parts)[1], 1, single, "without both, masked or empty")


def check_no_inputs_mutated(make: Make) -> None:
    """Tokens that came in are not written to."""
    audio, visual = both()
    before = [side.data.clone() for side in (audio, visual)] + [side.mask.clone() for side in (audio, visual)]
    _align(_aligner(make), audio, visual)
    after = [audio.data, visual.data, audio.mask, visual.mask]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True)), "an input was written to"


def check_deterministic_in_eval(make: Make) -> None:
    """In eval mode the same tokens give the same alignment."""
    aligner = _aligner(make)
    first, second = (_align(aligner, *both()).alignment for _ in range(2))
    assert torch.equal(first.similarity, second.similarity), "two calls differ"
    if first.plan is not None and second.plan is not None:
        assert torch.equal(first.plan, second.plan), "two calls differ"


def check_gradients(make: Make) -> None:
    """Gradients of the loss and the tokens are finite, beside samples that lack a modality too, and spare padding."""
    audio, visual = (spoiled(side) for side in both((7, 0, 5, 4), (3, 5, 0, 2)))
    leaves = [side.data.clone().requires_grad_() for side in (audio, visual)]
    aligned = _align(_aligner(make), audio.with_data(leaves[0]), visual.with_data(leaves[1]))
    total = sum(((side.data[side.mask] ** 2).sum() for side in (aligned.audio, aligned.visual)), torch.zeros(()))
    if aligned.alignment.loss is not None:
        total = total + aligned.alignment.loss.sum()
    total.backward()  # type: ignore[no-untyped-call]
    for leaf, side in zip(leaves, (audio, visual), strict=True):
        assert leaf.grad is not None, "no gradient reaches the inputs"
        assert bool(torch.isfinite(leaf.grad).all()), "a gradient isn't finite"
        assert not bool(leaf.grad[~side.mask].any()), "a gradient reaches the padding"


CHECKS = (
    check_shapes,
    check_float32_under_autocast,
    check_tokens_kept,
    check_plan_mass,
    check_padding_invariance,
    check_missing_modality,
    check_no_inputs_mutated,
    check_deterministic_in_eval,
    check_gradients,
)
