"""Checks of backends: ``make`` builds one for a device that is there; a step is compared with torch's on the CPU."""

from __future__ import annotations

import copy
import io
import json
import math
from typing import Any

import torch
from torch import Tensor, nn

from lavcap_core.data import collate
from lavcap_core.interfaces import Backend
from lavcap_core.testing.samples import Make, close, seeded

__all__ = ["CHECKS"]

_BETAS = (0.9, 0.95)
_LR = 0.05


class _Model(nn.Module):
    """A frozen layer, a trained one, and one that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 5).requires_grad_(False)
        self.trained = nn.Linear(5, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, data: Tensor) -> Tensor:
        out: Tensor = self.trained(torch.tanh(self.frozen(data)))
        return out


def _backend(make: Make) -> Backend:
    backend: Backend = make({})
    return backend


def _model() -> _Model:
    with seeded():
        return _Model()


def _data(seed: int = 0) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))


def _loss(model: nn.Module, data: Tensor) -> Tensor:
    loss: Tensor = (model(data).float() - 2).square().sum()
    return loss


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for name, p in named if name.endswith("weight")], "lr": _LR, "weight_decay": 0.0, "peak": _LR},
        {"params": [p for name, p in named if name.endswith("bias")], "lr": _LR / 2, "weight_decay": 0.0, "peak": _LR},
    ]


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _reference(steps: int, clip: float = 0.0) -> tuple[dict[str, Tensor], list[float]]:
    """Parameters after some steps of torch's AdamW, and the norms of the gradients before they were clipped."""
    model, norms = _model(), []
    optimiser = torch.optim.AdamW(_groups(model), betas=_BETAS)
    for step in range(steps):
        _loss(model, _data(step)).backward()  # type: ignore[no-untyped-call]
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)))
        optimiser.step()
        optimiser.zero_grad()
    return _values(model), norms


def _step(backend: Backend, model: nn.Module, optimiser: Any, step: int, clip: float = 0.0) -> float:
    backend.seed(step)
    backend.backward(_loss(model, _data(step).to(backend.device)))
    norm = float(backend.gradients(model, clip))
    backend.step(optimiser)
    return norm


def _same(left: dict[str, Tensor], right: dict[str, Tensor], what: str) -> None:
    for name, tensor in left.items():
        close(tensor, right[name], f"{name} {what}", 1e-4)


def check_interface(make: Make) -> None:
    """It has every member of `Backend`; alone, it is process 0 of 1."""
    backend = _backend(make)
    assert isinstance(backend, Backend), "a member of lavcap_core.interfaces.Backend is missing"
    assert (backend.index, backend.processes) == (0, 1), "a process that was started alone is not process 0 of 1"
    backend.launch()
    assert (backend.index, backend.processes) == (0, 1), "launch finds others without a launcher"
    backend.barrier()
    backend.mark()


def check_describe(make: Make) -> None:
    """What it says of hardware and versions can go into a log, and names the device."""
    facts = json.loads(json.dumps(dict(_backend(make).describe())))
    assert {"device", "dtype", "torch", "name"} <= facts.keys(), f"only {sorted(facts)} are described"


def check_place_and_wrap(make: Make) -> None:
    """A module is moved to the device, its numbers and precision unchanged; shared parameters stay shared."""
    backend = _backend(make)
    for move in (backend.place, backend.wrap):
        model = _model()
        model.trained.bias, model.shared = model.unused.bias, model.unused.bias
        model.trained.bias = nn.Parameter(torch.zeros(3))
        before = _values(model)
        moved = move(model)
        assert {tensor.device.type for tensor in moved.state_dict().values()} == {torch.device(backend.device).type}
        assert moved.shared is moved.unused.bias, "a shared parameter became two"
        for name, tensor in _values(moved).items():
            assert torch.equal(tensor, before[name]), f"{name} changed"


def check_devices_do_not_mix(make: Make) -> None:
    """What stays on the CPU is refused by the device, so that a forgotten move shows."""
    backend = _backend(make)
    if torch.device(backend.device).type == "cpu":
        return
    model = backend.place(_model())
    try:
        model(_data())
    except RuntimeError:
        return
    raise AssertionError("a tensor of the CPU was taken by a module on the device")


def check_autocast(make: Make) -> None:
    """A forward pass in its precision is near the one in float32; gradients keep the parameters' precision."""
    backend, model = _backend(make), _model()
    expected = model(_data()).detach()
    model = backend.wrap(model)
    with backend.autocast():
        found = model(_data().to(backend.device))
        loss = (found.float() - 2).square().sum()
    close(found.detach().float().cpu(), expected, "a forward pass", 0.05)
    backend.backward(loss)
    backend.gradients(model, 0.0)
    assert model.trained.weight.grad.dtype == torch.float32, "a gradient lost the parameter's precision"


def check_steps(make: Make) -> None:
    """Steps are those of AdamW; they give the norm of the gradients, and clear them."""
    backend = _backend(make)
    expected, norms = _reference(3)
    model = backend.wrap(_model())
    optimiser = backend.optimiser(_groups(model), _BETAS)
    for step, norm in enumerate(norms):
        found = _step(backend, model, optimiser, step)
        assert math.isclose(found, norm, rel_tol=1e-4), f"the norm is {found}, not {norm}"
    _same(_values(model), expected, "after three steps")
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def check_frozen_and_unreached(make: Make) -> None:
    """What is frozen stays as it is, and so does what no loss reached."""
    backend = _backend(make)
    model = backend.wrap(_model())
    optimiser = backend.optimiser(_groups(model), _BETAS)
    before = _values(model)
    _step(backend, model, optimiser, 0)
    after = _values(model)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == (not name.startswith("trained")), f"{name}"


def check_clipping(make: Make) -> None:
    """Gradients above the limit are scaled to it; the norm that is given is the one before; 0 is no limit."""
    backend = _backend(make)
    _, (norm,) = _reference(1)
    for clip, limit in ((0.5, 0.5), (1e6, None), (0.0, None)):
        model = backend.wrap(_model())
        backend.optimiser(_groups(model), _BETAS)
        backend.backward(_loss(model, _data().to(backend.device)))
        before = float(backend.gradients(model, clip))
        assert math.isclose(before, norm, rel_tol=1e-3), f"clip {clip}: the norm is {before}, not {norm}"
        grads = [p.grad.float().cpu() for p in model.parameters() if p.grad is not None]
        after = float(torch.stack([grad.norm() for grad in grads]).norm())
        expected = before if limit is None else limit
        assert math.isclose(after, expected, rel_tol=1e-3), f"clip {clip}: norm {after} of {before}"


def check_accumulation(make: Make) -> None:
    """Two backward passes give the sum of both gradients."""
    backend = _backend(make)
    both = _model()
    (_loss(both, _data(0)) + _loss(both, _data(1))).backward()  # type: ignore[no-untyped-call]
    model = backend.wrap(_model())
    backend.optimiser(_groups(model), _BETAS)
    for seed in (0, 1):
        backend.backward(_loss(model, _data(seed).to(backend.device)))
    backend.gradients(model, 0.0)
    for (name, parameter), other in zip(model.named_parameters(), both.parameters(), strict=True):
        if other.grad is not None:
            close(parameter.grad.cpu(), other.grad, f"gradient of {name}", 1e-4)


def check_resuming(make: Make) -> None:
    """State of model and optimiser, kept as a file and put back, continues to the same numbers."""
    backend = _backend(make)
    expected, _ = _reference(4, clip=1.0)
    model = backend.wrap(_model())
    optimiser = backend.optimiser(_groups(model), _BETAS)
    for step in range(2):
        _step(backend, model, optimiser, step, 1.0)
    file = io.BytesIO()
    kept = {"model": dict(backend.trained(model)), "optimiser": backend.optimiser_state(model, optimiser)}
    assert set(kept["model"]) == {name for name, p in model.named_parameters() if p.requires_grad}
    torch.save(kept, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True, map_location="cpu")
    again = backend.wrap(_model())
    optimiser = backend.optimiser(_groups(again), _BETAS)
    backend.load_trained(again, loaded["model"])
    backend.load_optimiser(again, optimiser, copy.deepcopy(loaded["optimiser"]))
    for step in range(2, 4):
        _step(backend, again, optimiser, step, 1.0)
    _same(_values(again), expected, "after a resumed run")


def check_seed(make: Make) -> None:
    """What is drawn on the device depends on the seed alone."""
    backend = _backend(make)

    def drawn(seed: int) -> Tensor:
        backend.seed(seed)
        return torch.randn(8, device=backend.device).cpu()

    assert torch.equal(drawn(2**40 + 1), drawn(2**40 + 1)), "the same seed draws differently"
    assert not torch.equal(drawn(1), drawn(2)), "another seed draws the same"


def check_shapes(make: Make) -> None:
    """Padding for the device keeps what is there, and ends with its context."""
    backend = _backend(make)
    items = [torch.ones(5, 2), torch.ones(3, 2)]
    with backend.shapes():
        batch = collate(items)
    assert batch is not None
    assert batch.data.shape[1] >= 5, "padding shortened a batch"
    assert batch.lengths.tolist() == [5, 3]
    assert float(batch.data.sum()) == 16, "padding is not zero"
    after = collate(items)
    assert after is not None
    assert after.data.shape[1] == 5, "padding goes on after its context"


def check_alone(make: Make) -> None:
    """Alone, sums and joined lists are what was given, float64 too."""
    backend = _backend(make)
    values = torch.tensor([1 + 2.0**-40, 2.0], dtype=torch.float64)
    assert torch.equal(backend.sum(values).cpu(), values), "a sum of one process is another number"
    assert backend.gather(["a", 2]) == ["a", 2]


CHECKS = (
    check_interface,
    check_describe,
    check_place_and_wrap,
    check_devices_do_not_mix,
    check_autocast,
    check_steps,
    check_frozen_and_unreached,
    check_clipping,
    check_accumulation,
    check_resuming,
    check_seed,
    check_shapes,
    check_alone,
)
