"""One bounded pass over a file, feeding each packet to the track that wants it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from lavcap_core._media import files
from lavcap_core._media.pictures import Pictures, check_size
from lavcap_core._media.sound import Sound
from lavcap_core.errors import MediaError
from lavcap_core.media import SAMPLE_RATE, Request, windows

Track = Sound | Pictures
AnyStream = AudioStream | VideoStream

_CUT = 0.5
"""Seconds that have to lack before a file counts as cut off."""
_MARGIN = 0.1
_SLACK = 0.0005
_INTERLEAVE = 5.0
"""Seconds that one track is read on past the limit while another has not come that far."""
_PREROLL = 0.5
"""Decoders of sound need what comes before; so much is read before `Request.start`."""
_SEEK_FROM = 2.0
_DECLARE = {"mov", "mp4", "matroska", "webm", "avi", "flac", "asf", "flv"}
"""Formats whose header tells the length."""


@dataclass
class Scan:
    """What one pass over a file gave; times are counted from `Request.start`.

    Attributes:
        declared: seconds from the beginning of the file to its end, as the header says, or None.
        planned: seconds for which frames were chosen.
        formats: names of the container's format.
        start: seconds into the file at which reading starts.
        limit: seconds that are read at most.
        order: for each wanted frame in order of time, its place among all windows' frames.
        is_picture: whether the file is a picture and no video.
        stopped: whether reading stopped at the limit, and not at the file's end.
        failures: errors of the container.
    """

    declared: float | None
    planned: float
    formats: frozenset[str]
    start: float
    limit: float
    order: tuple[int, ...] = ()
    is_picture: bool = False
    stopped: bool = False
    failures: int = 0
    sound: Sound | None = None
    pictures: Pictures | None = None
    streams: dict[int, AnyStream] = field(default_factory=dict)

    @property
    def tracks(self) -> dict[str, Track]:
        """What is decoded, by the name that users know it by."""
        both: dict[str, Track | None] = {"audio": self.sound, "video": self.pictures}
        return {kind: track for kind, track in both.items() if track is not None}

    @property
    def has_frames(self) -> bool:
        """Whether any frame was decoded."""
        return self.pictures is not None and not self.pictures.empty

    @property
    def end(self) -> float:
        """Seconds to where the tracks really end."""
        return max([0.0, *(track.end for track in self.tracks.values())])

    @property
    def length(self) -> float:
        """Seconds that were read."""
        return self.limit if self.stopped else min(self.limit, self.end)

    def frames(self, window: int, count: int) -> NDArray[np.uint8] | None:
        """Frames [count, S, S, 3] of a window, or None."""
        if self.pictures is None or self.pictures.empty:
            return None
        places = np.argsort(self.order)[window * count : (window + 1) * count]
        return np.stack([self.pictures.found[place] for place in places])

    def require_something(self, request: Request, has_image: bool) -> None:
        """Raises M003, M004 or M007 if there is nothing to make a clip of."""
        if not self.tracks:
            kinds = [kind for kind, wanted in (("audio", request.audio), ("video", request.frames)) if wanted]
            raise MediaError("M003", f"has no {'audio' if has_image else ' or '.join(kinds)} track")
        if self.start and self.length == 0 and not self.reasons():
            last = "" if self.declared is None else f" (it lasts {self.declared:.1f} s)"
            raise MediaError("M007", f"ends before {self.start:g} s, where reading should start{last}")
        if all(track.empty for track in self.tracks.values()):
            raise MediaError("M004", f"its {' and '.join(self.tracks)} can't be decoded")

    def reasons(self) -> list[str]:
        """Why not all could be read; empty if it could."""
        reasons = []
        if self.declared is not None and not self.stopped and self.formats & _DECLARE:
            lacking = min(self.declared - self.start, self.limit) - self.end
            if lacking > _CUT:
                reasons.append(f"ends after {self.start + self.end:.1f} of {self.declared:.1f} s")
        if self.failures:
            reasons.append("the container is damaged")
        for kind, track in self.tracks.items():
            if track.packets and not track.decoded:
                reasons.append(f"its {kind} track can't be decoded")
            elif track.errors:
                reasons.append(f"{track.errors} {kind} packets are damaged")
        return reasons


class _SeekMissedError(Exception):
    """Seeking went past the wanted start."""


def scan_file(name: str, request: Request, only_sound: bool, planned: float | None = None) -> Scan:
    """Reads a file once, from `Request.start` to `Request.limit` seconds later.

    Args:
        name: the file.
        request: what is wanted.
        only_sound: whether to leave the file's own video alone, and read its sound even if only its length matters.
        planned: seconds for which to choose frames; by default what the file declares.
    """
    if request.start >= _SEEK_FROM:
        try:
            return _scan(name, request, only_sound, planned, seek=True)
        except _SeekMissedError:
            # No index, or a wrong one: what lies before is passed over packet by packet.
            pass
    return _scan(name, request, only_sound, planned, seek=False)


def _scan(name: str, request: Request, only_sound: bool, planned: float | None, *, seek: bool) -> Scan:
    with files.opened(name) as container:
        declared = container.duration / 1e6 if container.duration and container.duration > 0 else None
        if planned is None:
            planned = request.limit if declared is None else max(0.0, min(request.limit, declared - request.start))
        formats = frozenset(container.format.name.split(","))
        scan = Scan(declared, planned, formats, request.start, request.limit)
        scan.is_picture = not only_sound and container.format.name.endswith("_pipe")
        if not scan.is_picture:
            zero = _add_tracks(scan, name, container, request, only_sound)
            _run(scan, container, zero, seek)
            scan.is_picture = _is_single_frame(scan, container)
    return scan


def _add_tracks(scan: Scan, name: str, container: InputContainer, request: Request, only_sound: bool) -> float:
    """Makes a decoder for each wanted track; gives the clock's time of `Request.start`."""
    audio, video = files.audio_track(container), files.video_track(container)
    starts = [files.seconds_of(stream.start_time, stream) for stream in (audio, video) if stream is not None]
    zero = min((start for start in starts if start is not None), default=0.0) + request.start
    if audio is not None and (request.audio or only_sound):
        scan.sound = Sound(audio, zero, request.limit, SAMPLE_RATE)
        scan.streams[audio.index] = audio
    if video is not None and request.frames and not only_sound:
        check_size(video, name)
        times = _times(request, scan.planned)
        scan.order = tuple(place for _, place in times)
        scan.pictures = Pictures(video, zero, [time for time, _ in times], request.image_size)
        scan.streams[video.index] = video
    return zero


def _times(request: Request, length: float) -> list[tuple[float, int]]:
    """Time and place of every wanted frame, by time; places count through the windows."""
    count = request.frames
    times = [start + i * seconds / count for start, seconds in windows(request, length) for i in range(count)]
    return sorted((time, place) for place, time in enumerate(times))


def _run(scan: Scan, container: InputContainer, zero: float, seek: bool) -> None:
    if not scan.streams:
        return
    if seek:
        _seek(container, zero - _PREROLL)
    demuxer = files.Demuxer(container, list(scan.streams.values()))
    reached = dict.fromkeys(scan.streams, -math.inf)
    for packet in demuxer:
        stream = scan.streams[packet.stream_index]
        if seek and reached[stream.index] == -math.inf and (packet.is_keyframe or isinstance(stream, AudioStream)):
            _require_before(packet, stream, zero)
        _feed(scan, packet)
        if packet.is_keyframe or reached[stream.index] > -math.inf:
            reached[stream.index] = max(reached[stream.index], _time(packet, stream, zero))
        if _is_past(reached, scan.limit):
            scan.stopped = True
            break
    for track in scan.tracks.values():
        track.finish()
    scan.failures = demuxer.failures


def _seek(container: InputContainer, time: float) -> None:
    try:
        container.seek(int(time * 1e6))
    except files.Failure as error:
        raise _SeekMissedError from error


def _feed(scan: Scan, packet: Packet[Stream]) -> None:
    if isinstance(packet.stream, AudioStream):
        assert scan.sound is not None
        scan.sound.feed(packet)  # type: ignore[arg-type]
    else:
        assert scan.pictures is not None
        scan.pictures.feed(packet)  # type: ignore[arg-type]


def _time(packet: Packet[Stream], stream: AnyStream, zero: float) -> float:
    stamp = packet.dts if packet.dts is not None else packet.pts
    time = files.seconds_of(stamp, stream)
    return -math.inf if time is None else time - zero


def _require_before(packet: Packet[Stream], stream: AnyStream, zero: float) -> None:
    """After a seek, a track has to go on before the wanted start, unless it only begins later."""
    begin = files.seconds_of(stream.start_time, stream)
    allowed = max(0.0, -math.inf if begin is None else begin - zero)
    # Containers seek by decoding time; what counts is when the frame is shown, which may be much later.
    time = files.seconds_of(packet.pts if packet.pts is not None else packet.dts, stream)
    if time is None or time - zero > allowed + _SLACK:
        raise _SeekMissedError


def _is_past(reached: Mapping[int, float], limit: float) -> bool:
    """Whether every track was read to the limit, or one so far beyond it that the others must have ended."""
    return min(reached.values()) > limit + _MARGIN or max(reached.values()) > limit + _INTERLEAVE


def _is_single_frame(scan: Scan, container: InputContainer) -> bool:
    pictures = scan.pictures
    return pictures is not None and pictures.packets == 1 and not scan.stopped and not container.streams.audio
