"""Sweeps: their files, LAVCap's ablations, the runs' processes, and the table."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import settings, write_models

from lavcap_core import presets
from lavcap_core.cli import main
from lavcap_core.errors import LavcapError
from lavcap_core.run.sweep import plan, table, work
from lavcap_core.spec import read_text
from lavcap_core.testing.clips import write_clip
from lavcap_core.yaml import flow, parse

ROOT = Path(__file__).parents[1]
TABLES = ("table2", "table3", "table4", "table6")

BASE = """\
lavcap: 1
audio_encoder: {use: loudness, width: 3}
fuser: join
decoder: {use: speller, dropout: 0.0}
train:
  data: {use: tones}
  validation: {use: tones, first: 16, count: 8}
  metrics: [exact]
  steps: 6
  save_every: 2
  validate_every: 1
  warmup_steps: 0
  lr: 0.01
"""

SWEEP = """\
sweep: 1
title: Widths
base: base.yaml
source: A paper, Table 9
set:
  train.steps: 4
runs:
  narrow:
    published: {exact: 40.0}
  wide:
    title: eight wide
    set: {audio_encoder.width: 8, decoder: {dropout: 0.5}}
    published: {exact: 51.0, other: 3.25}
"""


@pytest.fixture
def place(toy, tmp_path, monkeypatch):
    """A folder with a base and a sweep, where the toy plugin is installed."""
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "base.yaml").write_text(BASE)
    (folder / "sweep.yaml").write_text(SWEEP)
    monkeypatch.chdir(folder)
    return folder


def problems(text):
    Path("sweep.yaml").write_text(text)
    with pytest.raises(LavcapError) as caught:
        plan.read("sweep.yaml")
    return [str(problem).splitlines()[0] for problem in caught.value.problems]


# --- the file --------------------------------------------------------------------------------------------------------


def test_changes_go_into_the_base_and_later_ones_win(place):
    (place / "more.yaml").write_text(SWEEP.replace("runs:", "seeds: [5, 6]\nruns:"))
    sweep = plan.read("more.yaml", overrides=["train.steps=9", "audio_encoder.width=2"])
    assert [run.name for run in sweep.runs()] == ["narrow-seed5", "narrow-seed6", "wide-seed5", "wide-seed6"]
    filled = [run.spec.filled() for run in sweep.runs()]
    assert [spec["train"]["seed"] for spec in filled] == [5, 6, 5, 6]
    assert {spec["train"]["steps"] for spec in filled} == {9}  # the command's, over the file's
    assert [spec["audio_encoder"]["width"] for spec in filled] == [2, 2, 8, 8]  # the run's own, over the command's
    assert filled[2]["decoder"] == {"use": "speller", "dropout": 0.5}
    assert [(row.title, row.published, row.source) for row in sweep.rows] == [
        ("narrow", {"exact": 40.0}, "A paper, Table 9"),
        ("eight wide", {"exact": 51.0, "other": 3.25}, "A paper, Table 9"),
    ]


def test_a_value_that_names_a_component_replaces_one_that_does_not_changes_it(place):
    text = SWEEP.replace("decoder: {dropout: 0.5}", "decoder: {use: numbers}, train: {lr: 0.5, data: {count: 2}}")
    Path("sweep.yaml").write_text(text)
    wide = plan.read("sweep.yaml").runs(["wide"])[0].spec.filled()
    assert wide["decoder"]["use"] == "numbers"
    assert "dropout" not in wide["decoder"]
    assert (wide["train"]["lr"], wide["train"]["steps"], wide["train"]["data"]["count"]) == (0.5, 4, 2)


def test_all_problems_of_a_sweep_at_once(place):
    text = SWEEP.replace("source:", "sauce:").replace("exact: 40.0", "exact: much").replace("  wide:", "  a wide one:")
    assert problems(text.replace("title: eight", "titel: eight").replace("train.steps", "train..steps")) == [
        "sweep.yaml:4:1: S002 sauce: unknown key (got 'A paper, Table 9')",
        "sweep.yaml:6:3: S006 'train..steps' is not a key",
        "sweep.yaml:9:17: S004 runs.narrow.published.exact: input should be a valid number (got 'much')",
        "sweep.yaml:10:3: C060 a run can't be called 'a wide one'",
        "sweep.yaml:11:5: S002 runs.a wide one.titel: unknown key (got 'eight wide')",
    ]


def test_a_seed_may_not_be_there_twice(place):
    (found,) = problems(SWEEP.replace("runs:", "seeds: [1, 1]\nruns:"))
    assert found.startswith("sweep.yaml:7:1: S005 seeds: a seed is there twice")


def test_problems_of_the_specs_are_shown_where_they_were_written(place):
    found = problems(SWEEP.replace("audio_encoder.width: 8", "audio_encoder.widht: 8").replace("steps: 4", "steps: 0"))
    assert found == [
        "sweep.yaml:6:3: S005 train.steps: input should be greater than or equal to 1 (got 0)",
        "sweep.yaml:12:11: S002 audio_encoder.widht: unknown key (got 8)",
    ]


def test_a_problem_in_the_base_says_which_run_has_it(place):
    found = problems(SWEEP.replace("audio_encoder.width: 8, decoder: {dropout: 0.5}", "audio_encoder: null"))
    assert found == [
        "base.yaml:3:8: P002 fuser.use: no audio or visual tokens arrive: no part before it gives any (run wide)"
    ]
    found = problems(
        SWEEP.replace("set:\n  train.steps: 4", "set:\n  audio_encoder: null").replace("audio_encoder.width: 8, ", "")
    )
    assert found == ["base.yaml:3:8: P002 fuser.use: no audio or visual tokens arrive: no part before it gives any"]


def test_a_base_a_run_or_a_sweep_that_is_not_there(place, capsys):
    assert problems(SWEEP.replace("base.yaml", "lavcap-papr"))[0].startswith(
        "sweep.yaml:3:1: S007 no file and no preset"
    )
    Path("sweep.yaml").write_text(SWEEP)
    assert main(["sweep", "sweep.yaml", "--only", "wied", "--dry-run"]) == 2
    assert "C061 the sweep has no run named 'wied'\n   help: did you mean 'wide'?" in capsys.readouterr().err
    assert main(["sweep", "table33"]) == 2
    assert "C062" in capsys.readouterr().err
    assert main(["sweep", "table3.yaml"]) == 2
    assert "lavcap init table3" in capsys.readouterr().err
    assert main(["init", "table3"]) == 0
    assert main(["sweep", "table3.yaml", "--dry-run"]) == 0
    assert main(["sweep", "table3.yaml"]) == 2
    assert "C024" in capsys.readouterr().err


def test_paths_are_relative_to_the_file_that_says_them(place, tmp_path, monkeypatch):
    (place / "deep").mkdir()
    text = SWEEP.replace("base.yaml", "../base.yaml").replace("train.steps: 4", "train.data: own.jsonl")
    (place / "deep" / "sweep.yaml").write_text(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    sweep = plan.read(place / "deep" / "sweep.yaml", overrides=["train.validation=mine.jsonl"])
    filled = sweep.runs()[0].spec.filled()
    assert filled["train"]["data"] == {"use": "manifest", "file": str(place / "deep" / "own.jsonl")}
    assert filled["train"]["validation"]["file"] == str(elsewhere / "mine.jsonl")


def test_dry_run_lists_what_each_run_changes(place, capsys):
    assert main(["sweep", "sweep.yaml", "--dry-run", "--set", "train.lr=1e-3"]) == 0
    assert capsys.readouterr().out == (
        "Widths: 2 runs of base.yaml, all with train.steps=4  train.lr=0.001\n"
        "  narrow  new  -\n"
        "  wide    new  audio_encoder.width=8  decoder={dropout: 0.5}\n"
    )


def test_titles_of_several_lines_are_comments_of_one(place):
    more = SWEEP.replace("title: Widths", r'title: "Widths\nof\x85all"').replace(
        "title: eight wide", "title: |\n      a\n      b"
    )
    Path("sweep.yaml").write_text(more)
    sweep = plan.read("sweep.yaml")
    row = sweep.rows[1]
    text = plan.text(sweep, row, row.runs[0])
    assert text.splitlines()[:2] == ["# Widths of all: a b", "# base.yaml, changed:"]
    assert read_text(text).filled()["audio_encoder"]["width"] == 8


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def printable(value):
    """Without the characters that YAML can't write, and those of two UTF-16 units beside unprintable ones."""
    if isinstance(value, str):
        return "".join(letter for letter in value if ord(letter) < 0xD800)
    if isinstance(value, tuple):
        return tuple(map(printable, value))
    return {printable(k): printable(v) for k, v in value.items()} if isinstance(value, dict) else value


@given(values.map(printable))
def test_flow_is_read_back_as_it_was(value):
    node, found = parse(f"key: {flow(value)}\n")
    assert (node.plain(), found) == ({"key": value}, [])


# --- LAVCap's ablations ----------------------------------------------------------------------------------------------

EVERY = {
    "table2": {"audio", "visual", "audio-visual", "audio-visual-ot"},
    "table3": {"qformer", "joint", "cross-attention", "ot-att", "concat", "channel-concat"},
    "table4": {"finetune-freeze", "lora-freeze", "finetune-lora", "lora-lora"},
    "table6": {"audio", "content", "separate"},
}


def differing(one, other, key=""):
    if not isinstance(one, dict) or not isinstance(other, dict):
        return set() if one == other else {key}
    names = one.keys() | other.keys()
    return {found for n in names for found in differing(one.get(n), other.get(n), f"{key}.{n}".strip("."))}


@pytest.mark.parametrize("base", ["lavcap", "lavcap-paper", "lavcap-released"])
@pytest.mark.parametrize("name", TABLES)
def test_ablations_check_with_every_preset_and_change_what_they_say(name, base):
    sweep = plan.read(plan.find(name), base)
    assert {row.name for row in sweep.rows} == EVERY[name]
    before = read_text(presets.find(base).read_text()).filled()
    allowed = {"table2": ("fuser", "aligner.loss"), "table3": ("fuser",)}
    keys = allowed.get(name, ("audio_encoder.tune.mode", "decoder.tune.mode", "decoder.prompt"))
    for run in sweep.runs():
        assert not run.spec.wiring.skipped
        changed = differing(before, run.spec.filled())
        assert all(key.startswith(keys) for key in changed), run.name


def test_rows_of_table_two_differ_in_modalities_and_the_loss():
    runs = {run.name: run.spec.filled() for run in plan.read(plan.find("table2")).runs()}
    assert {name: (spec["fuser"]["use"], spec["aligner"]["loss"] is not None) for name, spec in runs.items()} == {
        "audio": ("audio_only", False),
        "visual": ("visual_only", False),
        "audio-visual": ("concat", False),
        "audio-visual-ot": ("concat", True),
    }


def test_what_the_paper_has_twice_is_the_same_here():
    found = {(name, row.name): row for name in TABLES for row in plan.read(plan.find(name)).rows}
    full = {"METEOR": 26.2, "CIDEr": 84.9, "SPICE": 18.5, "SPIDEr": 51.7}  # Table I
    same = [found["table3", "ot-att"], found["table4", "lora-lora"], found["table6", "audio"]]
    assert [row.published for row in same] == [full] * 3
    specs = [row.runs[0].spec.filled() for row in same]
    assert specs[0] == specs[1] == specs[2]
    extra = {key for key, row in found.items() if not row.published}
    assert extra == {("table2", "visual"), ("table3", "concat"), ("table3", "channel-concat")}
    # SPIDEr is the mean of CIDEr and SPICE, but for rounding and one row of the paper (Table IV, LoRA and frozen).
    for row in found.values():
        if row.published:
            mean = (row.published["CIDEr"] + row.published["SPICE"]) / 2
            assert row.published["SPIDEr"] == pytest.approx(mean, abs=0.11), row.title


def test_published_numbers_are_read_beside_the_scores_of_the_same_name(tmp_path):
    found = table.gather(plan.read(plan.find("table3")), tmp_path)
    assert found["published"] == ["METEOR", "CIDEr-D", "SPICE", "SPIDEr"]
    assert found["rows"][3]["published"]["values"]["CIDEr-D"] == 84.9


@pytest.mark.parametrize("name", TABLES)
def test_written_specs_are_those_of_the_runs_and_up_to_date(name):
    sweep = plan.read(plan.find(name))
    files = {file.stem for file in (ROOT / "docs" / "ablations").glob(f"{name}-*.yaml")}
    assert files == {f"{name}-{run.name}" for run in sweep.runs()}
    for row in sweep.rows:
        text = (ROOT / "docs" / "ablations" / f"{name}-{row.name}.yaml").read_text()
        assert text == plan.text(sweep, row, row.runs[0]), f"run: lavcap sweep {name} --write docs/ablations"
        assert read_text(text).filled() == row.runs[0].spec.filled()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = write_models(tmp_path_factory.mktemp("models"))
    rows = [{"clip": f"{number}.mp4", "captions": [f"sound {number}"]} for number in range(3)]
    for number, row in enumerate(rows):
        write_clip(folder / row["clip"], 4 + number)
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    (folder / "other.jsonl").write_text(json.dumps(rows[2]) + "\n")
    own = [
        f"train={{data: {folder}/clips.jsonl, validation: {folder}/other.jsonl, steps: 1, batch: 2, warmup_steps: 0}}"
    ]
    return [*settings(folder), *own, f"train.cache_folder={folder}/cache"]


@pytest.mark.parametrize(("name", "row"), [(name, row) for name in TABLES for row in sorted(EVERY[name])])
def test_every_row_trains_at_tiny_size(tiny, tmp_path, name, row):
    from lavcap_core.run.train import train

    run = plan.read(plan.find(name), overrides=tiny).runs([row])[0]
    summary = train(run.spec, tmp_path / "run", quiet=True)
    assert summary["steps"] == 1
    assert math.isfinite(summary["last"]["loss"])
    assert math.isfinite(summary["validation"]["loss"])
    aligned = summary["last"]["alignment"]
    assert (aligned is not None) == (run.spec.filled()["aligner"]["loss"] is not None)
    assert aligned is None or aligned > 0


# --- the table -------------------------------------------------------------------------------------------------------


def made(out, run, summary, error=None, data="abc"):
    """What a training run leaves."""
    place = work.Place(out, run.name)
    place.folder.mkdir(parents=True)
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in run.spec.filled().items()]
    (place.folder / "spec.yaml").write_text("".join(lines))
    if summary is not None:
        state = place.folder / "checkpoints" / "step-00000004" / "state.json"
        state.parent.mkdir(parents=True)
        state.write_text(json.dumps({"versions": {"lavcap-toy": "1.0"}, "data": data}))
        place.summary.write_text(json.dumps(summary))
    if error is not None:
        place.error.write_text(error + "\n")


@pytest.fixture
def finished(place):
    """Three rows with two seeds: one done, one half done and failed, one not begun."""
    text = SWEEP.replace("runs:", "seeds: [0, 1]\nruns:") + "  none: {title: a | b}\n"
    Path("sweep.yaml").write_text(text)
    sweep = plan.read("sweep.yaml")
    for run, loss, exact in zip(sweep.runs(), (2.0, 2.5, 1.25), (0.25, 0.5, 1.0), strict=False):
        best = {"step": 4, "epoch": 1.0, "loss": loss, "caption": loss - 1, "exact": exact}
        made(place / "out", run, {"steps": 4, "last": {"loss": loss / 2}, "best_validation": best})
    made(place / "out", sweep.runs()[3], None, error="C020 step 1: the loss is nan (exit code 2)")
    return sweep


MARKDOWN = """\
Widths

|  | runs | loss | caption | exact | exact (published) | other (published) |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| narrow | 2 | 2.25 ± 0.35 | 1.25 ± 0.35 | 0.375 ± 0.18 | 40.0 | - |
| eight wide | 1 of 2 | 1.25 | 0.25 | 1 | 51.0 | 3.25 |
| a \\| b | - | - | - | - | - | - |

- wide-seed1: failed: C020 step 1: the loss is nan (exit code 2)
- published: A paper, Table 9; printed for comparison, not measured here
"""

TEXT = """\
Widths

              runs         loss      caption         exact  exact (published)  other (published)
narrow           2  2.25 ± 0.35  1.25 ± 0.35  0.375 ± 0.18               40.0                  -
eight wide  1 of 2         1.25         0.25             1               51.0               3.25
a | b            -            -            -             -                  -                  -

wide-seed1: failed: C020 step 1: the loss is nan (exit code 2)
published: A paper, Table 9; printed for comparison, not measured here
"""


def test_table_in_three_forms(finished, place):
    found = table.gather(finished, place / "out")
    table.write(found, place / "out")
    assert (place / "out" / "table.md").read_text() == MARKDOWN
    assert table.text(found) == TEXT
    stored = json.loads((place / "out" / "table.json").read_text())
    assert stored["columns"] == ["best_validation.loss", "best_validation.caption", "best_validation.exact"]
    narrow, wide, none = stored["rows"]
    assert narrow["values"]["best_validation.exact"] == {"mean": 0.375, "sd": pytest.approx(0.1767767), "n": 2}
    assert wide["values"]["best_validation.exact"] == {"mean": 1.0, "sd": None, "n": 1}
    assert wide["published"] == {"values": {"exact": 51.0, "other": 3.25}, "source": "A paper, Table 9"}
    assert [run["state"] for run in (*wide["runs"], *none["runs"])] == ["done", "failed", "new", "new"]
    assert (none["published"], none["values"]) == (None, {})


def test_runs_of_other_clips_are_told_apart(finished, place):
    made(place / "out", finished.runs()[4], {"steps": 4, "best_validation": {"loss": 1.0}}, data="xyz")
    found = table.gather(finished, place / "out")
    assert "not all runs were trained on the same clips: see data in table.json" in found["notes"]
    assert not any("versions" in note for note in found["notes"])


def test_columns_of_ones_own_and_one_that_is_nowhere(finished, place):
    text = Path("sweep.yaml").read_text()
    Path("sweep.yaml").write_text(text + "columns: [last.loss, steps, best_validation.exakt]\n")
    found = table.gather(plan.read("sweep.yaml"), place / "out")
    assert found["rows"][0]["values"]["last.loss"]["mean"] == 1.125
    assert "best_validation.exakt: no run has it; did you mean 'best_validation.exact'?" in found["notes"]


def test_runs_of_another_spec_are_not_shown_and_not_gone_on_with(finished, place, capsys):
    main(["sweep", "sweep.yaml", "--out", "out", "--dry-run", "--set", "train.lr=0.5", "--set", "train.workers=1"])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["changed"] * 4 + ["new"] * 2
    sweep = plan.read("sweep.yaml", overrides=["train.lr=0.5"])
    with pytest.raises(LavcapError, match=r"C063 .*narrow-seed0 \(train.lr\)"):
        work.require_same(place / "out", sweep.runs())
    found = table.gather(sweep, place / "out")
    assert found["rows"][0]["values"] == {}
    assert "narrow-seed0: not shown, it was of another spec: train.lr" in found["notes"]
    # Threads and the device make no difference to the numbers.
    same = plan.read("sweep.yaml", overrides=["train.workers=1", "backend.device=cpu"])
    assert work.status(place / "out", same.runs()[0]).state == "done"


def test_rerun_trains_what_changed_and_nothing_else(finished, place, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(work, "work", lambda sweep, out, runs, *_: asked.extend(run.name for run in runs))
    words = ["sweep", "sweep.yaml", "--out", "out", "--only", "wide"]
    Path("sweep.yaml").write_text(Path("sweep.yaml").read_text().replace("width: 8", "width: 9"))
    assert main(words) == 2
    assert "wide-seed0 (audio_encoder.width); wide-seed1 (audio_encoder.width)" in capsys.readouterr().err
    assert asked == []
    assert main([*words, "--rerun"]) == 1  # as nothing was trained here
    assert asked == ["wide-seed0", "wide-seed1"]
    assert (place / "out" / "wide-seed0.old1" / "summary.json").exists()
    assert (place / "out" / "narrow-seed0" / "summary.json").exists()


def test_set_aside_keeps_the_old_run(finished, place):
    run = finished.runs()[3]
    out = place / "out"
    for number in (1, 2):
        assert work.set_aside(out, run) == out / f"wide-seed1.old{number}"
        assert work.status(out, run) == work.Status("new")
        made(out, run, None)
    assert (out / "wide-seed1.old1" / "spec.yaml").exists()


# --- the processes ---------------------------------------------------------------------------------------------------


def start(toy, place, *words):
    path = os.pathsep.join([str(toy.folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "lavcap_core.cli", "sweep", *words],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=place,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(path, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


LONG = (
    SWEEP.replace("train.steps: 4", "train.steps: 600\n  train.validate_every: 1000")
    + "  broken:\n    set: {train.data: {silly: [3]}}\n"
)


def test_ended_in_the_middle_and_gone_on_with(toy, place):
    """A run of a sweep that is told to end is resumed, beside one that fails; what is done is not trained again."""
    (place / "sweep.yaml").write_text(LONG)
    out = place / "runs" / "sweep"
    first = start(toy, place, "sweep.yaml", "--only", "narrow", "--set", "train.save_every=5")
    wait_for(out / "narrow" / "checkpoints")
    with pytest.raises(LavcapError, match="C064"), work.lock(out):
        pass
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert (first.returncode, "narrow: at work" in said) == (130, True), said
    log = out / "narrow" / "log.jsonl"
    done = len(log.read_text().splitlines())
    assert not (out / "narrow" / "summary.json").exists()
    time.sleep(0.3)
    assert len(log.read_text().splitlines()) == done, "the run goes on without its sweep"

    words = ["sweep.yaml", "--devices", "cpu,cpu", "--set", "train.save_every=500", "--only", "narrow"]
    second = start(toy, place, *words, "--only", "broken")
    printed, said = second.communicate(timeout=240)
    assert second.returncode == 1, said
    assert "broken: failed" in said
    assert "C020" in said
    lines = {line.split()[0]: line.split()[1] for line in printed.splitlines()[3:6]}
    assert lines == {"narrow": "1", "eight": "wide", "broken": "failed"}  # "eight wide" was not asked for
    assert "40.0" in printed
    rows = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert rows == list(range(600))  # went on where it was, without a gap
    assert (out / "broken.error").read_text().startswith("C020 step 0")
    assert '"device": "cpu"' in (out / "broken" / "spec.yaml").read_text()

    third = toy.run("sweep", *words, cwd=place, check=True)
    assert "1 of 1 runs are done already" in third.stderr
    assert third.stdout == printed


def test_a_run_keeps_the_lock_of_a_sweep_that_was_killed(tmp_path):
    code = f"""
import os, subprocess, sys
from pathlib import Path
from lavcap_core.run.sweep.work import lock
with lock(Path({str(tmp_path)!r})) as descriptor:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=0, stdout=2, pass_fds=[descriptor])
    print(child.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert parent.wait() == -signal.SIGKILL
    with pytest.raises(LavcapError, match="C064"), work.lock(tmp_path):
        pass
    parent.stdin.close()  # the child ends
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with work.lock(tmp_path):
        pass


def test_devices_and_jobs(place, capsys):
    from types import SimpleNamespace

    from lavcap_core.cli.sweep import _devices

    def places(devices, jobs):
        return _devices(SimpleNamespace(devices=devices, jobs=jobs))

    assert places(None, None) == [None]
    assert places("a, b", None) == ["a", "b"]
    assert places("a,b", 3) == ["a", "b", "a"]
    assert places(None, 2) == [None, None]
    assert main(["sweep", "sweep.yaml", "--devices", "a,,b"]) == 2
    assert main(["sweep", "sweep.yaml", "--jobs", "0"]) == 2
    assert capsys.readouterr().err.count("C065") == 2
