"""``lavcap plugins``: what is installed, what one component takes, and what is broken."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from lavcap_core import catalog
from lavcap_core.component import Use
from lavcap_core.errors import PluginError
from lavcap_core.registry import EXTRA_GROUPS, Entry, installed, suggest

__all__ = ["command"]


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="components and presets; imports no plugin")
    listing.add_argument("--kind", help="only one kind, such as fuser")
    listing.add_argument("--check", action="store_true", help="also import each plugin's descriptors")
    listing.add_argument("--known", action="store_true", help="also plugins that are not installed")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=list_plugins)
    info = actions.add_parser("info", help="fields, summary and source of one component")
    info.add_argument("name", help="NAME, KIND/NAME or DISTRIBUTION/NAME")
    info.set_defaults(run=show_info)
    doctor = actions.add_parser("doctor", help="import each plugin apart, and say why one is broken")
    doctor.add_argument("name", nargs="?", help="only a DISTRIBUTION, or as for info (default: all)")
    doctor.add_argument("--hardware", action="store_true", help="also try out the device that a component is for")
    doctor.set_defaults(run=examine)


def list_plugins(args: argparse.Namespace) -> int:
    """Prints a row per entry point."""
    entries = installed().entries(args.kind)
    broken = {entry: str(error.problems[0].message) for entry, error in installed().broken()} if args.check else {}
    rows = [(e.kind, e.name, f"{e.distribution} {e.version}", _state(e, broken.get(e))) for e in entries]
    if args.known:
        rows += _not_installed(entries, args.kind)
    if args.json:
        print(json.dumps([dict(zip(("kind", "name", "distribution", "state"), row, strict=True)) for row in rows]))
    else:
        _print_table(rows)
    return 1 if broken else 0


def _state(entry: Entry, reason: str | None) -> str:
    missing = entry.unmet()
    if missing:
        return f"needs {', '.join(missing)}"
    return reason or ""


def _not_installed(entries: Sequence[Entry], kind: str | None) -> list[tuple[str, str, str, str]]:
    have = {entry.distribution for entry in entries}
    return [
        (provided, name, plugin.distribution, f"not installed ({plugin.status}): {plugin.install}")
        for plugin in catalog.known().values()
        if plugin.distribution not in have
        for provided, names in plugin.provides.items()
        for name in names
        if kind in (None, provided)
    ]


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        print("nothing is installed")
        return
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[3]]).rstrip())


def show_info(args: argparse.Namespace) -> int:
    """Prints what a component is and what it takes."""
    found = [entry for entry in installed().entries() if args.name in _names(entry)]
    found = [entry for entry in found if entry.kind not in EXTRA_GROUPS]
    if not found:
        raise _unknown(args.name)
    for entry in found:
        _print_component(entry)
    return 0


def _names(entry: Entry) -> tuple[str, ...]:
    return entry.name, f"{entry.kind}/{entry.name}", entry.label


def _unknown(name: str) -> PluginError:
    plugins = [p for p in catalog.known().values() if any(name in names for names in p.provides.values())]
    names = {entry.name for entry in installed().entries()}
    help = plugins[0].install if plugins else suggest(name, names)
    return PluginError("R001", f"no component named '{name}' is installed", help=help)


def _print_component(entry: Entry) -> None:
    component = installed().describe(entry)
    print(f"{entry.kind} '{entry.name}' of {entry.distribution} {entry.version}")
    print(f"  {component.summary}")
    if component.source:
        print(f"  source: {component.source}")
    for name, field in component.config.model_fields.items():
        default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
        limits = ", ".join(str(mark) for mark in field.metadata if type(mark).__module__ == "annotated_types")
        print(f"  {name}: {_type(field.annotation)}, {default}{', ' + limits if limits else ''}")
        if field.description:
            print(f"      {field.description}")


def _type(annotation: object) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("typing.", "").replace("lavcap_core.component.", "")


def examine(args: argparse.Namespace) -> int:
    """Describes components, and with ``--hardware`` tries out their devices; exit code 1 if one is broken."""
    named = [e for e in installed().entries() if args.name in (None, e.distribution, *_names(e))]
    if not named:
        raise _unknown(args.name)
    broken = {entry: error for entry, error in installed().broken() if entry in named}
    for entry in named:
        missing = entry.unmet()
        if entry in broken:
            print(broken[entry])
        elif missing:
            print(f"{entry.kind} '{entry.name}' of {entry.distribution}: needs {', '.join(missing)}")
    print(f"{len(named)} entry points, {len(broken)} broken")
    if args.hardware:
        _try_hardware([e for e in named if e not in broken and e.kind not in EXTRA_GROUPS], args.name)
    return 1 if broken else 0


def _try_hardware(entries: Sequence[Entry], name: str | None) -> None:
    """Prints reports on devices.

    Raises:
        LavcapError: of the report; B001 if something that a component needs is not installed.
    """
    from lavcap_core.builder import load

    found = [(entry, installed().describe(entry)) for entry in entries]
    # Asked about no one, it tries out what can be.
    able = [(e, c) for e, c in found if c.doctor is not None and (name is not None or not e.unmet())]
    if not able:
        print("nothing here has a report on hardware")
    for entry, component in able:
        report = load(Use(entry.kind, entry.name, entry.distribution, None, component), str(component.doctor))
        for line in report():
            print(line, flush=True)
