import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavcap_ced.front_ends import FRONT_ENDS, filterbank, kaldi, native

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def waveform():
    return torch.from_numpy(runpy.run_path(str(GOLDEN / "make_golden.py"))["signal"]())


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "front_ends.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in ("native", "kaldi")}


def test_golden_arrays_reach_both_floors(golden):
    assert golden["native"].min() == golden["native"].max() - 120  # top_db, well above 10 log10(1e-10)
    assert golden["native"].min() > -100
    assert golden["kaldi"].min() == pytest.approx(np.log(2.0**-23), abs=1e-5)


def test_native_is_torchaudios_mel_spectrogram_in_decibels(waveform, golden):
    torch.testing.assert_close(native(waveform), golden["native"], atol=1e-3, rtol=0)


def test_kaldi_filterbank_is_torchaudios(waveform, golden):
    torch.testing.assert_close(filterbank(waveform - waveform.mean()), golden["kaldi"], atol=1e-4, rtol=0)


def test_kaldi_features_are_shifted_and_scaled(waveform, golden):
    torch.testing.assert_close(kaldi(waveform), (golden["kaldi"] + 4.346) / 4.332, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [300, 4000])  # where no zeros are appended, each frame's own mean is enough
def test_kaldi_removes_the_mean_of_the_clip(samples):
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(0)) * 0.1
    torch.testing.assert_close(kaldi(noise + 0.3), kaldi(noise), atol=1e-3, rtol=0)


def test_ten_seconds(waveform):
    ten = waveform.repeat(34)[:160000]
    assert native(ten).shape == (1001, 64)
    assert kaldi(ten).shape == (998, 64)
    assert native(ten).dtype == kaldi(ten).dtype == torch.float32


def test_kaldi_cuts_what_is_longer_than_the_window():
    assert kaldi(torch.zeros(200000)).shape == (1024, 64)


@pytest.mark.parametrize("name", ["native", "kaldi"])
def test_window_is_the_longest_sound_that_fits(name):
    end = FRONT_ENDS[name]
    samples = round(end.window * 16000)
    plain = {"native": native, "kaldi": filterbank}[name]
    assert len(plain(torch.zeros(samples))) == end.frames
    assert len(plain(torch.zeros(samples + 160))) == end.frames + 1


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1, 4000), seed=st.integers(0, 99))
def test_any_length_gives_finite_features(samples, seed):
    sound = torch.rand(samples, generator=torch.Generator().manual_seed(seed)) - 0.5
    for end, frames in ((native, 1 + max(samples, 257) // 160), (kaldi, 1 + (max(samples, 400) - 400) // 160)):
        features = end(sound)
        assert features.shape == (frames, 64)
        assert features.isfinite().all()


@settings(max_examples=10, deadline=None)
@given(gain=st.floats(0.05, 20))
def test_native_gain_is_an_offset_in_decibels(gain):
    sound = torch.rand(3200, generator=torch.Generator().manual_seed(1)) - 0.5
    torch.testing.assert_close(native(sound * gain), native(sound) + 20 * np.log10(gain), atol=1e-2, rtol=0)


def test_top_db_is_per_clip():
    loud, quiet = torch.rand(3200) - 0.5, (torch.rand(3200) - 0.5) * 1e-5
    assert native(quiet).std() > 1  # beside the loud clip it would be all floor
    assert native(loud).max() - 120 > -100
