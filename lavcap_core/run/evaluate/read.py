"""Captions and references as files have them, put together clip by clip."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lavcap_core.errors import Problem, RunError
from lavcap_core.manifest import CLIP_COLUMNS, Item, read_manifest, table_rows
from lavcap_core.run.evaluate.names import Assigned, assign

__all__ = ["KINDS", "Captions", "Matched", "Row", "match", "read_captions", "read_references", "shown"]

KINDS = ("missing", "failed", "empty", "duplicate", "extra")
"""What may be wrong with captions and be allowed all the same."""

_ID_COLUMNS = ("id", *CLIP_COLUMNS, "file_name")
_SHOWN = 10


@dataclass(frozen=True)
class Row:
    """A caption of a file.

    Attributes:
        name: of its clip, as the file has it.
        caption: the text; "" if it is empty, None if captioning failed.
    """

    name: str
    caption: str | None


@dataclass(frozen=True)
class Captions:
    """The captions of one system."""

    system: str
    file: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Matched:
    """Captions and references, clip by clip, in order of the clips' names.

    Attributes:
        system: what the captions are of.
        ids: names of the clips, as the references have them.
        candidates: their captions.
        references: what people said of each; at least one.
        media: a file to play for each, or None.
        left_out: names of what isn't scored, by kind, as the user allowed it.
        empty: clips whose caption is empty, which are scored all the same: leaving them out would flatter.
    """

    system: str
    ids: tuple[str, ...]
    candidates: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    media: tuple[str | None, ...]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    empty: tuple[str, ...] = ()


def read_captions(path: Path, system: str | None = None) -> Captions:
    """Reads rows of `lavcap caption --out`, or a csv or jsonl file with ``id`` (or ``clip``, ...) and ``caption``.

    Args:
        path: the file.
        system: what the captions are of; default: the name of the file.

    Raises:
        RunError: E002, all rows that are wrong at once.
    """
    rows, problems = [], []
    for line, row in _rows(path):
        try:
            rows.append(_row(row))
        except ValueError as error:
            help = "a row needs 'id' (or 'clip', 'file', 'file_name', ...) and 'caption'"
            problems.append(Problem("E002", str(error), help, file=str(path), line=line))
    if problems:
        raise RunError(problems)
    return Captions(system or path.name, str(path), tuple(rows))


def _rows(path: Path) -> list[tuple[int, Any]]:
    if path.suffix.lower() not in (".csv", ".jsonl"):
        help = "captions and references are .jsonl or .csv files; saved evaluations are .json files"
        raise RunError("E002", "is no file of captions or references", help=help, file=str(path))
    try:
        return list(table_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError("E002", f"can't be read: {reason}", file=str(path)) from None


def _row(row: Any) -> Row:
    if not isinstance(row, dict):
        raise ValueError(row if isinstance(row, str) else f"not an object: {row!r}")
    name = next((row[column] for column in _ID_COLUMNS if row.get(column)), None)
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise ValueError("names no clip")
    name = str(name)  # manifests take numbers too
    if "caption" not in row:
        raise ValueError(f"'{name}' has no 'caption'")
    caption = row["caption"]
    if not isinstance(caption, str | None):
        raise ValueError(f"the caption of '{name}' is no text: {caption!r}")
    # A csv file has "" where there is none; JSON rows of clips that failed have null.
    return Row(name, None if row.get("status") == "error" or caption is None else caption.strip())


def read_references(path: Path) -> list[Item]:
    """Clips and what people said of them: a manifest, AudioCaps' official csv, or Clotho's.

    Raises:
        RunError: E002 if it is none of these, C002 for a manifest with wrong rows, E010 for clips without references.
        DataError: D010 if an official csv is broken.
    """
    items = [_stripped(item) for item in _references(path)]
    bare = [item.name for item in items if not item.captions]
    if bare or not items:
        what = f"no references: {shown(bare)}" if bare else "lists no clips"
        help = "give each clip 'caption' or 'captions'"
        raise RunError("E010", what, help=help, file=str(path))
    return items


def _references(path: Path) -> Iterable[Item]:
    first = next((row for _, row in _rows(path)), None)
    columns = set(first) if path.suffix.lower() == ".csv" and isinstance(first, dict) else set()
    if not columns >= {"youtube_id", "start_time"} and not columns >= {"file_name", "caption_1"}:
        return read_manifest(path)
    # Imported here: it brings the media library.
    from lavcap_core.run.data_audiocaps import clotho_captions, official

    if "youtube_id" in columns:
        return [Item(None, clip.name, captions=clip.captions, source=clip.video) for clip in official(path)]
    return [Item(None, name, captions=captions) for name, captions in clotho_captions(path)]


def _stripped(item: Item) -> Item:
    return replace(item, captions=tuple(text.strip() for text in item.captions if text.strip()))


def match(captions: Captions, references: Sequence[Item], allow: Collection[str] = ()) -> Matched:
    """Puts captions and references together.

    Args:
        captions: of one system.
        references: the clips that must have a caption each.
        allow: kinds of `KINDS` that are no errors. Of duplicates the first counts; empty captions are scored.

    Raises:
        RunError: E003 if nothing belongs together; else all at once: E004 missing, E005 failed, E006 empty, E007
            duplicate, E008 extra, E009 unclear names.
    """
    texts: dict[str, str | None] = {}
    for row in captions.rows:
        texts.setdefault(row.name, row.caption)
    found = assign(list(texts), [item.name for item in references])
    wrong = _wrong(captions, texts, references, found)
    problems = [*_problems(captions.file, wrong, allow, len(references)), *_unclear(captions.file, found)]
    good = {clip: text for clip, name in found.pairs.items() if (text := texts[name]) is not None}
    if not good and not found.unclear:
        problems = [_nothing(captions, references, wrong)]
    if problems:
        raise RunError(problems)
    kept = sorted((item for item in references if item.name in good), key=lambda item: item.name)
    return Matched(
        captions.system,
        tuple(item.name for item in kept),
        tuple(good[item.name] for item in kept),
        tuple(item.captions for item in kept),
        tuple(_media(item, found.pairs[item.name]) for item in kept),
        {kind: names for kind, names in wrong.items() if names and kind != "empty"},
        tuple(wrong["empty"]),
    )


def _wrong(
    captions: Captions, texts: Mapping[str, str | None], references: Sequence[Item], found: Assigned
) -> dict[str, list[str]]:
    """Names by kind, sorted: of clips, but for captions that belong to none."""
    known = found.pairs.keys() | found.unclear.keys()
    counts = Counter(row.name for row in captions.rows)
    return {
        "missing": sorted(item.name for item in references if item.name not in known),
        "failed": sorted(clip for clip, name in found.pairs.items() if texts[name] is None),
        "empty": sorted(clip for clip, name in found.pairs.items() if texts[name] == ""),
        "duplicate": sorted(name for name, count in counts.items() if count > 1),
        "extra": sorted(found.extra),
    }


_SAID = {
    "missing": ("E004", "no caption", "caption them, or score the others alone"),
    "failed": ("E005", "could not be captioned", "lavcap caption --retry tries again; or score the others alone"),
    "empty": ("E006", "empty caption", "to score them as they are"),
    "duplicate": ("E007", "several captions", "to use the first caption of each"),
    "extra": ("E008", "not among the references", "to leave them out"),
}


def _problems(file: str, wrong: Mapping[str, Sequence[str]], allow: Collection[str], total: int) -> Iterable[Problem]:
    for kind, (code, what, remedy) in _SAID.items():
        if wrong[kind] and kind not in allow:
            of = f" of {total}" if kind in ("missing", "failed", "empty") else ""
            yield Problem(code, f"{what}: {shown(wrong[kind], of)}", f"{remedy}: --allow {kind}", file=file)


def _unclear(file: str, found: Assigned) -> Iterable[Problem]:
    if found.unclear:
        lines = [f"{clip} (captions of {', '.join(names)})" for clip, names in found.unclear.items()]
        help = "call each clip the same in both files"
        yield Problem("E009", f"it isn't clear which caption belongs to: {shown(lines)}", help, file=file)


def _nothing(captions: Captions, references: Sequence[Item], wrong: Mapping[str, Sequence[str]]) -> Problem:
    if wrong["failed"]:
        return Problem("E003", f"none of {len(wrong['failed'])} clips could be captioned", file=captions.file)
    theirs = f"such as '{captions.rows[0].name}'" if captions.rows else "of which there are none"
    message = f"no caption belongs to any of {len(references)} clips with references"
    help = f"captions are of clips {theirs}, references of clips such as '{references[0].name}'"
    return Problem("E003", message, help, file=captions.file)


def shown(names: Sequence[str], of: str = "") -> str:
    """``3 of 9 clips (a, b, c)``: the first ten by name, then how many more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)}{of} clip{'s' if of or len(names) != 1 else ''} ({', '.join(names[:_SHOWN])}{more})"


def _media(item: Item, name: str) -> str | None:
    """The clip's file, where it is at hand: as the references have it, or the captions."""
    places = [Path(place) for place in (item.clip, name) if place]
    return next((str(place.absolute()) for place in places if place.is_file()), None)
