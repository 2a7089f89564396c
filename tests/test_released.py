"""Checkpoints of LAVCap's released code, written by code that follows their formats, become ours and give the same."""

import argparse
import contextlib
import json
import random

import pytest
import torch
from released_code import Ced, Released, save_original_ced, save_pth, save_trainer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional as F
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from lavcap_core.cli import main
from lavcap_core.data import collate
from lavcap_core.errors import LavcapError
from lavcap_core.pipeline import load
from lavcap_core.run.released import files
from lavcap_core.run.released.ced import apart
from lavcap_core.testing.clips import tone, write_clip
from lavcap_core.tuning import load_trained, trained_state

CAPTIONS = ["A dog barks", "Rain falls on a roof and a man speaks"]
SILENCE = 4.346 / 4.332


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """What a user has: CLIP, Llama and CED, two clips."""
    folder = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=16, projection_dim=128)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "clip")
    words = tokenizer()
    words.save_pretrained(folder / "llama")
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, initializer_range=0.3, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    save_original_ced(ced(), folder / "ced.pt")
    write_clip(folder / "long.mp4", 10)
    write_clip(folder / "short.mp4", 6, sound=tone(6.0, frequency=700))
    return folder


def tokenizer():
    """As Llama's: a space before every text, the marks of LAVCap's prompt no tokens of their own."""
    letters = ["▁", "\n", *map(chr, range(33, 127))]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def ced():
    torch.manual_seed(1)
    return Ced(63)


def released(home, **settings):
    made = ced()
    torch.manual_seed(2)
    return Released(made, home / "llama", tokenizer(), **settings)


@pytest.fixture(scope="module")
def model(home):
    return released(home)


def words(home, *more):
    """Arguments that put tiny models in the places of LAVCap's."""
    overrides = [
        f"audio_encoder.model={home / 'ced.pt'}",
        f"visual_encoder.model={home / 'clip'}",
        f"decoder.model={home / 'llama'}",
        "generate.max_new_tokens=12",
        *more,
    ]
    return [word for override in overrides for word in ("--set", override)]


def run(home, checkpoint, out, *more, options=()):
    return main(["import", "lavcap", str(checkpoint), "--out", str(out), *words(home, *more), *options])


@pytest.fixture(scope="module")
def given(home):
    """Features of both clips, for our pipeline and for the released model, which has ready embeddings of the frames."""
    pipe = load("lavcap-released", words(home)[1::2])
    prepared = [pipe.read(home / name) for name in ("long.mp4", "short.mp4")]
    audio, visual = collate([p.audio[0] for p in prepared]), collate([p.visual[0] for p in prepared])
    features = torch.full((2, 1024, 64), SILENCE)
    for row, item in zip(features, prepared, strict=True):
        row[: len(item.audio[0])] = item.audio[0]
    with torch.no_grad():
        pictures = pipe.recipe.visual_encoder(visual).data
    return (audio, visual, torch.tensor([10.0, 6.0])), (features, pictures)


@torch.no_grad()
def ours(pipe, given):
    return pipe.recipe.loss(*pipe.recipe.encode(*given[0]), CAPTIONS).total.item()


@torch.no_grad()
def theirs(model, given, pad=False):
    return model.loss(*given[1], CAPTIONS, pad).item()


def written(pipe, given, monkeypatch):
    """Ids that our pipeline writes, up to the end token."""
    found, text = [], pipe.recipe.decoder.text

    def decode(ids, ends):
        found.extend(ids.tolist())
        return [""] * len(ids)

    monkeypatch.setattr(text, "decode", decode)
    pipe.recipe.generate(*pipe.recipe.encode(*given[0]), pipe.options())
    end = text.tokenizer.eos_token_id
    return [row[: row.index(end)] if end in row else row for row in found]


def save(model, place, kind):
    return save_pth(model, place.with_suffix(".pth")) if kind == "pth" else save_trainer(model, place, kind)


def require_same(model, given, out, monkeypatch):
    pipe = load(out / "spec.yaml")
    assert ours(pipe, given) == pytest.approx(theirs(model, given), rel=3e-6)
    ids = model.generate(*given[1], beams=4, length=12, pad=False)
    assert all(ids)
    assert written(pipe, given, monkeypatch) == ids
    return pipe


@pytest.mark.parametrize("kind", ["pth", "safetensors", "bin", "shards"])
def test_same_loss_and_tokens(home, model, given, tmp_path, monkeypatch, kind):
    checkpoint = save(model, tmp_path / "checkpoint", kind)
    assert run(home, checkpoint, tmp_path / "out") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.name, "out"]
    pipe = require_same(model, given, tmp_path / "out", monkeypatch)
    # [PAD], which ours can't write, has a share of the released model's probability, and no part in what it writes.
    assert theirs(model, given, pad=True) > ours(pipe, given)
    assert model.generate(*given[1], beams=4, length=12, pad=True) == model.generate(*given[1], 4, 12, False)


def test_same_in_double_precision(home, given, tmp_path, monkeypatch):
    model = released(home)
    # The whole state holds the positions as they were interpolated in float32.
    run(home, save(model, tmp_path / "c", "safetensors"), tmp_path / "out")
    pipe = load(tmp_path / "out" / "spec.yaml")
    pipe.recipe.double()
    model.double()
    norm = pipe.recipe.audio_encoder.model.init_bn  # which always computes in float32

    def widened(x, mask):
        values = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return F.batch_norm(x.double().transpose(1, 2), *values, eps=norm.eps).transpose(1, 2)

    monkeypatch.setattr(norm, "forward", widened)
    audio, visual, seconds = given[0]
    with torch.no_grad():
        sounds, pictures = pipe.recipe.encode(audio, visual, seconds)
        tokens, aligned = pipe.recipe.fuse(sounds, pictures)
        inputs = (given[1][0].double(), pictures.data.double())
        expected, losses = model.fuse(*inputs)
    torch.testing.assert_close(tokens.data, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(aligned.alignment.loss, losses, rtol=1e-11, atol=0)
    # The language model's norms and the cross-entropy are always computed in float32.
    assert ours(pipe, given) == pytest.approx(theirs(model, (None, inputs)), rel=3e-7)


def test_every_part_has_a_say_in_what_is_compared(home, model, given, tmp_path):
    run(home, save(model, tmp_path / "c", "pth"), tmp_path / "out")
    pipe = load(tmp_path / "out" / "spec.yaml")
    whole, right = trained_state(pipe.recipe), ours(pipe, given)
    for text in ("audio_encoder", "decoder.model", "projector.weight", "projector.bias", "aligner.loss.scale"):
        load_trained(pipe.recipe, {name: value * (text not in name) for name, value in whole.items()})
        assert abs(ours(pipe, given) / right - 1) > 1e-4, text


STRATEGIES = [
    (audio, decoder, "pth")
    for audio in ("finetune", "lora", "freeze")
    for decoder in ("lora", "freeze", "finetune")
    if (audio, decoder) != ("lora", "lora")
]
STRATEGIES += [("finetune", "lora", "safetensors"), ("freeze", "freeze", "safetensors"), ("lora", "finetune", "bin")]


@pytest.mark.parametrize(("audio", "decoder", "kind"), STRATEGIES)
def test_every_strategy(home, given, tmp_path, monkeypatch, audio, decoder, kind):
    model = released(home, audio=audio, decoder=decoder)
    modes = [f"audio_encoder.tune.mode={audio}", f"decoder.tune.mode={decoder}"]
    assert run(home, save(model, tmp_path / "c", kind), tmp_path / "out", *modes) == 0
    pipe = require_same(model, given, tmp_path / "out", monkeypatch)
    assert load_file(tmp_path / "out" / "trained.safetensors").keys() == trained_state(pipe.recipe).keys()


def test_lora_is_named_as_peft_names_it(home):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], bias="none")
    by_peft = get_peft_model(Ced(64), config).state_dict()
    ours = released(home).audio_encoder.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {n: value.shape for n, value in by_peft.items()}


def test_statistics_of_batchnorm_matter_and_are_kept_with_ced(home, model, given, tmp_path):
    """They follow the released training where CED is frozen; a pipeline with CED's own gives another loss."""
    run(home, save(model, tmp_path / "c", "pth"), tmp_path / "out")
    pipe = load(tmp_path / "out" / "spec.yaml")
    right = ours(pipe, given)
    text = (tmp_path / "out" / "spec.yaml").read_text().replace('"./ced"', json.dumps(str(home / "ced.pt")))
    (tmp_path / "out" / "other.yaml").write_text(text)
    assert abs(ours(load(tmp_path / "out" / "other.yaml"), given) - right) > 0.001 * right
    assert pipe.recipe.audio_encoder.model.init_bn.num_batches_tracked == 1000


def test_statistics_that_did_not_change_leave_the_spec_its_ced(home, tmp_path, capsys):
    model = released(home)
    model.ced[0].init_bn.load_state_dict(ced().init_bn.state_dict())
    assert run(home, save(model, tmp_path / "c", "pth"), tmp_path / "out") == 0
    assert not (tmp_path / "out" / "ced").exists()
    held = torch.load(tmp_path / "c.pth", weights_only=True)
    state = {name: value for name, value in held["model"].items() if "init_bn" not in name}
    torch.save({"model": state}, tmp_path / "bare.pth")
    capsys.readouterr()
    assert run(home, tmp_path / "bare.pth", tmp_path / "bare") == 0
    assert "no BatchNorm statistics in it" in capsys.readouterr().out
    same = [load_file(tmp_path / name / "trained.safetensors") for name in ("out", "bare")]
    assert same[0].keys() == same[1].keys()
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])


def test_statistics_need_ced(home, model, tmp_path, capsys):
    checkpoint = save(model, tmp_path / "c", "pth")
    assert run(home, checkpoint, tmp_path / "out", f"audio_encoder.model={tmp_path / 'nothing.pt'}") == 2
    assert f"{checkpoint}: W049 " in capsys.readouterr().err
    # A whole module state has its own.
    whole = save(model, tmp_path / "whole", "safetensors")
    assert run(home, whole, tmp_path / "out", f"audio_encoder.model={tmp_path / 'nothing.pt'}") == 0


def test_imported_pipeline_captions_at_once(home, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(model, tmp_path / "checkpoint-100", "safetensors")
    assert main(["import", "lavcap", "checkpoint-100", *words(home)]) == 0
    assert "checkpoint-100-imported: ced/, spec.yaml, trained.safetensors" in capsys.readouterr().out
    assert main(["caption", "--spec", "checkpoint-100-imported/spec.yaml", str(home / "short.mp4")]) == 0
    assert capsys.readouterr().out.strip()


def test_check_builds_and_compares(home, model, tmp_path, capsys):
    whole = save(model, tmp_path / "whole", "safetensors")
    assert run(home, whole, tmp_path / "out", options=["--check"]) == 0
    said = capsys.readouterr().out
    assert "note: the pipeline was built with its models, and takes the weights" in said
    assert f"note: its CED is {home / 'ced.pt'}\n" in said
    held = load_file(whole / "model.safetensors")
    held["llama_decoder.base_model.model.model.layers.1.mlp.up_proj.weight"] *= 1.02
    held["audio_encoder.base_model.model.norm.weight"] *= 1.02
    save_file(held, tmp_path / "other.safetensors")
    assert run(home, tmp_path / "other.safetensors", tmp_path / "other") == 0
    capsys.readouterr()
    assert run(home, tmp_path / "other.safetensors", tmp_path / "checked", options=["--check"]) == 2
    said = capsys.readouterr().err
    assert "W046 its language model is not the spec's decoder.model: 1 of 21 tensors differ" in said
    assert not (tmp_path / "checked").exists()
    held["llama_decoder.base_model.model.model.layers.1.mlp.up_proj.weight"] /= 1.02
    save_file(held, tmp_path / "other.safetensors")
    assert run(home, tmp_path / "other.safetensors", tmp_path / "checked", options=["--check"]) == 0
    assert "its CED is not" in capsys.readouterr().out


def full_size():
    """Names and shapes of what is trained of LAVCap at its full size, without buffers."""
    shapes = {"speech_llama_proj.weight": (4096, 768), "speech_llama_proj.bias": (4096,), "logit_scale": ()}
    places = [(f"audio_encoder.base_model.model.blocks.{i}.attn", 768) for i in range(12)]
    places += [(f"llama_decoder.base_model.model.model.layers.{i}.self_attn", 4096) for i in range(32)]
    for place, width in places:
        for layer in ("q_proj", "v_proj"):
            shapes[f"{place}.{layer}.lora_A.default.weight"] = (8, width)
            shapes[f"{place}.{layer}.lora_B.default.weight"] = (width, 8)
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_full_size_is_checked_without_any_model(tmp_path, capsys):
    state = full_size()
    torch.save({"model": state}, tmp_path / "c.pth")
    assert main(["import", "lavcap", str(tmp_path / "c.pth"), "--out", str(tmp_path / "out")]) == 0
    rows = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:5])
    assert rows == {
        "CED LoRA": "294,912",
        "Llama LoRA": "4,194,304",
        "projector": "3,149,824",
        "scale of the OT loss": "1",
        "trained parameters": "7,639,041",
    }
    state["llama_decoder.base_model.model.model.layers.31.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(8, 100)
    torch.save({"model": state}, tmp_path / "d.pth")
    assert main(["import", "lavcap", str(tmp_path / "d.pth"), "--out", str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert "W045" in said
    assert "layers.31.self_attn.q_proj.lora_A.default.weight [8, 100] instead of [8, 4096]" in said


def refused(home, checkpoint, out, capsys, *more, options=()):
    """What is said of a checkpoint that can't be imported; nothing is left behind."""
    capsys.readouterr()
    assert run(home, checkpoint, out, *more, options=options) == 2
    assert not list(out.parent.glob("*out*"))
    return capsys.readouterr().err


def changed(model, path, change):
    """A .pth file with a changed state."""
    state = dict(model.trained_state())
    change(state)
    torch.save({"model": state}, path)
    return path


LORA = "audio_encoder.base_model.model.blocks.1.attn.v_proj.lora_{}.default.weight"
CHANGES = {
    "half of LoRA": (lambda s: s.pop(LORA.format("B")), "W045 CED LoRA isn't whole: attn.v_proj.lora_B of layer 1"),
    "no projector": (lambda s: s.pop("speech_llama_proj.bias"), "missing: decoder.projector.bias"),
    "no scale": (lambda s: s.pop("logit_scale"), "missing: aligner.loss.scale"),
    "shape": (
        lambda s: s.update({LORA.format("B"): torch.zeros(7, 8)}),
        "lora_B.default.weight [7, 8] instead of [128, 8]",
    ),
    "unknown": (lambda s: s.update(qformer=torch.zeros(1)), "W043 tensors without a place in the pipeline: qformer"),
    "twice": (
        lambda s: s.update({"audio_encoder.init_bn.1.running_var": torch.ones(64)}),
        "(a second audio_encoder.model",
    ),
    "not finite": (lambda s: s["speech_llama_proj.bias"].mul_(torch.nan), "W048 decoder.projector.bias holds values"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_does_not_fit_is_said(home, tmp_path, capsys, case):
    change, said = CHANGES[case]
    checkpoint = changed(released(home), tmp_path / "c.pth", change)
    error = refused(home, checkpoint, tmp_path / "out", capsys)
    assert error.startswith(f"{checkpoint}: W04")
    assert said in error


def test_unknown_tensors_can_be_left_out(home, model, tmp_path, capsys):
    checkpoint = changed(model, tmp_path / "c.pth", lambda s: s.update(qformer=torch.zeros(1)))
    assert run(home, checkpoint, tmp_path / "out", options=["--ignore-unknown"]) == 0
    assert "left out: qformer (no place in the pipeline)" in capsys.readouterr().out


DIFFERENT = {
    "rank": ({"rank": 4}, [], "rank 4, the spec's 8", "audio_encoder.tune.rank=4"),
    "targets": ({"targets": ("q_proj", "k_proj")}, [], "on k_proj and q_proj, ", "tune.targets=[k_proj,q_proj]"),
    "finetuned": ({"audio": "finetune"}, [], "says finetune, the spec says lora", "audio_encoder.tune.mode=finetune"),
    "frozen": ({"decoder": "freeze"}, [], "Llama says freeze, the spec says lora", "decoder.tune.mode=freeze"),
    "adapted": ({}, ["decoder.tune.mode=freeze"], "Llama says lora, the spec says freeze", "decoder.tune.mode=lora"),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENT)
def test_another_strategy_than_the_specs_is_said(home, tmp_path, capsys, case):
    settings, more, said, help = DIFFERENT[case]
    error = refused(home, save(released(home, **settings), tmp_path / "c", "pth"), tmp_path / "out", capsys, *more)
    assert "W044" in error
    assert said in error
    assert help in error


def test_rank_of_the_checkpoint_in_the_spec(home, given, tmp_path, monkeypatch):
    model = released(home, rank=4)
    # alpha / rank scales the update: the file tells the rank only.
    ranks = ["audio_encoder.tune.rank=4", "decoder.tune.rank=4"]
    assert run(home, save(model, tmp_path / "c", "pth"), tmp_path / "out", *ranks) == 0
    require_same(model, given, tmp_path / "out", monkeypatch)


def test_a_whole_state_does_not_tell_what_was_trained(home, tmp_path, capsys):
    whole = save(released(home, audio="finetune", decoder="freeze"), tmp_path / "c", "safetensors")
    assert "CED says finetune or freeze, the spec says lora" in refused(home, whole, tmp_path / "out", capsys)


def test_spec_of_other_parts(home, model, tmp_path, capsys):
    checkpoint = save(model, tmp_path / "c", "pth")
    capsys.readouterr()
    assert main(["import", "lavcap", str(checkpoint), "--preset", "starter"]) == 2
    said = capsys.readouterr().err
    assert "C041 audio_encoder: the spec has yamnet here, and the checkpoint is one of CED" in said
    error = refused(home, checkpoint, tmp_path / "out", capsys, "fuser=cross_attention", "fuser.heads=4")
    assert "W045" in error
    assert "missing: fuser." in error
    error = refused(
        home, checkpoint, tmp_path / "out", capsys, "aligner.loss.learnable=false", "aligner.loss.clamp=null"
    )
    assert "W043 tensors without a place in the pipeline: logit_scale (the spec's OT loss learns no scale)" in error


def test_another_language_model(home, tmp_path, capsys, model):
    whole = save(model, tmp_path / "c", "safetensors")
    state = load_file(whole / "model.safetensors")
    name = "llama_decoder.base_model.model.model.embed_tokens.weight"
    state[name] = torch.cat([state[name], state[name][:1]])
    save_file(state, whole / "model.safetensors")
    error = refused(home, whole, tmp_path / "out", capsys)
    assert (
        "W046 its language model is not the spec's decoder.model: 1 of 21 tensors differ, decoder.model.model.emb"
        in error
    )


def test_ced_that_is_not_whole(home, tmp_path, capsys, model):
    whole = save(model, tmp_path / "c", "safetensors")
    state = load_file(whole / "model.safetensors")
    del state["audio_encoder.base_model.model.blocks.1.mlp.fc1.bias"]
    save_file(state, whole / "model.safetensors")
    assert f"{whole}: W063 missing keys: blocks.1.mlp.fc1.bias" in refused(home, whole, tmp_path / "out", capsys)


def test_model_of_unknown_size(home, model, tmp_path, capsys):
    checkpoint = save(model, tmp_path / "c", "pth")
    assert run(home, checkpoint, tmp_path / "out", "decoder.model=somebody/llama") == 0
    assert "note: shapes were not compared with the models': the size of somebody/llama" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "ced" / "config.json").read_text()) == {"embed_dim": 128}


def test_what_cannot_be_written_is_said_in_a_line(home, model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(home, save(model, tmp_path / "c", "pth"), tmp_path / "file" / "out") == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'file' / 'out'}: C042 can't be written: Not a directory")


def test_what_is_not_a_number_is_apart():
    assert apart(torch.full((3,), float("nan")), torch.ones(3))
    assert not apart(torch.ones(3), torch.ones(3))


def test_nothing_is_overwritten(home, model, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert run(home, save(model, tmp_path / "c", "pth"), tmp_path / "there") == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'there'}: C040 is there already\n")
    assert list((tmp_path / "there").iterdir()) == []


class Settings:
    pass


def test_objects_are_not_read_but_plain_settings_are(home, model, tmp_path, capsys):
    namespace = argparse.Namespace(lr=5e-6, data={"path": "x"})
    assert run(home, save_pth(model, tmp_path / "c.pth", namespace), tmp_path / "fine") == 0
    error = refused(home, save_pth(model, tmp_path / "d.pth", Settings()), tmp_path / "out", capsys)
    assert error.startswith(f"{tmp_path / 'd.pth'}: W041 holds an object of ")
    assert "test_released.Settings beside its tensors" in error


def damaged(model, folder, case):
    """A checkpoint that can't be read, or none at all."""
    folder.mkdir()
    shards = save_trainer(model, folder / "shards", "shards")
    index = shards / "model.safetensors.index.json"
    if case == "no file":
        return folder / "nothing.pth"
    if case in ("cut .pth", "cut model.safetensors"):
        file = folder / case.removeprefix("cut ")
        save_pth(model, file) if file.suffix == ".pth" else save_file(model.trained_state(), file)
        file.write_bytes(file.read_bytes()[:-5000])
        return file
    if case == "text":
        (folder / "c.pth").write_text("no checkpoint")
        return folder / "c.pth"
    if case == "shard missing":
        (shards / "model-00002-of-00002.safetensors").unlink()
    elif case == "shard elsewhere":
        index.write_text(json.dumps({"weight_map": {"logit_scale": "../c.safetensors"}}))
        save_file({"logit_scale": torch.ones(1)}, folder / "c.safetensors")
    elif case == "tensor missing":
        held = json.loads(index.read_text())
        held["weight_map"]["more"] = "model-00001-of-00002.safetensors"
        index.write_text(json.dumps(held))
    else:
        index.write_text("[]")
    return shards


DAMAGED = [
    "no file", "cut .pth", "cut model.safetensors", "text",
    "shard missing", "shard elsewhere", "tensor missing", "index",
]  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_give_one_line(home, model, tmp_path, capsys, case):
    error = refused(home, damaged(model, tmp_path / "in", case), tmp_path / "out", capsys)
    lines = error.splitlines()
    assert ": W040 " in lines[0]
    assert all(line.startswith("   help: ") for line in lines[1:])


def test_any_damaged_byte_of_a_torch_file_gives_an_error_of_ours_or_none(tmp_path):
    state = {f"audio_encoder.blocks.{i}.attn.q_proj.weight": torch.ones(2, 2) for i in range(2)}
    generator = random.Random(0)
    for zipped in (True, False):
        file = tmp_path / "c.pth"
        torch.save({"model": state, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
        whole = file.read_bytes()
        for place in generator.sample(range(len(whole)), 100):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :])
            with contextlib.suppress(LavcapError):
                [stored.read() for stored in files.read(file).values()]


def test_what_nothing_uses_is_left_out(home, model, tmp_path, capsys):
    extra = {
        "audio_encoder.base_model.model.front_end.0.mel_scale.fb": torch.ones(3),
        "llama_decoder.base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3),
    }
    checkpoint = changed(model, tmp_path / "c.pth", lambda state: state.update(extra))
    assert run(home, checkpoint, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert all(f"left out: {name} (" in said for name in extra)


def test_foreign_files(home, model, tmp_path, capsys):
    error = refused(home, home / "ced.pt", tmp_path / "out", capsys)
    assert "W042 is no checkpoint of LAVCap's released code: it knows none of its 52 tensors, such as " in error
    torch.save([1, 2], tmp_path / "list.pth")
    assert "W042 holds no named tensors" in refused(home, tmp_path / "list.pth", tmp_path / "out", capsys)
    torch.save({"epoch": 3, "logit_scale": torch.ones(1)}, tmp_path / "number.pth")
    assert "W042 'epoch' in it is no tensor" in refused(home, tmp_path / "number.pth", tmp_path / "out", capsys)
    save(model, tmp_path / "checkpoint-100", "safetensors")
    error = refused(home, tmp_path, tmp_path / "out", capsys)
    assert "W042 this folder is no checkpoint" in error
    assert "name one of those in it: checkpoint-100" in error


def test_frozen_weights_of_the_language_model_are_not_read(home, model, tmp_path, monkeypatch):
    """They are 13 GB or more."""
    names, get = [], files._from
    monkeypatch.setattr(files, "_from", lambda opened, name: lambda: names.append(name) or get(opened, name)())
    run(home, save(model, tmp_path / "c", "safetensors"), tmp_path / "out")
    assert any("lora_A" in name for name in names)
    assert not any(name.startswith("llama_decoder") and "lora" not in name for name in names)
