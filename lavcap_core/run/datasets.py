"""Datasets: clips with captions, for training and validation. The one here reads a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from lavcap_core import media
from lavcap_core.builtin import ManifestConfig
from lavcap_core.component import Context
from lavcap_core.data import Sample
from lavcap_core.errors import DataError, Problem
from lavcap_core.manifest import Item, read_manifest
from lavcap_core.recipes.captioner import Captioner
from lavcap_core.run.contents import item_hash

__all__ = ["ManifestDataset", "build"]

_UNKNOWN_LENGTH = 10.0


class ManifestDataset:
    """Clips of a manifest. Of a clip longer than a window of the spec, the first window is learnt.

    Args:
        items: the clips, each with at least one caption.

    Raises:
        DataError: D040 if a clip has no caption, D041 if there are none at all.
    """

    def __init__(self, items: Sequence[Item], file: str | None = None) -> None:
        _require_captions(items, file)
        self.items = items
        self.names = [item.name for item in items]
        self.splits = {item.split for item in items if item.split}
        self.lengths = [_UNKNOWN_LENGTH if item.end is None else item.end - item.start for item in items]

    def captions(self, index: int) -> Sequence[str]:
        """All captions of a clip."""
        return self.items[index].captions

    def identity(self, index: int) -> str | None:
        """Hash of the clip's files and of the stretch that is read of them."""
        return item_hash(self.items[index])

    def read(self, index: int, recipe: Captioner, seed: tuple[int, ...], ready: frozenset[str] = frozenset()) -> Sample:
        """Reads and prepares a clip; one of its captions is drawn.

        Raises:
            MediaError: if the clip can't be read.
            DataError: if its pictures or features can't.
        """
        item = self.items[index]
        caption = item.captions[int(np.random.default_rng(seed).integers(len(item.captions)))]
        audio, visual, seconds = _features(item, recipe, ready)
        return Sample(item.name, caption, audio, visual, seconds, item.prompt)


def _features(item: Item, recipe: Captioner, ready: frozenset[str]) -> tuple[Tensor | None, Tensor | None, float]:
    request = recipe.request()
    request = replace(request, limit=min(request.limit, request.window))
    if "audio" in ready:
        request = replace(request, audio=False, audio_width=None)
    if "visual" in ready:
        request = replace(request, frames=0, visual_width=None)
    if not (request.audio or request.frames or request.audio_width or request.visual_width):
        return None, None, request.window
    clip = media.read_item(item, request).windows[0]
    audio, visual = recipe.prepare(clip)
    return audio, visual, clip.seconds


def _require_captions(items: Sequence[Item], file: str | None) -> None:
    if not items:
        raise DataError("D041", "lists no clips", help="a row is a clip with its captions", file=file)
    help = "give each row 'caption' or 'captions'"
    bare = [item.name for item in items if not any(text.strip() for text in item.captions)]
    if bare:
        shown = ", ".join(bare[:5]) + (f" and {len(bare) - 5} more" if len(bare) > 5 else "")
        raise DataError(Problem("D040", f"{len(bare)} clips have no caption: {shown}", help, file=file))


def build(config: ManifestConfig, context: Context) -> ManifestDataset:
    """Reads the manifest.

    Raises:
        RunError: C002 if it can't be read.
        DataError: D040 or D041 if it is not one to learn from.
    """
    return ManifestDataset(read_manifest(Path(config.file)), config.file)
