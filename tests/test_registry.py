import pytest

from lavcap_core.errors import PluginError
from lavcap_core.registry import installed, suggest

FUSER = """
from lavcap_core.component import Component, Config
class C(Config):
    pass
def make(**k):
    return Component(**{"kind": "fuser", "name": "mine", "config": C, "factory": "x:y", "summary": "s", **k})
mine = make(%s)
"""


def add(site, name="lavcap-mine", text="", module=None, **options):
    module = module or name.replace("-", "_")
    points = {"lavcap.fuser": {"mine": f"{module}:mine"}}
    site.add(name, points, {f"{module}.py": FUSER % text}, **options)


def code_of(call):
    with pytest.raises(PluginError) as caught:
        call()
    return caught.value


def test_index_is_made_without_importing(site):
    site.add("lavcap-bad", {"lavcap.fuser": {"bad": "lavcap_bad:bad"}}, {"lavcap_bad.py": "raise SystemExit(3)"})
    entry = installed().find("fuser", "bad")
    assert (entry.distribution, entry.version, entry.label) == ("lavcap-bad", "1.0", "lavcap-bad/bad")


def test_describe_gives_the_component(site):
    add(site)
    entry, component = installed().get("fuser", "mine")
    assert component.name == "mine"
    assert entry.module == "lavcap_mine"


@pytest.mark.parametrize("body", ["raise SystemExit(3)", "import not_there", "1/0", "def ("])
def test_broken_plugin_gives_its_reason_and_stops_nothing_else(site, body):
    site.add("lavcap-bad", {"lavcap.fuser": {"bad": "lavcap_bad:bad"}}, {"lavcap_bad.py": body})
    add(site)
    error = code_of(lambda: installed().get("fuser", "bad"))
    assert error.code == "R003"
    assert "lavcap-bad 1.0 (lavcap_bad:bad)" in str(error)
    assert installed().get("fuser", "mine")
    assert ("fuser", "bad") in [(e.kind, e.name) for e, _ in installed().broken()]


def test_strict_makes_a_broken_plugin_fatal(site, monkeypatch):
    site.add("lavcap-bad", {"lavcap.fuser": {"bad": "lavcap_bad:bad"}}, {"lavcap_bad.py": "1/0"})
    installed().check_strictly()
    monkeypatch.setenv("LAVCAP_STRICT", "1")
    assert "ZeroDivisionError" in str(code_of(installed().check_strictly))


def test_name_of_two_distributions_is_an_error_that_names_both(site):
    add(site)
    add(site, name="lavcap-other")
    error = code_of(lambda: installed().find("fuser", "mine"))
    assert error.code == "R002"
    assert "lavcap-mine 1.0, lavcap-other 1.0" in str(error)
    assert "use: lavcap-other/mine" in str(error)
    assert installed().find("fuser", "lavcap-other/mine").distribution == "lavcap-other"


@pytest.mark.parametrize(("text", "code"), [("api=7", "R004"), ("api=-1", "R004"), ('name="his"', "R006")])
def test_descriptor_that_does_not_fit(site, text, code):
    add(site, text=text)
    assert code_of(lambda: installed().get("fuser", "mine")).code == code


def test_api_before_this_one_is_accepted(site):
    add(site, text="api=0")
    assert installed().get("fuser", "mine")


def test_entry_point_that_is_no_component(site):
    site.add("lavcap-odd", {"lavcap.fuser": {"odd": "lavcap_odd:odd"}}, {"lavcap_odd.py": "odd = 3"})
    assert code_of(lambda: installed().get("fuser", "odd")).code == "R006"


def test_own_requirement_is_compared_before_the_import(site):
    add(site, text=")\nraise SystemExit('imported'", requires=["lavcap-core>=99"])
    error = code_of(lambda: installed().get("fuser", "mine"))
    assert error.code == "R005"
    assert "needs lavcap-core>=99" in str(error)


def test_unmet_requirements_are_told_from_metadata(site):
    add(site, text=")\n1/0#", requires=["not-there-at-all>=2", "numpy>=1", "other; extra == 'x'", "pydantic>=999"])
    assert installed().find("fuser", "mine").unmet() == ["not-there-at-all>=2", "pydantic>=999"]


def test_unknown_but_in_the_catalogue(site):
    error = code_of(lambda: installed().find("aligner", "mmd"))
    assert error.code == "R001"
    assert error.problems[0].help == "pip install lavcap-dali"


def test_misspelt(site):
    add(site)
    assert "did you mean 'mine'?" in str(code_of(lambda: installed().find("fuser", "minee")))
    near = code_of(lambda: installed().find("aligner", "mmmd"))
    assert "did you mean 'mmd'? (pip install lavcap-dali)" in str(near)


def test_older_copy_further_down_the_path_is_not_seen(site, tmp_path, monkeypatch):
    import sys

    add(site, version="2.0")
    second = tmp_path / "second"
    second.mkdir()
    type(site)(second).add("lavcap-mine", {"lavcap.fuser": {"mine": "x:y"}})
    sys.path.append(str(second))
    try:
        assert installed().find("fuser", "mine").version == "2.0"
    finally:
        sys.path.remove(str(second))


def test_suggest():
    assert suggest("epsilonn", ["epsilon", "iterations"]) == "did you mean 'epsilon'?"
    assert suggest("zzz", ["epsilon"]) is None
