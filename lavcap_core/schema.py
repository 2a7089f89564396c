"""The JSON schema of specs: the recipe's model, with every installed component behind ``use:``."""

from __future__ import annotations

from typing import Any

from lavcap_core.component import KINDS, SLOT_MARK, Component, Config
from lavcap_core.errors import PluginError
from lavcap_core.registry import Registry, installed
from lavcap_core.spec import pipeline_model

__all__ = ["pipeline_schema"]

Schema = dict[str, Any]


def pipeline_schema(recipe: str = "captioner", registry: Registry | None = None) -> Schema:
    """JSON schema (2020-12) of specs of one recipe; broken plugins are left out.

    Raises:
        PluginError: R001 if there is no such recipe.
    """
    registry = registry or installed()
    _, described = registry.get("recipe", recipe)
    components = _components(registry)
    definitions: Schema = {}
    root = _schema_of(pipeline_model(described), "spec", definitions)
    root["required"] = [name for name in root["required"] if name not in ("recipe", "backend")]
    for component in components:
        definitions[_name(component)] = _settings(component, definitions)
    for kind in KINDS:
        choices = [component for component in components if component.kind == kind]
        definitions[f"slot.{kind}"] = _slot(choices)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _components(registry: Registry) -> list[Component]:
    components = []
    for entry in registry.entries():
        if entry.kind in KINDS:
            try:
                components.append(registry.describe(entry))
            except PluginError:
                continue
    return components


def _name(component: Component) -> str:
    return f"{component.kind}.{component.name}"


def _schema_of(model: type[Config], prefix: str, definitions: Schema) -> Schema:
    """Schema of a model; what it refers to goes into the definitions, under a prefix so that no two names clash."""
    schema = model.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    for name, definition in schema.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = _point(definition)
    pointed = _point(schema)
    assert isinstance(pointed, dict)
    return pointed


def _point(value: Any) -> Any:
    """Turns the mark of a slot into a reference to what may stand in it."""
    if isinstance(value, dict):
        if SLOT_MARK in value:
            slot = {"$ref": f"#/$defs/slot.{value[SLOT_MARK]}"}
            return {"anyOf": [slot, {"type": "string", "pattern": "[.]"}]} if "x-lavcap-file" in value else slot
        return {key: _point(child) for key, child in value.items()}
    return [_point(child) for child in value] if isinstance(value, list) else value


def _settings(component: Component, definitions: Schema) -> Schema:
    """A component's model with ``use`` among its keys."""
    schema = _schema_of(component.config, _name(component), definitions)
    schema["properties"] = {"use": {"const": component.name}, **schema.get("properties", {})}
    schema["required"] = ["use", *schema.get("required", [])]
    return {**schema, "description": component.summary}


def _slot(choices: list[Component]) -> Schema:
    """What may stand in a slot: a mapping with ``use``, or just the name."""
    names = {"enum": sorted({component.name for component in choices})}
    return {"anyOf": [names, *({"$ref": f"#/$defs/{_name(component)}"} for component in choices)]}
