"""What Habana's software offers, imported when a backend is built: it is on no package index, and slow to start.

Facts are from Intel's documentation of Gaudi software 1.2x (docs.habana.ai), named at each place.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any, Literal

from lavcap_core.errors import BuildError

__all__ = ["Habana", "load", "versions"]

_SWITCH = "PT_HPU_LAZY_MODE"
_HELP = "it comes with Intel Gaudi's PyTorch images and installer, and is on no package index: see lavcap-hpu's README"


@dataclass(frozen=True)
class Habana:
    """What was found.

    Attributes:
        lazy: whether operations are gathered into graphs.
        mark_step: ends a graph and starts its computation.
    """

    lazy: bool
    mark_step: Callable[[], Any]

    def offered(self, module: str, name: str) -> Any:
        """A class or function of Habana's torch, or None if this version has none."""
        try:
            return getattr(importlib.import_module(f"habana_frameworks.torch.{module}"), name, None)
        except ImportError:
            return None


def load(mode: Literal["auto", "lazy", "eager"] = "auto") -> Habana:
    """Starts Habana's software in this process, once.

    The mode is read from the environment when it starts, so that it can't be changed later ("PyTorch Gaudi Theory of
    Operations").

    Raises:
        BuildError: B110 if the software isn't installed; B111 if it can't be imported or finds no device; B112 if it
            was started in the other mode; B113 if accelerate can't be used.
    """
    if importlib.util.find_spec("habana_frameworks") is None:
        raise BuildError("B110", "backend 'hpu' needs habana_frameworks, which is not installed", help=_HELP)
    if mode != "auto":
        os.environ.setdefault(_SWITCH, "1" if mode == "lazy" else "0")
    core = _start()
    lazy = _is_lazy()
    if mode != "auto" and lazy != (mode == "lazy"):
        other = "lazy" if lazy else "eager"
        help = f"set backend.mode: {other}, or {_SWITCH}={int(mode == 'lazy')} before the process starts"
        raise BuildError("B112", f"backend.mode is {mode}, but Habana's software runs in {other} mode here", help=help)
    return Habana(lazy, core.mark_step)


def _start() -> ModuleType:
    try:
        from accelerate.utils import is_hpu_available
    except ImportError as error:
        help = "pip install 'accelerate>=1.5' --no-deps, so that Gaudi's torch stays"
        raise BuildError("B113", f"backend 'hpu' needs accelerate of 1.5 or later: {error}", help=help) from None
    try:
        core = importlib.import_module("habana_frameworks.torch.core")
        # Before anything touches a device: which one belongs to this process is settled when hccl is imported
        # ("Distributed Backend Initialization").
        there = is_hpu_available(init_hccl=int(os.environ.get("WORLD_SIZE", "1")) > 1)
    # A driver that doesn't fit shows as any of these.
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        help = "versions of driver, firmware and Gaudi's PyTorch must fit: see hl-smi"
        raise BuildError("B111", f"habana_frameworks is installed, but can't start: {reason}", help=help) from None
    if not there:
        help = "hl-smi lists the devices; in a container: --runtime=habana -e HABANA_VISIBLE_DEVICES=all"
        raise BuildError("B111", "habana_frameworks is installed, but there is no Gaudi in this machine", help=help)
    return core


def _is_lazy() -> bool:
    """What Habana's software says of itself; versions that don't, are told by the environment, lazy by default."""
    with contextlib.suppress(ImportError, AttributeError):
        internal: Any = importlib.import_module("habana_frameworks.torch.utils.internal")
        return bool(internal.is_lazy())
    return os.environ.get(_SWITCH, "1") == "1"


def versions() -> dict[str, str]:
    """Versions of what takes part, as the installed metadata has them."""
    found = {}
    for name in ("lavcap-core", "lavcap-hpu", "torch", "habana-torch-plugin", "accelerate", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
