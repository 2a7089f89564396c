"""The clips of a study that browsers play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from lavcap_core.manifest import SOUNDS, VIDEOS
from lavcap_core.run.evaluate.names import assign

__all__ = ["TYPES", "Found", "find", "unplayable"]

TYPES = {
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".m4v": "video/mp4",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".webm": "video/webm",
}
"""Files that the browsers of today play, by suffix."""

_CODECS = frozenset(
    [
        "aac",
        "av1",
        "flac",
        "h264",
        "mp3",
        "opus",
        "pcm_f32le",
        "pcm_s16le",
        "pcm_s24le",
        "pcm_u8",
        "vorbis",
        "vp8",
        "vp9",
    ]
)
_PICTURES = frozenset(["mjpeg", "png"])
"""Of covers, which sound files may hold."""
_PIXELS = ("yuv420p", "yuvj420p")


@dataclass(frozen=True)
class Found:
    """Files of clips.

    Attributes:
        files: by name of the clip; of those found in a folder, relative to it.
        unclear: clips that several files fit.
    """

    files: dict[str, str]
    unclear: tuple[str, ...]


def find(folder: Path, clips: Sequence[str]) -> Found:
    """The file of each clip in a folder: of its name, or of the same stem; a video before a sound."""
    places = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files: dict[str, str] = {}
    unclear: set[str] = set()
    playable = frozenset(TYPES)
    # What no browser plays comes last, to be told why, and never before a copy that one does.
    for kind in (VIDEOS & playable, SOUNDS & playable, VIDEOS - playable, SOUNDS - playable):
        left = [clip for clip in clips if clip not in files]
        found = assign([place for place in places if Path(place).suffix.lower() in kind], left)
        files |= found.pairs
        unclear |= set(found.unclear)
    return Found(files, tuple(sorted(unclear - files.keys())))


def unplayable(file: Path) -> str | None:
    """What keeps browsers from playing a file, or None if they do play it."""
    if file.suffix.lower() not in TYPES:
        return f"of kind {file.suffix}"
    try:
        with av.open(str(file)) as container:
            streams = (*container.streams.video, *container.streams.audio)
            # The format's own name: what decodes it may be called otherwise, as mp3float is for mp3.
            codecs = [one.codec_context.codec.canonical_name if one.codec_context else "unknown" for one in streams]
            pixels = [video.codec_context.pix_fmt for video in container.streams.video if video.codec_context]
    except (OSError, av.error.FFmpegError):
        return "that can't be read"
    other = [f"codec {name}" for name in codecs if name not in _CODECS | _PICTURES]
    if "h264" in codecs:  # decoders of browsers know no other of its kinds
        other += [f"pixels {name}" for name in pixels if name not in _PIXELS]
    return f"with {other[0]}" if other else None if codecs else "without sound and pictures"
