"""Divides a manifest into parts, and counts what is in one. Needs no torch, and reads headers of files at most."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lavcap_core.errors import DataError, LavcapError
from lavcap_core.manifest import Item, list_hash
from lavcap_core.media import probe
from lavcap_core.run.threads import each

__all__ = ["divide", "lengths", "parse_parts", "stats"]


def parse_parts(text: str) -> dict[str, float]:
    """``train=0.8,val=0.2`` as names and shares.

    Raises:
        DataError: D012 if they are not shares of one whole.
    """
    parts: dict[str, float] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*([\w-]+)\s*=\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*", part)
        if not found or found[1] in parts:
            raise DataError("D012", f"no name and share: '{part}'", help="such as train=0.8,val=0.1,test=0.1")
        parts[found[1]] = float(found[2])
    if not all(parts.values()) or abs(sum(parts.values()) - 1) > 1e-6:
        raise DataError("D012", f"the shares make {sum(parts.values()):g}, not 1, or one is 0: {text}")
    return parts


def divide(items: Sequence[Item], parts: Mapping[str, float], seed: int = 0) -> list[Item]:
    """The clips, each marked with its part.

    A part is drawn by a hash of the seed and the clip's ``source``, else of its name. Clips of one source or one file
    go to one part, that of the first. So clips which are added later move none, unless they join two such groups, or
    stand before the first of one.

    Args:
        items: the clips.
        parts: names and shares, which sum to 1.
        seed: another seed draws anew.
    """
    return [
        replace(item, split=_draw(f"{seed}\n{key}", parts)) for item, key in zip(items, _groups(items), strict=True)
    ]


def _draw(text: str, parts: Mapping[str, float]) -> str:
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    reached = 0.0
    for name, share in parts.items():
        reached += share
        if place < reached:
            return name
    return list(parts)[-1]


def _groups(items: Sequence[Item]) -> list[str]:
    """For each clip, what its part is drawn by: that of the first clip with which a source or a file joins it."""
    leaders = list(range(len(items)))

    def top(index: int) -> int:
        while leaders[index] != index:
            leaders[index] = leaders[leaders[index]]
            index = leaders[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, item in enumerate(items):
        for kind, text in (("source", item.source), ("file", item.clip)):
            if text is not None:
                low, high = sorted((top(first.setdefault((kind, text), index)), top(index)))
                leaders[high] = low
    heads = [items[top(index)] for index in range(len(items))]
    return [head.source or head.name for head in heads]


def lengths(
    items: Sequence[Item], workers: int, show: Callable[[Iterable[float | None], int], Iterable[float | None]]
) -> list[float | None]:
    """Seconds of each clip as its row or else its file's header tells; None where neither does."""
    return list(show(each(_length, items, workers), len(items)))


def _length(item: Item) -> float | None:
    try:
        whole = probe(item.clip).seconds if item.clip is not None else None
    except LavcapError:
        return None
    ends = [end for end in (whole, item.end) if end is not None]
    return max(0.0, min(ends) - item.start) if ends else None


def stats(items: Sequence[Item], seconds: Sequence[float | None] | None = None) -> dict[str, Any]:
    """What is in a manifest.

    Args:
        items: the clips.
        seconds: length of each, where known; default: what ``start`` and ``end`` tell.
    """
    captions = [text for item in items for text in item.captions]
    words = [re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower()) for text in captions]
    known = seconds or [None if item.end is None else item.end - item.start for item in items]
    told = [length for length in known if length is not None]
    return {
        "clips": len(items),
        "captions": len(captions),
        "captions_per_clip": _spread([len(item.captions) for item in items]),
        "words_per_caption": _spread([len(text) for text in words]),
        "vocabulary": len({word for text in words for word in text}),
        "seconds": {"clips": len(told), "sum": round(sum(told), 3), **_spread(told)},
        "with": {name: sum(bool(getattr(item, name)) for item in items) for name in _HAVE},
        "splits": dict(Counter(item.split or "none" for item in items)),
        "sha256": list_hash(items),
    }


_HAVE = ("clip", "image", "frames", "audio_features", "visual_features")


def _spread(numbers: Sequence[float]) -> dict[str, float]:
    if not numbers:
        return {}
    return {"min": min(numbers), "mean": round(sum(numbers) / len(numbers), 3), "max": max(numbers)}
