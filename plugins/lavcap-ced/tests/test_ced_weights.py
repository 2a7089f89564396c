import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from lavcap_ced import weights
from lavcap_ced.model import Ced, Geometry
from lavcap_core.errors import WeightsError

SMALL = Geometry(width=64, heads=2, depth=2)


@pytest.fixture(scope="module")
def network():
    model = Ced(SMALL).randomise(5)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    return model.eval()


def fused(network):
    """The state with query, key and value joined as the published files have them."""
    state = {}
    for name, value in network.state_dict().items():
        if ".attn.q_proj." in name:
            parts = [network.state_dict()[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            state[name.replace("q_proj", "qkv")] = torch.cat(parts)
        elif ".attn.k_proj." not in name and ".attn.v_proj." not in name:
            state[name] = value.clone()
    return state


def hub_layout(network):
    head = {"outputlayer.0.weight": torch.ones(64), "outputlayer.0.bias": torch.zeros(64)}
    head |= {"outputlayer.1.weight": torch.ones(527, 64), "outputlayer.1.bias": torch.zeros(527)}
    return {f"encoder.{name}": value for name, value in fused(network).items()} | head


def original_layout(network):
    state = {name.replace("init_bn.", "init_bn.1."): value for name, value in fused(network).items()}
    state["front_end.0.mel_scale.fb"] = torch.zeros(257, 64)
    state["front_end.0.spectrogram.window"] = torch.zeros(512)
    state["outputlayer.1.weight"] = torch.ones(527, 64)
    return state


def folder(path, state, **config):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"embed_dim": 64, "num_heads": 2, "depth": 2} | config))
    save_file(state, path / "model.safetensors")
    return path


def same(one, two):
    x = torch.randn(1, 50, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(1, 50, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(one.eval()(x, mask)[0], two.eval()(x, mask)[0])


def test_hub_layout_as_safetensors(tmp_path, network):
    same(weights.load(str(folder(tmp_path, hub_layout(network)))), network)


def test_hub_layout_as_pytorch_model_bin(tmp_path, network):
    torch.save(hub_layout(network), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2}))
    same(weights.load(str(tmp_path)), network)


@pytest.mark.parametrize("under", [None, "model", "state_dict"])
def test_original_layout(tmp_path, under):
    model = Ced(Geometry(128, 2, depth=2)).randomise(6)  # heads are 64 wide where no config.json says otherwise
    state = original_layout(model)
    torch.save(state if under is None else {under: state, "epoch": 3}, tmp_path / "audiotransformer.pt")
    same(weights.load(str(tmp_path / "audiotransformer.pt")), model)


def test_both_layouts_give_equal_weights(tmp_path, network):
    torch.save(original_layout(network), tmp_path / "a.pt")
    one = weights.load(str(folder(tmp_path / "hub", hub_layout(network)))).state_dict()
    two = weights.load(str(tmp_path / "a.pt")).state_dict()
    assert one.keys() == two.keys() == network.state_dict().keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_own_split_layout_and_more_time_positions(tmp_path):
    model = Ced(Geometry(64, 2, depth=1, columns=64)).randomise(1)
    state = {name.replace("init_bn.", "init_bn.1."): value for name, value in model.state_dict().items()}
    loaded = weights.load(str(folder(tmp_path, state | {"output_layer.0.weight": torch.ones(64)})))
    assert loaded.geometry.columns == 64
    same(loaded, model)


def test_key_is_the_middle_third_of_fused_rows(tmp_path, network):
    state = hub_layout(network)
    loaded = weights.load(str(folder(tmp_path, state)))
    rows = state["encoder.blocks.1.attn.qkv.weight"]
    attention = loaded.blocks[1].attn
    for layer, start in ((attention.q_proj, 0), (attention.k_proj, 64), (attention.v_proj, 128)):
        assert torch.equal(layer.weight, rows[start : start + 64])


def test_half_precision_files_give_float32(tmp_path, network):
    state = {name: v.half() if v.is_floating_point() else v for name, v in hub_layout(network).items()}
    loaded = weights.load(str(folder(tmp_path, state)))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def problems(call, code):
    with pytest.raises(WeightsError) as caught:
        call()
    assert {problem.code for problem in caught.value.problems} == {code}
    return str(caught.value)


def test_missing_and_unknown_keys_are_listed_together(tmp_path, network):
    state = hub_layout(network)
    del state["encoder.norm.bias"], state["encoder.blocks.0.attn.qkv.bias"]
    state["encoder.cls_token"] = torch.zeros(1, 1, 64)
    said = problems(lambda: weights.load(str(folder(tmp_path, state))), "W063")
    for name in ("blocks.0.attn.q_proj.bias", "blocks.0.attn.k_proj.bias", "norm.bias", "cls_token"):
        assert name in said


def test_a_key_that_comes_twice_is_unknown(tmp_path, network):
    state = hub_layout(network) | {"init_bn.1.weight": torch.ones(64)}
    said = problems(lambda: weights.load(str(folder(tmp_path, state))), "W063")
    assert "init_bn.1.weight (a second init_bn.weight)" in said


def test_a_file_of_something_else(tmp_path):
    save_file({f"layers.{i}.weight": torch.zeros(2) for i in range(30)}, tmp_path / "model.safetensors")
    assert "and 10 more" in problems(lambda: weights.load(str(tmp_path)), "W063")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.norm.weight", (65,)),
        ("encoder.blocks.0.attn.qkv.weight", (190, 64)),
        ("encoder.freq_pos_embed", (1, 64, 8, 1)),
        ("encoder.patch_embed.proj.weight", (64, 256)),
    ],
)
def test_wrong_shapes(tmp_path, network, name, shape):
    state = hub_layout(network) | {name: torch.zeros(shape)}
    with pytest.raises(WeightsError) as caught:
        weights.load(str(folder(tmp_path, state)))
    assert caught.value.code in ("W063", "W064")
    assert name.removeprefix("encoder.").removesuffix(".weight").split(".qkv")[0] in str(caught.value)


@pytest.mark.parametrize("config", [{"embed_dim": 768}, {"num_heads": 5}, {"num_heads": "two"}])
def test_config_that_contradicts_the_weights(tmp_path, network, config):
    problems(lambda: weights.load(str(folder(tmp_path, hub_layout(network), **config))), "W064")


def test_size_that_contradicts_the_weights(tmp_path, network):
    path = str(folder(tmp_path, hub_layout(network)))
    assert "768" in problems(lambda: weights.load(path, size="base"), "W064")


@pytest.mark.parametrize("name", ["nowhere/at/all.pt", "./weights.pt", "runs/weights.pt", "../ced", "a b/c"])
def test_no_such_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name in problems(lambda: weights.load(name), "W060")


def test_folder_without_weights(tmp_path):
    problems(lambda: weights.load(str(tmp_path)), "W060")


class _Evil:
    def __reduce__(self):
        return print, ("code of the file ran",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    torch.save({"model": _Evil()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(_Evil()))
    for name in ("a.pt", "b.pt"):
        problems(lambda name=name: weights.load(str(tmp_path / name)), "W062")
    assert "code of the file ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04" + b"\0" * 40])
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    problems(lambda: weights.load(str(tmp_path / name)), "W062")


@pytest.mark.parametrize("held", [[torch.zeros(2)], {"model": torch.zeros(1), "x": 1}, torch.zeros(3)])
def test_files_that_hold_no_named_tensors(tmp_path, held):
    torch.save(held, tmp_path / "a.pt")
    problems(lambda: weights.load(str(tmp_path / "a.pt")), "W062")


def test_broken_config(tmp_path, network):
    path = folder(tmp_path, hub_layout(network))
    (path / "config.json").write_text("{")
    problems(lambda: weights.load(str(path)), "W062")


def test_hub_that_cant_be_reached_says_which_files_go_where(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = problems(lambda: weights.load("mispeech/ced-base"), "W061")
    assert "config.json and model.safetensors (or pytorch_model.bin) of mispeech/ced-base into a folder" in said


@pytest.mark.parametrize("present", ["model.safetensors", "pytorch_model.bin"])
def test_hub_files_are_fetched_safetensors_first(tmp_path, monkeypatch, network, present):
    asked = []

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns[1]))
        if present in allow_patterns:
            state = hub_layout(network)
            (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2}))
            save_file(state, tmp_path / present) if present.endswith("tensors") else torch.save(
                state, tmp_path / present
            )
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    same(weights.load("mispeech/ced-tiny", revision="v1"), network)
    assert asked[0] == ("mispeech/ced-tiny", "v1", "model.safetensors")
    assert len(asked) == (1 if present == "model.safetensors" else 2)
