"""Builds components from checked configurations. Torch is imported by the factories, not here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavcap_core import catalog
from lavcap_core.component import Component, Config, Port, Use
from lavcap_core.errors import BuildError
from lavcap_core.registry import Registry, installed
from lavcap_core.spec import Spec, check_component

__all__ = ["Builder", "build", "build_recipe", "build_use", "find", "load", "locate", "recipe_builder"]


def locate(model: str, registry: Registry | None = None) -> str:
    """Turns a model's name into a local folder or file if it is one; else gives the name, which is a hub's.

    ``source:name`` asks the weights plugin ``source``, which may fetch it first.

    Raises:
        PluginError: R001 if no such weights plugin is installed.
    """
    plugin, name = _source(model, registry)
    place: str = model if plugin is None else plugin.locate(name)
    return place


def find(model: str, registry: Registry | None = None) -> str:
    """As `locate`, without fetching anything: a weights plugin is asked for ``find(name)``, a place or None.

    Raises:
        PluginError: R001 if no such weights plugin is installed.
        BuildError: B050 if the weights plugin would have to fetch it.
    """
    plugin, name = _source(model, registry)
    if plugin is None:
        return model
    place: str | None = plugin.find(name) if hasattr(plugin, "find") else None
    if place is None:
        help = "once the model has been used, its size is known"
        raise BuildError("B050", f"{model} is not on this machine yet, and nothing else tells its size", help=help)
    return place


def _source(model: str, registry: Registry | None) -> tuple[Any, str]:
    """The weights plugin that a model's name asks for, or None, and the name that it knows."""
    source, colon, name = model.partition(":")
    # "C:\\models" is a path, not a source of that name.
    if not colon or len(source) == 1 or Path(model).exists():
        return None, model
    return build_use(check_component("weights", source, {}, registry)), name


@dataclass(frozen=True)
class Builder:
    """What a factory gets beside its configuration (see `lavcap_core.component.Context`).

    Attributes:
        inputs: what arrives at the component.
        parts: recipes only: what the spec put into the slots.
        sections: recipes only: settings of the spec's sections.
        registry: where names are looked up.
        skeleton: whether parts are built on torch's meta device, without reading weights.
        reads: whether what is being built may ask for weights.
    """

    inputs: Mapping[str, Port] = field(default_factory=dict)
    parts: Mapping[str, Use | None] = field(default_factory=dict)
    sections: Mapping[str, Config] = field(default_factory=dict)
    recipe: Component | None = None
    registry: Registry | None = None
    skeleton: bool = False
    reads: bool = True

    def build(self, use: Use, inputs: Mapping[str, Port] | None = None) -> Any:
        """Builds a component that a configuration holds; default inputs: what arrives at the holder."""
        return build_use(use, self.inputs if inputs is None else inputs, self.registry, self.skeleton)

    def locate(self, model: str) -> str:
        """See `locate` and, for a skeleton, `find`.

        Raises:
            BuildError: B051 if a factory asks for weights in the place of a skeleton.
        """
        if not self.reads:
            help = "its plugin can name a skeleton: see lavcap_core.component.Component"
            raise BuildError("B051", "it can't be built without reading its weights", help=help)
        return find(model, self.registry) if self.skeleton else locate(model, self.registry)

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
        part = build_use(use, arriving, self.registry, self.skeleton)
        for port, given in use.component.ports(use.config, arriving).items():
            # A width that only the weights tell is known now; what they declare otherwise must agree.
            width = given.width if isinstance(given.width, int) else int(part.width)
            ports[port] = Port(given.modality, width, given.space)
        return part


def build_use(
    use: Use, inputs: Mapping[str, Port] | None = None, registry: Registry | None = None, skeleton: bool = False
) -> Any:
    """Builds a checked component.

    Args:
        use: the component.
        inputs: what arrives at it.
        registry: where names are looked up.
        skeleton: build it on torch's meta device, with all parameters and without their values.

    Raises:
        BuildError: B001 if a module that it needs is not installed; for a skeleton, B050 if the size of a model isn't
            known, and B051 if the component can't be built without reading weights.
    """
    reads = not skeleton or use.component.skeleton is not None
    return _call(use, Builder(inputs or {}, registry=registry, skeleton=skeleton, reads=reads))


def _call(use: Use, builder: Builder) -> Any:
    named = (use.component.skeleton if builder.skeleton else None) or use.component.factory
    factory = load(use, named, builder.registry)
    with _device(builder.skeleton):
        return factory(use.config, builder)


def load(use: Use, named: str, registry: Registry | None = None) -> Any:
    """Imports a function that a component names as ``module:function``, if all that the component needs is there.

    Raises:
        BuildError: B001 if something is not installed.
    """
    _require_requirements(use, registry or installed())
    module, _, function = named.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        help = f"pip install '{use.distribution}' with its requirements, or: pip install {package}"
        raise BuildError("B001", f"{use.kind} '{use.name}' can't be built: {error}", help=help) from error


def _device(skeleton: bool) -> AbstractContextManager[Any]:
    """Where new tensors are made: for a skeleton, where they have no values."""
    if not skeleton:
        return nullcontext()
    # By name, as the factories are: this module is light until something is built.
    device: AbstractContextManager[Any] = importlib.import_module("torch").device("meta")
    return device


def _require_requirements(use: Use, registry: Registry) -> None:
    """Compares the plugin's requirements before anything of it is imported: a conflict would show as a riddle."""
    entry = registry.find(use.kind, f"{use.distribution}/{use.name}")
    missing = entry.unmet()
    if missing:
        known = catalog.known().get(entry.distribution)
        elsewhere = known is not None and set(missing) <= set(known.needs_modules) and known.needs_help
        help = elsewhere or "pip install " + " ".join(f"'{text}'" for text in missing)
        raise BuildError("B001", f"{use.kind} '{use.name}' can't be built: it needs {', '.join(missing)}", help=help)


def build_recipe(spec: Spec, registry: Registry | None = None, skeleton: bool = False) -> Any:
    """Builds the recipe of a spec with all its parts; see `build_use` of skeletons."""
    return _call(spec.recipe, recipe_builder(spec, registry, skeleton))


def recipe_builder(spec: Spec, registry: Registry | None = None, skeleton: bool = False) -> Builder:
    """What the factory of a spec's recipe gets, to build the parts one by one."""
    return Builder({}, spec.parts, spec.sections, spec.recipe.component, registry or installed(), skeleton)


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
