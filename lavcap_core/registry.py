"""The index of installed components, made from entry points without importing a plugin.

Registration has three steps, each later and dearer: the index (metadata only), the description (imports the plugin's
light ``plugin.py``), and the build (imports what the component needs). A plugin that fails at one of them stops nothing
but the specs that use it, unless ``LAVCAP_STRICT=1``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata as metadata
import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lavcap_core import catalog
from lavcap_core.errors import LavcapError, PluginError

if TYPE_CHECKING:
    from lavcap_core.component import Component

__all__ = ["EXTRA_GROUPS", "GROUP", "Entry", "Registry", "installed", "suggest"]

GROUP = "lavcap."
"""Prefix of all entry-point groups."""

EXTRA_GROUPS = ("preset", "sweep", "command", "hooks")
"""Groups whose entries are not components."""


@dataclass(frozen=True)
class Entry:
    """An entry point of a plugin.

    Attributes:
        kind: group without its prefix.
        name: name in the group.
        value: what it points to, ``module:attribute``.
        distribution: who offers it.
        version: of the distribution.
        requires: requirements of the distribution, as in its metadata.
    """

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    requires: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Module that the entry point names."""
        return self.value.partition(":")[0].strip()

    @property
    def attribute(self) -> str:
        """Attribute that the entry point names."""
        return self.value.partition(":")[2].strip()

    @property
    def label(self) -> str:
        """``distribution/name``, which a spec may write behind ``use:``."""
        return f"{self.distribution}/{self.name}"

    def load(self) -> object:
        """Imports what it points to."""
        return getattr(importlib.import_module(self.module), self.attribute)

    def unmet(self) -> list[str]:
        """What is missing for it, from metadata and the catalogue only: requirements, and modules not installed."""
        missing = [text for text in self.requires if not _is_met(text)]
        plugin = catalog.known().get(self.distribution)
        modules = plugin.needs_modules if plugin else ()
        return missing + [module for module in modules if importlib.util.find_spec(module) is None]


def _is_met(text: str) -> bool:
    # Imported here: parsing requirements is only for listing and describing, not for `lavcap --help`.
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return False
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return True
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _scan() -> Iterator[Entry]:
    seen = set()
    for distribution in metadata.distributions():
        text = distribution.read_text("entry_points.txt")
        # Most distributions have none of ours; their metadata, which is slow to parse, isn't even opened.
        if text is None or f"[{GROUP}" not in text:
            continue
        name = distribution.name
        # The first on the path wins, as it does on import: an older copy further down is never what runs.
        if name in seen:
            continue
        seen.add(name)
        requires = tuple(distribution.requires or ())
        for point in distribution.entry_points:
            if point.group.startswith(GROUP):
                kind = point.group.removeprefix(GROUP)
                yield Entry(kind, point.name, point.value, name, distribution.version, requires)


def suggest(name: str, names: Iterable[str]) -> str | None:
    """``did you mean 'x'?`` for the nearest of the names, or None."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else None


class Registry:
    """Installed components.

    Args:
        entries: the index; default: entry points of the installed distributions.
    """

    def __init__(self, entries: Iterable[Entry] | None = None) -> None:
        self._given = None if entries is None else tuple(entries)
        self._described: dict[Entry, Component | PluginError] = {}

    @cached_property
    def _index(self) -> tuple[Entry, ...]:
        entries = _scan() if self._given is None else self._given
        return tuple(sorted(entries, key=lambda entry: (entry.kind, entry.name, entry.distribution)))

    def entries(self, kind: str | None = None) -> tuple[Entry, ...]:
        """Entries of one kind, or all."""
        return tuple(entry for entry in self._index if kind in (None, entry.kind))

    def find(self, kind: str, name: str) -> Entry:
        """Entry of a component, named ``name`` or ``distribution/name``.

        Raises:
            PluginError: R001 if there is none, R002 if several distributions offer it.
        """
        distribution, _, short = name.rpartition("/")
        found = [e for e in self.entries(kind) if e.name == short and distribution in ("", e.distribution)]
        if not found:
            raise self._unknown(kind, name)
        if len(found) > 1:
            owners = ", ".join(f"{entry.distribution} {entry.version}" for entry in found)
            help = "write " + " or ".join(f"use: {entry.label}" for entry in found)
            raise PluginError("R002", f"several distributions offer {_a(kind)} named '{short}': {owners}", help=help)
        return found[0]

    def _unknown(self, kind: str, name: str) -> PluginError:
        message = f"no {kind.replace('_', ' ')} named '{name}' is installed"
        plugins = catalog.find(kind, name.rpartition("/")[2])
        if plugins:
            return PluginError("R001", message, help=" or ".join(plugin.install for plugin in plugins))
        have = [entry.name for entry in self.entries(kind)]
        help = suggest(name, have) or self._suggest_known(kind, name)
        return PluginError("R001", message, help=help or f"installed are: {', '.join(have) or 'none'}")

    @staticmethod
    def _suggest_known(kind: str, name: str) -> str | None:
        near = suggest(name, catalog.names(kind))
        if near is None:
            return None
        return f"{near} ({catalog.find(kind, near.split(chr(39))[1])[0].install})"

    def describe(self, entry: Entry) -> Component:
        """Imports the plugin's light module and gives the component's descriptor.

        Raises:
            PluginError: R003 if the import fails, R004 for an unknown API number, R005 if the plugin needs another
                lavcap-core, R006 if the entry point gives something else than a descriptor.
        """
        if entry not in self._described:
            try:
                self._described[entry] = _describe(entry)
            except PluginError as error:
                self._described[entry] = error
        result = self._described[entry]
        if isinstance(result, PluginError):
            raise result
        return result

    def get(self, kind: str, name: str) -> tuple[Entry, Component]:
        """Entry and descriptor of a component; raises as `find` and `describe` do."""
        entry = self.find(kind, name)
        return entry, self.describe(entry)

    def broken(self) -> list[tuple[Entry, LavcapError]]:
        """Every component that can't be described, with the reason; imports all plugins' light modules."""
        broken: list[tuple[Entry, LavcapError]] = []
        for entry in self.entries():
            try:
                if entry.kind not in EXTRA_GROUPS:
                    self.describe(entry)
            except PluginError as error:
                broken.append((entry, error))
        return broken

    def check_strictly(self) -> None:
        """Raises every broken plugin's error if ``LAVCAP_STRICT=1`` (for CI); does nothing otherwise."""
        if os.environ.get("LAVCAP_STRICT") == "1" and (broken := self.broken()):
            raise PluginError([problem for _, error in broken for problem in error.problems])


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind.replace('_', ' ')}"


def _describe(entry: Entry) -> Component:
    where = f"{entry.kind} '{entry.name}' of {entry.distribution} {entry.version} ({entry.value})"
    _check_core_version(entry, where)
    try:
        found = entry.load()
    # A plugin may fail at import in any way, even by SystemExit; it must stop nothing else.
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        help = f"see the whole reason with: python -c 'import {entry.module}'"
        raise PluginError("R003", f"{where} can't be imported: {reason}", help=help) from error
    return _check_descriptor(found, entry, where)


def _check_core_version(entry: Entry, where: str) -> None:
    for text in entry.requires:
        if text.lower().replace("_", "-").startswith("lavcap-core") and not _is_met(text):
            have = metadata.version("lavcap-core")
            help = f"pip install --upgrade lavcap-core {entry.distribution}"
            raise PluginError("R005", f"{where} needs {text.split(';')[0].strip()}, and {have} is here", help=help)


def _check_descriptor(found: object, entry: Entry, where: str) -> Component:
    from lavcap_core.component import API, Component

    if not isinstance(found, Component):
        raise PluginError("R006", f"{where} is a {type(found).__name__}, not a lavcap_core.component.Component")
    if found.api not in (API, API - 1):
        help = f"pip install --upgrade {'lavcap-core' if found.api > API else entry.distribution}"
        raise PluginError("R004", f"{where} is written for API {found.api}; this core has {API}", help=help)
    if (found.kind, found.name) != (entry.kind, entry.name):
        raise PluginError("R006", f"{where} describes itself as {found.kind} '{found.name}'")
    return found


_installed = Registry()


def installed() -> Registry:
    """The registry of this environment, read once per process."""
    return _installed
