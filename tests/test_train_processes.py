"""`lavcap train` under torchrun: two processes train LAVCap's pipeline, at tiny size, as one does."""

import json
import shutil
from collections import Counter

import pytest
import torch
import watched
from safetensors.torch import load_file
from tiny import settings, write_models
from together import torchrun
from toys import Site

from lavcap_core import registry
from lavcap_core.cli import main
from lavcap_core.run.checkpoint import checkpoints
from lavcap_core.testing.clips import tone, write_clip

STEPS, SHARDS, MOVED = 50, 10, 40
EPOCH = 2  # steps; an epoch of 7 clips in steps of 4 leaves 3 for the last: one process gets two, one gets one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips of different length, with captions of different length; one has no pictures and one no sound."""
    folder = tmp_path_factory.mktemp("run")
    rows = []
    for index in range(10):
        seconds, name = 1.0 + 0.3 * (index % 3), f"{index}.mp4"
        kind = {2: {"audio": None}, 5: {"video": None}}.get(index, {})
        write_clip(folder / name, seconds, sound=tone(seconds, frequency=150.0 * (index + 1)), **kind)
        rows.append({"clip": name, "caption": " ".join(["tone"] * (1 + index % 4) + [str(index)])})
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:7]))
    (folder / "held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[7:]))
    write_models(folder, layers=2)
    return folder


def command(folder, out, *changes):
    everything = [
        *settings(folder),
        f"train.data={folder / 'clips.jsonl'}",
        f"train.validation={folder / 'held-out.jsonl'}",
        f"train.cache_folder={folder / 'features'}",
        "train.metrics=[exact]",
        f"train.validate_every={STEPS // EPOCH}",
        f"train.steps={STEPS}",
        "train.lr=2e-3",
        "train.schedule=constant",
        "train.warmup_steps=5",
        "audio_encoder.tune.dropout=0.0",
        "decoder.tune={mode: finetune}",
        "backend.device=cpu",
        "backend.dtype=float32",
        f"train.save_every={MOVED}",
        "generate.max_new_tokens=12",
        "generate.beams=1",
        *changes,
    ]
    words = [word for change in everything for word in ("--set", change)]
    return ["train", "lavcap", *words, "--out", str(folder / out)]


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """A run of one process, and three of two: copies, shards, and shards that go on with what one process began."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.add_toy()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site.folder))
        patch.setattr(registry, "_installed", registry.Registry())
        assert main(command(folder, "one", "train.batch=4")) == 0
    shutil.copytree(folder / "one", folder / "moved")
    shutil.rmtree(checkpoints(folder / "moved")[-1])
    short = [f"train.steps={SHARDS}", f"train.validate_every={SHARDS // EPOCH}", "decoder.gradient_checkpointing=true"]
    commands = [
        command(folder, "two", "train.batch=2"),
        command(folder, "shards", "train.batch=2", "backend.shard=true", *short),
        [*command(folder, "moved", "train.batch=2", "backend.shard=true"), "--resume"],
    ]
    (folder / "commands.json").write_text(json.dumps(commands))
    done = torchrun(
        watched.__file__, folder, folder / "commands.json", env={"PYTHONPATH": str(site.folder)}, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" steps") == len(commands), done.stdout
    return [json.loads((folder / f"watched-{index}.json").read_text()) for index in range(2)]


def rows(run, file="log.jsonl"):
    return [json.loads(line) for line in (run / file).read_text().splitlines()]


@pytest.mark.parametrize(("other", "steps"), [("two", STEPS), ("shards", SHARDS), ("moved", STEPS)])
def test_two_processes_equal_one(runs, folder, other, steps):
    """Cross-entropy is divided by the caption tokens of both, the alignment loss by the clips of both."""
    one, two = rows(folder / "one"), rows(folder / other)
    assert (len(one), len(two)) == (STEPS, steps)
    for left, right in zip(one, two, strict=False):
        for term in ("loss", "caption", "alignment"):
            assert right[term] == pytest.approx(left[term], abs=1e-5), (left["step"], term)
    assert all(row["alignment"] > 0 for row in one)
    assert one[-1]["caption"] < 0.8 * one[0]["caption"]


@pytest.mark.parametrize("other", ["two", "moved"])
def test_checkpoints_are_those_of_one_process(runs, folder, other):
    one, two = (load_file(checkpoints(folder / run)[-1] / "trained.safetensors") for run in ("one", other))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize(("command", "steps"), [(0, STEPS), (1, SHARDS), (2, STEPS - MOVED)])
def test_every_clip_is_seen_once_per_epoch_over_all_processes_together(runs, command, steps):
    parts = [Counter(map(tuple, process[command]["seen"])) for process in runs]
    both = parts[0] + parts[1]
    assert set(both.values()) == {1}
    assert len(both) == steps // EPOCH * 7
    assert min(len(part) for part in parts) >= steps // EPOCH * 3


def test_only_process_0_writes(runs, folder):
    first, second = runs
    for command in range(3):
        assert second[command]["written"] == []
    assert any("step-00000050" in path for path in first[0]["written"])


def test_validation_clips_are_judged_by_all_together(runs, folder):
    (one,), *others = (rows(folder / run, "validation.jsonl") for run in ("one", "two", "moved"))
    assert one["step"] == STEPS
    for found in others:
        assert found[-1] == pytest.approx(one, abs=1e-4)
    assert rows(folder / "shards", "validation.jsonl")[-1]["step"] == SHARDS
