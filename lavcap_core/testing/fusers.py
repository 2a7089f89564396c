"""Checks of fusers: ``make`` builds one for audio and visual tokens of `samples.WIDTH`."""

from __future__ import annotations

from dataclasses import replace

import torch

from lavcap_core.component import Port
from lavcap_core.data import Alignment, Tokens
from lavcap_core.testing.samples import (
    CLIP_SECONDS,
    WIDTH,
    Built,
    Make,
    alignment_of,
    both,
    close,
    evaluated,
    only,
    same_valid,
    seeded,
    spoiled,
    valid,
    without,
)

__all__ = ["CHECKS"]

_AUDIO = Port("audio", WIDTH)
_VISUAL = Port("visual", WIDTH)


def _fuser(make: Make) -> Built:
    with seeded():
        return evaluated(make({"audio": _AUDIO, "visual": _VISUAL}))


def _fuse(fuser: Built, audio: Tokens, visual: Tokens) -> Tokens:
    fused: Tokens = fuser(audio, visual, alignment_of(audio, visual))
    return fused


def check_shapes(make: Make) -> None:
    """Tokens have the promised width, a bool mask, int8 modality and times [B, N] or None."""
    fuser = _fuser(make)
    fused = _fuse(fuser, *both())
    batch, count, width = fused.data.shape
    assert width == fuser.width, f"tokens are {width} wide, the fuser says {fuser.width}"
    assert batch == 3, f"{batch} samples out of 3"
    assert fused.mask.shape == (batch, count), f"mask is {tuple(fused.mask.shape)}, data {tuple(fused.data.shape)}"
    assert fused.mask.dtype == torch.bool, f"mask is {fused.mask.dtype}"
    assert fused.modality.shape == (batch, count), f"modality is {tuple(fused.modality.shape)}"
    assert fused.modality.dtype == torch.int8, f"modality is {fused.modality.dtype}"
    assert fused.times is None or fused.times.shape == (batch, count), "times are not [B, N]"
    assert bool(fused.mask.any(dim=1).all()), "a sample with both modalities has no tokens"


def check_padding_invariance(make: Make) -> None:
    """More padding, whatever is in it, and other samples in the batch change nothing."""
    fuser = _fuser(make)
    audio, visual = both()
    fused = _fuse(fuser, audio, visual)
    padded = _fuse(fuser, spoiled(audio), spoiled(visual, extra=2))
    for row in range(3):
        same_valid(fused, row, padded, row, "with more padding")
        single = _fuse(fuser, only(audio, row), only(visual, row))
        same_valid(fused, row, single, 0, "alone instead of in a batch")


def check_mask_receives_nothing(make: Make) -> None:
    """What stands in a masked place of the output doesn't depend on the valid tokens."""
    fuser = _fuser(make)
    results = []
    for scale in (1.0, 3.0):
        audio, visual = (
            replace(part, data=torch.where(part.mask[:, :, None], scale * part.data + scale, part.data))
            for part in (spoiled(side) for side in both())
        )
        results.append(_fuse(fuser, audio, visual))
    masked = ~(results[0].mask | results[1].mask)
    close(results[0].data[masked].detach(), results[1].data[masked].detach(), "masked tokens received something")


def check_missing_modality(make: Make) -> None:
    """A sample that lacks a modality: the same by its mask, by an empty tensor, and alone; the others unmoved."""
    fuser = _fuser(make)
    audio, visual = both()
    complete = _fuse(fuser, audio, visual)
    for lacking in ("audio", "visual"):
        parts = (without(audio, 1), visual) if lacking == "audio" else (audio, without(visual, 1))
        fused = _fuse(fuser, *parts)
        assert bool(torch.isfinite(fused.data[fused.mask]).all()), f"without {lacking}: not finite"
        alone = _fuse(fuser, only(parts[0], 1), only(parts[1], 1))
        same_valid(fused, 1, alone, 0, f"without {lacking}, masked or empty")
        for row in (0, 2):
            same_valid(fused, row, complete, row, f"beside a sample without {lacking}")


def check_missing_in_pipeline(make: Make) -> None:
    """None for a modality gives what a batch gives in which every mask of that modality is False."""
    fuser = _fuser(make)
    audio, visual = both()
    nothing = {side: _emptied(tokens) for side, tokens in (("audio", audio), ("visual", visual))}
    cases: dict[str, tuple[Tokens, Tokens]] = {
        "audio": (nothing["audio"], visual),
        "visual": (audio, nothing["visual"]),
    }
    for lacking, parts in cases.items():
        masked = _fuse(fuser, *parts)
        none: Tokens = fuser(*((None, visual) if lacking == "audio" else (audio, None)), None)
        for row in range(3):
            same_valid(masked, row, none, row, f"{lacking} None or masked")


def _emptied(tokens: Tokens) -> Tokens:
    return replace(tokens, mask=torch.zeros_like(tokens.mask))


def check_nothing_from_nothing(make: Make) -> None:
    """A sample without any token gives no token, and no NaN anywhere."""
    fuser = _fuser(make)
    fused = _fuse(fuser, *(without(side, 1) for side in both()))
    assert not bool(fused.mask[1].any()), "tokens for a sample that has none"
    assert bool(torch.isfinite(fused.data).all()), "not finite for a sample without tokens"


def check_modality_kept(make: Make) -> None:
    """Tokens of a sample with one modality are of that modality, and there is no third one."""
    fuser = _fuser(make)
    audio, visual = both()
    for lacking, present, parts in ((0, 1, (without(audio, 1), visual)), (1, 0, (audio, without(visual, 1)))):
        fused = _fuse(fuser, *parts)
        found = set(valid(fused, 1)[1].tolist())
        assert found <= {present}, f"modality {sorted(found)} in a sample that lacks {lacking}"
        assert set(fused.modality[fused.mask].tolist()) <= {0, 1}, "a modality that is neither audio nor visual"


def check_times_in_clip(make: Make) -> None:
    """Times of valid tokens are seconds within the clip, as those that came in."""
    fused = _fuse(_fuser(make), *both())
    if fused.times is None:
        return
    times = fused.times[fused.mask]
    inside = (times >= 0) & (times <= CLIP_SECONDS + 0.5)
    assert bool(inside.all()), f"times {times[~inside].tolist()} in a clip of {CLIP_SECONDS} s"


def check_no_inputs_mutated(make: Make) -> None:
    """Tokens and alignment that came in are not written to."""
    audio, visual = both()
    alignment = alignment_of(audio, visual)
    before = [tensor.clone() for tensor in _tensors(audio, visual, alignment)]
    _fuser(make)(audio, visual, alignment)
    for old, new in zip(before, _tensors(audio, visual, alignment), strict=True):
        assert torch.equal(old, new), "an input was written to"


def _tensors(audio: Tokens, visual: Tokens, alignment: Alignment) -> list[torch.Tensor]:
    sides = [tensor for side in (audio, visual) for tensor in (side.data, side.mask, side.modality, side.times)]
    return [tensor for tensor in (*sides, alignment.similarity, alignment.plan) if tensor is not None]


def check_deterministic_in_eval(make: Make) -> None:
    """In eval mode the same tokens give the same."""
    fuser = _fuser(make)
    first, second = (_fuse(fuser, *both()) for _ in range(2))
    assert torch.equal(first.data, second.data), "two calls differ"


def check_inference_mode(make: Make) -> None:
    """Without gradients, where torch takes faster paths, the tokens are the same, beside empty samples too."""
    fuser = _fuser(make)
    parts = tuple(spoiled(side) for side in both((7, 0, 5, 0), (3, 5, 0, 0)))
    fused = _fuse(fuser, *parts)
    with torch.inference_mode():
        other = _fuse(fuser, *parts)
    for row in range(4):
        same_valid(fused, row, other, row, "without gradients")
    assert bool(torch.isfinite(other.data).all()), "not finite without gradients"


def check_gradients(make: Make) -> None:
    """Gradients reach the inputs, are finite even beside samples that lack a modality, and spare the padding."""
    fuser = _fuser(make)
    audio, visual = (spoiled(side) for side in (both((7, 0, 5, 4), (3, 5, 0, 2))))
    leaves = [side.data.clone().requires_grad_() for side in (audio, visual)]
    fused = _fuse(fuser, audio.with_data(leaves[0]), visual.with_data(leaves[1]))
    (fused.data[fused.mask] ** 2).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    parameters = fuser.parameters() if isinstance(fuser, torch.nn.Module) else ()
    learned = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in (*gradients, *learned)), "a gradient isn't finite"
    assert any(bool(gradient.any()) for gradient in gradients), "no gradient reaches the inputs"
    for gradient, side in zip(gradients, (audio, visual), strict=True):
        assert not bool(gradient[~side.mask].any()), "a gradient reaches the padding"


CHECKS = (
    check_shapes,
    check_padding_invariance,
    check_mask_receives_nothing,
    check_missing_modality,
    check_missing_in_pipeline,
    check_nothing_from_nothing,
    check_modality_kept,
    check_times_in_clip,
    check_no_inputs_mutated,
    check_deterministic_in_eval,
    check_inference_mode,
    check_gradients,
)
