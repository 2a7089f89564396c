import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from lavcap_core.component import Port
from lavcap_core.errors import PortError
from lavcap_llama.plugin import DecoderConfig, ProjectorConfig, facts, llama


def test_describing_imports_no_torch() -> None:
    code = "import sys, lavcap_llama.plugin; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_defaults_are_the_papers() -> None:
    config = DecoderConfig(model="meta-llama/Llama-2-7b-chat-hf")
    assert (config.prompt, config.template, config.projector.kind, config.projector.bias) == (
        "audio", "plain", "linear", True,
    )  # fmt: skip


@pytest.mark.parametrize("prompt", ["audoi", "", "describe {instruction}"])
def test_a_prompt_without_a_place_for_tokens_is_refused(prompt: str) -> None:
    with pytest.raises(ValidationError, match="neither one of audio, content, separate, speech"):
        DecoderConfig(model="m", prompt=prompt)


@pytest.mark.parametrize("prompt", ["speech", "{tokens}", "A {audio} V {visual}"])
def test_prompts_that_do(prompt: str) -> None:
    assert DecoderConfig(model="m", prompt=prompt).prompt == prompt


def test_an_identity_of_two_layers_is_refused() -> None:
    with pytest.raises(ValidationError, match="identity needs kind: linear"):
        ProjectorConfig(kind="mlp", init="identity")


def model(folder: Path, **said: object) -> DecoderConfig:
    (folder / "config.json").write_text('{"hidden_size": 576}')
    if said:
        (folder / "lavcap.json").write_text(json.dumps(said))
    return DecoderConfig(model=str(folder), projector=ProjectorConfig(init="identity"))


def test_facts_come_from_the_models_folder(tmp_path: Path) -> None:
    assert facts("org/model") == {}
    model(tmp_path)
    assert facts(str(tmp_path)) == {"space": None, "width": 576}
    model(tmp_path, space="s", width=577)
    assert facts(str(tmp_path)) == facts(str(tmp_path / "x.gguf")) == {"space": "s", "width": 577}
    (tmp_path / "lavcap.json").write_text("{")
    assert facts(str(tmp_path)) == {"space": None, "width": 576}


def test_tokens_of_the_models_own_space_and_width_fit(tmp_path: Path) -> None:
    assert llama.ports(model(tmp_path, space="s", width=576), {"tokens": Port("fused", 576, "s")}) == {}
    assert llama.ports(model(tmp_path, space="s", width=576), {"tokens": Port("fused", 576)}) == {}


@pytest.mark.parametrize(("said", "own"), [({"space": "other"}, "'other'"), ({}, "without a known")])
def test_tokens_of_another_space_do_not(tmp_path: Path, said: dict[str, object], own: str) -> None:
    with pytest.raises(PortError, match=own) as caught:
        llama.ports(model(tmp_path, **said), {"tokens": Port("fused", 576, "s")})
    assert caught.value.code == "P080"


def test_a_space_in_the_spec_wins_and_is_checked_without_the_model() -> None:
    config = DecoderConfig(model="source:name", space="s")
    assert llama.ports(config, {"tokens": Port("fused", 576, "s")}) == {}
    with pytest.raises(PortError):
        llama.ports(config, {"tokens": Port("fused", 576, "t")})


def test_a_model_that_is_not_here_yet_is_checked_later() -> None:
    assert llama.ports(DecoderConfig(model="source:name"), {"tokens": Port("fused", 576, "s")}) == {}


def test_an_identity_between_two_widths_is_refused_before_weights_load(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="768 and 576") as caught:
        llama.ports(model(tmp_path), {"tokens": Port("fused", 768)})
    assert caught.value.code == "P081"
    assert llama.ports(model(tmp_path), {"tokens": Port("fused", "clip.width")}) == {}
