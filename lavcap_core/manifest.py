"""Which clips to caption: files, folders, globs and manifests (csv, jsonl). Light: no torch, no media library."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavcap_core.errors import Problem, RunError

__all__ = ["MEDIA", "PICTURES", "Item", "find_items", "read_manifest"]

SOUNDS = frozenset([".aac", ".aif", ".aiff", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"])
VIDEOS = frozenset(
    [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"]
)
PICTURES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"])
MEDIA = SOUNDS | VIDEOS
"""Suffixes that a folder is searched for; a file that is named itself is read whatever its suffix."""

_CLIP_COLUMNS = ("clip", "path", "file", "filename", "audio", "video")


@dataclass(frozen=True)
class Item:
    """One clip to caption.

    Attributes:
        clip: the file.
        name: what rows call it: the path as it was given or found, or a manifest's ``id``.
        image: a picture for a sound file, or None.
        prompt: an instruction for this clip instead of the spec's, or None.
        start: seconds into the file at which reading starts.
    """

    clip: str
    name: str
    image: str | None = None
    prompt: str | None = None
    start: float = 0.0


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
    ``prompt``, ``start`` (seconds). Relative files are relative to the manifest.

    Raises:
        RunError: C002, all rows that are wrong at once.
    """
    try:
        rows = list(_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError("C002", f"the manifest can't be read: {error}", file=str(path)) from None
    items: list[Item] = []
    problems: list[Problem] = []
    for line, row in rows:
        try:
            items.append(_item(row, path.parent))
        except ValueError as error:
            problems.append(Problem("C002", str(error), _HELP, file=str(path), line=line))
    if problems:
        raise RunError(problems)
    return items


_HELP = "a row needs 'clip', and may have 'id', 'image', 'prompt' and 'start' (seconds)"


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
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
    clip = next((row[name] for name in _CLIP_COLUMNS if row.get(name)), None)
    if not isinstance(clip, str):
        raise ValueError("names no clip")
    image = row.get("image") or None
    start = float(row.get("start") or 0)  # a ValueError of its own says what was met
    return Item(
        clip=str(folder / clip),
        name=str(row.get("id") or clip),
        image=str(folder / image) if image else None,
        prompt=row.get("prompt") or None,
        start=start,
    )
