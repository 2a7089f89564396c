from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavcap_core.data import AUDIO, Padded, collate
from lavcap_core.errors import WeightsError
from lavcap_core.media import Clip
from lavcap_starter import yamnet
from lavcap_starter.classes import load
from lavcap_starter.plugin import YamnetConfig
from lavcap_starter.tokens import Mixing, Vocabulary
from lavcap_starter.yamnet import YamnetEncoder, YamnetNetwork, log_mel, patches


def clip(waveform):
    return Clip(None, np.asarray(waveform, dtype=np.float32), None)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    vocabulary = Vocabulary.of(load("sound"), torch.randn(521, 16))
    return YamnetEncoder(YamnetNetwork().state_dict(), vocabulary, Mixing())


def test_log_mel_agrees_with_an_independent_implementation():
    audio_utils = pytest.importorskip("transformers.audio_utils")
    wave = np.random.default_rng(0).normal(0, 0.1, 16000)
    filters = audio_utils.mel_filter_bank(257, 64, 125, 7500, 16000, mel_scale="htk", triangularize_in_mel_space=True)
    expected = audio_utils.spectrogram(
        wave,
        audio_utils.window_function(400, "hann", periodic=True),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=1.0,
        center=False,
        mel_filters=filters,
        mel_floor=0.0,
    )
    got = log_mel(torch.from_numpy(wave).float())
    np.testing.assert_allclose(got, np.log(expected.T + 0.001), atol=2e-4)


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (8000, 1), (15600, 1), (16000, 1), (23280, 2), (160000, 20)])
def test_number_of_patches(samples, count):
    assert patches(torch.zeros(samples)).shape == (count, 96, 64)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200000))
def test_no_half_hop_of_sound_is_lost(samples):
    count = len(patches(torch.zeros(samples)))
    covered = 15600 + (count - 1) * 7680
    assert covered + 3840 > samples
    assert covered - samples <= max(3840, 15600 - samples)


def test_a_short_sound_is_repeated_not_padded():
    wave = torch.randn(3900)
    torch.testing.assert_close(patches(wave), patches(wave.repeat(4)))


def test_patches_overlap_by_half():
    wave = torch.randn(160000)
    parts = patches(wave)
    torch.testing.assert_close(parts[3, 48:], parts[4, :48])
    torch.testing.assert_close(parts[2], patches(wave[2 * 7680 :])[0])


def test_times_are_the_middles_of_patches(encoder):
    tokens = encoder(collate([encoder.prepare(clip(np.random.default_rng(0).normal(0, 0.1, 160000)))]))
    assert tokens.data.shape == (1, 20, 16)
    torch.testing.assert_close(tokens.times[0, :3], torch.tensor([0.48, 0.96, 1.44]))
    assert (tokens.modality == AUDIO).all()


def test_padding_changes_and_receives_nothing(encoder):
    random = np.random.default_rng(1)
    long, short = (encoder.prepare(clip(random.normal(0, 0.1, size))) for size in (80000, 32000))
    alone = encoder(collate([short]))
    batch = collate([long, short, None])
    spoilt = Padded(torch.where(batch.mask[..., None, None], batch.data, torch.nan), batch.lengths)
    together = encoder(spoilt)
    count = alone.data.shape[1]
    torch.testing.assert_close(together.data[1, :count], alone.data[0], atol=1e-5, rtol=1e-4)
    assert together.mask[1, :count].equal(alone.mask[0])
    assert not together.mask[1, count:].any()
    assert not together.mask[2].any()
    assert (together.data[~together.mask] == 0).all()


def test_a_clip_without_sound_gives_no_patch(encoder):
    assert encoder.prepare(Clip(None, None, None)).shape == (0, 96, 64)
    assert encoder.prepare(clip([])).shape == (0, 96, 64)


def test_weights_are_frozen_and_the_names_are_no_weights(encoder):
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert all(key.startswith("network.") for key in encoder.state_dict())


def test_a_file_that_is_not_yamnet_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"stem.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"W096.*classifier") as caught:
        yamnet.build(YamnetConfig(model="x"), SimpleNamespace(locate=lambda name: str(tmp_path / "x.safetensors")))
    assert caught.value.problems[0].file.endswith("x.safetensors")


def demo():
    from importlib.resources import files

    from lavcap_core.media import Request, read

    return read(str(files("lavcap_starter") / "demo" / "dog-and-cat.mp4"), Request(frames=10)).windows[0]


def test_real_weights_hear_the_dog_of_the_demo(real_context):
    encoder = yamnet.build(YamnetConfig(), real_context)
    heard = encoder.posteriors(collate([encoder.prepare(demo())]))[0].mean(0)
    named = [load("sound").names[index] for index in heard.topk(8).indices]
    assert "dog barking" in named
    tokens = encoder(collate([encoder.prepare(demo())]))
    assert tokens.mask.all()
    similar = torch.nn.functional.cosine_similarity(tokens.data[0].mean(0)[None], encoder.speaker.table)
    assert "dog" in load("sound").names[int(similar.argmax())]
