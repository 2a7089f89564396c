"""Makes the demo clip: a dog barks while the camera pans over a cat, so that only both senses tell all of it.

    python make_clip.py dog.mp3 chelsea.png ../lavcap_starter/demo/dog-and-cat.mp4

Sources and licences: see PROVENANCE.md beside the clip.
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SECONDS, RATE, SIZE = 6, 10, (320, 240)


def read_sound(path: Path) -> NDArray[np.float32]:
    """[1, T] mono at 16 kHz, cut or padded to the clip's length."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", 16000)
        chunks = [out.to_ndarray() for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    wave = np.concatenate(chunks, axis=1)[:, : SECONDS * 16000]
    return np.pad(wave, ((0, 0), (0, SECONDS * 16000 - wave.shape[1]))).astype(np.float32)


def view(picture: Image.Image, fraction: float) -> Image.Image:
    """What the camera sees at a fraction of the clip: a window of the picture's height that wanders to the right."""
    width = picture.height * SIZE[0] / SIZE[1]
    left = fraction * (picture.width - width)
    return picture.resize(SIZE, Image.Resampling.BICUBIC, box=(left, 0, left + width, picture.height))


def make(sound: Path, picture: Path, target: Path) -> None:
    """Writes the clip as H.264 and AAC."""
    wave, image = read_sound(sound), Image.open(picture).convert("RGB")
    with av.open(str(target), "w") as container:
        video = container.add_stream("libx264", RATE, options={"crf": "26", "preset": "veryslow"})
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        audio = container.add_stream("aac", 16000, bit_rate=48000, layout="mono")
        for index in range(SECONDS * RATE):
            frame = av.VideoFrame.from_ndarray(np.asarray(view(image, index / (SECONDS * RATE - 1))), "rgb24")
            container.mux(video.encode(frame))
        for start in range(0, wave.shape[1], 1024):
            chunk = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + 1024]), "fltp", "mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = 16000, start, Fraction(1, 16000)
            container.mux(audio.encode(chunk))
        for stream in (video, audio):
            container.mux(stream.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("sound", "picture", "target"):
        parser.add_argument(name, type=Path)
    make(**vars(parser.parse_args()))
