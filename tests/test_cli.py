import json

import pytest
from toys import TOY_POINTS, TOY_SPEC

from lavcap_core.cli import VERBS

BAD = TOY_SPEC.replace("brightness}", "brightness, widht: 3}").replace("join}", "joim}")


def test_help_names_every_verb(site):
    done = site.run("--help", check=True)
    assert all(f"    {verb} " in done.stdout for verb in VERBS)
    assert site.run().stdout == done.stdout
    assert site.run("--version").stdout == "lavcap 0.1.0\n"


def test_check_says_fine_or_everything_that_is_wrong(toy, toy_spec):
    done = toy.run("check", toy_spec, check=True)
    assert done.stdout == f"{toy_spec}: fine (lavcap-core 0.1.0, lavcap-toy 1.0)\n"
    toy_spec.write_text(BAD)
    done = toy.run("check", toy_spec)
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if "toy.yaml" in line] == [
        f"{toy_spec}:3:35: S002 visual_encoder.widht: unknown key (got 3)",
        f"{toy_spec}:4:9: R001 fuser.use: no fuser named 'joim' is installed",
    ]
    assert "   help: did you mean 'width'?" in done.stderr


def test_check_takes_overrides(toy, toy_spec):
    done = toy.run("check", toy_spec, "--set", "generate.beems=2")
    assert done.returncode == 2
    assert "--set generate.beems=2: S002" in done.stderr


def test_show(toy, toy_spec):
    text = toy.run("show", toy_spec, check=True).stdout
    assert "fuser           join                     lavcap-toy       <- audio 2 + visual 2" in text
    mermaid = toy.run("show", toy_spec, "--format", "mermaid", check=True).stdout
    assert "  audio_encoder -->|audio 2| fuser" in mermaid
    assert "  decoder --> caption" in mermaid
    dot = toy.run("show", toy_spec, "--format", "dot", check=True).stdout
    assert '  fuser -> decoder [label="fused 2"];' in dot
    filled = json.loads(toy.run("show", toy_spec, "--format", "json", check=True).stdout)
    assert filled["audio_encoder"] == {"use": "loudness", "width": 2}


def test_explain(site):
    assert site.run("explain", "p001", check=True).stdout.startswith("# P001: ")
    assert "P001: two parts of different width" in site.run("explain", check=True).stdout
    done = site.run("explain", "P0001")
    assert done.returncode == 2
    assert "did you mean 'P001'?" in done.stderr


def test_schema_is_json(site):
    assert json.loads(site.run("schema", check=True).stdout)["properties"]["fuser"]


def test_plugins_list_shows_what_is_missing(toy):
    points = {"lavcap.backend": {"hpu": "lavcap_hpu.plugin:hpu"}}
    toy.add("lavcap-hpu", points, requires=["not-there>=2"])
    lines = toy.run("plugins", "list", check=True).stdout.splitlines()
    row = next(line for line in lines if " hpu " in line)
    assert row.split(maxsplit=4)[4] == "needs not-there>=2, habana_frameworks"
    kinds = json.loads(toy.run("plugins", "list", "--kind", "decoder", "--json", check=True).stdout)
    assert {"kind": "decoder", "name": "numbers", "distribution": "lavcap-toy 1.0", "state": ""} in kinds
    known = toy.run("plugins", "list", "--known", check=True).stdout
    assert "not installed (planned): pip install lavcap-dali" in known


def test_doctor_gives_the_reason_of_a_broken_plugin(toy, toy_spec):
    toy.add("lavcap-bad", {"lavcap.fuser": {"bad": "lavcap_bad:bad"}}, {"lavcap_bad.py": "raise ValueError('why')"})
    done = toy.run("plugins", "doctor")
    assert done.returncode == 1
    assert "fuser 'bad' of lavcap-bad 1.0 (lavcap_bad:bad) can't be imported: ValueError: why" in done.stdout
    assert "fuser" in toy.run("plugins", "list", check=True).stdout
    assert toy.run("plugins", "list", "--check").returncode == 1
    toy.run("check", toy_spec, check=True)
    assert toy.run("check", toy_spec, env={"LAVCAP_STRICT": "1"}).returncode == 2


LAMP = """\
from lavcap_core.component import Component, Config
from lavcap_core.errors import BuildError

lamp = Component(
    kind="backend", name="lamp", config=Config, factory="lavcap_lamp:build", summary="s", doctor="lavcap_lamp:report"
)


def report():
    yield "1 lamp"
    raise BuildError("B002", "it is dark")
"""


def test_doctor_tries_out_hardware(toy):
    toy.add("lavcap-lamp", {"lavcap.backend": {"lamp": "lavcap_lamp:lamp"}}, {"lavcap_lamp.py": LAMP})
    assert "1 lamp" not in toy.run("plugins", "doctor", check=True).stdout
    for words in (["lamp"], ["lavcap-lamp"], ["backend/lamp"], ["lavcap-lamp/lamp"], []):
        done = toy.run("plugins", "doctor", *words, "--hardware")
        assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (2, "1 lamp", "B002 it is dark\n")
    none = toy.run("plugins", "doctor", "lavcap-toy", "--hardware", check=True).stdout
    assert none.splitlines() == [
        f"{sum(map(len, TOY_POINTS.values()))} entry points, 0 broken",
        "nothing here has a report on hardware",
    ]


def test_doctor_examines_what_is_named(toy):
    toy.add("lavcap-bad", {"lavcap.fuser": {"bad": "lavcap_bad:bad"}}, {"lavcap_bad.py": "raise ValueError('why')"})
    assert toy.run("plugins", "doctor", "loudness", check=True).stdout == "1 entry points, 0 broken\n"
    assert toy.run("plugins", "doctor", "bad").returncode == 1
    done = toy.run("plugins", "doctor", "mmd")
    assert (done.returncode, "R001 no component named 'mmd' is installed" in done.stderr) == (2, True)


def test_plugins_info(toy):
    text = toy.run("plugins", "info", "loudness", check=True).stdout
    assert "audio_encoder 'loudness' of lavcap-toy 1.0" in text
    assert "  width: int, default 2, Ge(ge=1)" in text
    done = toy.run("plugins", "info", "mmd")
    assert done.returncode == 2
    assert "pip install lavcap-dali" in done.stderr


def test_init_writes_a_valid_spec_and_never_overwrites(site, tmp_path):
    assert "lavcap-paper  (lavcap-core 0.1.0)" in site.run("init", "--list", check=True).stdout
    site.run("init", "lavcap", cwd=tmp_path, check=True)
    site.run("check", tmp_path / "lavcap.yaml", check=True)
    again = site.run("init", "lavcap", cwd=tmp_path)
    assert again.returncode == 2
    assert "C008" in again.stderr
    site.run("init", "lavcap", "--force", cwd=tmp_path, check=True)
    assert site.run("init", "lavcap", "--out", "-", check=True).stdout.startswith("# LAVCap")
    unknown = site.run("init", "lavcapp", cwd=tmp_path)
    assert "did you mean 'lavcap'?" in unknown.stderr


def test_weights_of_a_preset_stay_where_they_are(toy, tmp_path):
    text = TOY_SPEC + "weights: ../w.safetensors  # trained\n"
    files = {"lavcap_small/presets/small.yaml": text, "lavcap_small/__init__.py": "raise ImportError('not to import')"}
    toy.add("lavcap-small", {"lavcap.preset": {"small": "lavcap_small.presets:small"}}, files)
    toy.run("init", "small", cwd=tmp_path, check=True)
    expected = (toy.folder / "lavcap_small" / "w.safetensors").resolve()
    assert f"weights: {expected}  # trained\n" in (tmp_path / "small.yaml").read_text()


def test_info(toy):
    text = toy.run("info", check=True).stdout
    assert "lavcap-toy 1.0" in text
    assert "torch " in text


def test_verbs_of_plugins(site):
    code = "def command(parser):\n    parser.add_argument('n', type=int)\n"
    code += "    parser.set_defaults(run=lambda a: print(a.n * 2) or 0)\n"
    site.add("lavcap-verb", {"lavcap.command": {"double": "lavcap_verb:command"}}, {"lavcap_verb.py": code})
    assert "double    from lavcap-verb" in site.run("--help", check=True).stdout
    assert site.run("double", 4, check=True).stdout == "8\n"


def test_broken_verb_stops_only_itself(site):
    site.add("lavcap-verb", {"lavcap.command": {"double": "lavcap_verb:command"}}, {"lavcap_verb.py": "1/0"})
    assert "double" in site.run("--help", check=True).stdout
    done = site.run("double")
    assert done.returncode == 2
    assert "R003 command 'double' of lavcap-verb can't be loaded: ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("words", [["capton"], ["caption"], ["caption", "--batch", "0", "x"], ["plugins"]])
def test_wrong_use_is_exit_code_2(site, words):
    assert site.run(*words).returncode == 2
