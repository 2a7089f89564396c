"""Entropic optimal transport of padded batches (LAVCap eq. 2-3)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.interfaces import Transported
from lavcap_ot.implicit import differentiable
from lavcap_ot.plugin import SinkhornConfig
from lavcap_ot.precision import full_precision, widen
from lavcap_ot.scaling import LIMIT, Method, solve

__all__ = ["Sinkhorn", "build"]

_Solved = tuple[Tensor, Tensor, Tensor]


class Sinkhorn(nn.Module):
    """Minimises <P, C> + epsilon <P, log P> over plans with marginals a and b.

    Always computed in float32, or float64 if the cost is, whatever the autocast. The number of iterations and the
    domain they run in are fixed when the component is built, so that a device can record them as a graph.

    Args:
        epsilon: weight of the entropy; in units of the cost, or of its mean.
        relative: epsilon is in units of the mean absolute cost over a sample's valid entries.
        iterations: number of iterations.
        method: domain of the iterations; ``auto``: exponential where `bind` said that the cost's range allows it,
            else stabilised.
        gradient: ``implicit``: of plan and value, at the optimum; ``envelope``: of the value only;
            ``unrolled``: through the iterations.
        compiled: on a CPU, exponential iterations that nothing is differentiated through run compiled where numba is
            installed.
    """

    def __init__(
        self,
        epsilon: float = 0.1,
        *,
        relative: bool = False,
        iterations: int = 50,
        method: Literal["auto", "exponential", "stabilised", "log"] = "auto",
        gradient: Literal["implicit", "envelope", "unrolled"] = "implicit",
        compiled: bool = True,
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.relative = relative
        self.iterations = iterations
        self.gradient = gradient
        self.compiled = compiled
        self._auto = method == "auto"
        self.method: Method = "stabilised" if method == "auto" else method

    def bind(self, cost_bound: float | None) -> None:
        """Tells, once and before use, the largest max C - min C that a sample can have; None: unknown.

        Whoever builds a transport calls this if the transport has it. Cosine similarities have the bound 2.
        """
        if self._auto:
            small = cost_bound is not None and not self.relative and cost_bound / self.epsilon <= LIMIT[torch.float32]
            self.method = "exponential" if small else "stabilised"

    def extra_repr(self) -> str:
        """Settings, for the printed module."""
        unit = " x mean cost" if self.relative else ""
        return f"epsilon={self.epsilon}{unit}, iterations={self.iterations}, method={self.method}"

    def forward(self, cost: Tensor, a: Tensor, b: Tensor) -> Transported:
        """Transports weights a [B, N] to b [B, M] at cost [B, N, M].

        Args:
            cost: any float type; what it holds where a weight is 0 doesn't matter.
            a: weights, 0 on masked tokens, of sum 1 over the others, or all 0.
            b: weights likewise.

        Returns:
            Plan [B, N, M], value [B] and the sum of the absolute violations of both marginals [B]: all float32, or
            float64 if the cost is, and all 0 for a sample with an empty side.
        """
        with full_precision(cost):
            cost = widen(cost)
            a, b = a.to(cost.dtype), b.to(cost.dtype)
            if 0 in cost.shape:
                empty = cost.new_zeros(cost.shape[0])
                return Transported(cost, empty, empty)
            solved = self._relative(cost, a, b) if self.relative else self._absolute(cost, a, b)
            return Transported(*solved)

    def _relative(self, cost: Tensor, a: Tensor, b: Tensor) -> _Solved:
        valid = (a > 0)[:, :, None] & (b > 0)[:, None, :]
        cost = torch.where(valid, cost, 0.0)
        mean = cost.abs().sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
        unit = torch.where(mean > 0, mean, 1.0)
        plan, value, error = self._absolute(cost / unit[:, None, None], a, b)
        return plan, value * unit, error

    def _absolute(self, cost: Tensor, a: Tensor, b: Tensor) -> _Solved:
        solver = partial(
            solve, epsilon=self.epsilon, iterations=self.iterations, method=self.method, compiled=self.compiled
        )
        needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (cost, a, b))
        if self.gradient == "unrolled" or not needs_grad:
            solution = solver(cost, a, b)
            return solution.plan, solution.value, solution.marginal_error
        return differentiable(solver, cost, a, b, self.epsilon, through_plan=self.gradient == "implicit")


def build(config: SinkhornConfig, context: Context) -> Sinkhorn:
    """Transport of a configuration."""
    return Sinkhorn(
        config.epsilon,
        relative=config.relative,
        iterations=config.iterations,
        method=config.method,
        gradient=config.gradient,
    )
