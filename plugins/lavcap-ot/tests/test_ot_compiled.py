"""The compiled iterations against POT in float64 and against the same iterations in torch."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

pytest.importorskip("numba", reason="the compiled iterations need numba (lavcap-ot[fast])")

from lavcap_ot import compiled, scaling
from lavcap_ot.scaling import LIMIT, Solution, solve
from lavcap_ot.sinkhorn import Sinkhorn

# Both orientations, sides below, at and above whole vectors, remainders of four rows, and the longer side above 128.
SHAPES = [(64, 20), (20, 64), (63, 83), (1, 1), (5, 1), (1, 70), (16, 16), (17, 33), (150, 130), (131, 150)]


def problem(n: int, m: int, lengths: tuple[list[int], list[int]], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    batch = len(lengths[0])
    x, y = torch.randn(batch, n, 16).double(), torch.randn(batch, m, 16).double()
    cost = -(F.normalize(x, dim=2) @ F.normalize(y, dim=2).mT)
    sides = []
    for size, side in zip((n, m), lengths, strict=True):
        w = torch.rand(batch, size).double() + 0.2
        for row, length in enumerate(side):
            w[row, length:] = 0
        sides.append(w / w.sum(1, keepdim=True).clamp(min=1e-30))
    return cost, sides[0], sides[1]


def padded(n: int, m: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A full sample, two padded ones, and three with an empty side."""
    half = (n + 1) // 2, (m + 1) // 2
    return problem(n, m, ([n, half[0], n, 0, n, 0], [m, m, half[1], m, 0, 0]), seed)


def both(data: tuple[Tensor, Tensor, Tensor], epsilon: float, iterations: int) -> tuple[Solution, Solution]:
    found = compiled.solve(*data, epsilon, iterations, LIMIT[data[0].dtype])
    assert found is not None
    return Solution(*found), solve(*data, epsilon, iterations, "exponential", compiled=False)


def pot_plan(cost: Tensor, a: Tensor, b: Tensor, epsilon: float, iterations: int) -> Tensor:
    plan = torch.zeros_like(cost)
    for s in range(len(cost)):
        rows, columns = a[s] > 0, b[s] > 0
        if rows.any() and columns.any():
            block = np.ix_(rows.numpy(), columns.numpy())
            found = ot.bregman.sinkhorn_log(
                a[s][rows].numpy(), b[s][columns].numpy(), cost[s].numpy()[block], epsilon,
                numItermax=iterations, stopThr=0, warn=False,
            )  # fmt: skip
            plan[s].numpy()[block] = found
    return plan


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the compiled iterations fail if they are used."""

    def fail(*_: Any) -> None:
        raise AssertionError("ran compiled")

    monkeypatch.setattr(scaling, "_compiled_solver", lambda: fail)


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("iterations", [1, 2, 50])
def test_both_paths_are_those_of_pot_in_float64(n: int, m: int, iterations: int) -> None:
    data = padded(n, m)
    reference = pot_plan(*data, 0.1, iterations)
    for found in both(data, 0.1, iterations):
        assert (found.plan - reference).abs().max() * n * m < 1e-10


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_both_paths_are_within_float32_of_pot(n: int, m: int) -> None:
    data = padded(n, m)
    reference = pot_plan(*data, 0.1, 50)
    cost, a, b = (x.float() for x in data)
    for found in both((cost, a, b), 0.1, 50):
        assert found.plan.dtype == found.value.dtype == found.log_f.dtype == torch.float32
        assert (found.plan - reference).abs().sum((1, 2)).max() < 1e-6


@given(
    n=st.integers(1, 40), m=st.integers(1, 40), seed=st.integers(0, 1000), epsilon=st.floats(0.05, 3.0),
    iterations=st.integers(1, 30), dtype=st.sampled_from([torch.float32, torch.float64]),
    garbage=st.sampled_from([0.0, 1e30, float("inf"), float("-inf"), float("nan")]), data=st.data(),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_every_output_equals_that_of_torch(
    n: int, m: int, seed: int, epsilon: float, iterations: int, dtype: torch.dtype, garbage: float, data: Any
) -> None:
    lengths = tuple(data.draw(st.lists(st.integers(0, size), min_size=3, max_size=3)) for size in (n, m))
    cost, a, b = (x.to(dtype) for x in problem(n, m, lengths, seed))
    cost = cost.masked_fill(~((a > 0)[:, :, None] & (b > 0)[:, None, :]), garbage)
    fast, slow = both((cost, a, b), epsilon, iterations)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for name, x, y in zip(Solution._fields, fast, slow, strict=True):
        assert x.shape == y.shape, name
        assert x.is_contiguous()
        assert torch.allclose(x, y, rtol=tolerance, atol=tolerance), name
        assert torch.equal(x == 0, y == 0) or name == "marginal_error" or (x - y).abs().max() < tolerance, name
    assert torch.allclose(fast.plan, slow.plan, rtol=tolerance, atol=0)


@pytest.mark.parametrize("gradient", ["implicit", "envelope"])
def test_gradients_are_those_of_torch(gradient: Any) -> None:
    grads = []
    for use in (True, False):
        inputs = [x.requires_grad_() for x in padded(30, 12)]
        found = Sinkhorn(0.1, method="exponential", gradient=gradient, compiled=use)(*inputs)
        total = found.value.sum() + (found.plan.square().sum() if found.plan.requires_grad else 0)
        grads.append(torch.autograd.grad(total, inputs))
    for x, y in zip(*grads, strict=True):
        assert y.abs().sum() > 0
        assert torch.allclose(x, y, rtol=1e-8, atol=1e-10)


def test_sharing_out_samples_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tuple(x.float() for x in padded(30, 12))
    whole = Sinkhorn(0.1, method="exponential")(*data)
    monkeypatch.setattr(compiled, "_THREAD_WORK", 1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        shared = Sinkhorn(0.1, method="exponential")(*data)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            again = list(pool.map(lambda _: Sinkhorn(0.1, method="exponential")(*data), range(20)))
    finally:
        torch.set_num_threads(threads)
    for found in (shared, *again):
        assert torch.equal(whole.plan, found.plan)
        assert torch.equal(whole.value, found.value)


def test_what_is_not_contiguous_is_read_right() -> None:
    cost, a, b = padded(30, 12)
    plain = solve(cost, a, b, 0.1, 20, "exponential")
    strided = solve(cost.mT.contiguous().mT, a.repeat(1, 2)[:, :30], b.T.contiguous().T, 0.1, 20, "exponential")
    assert torch.equal(plain.plan, strided.plan)
    uniform = torch.full((1, 1), 1 / 12, dtype=torch.float64).expand(6, 12)
    expected = solve(cost, a, uniform.clone(), 0.1, 20, "exponential", compiled=False)
    assert torch.allclose(solve(cost, a, uniform, 0.1, 20, "exponential").plan, expected.plan, atol=1e-14)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e4])
def test_what_the_exponential_domain_cannot_do_is_left_to_torch(bad: float) -> None:
    cost, a, b = (x.float() for x in padded(9, 7))
    cost[0, 2, 3] = bad
    assert compiled.solve(cost, a, b, 0.1, 20, LIMIT[torch.float32]) is None
    fast, slow = (solve(cost, a, b, 0.1, 20, "exponential", compiled=use) for use in (True, False))
    for x, y in zip(fast, slow, strict=True):
        assert torch.equal(x.nan_to_num(7), y.nan_to_num(7))


def test_a_component_runs_compiled_only_if_it_may(refuse: None) -> None:
    data = padded(9, 7)
    with pytest.raises(AssertionError, match="ran compiled"):
        Sinkhorn(0.1, method="exponential")(*data)
    Sinkhorn(0.1, method="exponential", compiled=False)(*data)
    Sinkhorn(0.1, method="stabilised")(*data)


def test_what_is_differentiated_through_runs_in_torch(refuse: None) -> None:
    cost, a, b = padded(9, 7)
    transport = Sinkhorn(0.1, method="exponential", gradient="unrolled")
    found = transport(cost.clone().requires_grad_(), a, b)
    assert found.plan.grad_fn is not None
    direction = torch.ones_like(cost).tril()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(cost, direction)  # type: ignore[no-untyped-call]
        forward = forward_ad.unpack_dual(transport(dual, a, b).plan)  # type: ignore[no-untyped-call]
        assert forward.tangent.abs().sum() > 0
    tangent = torch.func.jvp(lambda c: transport(c, a, b).plan, (cost,), (direction,))[1]
    assert torch.allclose(tangent, forward.tangent)


def test_inference_mode_runs_compiled() -> None:
    data = padded(9, 7)
    with torch.inference_mode():
        plan = Sinkhorn(0.1, method="exponential")(*(x.clone() for x in data)).plan
    assert torch.equal(plan, Sinkhorn(0.1, method="exponential")(*data).plan)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_holds_operations_and_no_numbers(refuse: None) -> None:
    cost, a, b = problem(9, 7, ([9, 9], [7, 7]))
    transport = Sinkhorn(0.1, method="exponential", iterations=3)
    run = lambda c: transport(c, a, b).plan  # noqa: E731
    traced = torch.jit.trace(run, (cost,), check_trace=False)  # type: ignore[no-untyped-call]
    expected = solve(cost.flip(1), a, b, 0.1, 3, "exponential", compiled=False).plan
    assert torch.allclose(traced(cost.flip(1)), expected, atol=1e-12)


def test_numba_is_imported_with_the_first_solution_and_not_before() -> None:
    script = """
import sys, torch
from lavcap_ot.sinkhorn import Sinkhorn
transport = Sinkhorn(0.1, method="exponential")
assert "numba" not in sys.modules
half = torch.full((1, 2), 0.5)
transport(torch.eye(2)[None], half, half)
assert "numba" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unusable_numba_is_said_and_done_without() -> None:
    script = """
import sys, warnings, torch
import importlib.machinery, importlib.abc
class Broken(importlib.abc.Loader):
    def create_module(self, spec): raise ImportError("made for another numpy")
    def exec_module(self, module): pass
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, Broken()) if name == "numba" else None
sys.meta_path.insert(0, Finder())
from lavcap_ot.sinkhorn import Sinkhorn
half = torch.full((1, 2), 0.5)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    plan = Sinkhorn(0.1, method="exponential")(torch.eye(2)[None], half, half).plan
assert abs(float(plan.sum()) - 1) < 1e-6
assert any("made for another numpy" in str(x.message) for x in said)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
