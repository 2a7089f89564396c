"""Reads YAML with the line and column of every node, safely.

PyYAML parses the stream of events; what the events mean is decided here, because a spec needs what no loader gives
together: positions of keys and values, the scalars of YAML 1.2 (``no`` is a text, ``5e-6`` a number), duplicate keys,
aliases and unbounded documents refused, and all of that as a `Problem` with a place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml as pyyaml

from lavcap_core.errors import Problem, SpecError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "Node", "flow", "parse", "parse_scalar"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 20_000

Scalar = str | int | float | bool | None

_NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCT = re.compile(r"0o[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_INF = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)\Z")
_BARE = re.compile(r"[A-Za-z_./][\w./-]*\Z")


@dataclass(frozen=True)
class Node:
    """A value with its place.

    Attributes:
        value: a scalar, a list of nodes, or a dict of key to node.
        line: from 1; 0 where there is no file, as for ``--set``.
        column: from 1.
        file: name of the file, or what stands for it, such as ``--set``.
        key: place of the key in front of the value, (line, column), or None.
    """

    value: Any
    line: int = 0
    column: int = 0
    file: str | None = None
    key: tuple[int, int] | None = None
    lines: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def plain(self) -> Any:
        """The value without places; lists become tuples."""
        if isinstance(self.value, dict):
            return {name: node.plain() for name, node in self.value.items()}
        if isinstance(self.value, list):
            return tuple(node.plain() for node in self.value)
        return self.value

    def problem(self, code: str, message: str, *, help: str | None = None, key: str | None = None) -> Problem:
        """A problem at the key in front of this node, or at the node where it has none."""
        line, column = self.key or (self.line, self.column)
        if not line:
            return Problem(code, message, help=help, key=key, file=self.file)
        source = self.lines[line - 1] if line <= len(self.lines) else None
        return Problem(code, message, help, key, self.file, line, column, source)


def parse_scalar(text: str) -> Scalar:
    """Meaning of a plain scalar in YAML 1.2's core schema."""
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _INT.match(text):
        return int(text)
    if _OCT.match(text) or _HEX.match(text):
        return int(text, 0)
    return _parse_float(text)


def _parse_float(text: str) -> float | str:
    if _FLOAT.match(text) or _INF.match(text) or _NAN.match(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def flow(value: Any) -> str:
    """Plain data as YAML on one line, which `parse` reads back as the same."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(str(name))}: {flow(child)}" for name, child in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str) and _BARE.match(value) and parse_scalar(value) == value:
        return value
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


class _Composer:
    """Builds nodes from the events of one document."""

    def __init__(self, text: str, file: str | None) -> None:
        self.file = file
        self.lines = tuple(text.splitlines())
        self.events: Iterator[Any] = pyyaml.parse(text, Loader=pyyaml.SafeLoader)
        self.count = 0
        self.problems: list[Problem] = []

    def document(self) -> Node:
        root = Node({}, 1, 1, self.file, lines=self.lines)
        seen = False
        for event in self.events:
            if isinstance(event, pyyaml.DocumentStartEvent):
                if seen:
                    raise self.error(event, "Y004", "a second document in one file", "keep one spec per file")
                seen = True
                root = self.node(next(self.events), None, 0)
        return root

    def node(self, event: Any, key: tuple[int, int] | None, depth: int) -> Node:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            raise self.error(event, "Y003", f"more than {MAX_NODES} values or {MAX_DEPTH} levels", None)
        if isinstance(event, pyyaml.AliasEvent) or getattr(event, "anchor", None):
            raise self.error(event, "Y005", "anchors and aliases are not read", "write the value out")
        mark = event.start_mark
        value = self.value(event, depth)
        return Node(value, mark.line + 1, mark.column + 1, self.file, key, self.lines)

    def value(self, event: Any, depth: int) -> Any:
        if getattr(event, "tag", None) not in (None, "!"):
            raise self.error(event, "Y006", f"tags such as {event.tag} are not read", "write a plain value")
        if isinstance(event, pyyaml.ScalarEvent):
            return parse_scalar(event.value) if event.implicit[0] else event.value
        if isinstance(event, pyyaml.SequenceStartEvent):
            return self.sequence(depth)
        return self.mapping(depth)

    def sequence(self, depth: int) -> list[Node]:
        items = []
        while not isinstance(event := next(self.events), pyyaml.SequenceEndEvent):
            items.append(self.node(event, None, depth + 1))
        return items

    def mapping(self, depth: int) -> dict[str, Node]:
        items: dict[str, Node] = {}
        while not isinstance(event := next(self.events), pyyaml.MappingEndEvent):
            name = self.name(event)
            place = (event.start_mark.line + 1, event.start_mark.column + 1)
            node = self.node(next(self.events), place, depth + 1)
            if name in items:
                first = (items[name].key or (0, 0))[0]
                self.problems.append(
                    node.problem("Y002", f"the key {name!r} is already on line {first}", help="remove one of the two")
                )
            else:
                items[name] = node
        return items

    def name(self, event: Any) -> str:
        if not isinstance(event, pyyaml.ScalarEvent):
            raise self.error(event, "Y001", "a key must be a word", None)
        return str(event.value)

    def error(self, event: Any, code: str, message: str, help: str | None) -> SpecError:
        mark = event.start_mark
        source = self.lines[mark.line] if mark.line < len(self.lines) else None
        return SpecError(Problem(code, message, help, None, self.file, mark.line + 1, mark.column + 1, source))


def parse(text: str, file: str | None = None) -> tuple[Node, list[Problem]]:
    """Reads one YAML document.

    Args:
        text: the document.
        file: its name, for problems.

    Returns:
        The root node (an empty mapping for an empty document), and problems that leave it readable (duplicate keys).

    Raises:
        SpecError: Y001 syntax, Y003 too large or deep, Y004 several documents, Y005 alias, Y006 tag.
    """
    if len(text.encode("utf-8", "surrogateescape")) > MAX_BYTES:
        raise SpecError("Y003", f"larger than {MAX_BYTES} bytes", file=file)
    composer = _Composer(text, file)
    try:
        root = composer.document()
    except pyyaml.MarkedYAMLError as error:
        raise SpecError(_syntax_problem(error, composer)) from None
    except pyyaml.YAMLError as error:
        raise SpecError("Y001", f"not YAML: {error}".splitlines()[0], file=file) from None
    return root, composer.problems


def _syntax_problem(error: pyyaml.MarkedYAMLError, composer: _Composer) -> Problem:
    mark = error.problem_mark or error.context_mark
    message = f"not YAML: {error.problem or error.context}"
    if mark is None:
        return Problem("Y001", message, file=composer.file)
    source = composer.lines[mark.line] if mark.line < len(composer.lines) else None
    help = "indent with spaces" if "'\\t'" in message else None
    return Problem("Y001", message, help, None, composer.file, mark.line + 1, mark.column + 1, source)
