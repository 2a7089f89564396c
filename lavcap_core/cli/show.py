"""``lavcap show``: a spec's parts and what flows between them, as text, mermaid or dot."""

from __future__ import annotations

import argparse
import json

from lavcap_core.cli.common import add_spec_arguments, read_spec
from lavcap_core.component import Port, Use
from lavcap_core.spec import Spec

__all__ = ["command", "dot", "mermaid", "text"]


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_spec_arguments(parser, positional=True)
    parser.add_argument("--format", choices=("text", "mermaid", "dot", "json"), default="text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the graph; json is the spec with all defaults filled in."""
    spec = read_spec(args)
    if args.format == "json":
        print(json.dumps(spec.filled(), indent=2))
    else:
        print({"text": text, "mermaid": mermaid, "dot": dot}[args.format](spec))
    return 0


def _label(port: Port) -> str:
    return f"{port.modality} {port.width}"


def _name(use: Use) -> str:
    held = [value for _, value in use.config if isinstance(value, Use)]
    return use.name + (f" ({', '.join(_name(value) for value in held)})" if held else "")


def text(spec: Spec) -> str:
    """One line per slot: component, distribution, what arrives."""
    lines = [f"{spec.recipe.name} on {spec.pipeline.backend.name}"]
    for slot, use in spec.parts.items():
        if use is None:
            reason = spec.wiring.skipped.get(slot, "empty")
            lines.append(f"  {slot:<15} - ({reason})")
            continue
        arriving = " + ".join(_label(port) for port in spec.wiring.inputs[slot].values()) or "clip"
        lines.append(f"  {slot:<15} {_name(use):<24} {use.distribution:<16} <- {arriving}")
    return "\n".join(lines)


def _edges(spec: Spec) -> list[tuple[str, str, str]]:
    """Source, target and label of every arrow, those from the clip and to the caption too."""
    parts = {slot: use for slot, use in spec.parts.items() if use is not None}
    edges = [("clip", slot, "") for slot in parts if not spec.recipe.component.slots[slot].takes]
    edges += [(wire.source, wire.target or "caption", _label(wire.port)) for wire in spec.wiring.wires]
    sources = {source for source, _, _ in edges}
    return edges + [(slot, "caption", "") for slot in parts if slot not in sources]


def mermaid(spec: Spec) -> str:
    """The graph for Markdown."""
    lines = ["flowchart LR", "  clip([clip])", "  caption([caption])"]
    lines += [f'  {slot}["{slot}<br/>{_name(use)}"]' for slot, use in spec.parts.items() if use is not None]
    for source, target, label in _edges(spec):
        lines.append(f"  {source} -->{f'|{label}|' if label else ''} {target}")
    return "\n".join(lines)


def dot(spec: Spec) -> str:
    """The graph for Graphviz."""
    lines = ["digraph lavcap {", "  rankdir=LR; node [shape=box];"]
    for slot, use in spec.parts.items():
        if use is not None:
            lines.append(f'  {slot} [label="{slot}\\n{_name(use)}"];')
    for source, target, label in _edges(spec):
        lines.append(f'  {source} -> {target} [label="{label}"];')
    return "\n".join([*lines, "}"])
