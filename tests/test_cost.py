"""`lavcap show SPEC --cost`: counts at full size against formulas by hand, and at tiny size against a real step."""

import json
import socket

import numpy as np
import pytest
import torch
from tiny import settings, write_models
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lavcap_core.builder import build_recipe
from lavcap_core.cli import main
from lavcap_core.cli.show import _BYTES, _amount, cost_text
from lavcap_core.data import collate
from lavcap_core.media import Clip
from lavcap_core.pipeline import load
from lavcap_core.presets import find
from lavcap_core.run.cost import count
from lavcap_core.spec import read

TRAINED = {"lavcap": 7_639_040, "lavcap-paper": 7_639_040, "lavcap-released": 7_639_041}
CED, LLAMA, PROJECTOR = 294_912, 4_194_304, 3_149_824
RANK = 8


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def costs():
    return {preset: count(read(find(preset))) for preset in ("lavcap", "lavcap-released")}


@pytest.mark.parametrize("preset", TRAINED)
def test_parameters_at_full_size(offline, preset):
    recipe = build_recipe(read(find(preset)), skeleton=True)
    # Nothing is allocated: no tensor has more than its shape.
    assert all(tensor.is_meta for tensor in [*recipe.parameters(), *recipe.buffers()])
    trained = {name: p.numel() for name, p in recipe.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == TRAINED[preset]
    sums = {
        part: sum(size for name, size in trained.items() if name.startswith(part))
        for part in ("audio_encoder", "decoder.model", "decoder.projector", "aligner.loss.scale")
    }
    assert sums == {
        "audio_encoder": CED,
        "decoder.model": LLAMA,
        "decoder.projector": PROJECTOR,
        "aligner.loss.scale": TRAINED[preset] - 7_639_040,
    }
    assert not any(word in name for name in trained for word in ("k_proj", "o_proj", "norm", "embed"))


@pytest.mark.parametrize("preset", ["lavcap", "lavcap-released"])
def test_bytes_at_full_size(costs, preset):
    total = costs[preset].total()
    assert total.trained == TRAINED[preset]
    assert total.checkpoint == 4 * TRAINED[preset]  # 30.6 MB
    assert total.parameters == 85_304_960 + 303_966_208 + 6_738_415_616 + TRAINED[preset]
    assert total.weights["float16"] == 2 * 6_738_415_616
    encoder = costs[preset].slots["visual_encoder"]
    assert (encoder.tokens, encoder.cached, encoder.reads) == ((20, 768), 30_720, 20 * 224 * 224 * 3)
    assert costs[preset].slots["audio_encoder"].reads == 10 * 16_000 * 4


def block(tokens, width, mlp=4):
    """FLOPs of a transformer's block: four projections, the layers of its MLP, scores and their use."""
    return 2 * tokens * (4 + 2 * mlp) * width**2 + 4 * tokens**2 * width


def test_flops_of_clip_are_those_of_its_products(costs):
    patches = (224 // 14) ** 2
    frame = 2 * patches * 3 * 14**2 * 1024 + 24 * block(patches + 1, 1024) + 2 * 1024 * 768
    clip = costs["lavcap"].slots["visual_encoder"]
    assert (clip.forward, clip.backward) == (20 * frame, 0)  # frozen, and nothing before it is trained
    attention = 20 * 24 * 4 * (patches + 1) ** 2 * 1024
    assert clip.forward - attention == pytest.approx(3.1e12, rel=0.01)


@pytest.mark.parametrize(("preset", "columns"), [("lavcap", 62), ("lavcap-released", 64)])
def test_flops_of_ced_with_lora_are_those_of_its_products(costs, preset, columns):
    n, d = 4 * columns, 768
    adapter = 2 * n * d * RANK  # one of the two products of an adapter
    ced = costs[preset].slots["audio_encoder"]
    assert ced.tokens == (columns, d)
    assert ced.forward == 2 * n * 256 * d + 12 * (block(n, d) + 4 * adapter)
    # Backward, a product for what enters and one for a trained weight: attention has four, LoRA four for each of two
    # layers. What enters the first block hangs on nothing trained, so q, k and v need none there, and neither does k.
    later = 2 * n * 12 * d**2 + 8 * n**2 * d + 8 * adapter
    first = 2 * n * 9 * d**2 + 6 * n**2 * d + 6 * adapter
    assert ced.backward == 11 * later + first


@pytest.mark.parametrize(("preset", "fused"), [("lavcap", 82), ("lavcap-released", 84)])
def test_flops_of_llama_with_lora_are_those_of_its_products(costs, preset, fused):
    d, mlp, caption, prompt = 4096, 11008, 20, 17
    n = prompt + fused + caption - 1  # the end token is predicted and never read
    adapter = 2 * n * d * RANK
    linear = 2 * n * (4 * d**2 + 3 * d * mlp)
    head, projector = 2 * caption * d * 32000, 2 * fused * 768 * d
    llama = costs[preset].slots["decoder"]
    assert llama.assumes == (f"a prompt of {prompt} tokens, one for each word and mark: the tokenizer is not here",)
    assert llama.forward == 32 * (linear + 4 * n**2 * d + 4 * adapter) + head + projector
    # No frozen weight gets a gradient, but what enters does, down to the projector and through it.
    assert llama.backward == 32 * (linear + 8 * n**2 * d + 8 * adapter) + head + 2 * projector


TUNES = [
    ("lavcap", ["audio_encoder.tune.mode=lora", "decoder.tune.mode=lora"]),
    ("lavcap", ["audio_encoder.tune.mode=finetune", "decoder.tune.mode=freeze"]),
    ("lavcap", ["audio_encoder.tune.mode=freeze", "decoder.tune.mode=finetune"]),
    ("lavcap", ["visual_encoder.tune.mode=finetune", "fuser={use: cross_attention, heads: 4}"]),
    ("lavcap", ["decoder.gradient_checkpointing=true", "fuser={use: qformer, heads: 4}"]),
    ("lavcap-released", ["decoder.random_prompts=false", "fuser=channel_concat"]),
]


@pytest.mark.parametrize(("preset", "changes"), TUNES, ids=lambda value: value if isinstance(value, str) else value[0])
def test_counts_are_those_of_a_real_step(models_folder, preset, changes):
    changes = [*settings(models_folder), "aligner.method=log", *changes]
    if any(change.startswith("fuser={") for change in changes):
        changes.append("decoder.prompt=content")
    spec = read(find(preset), changes)
    cost = count(spec, caption_tokens=12)
    pipe = load(spec)
    assert cost.total().trained == sum(p.numel() for p in pipe.recipe.parameters() if p.requires_grad)
    assert cost.total().parameters == sum(p.numel() for p in pipe.recipe.parameters())
    assert cost.total().step == real_step(pipe.recipe, cost.caption_tokens)
    assert cost.slots["decoder"].assumes[0].startswith("a prompt of")
    assert "not here" not in cost.slots["decoder"].assumes[0]


def real_step(recipe, tokens):
    """FLOPs that are counted while a clip of noise and its caption really take a training step on the CPU."""
    random = np.random.default_rng(0)
    waveform = random.normal(0, 0.1, 160_000).astype(np.float32)
    size = recipe.visual_encoder.image_size
    frames = random.integers(0, 255, (20, size, size, 3), dtype=np.uint8)
    audio, visual = recipe.prepare(Clip(None, waveform, frames))
    captions = [" ".join(["a"] * words) for words in range(1, tokens + 1)]
    caption = next(text for text in captions if int(recipe.decoder.caption_tokens([text])) == tokens)
    recipe.train()
    # The kernels of a CPU for attention aren't counted; its plain products are.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoded = recipe.encode(collate([audio]), collate([visual]), torch.tensor([10.0]))
        recipe.loss(*encoded, [caption]).total.backward()
    return counter.get_total_flops()


def test_a_longer_caption_costs_more(models_folder):
    spec = read(find("lavcap"), settings(models_folder))
    short, long = (count(spec, caption_tokens=tokens) for tokens in (4, 40))
    # To this tokenizer a word more is two tokens, a space and a letter.
    assert (short.caption_tokens, long.caption_tokens) == (5, 41)
    assert short.slots["decoder"].step < long.slots["decoder"].step
    assert short.slots["audio_encoder"] == long.slots["audio_encoder"]


def test_one_modality_alone(models_folder):
    changes = [change for change in settings(models_folder) if not change.startswith("audio_encoder")]
    cost = count(read(find("lavcap"), [*changes, "audio_encoder=null"]))
    assert list(cost.slots) == ["visual_encoder", "fuser", "decoder"]
    assert cost.slots["fuser"].tokens == (20, 192)
    assert cost.total().step > 0


def test_ready_features_cost_nothing(models_folder):
    changes = [change for change in settings(models_folder) if change.startswith("decoder")]
    features = [f"{name}_encoder={{use: features, width: 192}}" for name in ("audio", "visual")]
    cost = count(read(find("lavcap"), [*changes, *features]))
    assert [cost.slots[f"{name}_encoder"].step for name in ("audio", "visual")] == [0, 0]
    assert cost.slots["fuser"].tokens == (82, 192)
    assert cost.slots["visual_encoder"].reads == 20 * 192 * 4


def test_what_is_not_known_is_said_and_the_rest_is_counted(offline, models_folder):
    changes = [*settings(models_folder), "visual_encoder.model=my-lab/my-clip"]
    cost = count(read(find("lavcap"), changes))
    codes = {slot: (part.unknown or "").partition(" ")[0] for slot, part in cost.slots.items()}
    lost = {"visual_encoder": "B050", "aligner": "B053", "fuser": "B053", "decoder": "B053"}
    assert codes == {"audio_encoder": "", **lost}
    assert cost.slots["audio_encoder"].forward > 0
    assert cost.slots["decoder"].parameters > 0  # its own size doesn't hang on what arrives
    assert cost.slots["decoder"].forward is None
    assert cost.total().step is None


def test_exact_transport_is_not_counted(models_folder):
    cost = count(read(find("lavcap"), [*settings(models_folder), "aligner=emd"]))
    assert cost.slots["aligner"].unknown.startswith("B052")
    assert cost.total().trained > 0


READER = """
from lavcap_core.component import Component, Config, ModelName, Port

class Settings(Config):
    model: ModelName = "somewhere"

def ports(config, inputs):
    return {"audio": Port("audio", 2)}

def build(config, context):
    open(context.locate(config.model))
    raise AssertionError("weights were read")

reader = Component("audio_encoder", "reader", Settings, "lavcap_reader:build", "reads weights", ports=ports)
"""


def test_a_plugin_without_skeletons_reads_no_weights_either(toy, toy_spec):
    toy.add("lavcap-reader", {"lavcap.audio_encoder": {"reader": "lavcap_reader:reader"}}, {"lavcap_reader.py": READER})
    cost = count(read(toy_spec, ["audio_encoder={use: reader}"]))
    assert cost.slots["audio_encoder"].unknown == "B051 it can't be built without reading its weights"
    # The toy makes tensors on the CPU wherever its input lies, which no other device forgives.
    assert cost.slots["visual_encoder"].unknown.startswith("RuntimeError: ")
    assert cost.slots["fuser"].unknown.startswith("B053")
    assert cost.slots["fuser"].parameters == 0


def test_text(costs):
    lines = cost_text(costs["lavcap-released"]).splitlines()
    assert lines[0] == "a training step of one clip of 10 s with a caption of 20 tokens"
    total = next(line for line in lines if line.startswith("total"))
    assert " ".join(total.split()) == "total 7.14 B 7,639,041 15.1 GB 30.6 MB 3.65 MB 4.86 TFLOP 6.48 TFLOP"
    assert "visual_encoder: tokens of a clip are 30.7 kB in float16" in lines
    assert all(len(line) < 125 for line in lines)


def test_json_of_the_command(offline, models_folder, capsys):
    words = [word for change in settings(models_folder) for word in ("--set", change)]
    assert main(["show", "--preset", "lavcap", *words, "--cost", "--format", "json", "--caption-tokens", "9"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.keys() == {"seconds", "caption_tokens", "slots", "total"}
    assert (said["seconds"], said["caption_tokens"]) == (10.0, 9)
    assert list(said["slots"]) == ["audio_encoder", "visual_encoder", "aligner", "fuser", "decoder"]
    for name in ("parameters", "trained", "checkpoint", "forward", "backward", "step"):
        assert said["total"][name] == sum(slot[name] for slot in said["slots"].values())
    assert said["slots"]["decoder"]["unknown"] is None


@pytest.mark.parametrize("words", [["--format", "dot"], ["--caption-tokens", "0"], ["--caption-tokens", "many"]])
def test_wrong_use(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["show", "lavcap", "--cost", *words])
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9_994, "9.99 kB"), (9_996, "10.0 kB"), (99_960, "100 kB"),
     (999_499, "999 kB"), (999_500, "1.00 MB"), (30_556_164, "30.6 MB"), (10**16, "10000 TB"), (None, "?")],
)  # fmt: skip
def test_amounts(value, text):
    assert _amount(value, _BYTES) == text
