"""The LAVCap pipeline of each preset, end to end at tiny size: the same code as at full size, with random weights."""

import json

import pytest
import torch
from tiny import settings, write_models

from lavcap_core.data import AUDIO, VISUAL
from lavcap_core.pipeline import load
from lavcap_core.testing.clips import tone, write_clip

PRESETS = ("lavcap", "lavcap-paper", "lavcap-released")
FUSERS = ("ot_att", "concat", "channel_concat", "cross_attention", "joint", "qformer", "audio_only", "visual_only")


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "both.mp4", 10)
    write_clip(folder / "deaf.mp4", 3, audio=None)
    write_clip(folder / "blind.wav", 4, video=None, audio="pcm_s16le", sound=tone(4.0))
    write_clip(folder / "long.mp4", 25)
    return folder


@pytest.fixture(scope="module")
def pipelines(models_folder):
    return {preset: load(preset, settings(models_folder)) for preset in PRESETS}


@pytest.mark.parametrize("preset", PRESETS)
def test_captions_of_a_batch_equal_those_one_by_one(pipelines, clips, preset):
    pipe = pipelines[preset]
    prepared = [pipe.read(path) for path in sorted(clips.iterdir())]
    together = pipe.caption_prepared(prepared)
    assert [c.text for c in together] == [pipe.caption_prepared([one])[0].text for one in prepared]
    both = next(c for c in together if c.clip.endswith("both.mp4"))
    assert both.alignment.plan.shape == (1, 64 if preset == "lavcap-released" else 62, 20)
    assert both.alignment.plan.sum().item() == pytest.approx(1, abs=1e-5)
    assert both.alignment.marginal_error.item() < 1e-3
    blind = next(c for c in together if c.clip.endswith("blind.wav"))
    assert blind.alignment.plan.numel() == 0 or not blind.alignment.plan.any()


@pytest.mark.parametrize(("preset", "count"), [("lavcap", 82), ("lavcap-paper", 82), ("lavcap-released", 84)])
def test_fused_tokens_are_as_many_as_in_the_paper(pipelines, clips, preset, count):
    pipe = pipelines[preset]
    tokens = pipe.encode([pipe.read(clips / "both.mp4")]).tokens
    assert int(tokens.mask.sum()) == count
    assert tokens.modality[0].tolist() == [AUDIO] * (count - 20) + [VISUAL] * 20


def encoded(pipe, clips):
    from lavcap_core.data import collate

    prepared = [pipe.read(clips / name) for name in ("both.mp4", "deaf.mp4", "blind.wav")]
    audio = collate([item.audio[0] for item in prepared])
    visual = collate([item.visual[0] for item in prepared])
    return pipe.recipe.encode(audio, visual, torch.tensor([10.0, 3.0, 4.0]))


@pytest.mark.parametrize("preset", PRESETS)
def test_loss_trains_what_the_preset_says_and_nothing_else(models_folder, clips, preset):
    pipe = load(preset, settings(models_folder))
    recipe = pipe.recipe.train()
    losses = recipe.loss(*encoded(pipe, clips), ["A dog barks", "A tone", "A beep sounds"])
    assert torch.isfinite(losses.total)
    assert losses.total.item() == pytest.approx(losses.caption.item() + losses.alignment.item(), rel=1e-6)
    losses.total.backward()
    trained = {name for name, p in recipe.named_parameters() if p.requires_grad}
    reached = {name for name, p in recipe.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    # B starts at 0, so the gradient of A is 0 in the first step.
    assert reached == {name for name in trained if "lora_A" not in name}
    kinds = {name.split(".")[0] for name in trained}
    assert kinds == {"audio_encoder", "decoder"} | ({"aligner"} if preset == "lavcap-released" else set())
    assert not any("k_proj" in name for name in trained)
    assert not recipe.visual_encoder.model.training


@pytest.mark.parametrize("fuser", FUSERS)
def test_every_fuser_in_the_place_of_ot_att(models_folder, clips, fuser):
    overrides = [*settings(models_folder), f"fuser={fuser}", "windows.merge=tokens"]
    if fuser in ("cross_attention", "joint", "qformer"):
        overrides += [f"fuser={{use: {fuser}, heads: 4}}"]
    pipe = load("lavcap", overrides)
    names = {"audio_only": ["both.mp4", "blind.wav"], "visual_only": ["both.mp4", "deaf.mp4"]}
    captions = pipe.caption([clips / name for name in names.get(fuser, ["both.mp4", "deaf.mp4", "blind.wav"])])
    assert all(isinstance(caption.text, str) for caption in captions)
    tokens = pipe.encode([pipe.read(clips / "both.mp4")]).tokens
    counts = {"cross_attention": 62, "channel_concat": 62, "audio_only": 62, "visual_only": 20, "qformer": 30}
    assert int(tokens.mask.sum()) == counts.get(fuser, 82)


def test_through_the_command(site, models_folder, clips, tmp_path):
    words = [word for setting in settings(models_folder) for word in ("--set", setting)]
    out = tmp_path / "captions.jsonl"
    done = site.run("caption", "--preset", "lavcap", *words, clips, "--out", out)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert f"{out}: 4 captions, 0 errors" in done.stderr


def test_one_modality_alone_is_a_pipeline(models_folder, clips):
    from lavcap_core.presets import find
    from lavcap_core.spec import read

    overrides = [*settings(models_folder)]
    deaf = [o for o in overrides if not o.startswith("audio_encoder")] + ["audio_encoder=null"]
    spec = read(find("lavcap"), deaf)
    assert spec.wiring.skipped == {"aligner": "there are no audio tokens"}
    assert load(spec).caption(clips / "deaf.mp4").alignment is None
    blind = [o for o in overrides if not o.startswith("visual_encoder")] + ["visual_encoder=null"]
    assert isinstance(load("lavcap", blind).caption(clips / "blind.wav").text, str)
