"""What a model does on clips of another source: loss, finding a sound's picture, naming what is heard and seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.fetch import TEMPLATES, starter
from lavcap_core import media
from lavcap_core.data import AUDIO, VISUAL, Padded, Ready, Tokens, collate, collate_ready
from lavcap_core.interfaces import Aligner, Generate
from lavcap_core.manifest import Item
from lavcap_core.recipes.captioner import Captioner

__all__ = ["Encoded", "Test", "chance", "encode", "find", "measure", "names_source", "ranks", "retrieval", "swapped"]

SHIFT = 11
"""Places by which inputs are moved on where each clip is to be captioned from another one's: past the farm animals."""


@dataclass(frozen=True)
class Encoded:
    """A clip and what the frozen encoders make of it."""

    item: Item
    audio: Ready | None
    visual: Ready | None


@dataclass(frozen=True)
class Test:
    """Clips of the test sources: those with both modalities, and other sounds of the same things."""

    clips: Sequence[Encoded]
    queries: Sequence[Encoded]


@torch.inference_mode()
def encode(recipe: Captioner, items: Sequence[Item]) -> list[Encoded]:
    """Reads and encodes clips one by one."""
    found = []
    for item in items:
        window = media.read_item(item, recipe.request()).windows[0]
        prepared = recipe.prepare(window)
        audio, visual = recipe.encode(_batch(prepared[0]), _batch(prepared[1]))
        found.append(Encoded(item, _ready(audio), _ready(visual)))
    return found


def _batch(part: Tensor | None) -> Padded | None:
    return None if part is None else collate([part])


def _ready(tokens: Tokens | None) -> Ready | None:
    return None if tokens is None else Ready(tokens.data[0], tokens.mask[0])


@torch.inference_mode()
def measure(recipe: Captioner, test: Test) -> dict[str, Any]:
    """All numbers of one model; those of retrieval only where a pipeline fuses both modalities.

    Returns:
        ``loss``: mean cross-entropy per token, over all captions of all clips; ``swapped``: the same where each clip is
        captioned from another one's sound and picture; ``names``: share of greedy captions that name the source;
        ``mrr``, ``recall1``, ``recall5`` of finding a sound's picture among all; ``captions`` and ``ranks`` by clip.
    """
    recipe.eval()
    captions = _generate(recipe, test.clips)
    row: dict[str, Any] = {
        "loss": _loss(recipe, test.clips, test.clips),
        "swapped": _loss(recipe, test.clips, swapped(test.clips)),
        "names": sum(names_source(clip.item, text) for clip, text in captions) / len(captions),
        "captions": {clip.item.name: text for clip, text in captions},
    }
    if recipe.aligner is not None and not hasattr(recipe.fuser, "audio"):  # the fusers of one modality have it
        row |= find(recipe.aligner, test)
    return row


@torch.inference_mode()
def find(aligner: Aligner, test: Test) -> dict[str, Any]:
    """Retrieval of the pictures of all sounds by what an aligner says of them."""
    sounds = [*test.clips, *test.queries]
    found = ranks(similarities(aligner, sounds, test.clips), _right(sounds, test.clips))
    names = (sound.item.name for sound in sounds)
    return {**retrieval(found), "ranks": dict(zip(names, found, strict=True))}


def _tokens(clips: Sequence[Encoded]) -> tuple[Tokens | None, Tokens | None]:
    audio = collate_ready([clip.audio for clip in clips], AUDIO)
    return audio, collate_ready([clip.visual for clip in clips], VISUAL)


def _loss(recipe: Captioner, said: Sequence[Encoded], shown: Sequence[Encoded]) -> float:
    """Mean over the tokens of the captions of ``said``, from the sounds and pictures of ``shown``."""
    tokens, _ = recipe.fuse(*_tokens(shown))
    total, count = 0.0, 0
    for index in range(len(TEMPLATES)):
        captions = [clip.item.captions[index] for clip in said]
        total += float(recipe.decoder.loss(tokens, captions).sum())
        count += int(recipe.decoder.caption_tokens(captions).sum())
    return total / count


def swapped(clips: Sequence[Encoded]) -> list[Encoded]:
    """Each clip's place taken by another one."""
    return [*clips[SHIFT:], *clips[:SHIFT]]


def _generate(recipe: Captioner, clips: Sequence[Encoded]) -> list[tuple[Encoded, str]]:
    tokens, _ = recipe.fuse(*_tokens(clips))
    texts = recipe.decoder.generate(tokens, Generate(beams=1, max_new_tokens=20))
    return list(zip(clips, texts, strict=True))


def names_source(item: Item, caption: str) -> bool:
    """Whether a caption has a word of those that name the clip's source (see the starter's benchmark)."""
    tools = starter()
    words = {f"{entry.suite}/{entry.clip}": entry.source for entry in tools.items()}
    return bool(tools.names(caption, words[item.name]))


# --- finding a sound's picture ----------------------------------------------------------------------------------------


def similarities(aligner: Aligner, sounds: Sequence[Encoded], pictures: Sequence[Encoded]) -> Tensor:
    """[S, P]: what the aligner says of each sound with each picture.

    The similarities S of the pair's tokens (cosines, as projected), weighted by the transport plan Q: sum_ij Q_ij S_ij,
    which is what transport costs, with its sign turned (LAVCap eq. 2).
    """
    rows = []
    for sound in sounds:
        audio, visual = _tokens([Encoded(picture.item, sound.audio, picture.visual) for picture in pictures])
        assert audio is not None
        assert visual is not None
        found = aligner(audio, visual).alignment
        assert found.plan is not None
        rows.append((found.plan * found.similarity).sum(dim=(1, 2)))
    return torch.stack(rows)


def _right(sounds: Sequence[Encoded], pictures: Sequence[Encoded]) -> list[set[int]]:
    """For each sound, the pictures of the same thing."""
    return [
        {place for place, picture in enumerate(pictures) if picture.item.captions == sound.item.captions}
        for sound in sounds
    ]


def ranks(scores: Tensor, right: Sequence[set[int]]) -> list[int]:
    """Rank of the best right picture of each sound, from 1; of equals, the wrong ones come first.

    Args:
        scores: [S, P], higher is nearer.
        right: for each sound, the right pictures.
    """
    found = []
    for row, places in zip(scores.tolist(), right, strict=True):
        best = max(row[place] for place in places)
        found.append(1 + sum(score >= best for place, score in enumerate(row) if place not in places))
    return found


def retrieval(found: Sequence[int]) -> dict[str, float]:
    """Mean reciprocal rank, and the shares of sounds whose picture is the first, or among the first five."""
    count = len(found)
    return {
        "mrr": sum(1 / rank for rank in found) / count,
        "recall1": sum(rank == 1 for rank in found) / count,
        "recall5": sum(rank <= 5 for rank in found) / count,
    }


def chance(pictures: int) -> Mapping[str, float]:
    """What an order drawn at random gives on average, where one of the pictures is right."""
    expected = retrieval(range(1, pictures + 1))
    return {name: round(value, 3) for name, value in expected.items()}
