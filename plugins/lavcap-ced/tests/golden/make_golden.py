"""Computes front_ends.npz with torchaudio's own functions; run once, in an environment of its own.

    pip install torch==2.13.0 numpy && pip install --no-deps torchaudio==2.11.0
    python make_golden.py front_ends.npz

torchaudio's compiled extension isn't needed by the two functions used here and doesn't load beside every torch, so it
is replaced by an empty module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

SOUND, SILENCE = 3200, 1600


def signal() -> NDArray[np.float32]:
    """[4800] float32 at 16 kHz: 0.2 s of a loud chirp, 50 Hz to 7 kHz, in noise, with an offset; 0.1 s of zeros.

    The samples are those of 16-bit integers, so that they are the same on every machine. The zeros reach the floor of
    both front ends; the chirp is loud enough for `top_db` to lift it.
    """
    time = np.arange(SOUND) / 16000
    chirp = 22000 * np.sin(2 * np.pi * (50 * time + (7000 - 50) / (2 * SOUND / 16000) * time**2))
    state, noise = 1, np.empty(SOUND)
    for index in range(SOUND):
        state = (1103515245 * state + 12345) % 2**31
        noise[index] = state / 2**31 - 0.5
    loud = np.round(chirp + 6000 * noise + 1200.25)
    return np.concatenate([loud, np.zeros(SILENCE)]).astype(np.float32) / np.float32(32768)


def _import_without_extension() -> None:
    extension = ModuleType("torchaudio._extension")
    names = {"_IS_TORCHAUDIO_EXT_AVAILABLE": False, "fail_if_no_align": lambda function: function}
    extension.__dict__.update(names)
    sys.modules["torchaudio._extension"] = extension


def main(target: Path) -> None:
    """Writes both arrays and the version of torchaudio."""
    _import_without_extension()
    import torchaudio  # type: ignore[import-not-found]
    from torchaudio.compliance.kaldi import fbank  # type: ignore[import-not-found]
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram  # type: ignore[import-not-found]

    waveform = torch.from_numpy(signal())[None]
    mel = MelSpectrogram(16000, n_fft=512, win_length=512, hop_length=160, f_min=0.0, f_max=8000.0, n_mels=64)
    native = AmplitudeToDB("power", top_db=120)(mel(waveform))[0].T
    kaldi = fbank(
        waveform - waveform.mean(),
        sample_frequency=16000,
        window_type="hanning",
        num_mel_bins=64,
        dither=0.0,
        frame_shift=10,
        htk_compat=True,
        use_energy=False,
    )
    arrays = {"native": native.numpy(), "kaldi": kaldi.numpy()}
    np.savez_compressed(target, torchaudio=np.array(torchaudio.__version__), **arrays)
    print({name: (value.shape, float(value.min()), float(value.max())) for name, value in arrays.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
