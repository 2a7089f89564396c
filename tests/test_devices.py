"""Devices are named by their backends alone."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for place in (ROOT / "lavcap_core", *ROOT.glob("plugins/*/lavcap_*"))
    for path in place.rglob("*")
    if path.suffix in (".py", ".yaml", ".toml")
)


def naming(pattern, *but):
    """Files that name something, outside of some places."""
    outside = [path for path in SOURCES if not any(path.is_relative_to(ROOT / place) for place in but)]
    return [str(path.relative_to(ROOT)) for path in outside if re.search(pattern, path.read_text(), re.IGNORECASE)]


@pytest.mark.parametrize(
    ("pattern", "place"),
    [("hpu|habana|mark_step|hccl", "plugins/lavcap-hpu/lavcap_hpu"), ("cuda|nccl", "lavcap_core/backends")],
)
def test_a_device_is_named_by_its_backend_alone(pattern, place):
    assert naming(pattern), "the pattern finds nothing at all"
    assert naming(pattern, place) == []


def test_the_gaudi_backend_leaves_torch_as_it_is():
    project = tomllib.loads((ROOT / "plugins/lavcap-hpu/pyproject.toml").read_text())["project"]
    assert [re.split(r"[<>=]", text)[0] for text in project["dependencies"]] == ["lavcap-core"]
    assert "optional-dependencies" not in project
