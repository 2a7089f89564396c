"""Fusers without parameters, against literal transcriptions of what they are said to do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavcap_core.data import AUDIO, VISUAL, Tokens
from lavcap_core.errors import PortError
from lavcap_core.testing.samples import both, random_tokens, spoiled, valid
from lavcap_fusers.simple import ChannelConcat, Concat, OneModality, alone, nearest_in_time

LENGTHS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=4)


def batch(lengths, widths=(5, 3), seed=0):
    audio = random_tokens(AUDIO, [max(pair[0], 0) for pair in lengths], width=widths[0], seed=seed)
    visual = random_tokens(VISUAL, [max(pair[1], 0) for pair in lengths], width=widths[1], seed=seed)
    return audio, visual


def test_concat_puts_audio_first():
    audio, visual = both()
    fused = Concat(24)(audio, visual, None)
    assert torch.equal(fused.data, torch.cat([audio.data, visual.data], dim=1))
    assert torch.equal(fused.mask, torch.cat([audio.mask, visual.mask], dim=1))
    assert fused.modality[0].tolist() == [AUDIO] * 7 + [VISUAL] * 5
    assert torch.equal(fused.times, torch.cat([audio.times, visual.times], dim=1))


def test_concat_needs_no_times():
    audio, visual = both()
    fused = Concat(24)(Tokens.of(audio.data, AUDIO), visual, None)
    assert fused.times is None


def slow_channel_concat(audio: Tokens, visual: Tokens, row: int) -> list[list[float]]:
    """One sample, by the words: each audio token with the visual token nearest in time."""
    sounds, _, when = valid(audio, row)
    pictures, _, seen = valid(visual, row)
    tokens = []
    for sound, time in zip(sounds.tolist(), when.tolist(), strict=True):
        gaps = [abs(time - other) for other in seen.tolist()]
        near = pictures[gaps.index(min(gaps))].tolist() if gaps else [0.0] * visual.width
        tokens.append(sound + near)
    if not len(sounds):
        tokens = [[0.0] * audio.width + picture for picture in pictures.tolist()]
    return tokens


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_channel_concat_is_the_literal_one(lengths, seed):
    audio, visual = batch(lengths, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    # times in quarters are exact in both precisions, so that equally near ones are equally near in both
    audio, visual = (
        Tokens(t.data, t.mask, t.modality, torch.randint(0, 20, t.mask.shape, generator=generator) / 4)
        for t in (audio, visual)
    )
    for first, second in ((audio, visual), (spoiled_if_any(audio), spoiled_if_any(visual))):
        fused = ChannelConcat(5, 3)(first, second, None)
        assert fused.width == 8
        for row in range(len(lengths)):
            expected = slow_channel_concat(audio, visual, row)
            assert torch.equal(valid(fused, row)[0], torch.tensor(expected).reshape(-1, 8))


def spoiled_if_any(tokens: Tokens) -> Tokens:
    return spoiled(tokens) if tokens.data.shape[1] else tokens


def test_channel_concat_keeps_the_length_of_the_audio():
    audio, visual = both()
    fused = ChannelConcat(24, 24)(audio, visual, None)
    assert fused.data.shape == (3, 7, 48)
    assert torch.equal(fused.times, audio.times)
    assert (fused.modality == AUDIO).all()


def test_channel_concat_of_one_modality_in_the_pipeline():
    audio, visual = batch([(4, 2)])
    fuser = ChannelConcat(5, 3)
    heard, seen = fuser(audio, None, None), fuser(None, visual, None)
    assert torch.equal(heard.data, torch.cat([audio.data, torch.zeros(1, 4, 3)], dim=2))
    assert torch.equal(seen.data, torch.cat([torch.zeros(1, 2, 5), visual.data], dim=2))


def test_channel_concat_without_times_says_so():
    audio, visual = both()
    with pytest.raises(PortError) as caught:
        ChannelConcat(24, 24)(audio, Tokens.of(visual.data, VISUAL), None)
    assert caught.value.code == "P051"


def test_of_two_equally_near_the_first_is_taken():
    audio = Tokens.of(torch.zeros(1, 1, 2), AUDIO, times=torch.tensor([1.0]))
    visual = Tokens.of(torch.zeros(1, 2, 2), VISUAL, times=torch.tensor([1.5, 0.5]))
    assert nearest_in_time(audio, visual).tolist() == [[0]]


def test_released_sizes():
    """10 s of native CED tokens and 20 frames: 62 tokens, 1536 wide."""
    audio = Tokens.of(torch.randn(1, 62, 768), AUDIO, times=(torch.arange(62) + 0.5) * 0.16)
    visual = Tokens.of(torch.randn(1, 20, 768), VISUAL, times=(torch.arange(20) + 0.5) * 0.5)
    assert ChannelConcat(768, 768)(audio, visual, None).data.shape == (1, 62, 1536)
    assert Concat(768)(audio, visual, None).data.shape == (1, 82, 768)


def test_one_modality_is_untouched():
    audio, visual = both()
    assert OneModality(24, audio=True)(audio, visual, None) is audio
    assert OneModality(24, audio=False)(audio, visual, None) is visual


def test_one_modality_of_a_batch_without_it_is_empty():
    audio, visual = both()
    for fuser, fused in (
        (OneModality(9, audio=True), OneModality(9, audio=True)(None, visual, None)),
        (OneModality(9, audio=False), OneModality(9, audio=False)(audio, None, None)),
    ):
        assert fused.data.shape == (3, 0, fuser.width)
        assert fused.mask.shape == fused.modality.shape == fused.times.shape == (3, 0)


def test_alone():
    audio, visual = both()
    assert alone(audio, None) is audio
    assert alone(None, visual) is visual
    assert alone(audio, visual) is None
    with pytest.raises(ValueError, match="audio tokens, visual tokens or both"):
        alone(None, None)
