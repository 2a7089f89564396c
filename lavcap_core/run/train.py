"""The training loop: AdamW, warm-up and cosine, clipping, mixed precision, and checkpoints that resume exactly.

The loop knows no data: it asks for the loss of step 0, 1, 2, ... and so a run that is interrupted and resumed sees what
an uninterrupted one would have seen, as long as that loss depends on the step's number and torch's generator alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from lavcap_core.errors import RunError
from lavcap_core.tuning import load_trained, trained_state

__all__ = ["Schedule", "checkpoints", "groups", "train"]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: optimiser steps of the whole run.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        floor: learning rate at the end of the cosine, as a fraction of the peak.
        weight_decay: on matrices; none on biases, norms and single numbers.
        betas: of AdamW.
        clip: largest norm of the gradient; 0: no limit.
        every: steps between checkpoints.
        keep: newest checkpoints that are kept; 0: all.
        faster: factors of the learning rate of parameters whose name contains a text.
    """

    steps: int
    lr: float
    warmup: int = 0
    floor: float = 0.0
    weight_decay: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    every: int = 100
    keep: int = 0
    faster: Mapping[str, float] = field(default_factory=dict)


def train(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    schedule: Schedule,
    folder: str | Path,
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Trains what is trainable of a model.

    Args:
        model: in which `loss` computes; frozen parameters stay as they are.
        loss: scalar loss of the batch of a step.
        schedule: how long and how fast.
        folder: gets ``log.jsonl`` and a folder per checkpoint.
        autocast: context of the forward pass.
        resume: go on from the newest checkpoint in the folder, if there is one.
        facts: stored with every checkpoint.

    Returns:
        The folder of the last checkpoint.

    Raises:
        RunError: C020 if a loss is not finite; C021 if the folder holds a run and ``resume`` is off.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    optimiser = AdamW(groups(model, schedule), lr=schedule.lr, betas=schedule.betas)
    scheduler = LambdaLR(optimiser, lambda step: _factor(step, schedule))
    start = _resume(folder, model, optimiser, scheduler, resume)
    model.train()
    for step in range(start, schedule.steps):
        began = time.monotonic()
        with autocast():
            value = loss(step)
        _require_finite(value, step)
        value.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(_trainable(model), schedule.clip or math.inf)
        optimiser.step()
        row = {"step": step, "loss": value.item(), "norm": float(norm), "lr": schedule.lr * _factor(step, schedule)}
        scheduler.step()
        optimiser.zero_grad(set_to_none=True)
        _log(folder, {**row, "seconds": round(time.monotonic() - began, 3)})
        if (step + 1) % schedule.every == 0 or step + 1 == schedule.steps:
            _save(folder, step + 1, model, optimiser, scheduler, {**(facts or {}), "schedule": asdict(schedule)})
            _forget(folder, schedule.keep)
    return checkpoints(folder)[-1]


def groups(model: nn.Module, schedule: Schedule) -> list[dict[str, Any]]:
    """Parameter groups of the optimiser: by weight decay (matrices only) and by factor of the learning rate."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = math.prod(value for text, value in schedule.faster.items() if text in name)
            decay = schedule.weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((decay, schedule.lr * factor), []).append(parameter)
    return [{"params": params, "weight_decay": decay, "lr": lr} for (decay, lr), params in found.items()]


def checkpoints(folder: str | Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(Path(folder).glob("step-[0-9]*"))


def _factor(step: int, schedule: Schedule) -> float:
    """Learning rate as a fraction of its peak: linear warm-up, then half a cosine down to the floor."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _trainable(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def _require_finite(value: Tensor, step: int) -> None:
    if not torch.isfinite(value):
        help = "lower the learning rate, or compute in float32; the last checkpoint is unharmed"
        raise RunError("C020", f"the loss of step {step} is {value.item()}", help=help)


def _log(folder: Path, row: Mapping[str, Any]) -> None:
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _save(
    folder: Path, step: int, model: nn.Module, optimiser: AdamW, scheduler: LambdaLR, facts: Mapping[str, Any]
) -> None:
    """Writes a checkpoint under a temporary name, syncs it and renames it: half of one is never taken for a whole."""
    place = folder / f"step-{step:08d}"
    temporary = folder / f".{place.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(trained_state(model), temporary / "trained.safetensors")
    # The schedule's function is rebuilt, not stored.
    progress = {name: value for name, value in scheduler.state_dict().items() if name != "lr_lambdas"}
    state = {"optimiser": optimiser.state_dict(), "scheduler": progress, "step": step}
    torch.save({**state, "generator": torch.get_rng_state()}, temporary / "run.pt")
    (temporary / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(place, ignore_errors=True)
    temporary.rename(place)


def _forget(folder: Path, keep: int) -> None:
    for old in checkpoints(folder)[:-keep] if keep else []:
        shutil.rmtree(old)


def _resume(folder: Path, model: nn.Module, optimiser: AdamW, scheduler: LambdaLR, resume: bool) -> int:
    """Puts the newest checkpoint back, and says which step is next."""
    found = checkpoints(folder)
    if not found:
        return 0
    if not resume:
        raise RunError("C021", f"the folder {folder} holds a run already", help="resume it, or choose another folder")
    load_trained(model, load_file(found[-1] / "trained.safetensors"))
    state = torch.load(found[-1] / "run.pt", weights_only=True)
    optimiser.load_state_dict(state["optimiser"])
    scheduler.load_state_dict({**scheduler.state_dict(), **state["scheduler"]})
    torch.set_rng_state(state["generator"])
    return int(state["step"])
