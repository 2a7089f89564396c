"""How long the starter takes, and how much memory: a whole process per clip, and each further clip.

    python benchmarks/speed.py clip.mp4

Without a clip, one of 10 s and 640x360 is made (a chirp and moving bars). Weights are expected in the cache: run
``lavcap starter fetch`` first. Prints the median of ``--runs`` runs of ``lavcap caption CLIP``, the largest memory of
any, and the median of the further clips of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def make(place: Path, seconds: int = 10) -> Path:
    """Writes a clip of 640x360 at 25 frames a second, with sound."""
    import av

    with av.open(str(place), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 640, 360, "yuv420p"
        audio = container.add_stream("aac", rate=44100)
        for index in range(25 * seconds):
            picture = np.zeros((360, 640, 3), np.uint8)
            picture[:, (index * 4) % 640 :][:, :80] = (240, 180, 40)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        time_axis = np.arange(44100 * seconds) / 44100
        wave = (0.3 * np.sin(2 * np.pi * (600 + 300 * np.sin(6 * time_axis)) * time_axis)).astype(np.float32)
        for start in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(audio.encode(frame))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return place


def whole_process(clip: Path, runs: int) -> list[float]:
    """Seconds of ``lavcap caption CLIP``, from start to exit."""
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lavcap_core.cli", "caption", str(clip)], check=True, capture_output=True)
        found.append(time.perf_counter() - began)
    return found


def further(clip: Path, runs: int) -> list[float]:
    """Seconds of each clip after the first, in one process."""
    import lavcap_core as lavcap

    pipe = lavcap.load("starter")
    pipe.caption(clip)
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        pipe.caption(clip)
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = args.clip or make(Path(folder) / "clip.mp4")
        whole = whole_process(clip, args.runs)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        each = further(clip, args.runs)
    facts = {
        "whole process, median s": round(statistics.median(whole), 2),
        "whole process, all s": [round(value, 2) for value in whole],
        "memory, GiB": round(memory, 2),
        "further clip, median s": round(statistics.median(each), 2),
        "load average": round(os.getloadavg()[0], 1),
        "processors": os.cpu_count(),
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
