"""Decodes the wanted frames of one video track.

Packets pass in the order of the file. Those since the last keyframe wait until it is known whether a wanted frame is
among them: if a keyframe comes that is no later than the next wanted time, all that waits is dropped without being
decoded, which is what seeking to that keyframe would do; if the decoding time passes the wanted time, they are decoded.
So keyframes that lie dense between wanted times save work, sparse ones cost nothing, and the frames are the same.
"""

from __future__ import annotations

import bisect
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import av
import numpy as np
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from lavcap_core._media import files
from lavcap_core.errors import DataError, MediaError
from lavcap_core.manifest import PICTURES, natural

Picture = NDArray[np.uint8]

_TOLERANCE = 0.0005
"""Containers round times, some to milliseconds."""
_MAX_WAITING = 64 * 2**20
_MAX_THREADS = 4


def _turned(picture: Picture, frame: VideoFrame) -> Picture:
    """Applies the display matrix, rounded to quarter turns and mirrors."""
    # PyAV's stubs take the container for a dict by names.
    data = cast(Any, frame.side_data).get(Type.DISPLAYMATRIX)
    if data is None:
        return picture
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(data), np.int32).reshape(3, 3).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    if a < 0:
        picture = picture[:, ::-1]
    return picture[::-1] if d < 0 else picture


def render(frame: VideoFrame, size: int, reformatter: VideoReformatter) -> Picture:
    """A frame as [size, size, 3] RGB: short side to ``size`` by bicubic scaling, turned, cropped at the centre.

    Raises:
        MediaError: M006 if it has too many pixels, before or after scaling.
    """
    short = min(frame.width, frame.height)
    width, height = frame.width * size // short, frame.height * size // short
    if max(frame.width * frame.height, width * height) > files.MAX_PIXELS:
        raise MediaError("M006", f"has frames of {frame.width} x {frame.height} pixels")
    scaled = reformatter.reformat(frame, width, height, "rgb24", interpolation=Interpolation.BICUBIC)
    picture = _turned(scaled.to_ndarray().astype(np.uint8, copy=False), frame)
    top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
    return np.ascontiguousarray(picture[top : top + size, left : left + size])


class Pictures:
    """The wanted frames of one track.

    Args:
        stream: the track.
        zero: time in the track's clock from which times are counted, in seconds.
        wanted: times of the wanted frames in seconds, ascending.
        size: height and width of the frames.
    """

    SKIP: ClassVar[bool] = True
    """Whether to drop what needs no decoding; only to measure what it saves."""

    def __init__(self, stream: VideoStream, zero: float, wanted: Sequence[float], size: int) -> None:
        self._stream = stream
        self._zero = zero
        self._wanted = [time + _TOLERANCE for time in wanted]
        self._size = size
        self._reformatter = VideoReformatter()
        self._waiting: list[Packet[VideoStream]] = []
        self._waiting_bytes = 0
        self._started = self._running = False
        self._restart: float | None = None
        self._floor = -np.inf
        self._fed = 0
        self._held: VideoFrame | None = None
        self._held_picture: Picture | None = None
        self._held_time = -np.inf
        self.found: list[Picture] = []
        self.errors = 0
        self.packets = 0
        self.end = 0.0
        if stream.codec_context is not None:
            stream.codec_context.thread_type = "AUTO"
            # Clips are read by several workers at a time; each thread of a decoder holds frames of its own.
            stream.codec_context.thread_count = min(_MAX_THREADS, os.cpu_count() or 1)
            stream.codec_context.options = {"max_pixels": str(files.MAX_PIXELS)}

    @property
    def empty(self) -> bool:
        """Whether no frame was decoded."""
        return self._held is None

    @property
    def decoded(self) -> bool:
        """Whether any frame was decoded."""
        return self._held is not None

    def feed(self, packet: Packet[VideoStream]) -> None:
        """Takes a packet, and decodes it if and when that turns out to be needed."""
        self._measure(packet)
        if self._fed == len(self._wanted) or self._stream.codec_context is None:
            return
        if packet.is_keyframe:
            self._pass_keyframe(packet)
        self._waiting.append(packet)
        self._waiting_bytes += packet.size
        reached = self._relative(packet.dts)
        if self._started and reached is not None:
            self._reach(reached)
        elif self._started or self._waiting_bytes > _MAX_WAITING:
            self._decode_waiting()

    def finish(self) -> None:
        """Decodes what is left; times after the last frame get that frame."""
        if self._fed < len(self._wanted) and self._waiting:
            self._decode_waiting()
        self._fed = len(self._wanted)
        self._drain()

    def _relative(self, stamp: int | None) -> float | None:
        time = files.seconds_of(stamp, self._stream)
        return None if time is None else time - self._zero

    def _time_of(self, packet: Packet[VideoStream]) -> float | None:
        """Seconds at which a packet's frame is shown."""
        return self._relative(packet.pts if packet.pts is not None else packet.dts)

    def _measure(self, packet: Packet[VideoStream]) -> None:
        self.packets += 1
        time = self._time_of(packet)
        if time is None or packet.is_discard:
            return
        rate = self._stream.average_rate
        length = files.seconds_of(packet.duration or None, self._stream) or (1 / float(rate) if rate else 0.0)
        self.end = max(self.end, time + length)

    def _pass_keyframe(self, packet: Packet[VideoStream]) -> None:
        time = self._time_of(packet)
        if not self._started:
            # What comes before the first keyframe can't be decoded.
            self._started = True
            self._forget_waiting()
        elif self.SKIP and time is not None and time <= self._wanted[self._fed]:
            if self._waiting or self._restart is not None:
                self._restart = time
            self._forget_waiting()

    def _reach(self, reached: float) -> None:
        """All frames shown before ``reached`` have passed: decodes them if one of them is wanted."""
        fed = bisect.bisect_left(self._wanted, reached)
        if fed > self._fed or not self.SKIP or self._waiting_bytes > _MAX_WAITING:
            self._decode_waiting()
        self._fed = max(self._fed, fed)
        if self._fed == len(self._wanted):
            self._drain()

    def _decode_waiting(self) -> None:
        if self._restart is not None:
            # The times that wait for these packets are not fed for yet: the held frame is not theirs.
            self._drain()
            self._floor, self._restart = self._restart, None
        for packet in self._waiting:
            self._decode(packet)
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _decode(self, packet: Packet[VideoStream] | None) -> None:
        self._running = True
        try:
            for frame in self._stream.codec_context.decode(packet):
                self._show(frame)
        except av.EOFError:
            return
        except MediaError:
            raise
        except files.Failure:
            self.errors += 1

    def _drain(self) -> None:
        """Takes the frames that the decoder still holds, and so decides every time that was fed for."""
        if self._running:
            self._decode(None)
            self._stream.codec_context.flush_buffers()
            self._running = False
        while self._held is not None and len(self.found) < self._fed:
            self.found.append(self._picture())

    def _show(self, frame: VideoFrame) -> None:
        time = self._relative(frame.pts if frame.pts is not None else frame.dts)
        if time is None:
            time = max(0.0, self._held_time + 1 / float(self._stream.average_rate or 25))
        # Leading frames of a keyframe that was jumped to lack what they refer to.
        if time < self._floor - _TOLERANCE or time < self._held_time:
            return
        if self._held is None:
            self._hold(frame, time)
            self.errors = 0
        while len(self.found) < len(self._wanted) and self._wanted[len(self.found)] < time:
            self.found.append(self._picture())
        self._hold(frame, time)

    def _hold(self, frame: VideoFrame, time: float) -> None:
        self._held, self._held_time, self._held_picture = frame, time, None

    def _picture(self) -> Picture:
        if self._held_picture is None:
            assert self._held is not None
            self.errors += bool(self._held.is_corrupt)
            self._held_picture = render(self._held, self._size, self._reformatter)
        return self._held_picture


def still(path: str, size: int) -> Picture:
    """The first picture of a file, [size, size, 3] RGB.

    Raises:
        MediaError: M001, M002, M005; M003 without a picture, M004 if it can't be decoded, M006 if it is too large.
    """
    with files.opened(path) as container:
        stream = container.streams.video[0] if container.streams.video else None
        if stream is None:
            raise MediaError("M003", "has no picture", file=path)
        check_size(stream, path)
        pictures = Pictures(stream, 0.0, [0.0], size)
        try:
            for packet in files.Demuxer(container, [stream]):
                pictures.feed(packet)  # type: ignore[arg-type]
                if not pictures.empty:
                    break
            pictures.finish()
        except MediaError as error:
            raise error.at(file=path) from error
        if pictures.empty:
            raise MediaError("M004", "no picture can be decoded", file=path)
        return pictures.found[0]


def find(place: str) -> list[str]:
    """Pictures in a folder, or that fit a glob, in natural order.

    Raises:
        DataError: D004 if there is none.
    """
    inside = place if not Path(place).is_dir() else os.path.join(glob.escape(place), "*")  # noqa: PTH118 (a glob)
    found = [name for name in glob.glob(inside) if Path(name).suffix.lower() in PICTURES]  # noqa: PTH207
    if not found:
        raise DataError("D004", "no picture in this folder, or of this pattern", file=place)
    return sorted(found, key=natural)


class StandIns:
    """Pictures that stand for a video, each shown as long as the others.

    Args:
        names: the files in order.
        size: height and width of the frames.
    """

    def __init__(self, names: Sequence[str], size: int) -> None:
        self._names = names
        self._size = size
        self._seen: dict[int, Picture] = {}

    def frames(self, start: float, seconds: float, span: float, count: int) -> Picture:
        """Frames [count, S, S, 3] of a window by the frame rule, where the pictures span ``span`` seconds.

        Raises:
            MediaError: as `still`.
        """
        times = start + np.arange(count) * seconds / count + _TOLERANCE
        places = np.clip((times * len(self._names) / span).astype(int), 0, len(self._names) - 1)
        return np.stack([self._picture(place) for place in places.tolist()])

    def _picture(self, place: int) -> Picture:
        if place not in self._seen:
            self._seen[place] = still(self._names[place], self._size)
        return self._seen[place]


def check_size(stream: VideoStream, path: str) -> None:
    """Refuses frames that are too large before one is decoded.

    Raises:
        MediaError: M006.
    """
    context = stream.codec_context
    width, height = (context.width, context.height) if context is not None else (0, 0)
    if width == 0 and context is not None and context.name == "png":
        # FFmpeg forgets a size that it refuses; a PNG file has it in its first chunk.
        with Path(path).open("rb") as file:
            head = file.read(24)
        width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if width * height > files.MAX_PIXELS:
        raise MediaError(
            "M006",
            f"has frames of {width} x {height} pixels, and {files.MAX_PIXELS // 1_000_000} million are the limit",
            help="scale it down first",
            file=path,
        )
