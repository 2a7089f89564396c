"""lavcap: captions of what a machine hears and sees, out of installable plugins wired by a checked YAML spec.

    import lavcap_core as lavcap
    pipe = lavcap.load("lavcap.yaml")
    print(pipe.caption("dog.mp4"))

Names are imported when they are first used, so that importing the package costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavcap_core.builder import build
    from lavcap_core.data import Caption, Tokens
    from lavcap_core.errors import LavcapError
    from lavcap_core.pipeline import Pipeline, load
    from lavcap_core.spec import read as check

__all__ = ["Caption", "LavcapError", "Pipeline", "Tokens", "build", "check", "load"]

_HOMES = {
    "Caption": ("data", "Caption"),
    "LavcapError": ("errors", "LavcapError"),
    "Pipeline": ("pipeline", "Pipeline"),
    "Tokens": ("data", "Tokens"),
    "build": ("builder", "build"),
    "check": ("spec", "read"),
    "load": ("pipeline", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lavcap_core' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"lavcap_core.{module}"), attribute)
