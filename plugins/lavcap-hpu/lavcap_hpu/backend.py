"""The backend `hpu`: what differs on a Gaudi from torch's other devices."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from lavcap_core.backends.torch import TorchBackend
from lavcap_core.component import Context
from lavcap_core.data import padding
from lavcap_core.errors import BuildError
from lavcap_hpu import habana
from lavcap_hpu.plugin import HpuConfig

__all__ = ["HpuBackend", "build", "padded"]


class HpuBackend(TorchBackend):
    """Computes on one Gaudi.

    In lazy mode operations are gathered until a graph is marked as ended; here that is after each backward pass, after
    each step of the optimiser ("Fused Optimizers and Custom Ops" of Intel's documentation), and after each unit of
    inference. A graph is compiled per shape, so that batches are padded to few lengths.

    Args:
        config: settings.

    Raises:
        BuildError: B110 to B113 of `lavcap_hpu.habana.load`; B112 if graphs are asked for in eager mode.
    """

    def __init__(self, config: HpuConfig) -> None:
        self.config = config
        self.habana = habana.load(config.mode)
        if config.graphs and not self.habana.lazy:
            help = "set backend.mode: lazy, or backend.graphs: false"
            raise BuildError("B112", "backend.graphs needs lazy mode, and this process runs in eager mode", help=help)
        super().__init__("hpu", "bfloat16" if config.dtype == "auto" else config.dtype)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # else `launch` says which one
            self.device = torch.device("hpu", _module().current_device())

    def place(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device; with ``graphs``, the networks of its encoders are recorded and played back."""
        placed = super().place(module)
        if self.config.graphs:
            record = self.habana.offered("hpu", "wrap_in_hpu_graph")
            for network in _networks(placed) if record is not None else ():
                record(network)  # in place: its forward
        return placed

    def shapes(self) -> AbstractContextManager[Any]:
        """Pads to the lengths of ``buckets``."""
        buckets = self.config.buckets
        return padding(lambda longest: padded(longest, buckets)) if buckets else nullcontext()

    def mark(self) -> None:
        """In lazy mode, ends the graph and starts its computation."""
        if self.habana.lazy:
            self.habana.mark_step()

    def describe(self) -> Mapping[str, Any]:
        """Hardware and versions."""
        hpu = _module()
        return {
            **super().describe(),
            "name": hpu.get_device_name(),
            "devices": hpu.device_count(),
            "mode": "lazy" if self.habana.lazy else "eager",
            **habana.versions(),
        }

    def optimiser(self, groups: Sequence[Mapping[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
        """Habana's fused AdamW where it is offered, with torch's epsilon; else torch's."""
        fused = self.habana.offered("hpex.optimizers", "FusedAdamW") if self.config.fused else None
        if fused is None:
            return super().optimiser(groups, betas)
        self._optimiser = fused([dict(group) for group in groups], betas=betas, eps=1e-8)
        return cast(torch.optim.Optimizer, self._optimiser)

    def _clip(self, parameters: Sequence[nn.Parameter], clip: float) -> Tensor:
        """Habana's fused clipping where it is offered; without a limit, torch's, which gives the norm."""
        fused = self.habana.offered("hpex.normalization", "FusedClipNorm") if self.config.fused and clip else None
        if fused is None or not parameters:
            return super()._clip(parameters, clip)
        norm: Tensor = fused(parameters, clip).clip_norm(parameters)
        return norm

    def seed(self, seed: int) -> None:
        """Seeds torch's generators, and the device's."""
        super().seed(seed)
        _module().manual_seed_all(seed)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of this process's part of the loss; ends the graph."""
        super().backward(loss)
        self.mark()

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """Takes the step and clears the gradients; ends the graph."""
        super().step(optimiser)
        self.mark()

    def sum(self, values: Tensor) -> Tensor:
        """Sums numbers over all processes; float64, which a Gaudi lacks, on the CPU."""
        if self.processes == 1 or values.dtype != torch.float64:
            return super().sum(values)
        return torch.stack(self.gather([values.cpu()])).sum(dim=0)

    def optimiser_state(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """As torch's, with the steps of each parameter, which a fused optimiser counts per group."""
        state = super().optimiser_state(model, optimiser)
        for group, moments in _by_group(model, optimiser, state) if _is_fused(optimiser) else ():
            for values in moments:
                values["step"] = torch.tensor(float(group["step"]))
        return state

    def load_optimiser(self, model: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Puts it back, whichever optimiser and device it is from."""
        if not _is_fused(optimiser):
            super().load_optimiser(model, optimiser, state)
            return
        moments = {
            name: {key: value for key, value in values.items() if key != "step"}
            for name, values in state["state"].items()
        }
        super().load_optimiser(model, optimiser, {**state, "state": moments})
        for group, found in _by_group(model, optimiser, state):
            if found:
                group["step"] = max(int(values["step"]) for values in found)


def padded(longest: int, buckets: Sequence[int]) -> int:
    """The least bucket that holds a length; beyond the last one, the least multiple of that."""
    if longest > buckets[-1]:
        return -(-longest // buckets[-1]) * buckets[-1]
    return buckets[bisect_left(buckets, longest)]


def _is_fused(optimiser: torch.optim.Optimizer) -> bool:
    """Whether it is Habana's, which keeps ``step`` in its groups; torch keeps it beside the moments."""
    return not isinstance(optimiser, torch.optim.AdamW)


def _by_group(
    model: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Groups of an optimiser, each with what a state has of its parameters."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimiser.param_groups:
        found = [state["state"].get(names[parameter]) for parameter in group["params"]]
        yield group, [values for values in found if values]


def _networks(recipe: nn.Module) -> Iterator[nn.Module]:
    """What encoders call with tensors alone: around it they read the device, which no recording can."""
    for encoder in (getattr(recipe, "audio_encoder", None), getattr(recipe, "visual_encoder", None)):
        for name in ("model", "network"):
            if isinstance(network := getattr(encoder, name, None), nn.Module):
                yield network


def _module() -> Any:
    """`torch.hpu`, which is there once Habana's software was imported."""
    return torch.get_device_module("hpu")


def build(config: HpuConfig, context: Context) -> HpuBackend:
    """The factory of the component."""
    return HpuBackend(config)
