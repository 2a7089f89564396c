"""Gradients of entropic transport at its optimum, without storing the iterations.

For the value the envelope theorem holds: dC = P, da = epsilon log f, db = epsilon log g (up to constants, which weights
of sum 1 can't feel). A function of the plan with gradient G = dL/dP is differentiated implicitly: with
r = (P * G) 1 and c = (P * G)^T 1,

    [ diag(P 1)   P          ] [ lam ]   [ r ]
    [ P^T         diag(P^T 1)] [ mu  ] = [ c ]

gives dC = -P * (G - lam 1^T - 1 mu^T) / epsilon, da = lam, db = mu. The memory is that of one plan. At convergence
both equal the gradient of the unrolled iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lavcap_ot.precision import full_precision
from lavcap_ot.scaling import Solution

__all__ = ["differentiable", "plan_gradient"]

Solver = Callable[[Tensor, Tensor, Tensor], Solution]
Gradients = tuple[Tensor, Tensor, Tensor]


def differentiable(
    solver: Solver, cost: Tensor, a: Tensor, b: Tensor, epsilon: float, through_plan: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Plan [B, N, M], value [B] and marginal error [B] of a solver, with the gradients of the optimum.

    Args:
        solver: gives the solution at ``(cost, a, b)``.
        cost: [B, N, M].
        a: [B, N] weights.
        b: [B, M] weights.
        epsilon: weight of the entropy.
        through_plan: False: the plan has no gradient and only the value does.
    """
    plan, value, error = _Optimum.apply(cost, a, b, solver, epsilon, through_plan)  # type: ignore[no-untyped-call]
    return plan, value, error


class _Optimum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, a: Tensor, b: Tensor, solver: Solver, epsilon: float, through_plan: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        solution = solver(cost, a, b)
        ctx.save_for_backward(solution.plan, solution.log_f, solution.log_g)
        ctx.epsilon = epsilon
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(solution.marginal_error, *(() if through_plan else (solution.plan,)))
        return solution.plan, solution.value, solution.marginal_error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, plan_grad: Tensor | None, value_grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        plan, log_f, log_g = ctx.saved_tensors
        parts: list[Gradients] = []
        if value_grad is not None:
            weight = value_grad[:, None]
            parts.append((weight[:, None] * plan, weight * ctx.epsilon * log_f, weight * ctx.epsilon * log_g))
        if plan_grad is not None:
            # A backward pass may itself be run under autocast.
            with full_precision(plan):
                parts.append(plan_gradient(plan, plan_grad, ctx.epsilon))
        if not parts:
            return (None,) * 6
        total = parts[0] if len(parts) == 1 else tuple(x + y for x, y in zip(*parts, strict=True))
        return (*total, None, None, None)


def plan_gradient(plan: Tensor, grad: Tensor, epsilon: float) -> Gradients:
    """Gradients of the cost [B, N, M], a [B, N] and b [B, M], given the plan and the gradient of it, both [B, N, M]."""
    if plan.shape[1] < plan.shape[2]:
        cost, b, a = plan_gradient(plan.mT, grad.mT, epsilon)
        return cost.mT, a, b
    lam, mu = _solve_multipliers(plan, grad)
    lam, mu = lam.to(plan.dtype), mu.to(plan.dtype)
    return plan * (lam[:, :, None] + mu[:, None, :] - grad) / epsilon, lam, mu


def _solve_multipliers(plan: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Multipliers lam [B, N] and mu [B, M], with the smaller side M eliminated to; float64 where the device has it."""
    dtype = torch.float64 if _is_exact(plan.device.type) else torch.float32
    plan, grad = plan.to(dtype), grad.to(dtype)
    weighted = plan * grad
    # The plan's own marginals, not the wanted ones: with them (1, -1) is a null vector at any number of iterations.
    rows, columns = plan.sum(dim=2), plan.sum(dim=1)
    inverse = torch.where(rows > 0, 1.0 / torch.where(rows > 0, rows, 1.0), 0.0)
    r, c = weighted.sum(dim=2), weighted.sum(dim=1)
    scaled = plan * inverse[:, :, None]
    schur = torch.diag_embed(columns) - plan.mT @ scaled
    mu = _solve_pinned(schur, columns, c - (scaled.mT @ r[:, :, None])[:, :, 0])
    return inverse * (r - (plan @ mu[:, :, None])[:, :, 0]), mu


@cache
def _is_exact(device: str) -> bool:
    """Whether a device computes in float64: some refuse it, others take it and compute in float32."""
    try:
        return bool(torch.ones((), dtype=torch.float64, device=device) + 2.0**-40 != 1)
    except (RuntimeError, TypeError):
        return False


def _solve_pinned(schur: Tensor, columns: Tensor, right: Tensor) -> Tensor:
    """Solution [B, M] of a system whose null space is the constant vector on valid columns."""
    valid = columns > 0
    unit = valid.to(schur.dtype) / valid.sum(dim=1, keepdim=True).clamp(min=1)
    # Where the plan falls into parts that exchange no mass there are more null vectors: the ridge keeps them finite.
    ridge = 64 * torch.finfo(schur.dtype).eps * columns + (~valid).to(schur.dtype)
    pinned = schur + unit[:, :, None] * unit[:, None, :] + torch.diag_embed(ridge)
    factor, _ = torch.linalg.cholesky_ex(pinned)  # the checking variant would wait for the device
    return torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
