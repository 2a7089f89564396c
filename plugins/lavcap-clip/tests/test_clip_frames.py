import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavcap_clip.frames import encode_frames, normalise, resize
from lavcap_core.data import VISUAL, Padded


def means(pictures: torch.Tensor) -> torch.Tensor:
    """Two tokens per picture: the mean of each channel, and its square."""
    mean = pictures.float().mean(dim=(2, 3))
    return torch.stack([mean, mean.square()], dim=1)


def batch_of(*lengths: int, seed: int = 0) -> Padded:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (len(lengths), max(lengths), 3, 4, 4), generator=generator, dtype=torch.uint8)
    return Padded(data, torch.tensor(lengths))


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4), chunk=st.integers(1, 7), seed=st.integers(0, 99))
def test_tokens_stand_where_their_frames_do_and_padding_is_masked(lengths: list[int], chunk: int, seed: int) -> None:
    batch = (
        batch_of(*lengths, seed=seed)
        if any(lengths)
        else Padded(torch.zeros(len(lengths), 2, 3, 4, 4), torch.tensor(lengths))
    )
    tokens = encode_frames(batch, means, chunk)
    assert tokens.data.shape == (len(lengths), 2 * batch.data.shape[1], 3)
    assert tokens.mask.sum(dim=1).tolist() == [2 * length for length in lengths]
    assert bool((tokens.modality == VISUAL).all())
    assert not tokens.data[~tokens.mask].any()
    for row, length in enumerate(lengths):
        if length:
            torch.testing.assert_close(tokens.data[row, : 2 * length], means(batch.data[row, :length]).flatten(0, 1))
            expected = [(i + 0.5) / length for i in range(length) for _ in range(2)]
            torch.testing.assert_close(tokens.times[row, : 2 * length], torch.tensor(expected))


def test_equal_neighbours_are_encoded_once_and_chunks_are_small() -> None:
    batch = batch_of(6, 2)
    batch.data[0, 1:4] = batch.data[0, 0]
    seen: list[int] = []

    def encode(pictures: torch.Tensor) -> torch.Tensor:
        seen.append(len(pictures))
        return means(pictures)

    tokens = encode_frames(batch, encode, chunk=2)
    assert seen == [2, 2, 1]  # 3 different ones of the first clip, 2 of the second
    torch.testing.assert_close(tokens.data[0], means(batch.data[0]).flatten(0, 1))


def test_gradients_reach_the_encoder_through_repeated_frames() -> None:
    batch = batch_of(3)
    batch.data[0, 1:] = batch.data[0, 0]
    weight = torch.ones(3, requires_grad=True)
    encode_frames(batch, lambda pictures: means(pictures) * weight, 8).data.sum().backward()
    torch.testing.assert_close(weight.grad, 3 * means(batch.data[0, :1]).sum(dim=(0, 1)))


def test_frames_of_the_right_size_are_untouched() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(resize(frames, 8).numpy(), frames.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(20, 20), (30, 20), (7, 9)])
def test_other_sizes_keep_colours_and_the_centre(shape: tuple[int, int]) -> None:
    height, width = shape
    frames = np.zeros((1, height, width, 3), dtype=np.uint8)
    frames[..., 0] = 200
    frames[:, :, width // 2 :, 1] = 255  # the right half
    small = resize(frames, 10)
    assert small.shape == (1, 3, 10, 10)
    assert small.dtype == torch.uint8
    assert bool((small[:, 0] == 200).all())
    assert int(small[0, 1, :, 0].max()) <= 10
    assert int(small[0, 1, :, -1].min()) >= 245


def test_normalise_is_per_channel() -> None:
    pictures = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    out = normalise(pictures, (0.0, 0.5, 0.5), (1.0, 0.25, 0.5)).flatten()
    torch.testing.assert_close(out, torch.tensor([0.0, (128 / 255 - 0.5) / 0.25, 1.0]))
