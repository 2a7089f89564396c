"""Makes the clip of the README's picture, in which sound and sight are out of step: see PROVENANCE.md.

python docs/pictures/make_clip.py dog.mp3 cow.mp3 coffee.png chelsea.png docs/pictures/out-of-step.mp4
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HALF, RATE, FPS, SIZE = 3, 16000, 10, (320, 240)


def read_sound(path: Path) -> NDArray[np.float32]:
    """[HALF * RATE] mono at 16 kHz: the beginning of a file, filled with silence."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", RATE)
        chunks = [out.to_ndarray() for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    wave = np.concatenate(chunks, axis=1)[0, : HALF * RATE].astype(np.float32)
    return np.pad(0.8 * wave / np.abs(wave).max(), (0, HALF * RATE - len(wave)))


def view(picture: Image.Image, fraction: float) -> Image.Image:
    """A window of 4:3 that wanders a little to the right as the fraction goes from 0 to 1."""
    height = min(picture.height, picture.width * 0.7)
    width = height * SIZE[0] / SIZE[1]
    left = (picture.width - width) * (0.3 + 0.4 * fraction)
    top = (picture.height - height) / 2
    return picture.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def make(sounds: list[Path], pictures: list[Path], target: Path) -> None:
    """Writes the clip as H.264 and AAC: each sound and each picture for three seconds."""
    wave = np.concatenate([read_sound(path) for path in sounds])
    images = [Image.open(path).convert("RGB") for path in pictures]
    with av.open(str(target), "w") as container:
        video: Any = container.add_stream("libx264", FPS, options={"crf": "26", "preset": "veryslow"})
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        audio: Any = container.add_stream("aac", RATE, layout="mono")
        for number in range(2 * HALF * FPS):
            image = view(images[number // (HALF * FPS)], number % (HALF * FPS) / (HALF * FPS))
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        for start in range(0, len(wave), 1024):
            block = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), start
            container.mux(audio.encode(block))
        for stream in (video, audio):
            container.mux(stream.encode(None))


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sounds", type=Path, nargs=2)
    parser.add_argument("pictures", type=Path, nargs=2)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    make(args.sounds, args.pictures, args.target)


if __name__ == "__main__":
    main()
