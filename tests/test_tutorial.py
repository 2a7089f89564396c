"""The page on writing a fuser: its code is the example's, and the example installs, is listed, and runs from a spec."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lavcap_core.testing.clips import write_clip

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "lavcap-gate"
PAGE = (ROOT / "docs" / "how-to" / "write-a-fuser.md").read_text()
SHOWN = ("pyproject.toml", "lavcap_gate/plugin.py", "lavcap_gate/mean_add.py", "tests/test_mean_add.py")

SPEC = """\
lavcap: 1
audio_encoder: {{use: loudness}}
visual_encoder: {{use: brightness}}
fuser: {fuser}
decoder: {{use: numbers}}
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.M | re.S)


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """The example as pip installs it, from a copy."""
    folder = tmp_path_factory.mktemp("gate")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", folder / "source"], check=True)
    return folder / "site"


@pytest.fixture
def with_gate(toy, gate):
    for path in gate.iterdir():
        (toy.folder / path.name).symlink_to(path)
    return toy


def python(*arguments, folder, cwd):
    """Another interpreter that finds the installed plugin."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=cwd)


@pytest.mark.parametrize("name", SHOWN)
def test_page_shows_the_file(name):
    shown = re.search(rf"^`{re.escape(name)}`:\n\n```\w+\n(.*?)^```$", PAGE, flags=re.M | re.S)
    assert shown is not None
    assert shown[1] == (EXAMPLE / name).read_text()


def test_page_shows_every_file():
    files = {path.relative_to(EXAMPLE).as_posix() for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")}
    assert {name for name in files if "__init__" not in name} == set(SHOWN)


def test_fuser_is_as_short_as_promised():
    """The class without its docstrings: twenty lines or so, as the introduction says of plugins."""
    source = (EXAMPLE / "lavcap_gate" / "mean_add.py").read_text()
    body = source[source.index("class MeanAdd") : source.index("def build")]
    code = [line for line in body.splitlines() if line.strip() and not line.strip().startswith('"""')]
    assert len(code) <= 20


def test_it_is_listed(with_gate):
    run = with_gate.run("plugins", "list")
    assert run.returncode == 0, run.stderr
    assert re.search(r"^fuser +mean_add +lavcap-gate 0\.1\.0$", run.stdout, flags=re.M)


def test_info_is_what_the_page_prints(with_gate):
    run = with_gate.run("plugins", "info", "mean_add")
    assert run.returncode == 0, run.stderr
    assert run.stdout in blocks("")


def test_its_own_tests_pass(gate, tmp_path):
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    run = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "tests", folder=gate, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\b\d\d passed", run.stdout)  # one for each check


def test_notebook_block_runs(gate, tmp_path):
    code = next(block for block in blocks("python") if block.startswith("import torch\nfrom lavcap_core.build"))
    run = python("-c", code, folder=gate, cwd=tmp_path)
    assert run.stdout.strip() == re.search(r"# (torch\.Size.*)", code)[1], run.stderr


def caption(site, tmp_path, fuser):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(fuser=fuser))
    clip = tmp_path / "clip.mp4"
    if not clip.exists():
        write_clip(clip, 2.0)
    run = site.run("caption", "--spec", spec, clip, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    loud, bright = re.search(r"loud 4 x ([\d.]+), bright \d+ x ([\d.]+)", run.stdout).groups()
    return float(loud), float(bright)


def test_it_captions_from_a_spec(with_gate, tmp_path):
    """The toy decoder writes the means of the tokens that reach it, so that the gate can be read off the caption."""
    loud, bright = caption(with_gate, tmp_path, "{use: mean_add, gate: 0.0}")
    assert loud > 0
    assert bright > 0
    setting = blocks("yaml")[0].removeprefix("fuser:").strip()
    assert setting == "{use: mean_add, gate: 0.5}"
    assert caption(with_gate, tmp_path, setting) == pytest.approx((loud + bright / 2, bright + loud / 2), abs=0.011)


def test_a_wrong_setting_is_refused_with_its_place(with_gate, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(fuser="{use: mean_add, gate: 11}"))
    run = with_gate.run("check", spec)
    assert run.returncode != 0
    assert re.search(
        r"spec\.yaml:4:\d+: S005 fuser\.gate: .*less than or equal to 10 \(got 11\)", run.stdout + run.stderr
    )


def test_widths_that_differ_are_refused(with_gate, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(fuser="mean_add").replace("use: brightness", "use: brightness, width: 3"))
    run = with_gate.run("check", spec)
    assert run.returncode != 0
    assert "P001" in run.stdout + run.stderr
