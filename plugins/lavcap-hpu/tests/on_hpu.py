"""What holds on the device, with the stand-in for Habana's software.

test_hpu_device.py runs it in a process of its own, since a device can't be taken back.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import emulated
import pytest
import several
import torch
from emulated import HpuTensor
from torch import nn

emulated.install()

import accelerate  # noqa: E402
import habana_frameworks  # noqa: E402
import numpy as np  # noqa: E402
from habana_frameworks.torch.hpex import optimizers  # noqa: E402
from habana_frameworks.torch.utils import internal  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from lavcap_core.backends.torch import TorchBackend  # noqa: E402
from lavcap_core.cli import main  # noqa: E402
from lavcap_core.errors import BuildError  # noqa: E402
from lavcap_core.pipeline import Pipeline, load  # noqa: E402
from lavcap_core.run.checkpoint import checkpoints, read  # noqa: E402
from lavcap_core.run.train import train  # noqa: E402
from lavcap_core.spec import read as read_spec  # noqa: E402
from lavcap_core.testing.checks import from_component, parametrize_with_checks  # noqa: E402
from lavcap_core.testing.clips import tone, write_clip  # noqa: E402
from lavcap_hpu import habana  # noqa: E402
from lavcap_hpu.backend import HpuBackend  # noqa: E402
from lavcap_hpu.plugin import HpuConfig, hpu  # noqa: E402

CPU = "{use: torch, device: cpu, dtype: float32}"
EXACT = "{use: hpu, dtype: float32, buckets: [], fused: false}"
PADDED = "{use: hpu, dtype: float32}"
SPEC = """\
lavcap: 1
audio_encoder: {{use: ced, size: tiny, seed: 3, tune: {{mode: lora, rank: 2, dropout: 0.0}}}}
visual_encoder: {{use: clip, model: {folder}/clip, frames: 3}}
aligner: {{use: sinkhorn, project: 16, epsilon: 0.1, iterations: 20, loss: {{plan: row, tau: 0.07}}}}
fuser: {{use: ot_att, scale: row}}
decoder: {{use: llama, model: {folder}/llama, tune: {{mode: lora, rank: 2, dropout: 0.0}}}}
backend: {backend}
{weights}generate: {{beams: 2, max_new_tokens: 6}}
train: {{data: {folder}/clips.jsonl, validation: {folder}/held-out.jsonl, steps: 2, batch: 2, accumulate: 1, lr: 0.003,
         warmup_steps: 1, clip: 0.5, workers: 0, cache: false, save_every: 1, validate_every: 2, bucket: 0}}
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
        seconds = (1.0, 2.0, 1.5)[number % 3]
        write_clip(folder / f"{number}.mp4", seconds, sound=tone(seconds, 200.0 * (number + 1)))
        rows.append(json.dumps({"clip": f"{number}.mp4", "captions": [caption]}) + "\n")
    (folder / "clips.jsonl").write_text("".join(rows[:4]))
    (folder / "held-out.jsonl").write_text("".join(rows[4:]))
    return folder


def spec(place: Path, backend: str, weights: Path | None = None, overrides: Sequence[str] = ()) -> Any:
    file = place / "spec.yaml"
    trained = "" if weights is None else f"weights: {weights}\n"
    file.write_text(SPEC.format(folder=place, backend=backend, weights=trained))
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


BACKENDS = {
    "cpu": lambda: TorchBackend("cpu", "float32"),
    "fused": lambda: HpuBackend(HpuConfig(dtype="float32")),
    "unfused": lambda: HpuBackend(HpuConfig(dtype="float32", fused=False)),
}


def several_steps(backend: TorchBackend, count: int, kept: bytes | None = None) -> tuple[dict[str, Any], bytes]:
    """Weights after some steps, and what a checkpoint has of them; goes on from one where it is given."""
    torch.manual_seed(0)
    model = backend.wrap(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    groups = [{"params": list(part.parameters()), "lr": 0.1, "weight_decay": 0.01} for part in (model[0], model[2])]
    optimiser = backend.optimiser(groups, (0.9, 0.99))
    if kept is not None:
        loaded = torch.load(io.BytesIO(kept), weights_only=True, map_location="cpu")
        backend.load_trained(model, loaded["trained"])
        backend.load_optimiser(model, optimiser, loaded["optimiser"])
    for step in range(count):
        backend.backward(model(torch.ones(2, 3, device=backend.device)).square().sum() * (1 + step % 3))
        backend.gradients(model, 0.0)
        backend.step(optimiser)
    trained, file = dict(backend.trained(model)), io.BytesIO()
    torch.save({"trained": trained, "optimiser": backend.optimiser_state(model, optimiser)}, file)
    return trained, file.getvalue()


@pytest.mark.parametrize("after", BACKENDS)
@pytest.mark.parametrize("before", BACKENDS)
def test_a_run_goes_on_with_another_optimiser(before: str, after: str) -> None:
    _, first = several_steps(BACKENDS[before](), 3)
    moments = torch.load(io.BytesIO(first), weights_only=True)["optimiser"]["state"]
    assert {key for values in moments.values() for key in values} == {"exp_avg", "exp_avg_sq", "step"}
    expected, _ = several_steps(BACKENDS["cpu"](), 6)
    found, last = several_steps(BACKENDS[after](), 3, first)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    steps = torch.load(io.BytesIO(last), weights_only=True)["optimiser"]["state"].values()
    assert [int(values["step"]) for values in steps] == [6] * 4


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


def test_two_processes_compute_as_one(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", several.__file__, str(tmp_path)]
    env = {**os.environ, "FAKE_GAUDIS": "2"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    one = several.computed(HpuBackend(HpuConfig(dtype="float32")))
    for index in range(2):
        found = json.loads((tmp_path / f"{index}.json").read_text())
        assert found["collective"] == "hccl"
        # Before anything touches a device, since it is then settled which one it is.
        assert found["calls"][0] == "import hccl"
        assert (found["device"], found["processes"], found["joined"]) == ("hpu:0", 2, [0, 1])
        assert found["sum"] == 1 + 2 * 2.0**-40
        np.testing.assert_allclose(found["norms"], one["norms"], rtol=1e-5)
        np.testing.assert_allclose(found["weights"], one["weights"], rtol=1e-5)


def test_hccl_stays_out_where_there_is_one_process(calls: list[str]) -> None:
    HpuBackend(HpuConfig()).launch()
    assert "habana_frameworks.torch.distributed.hccl" not in sys.modules
    assert calls == []


# --- what stops it ---------------------------------------------------------------------------------------------------


@pytest.fixture
def _asked_anew() -> Iterator[None]:
    """Accelerate remembers whether there is a Gaudi."""
    accelerate.utils.is_hpu_available.cache_clear()
    yield
    accelerate.utils.is_hpu_available.cache_clear()


@pytest.mark.usefixtures("_asked_anew")
def test_no_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GAUDIS", "0")
    with pytest.raises(BuildError, match="B111 habana_frameworks is installed, but there is no Gaudi"):
        HpuBackend(HpuConfig())


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_a_driver_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def stop(name: str) -> None:
        raise error("synStatus 26\nand more")

    monkeypatch.setattr(habana.importlib, "import_module", stop)
    with pytest.raises(BuildError, match=r"B111 habana_frameworks is installed, but can't start: synStatus 26\n"):
        HpuBackend(HpuConfig())


def test_accelerate_that_knows_no_gaudi_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(accelerate.utils, "is_hpu_available")
    with pytest.raises(BuildError, match=r"B113 backend 'hpu' needs accelerate of 1\.5 or later"):
        HpuBackend(HpuConfig())


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "doctor", "lavcap-hpu", "--hardware"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in ("name: GAUDI2", "devices: 1", "mode: lazy", "fused AdamW: there", "steps (defaults): fine"):
        assert line in lines
    assert "a recorded network: fine" in lines
    assert not [line for line in lines if "FAILED" in line]


def test_the_report_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def backwards(self: Any) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(group["lr"])

    monkeypatch.setattr(optimizers.FusedAdamW, "step", backwards)
    monkeypatch.delattr(habana_frameworks.torch.hpu, "wrap_in_hpu_graph")
    assert main(["plugins", "doctor", "hpu", "--hardware"]) == 2
    told = capsys.readouterr()
    assert "steps (defaults): FAILED: AssertionError" in told.out
    assert "steps (not fused, not padded): fine" in told.out
    assert "recorded graphs: not there" in told.out
    assert "a recorded network" not in told.out
    assert re.match(r"B114 \d+ checks of backend 'hpu' failed on this machine\n", told.err)


# --- the pipeline ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_cpu(place: Path) -> Path:
    """A run on the CPU."""
    train(spec(place, CPU), place / "cpu", quiet=True)
    return place / "cpu"


def weights(run: Path) -> Path:
    return checkpoints(run)[-1] / "trained.safetensors"


def assert_same_training(run: Path, other: Path, rtol: float) -> None:
    np.testing.assert_allclose(losses(run), losses(other), rtol=rtol)
    trained, expected = (read(checkpoints(folder)[-1]).trained for folder in (run, other))
    assert trained.keys() == expected.keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_training_gives_the_numbers_of_the_cpu(place: Path, on_cpu: Path) -> None:
    train(spec(place, EXACT), place / "hpu", quiet=True)
    assert_same_training(place / "hpu", on_cpu, 1e-5)


@pytest.fixture(scope="module")
def padded(place: Path) -> Path:
    """A run on the device with padding and fused parts."""
    habana_frameworks.calls.clear()
    train(spec(place, PADDED), place / "padded", quiet=True)
    (place / "calls.json").write_text(json.dumps(habana_frameworks.calls))
    return place / "padded"


def test_padded_and_fused_training_gives_them_too(padded: Path, on_cpu: Path) -> None:
    assert_same_training(padded, on_cpu, 1e-4)


def test_calls_of_a_run(place: Path, padded: Path) -> None:
    calls = json.loads((place / "calls.json").read_text())
    one = ["manual_seed_all", "mark_step", "FusedClipNorm.clip_norm", "FusedAdamW.step", "mark_step"]
    # First a seed for the weights that are drawn; at the end a validation of one batch.
    assert calls == ["manual_seed_all", *one * 2, "manual_seed_all", "mark_step"]


def test_a_run_goes_on_to_the_same_numbers(place: Path, padded: Path) -> None:
    shutil.copytree(padded, place / "again")
    shutil.rmtree(checkpoints(place / "again")[-1])
    assert read(checkpoints(place / "again")[-1]).step == 1
    train(spec(place, PADDED), place / "again", resume=True, quiet=True)
    one, other = (read(checkpoints(run)[-1]) for run in (padded, place / "again"))
    assert (one.step, other.step) == (2, 2)
    for name, tensor in one.trained.items():
        assert torch.equal(tensor, other.trained[name]), name


def test_mixed_precision_is_near_and_training_records_no_graphs(place: Path, on_cpu: Path, calls: list[str]) -> None:
    train(spec(place, "{use: hpu, graphs: true}", overrides=["train.steps=1"]), place / "mixed", quiet=True)
    np.testing.assert_allclose(losses(place / "mixed"), losses(on_cpu)[:3], rtol=0.1)
    assert "wrap_in_hpu_graph" not in calls


def test_features_that_are_kept_give_them_too(place: Path, padded: Path) -> None:
    overrides = ["train.steps=1", "train.cache=true", f"train.cache_folder={place / 'kept'}"]
    train(spec(place, PADDED, overrides=overrides), place / "cached", quiet=True)
    assert list((place / "kept").rglob("*.safetensors"))
    np.testing.assert_allclose(losses(place / "cached"), losses(padded)[:3], rtol=1e-3)


@pytest.fixture(scope="module")
def captions(place: Path, on_cpu: Path) -> list[str]:
    """Of the CPU."""
    found = captioned(load(spec(place, CPU, weights(on_cpu))), place)
    assert len(set(found)) == len(found), "captions that are all the same would show little"
    return found


def captioned(pipe: Pipeline, place: Path) -> list[str]:
    return [caption.text for caption in pipe.caption([place / f"{number}.mp4" for number in range(3)])]


@pytest.mark.parametrize("settings", ["buckets: []", "mode: lazy", "graphs: true"])
def test_captions_are_those_of_the_cpu(
    place: Path, on_cpu: Path, captions: list[str], calls: list[str], settings: str
) -> None:
    pipe = load(spec(place, f"{{use: hpu, dtype: float32, {settings}}}", weights(on_cpu)))
    calls.clear()
    assert captioned(pipe, place) == captions
    assert calls.count("mark_step") == 2  # after the encoders, and after the decoder
    assert captioned(pipe, place) == captions
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


def test_the_command_captions(
    place: Path, on_cpu: Path, captions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec(place, EXACT, weights(on_cpu))
    assert main(["caption", "--spec", str(place / "spec.yaml"), str(place / "0.mp4")]) == 0
    assert captions[0] in capsys.readouterr().out
