"""Sinkhorn against POT in float64, on padded, weighted, empty and extreme batches."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lavcap_core.interfaces import Transport
from lavcap_ot import scaling
from lavcap_ot.plugin import SinkhornConfig
from lavcap_ot.sinkhorn import Sinkhorn, build

METHODS = ("exponential", "stabilised", "log")


def cosines(batch: int, n: int, m: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    x, y = torch.randn(batch, n, 16).double(), torch.randn(batch, m, 16).double()
    return F.normalize(x, dim=2) @ F.normalize(y, dim=2).mT


def weights(batch: int, n: int, lengths: list[int] | None = None, seed: int = 0, equal: bool = False) -> Tensor:
    torch.manual_seed(seed)
    w = torch.ones(batch, n).double() if equal else torch.rand(batch, n).double() + 0.2
    for row, length in enumerate(lengths or []):
        w[row, length:] = 0
    return w / w.sum(1, keepdim=True).clamp(min=1e-30)


def pot_plan(cost: Tensor, a: Tensor, b: Tensor, epsilon: float, iterations: int) -> Tensor:
    plans = []
    for sample in zip(cost, a, b, strict=True):
        c, x, y = (part.detach().double().numpy() for part in sample)
        plan = np.zeros_like(c)
        rows, columns = x > 0, y > 0
        if rows.any() and columns.any():
            block = ot.bregman.sinkhorn_log(
                x[rows], y[columns], c[np.ix_(rows, columns)], epsilon, numItermax=iterations, stopThr=0, warn=False
            )
            plan[np.ix_(rows, columns)] = block
        plans.append(torch.from_numpy(plan))
    return torch.stack(plans)


def deviation(plan: Tensor, reference: Tensor) -> float:
    """Largest deviation in units of the mean entry."""
    return float((plan - reference).abs().max() * plan.shape[1] * plan.shape[2])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("iterations", [1, 2, 5, 6, 50])
def test_every_method_walks_through_the_iterates_of_pot(method: Any, iterations: int) -> None:
    cost, a, b = -cosines(3, 30, 11), weights(3, 30), weights(3, 11, seed=1)
    found = Sinkhorn(0.1, iterations=iterations, method=method)(cost, a, b)
    assert deviation(found.plan, pot_plan(cost, a, b, 0.1, iterations)) < 1e-10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "m"), [(64, 20), (63, 83), (5, 70)])
def test_float32_is_within_a_millionth_of_float64(method: Any, n: int, m: int) -> None:
    cost = -cosines(4, n, m).float()
    a, b = weights(4, n, [n, n // 2, n, 0]).float(), weights(4, m, [m, m, m // 2, m], seed=1).float()
    reference = pot_plan(cost, a, b, 0.1, 50)
    plan = Sinkhorn(0.1, method=method)(cost, a, b).plan
    assert plan.dtype == torch.float32
    assert (plan - reference).abs().sum((1, 2)).max() < 1e-6
    assert (plan - reference).abs().max() < 1e-6 * reference.max()


def test_the_end_is_exact_on_audio_marginals_as_in_pot() -> None:
    cost, a, b = -3 * torch.eye(12, 9).double()[None], weights(1, 12), weights(1, 9, seed=1)
    found = Sinkhorn(0.05, iterations=3)(cost, a, b)
    assert torch.allclose(found.plan.sum(2), a, atol=1e-14)
    assert (found.plan.sum(1) - b).abs().max() > 1e-4
    expected = (found.plan.sum(2) - a).abs().sum(1) + (found.plan.sum(1) - b).abs().sum(1)
    assert torch.allclose(found.marginal_error, expected)


@given(
    n=st.integers(1, 12), m=st.integers(1, 12), seed=st.integers(0, 1000), epsilon=st.floats(0.05, 3.0),
    method=st.sampled_from(METHODS), garbage=st.sampled_from([0.0, 1e30, float("inf"), float("nan")]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_padding_changes_nothing(n: int, m: int, seed: int, epsilon: float, method: Any, garbage: float) -> None:
    cost, a, b = -cosines(2, n, m, seed), weights(2, n, seed=seed), weights(2, m, seed=seed + 1)
    padded = F.pad(cost, (0, 3, 0, 4), value=garbage)
    transport = Sinkhorn(epsilon, iterations=20, method=method)
    plain, found = transport(cost, a, b), transport(padded, F.pad(a, (0, 4)), F.pad(b, (0, 3)))
    assert torch.allclose(found.plan[:, :n, :m], plain.plan, atol=1e-12, rtol=1e-7)
    assert found.plan[:, n:].abs().sum() == 0
    assert found.plan[:, :, m:].abs().sum() == 0
    assert torch.allclose(found.value, plain.value, rtol=1e-7, atol=1e-9)
    assert torch.allclose(found.marginal_error, plain.marginal_error, atol=1e-9)


@given(seed=st.integers(0, 1000), n=st.integers(2, 9), m=st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_permuting_tokens_permutes_the_plan(seed: int, n: int, m: int) -> None:
    cost, a, b = -cosines(1, n, m, seed), weights(1, n, seed=seed), weights(1, m, seed=seed + 1)
    rows, columns = torch.randperm(n), torch.randperm(m)
    transport = Sinkhorn(0.1)
    moved = transport(cost[:, rows][:, :, columns], a[:, rows], b[:, columns])
    assert torch.allclose(moved.plan, transport(cost, a, b).plan[:, rows][:, :, columns], atol=1e-12)


@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_shifting_the_cost_shifts_the_value_only(seed: int, shift: float) -> None:
    cost, a, b = -cosines(2, 6, 5, seed), weights(2, 6, seed=seed), weights(2, 5, seed=seed + 1)
    transport = Sinkhorn(0.1)
    plain, shifted = transport(cost, a, b), transport(cost + shift, a, b)
    assert torch.allclose(plain.plan, shifted.plan, atol=1e-11)
    assert torch.allclose(plain.value + shift, shifted.value, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_value_is_cost_minus_entropy(method: Any) -> None:
    cost, a, b = -cosines(2, 7, 6), weights(2, 7), weights(2, 6, seed=1)
    found = Sinkhorn(0.2, method=method)(cost, a, b)
    expected = (found.plan * (cost + 0.2 * found.plan.log())).sum((1, 2))
    assert torch.allclose(found.value, expected, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gradient", ["implicit", "envelope", "unrolled"])
def test_an_empty_side_gives_zero_everything(method: Any, gradient: Any) -> None:
    cost = (-cosines(4, 6, 5)).requires_grad_()
    a, b = weights(4, 6, [6, 0, 6, 0]).requires_grad_(), weights(4, 5, [5, 5, 0, 0]).requires_grad_()
    found = Sinkhorn(0.1, method=method, gradient=gradient)(cost, a, b)
    assert found.plan[0].sum().item() == pytest.approx(1)
    for part in (found.plan, found.value, found.marginal_error):
        assert part[1:].abs().sum() == 0
    total = found.value.sum() + (found.plan.square().sum() if found.plan.requires_grad else 0)
    for grad in torch.autograd.grad(total, (cost, a, b)):
        assert grad.isfinite().all()
        assert grad[1:].abs().sum() == 0


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0), (0, 3, 4)])
def test_no_tokens_at_all(shape: tuple[int, int, int]) -> None:
    found = Sinkhorn()(torch.zeros(shape), torch.zeros(shape[:2]), torch.zeros(shape[0], shape[2]))
    assert found.plan.shape == shape
    assert found.value.shape == found.marginal_error.shape == shape[:1]


@pytest.mark.parametrize("method", ["auto", "stabilised", "log", "exponential"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_epsilon_is_finite_and_right(method: Any, dtype: torch.dtype) -> None:
    cost, a, b = (1 - cosines(3, 40, 13)).to(dtype), weights(3, 40).to(dtype), weights(3, 13, seed=1).to(dtype)
    reference = pot_plan(cost, a, b, 1e-3, 60)
    found = Sinkhorn(1e-3, iterations=60, method=method)(cost, a, b)
    assert found.plan.isfinite().all()
    assert found.value.isfinite().all()
    assert (found.plan - reference).abs().sum((1, 2)).max() < (2e-3 if dtype == torch.float32 else 1e-9)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1.0, 30.0, 1e3, 1e5]), n=st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_stabilised_equals_log_at_any_scale(seed: int, scale: float, n: int) -> None:
    cost, a, b = scale * cosines(2, n, 7, seed), weights(2, n, seed=seed), weights(2, 7, seed=seed + 1)
    plans = [Sinkhorn(0.5, iterations=23, method=method)(cost, a, b).plan for method in ("stabilised", "log")]
    assert torch.allclose(plans[0], plans[1], atol=1e-13 * max(1.0, scale))


def test_stabilised_needs_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("fell back")

    monkeypatch.setattr(scaling, "_logarithmic", refuse)
    cost, a, b = 1e4 * cosines(2, 200, 150).float(), weights(2, 200).float(), weights(2, 150).float()
    assert Sinkhorn(0.1, method="stabilised")(cost, a, b).plan.isfinite().all()


def test_the_limit_of_the_exponential_domain_is_safe() -> None:
    cost, a, b = -cosines(2, 60, 40).float(), weights(2, 60).float(), weights(2, 40).float()
    epsilon = 2 / scaling.LIMIT[torch.float32]
    cost = cost / cost.abs().max()
    reference = pot_plan(cost, a, b, epsilon, 50)
    plan = Sinkhorn(epsilon * 1.0001, method="exponential")(cost, a, b).plan
    assert (plan - reference).abs().sum((1, 2)).max() < 1e-3
    plan = Sinkhorn(epsilon, method="log")(cost, a, b).plan
    assert (plan - reference).abs().sum((1, 2)).max() < 1e-5


def test_auto_is_fixed_by_the_bound_of_the_cost() -> None:
    assert Sinkhorn(0.1).method == "stabilised"
    cases = [(0.1, False, 2.0, "exponential"), (0.02, False, 2.0, "stabilised"), (0.1, True, 2.0, "stabilised")]
    for epsilon, relative, bound, method in [*cases, (0.1, False, None, "stabilised")]:
        transport = Sinkhorn(epsilon, relative=relative)
        transport.bind(bound)
        assert transport.method == method
    forced = Sinkhorn(0.1, method="log")
    forced.bind(2.0)
    assert forced.method == "log"


@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_relative_epsilon_is_in_units_of_the_mean_valid_cost(factor: float, seed: int) -> None:
    cost, a, b = 1 - cosines(2, 8, 6, seed), weights(2, 8, [8, 5], seed), weights(2, 6, [4, 6], seed + 1)
    found = Sinkhorn(0.1, relative=True)(factor * cost, a, b)
    for i, (n, m) in enumerate([(8, 4), (5, 6)]):
        mean = float(cost[i, :n, :m].mean())
        alone = Sinkhorn(0.1 * mean)(cost[i : i + 1], a[i : i + 1], b[i : i + 1])
        assert torch.allclose(found.plan[i], alone.plan[0], atol=1e-10)
        assert torch.allclose(found.value[i], factor * alone.value[0], rtol=1e-8)


def test_autocast_does_not_lower_the_precision() -> None:
    cost = (-cosines(2, 20, 10)).float().requires_grad_()
    a, b = weights(2, 20).float(), weights(2, 10).float()
    transport = Sinkhorn(0.1)

    def run() -> tuple[Tensor, Tensor]:
        found = transport(cost, a, b)
        return found.plan, torch.autograd.grad(found.plan.square().sum() + found.value.sum(), cost)[0]

    plan, grad = run()
    with torch.autocast("cpu", torch.bfloat16):
        cast_plan, cast_grad = run()
        low = transport(cost.detach().bfloat16(), a.bfloat16(), b.bfloat16())
    assert cast_plan.dtype == torch.float32
    assert torch.equal(plan, cast_plan)
    assert torch.allclose(grad, cast_grad, atol=1e-7)
    assert low.plan.dtype == low.value.dtype == low.marginal_error.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_blocks_of_samples_give_the_whole_batch(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cost, a, b = -cosines(7, 12, 9), weights(7, 12, [12, 3, 0]), weights(7, 9, [9, 9, 9, 2])
    whole = Sinkhorn(0.1, method=method)(cost, a, b)
    monkeypatch.setattr(scaling, "_CACHE_BYTES", 2 * 2 * 12 * 9 * 8)
    blocks = Sinkhorn(0.1, method=method)(cost, a, b)
    assert torch.allclose(whole.plan, blocks.plan, atol=1e-14)
    assert torch.allclose(whole.value, blocks.value, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_exports_to_a_static_graph(method: Any) -> None:
    cost, a, b = -cosines(3, 8, 5).float(), weights(3, 8, [8, 4]).float(), weights(3, 5, [5, 5, 0]).float()
    transport = Sinkhorn(0.1, iterations=6, method=method)

    class Plan(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transport = copy.deepcopy(transport)

        def forward(self, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
            plan: Tensor = self.transport(cost, a, b).plan
            return plan

    with torch.no_grad():
        graph = torch.export.export(Plan(), (cost, a, b))
        assert torch.allclose(graph.module()(cost, a, b), transport(cost, a, b).plan, atol=1e-7)
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert "aten.bmm.default" in called or method == "log"
    assert not any("scalar_dense" in name or "aten.item" in name or "assert_async" in name for name in called)


def test_builds_from_its_configuration() -> None:
    config = SinkhornConfig(epsilon=0.3, relative=True, iterations=7, method="log", gradient="envelope")
    transport = build(config, cast(Any, SimpleNamespace(inputs={})))
    assert isinstance(transport, Transport)
    settings_ = (transport.epsilon, transport.relative, transport.iterations, transport.method, transport.gradient)
    assert settings_ == (0.3, True, 7, "log", "envelope")
