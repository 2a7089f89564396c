"""Finds what is wrong with the clips of a manifest by reading every file. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lavcap_core._media.features import read_features
from lavcap_core.errors import LavcapError
from lavcap_core.manifest import Item
from lavcap_core.media import Clip, Recording, Request, read_item
from lavcap_core.run.contents import item_hash
from lavcap_core.run.threads import each

__all__ = ["HARMLESS", "Finding", "Limits", "check", "clean"]

HARMLESS = frozenset(["partial", "without-video"])
"""Kinds that don't keep a clip out of the clean manifest."""

_TEST = frozenset(["test", "testing", "eval", "evaluation"])
_LIMIT = 600.0
"""Seconds that are read of a clip, as by a spec that says nothing else."""
_MOVING, _STANDING = 4, 20
"""Frames that are decoded of a video, and of a folder of pictures."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a clip.

    Attributes:
        name: the clip's.
        kind: ``unreadable`` (a file can't be read), ``partial`` (cut off or damaged, though a part can be read),
            ``silent`` (no sound, or a peak below the level), ``short``, ``without-video`` (no video, no picture, no
            frames and no features of them), ``duplicate`` (content and stretch of an earlier clip), ``no-caption``
            (none, or an empty one) or ``marked-test`` (in a manifest to train on).
        message: what was met.
    """

    name: str
    kind: str
    message: str


@dataclass(frozen=True)
class Limits:
    """What counts as wrong.

    Attributes:
        shortest: seconds that a clip has at least.
        silence: level in dBFS that its loudest sample reaches at least.
        training: whether clips that are marked as test don't belong here.
    """

    shortest: float = 1.0
    silence: float = -60.0
    training: bool = False


Show = Callable[[Iterable[tuple[list[Finding], str | None]], int], Iterable[tuple[list[Finding], str | None]]]


def check(
    items: Sequence[Item], limits: Limits, *, workers: int = 4, show: Show = lambda results, total: results
) -> list[Finding]:
    """Reads every clip on threads.

    Args:
        items: the clips.
        limits: what counts as wrong.
        workers: threads.
        show: passes results on while it shows how many of how many there are.

    Returns:
        Findings in the order of the clips.
    """
    found: list[Finding] = []
    first: dict[str, str] = {}
    looked = each(lambda item: _look(item, limits), items, workers)
    for item, (findings, content) in zip(items, show(looked, len(items)), strict=True):
        found += findings
        if content is None:
            continue
        if content in first:
            found.append(Finding(item.name, "duplicate", f"the same as {first[content]}"))
        elif not any(finding.kind == "no-caption" for finding in findings):  # else a later one, captioned, is kept
            first[content] = item.name
    return found


def clean(items: Sequence[Item], findings: Iterable[Finding]) -> list[Item]:
    """Clips without a finding, `HARMLESS` ones aside."""
    bad = {finding.name for finding in findings if finding.kind not in HARMLESS}
    return [item for item in items if item.name not in bad]


def _look(item: Item, limits: Limits) -> tuple[list[Finding], str | None]:
    """Findings of one clip, and a hash of its content and stretch."""
    found = [Finding(item.name, kind, message) for kind, message in _marks(item, limits)]
    try:
        found += [Finding(item.name, kind, message) for kind, message in _read(item, limits)]
        return found, item_hash(item)
    except LavcapError as error:
        problem = error.problems[0]
        message = f"{problem.code} {problem.message}" + (f" ({problem.file})" if problem.file else "")
    except Exception as error:  # one clip must not end the check of the others
        message = f"{type(error).__name__}: {error}".splitlines()[0]
    return [*found, Finding(item.name, "unreadable", message)], None


def _marks(item: Item, limits: Limits) -> Iterator[tuple[str, str]]:
    """What the row itself tells."""
    if not item.captions:
        yield "no-caption", "has no caption"
    elif not all(text.strip() for text in item.captions):
        yield "no-caption", "has an empty caption"
    if limits.training and (item.split or "").lower() in _TEST:
        yield "marked-test", f"is marked '{item.split}'"


def _read(item: Item, limits: Limits) -> Iterator[tuple[str, str]]:
    """What the files tell.

    Raises:
        LavcapError: if one can't be read.
    """
    for features in filter(None, (item.audio_features, item.visual_features)):
        read_features(features)
    window = None
    if item.clip or item.frames:
        recording = _recording(item)
        (window,) = recording.windows
        if recording.status == "partial":
            yield "partial", str(recording.reason)
        if item.clip and recording.seconds < limits.shortest:
            yield "short", f"lasts {recording.seconds:.2f} s"
    if item.clip and window:
        yield from _sound(window, limits)
    if (window is None or window.frames is None) and item.visual_features is None:
        yield "without-video", "has no video"


def _recording(item: Item) -> Recording:
    frames = _MOVING if item.frames is None else _STANDING
    return read_item(item, Request(frames=frames, image_size=32, window=_LIMIT, hop=_LIMIT, limit=_LIMIT))


def _sound(window: Clip, limits: Limits) -> Iterator[tuple[str, str]]:
    if window.waveform is None:
        yield "silent", "has no sound"
        return
    peak = float(np.abs(window.waveform).max(initial=0))
    level = 20 * math.log10(peak) if peak else -math.inf
    if level < limits.silence:
        yield "silent", "is digital silence" if peak == 0 else f"peaks at {level:.0f} dBFS"
