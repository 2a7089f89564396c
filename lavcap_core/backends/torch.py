"""The backend `torch`: cpu, cuda and mps."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from lavcap_core.builtin import TorchConfig
from lavcap_core.component import Context
from lavcap_core.errors import BuildError

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
