"""The full LAVCap pipeline learns a handful of clips by heart, at tiny size and with random weights.

`LAVCAP_TEST_CLIPS=MANIFEST` takes the first sixteen clips of a manifest whose captions differ, instead of made ones.
That takes some minutes.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import settings, write_models

from lavcap_core.cli import main
from lavcap_core.manifest import read_manifest, write_manifest
from lavcap_core.testing.clips import tone, write_clip

MANIFEST = os.environ.get("LAVCAP_TEST_CLIPS")
COUNT, STEPS = (16, 200) if MANIFEST else (3, 120)


@pytest.fixture
def manifest(tmp_path):
    file = tmp_path / "clips.jsonl"
    if MANIFEST:
        # One clip per caption: of two clips with one caption, nothing tells which is meant.
        found = {item.captions[0]: item for item in reversed(read_manifest(Path(MANIFEST))) if item.captions}
        items = [replace(item, captions=item.captions[:1]) for item in list(found.values())[-COUNT:]]
        write_manifest(file, items)
        return file
    rows = []
    for index, words in enumerate(("low tone", "high tone", "higher")):
        sound = tone(1.0, frequency=220.0 * 3**index)
        write_clip(tmp_path / f"{index}.mp4", 1.0, sound=sound)
        rows.append({"clip": f"{index}.mp4", "caption": words})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_exact_captions_of_clips_learnt_by_heart(manifest, tmp_path, capsys):
    models = write_models(tmp_path, hidden=64, layers=2)
    changes = [
        *settings(models),
        "decoder.tune={mode: finetune}",
        "generate.max_new_tokens=80",
        f"train.data={manifest}",
        f"train.cache_folder={tmp_path / 'features'}",
        f"train.steps={STEPS}",
        f"train.batch={min(COUNT, 8)}",
        f"train.accumulate={-(-COUNT // 8)}",
        "train.lr=3e-3",
        "train.warmup_steps=20",
        "train.warmup_epochs=0",
        f"train.save_every={STEPS // 2}",
        "train.bucket=0",
    ]
    words = [word for change in changes for word in ("--set", change)]
    assert main(["train", "lavcap", *words, "--out", str(tmp_path / "run")]) == 0
    spec = tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}" / "spec.yaml"
    out = tmp_path / "captions.jsonl"
    assert main(["caption", str(manifest), "--spec", str(spec), "--out", str(out)]) == 0
    said = {row["clip"]: row["caption"] for row in map(json.loads, out.read_text().splitlines())}
    wanted = {item.name: item.captions[0] for item in read_manifest(manifest)}
    assert len(wanted) == COUNT
    assert said == wanted
