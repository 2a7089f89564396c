"""Checks of audio and visual encoders: ``make`` is called without inputs. Clips are noise, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lavcap_core.data import AUDIO, VISUAL, Padded, Tokens, collate
from lavcap_core.media import SAMPLE_RATE, Clip
from lavcap_core.testing.samples import Built, Make, close, same_valid, seeded

__all__ = ["AUDIO_CHECKS", "VISUAL_CHECKS"]

_Clips = Callable[[Built], list[Clip]]


def _encoder(make: Make) -> Built:
    with seeded():
        encoder = make({})
    return encoder.eval() if isinstance(encoder, torch.nn.Module) else encoder


def _sounds(encoder: Built) -> list[Clip]:
    """Two clips of noise, the longer at most as long as the encoder's window."""
    longest = min(4.0, encoder.window or 4.0)
    random = np.random.default_rng(5)
    lengths = [round(share * longest * SAMPLE_RATE) for share in (1.0, 0.6)]
    waves = [(0.1 * random.standard_normal(length)).astype(np.float32) for length in lengths]
    return [Clip(None, wave, None, 0.0, len(wave) / SAMPLE_RATE) for wave in waves]


def _films(encoder: Built) -> list[Clip]:
    """Two clips of noise in the frames that the encoder wants, the second with fewer of them."""
    random = np.random.default_rng(5)
    size = encoder.image_size
    counts = (min(encoder.frames, 4), min(encoder.frames, 2))
    films = [random.integers(0, 256, (count, size, size, 3), dtype=np.uint8) for count in counts]
    return [Clip(None, None, film, 0.0, 4.0) for film in films]


def _encode(encoder: Built, items: list[Tensor | None]) -> Tokens:
    batch = collate(items)
    assert batch is not None
    with torch.no_grad():
        tokens: Tokens = encoder(batch)
    return tokens


def _features(encoder: Built, clips: list[Clip]) -> list[Tensor]:
    return [encoder.prepare(clip) for clip in clips]


def _check_shapes(make: Make, clips: _Clips, modality: int) -> None:
    encoder = _encoder(make)
    features = _features(encoder, clips(encoder))
    tokens = _encode(encoder, [*features])
    batch, count, width = tokens.data.shape
    assert batch == 2, f"{batch} samples out of 2"
    assert width == encoder.width, f"tokens are {width} wide, the encoder says {encoder.width}"
    assert tokens.mask.shape == (batch, count), "mask isn't [B, N]"
    assert tokens.mask.dtype == torch.bool, f"mask is {tokens.mask.dtype}"
    assert bool((tokens.modality == modality).all()), f"modality isn't {modality} throughout"
    assert bool(tokens.mask.any(dim=1).all()), "a sample has no tokens"
    assert bool(torch.isfinite(tokens.data[tokens.mask]).all()), "tokens aren't finite"


def _check_padding_invariance(make: Make, clips: _Clips) -> None:
    encoder = _encoder(make)
    features = _features(encoder, clips(encoder))
    together = _encode(encoder, [*features])
    for row, item in enumerate(features):
        same_valid(together, row, _encode(encoder, [item]), 0, "alone instead of in a batch")


def _check_missing_modality(make: Make, clips: _Clips) -> None:
    encoder = _encoder(make)
    features = _features(encoder, clips(encoder))
    tokens = _encode(encoder, [features[0], None, features[1]])
    assert not bool(tokens.mask[1].any()), "tokens for a sample of length 0"
    assert bool(torch.isfinite(tokens.data).all()), "not finite beside a sample of length 0"
    complete = _encode(encoder, [*features])
    for row, other in ((0, 0), (2, 1)):
        same_valid(tokens, row, complete, other, "beside a sample of length 0")


def _check_deterministic(make: Make, clips: _Clips) -> None:
    encoder = _encoder(make)
    first, second = (_encode(encoder, [*_features(encoder, clips(encoder))]) for _ in range(2))
    assert torch.equal(first.data, second.data), "two calls differ"


def _check_no_inputs_mutated(make: Make, clips: _Clips) -> None:
    encoder = _encoder(make)
    for clip in clips(encoder):
        array = clip.waveform if clip.waveform is not None else clip.frames
        assert array is not None
        before = array.copy()
        features = encoder.prepare(clip)
        assert np.array_equal(before, array), "prepare wrote to the clip"
        copy = features.clone()
        _encode(encoder, [features])
        batch = Padded(features[None], torch.tensor([len(features)]))
        with torch.no_grad():
            encoder(batch)
        assert torch.equal(copy, features), "the encoder wrote to its features"


def _times(make: Make, clips: _Clips) -> tuple[Tokens, list[Clip]]:
    encoder = _encoder(make)
    return _encode(encoder, [*_features(encoder, clips(encoder))]), clips(encoder)


def check_audio_shapes(make: Make) -> None:
    """Tokens [B, N, width], all of them audio, with a bool mask."""
    _check_shapes(make, _sounds, AUDIO)


def check_audio_padding_invariance(make: Make) -> None:
    """A short clip beside a longer one gives what it gives alone."""
    _check_padding_invariance(make, _sounds)


def check_audio_missing_modality(make: Make) -> None:
    """A clip without sound gets no tokens, no NaN, and leaves the others unmoved."""
    _check_missing_modality(make, _sounds)


def check_audio_times(make: Make) -> None:
    """Times rise, and lie in seconds within the clip."""
    tokens, clips = _times(make, _sounds)
    if tokens.times is None:
        return
    for row, clip in enumerate(clips):
        times = tokens.times[row][tokens.mask[row]]
        assert bool((times.diff() >= 0).all()), "times fall"
        assert float(times[0]) >= 0, "a time before the clip"
        assert float(times[-1]) <= clip.seconds + 0.5, f"a time of {float(times[-1])} in {clip.seconds} s"
        assert float(times[-1]) >= clip.seconds / 4, "times aren't seconds of the clip"


def check_audio_deterministic_in_eval(make: Make) -> None:
    """The same sound gives the same tokens."""
    _check_deterministic(make, _sounds)


def check_audio_no_inputs_mutated(make: Make) -> None:
    """Waveform and features are not written to."""
    _check_no_inputs_mutated(make, _sounds)


def check_audio_prepare_ignores_frames(make: Make) -> None:
    """A clip's frames don't matter to an audio encoder."""
    encoder = _encoder(make)
    clip = _sounds(encoder)[0]
    filmed = replace(clip, frames=np.zeros((2, 8, 8, 3), dtype=np.uint8))
    close(encoder.prepare(clip), encoder.prepare(filmed), "features with frames in the clip")


def check_visual_shapes(make: Make) -> None:
    """Tokens [B, N, width], all of them visual, with a bool mask."""
    _check_shapes(make, _films, VISUAL)


def check_visual_padding_invariance(make: Make) -> None:
    """A clip of few frames beside one of more gives what it gives alone."""
    _check_padding_invariance(make, _films)


def check_visual_missing_modality(make: Make) -> None:
    """A clip without frames gets no tokens, no NaN, and leaves the others unmoved."""
    _check_missing_modality(make, _films)


def check_visual_times(make: Make) -> None:
    """Times rise, and are fractions of the clip, which the recipe scales to seconds."""
    tokens, _ = _times(make, _films)
    if tokens.times is None:
        return
    for row in range(2):
        times = tokens.times[row][tokens.mask[row]]
        assert bool((times.diff() >= 0).all()), "times fall"
        assert bool(((times >= 0) & (times <= 1)).all()), "times aren't fractions of the clip"


def check_visual_deterministic_in_eval(make: Make) -> None:
    """The same frames give the same tokens."""
    _check_deterministic(make, _films)


def check_visual_no_inputs_mutated(make: Make) -> None:
    """Frames and features are not written to."""
    _check_no_inputs_mutated(make, _films)


AUDIO_CHECKS = (
    check_audio_shapes,
    check_audio_padding_invariance,
    check_audio_missing_modality,
    check_audio_times,
    check_audio_deterministic_in_eval,
    check_audio_no_inputs_mutated,
    check_audio_prepare_ignores_frames,
)

VISUAL_CHECKS = (
    check_visual_shapes,
    check_visual_padding_invariance,
    check_visual_missing_modality,
    check_visual_times,
    check_visual_deterministic_in_eval,
    check_visual_no_inputs_mutated,
)
