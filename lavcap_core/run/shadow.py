"""Runs a module's own code on torch's meta device, with the values of what doesn't hang on weights or on a clip.

Tensors on the meta device have shapes and no values, so that a network of any size runs on any machine. But code asks
for values: how many tokens are real, whether two frames are equal. Masks, lengths and times follow from sizes alone, so
they are computed for real, beside the meta tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from lavcap_core.errors import BuildError

__all__ = ["LARGEST", "Shadow"]

LARGEST = 1 << 16
"""Elements of the largest tensor whose values are kept."""

_aten = torch.ops.aten
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._unsafe_index.Tensor}


class Shadow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps, while it is open, values of small meta tensors that are made of sizes, ranges and constants only.

    Values are kept per storage, so that views and changes in place are those of the real tensors. A mask whose values
    are not known is taken to be all True, as for a clip that fills its window and in which no two frames are equal.

    Raises:
        BuildError: B052 where the code asks for another value that isn't known.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # The meta tensor is kept too: a storage that is gone would leave its address to another.
        self._memory: dict[int, tuple[Tensor, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation on meta tensors, and beside it on the values if they are known."""
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if func is _aten._local_scalar_dense.default:
                return self._read(args[0]).item()
            if func is _aten._to_copy.default and str(kwargs.get("device")) == "cpu":
                return _aten._to_copy.default(self._read(args[0]), **kwargs)
            if func is _aten.nonzero.default:
                return self._places(args[0])
        if func in _INDEXED:
            args = (args[0], self._integers(args[1]), *args[2:])
        out = func(*args, **kwargs)
        self._follow(func, args, kwargs, out)
        return out

    def _value(self, tensor: Tensor) -> Tensor | None:
        """What a tensor holds, as a view of its values; None if that isn't known."""
        if not tensor.is_meta:
            return tensor
        found = self._memory.get(_key(tensor))
        if found is None:
            return None
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(found[1], tensor.storage_offset(), tensor.size(), tensor.stride())

    def _read(self, tensor: Tensor) -> Tensor:
        value = self._value(tensor)
        if value is None and tensor.dtype == torch.bool:
            return torch.ones(tensor.shape, dtype=torch.bool)
        if value is None:
            help = "what is computed from a clip or from weights has a shape here, and no value"
            raise BuildError("B052", "its code asks for values, which can't be told without a clip", help=help)
        return value

    def _keep(self, tensor: Tensor, value: Tensor) -> None:
        held = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
        self._memory[_key(tensor)] = (tensor, held.copy_(value).untyped_storage())

    def _places(self, mask: Tensor) -> Tensor:
        """[n, dimensions] int64 of what isn't 0; for a mask that isn't known, of everything."""
        value = self._read(mask).nonzero()
        places = torch.empty(value.shape, dtype=torch.int64, device="meta")
        self._keep(places, value)
        return places

    def _integers(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Indices with a vector per dimension in the place of each mask, whose size depends on values."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is None or not index.is_meta or index.dtype != torch.bool:
                found.append(index)
            else:
                value = self._read(index)
                for column in value.nonzero().T:
                    found.append(torch.empty(column.shape, dtype=torch.int64, device="meta"))
                    self._keep(found[-1], column)  # type: ignore[arg-type]
        return found

    def _follow(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        made = [tensor for tensor in _tensors(out) if tensor.is_meta]
        values = [self._value(tensor) for tensor in _tensors((args, kwargs))]
        # What is drawn differs each time, and what is left empty holds anything.
        unsure = torch.Tag.nondeterministic_seeded in func.tags or "empty" in func.__name__
        if unsure or any(value is None for value in values) or sum(tensor.numel() for tensor in made) > LARGEST:
            for tensor in _written(func, args):
                self._memory.pop(_key(tensor), None)
        elif made:
            self._compute(func, args, kwargs, made)

    def _compute(self, func: Any, args: Any, kwargs: Any, made: Sequence[Tensor]) -> None:
        """Does to the values what was done to the meta tensors."""
        args, kwargs = tree_map_only(Tensor, self._value, (args, kwargs))
        kwargs = {name: "cpu" if str(value) == "meta" else value for name, value in kwargs.items()}
        result = [tensor for tensor in _tensors(func(*args, **kwargs))]
        for tensor, value in zip(made, result, strict=True):
            if _key(tensor) not in self._memory:
                self._keep(tensor, value)


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


def _written(func: Any, args: Sequence[Any]) -> Iterator[Tensor]:
    """Arguments that an operation changes in place."""
    for part, value in zip(func._schema.arguments, args, strict=False):
        if part.alias_info is not None and part.alias_info.is_write and isinstance(value, Tensor) and value.is_meta:
            yield value
