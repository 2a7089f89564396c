import pytest
import torch

from lavcap_ced.augment import augment
from lavcap_ced.plugin import SpecAugment
from lavcap_core.data import Padded


def batch(*lengths):
    generator = torch.Generator().manual_seed(0)
    return Padded(torch.rand(len(lengths), max(lengths), 64, generator=generator) + 1, torch.tensor(lengths))


def masks(time, frequency, fill=-9.0, lengths=(300, 300, 100), seed=0):
    torch.manual_seed(seed)
    sound = batch(*lengths)
    return sound, augment(sound, SpecAugment(time=time, frequency=frequency), fill)


@pytest.mark.parametrize("seed", range(20))
def test_one_band_and_one_stretch_within_the_limits(seed):
    sound, out = masks(time=50, frequency=20, seed=seed)
    hidden = out == -9.0
    assert torch.equal(out[~hidden], sound.data[~hidden])
    for row, length in enumerate((300, 300, 100)):
        assert not hidden[row, length:].any()
        real = hidden[row, :length]
        frames, bins = real.all(dim=1), real.all(dim=0)
        assert frames.sum() <= 50
        assert bins.sum() <= 20
        assert torch.equal(real, frames[:, None] | bins[None])
        for line in (frames, bins):
            assert (line.int().diff() == 1).sum() + line[0].int() <= 1  # one run


def test_masks_differ_between_clips_and_draws():
    _, one = masks(50, 20)
    _, two = masks(50, 20, seed=1)
    assert not torch.equal(one, two)
    assert not torch.equal(one[0] == -9.0, one[1] == -9.0)


def test_widths_are_uniform_up_to_the_limit():
    torch.manual_seed(0)
    sound = Padded(torch.ones(2000, 1, 64), torch.ones(2000, dtype=torch.int64))
    widths = (augment(sound, SpecAugment(time=0, frequency=48), 0.0) == 0).sum(dim=(1, 2))
    assert widths.max() == 47
    assert widths.min() == 0
    assert widths.float().mean() == pytest.approx(23.5, abs=1.5)


def test_nothing_is_masked_where_the_limits_are_zero():
    sound, out = masks(0, 0)
    assert torch.equal(out, sound.data)


def test_fill_is_the_mean_of_the_real_frames():
    sound, out = masks(50, 20, fill=None)
    hidden = out != sound.data
    assert hidden.any()
    for row, length in enumerate((300, 300, 100)):
        values = out[row][hidden[row]]
        torch.testing.assert_close(values, sound.data[row, :length].mean().expand_as(values))


def test_a_limit_longer_than_the_clip():
    sound, out = masks(1024, 64, lengths=(10, 3), seed=3)
    assert out.shape == sound.data.shape
    assert out.isfinite().all()
