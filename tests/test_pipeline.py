import json

import numpy as np
import pytest
import torch
from toys import TOY_SPEC

import lavcap_core
from lavcap_core.data import AUDIO, VISUAL, Aligned, Alignment, Tokens, collate
from lavcap_core.errors import BuildError, WeightsError
from lavcap_core.media import Clip, Recording
from lavcap_core.pipeline import load
from lavcap_core.recipes.captioner import merge_windows
from lavcap_core.spec import read_text

RATE = 16000


def recording(seconds, window=10.0, frames=True, sound=True, level=255):
    clips = []
    for start in np.arange(0, seconds, window):
        length = min(window, seconds - start)
        waveform = np.full(round(length * RATE), 0.5, np.float32) if sound else None
        pictures = np.full((4, 32, 32, 3), level, np.uint8) if frames else None
        clips.append(Clip("x.mp4", waveform, pictures, float(start), float(length)))
    return Recording("x.mp4", tuple(clips), seconds, seconds)


@pytest.fixture
def pipeline(toy):
    return load(read_text(TOY_SPEC))


def captions(pipeline, *recordings, **options):
    return pipeline.caption_prepared([pipeline.prepare(item) for item in recordings], **options)


def test_batch_of_everything_equals_one_by_one(pipeline):
    kinds = [
        recording(10),
        recording(3, frames=False),
        recording(5, sound=False, level=51),
        recording(25),
        recording(40),
    ]
    together = [caption.text for caption in captions(pipeline, *kinds)]
    assert together == [captions(pipeline, item)[0].text for item in kinds]
    assert together[:4] == [
        "loud 20 x 0.25, bright 4 x 1.00",
        "loud 6 x 0.25",
        "bright 4 x 0.20",
        "loud 50 x 0.25, bright 12 x 1.00",
    ]


def test_long_clips_are_captioned_in_segments(pipeline):
    caption = captions(pipeline, recording(40))[0]
    assert caption.text == "loud 20 x 0.25, bright 4 x 1.00"
    assert [(s["start"], s["end"]) for s in caption.segments] == [(0, 10), (10, 20), (20, 30), (30, 40)]


def test_merge_can_be_chosen(toy):
    tokens = load(read_text(TOY_SPEC + "windows: {merge: tokens}\n"))
    assert captions(tokens, recording(40))[0].text == "loud 80 x 0.25, bright 16 x 1.00"
    segments = load(read_text(TOY_SPEC + "windows: {merge: segments}\n"))
    caption = captions(segments, recording(15))[0]
    assert caption.text == "loud 20 x 0.25, bright 4 x 1.00. loud 10 x 0.25, bright 4 x 1.00."
    assert [s["text"] for s in caption.segments] == caption.text[:-1].split(". ")


def test_prompts_are_per_clip(pipeline):
    first, second = captions(pipeline, recording(1), recording(1), prompts=["Say", None])
    assert first.text.startswith("Say, ")
    assert second.text.startswith("loud")


def test_times_are_seconds_of_the_file(pipeline):
    encoded = pipeline.encode([pipeline.prepare(recording(20))])
    merged = merge_windows(encoded.tokens, [[0, 1]], [0.0, 10.0])
    audio = merged.times[0][merged.modality[0] == AUDIO]
    assert torch.allclose(audio, torch.arange(40) * 0.5 + 0.25)
    assert merged.times[0][merged.modality[0] == VISUAL].tolist() == [
        1.25,
        3.75,
        6.25,
        8.75,
        11.25,
        13.75,
        16.25,
        18.75,
    ]


def test_visual_times_follow_the_length_of_the_window(pipeline):
    encoded = pipeline.encode([pipeline.prepare(recording(4))])
    times = encoded.tokens.times[0][encoded.tokens.modality[0] == VISUAL]
    assert times.tolist() == [0.5, 1.5, 2.5, 3.5]


def test_merge_windows_keeps_only_real_tokens():
    data = torch.arange(12.0).reshape(3, 4, 1)
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    tokens = Tokens(data, mask, torch.zeros(3, 4, dtype=torch.int8))
    merged = merge_windows(tokens, [[0, 2], [1]], [0, 0, 0])
    assert merged.data[..., 0].tolist() == [[0, 1, 3, 8], [0, 0, 0, 0]]
    assert merged.mask.tolist() == [[True] * 4, [False] * 4]


def test_caption_carries_its_alignment(toy):
    class Aligner(torch.nn.Module):
        def forward(self, audio, visual):
            both = audio.mask[:, :, None] & visual.mask[:, None]
            plan = both / both.sum((1, 2), keepdim=True).clamp(min=1)
            return Aligned(audio, visual, Alignment(plan * 2, plan, plan.sum((1, 2))))

    pipeline = load(read_text(TOY_SPEC))
    pipeline.recipe.aligner = Aligner()
    both, deaf = captions(pipeline, recording(2), recording(2, sound=False))
    assert both.alignment.plan.shape == (1, 4, 4)
    assert both.alignment.plan.sum() == pytest.approx(1)
    assert both.audio.times.tolist() == [[0.25, 0.75, 1.25, 1.75]]
    assert deaf.alignment.plan.shape == (1, 0, 4)
    assert captions(load(read_text(TOY_SPEC)), recording(2))[0].alignment is None


def test_python_api(toy, toy_spec, tmp_path):
    from lavcap_core.testing.clips import write_clip

    path = (
        write_clip(tmp_path / "a.mp4", 2.0, picture=lambda n: np.full((48, 64, 3), 255, np.uint8)) or tmp_path / "a.mp4"
    )
    pipe = lavcap_core.load(toy_spec)
    caption = pipe.caption(path)
    assert str(caption) == caption.text == "loud 4 x 0.12, bright 4 x 0.99"
    assert caption.clip == str(path)
    assert [c.text for c in pipe.caption([path, str(path)])] == [caption.text] * 2
    encoder = lavcap_core.build("audio_encoder", "loudness", width=3)
    assert encoder(collate([torch.ones(2)])).data.shape == (1, 2, 3)
    assert lavcap_core.check(toy_spec).parts["fuser"].name == "join"
    with pytest.raises(AttributeError):
        _ = lavcap_core.nothing


def test_weights_that_do_not_fit_or_are_not_there(toy, tmp_path):
    from safetensors.torch import save_file

    save_file({"decoder.x": torch.ones(1)}, tmp_path / "w.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name, code in (("w", "W030"), ("text", "W001"), ("gone", "W001")):
        spec = read_text(TOY_SPEC + f"weights: {name}.safetensors\n", folder=tmp_path)
        with pytest.raises(WeightsError) as caught:
            load(spec)
        assert caught.value.code == code
        assert caught.value.problems[0].file.endswith(f"{name}.safetensors")


def test_device_that_is_not_there(toy):
    with pytest.raises(BuildError, match="B002"):
        load(read_text(TOY_SPEC), []) and load(read_text(TOY_SPEC + "backend: {use: torch, device: xyz}\n"))


def test_factory_whose_library_is_missing(toy):
    toy.add(
        "lavcap-heavy",
        {"lavcap.fuser": {"heavy": "lavcap_heavy.plugin:heavy"}},
        {
            "lavcap_heavy/__init__.py": "",
            "lavcap_heavy/plugin.py": "from lavcap_core.component import Component, Config\n"
            "class C(Config): pass\n"
            "heavy = Component('fuser', 'heavy', C, 'lavcap_heavy.parts:build', 's')\n",
            "lavcap_heavy/parts.py": "import not_installed_at_all\n",
        },
    )
    with pytest.raises(BuildError, match="pip install not_installed_at_all") as caught:
        lavcap_core.build("fuser", "heavy")
    assert caught.value.code == "B001"


def test_requirement_that_is_not_met_is_named_before_the_import(toy):
    plugin = (
        "from lavcap_core.component import Component, Config\n"
        "class C(Config): pass\n"
        "old = Component('fuser', 'old', C, 'lavcap_old:build', 's')\n"
    )
    points = {"lavcap.fuser": {"old": "lavcap_old.plugin:old"}}
    files = {"lavcap_old/__init__.py": "", "lavcap_old/plugin.py": plugin}
    toy.add("lavcap-old", points, files, requires=["numpy<1"])
    with pytest.raises(BuildError, match="it needs numpy<1"):
        lavcap_core.build("fuser", "old")


def test_filled_spec_is_json(pipeline):
    assert json.loads(json.dumps(pipeline.spec.filled()))["backend"]["use"] == "torch"
