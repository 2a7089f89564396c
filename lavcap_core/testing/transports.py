"""Checks of transports: ``make`` is called without inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from lavcap_core.interfaces import Transported
from lavcap_core.testing.samples import Built, Make, close, evaluated, seeded

__all__ = ["CHECKS"]


def _transport(make: Make) -> Built:
    with seeded():
        return evaluated(make({}))


def _problem() -> tuple[Tensor, Tensor, Tensor]:
    """Cost [3, 6, 4] and uniform weights over 6 and 4, 4 and 2, 5 and no tokens."""
    generator = torch.Generator().manual_seed(3)
    cost = torch.rand(3, 6, 4, generator=generator)
    return cost, _uniform((6, 4, 5), 6), _uniform((4, 2, 0), 4)


def _uniform(lengths: tuple[int, ...], count: int) -> Tensor:
    length = torch.tensor(lengths)[:, None]
    return (torch.arange(count)[None] < length).float() / length.clamp(min=1)


def check_shapes(make: Make) -> None:
    """Plan [B, N, M], value [B] and marginal error [B], finite and in float32 or better, even for bfloat16 costs."""
    cost, a, b = _problem()
    for kind in (torch.float32, torch.bfloat16):
        result: Transported = _transport(make)(cost.to(kind), a, b)
        for name, shape in (("plan", cost.shape), ("value", cost.shape[:1]), ("marginal_error", cost.shape[:1])):
            tensor = getattr(result, name)
            assert tensor.shape == shape, f"{name} is {tuple(tensor.shape)}"
            assert tensor.dtype in (torch.float32, torch.float64), f"{name} is {tensor.dtype} for a cost in {kind}"
            assert bool(torch.isfinite(tensor).all()), f"{name} isn't finite"


def check_marginals(make: Make) -> None:
    """The plan is not negative and its marginals are the weights, within the error that it reports."""
    cost, a, b = (tensor[:2] for tensor in _problem())
    result: Transported = _transport(make)(cost, a, b)
    assert bool((result.plan >= 0).all()), "the plan has negative entries"
    worst = torch.maximum(
        (result.plan.sum(dim=2) - a).abs().amax(dim=1), (result.plan.sum(dim=1) - b).abs().amax(dim=1)
    )
    told = result.marginal_error + 1e-4
    assert bool((worst <= told).all()), f"marginals are off by {worst.tolist()}, reported {told.tolist()}"
    close(result.plan.sum(dim=(1, 2)), torch.ones(2, dtype=result.plan.dtype), "mass of the plan", 1e-2)


def check_prefers_low_cost(make: Make) -> None:
    """Where a diagonal costs nothing and all else much, the mass lies on the diagonal, and the value says so."""
    cost = 10 * (1 - torch.eye(4))[None]
    weights = _uniform((4,), 4)
    result: Transported = _transport(make)(cost, weights, weights)
    diagonal = float(result.plan[0].diagonal().sum())
    assert diagonal > 0.5, f"only {diagonal:.2f} of the mass goes where it costs nothing"


def check_empty_side(make: Make) -> None:
    """A sample with an empty side gets plan 0, value 0 and error 0; empty tensors give an empty plan."""
    cost, a, b = _problem()
    transport = _transport(make)
    result: Transported = transport(cost, a, b)
    for name in ("plan", "value", "marginal_error"):
        assert not bool(getattr(result, name)[2].any()), f"{name} isn't 0 for a sample with an empty side"
    flipped: Transported = transport(cost.transpose(1, 2), b, a)
    assert not bool(flipped.plan[2].any()), "the plan isn't 0 for a sample with an empty first side"


def check_padding_invariance(make: Make) -> None:
    """Tokens of weight 0 get no mass, and what they cost changes nothing."""
    cost, a, b = (tensor[:2] for tensor in _problem())
    transport = _transport(make)
    result: Transported = transport(cost, a, b)
    outside = (a[:, :, None] == 0) | (b[:, None, :] == 0)
    assert not bool(result.plan[outside].any()), "mass on tokens of weight 0"
    for junk in (-100.0, 100.0):
        other: Transported = transport(cost.masked_fill(outside, junk), a, b)
        close(other.plan, result.plan, "plan with other costs in the padding")
        close(other.value, result.value, "value with other costs in the padding")
    single: Transported = transport(cost[1:, :4, :2], a[1:, :4], b[1:, :2])
    close(single.plan[0], result.plan[1, :4, :2], "plan alone instead of in a batch")


def check_no_inputs_mutated(make: Make) -> None:
    """Cost and weights are not written to."""
    problem = _problem()
    before = [tensor.clone() for tensor in problem]
    _transport(make)(*problem)
    assert all(torch.equal(old, new) for old, new in zip(before, problem, strict=True)), "an input was written to"


def check_deterministic_in_eval(make: Make) -> None:
    """The same problem gives the same plan."""
    transport = _transport(make)
    first, second = (transport(*_problem()).plan for _ in range(2))
    assert torch.equal(first, second), "two calls differ"


CHECKS = (
    check_shapes,
    check_marginals,
    check_prefers_low_cost,
    check_empty_side,
    check_padding_invariance,
    check_no_inputs_mutated,
    check_deterministic_in_eval,
)
