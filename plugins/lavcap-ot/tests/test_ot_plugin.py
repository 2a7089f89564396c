"""Descriptors: lightness, settings, ports."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import pytest
from pydantic import ValidationError

from lavcap_core.component import Component, Port, Use
from lavcap_core.errors import PortError
from lavcap_ot import plugin
from lavcap_ot.plugin import OTAlignerConfig, OTAttConfig, OTLossConfig, SinkhornAlignerConfig, SinkhornConfig

COMPONENTS = [plugin.sinkhorn, plugin.emd, plugin.ot, plugin.sinkhorn_aligner, plugin.emd_aligner, plugin.ot_att]


def test_describing_imports_no_heavy_module() -> None:
    code = (
        "import sys, lavcap_ot.plugin\n"
        "heavy = {'torch', 'ot', 'numpy', 'scipy', 'transformers'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_entry_points_name_the_components() -> None:
    found = {
        (kind, point.name): point.load()
        for kind in ("transport", "aligner", "fuser", "decoder")
        for point in entry_points(group=f"lavcap.{kind}")
        if point.value.startswith("lavcap_ot.")
    }
    assert {(c.kind, c.name): c for c in COMPONENTS} == found


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda c: f"{c.kind}-{c.name}")
def test_factories_exist_and_every_setting_is_described(component: Component) -> None:
    module, _, function = component.factory.partition(":")
    assert callable(getattr(import_module(module), function))
    assert component.summary
    assert component.source
    assert all(field.description for field in component.config.model_fields.values())


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (SinkhornConfig, {"epsilon": 0}),
        (SinkhornConfig, {"iterations": 0}),
        (SinkhornConfig, {"method": "fast"}),
        (SinkhornAlignerConfig, {"project": 0}),
        (SinkhornAlignerConfig, {"epsilonn": 0.1}),
        (OTLossConfig, {"tau": 0}),
        (OTLossConfig, {"weight": -1}),
        (OTLossConfig, {"clamp": [4, 0]}),
        (OTLossConfig, {"clamp": [0, 4]}),
        (OTAlignerConfig, {}),
    ],
)
def test_wrong_settings_are_refused(config: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**settings)


def ports(audio: int | str = 768, visual: int | str = 768, space: str | None = None) -> dict[str, Port]:
    return {"audio": Port("audio", audio, space), "visual": Port("visual", visual, space)}


def test_aligner_ports() -> None:
    plain = SinkhornAlignerConfig()
    inputs = ports(space="clip")
    assert plugin.ot.ports(plain, inputs) == inputs
    with pytest.raises(PortError, match="P001") as caught:
        plugin.ot.ports(plain, ports(768, 1024))
    assert caught.value.problems[0].help == "set aligner.project: 768"
    projected = plugin.ot.ports(SinkhornAlignerConfig(project=512), ports(768, 1024, "x"))
    assert projected == {"audio": Port("audio", 512), "visual": Port("visual", 512)}
    assert plugin.ot.ports(plain, {"audio": Port("audio", 5)}) == {"audio": Port("audio", 5)}


def test_fuser_ports() -> None:
    config = OTAttConfig()
    assert plugin.ot_att.ports(config, ports(space="clip")) == {"tokens": Port("fused", 768, "clip")}
    mixed = {"audio": Port("audio", 4, "x"), "visual": Port("visual", 4, "y")}
    assert plugin.ot_att.ports(config, mixed) == {"tokens": Port("fused", 4)}
    assert plugin.ot_att.ports(config, {"visual": Port("visual", 4)}) == {"tokens": Port("fused", 4)}
    with pytest.raises(PortError, match="P001"):
        plugin.ot_att.ports(config, ports(3, 4))


def test_a_transport_stands_in_its_slot() -> None:
    use = Use("transport", "sinkhorn", "lavcap-ot", SinkhornConfig(), plugin.sinkhorn)
    assert OTAlignerConfig(transport=use).transport is use
