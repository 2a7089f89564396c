"""The decoder without weights: as large as the one with them, whatever tells its size."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lavcap_core.component import Port
from lavcap_core.errors import BuildError, WeightsError
from lavcap_llama import decoder
from lavcap_llama.decoder import LlamaDecoder
from lavcap_llama.plugin import DecoderConfig
from lavcap_llama.skeleton import WordTokenizer, build


class Place:
    """What a factory gets, without a pipeline."""

    inputs = {"tokens": Port("fused", 6)}  # noqa: RUF012

    def build(self, use: Any, inputs: Any = None) -> Any:
        raise AssertionError("the decoder holds no components")

    def locate(self, model: str) -> str:
        return model


def outline(**settings: Any) -> LlamaDecoder:
    with torch.device("meta"):
        return build(DecoderConfig.model_validate(settings), Place())


def facts(built: LlamaDecoder) -> dict[str, Any]:
    return {name: (p.shape, p.dtype, p.requires_grad) for name, p in built.named_parameters()}


SETTINGS: list[dict[str, Any]] = [
    {},
    {"tune": {"mode": "lora"}, "dtype": "bfloat16"},
    {"tune": {"mode": "finetune"}},
    {"projector": {"kind": "mlp"}, "modality_embedding": True, "prompt": "speech", "template": "chat"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_has_the_parameters_and_the_prompt_of_the_real_one(
    folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = DecoderConfig.model_validate({"model": str(folder), **settings})
    real = decoder.build(config, Place())
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    found = outline(model=str(tmp_path / "bare"), **settings)
    assert facts(found) == facts(real)
    assert all(tensor.is_meta for tensor in [*found.parameters(), *found.buffers()])
    assert found.text.prompts(1) == real.text.prompts(1)
    count = sum(len(part) for part in real.text.prompts(1)[0] if not isinstance(part, str))
    assert list(found.assumes) == [f"a prompt of {count} tokens"]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", 6_738_415_616),
        ("meta-llama/Llama-2-13b-chat-hf", 13_015_864_320),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
    ],
)
def test_published_sizes_are_known_without_a_hub(model: str, parameters: int) -> None:
    found = outline(model=model, tune={"mode": "freeze"})
    assert sum(p.numel() for p in found.model.parameters()) == parameters
    precision = torch.float16 if "Llama-2" in model else torch.bfloat16
    assert {p.dtype for p in found.model.parameters()} == {precision}
    assert "the tokenizer is not here" in next(iter(found.assumes))


def test_words_and_marks_stand_for_ids() -> None:
    tokenizer = WordTokenizer()
    assert tokenizer("USER: <Audio>").input_ids == [0] * 5
    found = outline(model="meta-llama/Llama-2-7b-hf", prompt="speech", template="chat").train()
    assert found.caption_tokens(["A dog barks.", ""]).tolist() == [5, 1]
    assert found.text.prompts(1, training=True) == found.text.prompts(1)  # none is drawn: the count would change


def test_what_is_unknown_or_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="my-model is not known") as unknown:
        outline(model="my-lab/my-model")
    assert unknown.value.code == "B050"
    with pytest.raises(WeightsError) as missing:
        outline(model=str(tmp_path))
    assert missing.value.code == "W080"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError) as broken:
        outline(model=str(tmp_path))
    assert broken.value.code == "W082"
