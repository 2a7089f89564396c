"""The pure parts of ``benchmarks/learning``: what is said of a clip, what counts as found, what the table says."""

from __future__ import annotations

import importlib
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def learning():
    """Imports a module of the benchmark, which is a package beside the tests."""
    pytest.importorskip("PIL")
    sys.path.insert(0, str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.learning.{name}")
    sys.path.remove(str(ROOT))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("A duck.", "a duck"),
        ("An hippopotamus.", "an hippopotamus"),
        ("A baby sheep (a lamb).", "a baby sheep"),
        ("A calculator.  6x7=42", "a calculator"),
        ("Two flowers.", "two flowers"),
        ("Say cheese!", None),
        ("“Stop”.", None),
        ("A candy cane is a traditional Christmas treat.", None),
        ("A F16 plane.", None),
        ("", None),
    ],
)
def test_a_stamp_is_called_by_the_noun_phrase_of_its_text(learning, line, said):
    assert learning("fetch").phrase(line) == said


def test_articles(learning):
    assert [learning("fetch").with_article(noun) for noun in ("owl", "drum kit")] == ["an owl", "a drum kit"]


def things(fetch, folder, count):
    """Things that sound and show, and as many that only show."""
    pixel = np.full((2, 2, 3), 200, np.uint8)
    made = []
    for index in range(2 * count):
        picture, sound = folder / f"{index}.png", folder / f"{index}.wav"
        fetch.starter().Image.fromarray(pixel).save(picture)
        fetch._write_sound(sound, [np.full(800, index / 100, np.float32)])
        made.append(fetch.Thing(f"tux/{index}", f"a thing{index}", sound if index < count else None, picture))
    return made


def test_training_and_validation_share_no_thing(learning, tmp_path, monkeypatch):
    from lavcap_core.manifest import read_manifest

    fetch = learning("fetch")
    monkeypatch.setattr(fetch, "SCENES", 5)
    (tmp_path / "media").mkdir()
    fetch._write_training(tmp_path, things(fetch, tmp_path, fetch.HELD_BACK + 4))
    rows = {name: read_manifest(tmp_path / f"{name}.jsonl") for name in ("train", "train-audio", "train-visual", "val")}
    assert len(rows["val"]) == fetch.HELD_BACK
    held_back = {item.captions[0] for item in rows["val"]}
    learnt = {thing for item in rows["train"] for thing in item.captions[0].split(" and ")}
    assert not held_back & learnt
    # Four pairs: each twice whole, three times by ear, three times by eye; five scenes; the pictures without a sound.
    assert len(rows["train"]) == 4 * (2 + 3 + 3) + 5 + (fetch.HELD_BACK + 4)
    assert all(item.clip.endswith(".wav") for item in rows["train-audio"])
    assert all(item.frames or item.clip.endswith(".png") for item in rows["train-visual"])


def test_a_scene_is_heard_in_the_order_of_its_caption(learning, tmp_path):
    fetch = learning("fetch")
    import random

    first, second = things(fetch, tmp_path, 2)[:2]
    item = fetch._scene(0, [second, first], random.Random(0), tmp_path)
    assert item.captions[0] == "a thing1 and a thing0"
    with wave.open(item.clip) as file:
        samples = np.frombuffer(file.readframes(1600), "<i2")
    assert samples[0] == pytest.approx(0.01 * 32767, abs=2)  # truncated twice
    assert samples[-1] == 0
    assert len(list(Path(item.frames).iterdir())) == 2


def test_ranks_put_wrong_ones_first_among_equals(learning):
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.2, 0.1], [0.3, 0.3, 0.4]])
    assert learning("measure").ranks(scores, [{0}, {1}, {0, 1}]) == [1, 2, 2]


def test_retrieval_and_chance(learning):
    measure = learning("measure")
    assert measure.retrieval([1, 2, 10, 4]) == {"mrr": pytest.approx(0.4625), "recall1": 0.25, "recall5": 0.75}
    assert measure.chance(35) == {"mrr": 0.118, "recall1": 0.029, "recall5": 0.143}


def results(before, after):
    row = {"loss": 6.0, "swapped": 6.0, "names": 0.0, "mrr": before, "recall1": 0.0, "recall5": 0.1}
    return {"untrained": row, "trained": {**row, "loss": 2.0, "mrr": after}}


def test_the_table_has_means_and_spreads(learning):
    text = learning("__main__").table({"both": {"0": results(0.1, 0.3), "1": results(0.2, 0.4)}})
    assert "| both | untrained | 6.000 ± 0.000 |" in text
    assert "0.350 ± 0.071" in text


def test_the_verdict_counts_seeds_and_hides_none_that_fails(learning):
    both = {"0": results(0.1, 0.3), "1": results(0.2, 0.15)}
    (line,) = learning("__main__").verdicts({"both": both})
    assert "lower in 2 of 2 seeds" in line
    assert "higher in 1 (0.100 to 0.300, 0.200 to 0.150)" in line


def test_the_specs_check(learning):
    from lavcap_core.run.sweep import plan

    sweep = plan.read(ROOT / "benchmarks" / "learning" / "table2.yaml")
    assert [row.name for row in sweep.rows] == list(learning("__main__").ROWS)


def test_the_language_model_is_small_and_its_tokenizer_spells_what_it_never_saw(learning, tmp_path):
    from transformers import LlamaForCausalLM

    decoder = learning("decoder")
    decoder.make(tmp_path / "0", ["a duck", "this is a duck"], seed=0)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "0")
    assert sum(parameter.numel() for parameter in model.parameters()) < 5_000_000
    words = decoder.tokenizer(["a duck"])
    assert words.decode(words("a zither").input_ids) == "a zither"
