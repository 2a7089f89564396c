"""Gradients of plan and value at the optimum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavcap_ot.implicit import plan_gradient
from lavcap_ot.sinkhorn import Sinkhorn


def problem(batch: int = 2, n: int = 5, m: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Cost and logits of weights, in float64, with gradients."""
    torch.manual_seed(seed)
    parts = torch.rand(batch, n, m).double(), torch.randn(batch, n).double(), torch.randn(batch, m).double()
    return tuple(part.requires_grad_() for part in parts)  # type: ignore[return-value]


def masked_softmax(logits: Tensor, lengths: list[int]) -> Tensor:
    mask = torch.arange(logits.shape[1]) < torch.tensor(lengths)[:, None]
    return logits.masked_fill(~mask, -torch.inf).softmax(1)


@pytest.mark.parametrize("method", ["exponential", "stabilised", "log"])
@pytest.mark.parametrize(("n", "m"), [(5, 4), (3, 6)])
def test_gradcheck_of_plan_and_value(method: Any, n: int, m: int) -> None:
    transport = Sinkhorn(0.3, iterations=300, method=method)

    def run(cost: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = transport(cost, masked_softmax(x, [n, n - 1]), masked_softmax(y, [m - 1, m]))
        return found.plan, found.value

    assert torch.autograd.gradcheck(run, problem(n=n, m=m))


def test_gradcheck_of_relative_epsilon() -> None:
    transport = Sinkhorn(0.4, relative=True, iterations=300)

    def run(cost: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = transport(cost, x.softmax(1), y.softmax(1))
        return found.plan, found.value

    assert torch.autograd.gradcheck(run, problem())


def gradients(gradient: Any, loss: Any, seed: int = 0, n: int = 9, m: int = 6, **options: Any) -> tuple[Tensor, ...]:
    cost, x, y = problem(2, n, m, seed)
    transport = Sinkhorn(0.2, iterations=options.pop("iterations", 600), gradient=gradient, **options)
    found = transport(cost, masked_softmax(x, [n, n - 2]), masked_softmax(y, [m - 1, m]))
    return torch.autograd.grad(loss(found), (cost, x, y))


@given(seed=st.integers(0, 1000), n=st.integers(3, 9), m=st.integers(3, 9))
@settings(max_examples=15, deadline=None)
def test_implicit_equals_unrolled_at_convergence(seed: int, n: int, m: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(n, m).double()

    def loss(found: Any) -> Tensor:
        of_plan = (found.plan * weight).sum().sin() + (found.plan.square() * 30).sum()
        total: Tensor = of_plan + found.value.square().sum()
        return total

    implicit = gradients("implicit", loss, seed, n, m)
    unrolled = gradients("unrolled", loss, seed, n, m)
    for one, other in zip(implicit, unrolled, strict=True):
        assert torch.allclose(one, other, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("method", ["exponential", "stabilised", "log"])
def test_every_method_unrolls_to_the_same_gradient(method: Any) -> None:
    found = gradients("unrolled", lambda x: x.plan.square().sum(), iterations=7, method=method)
    expected = gradients("unrolled", lambda x: x.plan.square().sum(), iterations=7, method="log")
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-11)


def test_envelope_gives_the_gradient_of_the_value_and_none_of_the_plan() -> None:
    envelope = gradients("envelope", lambda found: found.value.sum())
    unrolled = gradients("unrolled", lambda found: found.value.sum())
    for one, other in zip(envelope, unrolled, strict=True):
        assert torch.allclose(one, other, atol=1e-9)
    cost, x, y = problem()
    found = Sinkhorn(0.2, gradient="envelope")(cost, x.softmax(1), y.softmax(1))
    assert not found.plan.requires_grad
    assert found.value.requires_grad
    assert not found.marginal_error.requires_grad


def test_implicit_stays_near_unrolled_in_float32_and_before_convergence() -> None:
    torch.manual_seed(0)
    cost = torch.rand(2, 64, 20).requires_grad_()
    a, b = torch.full((2, 64), 1 / 64), torch.full((2, 20), 1 / 20)
    grads = []
    for gradient in ("implicit", "unrolled"):
        plan = Sinkhorn(0.1, iterations=100, gradient=gradient)(cost, a, b).plan
        grads.append(torch.autograd.grad((plan * 64).square().sum(), cost)[0])
    assert (grads[0] - grads[1]).norm() < 1e-3 * grads[1].norm()


def test_a_plan_in_separate_parts_has_finite_gradients() -> None:
    plan = torch.zeros(1, 6, 4).double()
    plan[:, :3, :2] = plan[:, 3:, 2:] = 1 / 12
    for part in plan_gradient(plan, torch.randn(1, 6, 4).double(), 0.1):
        assert part.isfinite().all()
        assert part.abs().max() < 1e3


def test_tiny_epsilon_has_finite_gradients() -> None:
    cost = torch.rand(2, 20, 10, requires_grad=True)
    found = Sinkhorn(1e-3)(cost, torch.full((2, 20), 0.05), torch.full((2, 10), 0.1))
    (grad,) = torch.autograd.grad(found.plan.square().sum() + found.value.sum(), cost)
    assert grad.isfinite().all()


def test_only_what_is_asked_for_is_differentiated() -> None:
    cost, _, _ = problem()
    found = Sinkhorn(0.2)(cost.detach(), torch.full((2, 5), 0.2), torch.full((2, 4), 0.25))
    assert not found.plan.requires_grad
    weights = torch.full((2, 5), 0.2).double().requires_grad_()
    found = Sinkhorn(0.2)(cost.detach(), weights, torch.full((2, 4), 0.25))
    assert torch.autograd.grad(found.value.sum(), weights)[0].shape == (2, 5)
