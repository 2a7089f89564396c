import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lavcap_ced.encoder import TARGETS, CedEncoder, build
from lavcap_ced.model import Ced, Geometry
from lavcap_ced.plugin import CedConfig
from lavcap_core.component import Port
from lavcap_core.data import AUDIO, Padded, collate
from lavcap_core.interfaces import AudioEncoder
from lavcap_core.media import Clip
from lavcap_core.tuning import apply_tune


@dataclass
class FakeContext:
    inputs: dict[str, Port] = field(default_factory=dict)

    def build(self, use, inputs=None):
        raise AssertionError("CED holds no component")

    def locate(self, model):
        return model


def encoder(columns=63, **settings):
    """An encoder of a small network."""
    config = CedConfig.model_validate({"size": "tiny"} | settings)
    model = Ced(Geometry(32, 2, depth=2, columns=columns)).randomise(2)
    with torch.no_grad():
        model.time_pos_embed.normal_(generator=torch.Generator().manual_seed(1))
    apply_tune(model, config.tune, TARGETS)
    return CedEncoder(model, config).eval()


def clip(seconds, seed=0):
    samples = round(seconds * 16000)
    noise = np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)
    return Clip(None, noise, None, seconds=seconds)


def encode(ced, *clips):
    with torch.no_grad():
        return ced(collate([ced.prepare(one) for one in clips]))


def test_is_an_audio_encoder():
    assert isinstance(encoder(), AudioEncoder)


@pytest.mark.parametrize(
    ("front_end", "pool", "tokens"),
    [("native", "frequency", 62), ("native", "none", 248), ("kaldi", "frequency", 64), ("kaldi", "none", 256)],
)
def test_token_counts_of_ten_seconds(front_end, pool, tokens):
    ced = encoder(front_end=front_end, pool=pool)
    out = encode(ced, clip(10))
    assert out.data.shape == (1, tokens, ced.width) == (1, tokens, 32)
    assert (out.modality == AUDIO).all()


@pytest.mark.parametrize(("pool", "tokens"), [("frequency", 63), ("none", 252)])
def test_token_counts_of_the_longest_window(pool, tokens):
    ced = encoder(pool=pool)
    features = ced.prepare(clip(ced.window))
    assert features.shape == (1012, 64)
    out = encode(ced, clip(ced.window))
    assert out.data.shape[1] == tokens
    assert out.mask.all()


def test_pooling_is_the_mean_of_the_four_rows():
    rows, mean = encode(encoder(pool="none"), clip(3)), encode(encoder(), clip(3))
    torch.testing.assert_close(rows.data.unflatten(1, (4, -1)).mean(1), mean.data)
    assert torch.equal(rows.times.unflatten(1, (4, -1)), mean.times[:, None].expand(-1, 4, -1))


@pytest.mark.parametrize(("front_end", "first"), [("native", 0.075), ("kaldi", 0.0875)])
def test_times_are_the_middle_of_a_patch(front_end, first):
    times = encode(encoder(front_end=front_end), clip(2)).times[0]
    assert times[:3].tolist() == pytest.approx([first, first + 0.16, first + 0.32])


def test_a_sound_shows_at_its_time():
    ced = encoder()
    quiet = clip(6)
    loud = quiet.waveform.copy()
    loud[16000 * 3 : 16000 * 3 + 1600] *= 50
    changed = (ced.prepare(Clip(None, loud, None)) - ced.prepare(quiet)).abs().mean(1)
    times = encode(ced, quiet).times[0]
    most = changed[: 16 * len(times)].unflatten(0, (-1, 16)).mean(1).argmax()
    assert abs(times[most] - 3.05) < 0.1


@pytest.mark.parametrize("front_end", ["native", "kaldi"])
@pytest.mark.parametrize("pool", ["frequency", "none"])
def test_padding_changes_nothing(front_end, pool):
    ced = encoder(front_end=front_end, pool=pool)
    clips = [clip(seconds, seed) for seed, seconds in enumerate((4.0, 0.3, 7.77, 0.004))]
    together = encode(ced, *clips)
    for row, one in enumerate(clips):
        alone = encode(ced, one)
        assert alone.mask.any()
        kept = together.mask[row]
        assert kept.sum() == alone.mask.sum()
        torch.testing.assert_close(together.data[row, kept], alone.data[0, alone.mask[0]], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.times[row, kept], alone.times[0, alone.mask[0]])
        assert (together.data[row, ~kept] == 0).all()


def test_what_lies_in_padding_changes_nothing():
    ced = encoder(front_end="kaldi")
    batch = collate([ced.prepare(clip(2)), ced.prepare(clip(3))])
    dirty = torch.where(batch.mask[:, :, None], batch.data, torch.nan)
    with torch.no_grad():
        assert torch.equal(ced(batch).data, ced(Padded(dirty, batch.lengths)).data)


def test_clips_without_sound():
    ced = encoder()
    out = encode(ced, clip(0), clip(1))
    assert out.mask.sum(1).tolist() == [0, 6]
    assert (out.data[0] == 0).all()
    empty = encode(ced, clip(0))
    assert empty.data.shape[0] == 1
    assert not empty.mask.any()
    assert empty.data.isfinite().all()


@pytest.mark.parametrize("front_end", ["native", "kaldi"])
@pytest.mark.parametrize("samples", [1, 300, 2000])
def test_a_clip_too_short_for_a_patch_gives_one_token(front_end, samples):
    out = encode(encoder(front_end=front_end), clip(samples / 16000))
    assert out.mask.sum() == 1
    assert out.mask[0, 0]
    assert out.data.isfinite().all()


def test_prepare_wants_a_waveform():
    with pytest.raises(ValueError, match="waveform"):
        encoder().prepare(Clip(None, None, None))


def test_long_sound_is_encoded_in_parts():
    ced = encoder(pool="none")
    features = ced.prepare(clip(24))
    assert len(features) == 2401  # 1012 + 1012 + 377
    with torch.no_grad():
        whole = ced(collate([features]))
        parts = [ced(collate([part])) for part in features.split(1012)]
    assert whole.data.shape[1] == 4 * (63 + 63 + 23)
    torch.testing.assert_close(whole.data, torch.cat([part.data for part in parts], 1), atol=1e-5, rtol=0)
    starts = torch.cat([part.times + 10.12 * number for number, part in enumerate(parts)], 1)
    torch.testing.assert_close(whole.times, starts)
    assert whole.mask.all()


def test_long_and_short_sounds_in_one_batch():
    ced = encoder()
    out = encode(ced, clip(12, 1), clip(2, 2))
    assert out.mask.sum(1).tolist() == [63 + 11, 12]
    torch.testing.assert_close(out.data[1, :12], encode(ced, clip(2, 2)).data[0], atol=1e-5, rtol=0)
    assert (out.times[0].diff() > 0).all()


def test_a_rest_shorter_than_a_patch_is_left_out():
    assert encode(encoder(), clip(10.2)).data.shape[1] == 63


def test_kaldi_pads_to_1024_frames_and_masks_the_padding():
    out = encode(encoder(front_end="kaldi"), clip(10))
    assert out.mask[0].tolist() == [True] * 62 + [False] * 2


def test_kaldi_padding_as_tokens():
    ced = encoder(front_end="kaldi", padding="token")
    features = ced.prepare(clip(5))
    padded = torch.full((1024, 64), 4.346 / 4.332)
    padded[: len(features)] = features
    with torch.no_grad():
        out = encode(ced, clip(5), clip(0))
        rows, _ = ced.model(padded[None], torch.ones(1, 1024, dtype=torch.bool))
    assert out.mask.sum(1).tolist() == [64, 0]
    torch.testing.assert_close(out.data[0], rows[0].unflatten(0, (4, 64)).mean(0), atol=1e-5, rtol=0)


def test_kaldi_positions_are_interpolated():
    interpolated = encoder(front_end="kaldi")
    stored = encoder(front_end="kaldi", columns=64)
    state = interpolated.model.state_dict()
    state["time_pos_embed"] = interpolated.model._time_positions(64).detach()
    stored.model.load_state_dict(state)
    assert torch.equal(encode(interpolated, clip(10)).data, encode(stored, clip(10)).data)


@pytest.mark.parametrize("mode", ["freeze", "lora", "finetune"])
def test_tuning(mode):
    ced = encoder(tune={"mode": mode, "rank": 2})
    pipeline = nn.ModuleList([ced]).train()
    statistics = ced.model.init_bn.running_mean.clone()
    out = ced(collate([ced.prepare(clip(1))]))
    assert torch.equal(ced.model.init_bn.running_mean, statistics) == (mode != "finetune")
    assert ced.model.init_bn.training == (mode == "finetune")
    trained = {name for name, parameter in pipeline.named_parameters() if parameter.requires_grad}
    if mode == "freeze":
        assert not trained
        assert not out.data.requires_grad
        return
    out.data.square().sum().backward()
    if mode == "finetune":
        assert len(trained) == len(list(pipeline.parameters()))
        return
    assert len(trained) == 2 * 2 * 2  # blocks, q and v, A and B
    assert all(".q_proj.lora_" in name or ".v_proj.lora_" in name for name in trained)
    assert isinstance(ced.model.blocks[0].attn.k_proj, nn.Linear)
    assert any(isinstance(part, nn.Dropout) and part.training for part in ced.modules())
    gradients = [p.grad for n, p in pipeline.named_parameters() if "lora_B" in n]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_lora_starts_where_the_frozen_network_is():
    assert torch.equal(
        encode(encoder(tune={"mode": "lora"}), clip(2)).data, encode(encoder(tune={"mode": "freeze"}), clip(2)).data
    )


def test_lora_of_ced_base_has_the_papers_number_of_parameters():
    config = CedConfig.model_validate({"size": "base", "tune": {"mode": "lora", "rank": 8, "alpha": 32}})
    with torch.device("meta"):
        model = Ced(Geometry(768, 12))
        apply_tune(model, config.tune, TARGETS)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 294_912


def test_finetune_statistics_ignore_padding_and_empty_clips():
    one, two = encoder(tune={"mode": "finetune"}).train(), encoder(tune={"mode": "finetune"}).train()
    features = one.prepare(clip(1))
    one(collate([features]))
    longer = torch.zeros(3, 400, 64)
    longer[1, : len(features)] = features
    two(Padded(longer, torch.tensor([0, len(features), 0])))
    torch.testing.assert_close(one.model.init_bn.running_var, two.model.init_bn.running_var)
    torch.testing.assert_close(one.model.init_bn.running_mean, two.model.init_bn.running_mean)


def test_masks_of_spec_augment_come_in_training_only():
    ced = encoder(spec_augment={"frequency": 32, "time": 64})
    batch = collate([ced.prepare(clip(2))])
    plain = ced(batch).data
    assert torch.equal(ced(batch).data, plain)
    ced.train()
    torch.manual_seed(0)
    assert not torch.allclose(ced(batch).data, plain)
    ced.eval()
    assert torch.equal(ced(batch).data, plain)


def test_build_draws_random_weights_of_a_size():
    made = [build(CedConfig.model_validate({"size": "tiny", "seed": seed}), FakeContext()) for seed in (1, 1, 2)]
    assert made[0].width == 192
    assert made[0].model.geometry == Geometry(192, 3, 12, 63)
    assert not made[0].training
    outs = [encode(ced, clip(1)).data for ced in made]
    assert torch.equal(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])
    assert all(out.isfinite().all() for out in outs)


def test_build_reads_what_the_context_locates(tmp_path):
    model = Ced(Geometry(64, 1, depth=1)).randomise(0)
    torch.save(model.state_dict(), tmp_path / "ced.pt")

    class Elsewhere(FakeContext):
        def locate(self, model):
            assert model == "zoo:ced"
            return str(tmp_path / "ced.pt")

    config = CedConfig.model_validate({"model": "zoo:ced", "tune": {"mode": "lora", "targets": ("q_proj",)}})
    ced = build(config, Elsewhere())
    assert ced.width == 64
    trained = [name for name, parameter in ced.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2
    assert all("q_proj" in name for name in trained)


def test_features_and_weights_may_be_on_another_device_and_in_half():
    ced = encoder().bfloat16()
    out = encode(ced, clip(1))
    assert out.data.dtype == torch.bfloat16
    assert out.times.dtype == torch.float32
    assert math.isfinite(out.data.float().sum())


def test_prepare_needs_no_model():
    ced = encoder()
    ced.model.to("meta")
    assert ced.prepare(clip(1)).shape == (101, 64)


def test_readme_specs_are_valid():
    import yaml

    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    blocks = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    assert blocks
    for block in blocks:
        spec = yaml.safe_load(block)["audio_encoder"]
        assert spec.pop("use") == "ced"
        CedConfig.model_validate(spec)


def test_readme_code_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    (block,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in block
