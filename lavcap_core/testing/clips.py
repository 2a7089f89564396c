"""Makes small media files on the spot, whose frames carry their number, so that tests know which frame they got."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

__all__ = ["numbered_picture", "read_number", "tone", "write_clip", "write_picture"]

_CELLS = 4
_TICKS = 90000


def numbered_picture(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """[height, width, 3] RGB whose central square holds 4 x 4 black and white cells: a number in 16 bits.

    It survives lossy coding, scaling and cropping at the centre.
    """
    side = min(width, height) // _CELLS * _CELLS
    bits = (number >> np.arange(_CELLS * _CELLS)) & 1
    cells = (bits.reshape(_CELLS, _CELLS) * 255).astype(np.uint8)
    picture = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    square = cells.repeat(side // _CELLS, 0).repeat(side // _CELLS, 1)
    picture[top : top + side, left : left + side] = square[..., None]
    return picture


def read_number(frame: NDArray[np.uint8]) -> int:
    """The number in a square frame [S, S, 3] that came from `numbered_picture`."""
    middles = (np.arange(_CELLS) * 2 + 1) * frame.shape[0] // (2 * _CELLS)
    bits = frame[np.ix_(middles, middles)].mean(axis=-1).reshape(-1) > 128
    return int((bits.astype(np.int64) << np.arange(_CELLS * _CELLS)).sum())


def tone(seconds: float, rate: int = 44100, channels: int = 2, frequency: float = 440.0) -> NDArray[np.float32]:
    """[channels, T] float32: the same sine of amplitude 0.5 in every channel."""
    time = np.arange(round(seconds * rate)) / rate
    sine = 0.5 * np.sin(2 * np.pi * frequency * time)
    return np.repeat(sine[None].astype(np.float32), channels, axis=0)


def write_clip(
    path: str | os.PathLike[str],
    seconds: float = 2.0,
    *,
    fps: int = 10,
    times: Sequence[float] | None = None,
    video: str | None = "libx264",
    audio: str | None = "aac",
    size: tuple[int, int] = (64, 48),
    picture: Callable[[int], NDArray[np.uint8]] | None = None,
    sound: NDArray[np.float32] | None = None,
    rate: int = 44100,
    layout: str = "stereo",
    rotation: int = 0,
    keyframes: int = 12,
    delays: tuple[float, float] = (0.0, 0.0),
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Writes a film whose frame i shows number i, with a tone; the ending of the path says the container.

    Args:
        path: the file.
        seconds: length.
        fps: frames per second.
        times: seconds at which frames are shown, ascending, instead of ``fps``.
        video: FFmpeg's name of the encoder, or None for no video track.
        audio: FFmpeg's name of the encoder, or None for no audio track.
        size: width and height.
        picture: frame i as [height, width, 3] RGB, instead of its number.
        sound: [channels, T] float32, instead of a tone.
        rate: samples per second of the audio track.
        layout: FFmpeg's name of the channels.
        rotation: counterclockwise degrees by which a player turns it.
        keyframes: frames from one keyframe to the next.
        delays: seconds at which the video track and the audio track begin.
        options: further options of the video encoder.
        muxer: options of the container.
    """
    shown = list(times) if times is not None else [i / fps for i in range(round(seconds * fps))]
    draw = picture or (lambda number: numbered_picture(number, *size))
    with av.open(os.fspath(path), "w", options=muxer or {}) as container:
        film = track = None
        if video:
            settings = {
                "g": str(keyframes),
                **({"preset": "ultrafast"} if video == "libx264" else {}),
                **(options or {}),
            }
            film = _film(container, video, size, Fraction(1, fps if times is None else _TICKS), rotation, settings)
        if audio:
            track = cast(AudioStream, container.add_stream(audio, rate=rate, layout=layout))
            sound = tone(seconds, rate, track.codec_context.layout.nb_channels) if sound is None else sound
        _write(container, film, track, [time + delays[0] for time in shown], draw, sound, delays[1])
    return Path(path)


def _film(
    container: OutputContainer,
    codec: str,
    size: tuple[int, int],
    tick: Fraction,
    rotation: int,
    options: dict[str, str],
) -> VideoStream:
    film = cast(VideoStream, container.add_stream(codec, rate=round(1 / tick), options=options))
    film.width, film.height = size
    film.pix_fmt = "yuv420p"
    film.codec_context.time_base = tick
    if rotation:
        film.set_display_rotation(rotation)
    return film


def _write(
    container: OutputContainer,
    film: VideoStream | None,
    track: AudioStream | None,
    shown: Sequence[float],
    draw: Callable[[int], NDArray[np.uint8]],
    sound: NDArray[np.float32] | None,
    audio_delay: float,
) -> None:
    # Both are written side by side, as recorders do: readers that stop early count on it.
    blocks = [] if track is None or sound is None else _blocks(track, sound, audio_delay)
    for number, time in enumerate(shown if film is not None else ()):
        while blocks and blocks[0][0] <= time:
            container.mux(_encode(track, blocks.pop(0)[1]))
        container.mux(_encode(film, _film_frame(film, draw(number), time)))
    for _, block in blocks:
        container.mux(_encode(track, block))
    for stream in (film, track):
        if stream is not None:
            container.mux(_encode(stream, None))


def _encode(stream: Any, frame: VideoFrame | AudioFrame | None) -> Any:
    return stream.encode(frame)


def _film_frame(film: VideoStream | None, picture: NDArray[np.uint8], time: float) -> VideoFrame:
    assert film is not None
    frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=film.codec_context.pix_fmt)
    frame.time_base = film.codec_context.time_base
    frame.pts = round(time / frame.time_base)
    return frame


def _blocks(track: AudioStream, sound: NDArray[np.float32], delay: float) -> list[tuple[float, AudioFrame]]:
    """Half seconds of sound with their times."""
    rate, layout = track.codec_context.sample_rate, track.codec_context.layout.name
    blocks = []
    for start in range(0, sound.shape[1], rate // 2):
        part = sound[:, start : start + rate // 2].T.reshape(1, -1)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(part), format="flt", layout=layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = start + round(delay * rate)
        blocks.append((frame.pts / rate, frame))
    return blocks


def write_picture(path: str | os.PathLike[str], picture: NDArray[np.uint8]) -> Path:
    """Writes [height, width, 3] RGB as png, jpg, webp or bmp."""
    kinds = {
        ".png": ("png", "rgb24"),
        ".jpg": ("mjpeg", "yuvj444p"),
        ".webp": ("libwebp", "yuv420p"),
        ".bmp": ("bmp", "bgr24"),
    }
    target = Path(path)
    codec, pixels = kinds[target.suffix]
    form = "webp" if target.suffix == ".webp" else "image2"
    options = {"update": "1"} if form == "image2" else {}
    with av.open(os.fspath(path), "w", format=form, options=options) as container:
        stream: Any = container.add_stream(codec, rate=1)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pixels
        frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target
