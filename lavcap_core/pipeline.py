"""A pipeline built from a spec: reads clips, captions them, keeps their alignment.

Shapes: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from lavcap_core import media
from lavcap_core.builder import build_recipe, build_use
from lavcap_core.data import Aligned, Alignment, Caption, Tokens, collate
from lavcap_core.errors import WeightsError
from lavcap_core.interfaces import Backend, Generate
from lavcap_core.manifest import Item
from lavcap_core.presets import find as find_preset
from lavcap_core.recipes.captioner import Captioner, merge_windows
from lavcap_core.spec import Spec, read
from lavcap_core.tuning import load_trained

__all__ = ["Pipeline", "Prepared", "load"]

BATCH = 8
"""Files that `Pipeline.caption` takes at once."""

MERGE_LIMIT = 30.0
"""Seconds up to which `windows.merge: auto` writes one caption of the whole clip."""


@dataclass(frozen=True)
class Prepared:
    """A recording with its features, ready for a device.

    Attributes:
        recording: what was read.
        audio: for each window, what the audio encoder prepared, or None.
        visual: for each window, what the visual encoder prepared, or None.
    """

    recording: media.Recording
    audio: tuple[Tensor | None, ...]
    visual: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class _Encoded:
    """Fused tokens of some windows, a row each, and what was aligned."""

    tokens: Tokens
    aligned: tuple[Aligned | None, ...]


class Pipeline:
    """A spec, built.

    Args:
        spec: the checked spec.
        recipe: its parts, joined.
        backend: where to compute.
    """

    def __init__(self, spec: Spec, recipe: Captioner, backend: Backend) -> None:
        self.spec = spec
        self.recipe = recipe
        self.backend = backend

    @overload
    def caption(self, clips: str | Path, *, image: str | Path | None = None, **options: Any) -> Caption: ...
    @overload
    def caption(self, clips: Sequence[str | Path], **options: Any) -> list[Caption]: ...
    def caption(
        self, clips: str | Path | Sequence[str | Path], *, image: str | Path | None = None, **options: Any
    ) -> Caption | list[Caption]:
        """Captions one file, or several.

        Args:
            clips: a file, or a list of files.
            image: a picture for a sound file.
            **options: fields of `lavcap_core.interfaces.Generate` that differ from the spec's.

        Raises:
            MediaError: if a file can't be read.
        """
        if isinstance(clips, str | Path):
            return self.caption_prepared([self.read(clips, image)], **options)[0]
        captions: list[Caption] = []
        for start in range(0, len(clips), BATCH):
            captions += self.caption_prepared([self.read(clip) for clip in clips[start : start + BATCH]], **options)
        return captions

    def read(self, clip: str | Path, image: str | Path | None = None, start: float = 0.0) -> Prepared:
        """Reads and prepares one file; needs no device, so it can run on a worker.

        Raises:
            MediaError: if the file can't be read.
        """
        return self.read_item(Item(str(clip), str(clip), None if image is None else str(image), start=start))

    def read_item(self, item: Item) -> Prepared:
        """Reads and prepares a clip of a manifest: its file, pictures and ready features, from start to end.

        Raises:
            MediaError: if a file can't be read.
            DataError: if its features or frames can't be used, or it has nothing that the pipeline takes.
        """
        return self.prepare(media.read_item(item, self.recipe.request()))

    def prepare(self, recording: media.Recording) -> Prepared:
        """Features of all windows of a recording."""
        with torch.inference_mode():
            features = [self.recipe.prepare(window) for window in recording.windows]
        return Prepared(recording, tuple(audio for audio, _ in features), tuple(visual for _, visual in features))

    def options(self, **changes: Any) -> Generate:
        """How the spec says that captions are generated, with changes."""
        settings = self.spec.sections["generate"].model_dump()
        return Generate(**{**settings, **{name: value for name, value in changes.items() if value is not None}})

    def caption_prepared(
        self, batch: Sequence[Prepared], prompts: Sequence[str | None] | None = None, **options: Any
    ) -> list[Caption]:
        """Captions prepared recordings, one `Caption` each; windows of all are encoded in batches of their number."""
        encoded = self.encode(batch)
        groups = _groups(batch)
        rows: list[list[int]] = []  # windows that make one caption
        owners: list[int] = []  # the recording that a caption belongs to
        for index, (item, group) in enumerate(zip(batch, groups, strict=True)):
            parts = [[row] for row in group] if self._in_segments(item) else [group]
            rows += parts
            owners += [index] * len(parts)
        starts = [window.start for item in batch for window in item.recording.windows]
        tokens = merge_windows(encoded.tokens, rows, starts)
        texts = self._generate(tokens, [prompts[owner] for owner in owners] if prompts else None, len(batch), options)
        return [
            self._caption(item, [text for text, owner in zip(texts, owners, strict=True) if owner == index], aligned)
            for index, (item, aligned) in enumerate(
                zip(batch, (encoded.aligned[group[0]] for group in groups), strict=True)
            )
        ]

    @torch.inference_mode()
    def encode(self, batch: Sequence[Prepared]) -> _Encoded:
        """Fused tokens of all windows of some recordings."""
        windows = [
            (audio, visual, clip.seconds)
            for item in batch
            for audio, visual, clip in zip(item.audio, item.visual, item.recording.windows, strict=True)
        ]
        size = max(len(batch), 4)  # a long clip alone still goes through the encoders a few windows at a time
        tokens: list[Tokens] = []
        aligned: list[Aligned | None] = []
        for start in range(0, len(windows), size):
            fused, found = self._encode(windows[start : start + size])
            tokens.append(fused)
            aligned += found
        return _Encoded(_stack(tokens), tuple(aligned))

    def _encode(
        self, windows: Sequence[tuple[Tensor | None, Tensor | None, float]]
    ) -> tuple[Tokens, list[Aligned | None]]:
        device = self.backend.device
        seconds = torch.tensor([window[2] for window in windows], device=device)
        with self.backend.shapes(), self.backend.autocast():
            audio = collate([window[0] for window in windows])
            visual = collate([window[1] for window in windows])
            sounds, pictures = self.recipe.encode(
                audio.to(device) if audio else None, visual.to(device) if visual else None, seconds
            )
            tokens, aligned = self.recipe.fuse(sounds, pictures)
        self.backend.mark()
        return tokens, [_row(aligned, index) for index in range(len(windows))]

    def _generate(
        self, tokens: Tokens, prompts: list[str | None] | None, size: int, changes: dict[str, Any]
    ) -> list[str]:
        options = self.options(**changes)
        texts: list[str] = []
        for start in range(0, len(tokens.data), max(size, 4)):
            part = slice(start, start + max(size, 4))
            asked = cast("list[str] | None", prompts[part] if prompts and any(prompts) else None)
            with self.backend.shapes(), self.backend.autocast(), torch.inference_mode():
                texts += self.recipe.decoder.generate(_slice(tokens, part), options, asked)
            self.backend.mark()
        return texts

    def _in_segments(self, item: Prepared) -> bool:
        merge = self.recipe.windows.merge
        if merge == "auto":
            merge = "tokens" if item.recording.seconds <= MERGE_LIMIT else "segments"
        return merge == "segments" and len(item.recording.windows) > 1

    def _caption(self, item: Prepared, texts: list[str], aligned: Aligned | None) -> Caption:
        recording = item.recording
        segments: tuple[dict[str, Any], ...] = ()
        if self._in_segments(item):
            segments = tuple(
                {"start": clip.start, "end": clip.start + clip.seconds, "text": text}
                for clip, text in zip(recording.windows, texts, strict=True)
            )
        return Caption(
            text=_join(texts),
            clip=recording.path,
            status=recording.status,
            reason=recording.reason,
            seconds=recording.seconds,
            alignment=aligned.alignment if aligned else None,
            audio=aligned.audio if aligned else None,
            visual=aligned.visual if aligned else None,
            segments=segments,
        )


def _groups(batch: Sequence[Prepared]) -> list[list[int]]:
    groups, start = [], 0
    for item in batch:
        count = len(item.recording.windows)
        groups.append(list(range(start, start + count)))
        start += count
    return groups


def _join(texts: Sequence[str]) -> str:
    """Distinct consecutive captions, one sentence after another."""
    distinct = [text for i, text in enumerate(texts) if i == 0 or text != texts[i - 1]]
    if len(distinct) == 1:
        return distinct[0]
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in distinct)


def _slice(tokens: Tokens, part: slice) -> Tokens:
    times = None if tokens.times is None else tokens.times[part]
    return Tokens(tokens.data[part], tokens.mask[part], tokens.modality[part], times)


def _stack(parts: Sequence[Tokens]) -> Tokens:
    """Batches of different N one below the other."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.mask.shape[1] for part in parts)

    def pad(values: Sequence[Tensor]) -> Tensor:
        padded = [nn.functional.pad(v, (0, 0) * (v.dim() - 2) + (0, longest - v.shape[1])) for v in values]
        return torch.cat(padded)

    times = [part.times for part in parts]
    kept = None if any(t is None for t in times) else pad([t for t in times if t is not None])
    return Tokens(pad([p.data for p in parts]), pad([p.mask for p in parts]), pad([p.modality for p in parts]), kept)


def _row(aligned: Aligned | None, index: int) -> Aligned | None:
    """One sample of an alignment without its padding, on the CPU."""
    if aligned is None:
        return None
    audio, visual = _trim(aligned.audio, index), _trim(aligned.visual, index)
    heard, seen = aligned.audio.mask[index], aligned.visual.mask[index]

    def pick(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[index][heard][:, seen][None].float().cpu()

    def one(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[index : index + 1].float().cpu()

    found = aligned.alignment
    similarity = cast(Tensor, pick(found.similarity))
    return Aligned(audio, visual, Alignment(similarity, pick(found.plan), one(found.loss), one(found.marginal_error)))


def _trim(tokens: Tokens, index: int) -> Tokens:
    mask = tokens.mask[index]
    times = None if tokens.times is None else tokens.times[index][mask][None].cpu()
    data = tokens.data[index][mask][None].float().cpu()
    return Tokens(data, mask[mask][None].cpu(), tokens.modality[index][mask][None].cpu(), times)


def load(spec: str | Path | Spec, overrides: Sequence[str] = ()) -> Pipeline:
    """Checks a spec, builds it and reads its weights.

    Args:
        spec: a YAML file, the name of a preset, or a checked spec.
        overrides: ``KEY=VALUE`` texts, as behind ``--set``.

    Raises:
        LavcapError: of the kind that fits what is wrong.
    """
    if not isinstance(spec, Spec):
        spec = read(find_preset(str(spec)) or spec, overrides)
    backend = build_use(spec.pipeline.backend)
    recipe = build_recipe(spec)
    if spec.pipeline.weights is not None:
        load_weights(recipe, spec.pipeline.weights)
    backend.place(recipe).eval()
    return Pipeline(spec, recipe, backend)


def load_weights(recipe: nn.Module, file: str) -> None:
    """Reads trained parameters into a recipe.

    Raises:
        WeightsError: W001 if the file can't be read; W030 if it doesn't fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        help = "the spec's key weights names a safetensors file of trained parameters"
        raise WeightsError("W001", f"can't be read: {error}", help=help, file=file) from None
    try:
        load_trained(recipe, state)
    except WeightsError as error:
        raise error.at(file=file) from None
