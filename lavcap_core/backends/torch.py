"""The backend `torch`: cpu, cuda and mps; one process, or several that `torchrun` started.

Each process of a run takes its part of every step's clips. Gradients are summed over processes, since the loss is
divided by what all have together. So several processes train as one would with all the clips.
"""

from __future__ import annotations

import atexit
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from lavcap_core.backends import fsdp
from lavcap_core.backends.plugin import TorchConfig
from lavcap_core.component import Context
from lavcap_core.errors import BuildError, RunError
from lavcap_core.tuning import load_trained, trained_state, trained_tensors

__all__ = ["TorchBackend", "build"]

_LAUNCHER = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` sets, besides WORLD_SIZE."""
_BUCKET = 1 << 25
"""Gradients that are summed over processes in one message, in numbers."""


class TorchBackend:
    """Computes on one torch device per process.

    Args:
        device: a torch device, or ``auto`` for the best one that is there.
        dtype: precision of autocast, or ``auto``.
        shard: of several processes, each holds a part of the decoder's weights instead of a copy.

    Raises:
        BuildError: B002 if there is no such device here.
    """

    def __init__(self, device: str = "auto", dtype: str = "auto", shard: bool = False) -> None:
        self.device = _device(device)
        self.dtype = _dtype(dtype, self.device)
        self.shard = shard
        self.index = 0
        self.processes = 1
        self.scaled = self.dtype is torch.float16
        # Accelerate's own scaler is this class.
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.scaled)
        self._overflow = False
        self._statistics: list[Tensor] = []

    def place(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device; its parameters keep their precision."""
        return module.to(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, or nothing in float32."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def shapes(self) -> AbstractContextManager[Any]:
        """Nothing: any shape is as good as another."""
        return nullcontext()

    def mark(self) -> None:
        """Nothing: this device computes at once."""

    def describe(self) -> Mapping[str, Any]:
        """Hardware and versions."""
        facts = {"torch": torch.__version__, "device": str(self.device), "dtype": str(self.dtype).split(".")[-1]}
        if self.device.type == "cuda":
            facts["name"] = torch.cuda.get_device_name(self.device)
        else:
            facts["name"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
        return facts

    # --- processes ---------------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Joins the processes that `torchrun` started, through accelerate; alone, does nothing.

        Raises:
            BuildError: B060 if the environment is not a launcher's; B061 if the spec names one device for all; B062 if
                this machine has no device for this process.
            RunError: B063 if the processes don't find each other.
        """
        if self.processes > 1 or _world() == 1:
            return
        _require_own_device(self.device)
        from accelerate import PartialState

        try:
            state = PartialState(cpu=self.device.type == "cpu")
        except (RuntimeError, ValueError) as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            help = "start all of them with torchrun, each machine with the same --rdzv-endpoint and its port open"
            what = f"the processes of this run don't find each other at {where}: {_first_line(error)}"
            raise RunError("B063", what, help=help) from error
        self.device = state.device
        self.index, self.processes = state.process_index, state.num_processes
        atexit.register(_leave)

    def sum(self, values: Tensor) -> Tensor:
        """Sums numbers over all processes.

        Raises:
            RunError: B064 if one of them is gone.
        """
        if self.processes == 1:
            return values
        summed = values.to(self.device, copy=True)
        with _together():
            distributed.all_reduce(summed)
        return summed

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """Joins lists of all processes, in their order.

        Raises:
            RunError: B064 if one of them is gone.
        """
        if self.processes == 1:
            return list(values)
        parts: list[Any] = [None] * self.processes
        with _together():
            distributed.all_gather_object(parts, list(values))
        return [value for part in parts for value in part]

    def barrier(self) -> None:
        """Waits for all processes."""
        self.sum(torch.zeros(1)).cpu()  # a sum on a device doesn't keep its process waiting

    # --- a step ------------------------------------------------------------------------------------------------------

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on the device, the same on all processes, or spread over them.

        Raises:
            BuildError: B065 if it can't be spread; B066 if trained parameters are float16.
        """
        _require_trainable_precision(model)
        if self.processes > 1 and self.shard:
            fsdp.shard(model, self.device)
        model.to(self.device)
        if self.processes > 1:
            with _together():
                fsdp.broadcast(model)
            parameters = dict(model.named_parameters())
            trained = trained_tensors(model)
            self._statistics = [t for name, t in trained.items() if name not in parameters and t.is_floating_point()]
        return model

    def optimiser(self, groups: Sequence[Mapping[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
        """AdamW, fused where the device has it."""
        fused = True if self.device.type in ("cuda", "cpu") else None
        parts = [{**group, "params": part} for group in groups for part in fsdp.kinds(group["params"])]
        return torch.optim.AdamW(parts, betas=betas, fused=fused)

    def seed(self, seed: int) -> None:
        """Seeds torch's generators, those of devices too."""
        torch.manual_seed(seed)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of this process's part of the loss; in float16 that of the loss times a scale."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def gradients(self, model: nn.Module, clip: float) -> Tensor:
        """Sums gradients over all processes and clips their norm; statistics such as BatchNorm's are averaged.

        In float16 the norm is that of the gradients without the scale; if it is not finite, the scale was too large and
        is lowered, and `step` changes nothing.

        Raises:
            RunError: B064 if another process is gone.
        """
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.processes > 1:
            with _together():
                _sum_gradients([parameter for parameter in parameters if not fsdp.is_sharded(parameter)])
                for values in self._statistics:
                    distributed.all_reduce(values)
                    values /= self.processes
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        if self.scaled and parameters:
            self._unscale(parameters)
        norm = self._clip(parameters, clip)
        self._overflow = self.scaled and not bool(norm.isfinite())
        return norm

    def _clip(self, parameters: Sequence[nn.Parameter], clip: float) -> Tensor:
        return _clip(parameters, clip)

    def _unscale(self, parameters: Sequence[nn.Parameter]) -> None:
        # All that the scaler asks of an optimiser is its parameters.
        parts = [SimpleNamespace(param_groups=[{"params": part}]) for part in fsdp.kinds(parameters)]
        for part in parts:
            self._scaler.unscale_(cast(Any, part))
        self._scaler.update()

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """Takes the step and clears the gradients."""
        if not self._overflow:
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    # --- what is kept ------------------------------------------------------------------------------------------------

    def trained(self, model: nn.Module) -> dict[str, Tensor]:
        """What training changes of the model; of a model that is spread, on process 0 only."""
        if not self._is_spread(model):
            return trained_state(model)
        return self._whole(trained_tensors(model))

    def load_trained(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Puts it back."""
        own = trained_tensors(model)
        load_trained(model, {name: fsdp.spread_like(t, own.get(name, t)) for name, t in state.items()})

    def optimiser_state(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """Moments by the name of the parameter, and the scale of the loss; of a model that is spread on process 0 only.

        So a run may go on with another number of processes, spread or not. Learning rates are the schedule's.
        """
        moments = {}
        for name, parameter in model.named_parameters():
            found = self._whole(optimiser.state.get(parameter, {}))
            if found:
                moments[name] = found
        return {"state": moments, "scaler": self._scaler.state_dict()}

    def load_optimiser(self, model: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Puts it back."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        order = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        moments = {
            index: {key: fsdp.spread_like(t, parameter) for key, t in state["state"][names[parameter]].items()}
            for index, parameter in enumerate(order)
            if names[parameter] in state["state"]
        }
        optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def _is_spread(self, model: nn.Module) -> bool:
        return any(fsdp.is_sharded(parameter) for parameter in model.parameters())

    def _whole(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors in one piece; on other processes than 0, nothing of those that are spread."""
        found = {}
        for name, value in values.items():
            piece = fsdp.whole(value)  # one after another, so that only one is whole at a time elsewhere
            if self.index == 0 or not fsdp.is_sharded(value):
                found[name] = piece
        return found


def _world() -> int:
    """How many processes the launcher started.

    Raises:
        BuildError: B060 if it left something out.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    missing = [name for name in _LAUNCHER if name not in os.environ]
    if said == "1":
        return 1
    if not said.isdigit() or missing:
        what = f"the environment says WORLD_SIZE={said}" + (f", but no {', '.join(missing)}" if missing else "")
        help = "start with torchrun, which sets all of it; or unset WORLD_SIZE"
        raise BuildError("B060", what, help=help)
    return int(said)


def _require_own_device(device: torch.device) -> None:
    local = int(os.environ["LOCAL_RANK"])
    if device.type == "cpu":
        return
    if device.index is not None:
        what = f"backend.device names {device} for every process"
        raise BuildError("B061", what, help=f"backend.device: {device.type}, so that each takes its own")
    count = torch.get_device_module(device).device_count()
    if local >= count or device.type == "mps":
        what = f"there is no {device.type} device for process {local} of this machine, of {count}"
        help = "start as many processes as there are devices (torchrun --nproc-per-node), or set backend.device: cpu"
        raise BuildError("B062", what, help=help)


def _require_trainable_precision(model: nn.Module) -> None:
    # Its smallest step is a thousandth of a weight, and a gradient can't be scaled back in it.
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype is torch.float16:
            help = "store weights that are trained in float32 (decoder.dtype: float32), or train LoRA"
            raise BuildError("B066", f"{name} is trained, but stored in float16", help=help)


def _leave() -> None:
    # After an error elsewhere gloo parts at once; nccl would wait for processes that never come, and ends by itself.
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """What processes do together fails in all when one is gone."""
    try:
        yield
    except RuntimeError as error:
        what = f"what the processes of this run do together failed: {_first_line(error)}"
        help = "if another of them ended, it said why; then go on with --resume"
        raise RunError("B064", what, help=help) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sums over processes, in few messages; a parameter that no process's clips reached keeps no gradient."""
    if not parameters:
        return
    reached = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    distributed.all_reduce(reached)
    for bucket in _buckets([p for p, count in zip(parameters, reached.tolist(), strict=True) if count]):
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])
        distributed.all_reduce(flat)
        for parameter, gradient in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
            parameter.grad = gradient.view_as(parameter)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one precision, some millions of numbers at a time."""
    for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
        bucket: list[nn.Parameter] = []
        for parameter in (parameter for parameter in parameters if parameter.dtype is dtype):
            if bucket and sum(p.numel() for p in bucket) + parameter.numel() > _BUCKET:
                yield bucket
                bucket = []
            bucket.append(parameter)
        yield bucket


def _clip(parameters: Sequence[nn.Parameter], clip: float) -> Tensor:
    """Norm of the gradients before they are clipped."""
    if not any(fsdp.is_sharded(parameter) for parameter in parameters):
        return nn.utils.clip_grad_norm_(parameters, clip or math.inf)
    norm = fsdp.total_norm(cast(Tensor, parameter.grad) for parameter in parameters)
    for part in fsdp.kinds(parameters):
        nn.utils.clip_grads_with_norm_(part, clip or math.inf, norm)
    return norm


def _device(name: str) -> torch.device:
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator if accelerator is not None else torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # else all processes would take memory of the first
        torch.empty(0, device=device)
    # torch raises RuntimeError for an unknown name and AssertionError for a build without the device.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        help = "backend.device: auto takes what is there"
        raise BuildError("B002", f"no device '{name}' here: {str(error).splitlines()[0]}", help=help) from None
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return cast(torch.dtype, getattr(torch, name))
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32


def build(config: TorchConfig, context: Context) -> TorchBackend:
    """The factory of the component."""
    return TorchBackend(config.device, config.dtype, config.shard)
