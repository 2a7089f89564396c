"""Descriptors: light to import, ports that say what doesn't fit, and the conformance kit on every fuser."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

from lavcap_core.component import Component, Port
from lavcap_core.errors import PortError
from lavcap_core.testing.checks import from_component, parametrize_with_checks
from lavcap_fusers import plugin

FUSERS = ("audio_only", "channel_concat", "concat", "cross_attention", "joint", "qformer", "visual_only")
AUDIO, VISUAL = Port("audio", 768, "a"), Port("visual", 768, "a")


def component(name: str) -> Component:
    return getattr(plugin, name)


def ports(name: str, settings=None, **inputs: Port) -> Port:
    fuser = component(name)
    return fuser.ports(fuser.config(**(settings or {})), inputs)["tokens"]


def test_descriptors_load_without_torch():
    code = (
        "import sys, lavcap_fusers.plugin;"
        "print([m for m in ('torch', 'transformers', 'peft', 'timm', 'ot') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_entry_points_are_the_descriptors():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["lavcap.fuser"]
    assert sorted(points) == sorted(FUSERS)
    for name, target in points.items():
        module, attribute = target.split(":")
        found = getattr(import_module(module), attribute)
        assert (found.kind, found.name) == ("fuser", name)
        factory, function = found.factory.split(":")
        assert callable(getattr(import_module(factory), function))


@pytest.mark.parametrize("name", FUSERS)
def test_every_setting_is_described(name):
    assert all(field.description for field in component(name).config.model_fields.values())


@pytest.mark.parametrize("name", ["concat", "cross_attention", "joint", "qformer"])
def test_unequal_widths_name_the_setting_that_mends_them(name):
    with pytest.raises(PortError) as caught:
        ports(name, audio=AUDIO, visual=Port("visual", 1024))
    assert caught.value.code == "P001"
    assert caught.value.problems[0].help == "set aligner.project: 768"


@pytest.mark.parametrize("name", ["cross_attention", "joint", "qformer"])
def test_heads_must_divide_the_width(name):
    with pytest.raises(PortError, match="12 attention heads do not divide the width 512") as caught:
        ports(name, audio=Port("audio", 512), visual=Port("visual", 512))
    assert caught.value.code == "P050"
    assert caught.value.problems[0].help == "set fuser.heads: 8"
    assert ports(name, {"heads": 8}, audio=Port("audio", 512), visual=Port("visual", 512)).width == 512


@pytest.mark.parametrize(
    ("name", "there", "help"),
    [
        ("channel_concat", "audio", "add visual_encoder, or fuser.use: audio_only"),
        ("cross_attention", "visual", "add audio_encoder, or fuser.use: visual_only"),
        ("audio_only", "visual", "add audio_encoder, or fuser.use: visual_only"),
        ("visual_only", "audio", "add visual_encoder, or fuser.use: audio_only"),
    ],
)
def test_missing_encoder_is_named(name, there, help):
    with pytest.raises(PortError) as caught:
        ports(name, **{there: AUDIO if there == "audio" else VISUAL})
    assert caught.value.code == "P043"
    assert caught.value.problems[0].help == help


@pytest.mark.parametrize("name", FUSERS)
def test_no_encoder_at_all(name):
    with pytest.raises(PortError) as caught:
        ports(name)
    assert caught.value.code == "P043"


@pytest.mark.parametrize("name", ["concat", "joint", "qformer"])
@pytest.mark.parametrize("there", ["audio", "visual"])
def test_one_modality_is_enough(name, there):
    assert ports(name, **{there: AUDIO if there == "audio" else VISUAL}).width == 768


def test_widths_out():
    inputs = {"audio": Port("audio", 768), "visual": Port("visual", 1024)}
    assert ports("channel_concat", **inputs).width == 1792
    assert ports("audio_only", **inputs).width == 768
    assert ports("visual_only", **inputs).width == 1024


def test_widths_that_are_names():
    inputs = {"audio": Port("audio", 768), "visual": Port("visual", "clip.width")}
    assert ports("concat", **inputs).width == 768
    assert ports("channel_concat", **inputs).width == "768+clip.width"
    assert ports("visual_only", **inputs).width == "clip.width"
    assert ports("joint", visual=Port("visual", "clip.width")).width == "clip.width"


def test_space_is_kept_where_nothing_is_learned():
    other = Port("visual", 768, "b")
    assert ports("concat", audio=AUDIO, visual=VISUAL).space == "a"
    assert ports("concat", audio=AUDIO, visual=other).space is None
    assert ports("audio_only", audio=AUDIO, visual=other).space == "a"
    assert ports("visual_only", audio=AUDIO, visual=other).space == "b"
    for name in ("channel_concat", "cross_attention", "joint", "qformer"):
        assert ports(name, audio=AUDIO, visual=VISUAL).space is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("concat", {"heads": 1}),
        ("cross_attention", {"heads": 0}),
        ("cross_attention", {"norm": "post"}),
        ("joint", {"dropout": 1.0}),
        ("joint", {"mlp_ratio": 0}),
        ("qformer", {"window": 0}),
        ("qformer", {"layers": 0}),
        ("qformer", {"queries": 0}),
    ],
)
def test_settings_are_bounded(name, settings):
    with pytest.raises(ValidationError):
        component(name).config(**settings)


@pytest.mark.parametrize("name", FUSERS)
def test_width_is_the_ports(name):
    inputs = {"audio": Port("audio", 24), "visual": Port("visual", 24)}
    assert from_component(component(name))(inputs).width == ports(name, **inputs).width


@parametrize_with_checks("fuser", from_component(plugin.concat))
def test_concat_conforms(check):
    check()


@parametrize_with_checks("fuser", from_component(plugin.channel_concat))
def test_channel_concat_conforms(check):
    check()


@parametrize_with_checks("fuser", from_component(plugin.audio_only))
def test_audio_only_conforms(check):
    check()


@parametrize_with_checks("fuser", from_component(plugin.visual_only))
def test_visual_only_conforms(check):
    check()


@parametrize_with_checks("fuser", from_component(plugin.cross_attention))
def test_cross_attention_conforms(check):
    check()


@parametrize_with_checks("fuser", from_component(plugin.cross_attention, norm="pre", heads=4))
def test_cross_attention_with_norm_conforms(check):
    check()


@parametrize_with_checks("fuser", from_component(plugin.joint))
def test_joint_conforms(check):
    check()


@parametrize_with_checks("fuser", from_component(plugin.qformer))
def test_qformer_conforms(check):
    check()


@parametrize_with_checks("fuser", from_component(plugin.qformer, queries=2, window=0.7, layers=1, heads=4))
def test_qformer_of_two_queries_conforms(check):
    check()
