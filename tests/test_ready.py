"""The encoders `features`: by the conformance kit, and in a pipeline that captions a manifest."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lavcap_core import builtin, registry
from lavcap_core.cli import main
from lavcap_core.data import collate
from lavcap_core.errors import DataError
from lavcap_core.media import Clip
from lavcap_core.ready import AudioFeatures, VisualFeatures
from lavcap_core.testing.checks import parametrize_with_checks
from lavcap_core.testing.clips import tone, write_clip, write_picture

LIVE = "audio_encoder: {use: loudness}\nvisual_encoder: {use: brightness}\n"
READY = "audio_encoder: {use: loudness}\nvisual_encoder: {use: features, width: 2, frames: 4}\n"
BOTH = "audio_encoder: {use: features, width: 2}\nvisual_encoder: {use: features, width: 2}\n"


class Heard(AudioFeatures):
    """Takes what the kit makes: the waveform stands for features."""

    def prepare(self, clip):
        return super().prepare(replace(clip, audio_features=clip.waveform[:40].reshape(-1, self.width)))


class Seen(VisualFeatures):
    def prepare(self, clip):
        features = clip.frames.reshape(len(clip.frames), -1)[:, : self.width].astype(np.float32)
        return super().prepare(replace(clip, visual_features=features))


@parametrize_with_checks("audio_encoder", lambda inputs: Heard(4))
def test_conformance_of_ready_sound(check):
    check()


@parametrize_with_checks("visual_encoder", lambda inputs: Seen(4, 3))
def test_conformance_of_ready_frames(check):
    check()


def test_tokens_are_the_vectors_with_their_times():
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    sound = AudioFeatures(3)
    tokens = sound(collate([sound.prepare(Clip(None, None, None, 10.0, 8.0, audio_features=vectors))]))
    assert tokens.data[0].tolist() == vectors.tolist()
    assert tokens.times[0].tolist() == [1, 3, 5, 7]
    frames = VisualFeatures(3, 4)
    tokens = frames(collate([frames.prepare(Clip(None, None, None, visual_features=vectors))]))
    assert tokens.data[0].tolist() == vectors.tolist()
    assert tokens.times[0].tolist() == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize(
    ("count", "kept"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (6, [0, 1, 3, 4]), (20, [0, 5, 10, 15])]
)
def test_of_more_vectors_some_are_taken_as_frames_are(count, kept):
    vectors = np.arange(count, dtype=np.float32)[:, None]
    prepared = VisualFeatures(1, 4).prepare(Clip(None, None, None, visual_features=vectors))
    assert prepared[:, 0].tolist() == kept


def test_a_clip_without_features_says_so():
    for encoder in (AudioFeatures(3), VisualFeatures(3, 4)):
        with pytest.raises(DataError, match="D003"):
            encoder.prepare(Clip("a.wav", np.zeros(9, np.float32), None))


def test_descriptors_are_found_under_their_kinds():
    assert (
        registry.installed().describe(registry.installed().find("audio_encoder", "features")) == builtin.audio_features
    )
    assert (
        registry.installed().describe(registry.installed().find("visual_encoder", "features"))
        == builtin.visual_features
    )


@pytest.fixture
def folder(toy, tmp_path):
    """A manifest of sounds of loudness 0.5: with features, with frames, without either, and features alone."""
    place = tmp_path / "data"
    (place / "frames").mkdir(parents=True)
    sound = tone(2.0, 16000, 1)
    write_clip(place / "a.wav", 2.0, video=None, audio="pcm_s16le", sound=sound, rate=16000, layout="mono")
    for number in (1, 2, 10):
        write_picture(place / "frames" / f"{number}.png", np.full((48, 64, 3), 255 if number > 2 else 0, np.uint8))
    np.save(place / "v.npy", np.full((4, 2), 0.75, np.float16))
    np.save(place / "a.npy", np.full((7, 2), 0.25))
    np.save(place / "wide.npy", np.zeros((4, 3)))
    rows = [
        {"id": "features", "clip": "a.wav", "visual_features": "v.npy", "captions": ["One", "Two"], "split": "test"},
        {"id": "frames", "clip": "a.wav", "frames": "frames", "captions": ["Three"]},
        {"id": "half", "clip": "a.wav", "start": 0.5, "end": 1.5},
        {"id": "alone", "visual_features": "v.npy", "audio_features": "a.npy"},
        {"id": "wide", "clip": "a.wav", "visual_features": "wide.npy"},
    ]
    (place / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def captions(folder, spec):
    (folder / "spec.yaml").write_text(f"lavcap: 1\n{spec}fuser: {{use: join}}\ndecoder: {{use: numbers}}\n")
    out = folder / "out.jsonl"
    main(["caption", str(folder / "m.jsonl"), "--spec", str(folder / "spec.yaml"), "--out", str(out), "--overwrite"])
    rows = (json.loads(line) for line in out.read_text().splitlines())
    return {row["clip"]: row["caption"] or row["code"] for row in rows}


def test_caption_reads_frames_and_ignores_features_that_no_encoder_takes(folder):
    assert captions(folder, LIVE) == {
        "features": "loud 4 x 0.12",
        "frames": "loud 4 x 0.12, bright 4 x 0.25",
        "half": "loud 2 x 0.12",
        "alone": "D003",
        "wide": "loud 4 x 0.12",
    }


def test_caption_takes_ready_features_of_frames(folder):
    assert captions(folder, READY) == {
        "features": "loud 4 x 0.12, bright 4 x 0.75",
        "frames": "loud 4 x 0.12",
        "half": "loud 2 x 0.12",
        "alone": "bright 4 x 0.75",
        "wide": "D002",
    }


def test_caption_takes_ready_features_of_both(folder):
    found = captions(folder, BOTH)
    assert found["alone"] == "loud 7 x 0.25, bright 4 x 0.75"
    assert found["features"] == "bright 4 x 0.75"
    assert (found["frames"], found["half"], found["wide"]) == ("D003", "D003", "D002")
