"""The catalogue of known plugins, ``registry.toml``: what to install for a name that isn't there."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

__all__ = ["Known", "find", "known", "load", "names"]


@dataclass(frozen=True)
class Known:
    """A plugin distribution that the catalogue knows.

    Attributes:
        distribution: its name on the package index.
        summary: one line.
        version: range that works with this core.
        api: version of the interfaces that it implements.
        licence: SPDX name.
        status: ``stable``, ``beta`` or ``planned``.
        provides: kind to names of components.
        needs_modules: modules that must be there beside its declared requirements.
        needs_help: how to get these modules, where no package index has them.
        source: papers and equations that it implements.
    """

    distribution: str
    summary: str
    version: str
    api: int
    licence: str
    status: str
    provides: Mapping[str, tuple[str, ...]]
    needs_modules: tuple[str, ...] = ()
    needs_help: str = ""
    source: str = ""

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install {self.distribution}"


def load(text: str) -> dict[str, Known]:
    """Reads a catalogue; keys are names of distributions."""
    plugins = tomllib.loads(text)["plugin"]
    return {name: _known(name, table) for name, table in plugins.items()}


def _known(name: str, table: dict[str, object]) -> Known:
    provides = table.get("provides", {})
    assert isinstance(provides, dict), name
    needs = table.get("needs_modules", [])
    assert isinstance(needs, list), name
    return Known(
        distribution=name,
        summary=str(table["summary"]),
        version=str(table["version"]),
        api=int(str(table["api"])),
        licence=str(table["licence"]),
        status=str(table["status"]),
        provides={kind: tuple(names) for kind, names in provides.items()},
        needs_modules=tuple(needs),
        needs_help=str(table.get("needs_help", "")),
        source=str(table.get("source", "")),
    )


@cache
def known() -> Mapping[str, Known]:
    """The catalogue of this core: inside the wheel, or at the root of a checkout."""
    inside = resources.files("lavcap_core") / "registry.toml"
    # A wheel carries the file in the package; an editable install doesn't, and its checkout has it beside the package.
    place = inside if inside.is_file() else Path(__file__).parent.parent / "registry.toml"
    return load(place.read_text(encoding="utf-8"))


def find(kind: str, name: str) -> list[Known]:
    """Plugins that provide a component."""
    return [plugin for plugin in known().values() if name in plugin.provides.get(kind, ())]


def names(kind: str) -> list[str]:
    """Names of all known components of a kind."""
    return sorted({name for plugin in known().values() for name in plugin.provides.get(kind, ())})
