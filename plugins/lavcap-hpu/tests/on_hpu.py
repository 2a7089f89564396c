"""What holds on the device, with the stand-in for Habana's software.

test_hpu_device.py runs it in a process of its own, since a device can't be taken back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import emulated
import pytest
import torch
from emulated import HpuTensor
from torch import nn

emulated.install()

import habana_frameworks  # noqa: E402
import numpy as np  # noqa: E402
from habana_frameworks.torch.utils import internal  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from lavcap_core.cli import main  # noqa: E402
from lavcap_core.errors import BuildError  # noqa: E402
from lavcap_core.pipeline import load  # noqa: E402
from lavcap_core.run.checkpoint import checkpoints, read  # noqa: E402
from lavcap_core.run.train import train  # noqa: E402
from lavcap_core.testing.checks import from_component, parametrize_with_checks  # noqa: E402
from lavcap_core.testing.clips import tone, write_clip  # noqa: E402
from lavcap_hpu.backend import HpuBackend  # noqa: E402
from lavcap_hpu.plugin import HpuConfig, hpu  # noqa: E402

CPU = "{use: torch, device: cpu, dtype: float32}"
EXACT = "{use: hpu, dtype: float32, buckets: [], fused: false}"
SPEC = """\
lavcap: 1
audio_encoder: {{use: ced, size: tiny, seed: 3, tune: {{mode: lora, rank: 2, dropout: 0.1}}}}
visual_encoder: {{use: clip, model: {folder}/clip, frames: 3}}
aligner: {{use: sinkhorn, project: 16, epsilon: 0.1, iterations: 20, loss: {{plan: row, tau: 0.07}}}}
fuser: {{use: ot_att, scale: row}}
decoder: {{use: llama, model: {folder}/llama, tune: {{mode: lora, rank: 2, dropout: 0.0}}}}
backend: {backend}
generate: {{beams: 2, max_new_tokens: 6}}
train: {{data: {folder}/clips.jsonl, validation: {folder}/held-out.jsonl, steps: 3, batch: 2, accumulate: 1, lr: 0.003,
         warmup_steps: 1, clip: 0.5, workers: 0, cache: false, save_every: 2, validate_every: 3, bucket: 0}}
"""


def language_model(folder: Path) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(["<s>", "</s>", *letters])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=1, initializer_range=0.2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    language_model(folder / "llama")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = CLIPVisionConfig(**sizes, image_size=32, patch_size=16, projection_dim=12, initializer_range=0.3)
    CLIPVisionModelWithProjection(clip).save_pretrained(folder / "clip")
    rows = []
    for number, caption in enumerate(("a dog", "rain", "music", "a man speaks", "wind", "a bell")):
        write_clip(folder / f"{number}.mp4", (1.0, 2.0, 1.5)[number % 3], sound=tone(200.0 * (number + 1)))
        rows.append(json.dumps({"clip": f"{number}.mp4", "captions": [caption]}) + "\n")
    (folder / "clips.jsonl").write_text("".join(rows[:4]))
    (folder / "held-out.jsonl").write_text("".join(rows[4:]))
    return folder


def spec(place: Path, backend: str, **train_: Any) -> Any:
    overrides = [f"train.{name}={value}" for name, value in train_.items()]
    file = place / "spec.yaml"
    file.write_text(SPEC.format(folder=place, backend=backend))
    from lavcap_core.spec import read as read_spec

    return read_spec(file, overrides)


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row[name] for row in rows for name in ("caption", "alignment", "norm")]


@pytest.fixture
def calls() -> list[str]:
    habana_frameworks.calls.clear()
    return habana_frameworks.calls


# --- the device ------------------------------------------------------------------------------------------------------


def test_mixed_devices_and_float64_are_refused() -> None:
    there = torch.ones(2, 3, device="hpu:0")
    assert isinstance(there, HpuTensor)
    for mixed in (lambda: there + torch.ones(2, 3), lambda: torch.cat([there, torch.ones(1, 3)])):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(RuntimeError, match="float64"):
        there.double()
    assert (there + torch.tensor(1.0)).sum().item() == 12


def test_a_graph_computes_what_it_recorded_and_not_what_python_did() -> None:
    class Network(nn.Module):
        def forward(self, data: torch.Tensor) -> torch.Tensor:
            return data * 2 + len(habana_frameworks.calls)

    network = habana_frameworks.torch.hpu.wrap_in_hpu_graph(Network())
    first = network(torch.ones(2, device="hpu:0")).tolist()
    second = network(torch.full((2,), 3.0, device="hpu:0")).tolist()
    assert second[0] - first[0] == 4
    with emulated.capturing(), pytest.raises(RuntimeError, match="capturing"):
        torch.ones(2, device="hpu:0").sum().item()


# --- the backend -----------------------------------------------------------------------------------------------------


@parametrize_with_checks("backend", from_component(hpu))
def test_conformance(check: Any) -> None:
    check()


@parametrize_with_checks("backend", from_component(hpu, dtype="float32", fused=False, buckets=()))
def test_conformance_plain(check: Any) -> None:
    check()


def step(backend: HpuBackend, accumulate: int) -> None:
    model = backend.wrap(nn.Linear(3, 2))
    groups = [{"params": list(model.parameters()), "lr": 0.1, "weight_decay": 0.0}]
    optimiser = backend.optimiser(groups, (0.9, 0.999))
    backend.seed(1)
    for _ in range(accumulate):
        with backend.autocast():
            loss = model(torch.ones(4, 3, device=backend.device)).float().square().sum()
        backend.backward(loss)
    backend.gradients(model, 1.0)
    backend.step(optimiser)


def test_calls_of_a_training_step_in_lazy_mode(calls: list[str]) -> None:
    step(HpuBackend(HpuConfig()), accumulate=2)
    expected = ["mark_step", "mark_step", "FusedClipNorm.clip_norm", "FusedAdamW.step", "mark_step"]
    assert calls == ["manual_seed_all", *expected]


def test_calls_of_a_training_step_in_eager_mode(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal, "_LAZY", False)
    step(HpuBackend(HpuConfig(mode="eager")), accumulate=2)
    assert calls == ["manual_seed_all", "FusedClipNorm.clip_norm", "FusedAdamW.step"]


def test_without_fused_parts_torch_does_it(calls: list[str]) -> None:
    step(HpuBackend(HpuConfig(fused=False)), accumulate=1)
    assert calls == ["manual_seed_all", "mark_step", "mark_step"]


def test_the_mode_can_not_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match=r"B112 backend\.mode is eager, but .* lazy mode"):
        HpuBackend(HpuConfig(mode="eager"))
    monkeypatch.setattr(internal, "_LAZY", False)
    with pytest.raises(BuildError, match=r"B112 backend\.graphs needs lazy mode"):
        HpuBackend(HpuConfig(graphs=True))


def test_autocast_is_bfloat16_unless_asked_otherwise() -> None:
    model = nn.Linear(3, 2).to("hpu:0")
    for config, dtype in ((HpuConfig(), torch.bfloat16), (HpuConfig(dtype="float32"), torch.float32)):
        with HpuBackend(config).autocast():
            assert model(torch.ones(1, 3, device="hpu:0")).dtype == dtype


# --- the pipeline ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_cpu(place: Path) -> tuple[list[float], dict[str, torch.Tensor], list[str]]:
    train(spec(place, CPU), place / "cpu", quiet=True)
    pipe = load(spec(place, CPU))
    clips = [place / f"{number}.mp4" for number in range(3)]
    return losses(place / "cpu"), read(checkpoints(place / "cpu")[-1]).trained, [c.text for c in pipe.caption(clips)]


def test_training_gives_the_numbers_of_the_cpu(place: Path, on_cpu: Any) -> None:
    train(spec(place, EXACT), place / "hpu", quiet=True)
    np.testing.assert_allclose(losses(place / "hpu"), on_cpu[0], rtol=1e-5)
    trained = read(checkpoints(place / "hpu")[-1]).trained
    assert trained.keys() == on_cpu[1].keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, on_cpu[1][name], rtol=1e-3, atol=1e-5)


def test_padded_and_fused_training_gives_them_too(place: Path, on_cpu: Any, calls: list[str]) -> None:
    train(spec(place, "{use: hpu, dtype: float32}"), place / "padded", quiet=True)
    np.testing.assert_allclose(losses(place / "padded"), on_cpu[0], rtol=1e-4)
    assert calls.count("FusedAdamW.step") == calls.count("FusedClipNorm.clip_norm") == 3
    # Each step: after backward and after the optimiser; the validation at the end: a batch.
    assert calls.count("mark_step") == 3 * 2 + 1


def test_a_run_goes_on_to_the_same_numbers(place: Path) -> None:
    whole, parts = place / "whole", place / "parts"
    train(spec(place, "{use: hpu, dtype: float32}", steps=4), whole, quiet=True)
    for resume, steps in ((False, 2), (True, 4)):
        train(spec(place, "{use: hpu, dtype: float32}", steps=4, save_every=2), parts, resume=resume, quiet=True)
        if not resume:
            newest = checkpoints(parts)[-1]
            for path in newest.iterdir():
                path.unlink()
            newest.rmdir()
            assert read(checkpoints(parts)[-1]).step == steps
    one, other = (read(checkpoints(run)[-1]).trained for run in (whole, parts))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_mixed_precision_trains_with_ot_in_float32(place: Path, on_cpu: Any) -> None:
    train(spec(place, "{use: hpu}"), place / "mixed", quiet=True)
    np.testing.assert_allclose(losses(place / "mixed")[:3], on_cpu[0][:3], rtol=0.05)


@pytest.mark.parametrize("settings", ["buckets: []", "mode: lazy", "graphs: true"])
def test_captions_are_those_of_the_cpu(place: Path, on_cpu: Any, calls: list[str], settings: str) -> None:
    pipe = load(spec(place, f"{{use: hpu, dtype: float32, {settings}}}"))
    clips = [place / f"{number}.mp4" for number in range(3)]
    calls.clear()
    assert [caption.text for caption in pipe.caption(clips)] == on_cpu[2]
    assert calls.count("mark_step") == 2  # after the encoders, and after the decoder
    assert [caption.text for caption in pipe.caption(clips)] == on_cpu[2]
    recorded = 2 if "graphs" in settings else 0  # two networks
    assert (calls.count("record"), calls.count("play")) == (recorded, recorded)


def test_seeded_draws_repeat_and_leave_the_state(place: Path) -> None:
    pipe = load(spec(place, EXACT))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (pipe.caption(place / "0.mp4", sample=True, beams=1, seed=7).text for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_captions(place: Path, on_cpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    spec(place, EXACT)
    assert main(["caption", "--spec", str(place / "spec.yaml"), str(place / "0.mp4")]) == 0
    assert on_cpu[2][0] in capsys.readouterr().out
