"""Run events, as pluggy hook specifications: behaviour that plugins add to a run, on one screen.

A plugin implements some of them with `hookimpl` and registers the module or object in the entry-point group
``lavcap.hooks``. They are loaded when a run starts, and one that can't be gives a warning; an exception
in one that was loaded ends the run, as one of the run's own would.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pluggy

from lavcap_core.registry import installed

__all__ = ["hookimpl", "hookspec", "manager"]

hookspec = pluggy.HookspecMarker("lavcap")
hookimpl = pluggy.HookimplMarker("lavcap")


class RunEvents:
    """Events of captioning and training runs."""

    @hookspec
    def run_start(self, verb: str, spec: Mapping[str, Any]) -> None:
        """A run begins; ``spec`` is filled in."""

    @hookspec
    def step_end(self, step: int, terms: Mapping[str, float]) -> None:
        """A training step is done; ``terms`` are loss terms and learning rate."""

    @hookspec
    def caption_end(self, row: Mapping[str, Any]) -> None:
        """A clip is done; ``row`` is its row of captions.jsonl."""

    @hookspec
    def run_end(self, verb: str, summary: Mapping[str, Any]) -> None:
        """A run is over, or was interrupted."""


def manager() -> pluggy.PluginManager:
    """A manager with all installed hooks; one that can't be loaded gives a warning."""
    hooks = pluggy.PluginManager("lavcap")
    hooks.add_hookspecs(RunEvents)
    for entry in installed().entries("hooks"):
        try:
            hooks.register(entry.load(), name=entry.label)
        except Exception as error:
            warnings.warn(f"the hooks of {entry.label} can't be loaded: {error}", stacklevel=2)
    return hooks
