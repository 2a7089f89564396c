"""Which clips to caption or train on: files, folders, globs and manifests. Light: no torch, no media library."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lavcap_core.errors import Problem, RunError
from lavcap_core.files import replace_text

__all__ = [
    "CLIP_COLUMNS",
    "MEDIA",
    "PICTURES",
    "Item",
    "find_items",
    "list_hash",
    "natural",
    "read_manifest",
    "table_rows",
    "write_manifest",
]

SOUNDS = frozenset([".aac", ".aif", ".aiff", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"])
VIDEOS = frozenset(
    [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"]
)
PICTURES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"])
MEDIA = SOUNDS | VIDEOS
"""Suffixes that a folder is searched for; a file that is named itself is read whatever its suffix."""

CLIP_COLUMNS = ("clip", "path", "file", "filename", "audio", "video")
_STAND_INS = ("frames", "audio_features", "visual_features")


@dataclass(frozen=True)
class Item:
    """One clip to caption or to train on.

    Attributes:
        clip: the file, or None where frames or ready features stand for it.
        name: what rows call it: the path as it was given or found, or a manifest's ``id``.
        image: a picture for a sound file, or None.
        prompt: an instruction for this clip instead of the spec's, or None.
        start: seconds into the file at which reading starts.
        end: seconds into the file at which reading ends, or None for its end.
        frames: pictures that stand for the video, in natural order, evenly spread: a folder or a glob, or None.
        audio_features: a ``.npy`` file [N, D] of ready vectors of the sound, or None.
        visual_features: a ``.npy`` file [N, D] of ready vectors of the frames, or None.
        captions: what is said of the clip.
        split: the part of the data that it belongs to, such as ``train``, or None.
        source: what it was cut from, such as the id of a video, or None; items of one source stay in one part.
    """

    clip: str | None
    name: str
    image: str | None = None
    prompt: str | None = None
    start: float = 0.0
    end: float | None = None
    frames: str | None = None
    audio_features: str | None = None
    visual_features: str | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None
    source: str | None = None


def find_items(inputs: Sequence[str]) -> list[Item]:
    """Clips behind files, folders, globs and manifests, in order and without repetition.

    A folder is searched with its subfolders; a picture beside a sound file of the same stem is that clip's picture.
    A name that is nothing of these is kept as a file, so that it becomes an error row and stops nothing else.

    Raises:
        RunError: C002 for a manifest that can't be read, with line and reason.
    """
    items: dict[str, Item] = {}
    for text in inputs:
        for item in _expand(text):
            items.setdefault(item.name, item)
    return list(items.values())


def _expand(text: str) -> Iterable[Item]:
    path = Path(text)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() in (".csv", ".jsonl"):
        return read_manifest(path)
    if not path.exists() and glob.has_magic(text):
        found = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (a whole pattern, absolute or not)
        return [item for name in found for item in _expand(name)] if found else [Item(text, text)]
    return [Item(text, text)]


def _folder(folder: Path) -> Iterator[Item]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    pictures = {path.with_suffix(""): path for path in files if path.suffix.lower() in PICTURES}
    for path in files:
        suffix = path.suffix.lower()
        if suffix in MEDIA:
            picture = pictures.get(path.with_suffix("")) if suffix in SOUNDS else None
            yield Item(str(path), str(path), str(picture) if picture else None)


def read_manifest(path: Path) -> list[Item]:
    """Reads a csv or jsonl manifest.

    Columns: ``clip`` (or ``path``, ``file``, ``filename``, ``audio``, ``video``), and if wanted ``id``, ``image``,
    ``frames``, ``audio_features``, ``visual_features``, ``caption`` (a text) or ``captions`` (a list, in jsonl),
    ``start`` and ``end`` (seconds), ``prompt``, ``split``, ``source``. Frames or features may stand for the clip.
    Relative files are relative to the manifest. Rows of one id that differ in their captions only are one item.

    Raises:
        RunError: C002, all rows that are wrong at once.
    """
    try:
        rows = list(table_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError("C002", f"the manifest can't be read: {error}", file=str(path)) from None
    items: dict[str, Item] = {}
    problems: list[Problem] = []
    for line, row in rows:
        try:
            item = _item(row, path.parent)
            items[item.name] = _gathered(items.get(item.name), item)
        except ValueError as error:
            problems.append(Problem("C002", str(error), _HELP, file=str(path), line=line))
    if problems:
        raise RunError(problems)
    return list(items.values())


_HELP = (
    "a row needs 'clip', 'frames', 'audio_features' or 'visual_features', and may have 'id', 'image', 'caption', "
    "'captions', 'start', 'end' (seconds), 'prompt', 'split' and 'source'"
)


def table_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a csv or jsonl file with the number of their line; a text in the place of a row says what is wrong."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            reader = csv.DictReader(file)
            for row in reader:
                yield reader.line_num, row
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    yield number, f"not JSON: {error}"


def _item(row: Any, folder: Path) -> Item:
    if not isinstance(row, dict):
        raise ValueError(row if isinstance(row, str) else f"not an object: {row!r}")
    clip = next((row[name] for name in CLIP_COLUMNS if row.get(name)), None)
    stands = clip or next((row[name] for name in _STAND_INS if row.get(name)), None)
    if not isinstance(stands, str) or not isinstance(clip, str | None):
        raise ValueError("names no clip")
    start, end = _seconds(row, "start") or 0.0, _seconds(row, "end")
    if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
        raise ValueError(f"no stretch of time: start {start:g}, end {end}")
    image, frames, sound, visual = (_file(row, name, folder) for name in ("image", *_STAND_INS))
    return Item(
        clip=str(folder / clip) if clip else None,
        name=_text(row, "id") or stands,
        image=image,
        prompt=_words(row, "prompt"),
        start=start,
        end=end,
        frames=frames,
        audio_features=sound,
        visual_features=visual,
        captions=_captions(row),
        split=_text(row, "split"),
        source=_text(row, "source"),
    )


def _text(row: dict[str, Any], column: str) -> str | None:
    """A name, which may be a number; 0 is one too."""
    value = row.get(column)
    return None if value in (None, "") else str(value)


def _words(row: dict[str, Any], column: str) -> str | None:
    value = row.get(column)
    if not isinstance(value, str | None):
        raise ValueError(f"{column} is no text: {value!r}")
    return value or None


def _seconds(row: dict[str, Any], column: str) -> float | None:
    text = _text(row, column)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ValueError(f"{column} is no number of seconds: {text!r}") from None


def _file(row: dict[str, Any], column: str, folder: Path) -> str | None:
    text = _words(row, column)
    if text is None or column != "frames" or not glob.has_magic(text) or (folder / text).is_dir():
        return None if text is None else str(folder / text)
    return str(Path(glob.escape(str(folder))) / text)


def _captions(row: dict[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    for name in ("caption", "captions"):
        value = row.get(name) or []
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} is no text and no list of texts: {value!r}")
        found += texts
    return tuple(found)


def _gathered(before: Item | None, item: Item) -> Item:
    """An item with the captions of a later row of its id."""
    if before is None:
        return item
    if replace(before, captions=()) != replace(item, captions=()):
        raise ValueError(f"'{item.name}' is an earlier row already, of another clip or stretch: give each its own 'id'")
    return replace(before, captions=before.captions + item.captions)


def natural(text: str) -> tuple[str | int, ...]:
    """Key that sorts as people count: frame2 before frame10."""
    return tuple(int(part) if odd % 2 else part.lower() for odd, part in enumerate(re.split(r"([0-9]+)", text)))


def list_hash(items: Iterable[Item]) -> str:
    """SHA-256 of the sorted names, a line each: two lists of the same clips have the same, on any machine."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(item.name for item in items)).encode()).hexdigest()


def write_manifest(path: Path, items: Iterable[Item]) -> None:
    """Writes a jsonl manifest; what lies beneath its folder is written relative to it. All or nothing is written.

    Raises:
        OSError: if it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, "".join(json.dumps(_row(item, path.parent), ensure_ascii=False) + "\n" for item in items))


def _row(item: Item, folder: Path) -> dict[str, Any]:
    files = ("clip", "image", *_STAND_INS)
    texts = {name: _relative(text, folder) for name in files if (text := getattr(item, name))}
    rest: dict[str, Any] = {"start": item.start, "end": item.end, "captions": list(item.captions)}
    rest |= {"prompt": item.prompt, "split": item.split, "source": item.source}
    return {"id": item.name, **texts, **{name: value for name, value in rest.items() if value}}


def _relative(text: str, folder: Path) -> str:
    place = os.path.abspath(text)  # noqa: PTH100 (a glob is no path to resolve)
    here = os.path.abspath(folder)  # noqa: PTH100
    for start in (here, glob.escape(here)):
        if place.startswith(start.rstrip(os.sep) + os.sep):
            return place[len(start.rstrip(os.sep)) + 1 :]
    return place
