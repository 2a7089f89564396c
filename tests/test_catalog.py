"""The catalogue and the distributions of this repository say the same."""

import tomllib
from pathlib import Path

import pytest

from lavcap_core import catalog

ROOT = Path(__file__).parent.parent
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_catalogue_says_what_the_entry_points_say(path):
    project = tomllib.loads(path.read_text())["project"]
    plugin = catalog.known()[project["name"]]
    points = {group.removeprefix("lavcap."): sorted(names) for group, names in project["entry-points"].items()}
    assert {kind: sorted(names) for kind, names in plugin.provides.items()} == points
    assert plugin.licence == project["license"]
    assert plugin.status == "beta"


def test_every_beta_plugin_is_here():
    here = {tomllib.loads(path.read_text())["project"]["name"] for path in PROJECTS}
    assert {name for name, plugin in catalog.known().items() if plugin.status == "beta"} == here


def test_find_and_names():
    assert [plugin.distribution for plugin in catalog.find("transport", "sinkhorn")] == ["lavcap-ot"]
    assert catalog.find("fuser", "nothing") == []
    assert "ot_att" in catalog.names("fuser")


def test_every_plugin_has_what_the_docs_table_shows():
    for plugin in catalog.known().values():
        assert plugin.summary
        assert plugin.install == f"pip install {plugin.distribution}"
        assert plugin.status in ("beta", "planned", "stable")
