"""Gradient reaches exactly what each strategy says (LAVCap, Table IV), in the real classes at tiny size."""

import re

import numpy as np
import pytest
import torch
from tiny import settings, write_models

from lavcap_core.data import collate
from lavcap_core.media import Clip
from lavcap_core.pipeline import load
from lavcap_core.tuning import trained_state

MODES = ("finetune", "lora", "freeze")

ADAPTERS = r"(q|v)_proj\.lora_(A|B)\.default\.weight"
AUDIO = {
    "finetune": r"audio_encoder\.model\..*",
    "lora": rf"audio_encoder\.model\.blocks\.\d+\.attn\.{ADAPTERS}",
    "freeze": None,
}
DECODER = {
    "finetune": r"decoder\.model\..*",
    "lora": rf"decoder\.model\.model\.layers\.\d+\.self_attn\.{ADAPTERS}",
    "freeze": None,
}
PROJECTOR = r"decoder\.projector\.(weight|bias)"

DRIFTING = {f"audio_encoder.model.init_bn.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"), layers=2)


def built(folder, preset, audio, decoder):
    modes = [f"audio_encoder.tune.mode={audio}", f"decoder.tune.mode={decoder}"]
    recipe = load(preset, [*settings(folder), *modes, "backend.device=cpu"]).recipe
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in recipe.named_parameters():
            if "lora_B" in name:  # starts at 0, so that nothing would reach A in the first step
                parameter.normal_(std=0.1)
    return recipe.train()


def step(recipe):
    """Loss and gradients of two clips of noise."""
    random = np.random.default_rng(0)
    size = recipe.visual_encoder.image_size
    clips = [
        Clip(
            None,
            random.normal(0, 0.1, seconds * 16_000).astype(np.float32),
            random.integers(0, 255, (20, size, size, 3), dtype=np.uint8),
        )
        for seconds in (4, 2)
    ]
    audio, visual = zip(*(recipe.prepare(clip) for clip in clips), strict=True)
    tokens = recipe.encode(collate(audio), collate(visual), torch.tensor([4.0, 2.0]))
    recipe.loss(*tokens, ["A dog barks", "Rain"]).total.backward()


def named(recipe, *patterns):
    wanted = re.compile("|".join(f"(?:{pattern})" for pattern in patterns if pattern))
    # Softmax doesn't see what is added to every key alike: the gradient of that bias is 0, or what rounding leaves.
    return {name for name, _ in recipe.named_parameters() if wanted.fullmatch(name) and not _is_key_bias(name)}


def _is_key_bias(name):
    return name.endswith("k_proj.bias")


@pytest.mark.parametrize("decoder", MODES)
@pytest.mark.parametrize("audio", MODES)
def test_gradient_reaches_exactly_what_the_strategy_says(folder, audio, decoder):
    recipe = built(folder, "lavcap", audio, decoder)
    buffers = {name: buffer.clone() for name, buffer in recipe.named_buffers()}
    step(recipe)
    expected = named(recipe, AUDIO[audio], DECODER[decoder], PROJECTOR)
    gradients = {n: p.grad for n, p in recipe.named_parameters() if p.grad is not None and not _is_key_bias(n)}
    assert gradients.keys() == expected
    assert {name for name, gradient in gradients.items() if not gradient.any()} == set()
    drifted = {name for name, buffer in recipe.named_buffers() if not torch.equal(buffer, buffers[name])}
    assert drifted == (DRIFTING if audio == "finetune" else set())
    stored = {name for name in trained_state(recipe) if not _is_key_bias(name)}
    assert stored == expected | drifted


@pytest.mark.parametrize(("audio", "decoder"), [("lora", "lora"), ("lora", "freeze"), ("freeze", "lora")])
def test_lora_never_reaches_the_keys(folder, audio, decoder):
    recipe = built(folder, "lavcap", audio, decoder)
    names = [name for name, _ in recipe.named_parameters() if "k_proj" in name]
    # Weight and bias of CED's 12 blocks and of CLIP's 2 layers, weight of Llama's 2 layers.
    assert len(names) == 12 * 2 + 2 * 2 + 2
    assert not any("lora" in name for name in names)
    step(recipe)
    assert all(recipe.get_parameter(name).grad is None for name in names)


def test_adapters_are_on_every_query_and_value(folder):
    recipe = built(folder, "lavcap", "lora", "lora")
    assert len(named(recipe, AUDIO["lora"])) == 12 * 2 * 2
    assert len(named(recipe, DECODER["lora"])) == 2 * 2 * 2


def test_the_released_codes_scale_is_trained_too(folder):
    recipe = built(folder, "lavcap-released", "lora", "lora")
    step(recipe)
    reached = {name for name, p in recipe.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == named(recipe, AUDIO["lora"], DECODER["lora"], PROJECTOR, r"aligner\.loss\.scale")


def test_without_the_perturbation_lora_starts_as_the_model(folder):
    """What `built` changes is needed: B is 0 at first, and then A has no gradient."""
    modes = ["audio_encoder.tune.mode=lora", "decoder.tune.mode=freeze", "backend.device=cpu"]
    recipe = load("lavcap", [*settings(folder), *modes]).recipe.train()
    step(recipe)
    reached = {n for n, p in recipe.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {n for n in named(recipe, AUDIO["lora"], PROJECTOR) if "lora_A" not in n}
