import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from lavcap_clip.plugin import ClipConfig, TimmConfig, clip, timm


def test_describing_imports_no_torch() -> None:
    code = "import sys, lavcap_clip.plugin; assert not {'torch', 'transformers', 'timm', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def width(**settings: object) -> int | str:
    port = clip.ports(ClipConfig(**settings), {})["visual"]
    assert port.modality == "visual"
    return port.width


def test_widths_of_known_models() -> None:
    assert width() == 768
    assert width(output="patches") == 1024
    assert width(model="openai/clip-vit-base-patch32") == 512
    assert width(model="openai/clip-vit-base-patch16", output="patches") == 768
    assert width(model="somebody/clip") == "clip.width"


@pytest.mark.parametrize(
    "said",
    [
        {"projection_dim": 640, "hidden_size": 1280},
        {"model_type": "clip", "projection_dim": 640, "vision_config": {"projection_dim": 640, "hidden_size": 1280}},
    ],
)
def test_widths_of_a_folder(tmp_path: Path, said: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert width(model=str(tmp_path)) == 640
    assert width(model=str(tmp_path), output="patches", layer=-2) == 1280


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden_size": null}'])
def test_a_broken_folder_is_left_to_the_loading(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert width(model=str(tmp_path)) == "clip.width"


def test_another_layer_only_for_patches() -> None:
    with pytest.raises(ValidationError, match="set output: patches"):
        ClipConfig(layer=-2)
    with pytest.raises(ValidationError):
        ClipConfig(frames=0)


def test_timm_says_its_width_when_it_is_built() -> None:
    assert timm.ports(TimmConfig(model="vit_base_patch16_clip_224.openai"), {})["visual"].width == "timm.width"
