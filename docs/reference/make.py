"""Fills in the parts of the pages that follow from the code: tables of plugins, components, verbs and error codes.

    python docs/reference/make.py

A part stands between the lines ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; `PARTS` says what makes it. A test
compares the pages with what this gives, so that they never fall behind.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

import lavcap_core.media
from lavcap_core import catalog
from lavcap_core.cli import VERBS
from lavcap_core.cli.explain import pages
from lavcap_core.component import KINDS, Component, Config, Slot, Use
from lavcap_core.registry import EXTRA_GROUPS, installed

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_PART = re.compile(r"(<!-- begin ([\w-]+) -->\n).*?(<!-- end \2 -->)", flags=re.S)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars within cells are escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def distributions() -> str:
    """The README's table: every known distribution."""
    folders = {plugin: f"plugins/{plugin}" for plugin in catalog.known() if (ROOT / "plugins" / plugin).is_dir()}
    folders["lavcap-core"] = "lavcap_core"
    rows = []
    for plugin in catalog.known().values():
        name = plugin.distribution
        place = f"[{name}]({folders[name]})" if name in folders else name
        rows.append([place, plugin.summary, plugin.status])
    return table(("distribution", "what it holds", "status"), rows)


def known_plugins() -> str:
    """The catalogue with all that each plugin provides."""
    rows = [
        [
            plugin.distribution,
            "<br>".join(
                f"{kind}: {', '.join(f'`{name}`' for name in names)}" for kind, names in plugin.provides.items()
            ),
            plugin.source or "",
            plugin.licence,
            plugin.status,
        ]
        for plugin in catalog.known().values()
    ]
    return table(("distribution", "provides", "source", "licence", "status"), rows)


def errors() -> str:
    """Code and title of every page, by letter."""
    titles = {code: text.splitlines()[0].partition(": ")[2] for code, text in pages().items()}
    rows = [[f"[{code}](../../lavcap_core/pages/{code}.md)", title] for code, title in titles.items()]
    return table(("code", "what is wrong"), rows)


def media() -> str:
    """What comes of each kind of file, as the module's docstring says."""
    text = inspect.getdoc(lavcap_core.media) or ""
    # The docstring marks code with two backticks where Markdown has one, and names of its own module with one.
    return text[text.index("| file |") :].replace("``", "`").strip()


def verbs() -> str:
    """Arguments of every verb of the core and of the distributions of this repository."""
    parts: list[str] = []
    for name, summary in VERBS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(f"lavcap_core.cli.{name}").command(parser)
        parts += _verb(f"lavcap {name}", f"{summary[0].upper()}{summary[1:]}.", parser)
    for entry in installed().entries("command"):
        if entry.distribution in catalog.known():
            parser = argparse.ArgumentParser()
            command: Any = entry.load()
            command(parser)
            parts += _verb(f"lavcap {entry.name}", f"{parser.description} Comes with {entry.distribution}.", parser)
    return "\n\n".join(parts)


def _verb(name: str, summary: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {name}"
    yield summary
    rows = list(_arguments(parser, ""))
    if rows:
        yield table(("argument", "meaning"), rows)


def _arguments(parser: argparse.ArgumentParser, verb: str) -> Iterator[list[str]]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                yield [f"`{verb}{name}`", helps.get(name, "")]
                yield from _arguments(child, f"{verb}{name} ")
            continue
        yield [f"`{verb}{_argument(action)}`", str(action.help or "")]


def _argument(action: argparse.Action) -> str:
    value = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
    if not action.option_strings:
        return f"{value}..." if action.nargs == "+" else str(value)
    return action.option_strings[0] + ("" if action.nargs == 0 else f" {value}")


def recipe() -> str:
    """Slots and sections of the recipe `captioner`."""
    _, captioner = installed().get("recipe", "captioner")
    rows = [
        [f"`{name}`", slot.kind.replace("_", " "), "required" if slot.required else "may be left out"]
        for name, slot in captioner.slots.items()
    ]
    parts = [table(("key", "holds", ""), rows)]
    for name, section in captioner.sections.items():
        parts += [f"### {name}", (section.__doc__ or "").split("\n")[0], _settings(section)]
    return "\n\n".join(parts)


def components() -> str:
    """Settings of every component of the distributions of this repository."""
    parts = []
    for kind in (kind for kind in KINDS if kind not in (*EXTRA_GROUPS, "recipe")):
        found = [entry for entry in installed().entries(kind) if entry.distribution in catalog.known()]
        if found:
            parts.append(f"## {kind}")
        for entry in found:
            parts += _component(installed().describe(entry), entry.distribution)
    return "\n\n".join(parts)


def _component(component: Component, distribution: str) -> Iterator[str]:
    source = f" Source: {component.source}." if component.source else ""
    yield f"### {component.name}"
    yield f"{component.summary.rstrip('.')}. From {distribution}.{source}"
    if component.config.model_fields:
        yield _settings(component.config)


def _settings(config: type[Config]) -> str:
    return table(("setting", "values", "default", "meaning"), _rows(config, ""))


def _rows(config: type[Config], prefix: str) -> Iterator[list[str]]:
    for name, field in config.model_fields.items():
        inner = _config(field.annotation)
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        yield [f"`{prefix}{name}`", _values(field), default, field.description or ""]
        if inner is not None:
            yield from _rows(inner, f"{prefix}{name}.")


def _config(annotation: Any) -> type[Config] | None:
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, Config)), None)


def _shown(value: Any) -> str:
    if isinstance(value, Config) or value is None:
        return "" if value is None else "as below"
    if isinstance(value, bool):
        return str(value).lower()
    # Long texts and line breaks would break the table: they are in the component's own README.
    text = str(value)
    return f"`{text}`" if len(text) < 60 and "\n" not in text else "see its README"


def _values(field: FieldInfo) -> str:
    bounds = {type(mark).__name__: mark for mark in field.metadata if type(mark).__module__ == "annotated_types"}
    signs = (("Ge", "ge", "≥"), ("Gt", "gt", ">"), ("Le", "le", "≤"), ("Lt", "lt", "<"))
    numbers = [(sign, getattr(bounds[name], key)) for name, key, sign in signs if name in bounds]
    limits = [f"{sign} {number:g}" for sign, number in numbers if number < 1e15]
    slot = next((mark for mark in field.metadata if isinstance(mark, Slot)), None)
    kind = slot.kind.replace("_", " ") if slot else _type(field.annotation)
    return " ".join([kind, ", ".join(limits)]).strip()


_TYPES = {int: "integer", float: "number", str: "text", bool: "true, false", type(None): "null", Use: "component"}


def _type(annotation: Any) -> str:
    if annotation in _TYPES:
        return _TYPES[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(_type(argument) for argument in arguments if argument is not type(None))
    return "keys below" if isinstance(annotation, type) and issubclass(annotation, Config) else "list"


PARTS: dict[str, Callable[[], str]] = {
    "distributions": distributions,
    "known-plugins": known_plugins,
    "errors": errors,
    "media": media,
    "verbs": verbs,
    "recipe": recipe,
    "components": components,
}
"""Name of a part to the function that makes it."""


def fill(text: str) -> str:
    """A page with its parts made anew."""
    return _PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", text)


def main() -> None:
    """Rewrites the pages."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if text != fill(text):
            path.write_text(fill(text), encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
