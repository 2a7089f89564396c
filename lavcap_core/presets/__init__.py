"""Presets: specs that come with a distribution, found through the entry points ``lavcap.preset``; sweeps likewise.

An entry point ``name = "package.folder:file"`` names the resource ``package/folder/file.yaml``; nothing is imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from lavcap_core.errors import PluginError
from lavcap_core.registry import Entry, installed

__all__ = ["find", "names", "path"]


def names(kind: str = "preset") -> list[str]:
    """Names of the installed presets, or of the installed ``sweep`` files."""
    return sorted({entry.name for entry in installed().entries(kind)})


def find(name: str, kind: str = "preset") -> Path | None:
    """File of an installed preset (or sweep); None for what looks like a file or is none."""
    if name not in names(kind):
        return None
    return path(installed().find(kind, name))


def path(entry: Entry) -> Path:
    """File of a preset or sweep.

    Raises:
        PluginError: R007 if the distribution doesn't hold it.
    """
    package, *folders = entry.module.split(".")
    found = importlib.util.find_spec(package)
    for root in (found.submodule_search_locations or ()) if found else ():
        file = Path(root, *folders, f"{entry.attribute}.yaml")
        if file.is_file():
            return file
    raise PluginError("R007", f"{entry.distribution} {entry.version} doesn't hold its {entry.kind} '{entry.name}'")
