"""Manifests of the json files of LAVCap and AVCap, whose paths are of their authors' machines. Needs no torch.

Formats: github.com/Hyeongkeun/LAVCap, github.com/NAVER-INTEL-Co-Lab/gaudi-lavcap, github.com/JongSuk1/AVCap.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavcap_core.errors import DataError
from lavcap_core.manifest import Item
from lavcap_core.run.data_files import Located, Prepared, frame_places, prepared, require, walk

__all__ = ["lavcap"]


@dataclass(frozen=True)
class _Folders:
    """Where the files of LAVCap's layout lie."""

    audio: Path
    frames: Path | None
    vectors: Path | None


def lavcap(
    listed: Path,
    *,
    root: Path | None = None,
    audio: Path | None = None,
    frames: Path | None = None,
    visual_features: Path | None = None,
    captions: Path | None = None,
    split: str | None = None,
) -> Prepared:
    """A manifest out of the json files of LAVCap and AVCap, whose paths are anchored anew.

    Args:
        listed: a list of objects with youtube_id, audio_path, video_path and caption, or a file of the COCO layout
            with such ``images`` and with ``annotations`` (image_id, caption).
        root: the folder with ``waveforms`` and ``frames``; default: a folder beside the file that is called as it is.
        audio: the folder of sounds instead of ``ROOT/waveforms``.
        frames: the folder with ``frame_0``, ``frame_1`` ... instead of ``ROOT/frames``.
        visual_features: the folder of ``.npy`` files instead of ``visual_feature/SPLIT`` beside or above ``ROOT``.
        captions: a file of the COCO layout, whose captions replace those of the list: the five of a test clip.
        split: what every item is marked with.

    Raises:
        DataError: D010 if a file is of another layout, D011 if no clip of it is there.
    """
    rows = _listed(listed)
    if captions is not None:
        texts = _annotations(_json(captions), captions)
        rows = [{**row, "captions": texts.get(row["youtube_id"], row["captions"])} for row in rows]
    folders = _folders(listed, root, audio, frames, visual_features)
    pictures = dict(frame_places(folders.frames)) if folders.frames else {}
    vectors = dict(walk(folders.vectors, {".npy"})) if folders.vectors else {}
    located = []
    for row in rows:
        stem = Path(row["audio_path"]).stem
        item = Item(
            _anchored(row["audio_path"], folders.audio),
            _name(row, stem),
            frames=pictures.get(Path(row["video_path"] or stem).stem),
            visual_features=vectors.get(stem),
            captions=tuple(row["captions"]),
            split=split,
            source=row["youtube_id"],
        )
        located.append(Located(item))
    return prepared(located, folders.audio)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("D010", f"can't be read as json: {error}", file=str(path)) from None


def _listed(path: Path) -> list[dict[str, Any]]:
    """Rows of either layout, each with its captions; rows of one sound are one."""
    content = _json(path)
    coco = isinstance(content, dict) and "images" in content
    texts = _annotations(content, path) if coco else {}
    rows = content["images"] if coco else content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("D010", "is no list of clips, and has no 'images' and no 'data'", file=str(path))
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        row = {"youtube_id": row.get("id", row.get("video_id")), "audio_path": row.get("wav")} | row
        needed = ("youtube_id", "audio_path") if coco else ("youtube_id", "audio_path", "caption")
        require(needed, [key for key, value in row.items() if value is not None], path, f"clip {number} ")
        plain: dict[str, Any] = {
            "youtube_id": str(row["youtube_id"]),
            "audio_path": _slashed(row["audio_path"]),
            "video_path": _slashed(row.get("video_path") or ""),
            "captions": [],
        }
        kept = found.setdefault(plain["audio_path"], row | plain)
        kept["captions"] += texts.get(kept["youtube_id"], []) if coco else [str(row["caption"])]
    return list(found.values())


def _slashed(path: Any) -> str:
    """A path that may be of Windows, such that its stem is found anywhere."""
    return str(path).replace("\\", "/")


def _annotations(content: Any, path: Path) -> dict[str, list[str]]:
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "image_id" in row for row in rows):
        raise DataError("D010", "has no 'annotations' with 'image_id' and 'caption'", file=str(path))
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(str(row["image_id"]), []).append(str(row.get("caption", "")))
    return found


def _folders(
    listed: Path, root: Path | None, audio: Path | None, frames: Path | None, vectors: Path | None
) -> _Folders:
    part = listed.stem.removesuffix("_coco")
    if root is None:
        root = _first(listed.parent / part, listed.parent / "audiocaps" / part) or listed.parent
    above = [folder / "visual_feature" / root.name for folder in (root.parent, root.parent.parent)]
    return _Folders(audio or root / "waveforms", frames or _first(root / "frames"), vectors or _first(*above))


def _first(*folders: Path) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)


def _anchored(text: str, folder: Path) -> str | None:
    """The file of a path that was written on another machine: as it stands beneath the folder, or by its name."""
    places = (folder / text, folder / Path(text).name)
    return next((str(place) for place in places if place.is_file()), None)


def _name(row: Mapping[str, Any], stem: str) -> str:
    """``ID_START`` as of AudioCaps' csv, so that lists of the same clips have the same hash."""
    if row.get("start_time") is not None:
        return f"{row['youtube_id']}_{row['start_time']}"
    times = re.fullmatch(r"(.+)_(\d+)_\d+", stem)
    return f"{times[1]}_{int(times[2]) / 1000:g}" if times and times[1] == row["youtube_id"] else stem
