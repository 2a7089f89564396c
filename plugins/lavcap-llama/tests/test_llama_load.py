import sys
from pathlib import Path

import gguf
import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from lavcap_core.errors import BuildError, WeightsError
from lavcap_llama.load import load

from .conftest import save, tokenizer


def test_a_folder(folder: Path) -> None:
    model, words = load(str(folder), None)
    assert not model.training
    assert model.generation_config.eos_token_id == [1]
    assert model.generation_config.pad_token_id == 1  # no pad token: the end token pads, and nothing is resized
    assert model.get_input_embeddings().num_embeddings == len(words)


def test_a_pad_token_is_used_where_there_is_one(tmp_path: Path) -> None:
    model, _ = load(str(save(tmp_path, pad_token="<pad>")), None)
    assert model.generation_config.pad_token_id == 4


def test_defaults_of_generation_that_come_with_a_model_are_dropped_but_its_ends_kept(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "eos_token_id": [1, 3]}')
    model, _ = load(str(tmp_path), None)
    assert model.generation_config.eos_token_id == [1, 3]
    assert not model.generation_config.do_sample


def test_precision(folder: Path) -> None:
    assert load(str(folder), torch.bfloat16)[0].dtype == torch.bfloat16
    assert load(str(folder), None)[0].dtype == torch.float32


def write_gguf(folder: Path, file: Path) -> None:
    """The tiny model as llama.cpp stores it: 8-bit weights, query and key rows in pairs."""
    model, words = load(str(folder), None)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words.convert_ids_to_tokens(list(range(len(words)))))
    writer.add_token_types([3 if index < 5 else 1 for index in range(len(words))])
    writer.add_token_scores([0.0] * len(words))  # no merges: every token is a byte
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        stem, _, suffix = name.rpartition(".")
        for part, count in heads.items():
            if part in name:
                value = value.view(count, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape)
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_a_plain_model_that_can_be_saved(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "tiny.gguf")
    model, words = load(str(tmp_path), None)
    original, _ = load(str(folder), None)
    ids = torch.tensor([[0, 20, 30, 40]])
    torch.testing.assert_close(model(ids).logits, original(ids).logits, rtol=1e-3, atol=1e-3)
    assert not hasattr(model.config, "quantization_config")
    assert words.encode("a dog", add_special_tokens=False) == tokenizer().encode("a dog", add_special_tokens=False)
    model.save_pretrained(tmp_path / "copy")
    words.save_pretrained(tmp_path / "copy")
    again, _ = load(str(tmp_path / "copy"), None)
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    assert load(str(tmp_path / "tiny.gguf"), torch.bfloat16)[0].dtype == torch.bfloat16


def test_gguf_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BuildError, match=r"pip install 'lavcap-llama\[gguf\]'") as caught:
        load(str(tmp_path / "x.gguf"), None)
    assert caught.value.code == "B080"


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "~/model", "weights.gguf"])
def test_a_place_that_is_not_there(name: str) -> None:
    with pytest.raises(WeightsError) as caught:
        load(name, None)
    assert caught.value.code == "W080"


def test_a_folder_or_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for name in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(WeightsError) as caught:
            load(str(name), None)
        assert caught.value.code == "W080"


def test_a_hub_that_cannot_be_reached_is_one_line_that_says_which_files_go_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        load("nobody/no-such-model", None)
    assert caught.value.code == "W081"
    problem = caught.value.problems[0]
    assert "\n" not in problem.message
    assert "tokenizer.json" in str(problem.help)


def test_broken_and_incomplete_weights_are_errors(folder: Path, tmp_path: Path) -> None:
    save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj") as caught:
        load(str(tmp_path), None)
    assert caught.value.code == "W082"
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(WeightsError, match="can't be read") as caught:
        load(str(tmp_path), None)
    assert caught.value.code == "W082"


def test_a_tokenizer_without_an_end_is_an_error(folder: Path, tmp_path: Path) -> None:
    save(tmp_path)
    words = tokenizer()
    words.eos_token = None
    words.save_pretrained(tmp_path)
    with pytest.raises(WeightsError) as caught:
        load(str(tmp_path), None)
    assert caught.value.code == "W083"
