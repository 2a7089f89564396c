"""What one process, or each of several that torchrun started, computes on the device.

torchrun --nproc-per-node 2 several.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulated
import torch
from torch import distributed, nn

ROWS = 6


def computed(backend: Any) -> dict[str, Any]:
    """Two steps, each with a part of the rows on each process."""
    backend.launch()
    torch.manual_seed(1 + backend.index)  # whatever a process drew, all go on with what the first has
    model = backend.wrap(nn.Linear(3, 2))
    groups = [{"params": list(model.parameters()), "lr": 0.1, "weight_decay": 0.0}]
    optimiser = backend.optimiser(groups, (0.9, 0.999))
    rows = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    part = rows.tensor_split(backend.processes)[backend.index].to(backend.device)
    norms = []
    for _ in range(2):
        backend.backward(model(part).square().sum() / ROWS)
        norms.append(float(backend.gradients(model, 0.5)))
        backend.step(optimiser)
    exact = backend.sum(torch.tensor([1.0 / backend.processes + 2.0**-40], dtype=torch.float64))
    return {
        "device": str(backend.device),
        "processes": backend.processes,
        "norms": norms,
        "weights": model.weight.tolist(),
        "sum": float(exact[0]),
        "joined": backend.gather([backend.index]),
    }


def strict(collective: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses what hccl couldn't send."""

    def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(tensor, emulated.HpuTensor), f"{collective.__name__} of a tensor on the CPU"
        return collective(tensor, *args, **kwargs)

    return call


def main() -> None:
    emulated.install()
    import habana_frameworks

    distributed.all_reduce, distributed.broadcast = strict(distributed.all_reduce), strict(distributed.broadcast)
    from lavcap_core.testing.checks import from_component
    from lavcap_hpu.plugin import hpu

    found = computed(from_component(hpu, dtype="float32")({}))
    found |= {"collective": distributed.get_backend(), "calls": habana_frameworks.calls}
    Path(sys.argv[1], f"{distributed.get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
