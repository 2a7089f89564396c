"""Exact optimal transport by POT's network simplex, one sample at a time on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lavcap_core.component import Context
from lavcap_core.errors import BuildError
from lavcap_core.interfaces import Transported
from lavcap_ot.plugin import EMDConfig
from lavcap_ot.precision import full_precision, widen

__all__ = ["EMD", "build"]

Array = NDArray[np.float64]
Sample = tuple[Array, Array, Array]


class EMD(nn.Module):
    """Minimises <P, C> over plans with marginals a and b (the earth mover's distance).

    The value has the gradient of linear programming's duality: dC = P, da and db its dual variables. The plan is
    piecewise constant, so it has none. The work is done in float64 on the CPU, wherever the cost lies.

    Args:
        max_iterations: of the network simplex, per sample.
        threads: samples solved at the same time (POT releases the interpreter's lock); None: one per core.
    """

    def __init__(self, max_iterations: int = 1_000_000, threads: int | None = None) -> None:
        super().__init__()
        self.max_iterations = max_iterations
        self.threads = threads or os.cpu_count() or 1

    def forward(self, cost: Tensor, a: Tensor, b: Tensor) -> Transported:
        """Transports weights a [B, N] to b [B, M] at cost [B, N, M].

        Returns:
            Plan [B, N, M], value <P, C> [B] and marginal error [B]: float32, or float64 if the cost is, and 0 for a
            sample with an empty side.
        """
        with full_precision(cost):
            cost = widen(cost)
            a, b = a.to(cost.dtype), b.to(cost.dtype)
            plan, value = _Exact.apply(cost, a, b, self.solve)  # type: ignore[no-untyped-call]
            return Transported(plan, value, _marginal_error(plan, a, b).detach())

    def solve(self, samples: Iterable[Sample]) -> list[Sample]:
        """Plan and duals of samples of cost [N, M] and weights [N] and [M], of which some may be 0."""
        problems = list(samples)
        if self.threads == 1 or len(problems) < 2:
            return [self._one(problem) for problem in problems]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self._one, problems))

    def _one(self, problem: Sample) -> Sample:
        cost, a, b = problem
        plan, u, v = np.zeros_like(cost), np.zeros_like(a), np.zeros_like(b)
        rows, columns = np.flatnonzero(a > 0), np.flatnonzero(b > 0)
        if not rows.size or not columns.size:
            return plan, u, v
        block = np.ix_(rows, columns)
        # Weights that were rounded to float32 don't sum to the same number, which the simplex wants exactly.
        source, target = a[rows] / a[rows].sum(), b[columns] / b[columns].sum()
        plan[block], log = _pot().emd(source, target, cost[block], numItermax=self.max_iterations, log=True)
        u[rows], v[columns] = log["u"], log["v"]
        return plan, u, v


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cost: Tensor, a: Tensor, b: Tensor, solver: Any) -> tuple[Tensor, Tensor]:
        samples = zip(*(x.detach().double().cpu().numpy() for x in (cost, a, b)), strict=True)
        solved = [[torch.from_numpy(part) for part in sample] for sample in solver(samples)]
        plan, u, v = (torch.stack(parts).to(cost) for parts in zip(*solved, strict=True))
        ctx.save_for_backward(plan, u, v)
        ctx.mark_non_differentiable(plan)
        return plan, torch.where(plan > 0, plan * cost, 0.0).sum(dim=(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, u, v = ctx.saved_tensors
        return grad[:, None, None] * plan, grad[:, None] * u, grad[:, None] * v, None


def _marginal_error(plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
    error = (plan.sum(dim=2) - a).abs().sum(dim=1) + (plan.sum(dim=1) - b).abs().sum(dim=1)
    return torch.where((a > 0).any(dim=1) & (b > 0).any(dim=1), error, 0.0)


def _pot() -> Any:
    try:
        import ot
    except ImportError as error:
        raise BuildError(
            "B040", "the transport emd needs POT, which isn't installed", help="pip install 'lavcap-ot[emd]'"
        ) from error
    return ot


def build(config: EMDConfig, context: Context) -> EMD:
    """Transport of a configuration.

    Raises:
        BuildError: B040 if POT isn't installed.
    """
    _pot()
    return EMD(config.max_iterations, config.threads)
