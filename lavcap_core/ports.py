"""Checks that neighbouring parts fit, before any weights are read: modality, width, space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lavcap_core.component import Port, RecipeSlot, Use
from lavcap_core.errors import LavcapError, Problem

__all__ = ["Wire", "Wiring", "wire"]


@dataclass(frozen=True)
class Wire:
    """A connection: the port ``port`` named ``name`` flows from one slot to another (None: out of the pipeline)."""

    name: str
    port: Port
    source: str
    target: str | None


@dataclass(frozen=True)
class Wiring:
    """How the slots of a spec are connected.

    Attributes:
        wires: connections in the order of the slots.
        inputs: for each slot in use, what arrives at it.
        skipped: slots that are not in use because a port they need is missing, with the reason.
        problems: pairs of slot and problem.
    """

    wires: tuple[Wire, ...]
    inputs: Mapping[str, Mapping[str, Port]]
    skipped: Mapping[str, str]
    problems: tuple[tuple[str, Problem], ...]


def wire(slots: Mapping[str, RecipeSlot], parts: Mapping[str, Use | None]) -> Wiring:
    """Connects the parts of a spec in the order of the recipe's slots.

    Args:
        slots: what the recipe declares.
        parts: what the spec puts there; None for an empty slot.
    """
    ports: dict[str, Port] = {}
    origin: dict[str, str] = {}
    wires: list[Wire] = []
    inputs: dict[str, Mapping[str, Port]] = {}
    skipped: dict[str, str] = {}
    problems: list[tuple[str, Problem]] = []
    for name, slot in slots.items():
        use = parts.get(name)
        if use is None:
            continue
        arriving = {port: ports[port] for port in slot.takes if port in ports}
        if slot.needs_all and len(arriving) < len(slot.takes):
            missing = " and ".join(port for port in slot.takes if port not in ports)
            skipped[name] = f"there are no {missing} tokens"
            continue
        if slot.takes and not arriving:
            problems.append((name, _nothing_arrives(slot)))
            break
        inputs[name] = arriving
        wires += [Wire(port, arriving[port], origin[port], name) for port in arriving]
        try:
            leaving = use.component.ports(use.config, arriving)
        except LavcapError as error:
            problems += [(name, problem) for problem in error.problems]
            break  # what follows would only repeat it in other words
        ports.update(leaving)
        origin.update(dict.fromkeys(leaving, name))
    return Wiring(tuple(wires), inputs, skipped, tuple(problems))


def _nothing_arrives(slot: RecipeSlot) -> Problem:
    wanted = " or ".join(slot.takes)
    return Problem("P002", f"no {wanted} tokens arrive: no part before it gives any", "add an encoder to the spec")
