import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lavcap_clip.plugin import TimmConfig
from lavcap_clip.timm import build
from lavcap_core.component import Tune
from lavcap_core.data import collate
from lavcap_core.errors import BuildError, WeightsError
from lavcap_core.interfaces import VisualEncoder
from lavcap_core.media import Clip
from lavcap_core.tuning import trained_state

MODEL = "vit_tiny_patch16_224"


class Place:
    """What a factory gets, without a pipeline."""

    inputs: dict[str, Any] = {}  # noqa: RUF012

    def build(self, use: Any, inputs: Any = None) -> Any:
        raise AssertionError("the encoder holds no components")

    def locate(self, model: str) -> str:
        return model


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BuildError, match=r"pip install 'lavcap-clip\[timm\]'") as caught:
        build(TimmConfig(model=MODEL), Place())
    assert caught.value.code == "B071"


@pytest.fixture
def timm() -> Any:
    try:
        import timm
    except Exception as error:  # a torchvision of another torch raises RuntimeError
        pytest.skip(f"timm can't be imported: {error}")
    return timm


@pytest.fixture
def weights(timm: Any, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model(MODEL, num_classes=1000).state_dict(), file)
    return file


def test_one_feature_vector_per_frame(timm: Any, weights: Path) -> None:
    encoder = build(TimmConfig(model=MODEL, weights=str(weights), batch=2), Place())
    assert isinstance(encoder, VisualEncoder)
    assert (encoder.width, encoder.image_size) == (192, 224)
    frames = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    batch = collate([encoder.prepare(Clip(None, None, frames)), None])
    model = timm.create_model(MODEL, num_classes=1000)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval().reset_classifier(0)
    data = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        tokens = encoder(batch)
        expected = model((torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(tokens.data[0], expected, rtol=1e-4, atol=1e-4)
    assert tokens.mask.sum(dim=1).tolist() == [3, 0]


def test_lora_goes_to_the_fused_layer(timm: Any, weights: Path) -> None:
    encoder = build(TimmConfig(model=MODEL, weights=str(weights), tune=Tune(mode="lora", rank=2)), Place())
    names = list(trained_state(encoder))
    assert len(names) == 24
    assert all(".qkv." in name for name in names)


def test_weights_of_another_model_and_no_weights_at_all(timm: Any, weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save({"nothing": torch.zeros(1)}, other)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"\0" * 64)
    for file in (other, broken, tmp_path / "nowhere.pth"):
        with pytest.raises(WeightsError) as caught:
            build(TimmConfig(model=MODEL, weights=str(file)), Place())
        assert caught.value.code == "W072"


def test_a_name_that_timm_does_not_know(timm: Any) -> None:
    with pytest.raises(BuildError) as caught:
        build(TimmConfig(model="vit_tiny_patch17_224"), Place())
    assert caught.value.code == "B072"
