"""The exponential Sinkhorn iterations of `lavcap_ot.scaling` for a CPU, compiled by numba.

The iterates are the same: g = b / (K^T f), f = a / (K g). Small products spend most of their time in calls, and large
ones in reading K and K^T from memory. Here K is stored once, its longer side contiguous and padded to whole vectors,
and one sweep per iteration does both products: the scaling of a row follows from a dot product with it, which then adds
the scaled row to the other product. So K is read once per iteration.

Masked and padding entries hold K = 1 and have weight 0: they get scaling 0, change nothing, and no division meets a 0.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = ["solve"]

Array = np.ndarray[Any, Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])

# Floats in the longest vector of a CPU.
_LANES = 16
# From here on the longer side is long enough for vectors, and a transposition isn't worth its time.
_LONG = 128
# Kernels of a block of samples stay in a core's cache from one step to the next, and their memory is small enough to be
# used again by the next block: larger pieces go back to the system, which hands them out page by page.
_BLOCK_BYTES = 1 << 16
# Multiplications of one thread, about half a millisecond, below which waking another takes longer than it saves.
_THREAD_WORK = 4_000_000


def _compile(function: _Function) -> _Function:
    # Sums may be reordered into vectors, but zeros, infinities and what isn't a number keep their meaning.
    options = {"fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy", "nogil": True, "cache": True}
    compiled: _Function = numba.njit(**options)(function)
    return compiled


def solve(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float, iterations: int, limit: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None:
    """Plan, log f, log g, value and marginal error as in `scaling.Solution`, without gradient.

    Threads are as many as torch uses; samples don't depend on how they are shared out.

    Args:
        cost: [B, N, M] float32 or float64 on a CPU, nothing empty; what it holds where a weight is 0 doesn't matter.
        a: [B, N] weights of the same type, 0 on masked tokens.
        b: [B, M] weights likewise.
        epsilon: weight of the entropy, in units of the cost.
        iterations: number of iterations, at least 1.
        limit: largest (max C - min C) / epsilon.

    Returns:
        None where a sample exceeds the limit or isn't finite.
    """
    inputs = [x.detach().contiguous().numpy() for x in (cost, a, b)]
    batch, n, m = cost.shape
    outputs = [np.empty(shape, inputs[0].dtype) for shape in ((batch, n, m), (batch, n), (batch, m), batch, batch)]
    run = partial(_solve_share, inputs, outputs, epsilon, iterations, limit)
    shares = _parts(0, batch, -(-_THREAD_WORK // (n * m * iterations)))
    threads = min(torch.get_num_threads(), len(shares))
    good = run(slice(0, batch)) if threads == 1 else all(list(_pool(threads).map(run, shares)))
    if not good:
        return None
    plan, log_f, log_g, value, error = map(torch.from_numpy, outputs)
    return plan, log_f, log_g, value, error


def _parts(start: int, stop: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="lavcap-ot")


if hasattr(os, "register_at_fork"):
    # Threads don't live on in a forked process.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _solve_share(
    inputs: list[Array], outputs: list[Array], epsilon: float, iterations: int, limit: float, share: slice
) -> bool:
    """Solves what one thread takes at a time, block by block."""
    size = max(1, _BLOCK_BYTES // inputs[0][0].nbytes)
    blocks = _parts(share.start, share.stop, size)
    return all(_solve_block(inputs, outputs, epsilon, iterations, limit, block) for block in blocks)


def _solve_block(
    inputs: list[Array], outputs: list[Array], epsilon: float, iterations: int, limit: float, block: slice
) -> bool:
    """Writes the outputs of some samples; False where a sample exceeds the limit or isn't finite."""
    cost, a, b = (x[block] for x in inputs)
    plan, log_f, log_g, value, error = (x[block] for x in outputs)
    batch, n, m = cost.shape
    flip = m < min(n, _LONG)
    rows, columns = (m, n) if flip else (n, m)
    kernel = np.empty((batch, rows, -(-columns // _LANES) * _LANES), cost.dtype)
    low = np.empty(batch, cost.dtype)
    unit = cost.dtype.type(epsilon)
    if not _prepare(cost, a, b, unit, flip, kernel, low) <= limit * epsilon:
        return False
    np.exp(kernel, out=kernel)
    sides = (b, a, log_g, log_f) if flip else (a, b, log_f, log_g)
    _scale(kernel, *sides, low, unit, flip, iterations, plan, value, error)
    return math.isfinite(value.sum())


@_compile
def _prepare(cost: Array, a: Array, b: Array, epsilon: Any, flip: bool, kernel: Array, low: Array) -> Any:
    """Logits (min C - C) / epsilon, 0 where masked, and min C of every sample; returns the largest max C - min C."""
    worst = cost.dtype.type(0)
    lows, highs = np.empty(cost.shape[2], cost.dtype), np.empty(cost.shape[2], cost.dtype)
    for s in range(cost.shape[0]):
        least, most = _range(cost[s], a[s], b[s], lows, highs)
        low[s] = least
        if most - least > worst:
            worst = most - least
        if flip:
            _fill_flipped(cost[s], a[s], b[s], least, epsilon, kernel[s])
        else:
            _fill(cost[s], a[s], b[s], least, epsilon, kernel[s])
    return worst


@_compile
def _range(cost: Array, a: Array, b: Array, lows: Array, highs: Array) -> tuple[Any, Any]:
    """Least and largest cost where both weights are positive; by column first, since that is done in vectors."""
    lows[:], highs[:] = np.inf, -np.inf
    for i in range(cost.shape[0]):
        if a[i] > 0:
            for j in range(cost.shape[1]):
                c = cost[i, j]
                lows[j] = c if c < lows[j] else lows[j]
                highs[j] = c if c > highs[j] else highs[j]
    least, most = cost.dtype.type(np.inf), cost.dtype.type(-np.inf)
    for j in range(cost.shape[1]):
        if b[j] > 0:
            least = lows[j] if lows[j] < least else least
            most = highs[j] if highs[j] > most else most
    return least, most


@_compile
def _fill(cost: Array, a: Array, b: Array, least: Any, epsilon: Any, logits: Array) -> None:
    zero, m = cost.dtype.type(0), cost.shape[1]
    for i in range(cost.shape[0]):
        row = logits[i]
        if a[i] > 0:
            for j in range(m):
                row[j] = (least - cost[i, j]) / epsilon if b[j] > 0 else zero
            row[m:] = zero
        else:
            row[:] = zero


@_compile
def _fill_flipped(cost: Array, a: Array, b: Array, least: Any, epsilon: Any, logits: Array) -> None:
    zero, n = cost.dtype.type(0), cost.shape[0]
    for j in range(cost.shape[1]):
        row = logits[j]
        for i in range(n):
            row[i] = (least - cost[i, j]) / epsilon if a[i] > 0 and b[j] > 0 else zero
        row[n:] = zero


@_compile
def _scale(
    kernel: Array, short: Array, long: Array, log_u: Array, log_v: Array, low: Array, epsilon: Any, flip: bool,
    iterations: int, plan: Array, value: Array, error: Array,
) -> None:  # fmt: skip
    """Iterates on every sample and writes its results.

    The plan is diag(u) K diag(v), u [S] belonging to K's rows (f, or g if flipped) and v to its contiguous side, with
    weights `short` and `long`. The kernel is overwritten.
    """
    u, v = np.empty(kernel.shape[1], kernel.dtype), np.empty(kernel.shape[2], kernel.dtype)
    weights, total = np.zeros(kernel.shape[2], kernel.dtype), np.empty(kernel.shape[2], kernel.dtype)
    for s in range(kernel.shape[0]):
        if not (np.any(short[s] > 0) and np.any(long[s] > 0)):
            plan[s], log_u[s], log_v[s], value[s], error[s] = 0, 0, 0, 0, 0
            continue
        weights[: long.shape[1]] = long[s]
        _iterate(kernel[s], short[s], weights, u, v, total, flip, iterations)
        mass, rest, violation = _multiply(kernel[s], short[s], u, v, total, log_u[s])
        for t in range(long.shape[1]):
            log_v[s, t] = np.log(v[t]) if v[t] != 0 else 0
            rest += total[t] * log_v[s, t]
            violation += abs(total[t] - long[s, t])
        # log P = log f + log g - (C - min C) / epsilon, so that the cost cancels.
        value[s], error[s] = low[s] * mass + epsilon * rest, violation
        _store(kernel[s], flip, plan[s])


@_compile
def _iterate(
    kernel: Array, short: Array, long: Array, u: Array, v: Array, total: Array, flip: bool, iterations: int
) -> None:
    """Scalings after some iterations from f = 1 (0 where masked); f comes last, whichever side it belongs to."""
    if flip:
        v[:] = long > 0
    else:
        _add_rows(kernel, short, total)
    for _ in range(iterations):
        if not flip:
            _divide(long, total, v)
        _sweep(kernel, short, u, v, total)
        if flip:
            _divide(long, total, v)


@_compile
def _add_rows(kernel: Array, weights: Array, total: Array) -> None:
    total[:] = 0
    for k in range(kernel.shape[0]):
        if weights[k] > 0:
            for t in range(kernel.shape[1]):
                total[t] += kernel[k, t]


@_compile
def _divide(weights: Array, total: Array, v: Array) -> None:
    """As a loop: arithmetic on whole arrays would allocate memory in every iteration."""
    for t in range(v.shape[0]):
        v[t] = weights[t] / total[t]


@_compile
def _sweep(kernel: Array, short: Array, u: Array, v: Array, total: Array) -> None:
    """Sets u = short / (K v) and total = K^T u, four rows at a time so that fewer loads wait for each other."""
    rows, columns = kernel.shape
    whole, zero = rows // 4 * 4, kernel.dtype.type(0)
    total[:] = zero
    for k in range(0, whole, 4):
        p, q, r, s = kernel[k], kernel[k + 1], kernel[k + 2], kernel[k + 3]
        x, y, z, w = zero, zero, zero, zero
        for t in range(columns):
            x += p[t] * v[t]
            y += q[t] * v[t]
            z += r[t] * v[t]
            w += s[t] * v[t]
        x, y, z, w = short[k] / x, short[k + 1] / y, short[k + 2] / z, short[k + 3] / w
        u[k], u[k + 1], u[k + 2], u[k + 3] = x, y, z, w
        for t in range(columns):
            total[t] += x * p[t] + y * q[t] + z * r[t] + w * s[t]
    for k in range(whole, rows):
        x = zero
        for t in range(columns):
            x += kernel[k, t] * v[t]
        x = short[k] / x
        u[k] = x
        for t in range(columns):
            total[t] += x * kernel[k, t]


@_compile
def _multiply(
    kernel: Array, short: Array, u: Array, v: Array, total: Array, log_u: Array
) -> tuple[float, float, float]:
    """Overwrites K by the plan; its column sums, mass, sum of row sums times log u, and violation of the row sums."""
    total[:] = 0
    mass, rest, violation = 0.0, 0.0, 0.0
    for k in range(kernel.shape[0]):
        row, row_sum = kernel[k], kernel.dtype.type(0)
        for t in range(row.shape[0]):
            row[t] *= u[k] * v[t]
            row_sum += row[t]
            total[t] += row[t]
        log_u[k] = np.log(u[k]) if u[k] != 0 else 0
        mass += row_sum
        rest += row_sum * log_u[k]
        violation += abs(row_sum - short[k])
    return mass, rest, violation


@_compile
def _store(kernel: Array, flip: bool, plan: Array) -> None:
    for i in range(plan.shape[0]):
        for j in range(plan.shape[1]):
            plan[i, j] = kernel[j, i] if flip else kernel[i, j]
