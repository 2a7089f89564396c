"""Times of the transport `sinkhorn` beside POT's and a plain loop.

Run as ``python benchmarks/sinkhorn.py --threads 2``. All contestants take turns within each round, in an order drawn
anew, since one that follows a long one finds cold caches; the minimum over the rounds counts, so that whatever else the
machine does disturbs all of them alike. Before anything is timed,
plans are compared with POT's in float64.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import ot
import torch
from torch import Tensor
from torch.nn import functional as F

from lavcap_ot.sinkhorn import Sinkhorn

EPSILON = 0.1
Problem = tuple[Tensor, Tensor, Tensor]
Plan = Callable[[Tensor, Tensor, Tensor], Tensor]


def problem(batch: int, n: int, m: int) -> Problem:
    """Cost of unit vectors and uniform weights, as LAVCap's aligner has them."""
    torch.manual_seed(0)
    x, y = F.normalize(torch.randn(batch, n, 64), dim=2), F.normalize(torch.randn(batch, m, 64), dim=2)
    return -(x @ y.mT), torch.full((batch, n), 1 / n), torch.full((batch, m), 1 / m)


def ours(gradient: Any, iterations: int, compiled: bool = True) -> Plan:
    """The transport of this package, with the bound of a cosine."""
    transport = Sinkhorn(EPSILON, iterations=iterations, gradient=gradient, compiled=compiled)
    transport.bind(2.0)
    return lambda cost, a, b: transport(cost, a, b).plan


def ours_value(iterations: int) -> Plan:
    """The same, of which only the value is differentiated."""
    transport = Sinkhorn(EPSILON, iterations=iterations, gradient="envelope")
    transport.bind(2.0)
    return lambda cost, a, b: transport(cost, a, b).value


def pot_loop(iterations: int) -> Plan:
    """POT's sinkhorn_log, sample by sample, as LAVCap's released code calls it."""

    def run(cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        solve = partial(ot.bregman.sinkhorn_log, reg=EPSILON, numItermax=iterations, stopThr=0, warn=False)
        return torch.stack([solve(x, y, c) for x, y, c in zip(a, b, cost, strict=True)])

    return run


def pot_batch(method: str, iterations: int, grad: str = "detach") -> Plan:
    """POT's batched solver on the transposed problem, since it ends on the other side."""

    def run(cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        transposed = cost.mT.contiguous()
        found = ot.solve_batch(
            transposed, EPSILON, b, a, max_iter=iterations, tol=0, method=method, reg_type="entropy", grad=grad
        )
        plan: Tensor = found.plan
        return plan.mT

    return run


def plain_loop(iterations: int) -> Plan:
    """Sinkhorn on logarithms as one would write it in torch for one sample, in a loop."""

    def one(cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        logits, f = -cost / EPSILON, torch.zeros_like(a)
        g = torch.zeros_like(b)
        for _ in range(iterations):
            g = b.log() - torch.logsumexp(logits + f[:, None], 0)
            f = a.log() - torch.logsumexp(logits + g, 1)
        return (logits + f[:, None] + g).exp()

    return lambda cost, a, b: torch.stack([one(*sample) for sample in zip(cost, a, b, strict=True)])


def forward(plan: Plan, data: Problem) -> None:
    """One plan without gradient."""
    with torch.no_grad():
        plan(*data)


def forward_backward(plan: Plan, data: Problem) -> None:
    """One plan and the gradient of the cost."""
    cost = data[0].clone().requires_grad_()
    plan(cost, *data[1:]).square().sum().backward()  # type: ignore[no-untyped-call]


def best(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Least time of each in milliseconds; in every round each has one turn, in random order."""
    times = dict.fromkeys(contestants, float("inf"))
    draw = random.Random(0)
    for _ in range(rounds):
        for name, run in draw.sample(list(contestants.items()), len(contestants)):
            start = time.perf_counter()
            run()
            times[name] = min(times[name], 1e3 * (time.perf_counter() - start))
    return times


def check(contestants: dict[str, Plan], data: Problem, iterations: int) -> None:
    """Every contestant computes the same plan as POT in float64, within a few parts in a million."""
    reference = pot_loop(iterations)(*(part.double() for part in data))
    for name, plan in contestants.items():
        error = float((plan(*data) - reference).abs().sum(dim=(1, 2)).max())
        print(f"  {name:<42}{error:10.1e}  total variation from float64")
        if error > 1e-5:
            raise SystemExit(f"{name} computes something else")


def report(title: str, times: dict[str, float], base: str) -> None:
    """Prints times and ratios to ours."""
    print(f"\n{title} (x: as a multiple of {base})")
    for name, value in times.items():
        print(f"  {name:<42}{value:10.2f} ms {value / times[base]:8.1f} x")


def run_size(batch: int, n: int, m: int, iterations: int, rounds: int) -> None:
    """Both comparisons at one size."""
    data = problem(batch, n, m)
    print(f"\n=== batch {batch}, {n} x {m} tokens, {iterations} iterations, {torch.get_num_threads()} threads ===")
    plans = {
        "lavcap-ot": ours("implicit", iterations),
        "lavcap-ot without numba": ours("implicit", iterations, compiled=False),
        "POT sinkhorn_log, loop over samples": pot_loop(iterations),
        "POT solve_batch, log_sinkhorn": pot_batch("log_sinkhorn", iterations),
        "POT solve_batch, sinkhorn": pot_batch("sinkhorn", iterations),
        "plain torch on logarithms, loop": plain_loop(iterations),
    }
    check(plans, data, iterations)
    report("forward", best({k: partial(forward, p, data) for k, p in plans.items()}, rounds), "lavcap-ot")
    trained = {
        "lavcap-ot, implicit (plan)": ours("implicit", iterations),
        "lavcap-ot without numba, implicit (plan)": ours("implicit", iterations, compiled=False),
        "lavcap-ot, envelope (value)": ours_value(iterations),
        "lavcap-ot, unrolled (plan)": ours("unrolled", iterations),
        "POT sinkhorn_log, loop over samples": pot_loop(iterations),
        "POT solve_batch, log_sinkhorn, autodiff": pot_batch("log_sinkhorn", iterations, "autodiff"),
        "POT solve_batch, sinkhorn, autodiff": pot_batch("sinkhorn", iterations, "autodiff"),
        "plain torch on logarithms, loop": plain_loop(iterations),
    }
    times = best({k: partial(forward_backward, p, data) for k, p in trained.items()}, max(3, rounds // 3))
    report("forward + backward", times, "lavcap-ot, implicit (plan)")


def main() -> None:
    """Parses options and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", default=["32x64x20", "32x252x257"], help="batch x N x M")
    parser.add_argument("--iterations", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if find_spec("numba") is None:
        print("numba isn't installed: nothing runs compiled")
    for size in options.sizes:
        batch, n, m = (int(part) for part in size.split("x"))
        run_size(batch, n, m, options.iterations, options.rounds)


if __name__ == "__main__":
    main()
