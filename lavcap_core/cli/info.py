"""``lavcap info``: versions and hardware, to paste into a report."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from lavcap_core.registry import installed

__all__ = ["command"]

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors", "av", "numpy", "pydantic")


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints everything; torch is imported only if it is there, to ask for devices."""
    print(f"python {platform.python_version()}, {platform.platform()}")
    plugins = sorted({(entry.distribution, entry.version) for entry in installed().entries()})
    for name, version in plugins:
        print(f"{name} {version}")
    for name in LIBRARIES:
        print(f"{name} {_version(name)}")
    print(f"devices: {', '.join(_devices()) or 'torch is not installed'}")
    return 0


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    try:
        from lavcap_core.backends.torch import TorchBackend
    except ImportError:
        return []
    facts = TorchBackend().describe()
    names = [f"{facts['device']} ({facts['name']})"]
    return names if facts["device"] == "cpu" else [*names, "cpu"]
