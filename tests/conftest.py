"""Fixtures: a folder of made-up distributions, and the toy plugin in it."""

from __future__ import annotations

import sys

import pytest
from toys import TOY_SPEC, Site

from lavcap_core import registry


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(registry, "_installed", registry.Registry())
    yield Site(folder)
    for name in [name for name in sys.modules if name.split(".")[0] in _packages(folder)]:
        del sys.modules[name]


def _packages(folder):
    return {path.stem for path in folder.iterdir() if path.suffix in ("", ".py")}


@pytest.fixture
def toy(site):
    site.add_toy()
    return site


@pytest.fixture
def toy_spec(toy, tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(TOY_SPEC)
    return path
