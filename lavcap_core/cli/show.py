"""``lavcap show``: a spec's parts and what flows between them, as text, mermaid or dot; and what they cost."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lavcap_core.cli.common import add_spec_arguments, read_spec
from lavcap_core.component import Port, Use
from lavcap_core.spec import Spec

if TYPE_CHECKING:
    from lavcap_core.run.cost import Cost, SlotCost

__all__ = ["command", "cost_text", "dot", "mermaid", "text"]


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_spec_arguments(parser, positional=True)
    parser.add_argument("--format", choices=("text", "mermaid", "dot", "json"), default="text")
    parser.add_argument(
        "--cost",
        action="store_true",
        help="parameters, FLOPs and bytes of a training step, as text or json; reads no weights",
    )
    parser.add_argument(
        "--caption-tokens",
        type=_positive,
        metavar="N",
        default=20,
        help="with --cost: tokens of the caption, its end token included (default: 20)",
    )
    parser.set_defaults(run=run, error=parser.error)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 on")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Prints the graph, or the cost; json is the spec with all defaults filled in."""
    if args.cost and args.format not in ("text", "json"):
        args.error("--cost is written as text or json")
    spec = read_spec(args)
    if args.cost:
        from lavcap_core.run.cost import count

        cost = count(spec, args.caption_tokens)
        print(json.dumps(cost.plain(), indent=2) if args.format == "json" else cost_text(cost))
    elif args.format == "json":
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


_HEAD = ("", "component", "parameters", "trained", "weights", "checkpoint", "reads", "tokens", "forward", "step")


def cost_text(cost: Cost) -> str:
    """A line per slot, their sum, and what was taken for granted or is not known."""
    total = cost.total()
    rows = [
        _HEAD,
        *(_cost_row(slot, part) for slot, part in cost.slots.items()),
        _cost_row("total", total, named=False),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, 1}
    lines = [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([_counted(cost), "", *lines, "", *_cost_notes(cost)])


def _counted(cost: Cost) -> str:
    caption = "" if cost.caption_tokens is None else f" with a caption of {cost.caption_tokens} tokens"
    return f"a training step of one clip of {cost.seconds:g} s{caption}"


def _cost_row(slot: str, part: SlotCost, named: bool = True) -> tuple[str, ...]:
    weights = None if part.parameters is None else sum(part.weights.values())
    return (
        slot,
        part.use if named else "",
        _amount(part.parameters, ("", " K", " M", " B")),
        "?" if part.trained is None else f"{part.trained:,}",
        _amount(weights, _BYTES),
        _amount(part.checkpoint, _BYTES),
        "" if part.reads is None else _amount(part.reads, _BYTES),
        "" if part.tokens is None else f"{part.tokens[0]} x {part.tokens[1]}",
        _amount(part.forward, _FLOPS),
        _amount(part.step, _FLOPS),
    )


_BYTES = (" B", " kB", " MB", " GB", " TB")
_FLOPS = ("", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP")


def _amount(value: int | None, units: Sequence[str]) -> str:
    """Three digits and a unit; ``?`` for what isn't known."""
    if value is None:
        return "?"
    size, power = float(value), 0
    while round(size, 1 if size < 100 else 0) >= 1000 and power < len(units) - 1:
        size, power = size / 1000, power + 1
    return (
        f"{value}{units[0]}"
        if power == 0
        else f"{size:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}{units[power]}"
    )


def _cost_notes(cost: Cost) -> list[str]:
    weights = ", ".join(f"{_amount(size, _BYTES)} {name}" for name, size in cost.total().weights.items())
    lines = [f"weights: {weights}"] if weights else []
    for slot, part in cost.slots.items():
        if part.cached is not None:
            lines.append(f"{slot}: tokens of a clip are {_amount(part.cached, _BYTES)} in float16")
        lines += [f"{slot}: {text}" for text in part.assumes]
        if part.unknown:
            lines.append(f"{slot}: not known: {part.unknown}")
    return lines
