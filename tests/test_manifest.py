import json

import pytest

from lavcap_core.errors import RunError
from lavcap_core.manifest import Item, find_items, read_manifest


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(items):
    return [item.name for item in items]


def test_folder_is_searched_for_media_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in/b.mp4", "in/a.WAV", "in/deep/c.ogg", "in/notes.txt", "in/.hidden.mp4", "in/lone.png")
    assert names(find_items(["in"])) == ["in/a.WAV", "in/b.mp4", "in/deep/c.ogg"]


def test_picture_beside_a_sound_is_its_picture(tmp_path):
    touch(tmp_path, "dog.ogg", "dog.png", "cat.mp4", "cat.png")
    cat, dog = find_items([str(tmp_path)])
    assert dog.image == str(tmp_path / "dog.png")
    assert cat.image is None


def test_files_globs_and_repetition(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.mp4", "b.mp4", "odd[1].mp4", "x.dat")
    assert names(find_items(["*.mp4", "a.mp4", "x.dat"])) == ["a.mp4", "b.mp4", "odd[1].mp4", "x.dat"]
    assert names(find_items(["odd[1].mp4"])) == ["odd[1].mp4"]
    assert names(find_items(["none*.mp4", "gone.mp4"])) == ["none*.mp4", "gone.mp4"]


def test_csv_manifest(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,clip,image,start\none,a.mp4,,\ntwo,s/b.ogg,b.png,2.5\n", encoding="utf-8-sig")
    assert read_manifest(path) == [
        Item(str(tmp_path / "a.mp4"), "one"),
        Item(str(tmp_path / "s/b.ogg"), "two", str(tmp_path / "b.png"), None, 2.5),
    ]


def test_jsonl_manifest_through_find_items(tmp_path):
    path = tmp_path / "m.jsonl"
    rows = [{"file": "/x/a.mp4", "prompt": "What is heard?"}, {"clip": "b.mp4"}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = find_items([str(path)])
    assert first == Item("/x/a.mp4", "/x/a.mp4", prompt="What is heard?")
    assert second.clip == str(tmp_path / "b.mp4")


def test_all_wrong_rows_are_reported_with_their_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"clip": "a"}\n{"image": "b"}\nnot json\n[1]\n{"clip": "c", "start": "soon"}\n')
    with pytest.raises(RunError) as caught:
        read_manifest(path)
    assert [(p.line, p.code) for p in caught.value.problems] == [(2, "C002"), (3, "C002"), (4, "C002"), (5, "C002")]


def test_manifest_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match="C002"):
        find_items([str(tmp_path / "m.csv")])
