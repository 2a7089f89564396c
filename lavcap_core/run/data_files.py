"""What making manifests of data sets shares: finding files by name, and saying what is missing. Needs no torch."""

from __future__ import annotations

import csv
import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lavcap_core.errors import DataError
from lavcap_core.manifest import PICTURES, Item
from lavcap_core.media import Facts

__all__ = ["Located", "Prepared", "frame_places", "prepared", "require", "table", "walk"]


@dataclass(frozen=True)
class Prepared:
    """A manifest, and what was found on the way.

    Attributes:
        items: the clips that are there, in the order of the list.
        missing: names of the clips that are not, with the reason.
        notes: how many clips had what, for the user.
    """

    items: tuple[Item, ...]
    missing: tuple[tuple[str, str], ...]
    notes: Mapping[str, int]


@dataclass(frozen=True)
class Located:
    """A clip of a list, and where it is.

    Attributes:
        item: the clip; its ``clip`` is None where it is missing.
        why: why it is missing.
        facts: what the file's header tells, where it was read.
    """

    item: Item
    why: str = "no file"
    facts: Facts | None = None


def prepared(located: Sequence[Located], media: Path) -> Prepared:
    """The manifest of what is there.

    Raises:
        DataError: D011 if nothing is.
    """
    there = [found for found in located if found.item.clip is not None]
    if not there:
        help = "lavcap data prepare --help says how files are named"
        raise DataError("D011", f"none of {len(located)} clips is there", help=help, file=str(media))
    notes: Counter[str] = Counter()
    for found in there:
        notes["cut out of whole videos"] += found.item.end is not None
        notes["without sound"] += found.facts is not None and not found.facts.audio
        video = found.facts is not None and found.facts.video
        notes["without video"] += not (video or found.item.frames or found.item.visual_features)
    missing = tuple((found.item.name, found.why) for found in located if found.item.clip is None)
    return Prepared(tuple(found.item for found in there), missing, dict(notes))


def table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a csv file with the number of their line.

    Raises:
        DataError: D010 if it can't be read, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            require(columns, reader.fieldnames or (), path)
            for row in reader:
                if any(row[column] is None for column in columns):
                    raise DataError("D010", f"line {reader.line_num} ends too early", file=str(path))
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("D010", f"can't be read: {error}", file=str(path)) from None


def require(columns: Iterable[str], found: Collection[str], path: Path, where: str = "") -> None:
    """Raises D010 if a column or key is not among those that were found."""
    missing = [column for column in columns if column not in found]
    if missing:
        shown = ", ".join(map(str, found)) or "nothing"
        raise DataError("D010", f"{where}lacks {', '.join(missing)}; there is {shown}", file=str(path))


def walk(folder: Path, suffixes: Collection[str]) -> Iterator[tuple[str, str]]:
    """Stem and path of every file with one of the suffixes; links are followed, circles are not."""
    for place, names in _folders_in(folder):
        for name in names:
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield Path(name).stem, str(place / name)


def _folders_in(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    seen: set[str] = set()
    if not folder.is_dir():
        raise DataError("D011", "no such folder", file=str(folder))
    for place, inside, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        inside.sort()
        yield Path(place), sorted(names)


def frame_places(folder: Path) -> Iterator[tuple[str, str]]:
    """Stem of every clip that has pictures, and where: its folder, or the pattern ``frame_*/STEM.jpg``."""
    seen: set[str] = set()
    for place, names in _folders_in(folder):
        pictures = [name for name in names if Path(name).suffix.lower() in PICTURES]
        numbered = re.fullmatch(r"(frames?[_-]?)?\d{1,4}", place.name, re.IGNORECASE)
        if pictures and not numbered:
            yield place.name, str(place)
            continue
        every = glob.escape(str(place.parent)) + f"/{numbered[1] or '' if numbered else ''}*/"
        for name in pictures:
            if name not in seen:
                seen.add(name)
                yield Path(name).stem, every + glob.escape(name)
