"""Manifests of AudioCaps and Clotho: a csv of captions, and files in folders. Needs no torch.

Formats: Kim et al. 2019, github.com/cdjkim/audiocaps; Drossos et al. 2020, zenodo.org/records/4783391.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lavcap_core.errors import DataError, LavcapError
from lavcap_core.manifest import MEDIA, VIDEOS, Item
from lavcap_core.media import probe
from lavcap_core.run.data_files import Located, Prepared, frame_places, prepared, table, walk
from lavcap_core.run.threads import each

__all__ = ["Named", "Official", "audiocaps", "clotho", "clotho_captions", "official"]

CLIP = 10.0
"""Seconds of a clip of AudioCaps."""
WHOLE = 12.0
"""A file longer than this, without a start in its name, is taken for the whole video."""

Show = Callable[[Iterable[Located], int], Iterable[Located]]
"""Passes results on while it shows how many of how many there are."""


@dataclass(frozen=True)
class Official:
    """A clip of AudioCaps' list: the video, the second at which it starts, and what was said of it."""

    video: str
    start: str
    captions: tuple[str, ...]

    @property
    def name(self) -> str:
        """What manifests call it."""
        return f"{self.video}_{self.start}"


def audiocaps(
    listed: Path,
    media: Path,
    *,
    split: str | None = None,
    frames: Path | None = None,
    visual_features: Path | None = None,
    workers: int = 4,
    show: Show = lambda results, total: results,
) -> Prepared:
    """A manifest of AudioCaps: the official csv and a folder of media, named as most tools name them.

    A file of a clip is named ``ID``, ``ID_START`` or ``ID_START_END`` (seconds, or milliseconds as in AudioSet), with
    or without a ``Y`` before, whatever its suffix and however deep it lies. Of several, one with the start in its name
    is taken before one without, and a video before a sound. A file without a start that is longer than 12 s is the
    whole video: 10 s from the start are read of it.

    Args:
        listed: columns audiocap_id, youtube_id, start_time, caption; a clip may have several rows.
        media: the folder.
        split: what every item is marked with.
        frames: a folder with pictures, named alike: a folder per clip, or a file per clip in each of ``frame_0``,
            ``frame_1`` ...
        visual_features: a folder with ``.npy`` files, named alike.
        workers: threads that read headers.
        show: shows progress.

    Raises:
        DataError: D010 if the csv is another, D011 if no clip of it is there.
    """
    wanted = official(listed)
    videos = {clip.video for clip in wanted}
    files = Named(walk(media, MEDIA), videos)
    pictures = Named(frame_places(frames), videos) if frames else None
    vectors = Named(walk(visual_features, {".npy"}), videos) if visual_features else None
    found = []
    for clip in wanted:
        item = Item(
            None,
            clip.name,
            frames=pictures.best(clip) if pictures else None,
            visual_features=vectors.best(clip) if vectors else None,
            captions=clip.captions,
            split=split,
            source=clip.video,
        )
        found.append((item, float(clip.start), files.find(clip)))
    return prepared(list(show(each(_locate, found, workers), len(found))), media)


def official(listed: Path) -> list[Official]:
    """Clips of the official csv, each with all of its captions.

    Raises:
        DataError: D010 if the csv is another.
    """
    captions: dict[tuple[str, str], list[str]] = {}
    for line, row in table(listed, ("youtube_id", "start_time", "caption")):
        start = row["start_time"].strip()
        if not re.fullmatch(r"\d+(\.\d+)?", start):
            raise DataError("D010", f"line {line}: start_time is no number of seconds: '{start}'", file=str(listed))
        captions.setdefault((row["youtube_id"].strip(), start), []).append(row["caption"].strip())
    return [Official(video, start, tuple(texts)) for (video, start), texts in captions.items()]


class Named:
    """Files or folders by the video and the start that their names tell.

    Args:
        places: each with the stem of its name.
        videos: ids of YouTube that are looked for, 11 characters each.
    """

    def __init__(self, places: Iterable[tuple[str, str]], videos: Collection[str]) -> None:
        self._found: dict[str, list[tuple[str, float | None]]] = {}
        for stem, place in places:
            for name in (stem, stem[1:]) if stem.startswith("Y") else (stem,):
                rest = re.fullmatch(r"(?:_(\d+(?:\.\d+)?)(?:_\d+(?:\.\d+)?)?)?", name[11:])
                if name[:11] in videos and rest:
                    start = None if rest[1] is None else float(rest[1])
                    self._found.setdefault(name[:11], []).append((place, start))

    def find(self, clip: Official) -> list[tuple[str, bool]]:
        """Places of a clip, the best first, and whether the name of each tells the start."""
        starts = (None, float(clip.start), float(clip.start) * 1000)
        fitting = [(place, at is not None) for place, at in self._found.get(clip.video, ()) if at in starts]
        return sorted(fitting, key=lambda found: (not found[1], Path(found[0]).suffix.lower() not in VIDEOS, found[0]))

    def best(self, clip: Official) -> str | None:
        """The best place of a clip, or None."""
        return next((place for place, _ in self.find(clip)), None)


def _locate(found: tuple[Item, float, list[tuple[str, bool]]]) -> Located:
    """The item with the best of its files that can be read, or else with what is wrong with the best."""
    item, start, places = found
    first = None
    for place, told in places:
        located = _at(item, start, place, told)
        if located.item.clip is not None:
            return located
        first = first or located
    return first or Located(item)


def _at(item: Item, start: float, place: str, told: bool) -> Located:
    """The item with the file of one place, whose name tells the start or doesn't."""
    if told and Path(place).suffix.lower() not in VIDEOS:
        return Located(replace(item, clip=place))
    try:
        facts = probe(place)
    except LavcapError as error:
        return Located(item, f"{place}: {error.code} {error.problems[0].message}")
    if not told and (facts.seconds or 0) > WHOLE:
        item = replace(item, start=start, end=start + CLIP)
    return Located(replace(item, clip=place), facts=facts)


def clotho(listed: Path, media: Path, *, split: str | None = None) -> Prepared:
    """A manifest of Clotho, sound alone: its csv of captions and a folder with its files, however deep.

    Args:
        listed: columns file_name and caption_1 to caption_5 (or fewer).
        media: the folder.
        split: what every item is marked with.

    Raises:
        DataError: D010 if the csv is another, D011 if no clip of it is there.
    """
    files = {Path(place).name: place for _, place in walk(media, MEDIA)}
    listed_clips = clotho_captions(listed)
    located = [Located(Item(files.get(name), name, captions=texts, split=split)) for name, texts in listed_clips]
    return prepared(located, media)


def clotho_captions(listed: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Files of Clotho's csv with their captions.

    Raises:
        DataError: D010 if the csv is another.
    """
    for _, row in table(listed, ("file_name", "caption_1")):
        numbered = sorted(column for column in row if re.fullmatch(r"caption_\d", column or ""))
        yield row["file_name"], tuple(text for column in numbered if (text := (row[column] or "").strip()))
