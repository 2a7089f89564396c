import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from pydantic import ValidationError

from lavcap_ced.plugin import HUB, WIDTHS, CedConfig, ced
from lavcap_core.component import Port


def width(**settings):
    return ced.ports(CedConfig.model_validate(settings), {})["audio"].width


def test_plugin_is_light():
    heavy = ("torch", "transformers", "peft", "numpy", "huggingface_hub", "safetensors")
    code = f"import sys, lavcap_ced.plugin; sys.exit(str([name for name in {heavy} if name in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == "[]"


def test_entry_point_names_the_component():
    (point,) = [p for p in entry_points(group="lavcap.audio_encoder") if p.name == "ced"]
    assert point.load() is ced
    assert (ced.kind, ced.name) == ("audio_encoder", "ced")


@pytest.mark.parametrize(("name", "size"), HUB.items())
def test_width_of_published_names(name, size):
    assert ced.ports(CedConfig(model=name), {}) == {"audio": Port("audio", WIDTHS[size])}


def test_width_of_a_size():
    assert width(size="small") == 384
    assert width(model="weights.pt", size="mini") == 256


def test_width_of_a_folder_is_read_from_its_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"embed_dim": 320}))
    assert width(model=str(tmp_path)) == 320


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"embed_dim": "wide"}', None])
def test_width_is_a_name_where_nothing_says_it(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert width(model=str(tmp_path)) == "ced.width"
    assert width(model="weights.pt") == "ced.width"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "size"),
        ({"size": "huge"}, "huge|tiny"),
        ({"size": "tiny", "padding": "token"}, "kaldi"),
        ({"size": "tiny", "frontend": "kaldi"}, "frontend"),
        ({"size": "tiny", "spec_augment": {"frequency": 65}}, "64"),
        ({"size": "tiny", "tune": {"mode": "all"}}, "lora"),
        ({"size": "tiny", "seed": -1}, "seed"),
    ],
)
def test_wrong_settings(settings, said):
    with pytest.raises(ValidationError, match=said):
        CedConfig.model_validate(settings)


def test_defaults():
    config = CedConfig(model="mispeech/ced-base")
    assert (config.front_end, config.pool, config.padding) == ("native", "frequency", "mask")
    assert config.tune.mode == "freeze"
    assert config.spec_augment is None


def test_spec_augment_defaults_are_the_released_ones():
    config = CedConfig.model_validate({"size": "tiny", "spec_augment": {}})
    assert config.spec_augment is not None
    assert (config.spec_augment.frequency, config.spec_augment.time) == (48, 192)
