"""What `lavcap plugins doctor lavcap-hpu --hardware` prints: what is installed, and whether it computes rightly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from lavcap_core.errors import BuildError
from lavcap_core.testing.checks import from_component, run
from lavcap_core.testing.samples import seeded
from lavcap_hpu import habana
from lavcap_hpu.backend import HpuBackend
from lavcap_hpu.plugin import hpu

__all__ = ["report"]

_OFFERED = (
    ("fused AdamW", "hpex.optimizers", "FusedAdamW"),
    ("fused clipping", "hpex.normalization", "FusedClipNorm"),
    ("recorded graphs", "hpu", "wrap_in_hpu_graph"),
)
_TRIED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("defaults", {}),
    ("not fused, not padded", {"fused": False, "buckets": ()}),
)


def report() -> Iterator[str]:
    """Lines of a report on the Gaudi of this machine, as they are found: graphs take their time to compile.

    Raises:
        BuildError: B110 to B113 as of `lavcap_hpu.habana.load`; B114, after the last line, if something failed.
    """
    found = habana.load()
    yield from (f"{name}: {value}" for name, value in _backend().describe().items())
    for what, module, name in _OFFERED:
        yield f"{what}: {'there' if found.offered(module, name) is not None else 'not there'}"
    failed = 0
    for what, error in _checks(found):
        yield f"{what}: {'fine' if error is None else _reason(error)}"
        failed += error is not None
    if failed:
        help = "see the lines with FAILED; versions of driver, firmware and Gaudi's PyTorch must fit: see hl-smi"
        raise BuildError("B114", f"{failed} checks of backend 'hpu' failed on this machine", help=help)
    yield _times()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"FAILED: {type(error).__name__}: {lines[0] if lines else ''}"


def _checks(found: habana.Habana) -> Iterator[tuple[str, Exception | None]]:
    """The conformance kit, which compares steps of training with torch's on the CPU; and a recorded network."""
    for settings, changes in _TRIED:
        for result in run("backend", from_component(hpu, **changes)):
            what = result.check.name.removeprefix("check_").replace("_", " ")
            yield f"{what} ({settings})", result.error
    record = found.offered("hpu", "wrap_in_hpu_graph")
    if record is not None and found.lazy:
        yield "a recorded network", _play(record)


def _play(record: Callable[[nn.Module], nn.Module]) -> Exception | None:
    """Records a network and plays it back with other numbers; gives what went wrong."""
    network, device = _network(), _backend().device
    batches = [torch.full((3, 16), float(number)) for number in range(3)]
    expected = [network(batch).detach() for batch in batches]
    try:
        record(network.to(device))
        with torch.inference_mode():
            for batch, wanted in zip(batches, expected, strict=True):
                torch.testing.assert_close(network(batch.to(device)).cpu(), wanted, rtol=1e-3, atol=1e-4)
    except Exception as error:  # whatever a driver raises, the report goes on
        return error
    return None


def _backend() -> HpuBackend:
    backend: HpuBackend = from_component(hpu)({})
    return backend


def _network() -> nn.Module:
    with seeded():
        return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4))


def _times() -> str:
    """How long steps of training take; graphs are compiled in the first one."""
    backend = _backend()
    network = backend.wrap(_network())
    groups = [{"params": list(network.parameters()), "lr": 1e-3, "weight_decay": 0.0}]
    optimiser = backend.optimiser(groups, (0.9, 0.999))
    taken = []
    for _ in range(10):
        start = time.perf_counter()
        with backend.autocast():
            loss = network(torch.ones(64, 16, device=backend.device)).float().square().mean()
        backend.backward(loss)
        norm = backend.gradients(network, 1.0)
        backend.step(optimiser)
        norm.item(), loss.item()  # waits for the device
        taken.append(1000 * (time.perf_counter() - start))
    return f"a step of training a network of two layers: {taken[0]:.1f} ms, then {sorted(taken[1:])[4]:.1f} ms"
