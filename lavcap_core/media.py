"""Reads clips: a 16 kHz mono waveform and N frames out of any file that FFmpeg reads, in one bounded pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
"""Samples per second of every waveform."""


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
    """

    audio: bool = True
    frames: int = 0
    image_size: int = 224
    window: float = 10.0
    hop: float = 10.0
    limit: float = 600.0
    start: float = 0.0


@dataclass(frozen=True)
class Clip:
    """One window of a file.

    Attributes:
        path: the file, or None for arrays.
        waveform: [T] float32 in -1..1 at `SAMPLE_RATE`, or None without an audio track.
        frames: [N, S, S, 3] uint8 RGB, or None without a video track.
        start: seconds from the beginning of the file.
        seconds: length of the window; the last one may be shorter.
    """

    path: str | None
    waveform: NDArray[np.float32] | None
    frames: NDArray[np.uint8] | None
    start: float = 0.0
    seconds: float = 10.0


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
