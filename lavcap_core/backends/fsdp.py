"""Weights spread over processes, for decoders that don't fit on one device: PyTorch's `fully_shard` (FSDP).

Each process keeps a part of every block's weights, their gradients and their optimiser state, and collects a block's
weights for as long as that block computes (Zhao et al. 2023, arXiv 2304.11277). Weights keep their precision: frozen
ones in bfloat16 beside LoRA in float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from lavcap_core.errors import BuildError

__all__ = ["LARGE", "broadcast", "is_sharded", "kinds", "shard", "spread_like", "total_norm", "whole"]

LARGE = 1 << 24
"""Parameters from which on a layer outside the blocks (embeddings, the head) is spread too."""


def broadcast(module: nn.Module) -> None:
    """Gives every process the parameters and buffers that process 0 has, but for those that are spread already."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if not is_sharded(tensor):
            sent = tensor.detach().contiguous()
            distributed.broadcast(sent, src=0)
            tensor.detach().copy_(sent)


def shard(model: nn.Module, device: torch.device) -> None:
    """Spreads the decoder of a model over all processes, block by block, in place; the rest stays whole on each.

    Only the decoder, since all processes must run what is spread equally often: whether an encoder runs, and on how
    many parts, depends on a batch's clips.

    Args:
        model: has its decoder in the attribute ``decoder``, or is one.
        device: of this process; only one block at a time is on it whole.

    Raises:
        BuildError: B065 if this torch can't, or if the decoder has nothing to spread.
    """
    fully_shard, mesh = _tools(device)
    decoder = cast(nn.Module, getattr(model, "decoder", model))
    units = list(_units(decoder))
    if not units:
        help = "backend.shard: false; shard is for decoders that are a stack of transformer blocks"
        raise BuildError("B065", "there is nothing in this decoder to spread over processes", help=help)
    for unit in units:
        _require_one_precision(unit)
        broadcast(unit.to(device))
        # Told, since the default depends on what ran first: weights are let go as soon as a block is done.
        unit = fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        unit.set_gradient_divide_factor(1.0)  # gradients are summed over processes, not averaged
        unit.set_force_sum_reduction_for_comms(True)  # the only kind that gloo has
    rest = {parameter for parameter in model.parameters() if not is_sharded(parameter)}
    fully_shard(model, mesh=mesh, ignored_params=rest)  # what runs first, and makes all blocks share their buffers
    for part in decoder.modules():
        if hasattr(part, "generate"):
            # transformers then goes on generating until every process is done; else those left would wait for ever.
            part._is_fsdp_managed_module = True  # type: ignore[assignment]


def _tools(device: torch.device) -> tuple[Any, Any]:
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard
    except ImportError:
        FSDPModule = fully_shard = None  # type: ignore[assignment,misc] # noqa: N806
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        help = "install a newer torch (2.13 has it), or set backend.shard: false"
        raise BuildError("B065", f"torch {torch.__version__} can't spread weights as is needed here", help=help)
    return fully_shard, init_device_mesh(device.type, (distributed.get_world_size(),))


def _units(decoder: nn.Module) -> Iterator[nn.Module]:
    """What is spread, each as one: transformer blocks, and large layers outside them that share no weights."""
    owners = Counter(id(parameter) for part in decoder.modules() for parameter in part.parameters(recurse=False))
    for unit in dict.fromkeys([*_blocks(decoder), *_large(decoder)]):
        parameters = list(unit.parameters())
        inside = Counter(id(parameter) for part in unit.modules() for parameter in part.parameters(recurse=False))
        if parameters and all(owners[key] == count for key, count in inside.items()):
            yield unit


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Elements of the outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def _large(module: nn.Module) -> Iterator[nn.Module]:
    """Layers outside such lists that are large."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            continue
        if sum(parameter.numel() for parameter in child.parameters(recurse=False)) >= LARGE:
            yield child
        else:
            yield from _large(child)


def _require_one_precision(unit: nn.Module) -> None:
    kinds = sorted({str(p.dtype).split(".")[-1] for p in unit.parameters() if p.requires_grad})
    if len(kinds) > 1:
        help = "decoder.dtype: float32, or train it with LoRA, or backend.shard: false"
        what = f"what is trained of a block has several precisions ({', '.join(kinds)}), and can't be spread"
        raise BuildError("B065", what, help=help)


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds but a part of a tensor."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: Tensor) -> Tensor:
    """A copy of a tensor in one piece, on the CPU; all processes call it."""
    piece: Tensor = cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor
    return piece.detach().to("cpu", copy=True)


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that all processes have, spread as another one is (if that is, and both are of one shape)."""
    if not is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = cast(Any, like).device_mesh, cast(Any, like).placements
    return distribute_tensor(tensor.to(like.device), mesh, placements)


def kinds(tensors: Iterable[Tensor]) -> list[list[Any]]:
    """Whole tensors and such that are spread, apart, where there are any: no operation on many at once takes both."""
    parts: dict[bool, list[Tensor]] = {}
    for tensor in tensors:
        parts.setdefault(is_sharded(tensor), []).append(tensor)
    return list(parts.values())


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Norm of gradients of which some are spread; all processes call it."""
    norms: list[Any] = [nn.utils.get_total_norm(part) for part in kinds(gradients)]
    joined: Tensor = torch.linalg.vector_norm(
        torch.stack([norm.full_tensor() if is_sharded(norm) else norm for norm in norms])
    )
    return joined
