"""What frozen encoders give, computed once and kept: the feature cache.

An entry is found by hashes of all that it depends on (`lavcap_core.run.feature_keys`, and the clip's content): no stale
one can be used. How it is kept is said in `lavcap_core.run.shards`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lavcap_core import media
from lavcap_core.builder import build_recipe, recipe_builder
from lavcap_core.builtin import TrainConfig, Windows, captioner
from lavcap_core.component import Port
from lavcap_core.data import Padded, Ready, Sample, Tokens
from lavcap_core.errors import DataError, LavcapError
from lavcap_core.files import cache_folder
from lavcap_core.interfaces import Backend, Dataset
from lavcap_core.pipeline import load_weights
from lavcap_core.recipes.captioner import Captioner
from lavcap_core.run.contents import content_hash, contents
from lavcap_core.run.feature_keys import ingredients, why_not
from lavcap_core.run.loader import reason
from lavcap_core.run.shards import Entry, Shards, compact
from lavcap_core.run.threads import each
from lavcap_core.spec import Spec

__all__ = [
    "MODALITIES",
    "Cached",
    "Features",
    "Report",
    "content_hash",
    "encoders",
    "folder_of",
    "prepare",
    "prepare_reported",
    "prune",
]

MODALITIES = ("audio", "visual")
"""What can be cached, by the part of the slot's name before ``_encoder``."""
_FACTS = frozenset(["rule", "modality", "component", "weights"])
"""Keys that every ``about.json`` of the cache has."""
_OWN = re.compile(r"[0-9a-f]{64}\.safetensors|\..*\.tmp|\.about\.json\.[0-9]+")
"""Names of the cache's files beside it: shards, and what killed writers left."""
_BATCH = 8
"""Clips of one shape that are encoded together."""
_ROUND = 256
"""Clips that each process takes before all wait for each other: no wait is longer than what a launcher puts up with."""


def encoders(spec: Spec) -> Any:
    """The recipe of a spec with nothing but its encoders, where these can be had alone; else all of it."""
    if spec.recipe.component is not captioner or spec.pipeline.weights is not None:
        recipe = build_recipe(spec)
        if spec.pipeline.weights is not None:
            load_weights(recipe, spec.pipeline.weights)
        return recipe
    builder, ports = recipe_builder(spec), dict[str, Port]()
    audio, visual = (builder.build_slot(f"{modality}_encoder", ports) for modality in MODALITIES)
    nothing = cast(Any, None)
    return Captioner(audio, visual, None, nothing, nothing, cast(Windows, spec.sections["windows"]))


def prune(folder: Path, days: float) -> tuple[int, int]:
    """Removes what no run has used for some days: whole encoders' features. Gives their number and their bytes.

    Nothing but the cache's own files is removed: people keep other things in folders that they choose.
    """
    count = bytes = 0
    for about in folder.glob("*/about.json"):
        if time.time() - about.stat().st_mtime > days * 86400 and _is_own(about):
            files = [path for path in about.parent.iterdir() if _OWN.fullmatch(path.name)]
            bytes += sum(path.stat().st_size for path in files)
            count += 1
            for path in [*files, about]:  # what says that they are the cache's goes last
                path.unlink(missing_ok=True)
            with suppress(OSError):  # it holds something else
                about.parent.rmdir()
    return count, bytes


def _is_own(about: Path) -> bool:
    """Whether it was written by `Shards.describe`."""
    try:
        facts = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.keys() >= _FACTS


def folder_of(spec: Spec) -> Path:
    """Where a spec's features are kept."""
    chosen = cast(TrainConfig, spec.sections["train"]).cache_folder
    return cache_folder("features") if chosen is None else Path(chosen)


# --- the cache -------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What was done for a dataset, by all processes together.

    Attributes:
        computed: modality to the number of clips whose tokens were computed.
        failed: clips that could not be read or encoded, by name, with the reason.
        same: False if the dataset's clips differ at each reading, so that nothing can be kept.
    """

    computed: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    same: bool = True

    def gathered(self, backend: Backend) -> Report:
        """The reports of all processes as one."""
        counts = backend.gather(sorted(self.computed.elements()))
        return Report(Counter(counts), dict(backend.gather(sorted(self.failed.items()))))


class Features:
    """The cached features of a recipe's frozen encoders.

    Args:
        recipe: a built recipe.
        backend: where to compute, and in which precision.
        spec: of the recipe; its `train.cache_folder` says where features are kept.

    Attributes:
        left_out: slot to the reason why its encoder is not cached.
        shards: modality to what is kept of it.
    """

    def __init__(self, recipe: Captioner, backend: Backend, spec: Spec) -> None:
        self.recipe, self.backend = recipe, backend
        self.folder = folder_of(spec)
        self.left_out: dict[str, str] = {}
        self.shards: dict[str, Shards] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        for modality in MODALITIES:
            encoder = getattr(recipe, f"{modality}_encoder", None)
            if encoder is None:
                continue
            reason = why_not(encoder)
            if reason is None:
                self.shards[modality] = self._shards(modality, spec)
            else:
                self.left_out[f"{modality}_encoder"] = reason

    def _shards(self, modality: str, spec: Spec) -> Shards:
        facts = ingredients(modality, self.recipe, self.backend, spec)
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        use = spec.parts[f"{modality}_encoder"]
        assert use is not None
        self._facts[modality] = facts
        return Shards(self.folder / f"{use.name}-{key[:32]}", key)

    def fill(self, dataset: Dataset, clips: Mapping[int, str], workers: int = 2) -> Report:
        """Computes what is missing, each process its share; all processes call it.

        Args:
            dataset: where clips are read.
            clips: index to identity of the clips that are wanted.
            workers: threads that read clips.

        Raises:
            DataError: D031 if the cache can't be written.
        """
        self._open()
        if self.backend.index == 0:
            for modality, shards in self.shards.items():
                shards.describe(self._facts[modality])
        report = Report()
        once = {clip: index for index, clip in clips.items()}
        mine = sorted(once.values())[self.backend.index :: self.backend.processes]
        missing = sum(bool(self._missing(clips[index])) for index in mine)
        rounds = -(-len(once) // (_ROUND * self.backend.processes))
        with self._working(), _bar(missing, self.backend.index == 0, f"features ({', '.join(self.shards)})") as bar:
            for start in range(0, rounds * _ROUND, _ROUND):
                part = [index for index in mine[start : start + _ROUND] if self._missing(clips[index])]
                _Filling(self, dataset, clips, report, bar.update).run(part, workers)
                self.backend.barrier()
        report = report.gathered(self.backend)
        report.failed |= _of_same_clips(report.failed, dataset.names, clips)
        if report.computed:
            self._open()
        return report

    def _missing(self, clip: str) -> list[str]:
        return [modality for modality, shards in self.shards.items() if clip not in shards]

    def _open(self) -> None:
        for shards in self.shards.values():
            shards.open()
            if self.backend.index == 0 and shards.damaged:
                names = ", ".join(shards.damaged)
                print(f"{shards.folder}: damaged, its clips are computed again: {names}", file=sys.stderr)
        self.backend.barrier()  # before any process removes or writes something
        if self.backend.index == 0:
            for shards in self.shards.values():
                shards.remove_damaged()

    def _working(self) -> _Working:
        encoders = [getattr(self.recipe, f"{modality}_encoder") for modality in self.shards]
        return _Working(encoders, self.backend)


def _of_same_clips(failed: Mapping[str, str], names: Sequence[str], clips: Mapping[int, str]) -> dict[str, str]:
    """What failed, under the names of all clips of the same content: only one of them was read."""
    reasons = {clip: failed[names[index]] for index, clip in clips.items() if names[index] in failed}
    return {names[index]: reasons[clip] for index, clip in clips.items() if clip in reasons}


class _Working:
    """Encoders on the device and in eval mode, as long as it is open; then in the modes that they had."""

    def __init__(self, encoders: Sequence[nn.Module], backend: Backend) -> None:
        self.modes = {encoder: encoder.training for encoder in encoders}
        self.backend = backend

    def __enter__(self) -> None:
        for encoder in self.modes:
            self.backend.place(encoder)
            encoder.eval()

    def __exit__(self, *_: object) -> None:
        for encoder, mode in self.modes.items():
            encoder.train(mode)


def _bar(total: int, shown: bool, title: str) -> Any:
    from tqdm import tqdm

    hide = None if shown and total else True  # None: only on a terminal
    return tqdm(total=total, unit="clip", desc=title, disable=hide, dynamic_ncols=True, leave=False)


@dataclass
class _Filling:
    """Reads and encodes one process's share."""

    features: Features
    dataset: Dataset
    clips: Mapping[int, str]
    report: Report
    done: Callable[[], Any]
    _waiting: dict[tuple[str, tuple[int, ...]], list[tuple[str, Sample]]] = field(default_factory=dict)

    def run(self, indices: Sequence[int], workers: int) -> None:
        """Computes what some clips lack. A clip that fails is reported, and harms no other."""
        for index, found in _ahead(self._read, indices, workers):
            self.done()
            if isinstance(found, Exception):
                self.report.failed[self.dataset.names[index]] = reason(found)
            else:
                self._take(index, found)
        for waiting in list(self._waiting):
            self._encode(waiting)
        for shards in self.features.shards.values():
            shards.flush()

    def _read(self, index: int) -> Sample:
        # The whole clip, as without a cache: how long it is may depend on all of its tracks.
        sample = self.dataset.read(index, self.features.recipe, (0,))
        if self.dataset.identity(index) != self.clips[index]:
            raise DataError("D033", "it was changed while it was read")
        return sample

    def _take(self, index: int, sample: Sample) -> None:
        clip = self.clips[index]
        for modality in self.features._missing(clip):
            value = getattr(sample, modality)
            if isinstance(value, Tensor):
                shape = (modality, tuple(value.shape))
                self._waiting.setdefault(shape, []).append((clip, sample))
                if len(self._waiting[shape]) == _BATCH:
                    self._encode(shape)
            elif value is None:
                self._keep(modality, clip, sample, None)
        if sum(map(len, self._waiting.values())) > 4 * _BATCH:
            self._encode(max(self._waiting, key=lambda shape: len(self._waiting[shape])))

    def _encode(self, shape: tuple[str, tuple[int, ...]]) -> None:
        """Encodes clips of one shape: without padding, a clip's tokens can't depend on its neighbours."""
        modality, group = shape[0], self._waiting.pop(shape)
        tokens = self._tokens(modality, [sample for _, sample in group])
        for row, (clip, sample) in enumerate(group):
            mask = tokens.mask[row].cpu()
            data = tokens.data[row].cpu().masked_fill(~mask[:, None], 0)
            times = None if tokens.times is None else tokens.times[row].cpu()
            if data.isfinite().all():
                self._keep(modality, clip, sample, Ready(compact(data), mask, times))
            else:
                wrong = DataError("D032", f"the {modality} encoder gives values that are not finite")
                self.report.failed[sample.name] = reason(wrong)

    def _tokens(self, modality: str, samples: Sequence[Sample]) -> Tokens:
        backend, recipe = self.features.backend, self.features.recipe
        data = torch.stack([getattr(sample, modality) for sample in samples])
        batch = Padded(data, torch.full((len(data),), data.shape[1])).to(backend.device)
        seconds = torch.tensor([sample.seconds for sample in samples], device=backend.device)
        with torch.inference_mode(), backend.autocast():
            both = recipe.encode(batch, None) if modality == "audio" else recipe.encode(None, batch, seconds)
        backend.mark()
        tokens = both[MODALITIES.index(modality)]
        assert tokens is not None
        return tokens

    def _keep(self, modality: str, clip: str, sample: Sample, tokens: Ready | None) -> None:
        has = frozenset(name for name in MODALITIES if getattr(sample, name) is not None)
        self.features.shards[modality].add(clip, Entry(tokens, sample.seconds, has))
        self.report.computed[modality] += 1


def _ahead(work: Callable[[int], Any], indices: Iterable[int], workers: int) -> Iterator[tuple[int, Any]]:
    """Results of some work on threads, in order, each or the error that it ended with."""

    def attempt(index: int) -> tuple[int, Any]:
        try:
            return index, work(index)
        except (LavcapError, OSError, ValueError) as error:
            return index, error

    return each(attempt, indices, workers)


# --- datasets --------------------------------------------------------------------------------------------------------


class Cached:
    """A dataset whose clips come with the tokens of frozen encoders; only what is left is read of their files.

    Args:
        dataset: the dataset.
        features: filled for it.
        clips: index to identity of its clips.
    """

    def __init__(self, dataset: Dataset, features: Features, clips: Mapping[int, str]) -> None:
        self.dataset, self.features, self.clips = dataset, features, clips
        self.names, self.lengths = dataset.names, dataset.lengths
        self.splits: Collection[str] = getattr(dataset, "splits", set())

    def captions(self, index: int) -> Sequence[str]:
        """All captions of a clip."""
        return self.dataset.captions(index)

    def identity(self, index: int) -> str | None:
        """Hash of the clip's content, when it was looked up."""
        return self.clips.get(index)

    def read(self, index: int, recipe: Captioner, seed: tuple[int, ...], ready: frozenset[str] = frozenset()) -> Sample:
        """One clip: ready tokens, and what the dataset reads of the rest.

        Raises:
            LavcapError: if the clip can't be read; D030 if it can, but could not when features were computed.
        """
        entries = self._entries(index, recipe, seed, ready)
        if not entries:
            return self.dataset.read(index, recipe, seed, ready)
        seconds, has = next((entry.seconds, entry.has) for entry in entries.values())
        there = {modality: entry.tokens for modality, entry in entries.items()}
        lacks = {modality for modality in MODALITIES if modality not in has}  # nothing to look for in the file
        try:
            sample = self.dataset.read(index, _Exact(recipe, seconds), seed, ready.union(there, lacks))
        except _OtherLengthError:
            whole = self.dataset.read(index, recipe, seed, ready)
            return replace(whole, **cast(dict[str, Any], there))
        return replace(sample, seconds=seconds, **cast(dict[str, Any], there))

    def _entries(self, index: int, recipe: Captioner, seed: tuple[int, ...], ready: frozenset[str]) -> dict[str, Entry]:
        wanted = {modality: shards for modality, shards in self.features.shards.items() if modality not in ready}
        clip = self.clips.get(index)
        if clip is None or any(clip not in shards for shards in wanted.values()):
            self.dataset.read(index, recipe, seed)  # tells why
            raise DataError(
                "D030", "its features could not be computed", help="see why with: lavcap data features SPEC"
            )
        return {modality: shards.read(clip) for modality, shards in wanted.items()}


class _OtherLengthError(Exception):
    """A clip whose frames can't be chosen without reading its sound."""


class _Exact:
    """A recipe that sees clips as long as they are with all of their tracks, though only some were read."""

    def __init__(self, recipe: Captioner, seconds: float) -> None:
        self._recipe, self._seconds = recipe, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recipe, name)

    def prepare(self, clip: media.Clip) -> tuple[Tensor | None, Tensor | None]:
        """As the recipe's, of the clip with as much sound as it has beside its frames; silence fills in."""
        if clip.seconds != self._seconds:
            if clip.frames is not None:
                raise _OtherLengthError
            clip = replace(clip, waveform=_cut(clip.waveform, self._seconds), seconds=self._seconds)
        return self._recipe.prepare(clip)


def _cut(waveform: Any, seconds: float) -> Any:
    if waveform is None:
        return None
    samples = round(seconds * media.SAMPLE_RATE)
    return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))


def prepare(dataset: Dataset, recipe: Captioner, backend: Backend, spec: Spec, workers: int = 2) -> Dataset:
    """A dataset with what is frozen computed once: now, or by an earlier run. All processes call it.

    Args:
        dataset: clips that a recipe is trained on, or judged by.
        recipe: built from the spec, its weights read.
        backend: launched.
        spec: of the recipe.
        workers: threads that read clips.

    Returns:
        A `Cached` dataset, or the dataset itself where no encoder is frozen or clips differ at each reading.

    Raises:
        DataError: D031 if the cache can't be written.
    """
    return prepare_reported(dataset, Features(recipe, backend, spec), workers)[0]


def prepare_reported(dataset: Dataset, features: Features, workers: int = 2) -> tuple[Dataset, Report]:
    """As `prepare`, with what was done."""
    if not features.shards:
        return dataset, Report()
    clips, failed = _identities(dataset, features.backend, workers)
    if clips is None:
        return dataset, Report(same=False)
    report = features.fill(dataset, clips, workers)
    report.failed |= failed
    return Cached(dataset, features, clips), report


def _identities(dataset: Dataset, backend: Backend, workers: int) -> tuple[dict[int, str] | None, dict[str, str]]:
    """Index to identity, and the clips that can't be read; None for the former if clips differ at each reading."""
    count = len(dataset.names)
    if backend.processes > 1:  # each process hashes its share of the files; the others find it done
        for _ in _ahead(dataset.identity, range(backend.index, count, backend.processes), workers):
            pass
        contents().flush()
        backend.barrier()
    clips: dict[int, str] = {}
    failed: dict[str, str] = {}
    with _bar(count, backend.index == 0, "content of clips") as bar:
        for index, found in _ahead(dataset.identity, range(count), workers):
            bar.update()
            if isinstance(found, Exception):
                failed[dataset.names[index]] = reason(found)
            elif found is None:
                return None, {}
            else:
                clips[index] = found
    contents().flush()
    return clips, failed
