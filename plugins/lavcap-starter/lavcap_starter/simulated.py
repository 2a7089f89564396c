"""The dataset `simulated`: clips that were never recorded, out of captions alone (see `lavcap_starter.simulate`).

A clip's tokens are made by the encoders' own functions out of what the two classifiers would have said, so training
reads no media and runs no encoder.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lavcap_core.component import Context
from lavcap_core.data import Ready, Sample
from lavcap_core.errors import DataError
from lavcap_core.files import cache_folder, replace_text
from lavcap_starter.classes import load
from lavcap_starter.plugin import SimulatedConfig
from lavcap_starter.simulate import Matched, Matcher, Painter, Simulator, Sources, confusion, pictures_of, split
from lavcap_starter.yamnet import PATCH_HOP, PATCH_SECONDS

__all__ = ["Simulated", "build", "match", "read_captions"]

_SECONDS = 10.0
_MOST_CLAUSES = 4
MATCHING = 1
"""Version of how captions are matched to classes; part of the name under which the result is kept."""


class Simulated:
    """Draws each clip anew from what its number, the epoch and the run's seed give.

    Args:
        captions: captions with the sound classes of their clauses.
        size: clips of an epoch.
        source: what the captions are called; clips of two sources have different names.
    """

    def __init__(self, captions: Sequence[Matched], size: int, source: str = "simulated") -> None:
        self.matched = captions
        self.names = [f"{source}-{index}" for index in range(size)]
        self.lengths = [_SECONDS] * size
        self._made: _Made | None = None
        self._lock = threading.Lock()

    def captions(self, index: int) -> Sequence[str]:
        """None: what a clip is said to be depends on the draw."""
        return ()

    def identity(self, index: int) -> str | None:
        """None: nothing to keep, as a clip is another one in each epoch."""
        return None

    def read(self, index: int, recipe: Any, seed: tuple[int, ...], ready: frozenset[str] = frozenset()) -> Sample:
        """A clip of the recipe's two encoders, which must be the starter's."""
        made = self._make(recipe)
        example = made.simulator(np.random.default_rng(seed))
        windows = 0 if example.sound is None else len(example.sound)
        sound = _tokens(made.sound, example.sound, torch.arange(windows) * PATCH_HOP + PATCH_SECONDS / 2)
        frames = 0 if example.picture is None else len(example.picture)
        picture = _tokens(made.picture, example.picture, (torch.arange(frames) + 0.5) / max(frames, 1) * _SECONDS)
        return Sample(self.names[index], example.caption, sound, picture, _SECONDS)

    def _make(self, recipe: Any) -> _Made:
        with self._lock:
            if self._made is None:
                simulator = _simulator(recipe, self.matched)
                self._made = _Made(simulator, _speaker(recipe.audio_encoder), _speaker(recipe.visual_encoder))
            return self._made


@dataclass(frozen=True)
class _Made:
    """What draws clips, and what makes tokens of them; all on the CPU, wherever the recipe is."""

    simulator: Simulator
    sound: nn.Module
    picture: nn.Module


def _speaker(encoder: Any) -> nn.Module:
    """A copy on the CPU: clips are read in threads, while the encoder is on the device."""
    speaker: nn.Module = copy.deepcopy(encoder.speaker)
    return speaker.cpu()


def _tokens(speaker: nn.Module, posteriors: NDArray[np.float32] | None, times: torch.Tensor) -> Ready | None:
    if posteriors is None:
        return None
    with torch.no_grad():
        data, sure = speaker(torch.from_numpy(posteriors)[None], torch.ones(1, len(posteriors), dtype=torch.bool))
    return Ready(data[0], sure[0], times)


def _simulator(recipe: Any, captions: Sequence[Matched]) -> Simulator:
    """The simulator of a pipeline's two classifiers.

    Raises:
        DataError: D095 if the encoders are not the starter's.
    """
    try:
        heard = confusion(recipe.audio_encoder.network.classifier.weight.detach().float().cpu().numpy())
        seen = confusion(recipe.visual_encoder.network._fc.weight.detach().float().cpu().numpy())
        frames = recipe.visual_encoder.frames
    except AttributeError:
        help = "use audio_encoder: yamnet and visual_encoder: efficientnet_lite"
        raise DataError("D095", "clips can only be simulated for the starter's two encoders", help=help) from None
    sound, picture = load("sound"), load("picture")
    sources = Sources(sound, picture)
    return Simulator(captions, sources, Painter(sound, heard, seen), pictures_of(sound, picture, sources), frames)


def read_captions(file: str) -> list[str]:
    """The column ``caption`` of a csv file, such as AudioCaps' train.csv.

    Raises:
        DataError: D096 if it can't be read, or has no such column or no rows, or a row ends before that column.
    """
    try:
        with Path(file).open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            captions = [row["caption"] if row["caption"] is not None else _no_caption(file, rows) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("D096", f"captions can't be read: {error}", file=file) from None
    except KeyError:
        raise DataError(
            "D096", "has no column 'caption'", help="a csv file such as AudioCaps' is wanted", file=file
        ) from None
    if not captions:
        raise DataError("D096", "holds no captions", file=file)
    return captions


def _no_caption(file: str, rows: csv.DictReader[str]) -> NoReturn:
    help = "give the row as many fields as the first line has"
    raise DataError("D096", "a row has no field for 'caption'", help=help, file=file).at(line=rows.line_num)


def match(captions: Sequence[str], sentences: str, store: Path | None = None) -> list[Matched]:
    """Captions with the sound classes of their clauses; computed once, and kept in the user's cache.

    Captions with a clause that fits no class, or with very many clauses, are left out: what was matched in part only
    would teach to write of what is not heard.

    Args:
        captions: the captions.
        sentences: folder of a sentence model of transformers.
        store: the folder where the result is kept; None: the user's cache.
    """
    text = json.dumps([MATCHING, Path(sentences).name, load("sound").names, list(captions)])
    place = (store or cache_folder("starter")) / f"matched-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_text(place, json.dumps(_match(captions, sentences)))
    rows = json.loads(place.read_text(encoding="utf-8"))
    return [
        Matched(caption, split(caption), tuple(tuple(found) for found in classes))
        for caption, classes in rows
        if all(classes) and 0 < len(classes) <= _MOST_CLAUSES
    ]


def _match(captions: Sequence[str], sentences: str) -> list[tuple[str, list[list[int]]]]:
    sound = load("sound")
    clauses = [[clause.text for clause in split(caption)] for caption in captions]
    texts = sorted({text for row in clauses for text in row})
    vectors = _sentence_vectors([*sound.names, *texts], sentences)
    matcher = Matcher(sound, vectors[: len(sound.names)])
    found = dict(zip(texts, vectors[len(sound.names) :], strict=True))
    classes = {text: list(matcher(text, vector)) for text, vector in found.items()}
    return [(caption, [classes[text] for text in row]) for caption, row in zip(captions, clauses, strict=True)]


def _sentence_vectors(texts: Sequence[str], folder: str, batch: int = 256) -> NDArray[np.float32]:
    """Unit sentence embeddings [N, D] by mean pooling."""
    from tqdm import tqdm
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    order = np.argsort([len(text) for text in texts])
    for start in tqdm(range(0, len(texts), batch), "matching captions", disable=None):
        rows = order[start : start + batch]
        words = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**words).last_hidden_state * words["attention_mask"][..., None]
        vectors[rows] = torch.nn.functional.normalize(hidden.sum(dim=1), dim=1).numpy()
    return vectors


def build(config: SimulatedConfig, context: Context) -> Simulated:
    """Reads and matches the captions.

    Raises:
        DataError: D096 if the captions can't be read.
        WeightsError: W090 to W094 if the sentence model can't be fetched.
    """
    captions = read_captions(config.captions)
    return Simulated(match(captions, context.locate(config.sentences)), config.size, config.captions)
