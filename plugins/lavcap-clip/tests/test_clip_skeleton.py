"""The encoders without weights: as large as those with them, whatever tells their size."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from lavcap_clip import clip, timm
from lavcap_clip.plugin import KNOWN, ClipConfig, TimmConfig
from lavcap_core.errors import BuildError, WeightsError

SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "projection_dim": 12,
}  # fmt: skip


class Place:
    """What a factory gets, without a pipeline."""

    inputs: dict[str, Any] = {}  # noqa: RUF012

    def build(self, use: Any, inputs: Any = None) -> Any:
        raise AssertionError("the encoder holds no components")

    def locate(self, model: str) -> str:
        return model


def outline(**settings: Any) -> clip.ClipEncoder:
    with torch.device("meta"):
        return clip.skeleton(ClipConfig.model_validate(settings), Place())


def shapes(encoder: nn.Module, trained: bool = False) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in encoder.named_parameters() if p.requires_grad or not trained}


CHANGES: list[dict[str, Any]] = [
    {},
    {"tune": {"mode": "lora"}},
    {"tune": {"mode": "finetune"}},
    {"output": "patches", "layer": -2, "tune": {"mode": "finetune"}},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["vision", "both"])
def test_has_the_parameters_of_the_real_one(tmp_path: Path, whole: bool, changes: dict[str, Any]) -> None:
    if whole:  # a folder of the whole CLIP, as the published ones are
        config = CLIPConfig(vision_config=SIZES, text_config={"hidden_size": 8}, projection_dim=12)
        CLIPModel(config).save_pretrained(tmp_path)
    else:
        CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES)).save_pretrained(tmp_path)
    real = clip.build(ClipConfig.model_validate({"model": str(tmp_path), **changes}), Place())
    (tmp_path / "model.safetensors").unlink()
    found = outline(model=str(tmp_path), **changes)
    assert shapes(found) == shapes(real)
    assert shapes(found, trained=True) == shapes(real, trained=True)
    assert all(tensor.is_meta for tensor in [*found.parameters(), *found.buffers()])
    assert (found.width, found.image_size, found.frames) == (real.width, real.image_size, real.frames)


@pytest.mark.parametrize(
    ("model", "parameters", "widths"),
    [
        ("openai/clip-vit-large-patch14", 303_966_208, (768, 1024)),
        ("openai/clip-vit-large-patch14-336", 304_293_888, (768, 1024)),
        ("openai/clip-vit-base-patch16", 86_192_640, (512, 768)),
        ("openai/clip-vit-base-patch32", 87_849_216, (512, 768)),
    ],
)
def test_published_sizes_are_known_without_a_hub(model: str, parameters: int, widths: tuple[int, int]) -> None:
    assert model in KNOWN
    found = outline(model=model)
    assert sum(p.numel() for p in found.parameters()) == parameters
    assert (found.width, outline(model=model, output="patches").width) == widths


def test_what_is_unknown_or_broken_is_said(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="my-clip is not known") as unknown:
        outline(model="my-lab/my-clip")
    assert unknown.value.code == "B050"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError) as broken:
        outline(model=str(tmp_path))
    assert broken.value.code == "W072"
    (tmp_path / "config.json").write_text(json.dumps(SIZES))
    with pytest.raises(BuildError) as coarse:
        outline(model=str(tmp_path), output="patches", pool="grid", grid=9)
    assert coarse.value.code == "B070"


def test_timm_is_asked_for_a_model_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm itself isn't among what the tests install; what is asked of it can be told all the same."""

    def create_model(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        assert (name, pretrained, num_classes) == ("vit", False, 0)
        model = nn.Sequential(nn.Linear(3, 5))
        model.num_features = 5  # type: ignore[assignment]
        return model

    data = {"input_size": (3, 64, 64), "mean": (0, 0, 0), "std": (1, 1, 1)}
    fake = SimpleNamespace(
        create_model=create_model, data=SimpleNamespace(resolve_model_data_config=lambda model: data)
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    with torch.device("meta"):
        found = timm.skeleton(TimmConfig(model="vit"), Place())
    assert (found.width, found.image_size) == (5, 64)
    assert all(parameter.is_meta and not parameter.requires_grad for parameter in found.parameters())
