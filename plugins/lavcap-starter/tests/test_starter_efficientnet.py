import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavcap_core.data import VISUAL, collate
from lavcap_core.media import Clip
from lavcap_starter import efficientnet
from lavcap_starter.classes import load
from lavcap_starter.efficientnet import EfficientNetEncoder, EfficientNetLite0, _Convolution
from lavcap_starter.plugin import EfficientNetConfig
from lavcap_starter.tokens import Mixing, Vocabulary


def clip(frames):
    return Clip(None, None, np.asarray(frames, dtype=np.uint8))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    vocabulary = Vocabulary.of(load("picture"), torch.randn(1000, 16))
    return EfficientNetEncoder(EfficientNetLite0().state_dict(), vocabulary, Mixing(floor=0.0), 10, 64)


def frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_size_is_that_of_the_paper():
    network = EfficientNetLite0()
    assert sum(weight.numel() for weight in network.parameters()) == 4_652_008
    assert len(network._blocks) == 16


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]))
def test_padding_is_tensorflows_same(size, kernel, stride):
    output = _Convolution(1, 1, kernel, stride)(torch.zeros(1, 1, size, size + 1))
    assert output.shape[2:] == (-(-size // stride), -(-(size + 1) // stride))


def test_the_odd_pixel_of_padding_comes_last():
    convolution = _Convolution(1, 1, 3, 2)
    convolution.weight.data = torch.arange(9.0).reshape(1, 1, 3, 3)
    picture = torch.zeros(1, 1, 4, 4)
    picture[0, 0, 0, 0] = 1
    assert convolution(picture)[0, 0].tolist() == [[0, 0], [0, 0]], "the first pixel meets the kernel's first weight"
    picture[0, 0, 1, 1] = 1
    assert convolution(picture)[0, 0, 0, 0] == 4


def test_tokens_have_relative_times(encoder):
    tokens = encoder(collate([encoder.prepare(clip(frames(4))), encoder.prepare(clip(frames(2)))]))
    assert tokens.data.shape == (2, 4, 16)
    torch.testing.assert_close(tokens.times[:, :2], torch.tensor([[0.125, 0.375], [0.25, 0.75]]))
    assert tokens.mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert (tokens.modality == VISUAL).all()


def test_equal_frames_are_looked_at_once(encoder, monkeypatch):
    seen = []
    network = encoder.network.forward
    monkeypatch.setattr(encoder.network, "forward", lambda pictures: seen.append(len(pictures)) or network(pictures))
    one, two = frames(2)
    got = encoder.posteriors(collate([encoder.prepare(clip([one, one, two, two, one]))]))
    assert seen == [3]
    torch.testing.assert_close(got[0, 0], got[0, 1])
    torch.testing.assert_close(got[0, 0], got[0, 4])
    assert not torch.equal(got[0, 0], got[0, 2])


def test_padding_changes_and_receives_nothing(encoder):
    short = encoder.prepare(clip(frames(2, seed=1)))
    alone = encoder(collate([short]))
    together = encoder(collate([encoder.prepare(clip(frames(3))), short, None]))
    torch.testing.assert_close(together.data[1, :2], alone.data[0], atol=1e-5, rtol=1e-4)
    assert together.mask.tolist() == [[True] * 3, [True, True, False], [False] * 3]
    assert (together.data[~together.mask] == 0).all()


def test_a_batch_without_pictures_is_empty(encoder):
    none = encoder.prepare(Clip(None, None, None))
    assert none.shape == (0, 3, 64, 64)
    assert encoder(collate([none, none])).data.shape == (2, 0, 16)


def test_batch_norms_never_train(encoder):
    assert not encoder.train().network._bn0.training
    assert not any(weight.requires_grad for weight in encoder.parameters())


def test_values_are_scaled_as_the_network_was_trained(encoder, monkeypatch):
    given_to = []
    network = encoder.network.forward
    monkeypatch.setattr(encoder.network, "forward", lambda pictures: given_to.append(pictures) or network(pictures))
    encoder.posteriors(collate([encoder.prepare(clip([np.full((64, 64, 3), 255), np.zeros((64, 64, 3))]))]))
    assert given_to[0][:, 0, 0, 0].tolist() == [1.0, -127 / 128]


def test_real_weights_see_the_cat_of_the_demo(real_context):
    from importlib.resources import files

    from lavcap_core.media import Request, read

    window = read(str(files("lavcap_starter") / "demo" / "dog-and-cat.mp4"), Request(frames=10)).windows[0]
    encoder = efficientnet.build(EfficientNetConfig(), real_context)
    tokens = encoder(collate([encoder.prepare(window)]))
    assert tokens.data.shape == (1, 10, 576)
    similar = torch.nn.functional.cosine_similarity(tokens.data[0, :, None], encoder.speaker.table, dim=-1)
    assert all(load("picture").names[index].endswith("cat") for index in similar.argmax(-1).tolist())
