"""Reads clips: a 16 kHz mono waveform and N frames out of any file that FFmpeg reads, in one bounded pass.

What comes of each kind of file; tests hold it:

| file | gives |
|---|---|
| video with sound (mp4, webm, mkv, avi, ts, ...) | ``ok``: waveform and frames |
| turned by its display matrix, variable frame rate | ``ok``: frames as a player shows them |
| no audio track | ``ok``: ``waveform`` is None |
| no video track, or sound alone (wav, mp3, ogg, flac, m4a), also with a cover | ``ok``: ``frames`` is None |
| any sample rate, sample width and number of channels | ``ok``: resampled, mixed to mono with weights that sum to 1 |
| sound, and a picture given as ``image`` | ``ok``: the picture is repeated; the file's own video is not read |
| sound, and a folder of pictures as an item's ``frames`` | ``ok``: the pictures in natural order, evenly spread |
| pictures or ready features without a file | ``ok``: as long as the item says, else one window |
| a picture alone | ``ok``: it is repeated over one window (``Request.window`` seconds), ``waveform`` is None |
| a track that starts later, or ends earlier, than the other | ``ok``: silence, or the nearest frame, fills in |
| longer than ``Request.limit`` | ``ok``: ``Recording.seconds`` is less than ``duration`` |
| cut off, though its header could be read | ``partial``: ends before the length that its header tells |
| damaged in the middle | ``partial``: what FFmpeg can decode; silence and held frames stand for the rest |
| one of two tracks can't be decoded | ``partial``: the other |
| missing, a folder, not readable | M001 |
| empty, text, no container that FFmpeg knows, cut off before its index | M002 |
| nothing that the request wants (neither audio nor video track) | M003 |
| tracks without a single sample or frame that can be decoded | M004 |
| an address (``http:``, ``pipe:``, ``concat:``), a playlist (m3u8, ffconcat, mpd, sdp) | M005 |
| frames of more than 100 million pixels | M006 |
| shorter than ``Request.start`` | M007 |
| ready features that are no ``.npy`` file, of another shape or width | D001, D002 |
| an item that has nothing that the request wants | D003 |
| frames of an item without a picture | D004 |

Formats whose length FFmpeg only finds by looking at their end or by estimate (wav, mp3, aac, ogg, ts) don't tell that
they were cut off: such a file is ``ok``, and as long as it is.

The frame rule, `FRAME_RULE`: frame i of N of a window is the last one at or before ``start + i * seconds / N``, to
within half a millisecond, or the first frame of the video if none is that early. It is scaled with swscale's bicubic
filter so that its short side has ``image_size`` pixels (the long one rounded down; pixels count as square), turned and
mirrored by the display matrix, and cropped at the centre. ``seconds`` follows from the length that the container
declares, or, where that is off by more than 0.1 s, from the tracks' real end.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lavcap_core.errors import DataError, MediaError
from lavcap_core.manifest import Item

if TYPE_CHECKING:
    from lavcap_core._media.pictures import StandIns
    from lavcap_core._media.scan import Scan

__all__ = [
    "FRAME_RULE",
    "SAMPLE_RATE",
    "Clip",
    "Facts",
    "Recording",
    "Request",
    "probe",
    "read",
    "read_item",
    "windows",
]

SAMPLE_RATE = 16000
"""Samples per second of every waveform."""
FRAME_RULE = 1
"""Version of the rule by which frames are chosen and prepared; part of cache keys."""

_SHORTEST_WINDOW = 1.0
_OFF = 0.1
"""Seconds by which a declared length may be off and still be taken at its word."""


@dataclass(frozen=True)
class Request:
    """What a pipeline wants of a file.

    Attributes:
        audio: whether the waveform is wanted.
        frames: frames per window, 0 for none.
        image_size: height and width of the frames in pixels.
        window: seconds of a window; longer files give several.
        hop: seconds from one window's start to the next one's.
        limit: seconds of the file that are read at most.
        start: seconds into the file at which reading starts.
        audio_width: width of the ready features that are wanted of the sound, or None for none.
        visual_width: width of the ready features that are wanted of the frames, or None for none.
    """

    audio: bool = True
    frames: int = 0
    image_size: int = 224
    window: float = 10.0
    hop: float = 10.0
    limit: float = 600.0
    start: float = 0.0
    audio_width: int | None = None
    visual_width: int | None = None


@dataclass(frozen=True)
class Clip:
    """One window of a file.

    Attributes:
        path: the file, or None for arrays.
        waveform: [T] float32 in -1..1 at `SAMPLE_RATE`, or None without an audio track.
        frames: [N, S, S, 3] uint8 RGB, or None without a video track.
        start: seconds from the beginning of the file.
        seconds: length of the window; the last one may be shorter.
        audio_features: [N, D] float32, ready vectors of the sound, or None.
        visual_features: [N, D] float32, ready vectors of the frames, or None.
    """

    path: str | None
    waveform: NDArray[np.float32] | None
    frames: NDArray[np.uint8] | None
    start: float = 0.0
    seconds: float = 10.0
    audio_features: NDArray[np.float32] | None = None
    visual_features: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Recording:
    """What was read of a file.

    Attributes:
        path: the file.
        windows: at least one `Clip`, in order of time.
        duration: seconds that the file lasts, as far as is known.
        seconds: seconds that were read.
        status: ``ok``, or ``partial`` where not all could be read.
        reason: why it is partial, or None.
    """

    path: str
    windows: tuple[Clip, ...]
    duration: float
    seconds: float
    status: str = "ok"
    reason: str | None = None


def read(
    path: str | os.PathLike[str], request: Request | None = None, *, image: str | os.PathLike[str] | None = None
) -> Recording:
    """Reads what a pipeline wants of a local file.

    The file is read once, and no further than `Request.limit` asks for; only where frames are wanted and the file turns
    out to be of another length than it declares, it is read once more, now that the times of the frames are known.

    Args:
        path: any file with sound, pictures or both that FFmpeg reads.
        request: what is wanted; by default sound only.
        image: a picture that stands for the file's video.

    Returns:
        One `Clip` per window. Windows start every `Request.hop` seconds until one reaches the end; a last one under 1 s
        is left out unless it is the only one. A waveform has exactly ``round(seconds * SAMPLE_RATE)`` samples.

    Raises:
        MediaError: M001 to M007, see the table above.
        ValueError: a number in the request makes no sense.
    """
    request = request or Request()
    _check(request)
    if not (request.audio or request.frames):
        raise ValueError("a request wants sound, frames or both")
    name = os.fspath(path)
    image = None if image is None else os.fspath(image)
    return _located(name, request, _stand_ins(Item(name, name, image), request), math.inf)


def read_item(item: Item, request: Request | None = None) -> Recording:
    """Reads what a pipeline wants of a clip of a manifest: of its file, its pictures and its ready features.

    Args:
        item: its ``start`` and ``end`` bound what is read.
        request: what is wanted; features are read only where it names their width.

    Returns:
        As `read`. Pictures and features are spread evenly over the item; each window gets its share. Without a file,
        an item that names no ``end`` is one window.

    Raises:
        MediaError: M001 to M007, see the table above.
        DataError: D001 and D002 for features, D003 if the item has nothing that is wanted, D004 for frames.
        ValueError: a number in the request makes no sense.
    """
    whole = math.inf if item.end is None else item.end - item.start
    request = request or Request()
    request = replace(request, start=item.start, limit=min(request.limit, whole))
    _check(request)
    stand_ins = _stand_ins(item, request)
    if item.clip is not None and (request.audio or request.frames):
        recording = _located(item.clip, request, stand_ins, whole)
    else:
        name = next((text for text in (item.clip, item.frames, item.image) if text), item.name)
        recording = _without_sound(name, request, stand_ins, whole)
    recording = _with_features(recording, item, request, whole)
    _require_something(recording, request)
    return recording


@dataclass(frozen=True)
class Facts:
    """What a file's header tells.

    Attributes:
        seconds: its length, or None where only reading on would tell.
        audio: whether it has a sound track.
        video: whether it has a video track.
    """

    seconds: float | None
    audio: bool
    video: bool


def probe(path: str | os.PathLike[str]) -> Facts:
    """Reads a file's header and decodes nothing.

    Raises:
        MediaError: M001, M002 or M005.
    """
    from lavcap_core._media import files

    with files.opened(path) as container:
        seconds = container.duration / 1e6 if container.duration and container.duration > 0 else None
        return Facts(seconds, files.audio_track(container) is not None, files.video_track(container) is not None)


def _check(request: Request) -> None:
    numbers = (request.window, request.hop, request.limit)
    if not all(0 < number < math.inf for number in numbers) or not 0 <= request.start < math.inf:
        raise ValueError("window, hop and limit are above 0, start is not below 0, and all are finite")
    if request.frames < 0 or request.image_size < 1:
        raise ValueError("frames is not below 0, and image_size is above 0")


def _stand_ins(item: Item, request: Request) -> StandIns | None:
    # FFmpeg is loaded when something is read: clips can be spoken of without it.
    from lavcap_core._media import pictures

    if item.image is not None:
        return pictures.StandIns([item.image], request.image_size)
    if item.frames is not None and request.frames:
        return pictures.StandIns(pictures.find(item.frames), request.image_size)
    return None


def _located(name: str, request: Request, stand_ins: StandIns | None, whole: float) -> Recording:
    try:
        return _read(name, request, stand_ins, whole)
    except MediaError as error:
        raise (error if error.problems[0].file else error.at(file=name)) from error.__cause__


def _read(name: str, request: Request, stand_ins: StandIns | None, whole: float) -> Recording:
    from lavcap_core._media.pictures import StandIns
    from lavcap_core._media.scan import scan_file

    scan = scan_file(name, request, stand_ins is not None)
    if scan.is_picture:
        if not request.frames:
            raise MediaError("M003", "is a picture, and no frames are asked for")
        return _without_sound(name, replace(request, start=0.0), StandIns([name], request.image_size), math.inf)
    scan.require_something(request, stand_ins is not None)
    if scan.has_frames and abs(scan.length - scan.planned) > _OFF:
        scan = scan_file(name, request, stand_ins is not None, scan.length)
    return _recording(name, request, scan, stand_ins, whole)


def _without_sound(name: str, request: Request, stand_ins: StandIns | None, whole: float) -> Recording:
    """Windows without a file that tells their length: it is the item's, or one window."""
    length = min(whole if whole < math.inf else request.window, request.limit)
    found = windows(request, length)
    whole = whole if whole < math.inf else length
    frames = _frames(stand_ins, request, found, _span(sum(found[-1]), length, whole))
    clips = [
        Clip(name, None, shown, request.start + start, seconds)
        for (start, seconds), shown in zip(found, frames, strict=True)
    ]
    return Recording(name, tuple(clips), request.start + whole, length)


def _recording(name: str, request: Request, scan: Scan, stand_ins: StandIns | None, whole: float) -> Recording:
    # Sound alone has an exact length; with frames, they were chosen for the planned one.
    length = scan.planned if scan.has_frames and abs(scan.length - scan.planned) <= _OFF else scan.length
    reasons = scan.reasons()
    duration = request.start + length
    if scan.declared is not None and (scan.stopped or reasons):
        duration = max(duration, scan.declared)
    found = windows(request, length)
    frames = _frames(stand_ins, request, found, _span(sum(found[-1]), length, min(whole, duration - request.start)))
    clips = []
    for index, (start, seconds) in enumerate(found):
        waveform = scan.sound.window(start, seconds) if scan.sound is not None and request.audio else None
        shown = frames[index] if stand_ins is not None else scan.frames(index, request.frames)
        clips.append(Clip(name, waveform, shown, request.start + start, seconds))
    return Recording(
        name, tuple(clips), duration, length, "partial" if reasons else "ok", "; ".join(reasons) if reasons else None
    )


def _frames(
    stand_ins: StandIns | None, request: Request, found: Sequence[tuple[float, float]], span: float
) -> list[NDArray[np.uint8] | None]:
    """For each window, the pictures that stand for its frames."""
    if stand_ins is None or not request.frames:
        return [None] * len(found)
    return [stand_ins.frames(start, seconds, span, request.frames) for start, seconds in found]


def _span(covered: float, length: float, whole: float) -> float:
    """Seconds over which the pictures or vectors of a clip are spread.

    The windows' own where all is read: a clip of 10.02 s is one window of 10 s, and its 20 vectors are that window's.
    """
    return covered if whole - length < _OFF else whole


def _with_features(recording: Recording, item: Item, request: Request, whole: float) -> Recording:
    from lavcap_core._media.features import read_features, share

    last = recording.windows[-1]
    covered = last.start + last.seconds - request.start
    span = _span(covered, recording.seconds, min(whole, recording.duration - request.start))
    files = ((item.audio_features, request.audio_width), (item.visual_features, request.visual_width))
    sound, visual = (read_features(file, width) if file and width else None for file, width in files)
    clips = []
    for clip in recording.windows:
        place = (clip.start - request.start, clip.seconds, span)
        heard = None if sound is None else share(sound, *place)
        seen = None if visual is None else share(visual, *place)
        clips.append(replace(clip, audio_features=heard, visual_features=seen))
    return replace(recording, windows=tuple(clips))


def _require_something(recording: Recording, request: Request) -> None:
    if any(
        part is not None
        for clip in recording.windows
        for part in (clip.waveform, clip.frames, clip.audio_features, clip.visual_features)
    ):
        return
    wanted = (request.audio, request.frames, request.audio_width, request.visual_width)
    kinds = ("sound", "frames", "audio_features", "visual_features")
    names = " or ".join(kind for kind, value in zip(kinds, wanted, strict=True) if value)
    help = "ready features are taken by the encoder 'features' alone; others need the clip or its frames"
    raise DataError("D003", f"names nothing of what the pipeline takes: {names}", help=help, file=recording.path)


def windows(request: Request, length: float) -> list[tuple[float, float]]:
    """Windows of what is read: where each starts, counted from `Request.start`, and its seconds.

    Args:
        request: its ``window`` and ``hop`` count.
        length: seconds that are read.
    """
    found = [(0.0, min(request.window, length))]
    while sum(found[-1]) < length - 1e-9:
        start = len(found) * request.hop
        seconds = min(request.window, length - start)
        if seconds < min(_SHORTEST_WINDOW, request.window):
            break
        found.append((start, seconds))
    return found
