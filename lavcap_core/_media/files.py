"""Opens local files for FFmpeg in such a way that what a file says can't make it open another one.

Three guards: FFmpeg gets an open file object under a neutral name, so a name such as ``concat:a|b`` or ``http://...``
has no meaning; every protocol is refused, so nothing can be opened beside it; and demuxers whose files name other files
(playlists, image sequences) or devices are left out of those that it may pick.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from lavcap_core.errors import MediaError

MAX_PIXELS = 100_000_000
"""Pixels of the largest frame that is decoded."""

_OPEN_OTHERS = {
    *("hls", "applehttp", "dash", "concat", "sdp", "rtsp", "rtp", "sap", "imf", "image2", "vobsub", "svg_pipe"),
    *("webm_dash_manifest", "avisynth", "vapoursynth", "lavfi"),
    *("alsa", "avfoundation", "decklink", "dshow", "fbdev", "gdigrab", "iec61883", "jack", "kmsgrab", "libcdio"),
    *("libdc1394", "openal", "oss", "pulse", "sndio", "v4l2", "video4linux2", "vfwcap", "x11grab", "xcbgrab"),
}
# These would draw any text as a film of letters.
_TEXT_ART = {"adf", "bin", "idf", "tty", "xbin"}
_PLAYLIST = re.compile(rb"\s*(#EXTM3U|ffconcat|<\?xml[^>]*>\s*<MPD|<MPD|v=0\r?\n|\[playlist\])", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.,-]+:")
_MAX_FAILURES = 10

Failure = (av.FFmpegError, OSError, ValueError)
"""What PyAV raises where FFmpeg gives up."""


@cache
def allowed_formats() -> str:
    """Demuxers that FFmpeg may pick, as it wants them: names with commas between."""
    refused = _OPEN_OTHERS | _TEXT_ART
    return ",".join(sorted(name for name in av.formats_available if not refused.intersection(name.split(","))))


class LocalFile:
    """What FFmpeg sees of a file: its bytes, and the ending of its name, which helps to tell formats apart."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.name = "clip" + (path.suffix if path.suffix[1:].isalnum() else "")
        """What FFmpeg takes for the address."""
        self.read = self._file.read
        self.seek = self._file.seek
        self.tell = self._file.tell

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _existing(name: str) -> Path:
    path = Path(name)
    try:
        if path.is_file():
            return path
        there = path.exists()
    except (OSError, ValueError) as error:
        raise MediaError("M001", f"can't be read: {error}", file=name) from error
    if there:
        raise MediaError("M001", "is not a file" + (" but a folder" if path.is_dir() else ""), file=name)
    if _SCHEME.match(name):
        raise MediaError("M005", "is an address, and only local files are read", help="fetch it first", file=name)
    raise MediaError("M001", "no such file", file=name)


def _refused(name: str, path: Path, error: Exception) -> MediaError:
    with path.open("rb") as file:
        head = file.read(256)
    if _PLAYLIST.match(head.removeprefix(b"\xef\xbb\xbf")):
        return MediaError(
            "M005", "is a list of other files, and those are not opened", help="give the files themselves", file=name
        )
    reason = "is empty" if not head else f"is no media file that FFmpeg knows ({type(error).__name__})"
    return MediaError("M002", reason, file=name)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """Opens a local file.

    Raises:
        MediaError: M001 if there is no such file, M002 if it is no media file, M005 if it is an address or a playlist.
    """
    name = os.fspath(path)
    local = _existing(name)
    try:
        file = LocalFile(local)
    except OSError as error:
        raise MediaError("M001", f"can't be read: {error.strerror}", file=name) from error
    with file:
        try:
            container = _open(file)
        except Failure as error:
            raise _refused(name, local, error) from error
        with container:
            yield container


def _open(file: LocalFile) -> InputContainer:
    options = {"protocol_whitelist": "none", "format_whitelist": allowed_formats(), "max_pixels": str(MAX_PIXELS)}
    try:
        return av.open(file, "r", options=options, metadata_errors="replace")
    except av.FFmpegError:
        # The ending of a picture makes FFmpeg prefer its reader of image sequences, which is refused.
        file.seek(0)
        file.name = "clip"
        return av.open(file, "r", options=options, metadata_errors="replace")


def audio_track(container: InputContainer) -> AudioStream | None:
    """The audio track that FFmpeg takes for the main one."""
    best = container.streams.best("audio")
    return best if isinstance(best, AudioStream) else None


def video_track(container: InputContainer) -> VideoStream | None:
    """The main video track; attached covers and thumbnails are none."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    tracks = [stream for stream in container.streams.video if not stream.disposition & still]
    best = container.streams.best("video")
    return next((track for track in tracks if track is best), tracks[0] if tracks else None)


class Demuxer:
    """Packets of some tracks in the order of the file, past damage where FFmpeg finds its way again."""

    def __init__(self, container: InputContainer, tracks: list[AudioStream | VideoStream]) -> None:
        self._container = container
        self._tracks = tracks
        self.failures = 0
        self.ended = False

    def __iter__(self) -> Iterator[Packet[Stream]]:
        stalled = 0
        while not self.ended:
            try:
                for packet in self._container.demux(*self._tracks):
                    if packet.size:
                        stalled = 0
                        yield packet
                self.ended = True
            except av.EOFError:
                self.ended = True
            except Failure:
                self.failures += 1
                stalled += 1
                self.ended = stalled >= _MAX_FAILURES


def seconds_of(value: int | None, stream: AudioStream | VideoStream) -> float | None:
    """A timestamp of a track in seconds."""
    if value is None or stream.time_base is None:
        return None
    return float(value * stream.time_base)
