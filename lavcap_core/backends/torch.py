"""The backend `torch`: cpu, cuda and mps."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from lavcap_core.builtin import TorchConfig
from lavcap_core.component import Context
from lavcap_core.errors import BuildError
from lavcap_core.tuning import load_trained, trained_state

__all__ = ["TorchBackend", "build"]


class TorchBackend:
    """Computes on one torch device.

    Args:
        device: a torch device, or ``auto`` for the best one that is there.
        dtype: precision of autocast, or ``auto``.

    Raises:
        BuildError: B002 if there is no such device here.
    """

    def __init__(self, device: str = "auto", dtype: str = "auto") -> None:
        self.device = _device(device)
        self.dtype = _dtype(dtype, self.device)
        self.index = 0
        self.processes = 1
        self.scaled = False
        self._accelerator: Any = None

    def place(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device; its parameters keep their precision."""
        return module.to(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, or nothing in float32."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

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

    def launch(self) -> None:
        """Joins the processes that `torchrun` started, through accelerate; alone, does nothing."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and self._accelerator is None:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=self.device.type == "cpu")
            self.device = self._accelerator.device
            self.index, self.processes = self._accelerator.process_index, self._accelerator.num_processes

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on the device."""
        return model.to(self.device)

    def optimiser(self, groups: Sequence[Mapping[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW([dict(group) for group in groups], betas=betas)

    def seed(self, seed: int) -> None:
        """Seeds torch's generators, those of devices too."""
        torch.manual_seed(seed)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of this process's part of the loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def gradients(self, model: nn.Module, clip: float) -> Tensor:
        """Sums gradients over all processes and clips their norm."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.processes > 1:
            self._sum_gradients(parameters)
        return nn.utils.clip_grad_norm_(parameters, clip or math.inf)

    def _sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        # One message for all; a parameter that this process's clips didn't reach adds nothing.
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        summed = self._accelerator.reduce(flat, "sum").split([p.numel() for p in parameters])
        for parameter, gradient in zip(parameters, summed, strict=True):
            parameter.grad = gradient.view_as(parameter)

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """Takes the step and clears the gradients."""
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def sum(self, values: Tensor) -> Tensor:
        """Sums numbers over all processes."""
        if self.processes == 1:
            return values
        summed: Tensor = self._accelerator.reduce(values.to(self.device), "sum")
        return summed

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """Joins lists of all processes."""
        if self.processes == 1:
            return list(values)
        from accelerate.utils import gather_object

        joined: list[Any] = gather_object(list(values))
        return joined

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.processes > 1:
            self._accelerator.wait_for_everyone()

    def trained(self, model: nn.Module) -> dict[str, Tensor]:
        """What training changes of the model."""
        return trained_state(model)

    def load_trained(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Puts it back."""
        load_trained(model, state)

    def optimiser_state(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """State of the optimiser."""
        return optimiser.state_dict()

    def load_optimiser(self, model: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Puts it back."""
        optimiser.load_state_dict(dict(state))


def _device(name: str) -> torch.device:
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator if accelerator is not None else torch.device("cpu")
    try:
        device = torch.device(name)
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
    return TorchBackend(config.device, config.dtype)
