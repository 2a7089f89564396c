"""Manifests of training data: captions, stretches of time, frames and features in the place of clips."""

import json

import pytest

from lavcap_core.errors import RunError
from lavcap_core.manifest import Item, list_hash, natural, read_manifest, write_manifest


def manifest(folder, *rows, name="m.jsonl"):
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_every_column(tmp_path):
    row = {
        "id": "one",
        "clip": "a.wav",
        "image": "a.png",
        "frames": "a_frames",
        "audio_features": "a.npy",
        "visual_features": "v/a.npy",
        "captions": ["A dog barks", "Barking"],
        "start": 1.5,
        "end": 4,
        "prompt": "What is heard?",
        "split": "train",
        "source": "video7",
    }
    (item,) = read_manifest(manifest(tmp_path, row))
    assert item == Item(
        clip=str(tmp_path / "a.wav"),
        name="one",
        image=str(tmp_path / "a.png"),
        prompt="What is heard?",
        start=1.5,
        end=4.0,
        frames=str(tmp_path / "a_frames"),
        audio_features=str(tmp_path / "a.npy"),
        visual_features=str(tmp_path / "v/a.npy"),
        captions=("A dog barks", "Barking"),
        split="train",
        source="video7",
    )


def test_numbers_may_be_ids(tmp_path):
    (item,) = read_manifest(manifest(tmp_path, {"id": 7, "clip": "a.wav", "source": 3, "split": 0}))
    assert (item.name, item.source, item.split) == ("7", "3", "0")
    (item,) = read_manifest(manifest(tmp_path, {"id": 0, "clip": "a.wav", "source": 0, "split": ""}))
    assert (item.name, item.source, item.split) == ("0", "0", None)


def test_rows_of_a_clip_are_gathered(tmp_path):
    path = manifest(tmp_path, "clip,caption", "a.wav,One", "b.wav,Two", 'a.wav,"Three, four"', "b.wav,", name="m.csv")
    first, second = read_manifest(path)
    assert (first.name, first.captions) == ("a.wav", ("One", "Three, four"))
    assert (second.name, second.captions) == ("b.wav", ("Two",))


def test_one_id_for_two_clips_is_an_error(tmp_path):
    rows = [
        {"id": "x", "clip": "a.wav"},
        {"id": "x", "clip": "b.wav"},
        {"clip": "c.wav"},
        {"clip": "c.wav", "start": 5},
    ]
    with pytest.raises(RunError) as caught:
        read_manifest(manifest(tmp_path, *rows))
    assert [(problem.code, problem.line) for problem in caught.value.problems] == [("C002", 2), ("C002", 4)]


def test_features_or_frames_stand_for_a_clip(tmp_path):
    features, frames = read_manifest(manifest(tmp_path, {"visual_features": "v.npy"}, {"frames": "f"}))
    assert (features.clip, features.name, features.visual_features) == (None, "v.npy", str(tmp_path / "v.npy"))
    assert (frames.clip, frames.name, frames.frames) == (None, "f", str(tmp_path / "f"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip": "a", "captions": "one text is fine", "caption": 7},
        {"clip": "a", "captions": [1]},
        {"clip": "a", "start": 3, "end": 3},
        {"clip": "a", "start": -1},
        {"clip": "a", "end": "inf"},
        {"clip": "a", "start": [1]},
        {"clip": "a", "start": "soon"},
        {"clip": "a", "end": {}},
        {"clip": "a", "prompt": 7},
        {"clip": 7, "frames": "f"},
        {"clip": "a", "frames": ["f"]},
        {"image": "a.png", "caption": "A dog"},
    ],
)
def test_wrong_rows(tmp_path, wrong):
    with pytest.raises(RunError) as caught:
        read_manifest(manifest(tmp_path, {"clip": "good.wav"}, wrong))
    assert [(problem.code, problem.line) for problem in caught.value.problems] == [("C002", 2)]


def test_what_is_written_is_read_again(tmp_path):
    folder = tmp_path / "odd [1] folder"
    (folder / "frames" / "frame_0").mkdir(parents=True)
    rows = [
        {"id": "é", "clip": "a.wav", "captions": ["Größe", ""], "end": 2, "split": "val", "source": "s"},
        {"id": "b", "clip": "/elsewhere/b.wav", "start": 1, "prompt": "p", "image": "b.png"},
        {"id": "c", "frames": "frames/frame_*/c.jpg", "audio_features": "c.npy"},
    ]
    items = read_manifest(manifest(folder, *rows))
    out = folder / "again.jsonl"
    write_manifest(out, items)
    assert read_manifest(out) == items
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"id": "é", "clip": "a.wav", "end": 2.0, "captions": ["Größe", ""], "split": "val", "source": "s"},
        {"id": "b", "clip": "/elsewhere/b.wav", "image": "b.png", "start": 1.0, "prompt": "p"},
        {"id": "c", "frames": "frames/frame_*/c.jpg", "audio_features": "c.npy"},
    ]
    deeper = tmp_path / "deeper" / "m.jsonl"
    write_manifest(deeper, items)
    assert read_manifest(deeper) == items


def test_hash_of_the_list_depends_on_names_alone():
    items = [Item("x/a.wav", "a"), Item("x/b.wav", "b")]
    assert list_hash(items) == list_hash([Item("y/b.flac", "b"), Item("y/a.flac", "a", captions=("A",))])
    assert list_hash(items) != list_hash(items[:1])
    # sha256 of "a\nb\n"
    assert list_hash(items).startswith("911169dd")


def test_natural_order():
    assert sorted(["f10.png", "F2.png", "f1.png", "²", "f1b2", "10", "9"], key=natural) == [
        "9",
        "10",
        "f1.png",
        "f1b2",
        "F2.png",
        "f10.png",
        "²",
    ]
