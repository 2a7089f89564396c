"""The spec: a YAML file checked against the recipe's slots and the components' own configuration models.

Everything that can be said without building a component is said here, all problems in one go, each with its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lavcap_core.component import Component, Config, LocalPath, RecipeSlot, Slot, Use, _PathMark
from lavcap_core.errors import LavcapError, PluginError, Problem, SpecError
from lavcap_core.ports import Wiring, wire
from lavcap_core.registry import Registry, installed, suggest
from lavcap_core.yaml import Node, parse

__all__ = [
    "PipelineSpec",
    "Spec",
    "check_component",
    "check_keys",
    "check_node",
    "merge",
    "pipeline_model",
    "read",
    "read_file",
    "read_text",
]

VERSION = 1
"""The version of the spec's format, its key ``lavcap``."""


class PipelineSpec(Config):
    """What every spec holds, whatever its recipe; `pipeline_model` adds the recipe's slots and sections."""

    lavcap: Literal[1] = Field(description="Version of the spec's format.")
    recipe: Annotated[Use, Slot("recipe")] = Field(description="The procedure; declares the slots and sections.")
    backend: Annotated[Use, Slot("backend")] = Field(description="Where to compute.")
    weights: LocalPath | None = Field(
        None, description="Trained parameters (safetensors) that are read into the parts after they were built."
    )


def pipeline_model(recipe: Component) -> type[PipelineSpec]:
    """The model of a whole spec of one recipe: `PipelineSpec` with its slots and sections as fields."""
    fields: dict[str, Any] = {}
    for name, slot in recipe.slots.items():
        kind = Annotated[Use, Slot(slot.kind)]
        fields[name] = (kind, ...) if slot.required else (kind | None, None)
    for name, section in recipe.sections.items():
        fields[name] = (section, Field(default_factory=section, description=(section.__doc__ or "").split("\n")[0]))
    model: type[PipelineSpec] = create_model("PipelineSpec", __base__=PipelineSpec, **fields)
    return model


@dataclass(frozen=True)
class Spec:
    """A checked spec.

    Attributes:
        pipeline: its content, an instance of `pipeline_model` of its recipe.
        wiring: how its parts are connected.
        file: where it was read, or None.
        folder: what relative paths were resolved against.
    """

    pipeline: PipelineSpec
    wiring: Wiring
    file: str | None
    folder: Path

    @property
    def recipe(self) -> Use:
        """The recipe in use."""
        return self.pipeline.recipe

    @property
    def parts(self) -> dict[str, Use | None]:
        """Slot of the recipe to the component in it; None where it is empty or not in use."""
        slots = self.recipe.component.slots
        return {name: None if name in self.wiring.skipped else getattr(self.pipeline, name) for name in slots}

    @property
    def sections(self) -> dict[str, Config]:
        """Section of the recipe to its settings."""
        return {name: getattr(self.pipeline, name) for name in self.recipe.component.sections}

    def uses(self) -> list[Use]:
        """Every component that the spec names, held ones too."""
        return list(_uses(self.pipeline))

    def filled(self) -> dict[str, Any]:
        """The spec with all defaults written out, as plain data for YAML or JSON."""
        filled = _plain(self.pipeline)
        assert isinstance(filled, dict)
        return filled

    def versions(self) -> dict[str, str]:
        """Distribution to version, of all components in use."""
        from importlib.metadata import version

        return {name: version(name) for name in sorted({use.distribution for use in self.uses()})}


def _uses(value: Any) -> Iterator[Use]:
    if isinstance(value, Use):
        yield value
        value = value.config
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _uses(getattr(value, name))


def _plain(value: Any) -> Any:
    if isinstance(value, Use):
        return {"use": value.name, **_plain(value.config)}
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@dataclass
class _Checker:
    """Walks a spec's nodes beside the models that they should fit, and gathers what doesn't."""

    registry: Registry
    folder: Path
    problems: list[Problem] = field(default_factory=list)
    folders: Mapping[str, Path] = field(default_factory=dict)

    def component(self, kind: str, node: Node, key: str) -> Use | None:
        """The component that a node names; None, with a problem, if there is none or it is wrong."""
        node = _shorthand(node)
        name = node.value.get("use") if isinstance(node.value, dict) else None
        if name is None or not isinstance(name.value, str):
            have = ", ".join(sorted({entry.name for entry in self.registry.entries(kind)})) or "none"
            help = f"write use: NAME; installed are: {have}"
            self.problems.append((name or node).problem("S003", "names no component", help=help, key=key))
            return None
        try:
            entry, component = self.registry.get(kind, name.value)
        except PluginError as error:
            self.problems += [name.problem(p.code, p.message, help=p.help, key=f"{key}.use") for p in error.problems]
            return None
        rest = Node(
            {k: v for k, v in node.value.items() if k != "use"}, node.line, node.column, node.file, node.key, node.lines
        )
        config = self.model(component.config, rest, key)
        return None if config is None else Use(kind, component.name, entry.distribution, config, component)

    def model(self, model: type[Config], node: Node, key: str) -> Config | None:
        """An instance of a model, its slots filled and its paths resolved; None, with problems, if it is wrong."""
        if not isinstance(node.value, dict):
            self.problems.append(node.problem("S004", f"must be keys and values (got {_shown(node)})", key=key))
            return None
        before = len(self.problems)
        values: dict[str, Any] = {}
        for name, child in node.value.items():
            info = model.model_fields.get(name)
            values[name] = child.plain() if info is None else self.field(info, child, _join(key, name))
        failed = {name for name, value in values.items() if value is _FAILED}
        self.validate(model, {k: v for k, v in values.items() if k not in failed}, node, key, failed)
        if len(self.problems) > before:
            return None
        return model.model_validate(values)

    def field(self, info: FieldInfo, node: Node, key: str) -> Any:
        """Value of one field: a component, a checked section, a path, or plain data."""
        slot = _mark(info, Slot)
        if slot is not None and node.value is not None:
            return self.component(slot.kind, _file_shorthand(node, slot), key) or _FAILED
        section = _config_of(info.annotation)
        if section is not None and isinstance(node.value, dict):
            return self.model(section, node, key) or _FAILED
        path = _mark(info, _PathMark)
        if path is not None and isinstance(node.value, str):
            return self.path(path, node)
        return node.plain()

    def path(self, mark: _PathMark, node: Node) -> str:
        text: str = node.value
        # What is typed on the command line is meant from where it is typed.
        here = Path().absolute() if (node.file or "").startswith(_SET) else self.folder
        place = self.folders.get(node.file or "", here) / Path(text).expanduser()
        # A model's name may be a hub's or a weights plugin's: only what looks like a path or is there is one.
        if mark.must_be_local or text.startswith((".", "~", "/")) or place.exists():
            return str(place)
        return text

    def validate(self, model: type[Config], values: dict[str, Any], node: Node, key: str, failed: set[str]) -> None:
        try:
            model.model_validate(values)
        except ValidationError as error:
            for detail in error.errors():
                location = [str(part) for part in detail["loc"]]
                # What failed further in was left out here, so that it isn't reported as missing as well.
                if not (detail["type"] == "missing" and location[-1] in failed):
                    self.problems.append(_problem(detail, model, node, key))


_FAILED: Any = object()

_SET = "--set "
"""How the file of a value is called that an override gave."""


def _shorthand(node: Node) -> Node:
    """``fuser: concat`` for ``fuser: {use: concat}``."""
    if isinstance(node.value, str):
        name = replace(node, key=None)  # a problem with the name is shown at the name
        return Node({"use": name}, node.line, node.column, node.file, node.key, node.lines)
    return node


def _file_shorthand(node: Node, slot: Slot) -> Node:
    """``data: train.jsonl`` for ``data: {use: manifest, file: train.jsonl}``: names of components have no dots."""
    if slot.file is None or not isinstance(node.value, str) or "." not in node.value:
        return node
    name, field_name = slot.file
    value = {"use": replace(node, value=name, key=None), field_name: replace(node, key=None)}
    return Node(value, node.line, node.column, node.file, node.key, node.lines)


def _mark(info: FieldInfo, kind: type[Any]) -> Any:
    """Mark of a kind on a field, also where the field is optional (``Annotated[...] | None``)."""
    candidates = list(info.metadata)
    for part in (info.annotation, *get_args(info.annotation)):
        if get_origin(part) is Annotated:
            candidates += part.__metadata__
    return next((mark for mark in candidates if isinstance(mark, kind)), None)


def _config_of(annotation: Any) -> type[Config] | None:
    """The `Config` class that a field holds, if it holds one, or one or None."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    configs = [part for part in parts if isinstance(part, type) and issubclass(part, Config)]
    return configs[0] if len(configs) == 1 else None


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(node: Node) -> str:
    value = node.plain()
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _problem(detail: ErrorDetails, model: type[Config], node: Node, key: str) -> Problem:
    """A pydantic error as a problem with a place."""
    for part in detail["loc"]:
        child = _child(node, part)
        if child is None:
            break
        node = child
    full = ".".join([key, *map(str, detail["loc"])] if key else map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        help = suggest(str(detail["loc"][-1]), model.model_fields) or f"known are: {', '.join(model.model_fields)}"
        return node.problem("S002", f"unknown key (got {_shown(node)})", help=help, key=full)
    if detail["type"] == "missing":
        return node.problem("S003", "is missing", help=_describe_field(model, detail), key=full)
    code = "S004" if detail["type"].endswith(("_type", "_parsing", "_instance_of")) else "S005"
    message = detail["msg"].removeprefix("Value error, ")
    got = "" if isinstance(node.value, dict) else f" (got {_shown(node)})"
    return node.problem(code, message[:1].lower() + message[1:] + got, help=_describe_field(model, detail), key=full)


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict):
        child = node.value.get(str(part))
        return child if isinstance(child, Node) else None
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item if isinstance(item, Node) else None
    return None


def _describe_field(model: type[Config], detail: ErrorDetails) -> str | None:
    info = model.model_fields.get(str(detail["loc"][0])) if detail["loc"] else None
    return info.description if info is not None else None


def merge(node: Node, overrides: Sequence[str]) -> tuple[Node, list[Problem]]:
    """Applies ``KEY=VALUE`` overrides, each value read as YAML."""
    problems: list[Problem] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        file = f"{_SET}{override}"
        if not equals or not all(key.split(".")):
            problems.append(Problem("S006", "is not KEY=VALUE", "such as aligner.epsilon=0.05", file=file))
            continue
        try:
            value, more = parse(text, file)
        except SpecError as error:
            problems += error.problems
            continue
        scalar = value if text.strip() else Node(None)
        problems += more
        node = _put(node, key.split("."), _placeless(scalar, file))
    return node, problems


def _placeless(node: Node, file: str) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {name: _placeless(child, file) for name, child in value.items()}
    elif isinstance(value, list):
        value = [_placeless(child, file) for child in value]
    return Node(value, file=file)


def _put(node: Node, path: Sequence[str], value: Node) -> Node:
    items = dict(_shorthand(node).value) if isinstance(node.value, dict | str) else {}
    head, *rest = path
    items[head] = _put(items.get(head, Node({}, file=value.file)), rest, value) if rest else value
    return Node(items, node.line, node.column, node.file, node.key, node.lines)


def read(file: str | Path, overrides: Sequence[str] = (), registry: Registry | None = None) -> Spec:
    """Reads and checks a spec.

    Args:
        file: the YAML file; relative paths in it are relative to its folder.
        overrides: ``KEY=VALUE`` texts, applied before checking; relative paths in them are relative to the working
            directory.
        registry: default: what is installed.

    Raises:
        SpecError: all that is wrong with it, in the order of the file.
    """
    help = "see the presets with: lavcap init --list"
    return read_text(read_file(file, help), str(file), Path(file).parent, overrides, registry)


def read_file(file: str | Path, help: str | None = None) -> str:
    """Text of a YAML file.

    Args:
        file: its name.
        help: what to do where there is none.

    Raises:
        SpecError: Y007 if it can't be read, Y001 if it isn't text.
    """
    path = Path(file)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        help = help if not path.exists() else None
        raise SpecError("Y007", f"can't be read: {error.strerror}", help=help, file=str(file)) from None
    except UnicodeDecodeError as error:
        raise SpecError("Y001", f"is not UTF-8 (byte {error.start})", file=str(file)) from None


def read_text(
    text: str,
    file: str | None = None,
    folder: Path | None = None,
    overrides: Sequence[str] = (),
    registry: Registry | None = None,
) -> Spec:
    """Checks a spec given as text; see `read`."""
    root, problems = parse(text, file)
    root, more = merge(root, overrides)
    return check_node(root, file, folder, problems + more, registry=registry)


def check_node(
    root: Node,
    file: str | None = None,
    folder: Path | None = None,
    problems: Sequence[Problem] = (),
    folders: Mapping[str, Path] | None = None,
    registry: Registry | None = None,
) -> Spec:
    """Checks a spec given as nodes, which may come from several files.

    Args:
        root: the spec.
        file: its name.
        folder: what relative paths are relative to; default: the current one.
        problems: what was found before.
        folders: the same for nodes of other files, by the file's name.
        registry: default: what is installed.

    Raises:
        SpecError: all that is wrong with it.
    """
    registry = registry or installed()
    registry.check_strictly()
    folder = (folder or Path()).absolute()
    checker = _Checker(registry, folder, list(problems), folders or {})
    pipeline, wiring = _check(root, checker)
    if checker.problems or pipeline is None or wiring is None:
        raise SpecError(sorted(checker.problems, key=lambda p: (p.line or 0, p.column or 0)))
    return Spec(pipeline, wiring, file, folder)


def _check(root: Node, checker: _Checker) -> tuple[PipelineSpec | None, Wiring | None]:
    if not isinstance(root.value, dict):
        checker.problems.append(root.problem("S004", "a spec must be keys and values, such as lavcap: 1"))
        return None, None
    defaults = {"recipe": {"use": "captioner"}, "backend": {"use": "torch"}}
    nodes = _with_defaults(root.value, defaults, root)
    recipe = checker.component("recipe", nodes["recipe"], "recipe")
    if recipe is None:
        return None, None
    slots = recipe.component.slots
    nodes = _with_defaults(nodes, {n: s.default for n, s in slots.items() if s.default is not None}, root)
    node = Node(nodes, root.line, root.column, root.file, root.key, root.lines)
    found = len(checker.problems)
    pipeline = checker.model(pipeline_model(recipe.component), node, "")
    if pipeline is None:
        _add_slot_help(checker.problems, found, slots)
        return None, None
    assert isinstance(pipeline, PipelineSpec)
    wiring = wire(slots, {name: getattr(pipeline, name) for name in slots})
    for slot, problem in wiring.problems:
        place = _shorthand(nodes[slot]).value["use"]
        checker.problems.append(place.problem(problem.code, problem.message, help=problem.help, key=f"{slot}.use"))
    return pipeline, wiring


def _with_defaults(nodes: Mapping[str, Node], defaults: Mapping[str, Any], like: Node) -> dict[str, Node]:
    """Adds components that a spec doesn't name, or gives settings only of, as in ``backend: {device: cpu}``."""
    found = {name: _node(value, like) for name, value in defaults.items()} | dict(nodes)
    for name in defaults:
        value = found[name].value
        if isinstance(value, dict) and value and "use" not in value:
            found[name] = replace(found[name], value={"use": _node(defaults[name]["use"], like), **value})
    return found


def _node(value: Any, like: Node) -> Node:
    """Plain data as nodes without a place."""
    if isinstance(value, Mapping):
        return Node({name: _node(child, like) for name, child in value.items()}, file=like.file)
    if isinstance(value, list | tuple):
        return Node([_node(child, like) for child in value], file=like.file)
    return Node(value, file=like.file)


def _add_slot_help(problems: list[Problem], start: int, slots: Mapping[str, RecipeSlot]) -> None:
    for i in range(start, len(problems)):
        problem = problems[i]
        slot = slots.get(problem.key or "")
        if problem.code == "S003" and slot is not None and slot.help:
            problems[i] = replace(problem, help=slot.help)


def check_keys(model: type[Config], node: Node, key: str, problems: list[Problem]) -> Config | None:
    """An instance of a model of keys and values other than a spec's; None, with problems, if the node is wrong."""
    checker = _Checker(installed(), Path().absolute())
    found = checker.model(model, node, key)
    problems += checker.problems
    return found


def check_component(kind: str, name: str, settings: Mapping[str, Any], registry: Registry | None = None) -> Use:
    """Checks the settings of one component given in Python, as a spec would.

    Raises:
        SpecError: all that is wrong with them.
        PluginError: if there is no such component.
    """
    checker = _Checker(registry or installed(), Path().absolute())
    node = _node({"use": name, **settings}, Node({}, file=f"{kind} '{name}'"))
    use = checker.component(kind, node, "")
    if use is None:
        kinds: type[LavcapError] = PluginError if checker.problems[0].code.startswith("R") else SpecError
        raise kinds(checker.problems)
    return use
