"""A device `hpu` that computes on the CPU: torch's own dispatch, with tensors that only say where they are.

A tensor of it is a wrapper around one of the CPU. Each operation goes through torch's dispatcher as on a real device,
is refused where a real one would refuse it (tensors of two devices; float64, which a Gaudi doesn't have), and is
computed on what is wrapped. So what was left on the CPU is found without the device.

Inside torch the tensors are of the device that torch gives to Python (`privateuseone`): C++ can't be taught another one
from here. What Python sees, `device` and `torch.device("hpu")`, is hpu.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.library import Library, fallthrough_kernel
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

HPU = torch.device("hpu", 0)
_INSIDE = torch.device("privateuseone", 0)
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastHPU)
_LACKING = (torch.float64, torch.complex64, torch.complex128)
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
_LOWERED = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "scaled_dot_product_attention")
"""A part of what Habana's autocast computes in bfloat16."""
_KEPT: list[Any] = []


class HpuTensor(torch.Tensor):
    """Says that it is on the device; `inner` holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> HpuTensor:
        with torch.inference_mode(inner.is_inference()):  # a parameter's view is none, even in that mode
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=_INSIDE,
                _extra_dispatch_keys=_AUTOCAST,
            )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:
        return HPU

    def __repr__(self) -> str:
        return f"HpuTensor({self.inner!r})"

    def tolist(self) -> Any:  # torch has it for its own class only
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Captured:
    """Operations in their order, to be done again on other numbers; what Python did meanwhile is not among them."""

    current: Captured | None = None

    def __init__(self) -> None:
        self.steps: list[tuple[Callable[[], Any], list[torch.Tensor]]] = []

    def add(self, func: Any, args: Any, again: Callable[[], Any], found: Any) -> None:
        chooses = func is torch.ops.aten.index.Tensor and any(index.dtype == torch.bool for index in tensors(args[1]))
        if chooses or func is torch.ops.aten.nonzero.default or not tensors(found):
            raise RuntimeError(f"{func} is not supported during HPU Graph capturing")
        self.steps.append((again, tensors(found)))

    def replay(self) -> None:
        for again, kept in self.steps:
            for old, new in zip(kept, tensors(again()), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextmanager
def capturing() -> Iterator[Captured]:
    """Notes what is computed inside."""
    Captured.current = Captured()
    try:
        yield Captured.current
    finally:
        Captured.current = None


def tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor)]


def exchanged(values: Any, others: list[torch.Tensor]) -> Any:
    """The same with other tensors, in their order."""
    leaves, shape = tree_flatten(values)
    rest = iter(others)
    return tree_unflatten([next(rest) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], shape)


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation, on what is wrapped."""
    refuse_mixed(func, args, kwargs)
    target = kwargs.get("device")
    on_hpu = target is None or torch.device(target).type in (HPU.type, _INSIDE.type, "emulated")
    inner_args, inner_kwargs = tree_map(inside, (args, kwargs))

    def again() -> Any:
        return func(*inner_args, **inner_kwargs)

    found = again()
    if Captured.current is not None:
        Captured.current.add(func, args, again, found if on_hpu else None)
    return same_objects(func, args, tree_map(wrap, found)) if on_hpu else found


def inside(value: Any) -> Any:
    if isinstance(value, HpuTensor):
        return value.inner
    return torch.device("cpu") if isinstance(value, torch.device) else value


def wrap(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype in _LACKING:
        raise RuntimeError(f"{value.dtype} is not supported on hpu")
    return HpuTensor(value)


def same_objects(func: Any, args: Any, found: Any) -> Any:
    """What is written in place comes back as the tensor that it was."""
    written = [
        arg
        for arg, given in zip(args, func._schema.arguments, strict=False)
        if given.alias_info is not None and given.alias_info.is_write and isinstance(arg, torch.Tensor)
    ]
    for tensor in written:
        if isinstance(tensor, HpuTensor) and tensor.shape != tensor.inner.shape:
            raise NotImplementedError(f"{func} changes a shape in place")
    return written[0] if written and isinstance(found, torch.Tensor) else found


def refuse_mixed(func: Any, args: Any, kwargs: Any) -> None:
    """Numbers without dimension may come from the CPU, as on other devices."""
    given = tensors((args, kwargs))
    strangers = [value for value in given if not isinstance(value, HpuTensor) and value.dim() > 0]
    if strangers and len(strangers) < len(given) and func not in _COPIES:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {HPU} and cpu")


def create(op: Any, *args: Any, **kwargs: Any) -> Any:
    """What reaches the device's own key: tensors made on it."""
    return compute(op, args, kwargs)


def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """How torch itself brings numbers to and from a device, where Python has no part in it (`torch.tensor`)."""
    inside(target).copy_(inside(source))
    return target


def lowered(op: Any) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype("hpu")

        def cast(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value

        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return op(*tree_map(cast, args), **tree_map(cast, kwargs))

    return call


class Guard(torch._C._acc.DeviceGuard):  # type: ignore[misc]
    """What autograd asks of a device: here, that there is one."""

    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1  # type: ignore[attr-defined]


class Hooks(torch._C._acc.PrivateUse1Hooks):  # type: ignore[misc]
    """What torch asks of an accelerator."""

    def is_available(self) -> bool:
        return True

    def is_built(self) -> bool:
        return True

    def has_primary_context(self, dev_id: int) -> bool:
        return True


class Unavailable(ModuleType):
    """`torch.emulated`: the device inside is nobody's."""

    @staticmethod
    def is_available() -> bool:
        return False

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Draws are the CPU's."""


def install() -> None:
    """Makes the device known to torch; can't be undone, so it is for a process of its own."""
    torch.utils.rename_privateuse1_backend("emulated")
    torch._register_device_module("emulated", Unavailable("torch.emulated"))
    guard, hooks, library = Guard(), Hooks(), Library("_", "IMPL")
    torch._C._acc.register_python_privateuseone_device_guard(guard)
    torch._C._acc.register_python_privateuseone_hook(hooks)
    library.fallback(create, "HPU")
    library.fallback(create, "PrivateUse1")
    library.fallback(fallthrough_kernel, "AutocastHPU")
    aten = Library("aten", "IMPL")
    aten.impl("_copy_from", copy_from, "PrivateUse1")
    for name in _LOWERED:
        aten.impl(name, lowered(getattr(torch.ops.aten, name).default), "AutocastHPU")
    _KEPT.extend([guard, hooks, library, aten, sys.modules[__name__]])
    torch.__future__.set_swap_module_params_on_conversion(True)  # a wrapper can't be put into a CPU tensor's place
