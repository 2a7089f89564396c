"""Builds components from checked configurations. Torch is imported by the factories, not here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavcap_core.component import Component, Config, Port, Use
from lavcap_core.errors import BuildError
from lavcap_core.registry import Registry, installed
from lavcap_core.spec import Spec, check_component

__all__ = ["Builder", "build", "build_recipe", "build_use", "locate"]


def locate(model: str, registry: Registry | None = None) -> str:
    """Turns a model's name into a local folder or file if it is one; else gives the name, which is a hub's.

    ``source:name`` asks the weights plugin ``source``, which may fetch it first.

    Raises:
        PluginError: R001 if no such weights plugin is installed.
    """
    source, colon, name = model.partition(":")
    # "C:\\models" is a path, not a source of that name.
    if not colon or len(source) == 1 or Path(model).exists():
        return model
    plugin = build_use(check_component("weights", source, {}, registry))
    place: str = plugin.locate(name)
    return place


@dataclass(frozen=True)
class Builder:
    """What a factory gets beside its configuration (see `lavcap_core.component.Context`).

    Attributes:
        inputs: what arrives at the component.
        parts: recipes only: what the spec put into the slots.
        sections: recipes only: settings of the spec's sections.
        registry: where names are looked up.
    """

    inputs: Mapping[str, Port] = field(default_factory=dict)
    parts: Mapping[str, Use | None] = field(default_factory=dict)
    sections: Mapping[str, Config] = field(default_factory=dict)
    recipe: Component | None = None
    registry: Registry | None = None

    def build(self, use: Use, inputs: Mapping[str, Port] | None = None) -> Any:
        """Builds a component that a configuration holds; default inputs: what arrives at the holder."""
        return build_use(use, self.inputs if inputs is None else inputs, self.registry)

    def locate(self, model: str) -> str:
        """See `locate`."""
        return locate(model, self.registry)

    def build_slot(self, name: str, ports: dict[str, Port]) -> Any:
        """Builds what the spec put into a slot of the recipe, or gives None.

        Args:
            name: the slot.
            ports: what earlier slots gave, with real widths; what this one gives is added.
        """
        use = self.parts.get(name)
        if use is None or self.recipe is None:
            return None
        takes = self.recipe.slots[name].takes
        arriving = {port: ports[port] for port in takes if port in ports}
        part = build_use(use, arriving, self.registry)
        for port, given in use.component.ports(use.config, arriving).items():
            # A width that only the weights tell is known now; what they declare otherwise must agree.
            width = given.width if isinstance(given.width, int) else int(part.width)
            ports[port] = Port(given.modality, width, given.space)
        return part


def build_use(use: Use, inputs: Mapping[str, Port] | None = None, registry: Registry | None = None) -> Any:
    """Builds a checked component.

    Raises:
        BuildError: B001 if a module that it needs is not installed.
    """
    return _call(use, Builder(inputs or {}, registry=registry))


def _call(use: Use, builder: Builder) -> Any:
    _require_requirements(use, builder.registry or installed())
    module, _, function = use.component.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        help = f"pip install '{use.distribution}' with its requirements, or: pip install {package}"
        raise BuildError("B001", f"{use.kind} '{use.name}' can't be built: {error}", help=help) from error
    return factory(use.config, builder)


def _require_requirements(use: Use, registry: Registry) -> None:
    """Compares the plugin's requirements before anything of it is imported: a conflict would show as a riddle."""
    entry = registry.find(use.kind, f"{use.distribution}/{use.name}")
    missing = entry.unmet()
    if missing:
        help = "pip install " + " ".join(f"'{text}'" for text in missing)
        raise BuildError("B001", f"{use.kind} '{use.name}' can't be built: it needs {', '.join(missing)}", help=help)


def build_recipe(spec: Spec, registry: Registry | None = None) -> Any:
    """Builds the recipe of a spec with all its parts."""
    component = spec.recipe.component
    return _call(spec.recipe, Builder({}, spec.parts, spec.sections, component, registry or installed()))


def build(kind: str, name: str, *, inputs: Mapping[str, Port] | None = None, **settings: Any) -> Any:
    """Builds one component alone, in a notebook: ``build("aligner", "sinkhorn", epsilon=0.1)``.

    Args:
        kind: such as ``aligner``.
        name: as behind ``use:`` in a spec.
        inputs: what arrives at it, for components whose size depends on it, such as
            ``{"tokens": Port("fused", 768)}``.
        **settings: its configuration, checked as in a spec; held components as ``{"use": name, ...}``.

    Raises:
        PluginError: if there is no such component.
        SpecError: if its configuration is wrong.
    """
    return build_use(check_component(kind, name, settings), inputs)
