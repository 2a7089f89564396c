"""What was trained (LAVCap, Table IV), as the tensors of a checkpoint show it, against what a spec says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from lavcap_core.component import Tune
from lavcap_core.errors import Problem, RunError, WeightsError
from lavcap_core.run.released.files import Stored
from lavcap_core.run.released.names import PARTS, is_buffer
from lavcap_core.spec import Spec

__all__ = ["first", "learns_scale", "require_parts", "require_strategy", "tune"]

Parts = Mapping[str, Mapping[str, Stored]]

_SLOTS = {"audio_encoder": ("ced", "ced_lora"), "decoder": ("llama", "llama_lora")}
_TARGETS = ("q_proj", "v_proj")  # of the released code, and of both plugins where a spec names none
_LORA = re.compile(r".*?\.(?:blocks|layers)\.(\d+)\.(.+)\.lora_([AB])\.default\.weight")


def tune(spec: Spec, slot: str) -> Tune:
    """How much of the part in a slot is trained; nothing of one that isn't there."""
    use = spec.parts[slot]
    found: Tune = Tune() if use is None else use.config.tune
    return found


def learns_scale(spec: Spec) -> bool:
    """Whether the spec has an OT loss with a learned scale."""
    use = spec.parts["aligner"]
    loss = None if use is None else getattr(use.config, "loss", None)
    return bool(getattr(loss, "learnable", False))


def require_parts(spec: Spec, parts: Parts) -> None:
    """Refuses a spec whose encoder and decoder aren't those of the checkpoint.

    Raises:
        RunError: C041.
    """
    problems = []
    for slot, kinds in _SLOTS.items():
        use = spec.parts[slot]
        name = "nothing" if use is None else use.name
        if any(parts[kind] for kind in kinds) and name != kinds[0]:
            message = f"the spec has {name} here, and the checkpoint is one of {PARTS[kinds[0]]}"
            problems.append(Problem("C041", message, help=f"take a spec with {slot}.use: {kinds[0]}", key=slot))
    if problems:
        raise RunError(problems)


def require_strategy(spec: Spec, parts: Parts) -> list[str]:
    """Refuses a spec that trains other things than were trained.

    Returns:
        Notes: what only the spec can tell.

    Raises:
        WeightsError: W044 for another mode, rank or other targets of LoRA; W045 if LoRA isn't whole.
    """
    slots = [slot for slot in _SLOTS if spec.parts[slot] is not None]
    problems = [problem for slot in slots for problem in _modes(slot, tune(spec, slot), parts)]
    if problems:
        raise WeightsError(problems)
    adapted = [slot for slot in slots if tune(spec, slot).mode == "lora"]
    problems = [problem for slot in adapted for problem in _lora(slot, tune(spec, slot), parts[_SLOTS[slot][1]])]
    if problems:
        raise WeightsError(problems)
    return [f"{slot}.tune.alpha is {tune(spec, slot).alpha:g} as the spec says: no file tells it" for slot in adapted]


def _modes(slot: str, tune: Tune, parts: Parts) -> Iterator[Problem]:
    possible = _possible(slot, parts)
    if tune.mode not in possible:
        told = " or ".join(possible)
        message = f"the checkpoint's {PARTS[_SLOTS[slot][0]]} says {told}, the spec says {tune.mode}"
        yield _problem(message, slot, "mode", told)


def _possible(slot: str, parts: Parts) -> Sequence[str]:
    """Modes that leave such a checkpoint.

    One of trained tensors has frozen weights of neither model; one that has weights of both may be a whole module state
    without LoRA, which doesn't tell what was trained.
    """
    base, lora = _SLOTS[slot]
    if parts[lora]:
        return ("lora",)
    others = [kinds[0] for other, kinds in _SLOTS.items() if other != slot]
    held = {kind for kind in (base, *others) if any(not is_buffer(name) for name in parts[kind])}
    if base not in held:
        return ("freeze",)
    return ("finetune",) if held == {base} else ("finetune", "freeze")


def _lora(slot: str, tune: Tune, tensors: Mapping[str, Stored]) -> Iterator[Problem]:
    found = {name: match for name in tensors if (match := _LORA.fullmatch(name))}
    layers = sorted({match[2] for match in found.values()})
    title = PARTS[_SLOTS[slot][1]]
    targets = sorted({layer.rpartition(".")[2] for layer in layers})
    wanted = sorted({target.rpartition(".")[2] for target in tune.targets or _TARGETS})
    if targets != wanted:
        message = f"the checkpoint's {title} is on {' and '.join(targets)}, the spec's on {' and '.join(wanted)}"
        yield _problem(message, slot, "targets", f"[{','.join(targets)}]")
    ranks = sorted({shape[0 if found[name][3] == "A" else -1] for name in found if (shape := tensors[name].shape)})
    if ranks != [tune.rank]:
        told = " and ".join(map(str, ranks))
        yield _problem(f"the checkpoint's {title} has rank {told}, the spec's {tune.rank}", slot, "rank", told)
    depth = 1 + max(int(match[1]) for match in found.values())
    there = {match.groups() for match in found.values()}
    missing = [
        f"{layer}.lora_{side} of layer {index}"
        for index in range(depth)
        for layer in layers
        for side in "AB"
        if (str(index), layer, side) not in there
    ]
    if missing:
        help = "the file was cut, or written in part: take another one"
        yield Problem("W045", f"{title} isn't whole: {first(missing)} missing", help=help)


def _problem(message: str, slot: str, key: str, value: str) -> Problem:
    return Problem("W044", message, help=f"if that is what was trained: --set {slot}.tune.{key}={value}")


def first(names: Sequence[str], most: int = 5) -> str:
    """Some of many names, for a message."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
