"""The encoder without weights: as large as the one with them, whatever tells its size."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lavcap_ced.encoder import build, skeleton
from lavcap_ced.model import Ced, Geometry
from lavcap_ced.plugin import HUB, CedConfig
from lavcap_core.errors import BuildError, WeightsError


class Place:
    """What a factory gets, without a pipeline."""

    inputs = {}  # noqa: RUF012

    def build(self, use, inputs=None):
        raise AssertionError("CED holds no component")

    def locate(self, model):
        return model


def outline(**settings):
    with torch.device("meta"):
        return skeleton(CedConfig.model_validate(settings), Place())


def shapes(encoder, trained=False):
    return {name: p.shape for name, p in encoder.named_parameters() if p.requires_grad or not trained}


@pytest.mark.parametrize("tune", ["freeze", "lora", "finetune"])
def test_has_the_parameters_of_the_real_one(tune):
    real = build(CedConfig.model_validate({"size": "tiny", "tune": {"mode": tune}}), Place())
    found = outline(size="tiny", tune={"mode": tune})
    assert shapes(found) == shapes(real)
    assert shapes(found, trained=True) == shapes(real, trained=True)
    assert all(tensor.is_meta for tensor in [*found.parameters(), *found.buffers()])
    assert not found.training
    assert found.width == real.width


@pytest.mark.parametrize(
    ("model", "millions"),
    [("mispeech/ced-tiny", 5.4), ("mispeech/ced-mini", 9.5), ("mispeech/ced-small", 21.4), ("mispeech/ced-base", 85.3)],
)
def test_published_sizes_are_known_without_a_hub(model, millions):
    assert model in HUB
    assert sum(p.numel() for p in outline(model=model).parameters()) == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("kind", ["folder", "safetensors", "pt", "legacy"])
def test_the_size_of_a_local_file_is_that_of_its_tensors(tmp_path, kind):
    network = Ced(Geometry(64, 2, depth=3, columns=40)).randomise(0)
    (tmp_path / "config.json").write_text(json.dumps({"embed_dim": 64, "num_heads": 2}))
    place = {"folder": tmp_path, "safetensors": tmp_path / "model.safetensors"}.get(kind, tmp_path / "weights.pt")
    if kind in ("folder", "safetensors"):
        save_file(network.state_dict(), tmp_path / "model.safetensors")
    else:
        torch.save({"model": network.state_dict()}, place, _use_new_zipfile_serialization=kind == "pt")
    found = outline(model=str(place))
    assert shapes(found) == {f"model.{name}": p.shape for name, p in network.named_parameters()}
    assert all(parameter.is_meta for parameter in found.parameters())
    assert found.model.geometry.depth == 3


def test_what_is_unknown_or_broken_is_said(tmp_path):
    with pytest.raises(BuildError, match="ced-huge is not known") as caught:
        outline(model="mispeech/ced-huge")
    assert caught.value.code == "B050"
    assert "mispeech/ced-base" in caught.value.problems[0].help
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError) as caught:
        outline(model=str(tmp_path))
    assert caught.value.code == "W062"


def test_a_size_tells_it_for_any_hub_name():
    assert outline(model="somebody/their-ced", size="mini").width == 256
