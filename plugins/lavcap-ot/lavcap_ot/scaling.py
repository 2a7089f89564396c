"""Sinkhorn iterations in three domains; every one walks through the same iterates.

The plan is P = diag(f) K diag(g) with K = exp(-(C - min C) / epsilon). From f = 1, each iteration sets
g = b / (K^T f), then f = a / (K g), so that the marginal a ends exact (Cuturi 2013, algorithm 1; LAVCap eq. 2-3).
Shapes: cost C [B, N, M], weights a [B, N] and b [B, M].

Where numba is installed (`lavcap-ot[fast]`), the exponential domain runs compiled on a CPU: see `lavcap_ot.compiled`.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["LIMIT", "Method", "Solution", "solve"]

Method = Literal["exponential", "stabilised", "log"]

LIMIT = {torch.float32: 80.0, torch.float64: 640.0}
"""Largest (max C - min C) / epsilon for which the exponential domain neither over- nor underflows."""

# Absorbing the scalings this often bounds what they grow to in between: after the first iteration, which is done on
# logarithms, one iteration changes a logarithm by at most log(N / min a), about 2 log N.
_ABSORB_EVERY = 4

# A CPU streams K and K^T once per iteration, so a block of samples whose kernels stay in cache is several times faster.
_CACHE_BYTES = 1 << 20


class Solution(NamedTuple):
    """Result of the iterations; everything is 0 for a sample with an empty side.

    Attributes:
        plan: [B, N, M].
        log_f: [B, N] logarithm of the row scaling of exp(-(C - min C) / epsilon), 0 where a is 0.
        log_g: [B, M] logarithm of the column scaling, 0 where b is 0.
        value: [B] <P, C> + epsilon <P, log P>.
        marginal_error: [B] sum of the absolute violations of both marginals; without gradient.
    """

    plan: Tensor
    log_f: Tensor
    log_g: Tensor
    value: Tensor
    marginal_error: Tensor


def solve(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float, iterations: int, method: Method, compiled: bool = True
) -> Solution:
    """Runs a fixed number of iterations, differentiably.

    No value decides what is run, except on a CPU that isn't tracing: there masks are skipped where nothing is masked,
    and a result that isn't finite, or a cost range too large for the exponential domain, is computed on logarithms.

    Args:
        cost: [B, N, M] float32 or float64; what it holds where a weight is 0 doesn't matter.
        a: [B, N] weights, 0 on masked tokens, of sum 1 over the others.
        b: [B, M] weights likewise.
        epsilon: weight of the entropy, in units of the cost.
        iterations: number of iterations.
        method: domain in which they run.
        compiled: whether the compiled iterations may be used, where they can be and nothing is differentiated.
    """
    fast = _compiled_solver() if compiled and method == "exponential" and _is_plain(cost, a, b) else None
    found = fast(cost, a, b, epsilon, iterations, LIMIT[cost.dtype]) if fast and iterations > 0 else None
    return Solution(*found) if found else _solve(cost, a, b, epsilon, iterations, method)


class _Compiled(Protocol):
    def __call__(
        self, cost: Tensor, a: Tensor, b: Tensor, epsilon: float, iterations: int, limit: float, /
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None: ...


@cache
def _compiled_solver() -> _Compiled | None:
    """Compiled iterations, None without numba."""
    if find_spec("numba") is None:
        return None
    try:
        from lavcap_ot import compiled
    except (ImportError, RuntimeError) as error:  # made for another numpy, or nowhere to keep what it compiles
        warnings.warn(f"the Sinkhorn iterations run without numba, which can't be used: {error}", stacklevel=2)
        return None
    return compiled.solve


def _is_plain(*tensors: Tensor) -> bool:
    """Whether the numbers of some tensors, on a CPU, are all that matters: nothing records or differentiates them."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    grad = torch.is_grad_enabled()
    return all(
        type(x) is Tensor and x.device.type == "cpu" and x.dtype == tensors[0].dtype and x.dtype in LIMIT
        and not (grad and x.requires_grad) and forward_ad.unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]
        for x in tensors
    )  # fmt: skip


def _solve(cost: Tensor, a: Tensor, b: Tensor, epsilon: float, iterations: int, method: Method) -> Solution:
    free = cost.device.type == "cpu" and not torch.compiler.is_compiling()
    block = _block_size(cost) if free else cost.shape[0]
    if block >= cost.shape[0]:
        return _solve_block(cost, a, b, epsilon, iterations, method, free)
    parts = zip(torch.split(cost, block), torch.split(a, block), torch.split(b, block), strict=True)
    solved = [_solve_block(c, x, y, epsilon, iterations, method, free) for c, x, y in parts]
    return Solution(*(torch.cat(pieces) for pieces in zip(*solved, strict=True)))


def _block_size(cost: Tensor) -> int:
    """Samples whose kernel and its transpose fit into the cache of a core."""
    return max(1, _CACHE_BYTES // (2 * cost.shape[1] * cost.shape[2] * cost.element_size()))


def _solve_block(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float, iterations: int, method: Method, free: bool
) -> Solution:
    if free and bool(torch.minimum(a.detach().amin(), b.detach().amin()) > 0):
        low = cost.detach().amin(dim=(1, 2))
        logits = (low[:, None, None] - cost).div_(epsilon)
        return _finish(_run(method, logits, a, b, iterations, free), low, a, b, epsilon)
    valid = (a > 0)[:, :, None] & (b > 0)[:, None, :]
    alive = valid.flatten(1).any(dim=1)
    # The shift is a gauge: it changes f and g by factors and no plan, hence no gradient flows through it.
    low = cost.detach().masked_fill(~valid, torch.inf).amin(dim=(1, 2)).masked_fill(~alive, 0.0)
    # Zeros on masked entries make K one there: their scalings are 0 anyway, and no division meets a zero.
    logits = (low[:, None, None] - cost).div_(epsilon).masked_fill_(~valid, 0.0)
    # A sample with an empty side runs on made-up weights, and its result is discarded.
    rows = torch.where(alive[:, None], a, 1.0 / a.shape[1])
    columns = torch.where(alive[:, None], b, 1.0 / b.shape[1])
    solution = _finish(_run(method, logits, rows, columns, iterations, free), low, rows, columns, epsilon)
    return Solution(*(torch.where(alive.view(-1, *[1] * (x.ndim - 1)), x, 0.0) for x in solution))


_Scaled = tuple[Tensor, Tensor, Tensor]


def _finish(scaled: _Scaled, low: Tensor, a: Tensor, b: Tensor, epsilon: float) -> Solution:
    """Value and marginal error of a plan and the logarithms of its scalings."""
    plan, log_f, log_g = scaled
    rows, columns = plan.sum(dim=2), plan.sum(dim=1)
    # log P = log f + log g - (C - min C) / epsilon, so that the cost cancels.
    value = low * a.sum(dim=1) + epsilon * ((rows * log_f).sum(dim=1) + (columns * log_g).sum(dim=1))
    error = (rows - a).abs().sum(dim=1) + (columns - b).abs().sum(dim=1)
    return Solution(plan, log_f, log_g, value, error.detach())


def _run(method: Method, logits: Tensor, a: Tensor, b: Tensor, iterations: int, free: bool) -> _Scaled:
    too_wide = method == "exponential" and free and bool(logits.detach().amin() < -LIMIT[logits.dtype])
    if method == "log" or too_wide:
        return _logarithmic(logits, a, b, iterations)
    solver = _exponential if method == "exponential" else _stabilised
    plan, log_f, log_g = solver(logits, a, b, iterations)
    if free and not bool((log_f.detach().sum() + log_g.detach().sum()).isfinite()):
        return _logarithmic(logits, a, b, iterations)
    return plan, log_f, log_g


def _exponential(logits: Tensor, a: Tensor, b: Tensor, iterations: int) -> _Scaled:
    kernel = logits.exp()
    f, g = _iterate(kernel, a, b, iterations)
    plan = f[:, :, None] * kernel * g[:, None, :]
    return plan, _safe_log(f), _safe_log(g)


def _iterate(kernel: Tensor, a: Tensor, b: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Scalings f [B, N] and g [B, M] after some iterations from f = 1; positive kernels, also where masked."""
    # Row vectors times contiguous matrices: with column vectors the same products take ten times as long on a CPU.
    transposed = kernel.transpose(1, 2).contiguous()
    rows, columns = a[:, None], b[:, None]
    f, g = _present(rows), columns
    for _ in range(iterations):
        g = columns / torch.bmm(f, kernel)
        f = rows / torch.bmm(g, transposed)
    return f[:, 0], g[:, 0]


def _stabilised(logits: Tensor, a: Tensor, b: Tensor, iterations: int) -> _Scaled:
    """Scalings relative to potentials that are moved into the kernel every few iterations (Schmitzer 2019)."""
    log_f, log_g = _log_iteration(logits, _log_weights(a), _log_weights(b), _present(a).log())
    # The plan is 0 where masked, which would divide 0 by 0 there.
    masked = 1 - _present(a)[:, :, None] * _present(b)[:, None, :]
    plan = (log_f[:, :, None] + logits + log_g[:, None, :]).exp()
    for start in range(1, iterations, _ABSORB_EVERY):
        f, g = _iterate(plan + masked, a, b, min(_ABSORB_EVERY, iterations - start))
        log_f, log_g = log_f + _safe_log(f), log_g + _safe_log(g)
        plan = (log_f[:, :, None] + logits + log_g[:, None, :]).exp()
    return plan, _finite(log_f, a), _finite(log_g, b)


def _logarithmic(logits: Tensor, a: Tensor, b: Tensor, iterations: int) -> _Scaled:
    log_a, log_b = _log_weights(a), _log_weights(b)
    log_f, log_g = _present(a).log(), log_b
    for _ in range(iterations):
        log_f, log_g = _log_iteration(logits, log_a, log_b, log_f)
    plan = (log_f[:, :, None] + logits + log_g[:, None, :]).exp()
    return plan, _finite(log_f, a), _finite(log_g, b)


def _log_iteration(logits: Tensor, log_a: Tensor, log_b: Tensor, log_f: Tensor) -> tuple[Tensor, Tensor]:
    log_g = log_b - torch.logsumexp(logits + log_f[:, :, None], dim=1)
    return log_a - torch.logsumexp(logits + log_g[:, None, :], dim=2), log_g


def _log_weights(weights: Tensor) -> Tensor:
    """Logarithm, -inf (and without gradient) where a weight is 0."""
    return torch.where(weights > 0, _safe_log(weights), -torch.inf)


def _safe_log(scaling: Tensor) -> Tensor:
    """Logarithm, 0 where the argument is 0; what isn't a number stays so."""
    return torch.where(scaling == 0, 1.0, scaling).log()


def _present(weights: Tensor) -> Tensor:
    """1 where a weight is positive, else 0."""
    return (weights > 0).to(weights.dtype)


def _finite(log_scaling: Tensor, weights: Tensor) -> Tensor:
    return torch.where(weights > 0, log_scaling, 0.0)
