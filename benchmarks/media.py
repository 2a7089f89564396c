"""What reading clips costs, as ratios of medians from one run on one machine.

Run it as ``python benchmarks/media.py [--repeats 7] [--minutes 10]``. It writes its own films of moving noise and
prints

- a long film read for 10 s against a film of 10 s (what the bound in time is worth: about 1),
- 10 s from the middle of the long film against its first 10 s (what seeking is worth: about 1),
- few frames over long windows, skipping what no wanted frame needs, against decoding in sequence, at several distances
  of keyframes,
- a film of 10 s against the plain way with PyAV: decoding all frames to arrays, then picking.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from lavcap_core._media.pictures import Pictures
from lavcap_core.media import Request, read
from lavcap_core.testing.clips import write_clip

SIZE = (480, 360)
FPS = 25
TWENTY = Request(frames=20, limit=10)


def moving(number: int) -> NDArray[np.uint8]:
    """A frame of a landscape of noise that drifts, so that motion has to be decoded."""
    return np.roll(_LANDSCAPE, (number, 2 * number), (0, 1))


_LANDSCAPE = np.kron(
    np.random.default_rng(0).integers(0, 255, (SIZE[1] // 20, SIZE[0] // 20, 3), np.uint8),
    np.ones((20, 20, 1), np.uint8),
)


def film(folder: Path, seconds: float, keyframes: int) -> Path:
    """A film with sound, coded as cameras and web sites do (B-frames, several references)."""
    path = folder / f"{seconds:g}s-{keyframes}.mp4"
    options = {"preset": "veryfast", "bf": "2"}
    return write_clip(path, seconds, fps=FPS, size=SIZE, picture=moving, keyframes=keyframes, options=options)


def plain(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The plain way with PyAV: all frames to arrays, all sound, then picking."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
        sound = [part.to_ndarray() for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    picked = np.linspace(0, len(frames), 20, endpoint=False).astype(int)
    return np.stack([frames[i] for i in picked]), np.concatenate(sound, axis=1)


def compare(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of both, taken in turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for times, function in zip(taken, (first, second), strict=True):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
    return statistics.median(taken[0][1:]), statistics.median(taken[1][1:])


def report(what: str, medians: tuple[float, float]) -> None:
    """Prints one line."""
    first, second = medians
    sys.stdout.write(f"{what:74} {first * 1e3:8.1f} ms / {second * 1e3:8.1f} ms = {first / second:5.2f}\n")


def sequentially(path: Path, request: Request) -> None:
    """Reads without dropping anything undecoded."""
    Pictures.SKIP = False
    try:
        read(path, request)
    finally:
        Pictures.SKIP = True


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short, long = film(folder, 10, 50), film(folder, 60 * options.minutes, 50)
        measure(folder, short, long, options.repeats)


def measure(folder: Path, short: Path, long: Path, repeats: int) -> None:
    """All comparisons."""
    middle = Request(frames=20, limit=10, start=read(long, Request(limit=1)).duration / 2)
    first_ten = functools.partial(read, long, TWENTY)
    report("10 s of the long film / film of 10 s", compare(first_ten, lambda: read(short, TWENTY), repeats))
    report("10 s from its middle / its first 10 s", compare(lambda: read(long, middle), first_ten, repeats))
    for keyframes in (12, 50, 250):
        path = film(folder, 60, keyframes)
        for frames in (4, 20, 120):
            request = Request(frames=frames, window=60, hop=60)
            skipping, in_sequence = (functools.partial(how, path, request) for how in (read, sequentially))
            medians = compare(skipping, in_sequence, repeats)
            report(f"{frames} frames of 60 s, a keyframe every {keyframes / FPS:g} s: skipping / in sequence", medians)
    report(
        "film of 10 s, 20 frames: this / PyAV, all frames",
        compare(lambda: read(short, TWENTY), lambda: plain(short), repeats),
    )


if __name__ == "__main__":
    main()
