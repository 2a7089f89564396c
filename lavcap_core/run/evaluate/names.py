"""Which caption belongs to which clip, where the two are not called the same."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lavcap_core.manifest import MEDIA

__all__ = ["Assigned", "assign", "is_audiocaps"]

_AUDIOCAPS = re.compile(r"([\w-]{11})_(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Assigned:
    """What belongs together.

    Attributes:
        pairs: clip to the name of its caption.
        extra: names that fit no clip.
        unclear: clips that several names fit or whose name fits several clips, each with these names.
    """

    pairs: dict[str, str]
    extra: tuple[str, ...]
    unclear: dict[str, tuple[str, ...]]


def is_audiocaps(clip: str) -> bool:
    """Whether a clip is named as AudioCaps' are here: ID of YouTube, ``_``, start in seconds."""
    return _AUDIOCAPS.fullmatch(clip) is not None


def assign(names: Sequence[str], clips: Sequence[str]) -> Assigned:
    """Finds the clip of every name: one called the same; else of the same stem; else by AudioCaps' naming rules.

    Args:
        names: of captions, each once.
        clips: names of clips, each once.
    """
    same = set(names) & set(clips)
    left = [name for name in names if name not in same]
    fitting: dict[str, list[str]] = {clip: [clip] for clip in clips if clip in same}
    clips_of: dict[str, set[str]] = {name: {name} for name in same}
    for clip, name in {*_by_stem(left, clips), *_by_audiocaps(left, clips)}:
        fitting.setdefault(clip, []).append(name)
        clips_of.setdefault(name, set()).add(clip)
    unclear = {
        clip: tuple(sorted(found))
        for clip, found in sorted(fitting.items())
        if len(found) > 1 or len(clips_of[found[0]]) > 1
    }
    pairs = {clip: found[0] for clip, found in fitting.items() if clip not in unclear}
    return Assigned(pairs, tuple(name for name in left if name not in clips_of), unclear)


def _stem(name: str) -> str:
    """A path's last part, without the suffix if it is one of media: a start may have a point in it."""
    last = re.split(r"[/\\]", name)[-1]
    stem, point, suffix = last.rpartition(".")
    return stem if f"{point}{suffix}".lower() in MEDIA else last


def _by_stem(names: Iterable[str], clips: Iterable[str]) -> Iterable[tuple[str, str]]:
    stems = defaultdict(list)
    for clip in clips:
        stems[_stem(clip)].append(clip)
    return [(clip, name) for name in names for clip in stems.get(_stem(name), ())]


def _by_audiocaps(names: Sequence[str], clips: Iterable[str]) -> Iterable[tuple[str, str]]:
    listed = [(clip, found) for clip in clips if (found := _AUDIOCAPS.fullmatch(clip))]
    if not names or not listed:
        return []
    # Imported here: it brings the media library, which nothing else of an evaluation needs.
    from lavcap_core.run.data_audiocaps import Named, Official

    files = Named(((_stem(name), name) for name in names), {found[1] for _, found in listed})
    return [(clip, name) for clip, found in listed for name, _ in files.find(Official(found[1], found[2], ()))]
