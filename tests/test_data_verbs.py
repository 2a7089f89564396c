"""`lavcap data`: prepare, check, split and stats, through the command, on media made on the spot."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lavcap_core.cli import main
from lavcap_core.manifest import Item, read_manifest, write_manifest
from lavcap_core.media import Request, read_item
from lavcap_core.run.data_split import divide
from lavcap_core.testing.clips import numbered_picture, read_number, tone, write_clip, write_picture

AUDIOCAPS = Path(__file__).parent / "data" / "audiocaps" / "test.csv"
IDS = ("7fmOlUlwoNg", "6BJ455B1aAs", "YQSuFyFm3Lc")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAVCAP_CACHE", str(tmp_path / "cache"))


def wav(place, seconds=1.0, frequency=440.0, level=1.0):
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    sound = tone(seconds, 16000, 1, frequency) * np.float32(level)
    return write_clip(place, seconds, video=None, audio="pcm_s16le", sound=sound, rate=16000, layout="mono")


def film(place, seconds=1.0, **options):
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    return write_clip(place, seconds, fps=4, **options)


def by_name(path="out.jsonl"):
    return {item.name: item for item in read_manifest(Path(path))}


def data(*words):
    return main(["data", *map(str, words)])


def manifest(rows, name="m.jsonl"):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


# --------------------------------------------------------------------------------------------------- prepare audiocaps


@pytest.mark.parametrize(
    "name",
    [
        "{id}.wav",
        "Y{id}.flac",
        "{id}_20.mp4",
        "{id}_20_30.wav",
        "{id}_20000_30000.mkv",
        "deep/er/Y{id}_20.000_30.000.wav",
    ],
)
def test_audiocaps_file_names(name):
    place = Path("media") / name.format(id=IDS[0])
    if place.suffix in (".mp4", ".mkv"):
        film(place)
    else:
        place.parent.mkdir(parents=True)
        write_clip(place, 1.0, video=None, audio="flac" if place.suffix == ".flac" else "pcm_s16le")
    assert data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl", "--split", "test") == 0
    (item,) = by_name().values()
    assert (item.name, item.clip, item.start, item.end) == (f"{IDS[0]}_20", str(place), 0.0, None)
    assert (item.split, item.source, len(item.captions)) == ("test", IDS[0], 5)
    assert item.captions[0] == "Constant rattling noise and sharp vibrations"


def test_audiocaps_says_what_is_missing(capsys):
    film(f"media/{IDS[0]}.mp4")
    wav(f"media/{IDS[1]}_0.wav")
    Path(f"media/{IDS[2]}.mp4").write_text("not a film")
    assert data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl") == 0
    said = capsys.readouterr().out
    assert list(by_name()) == [f"{IDS[0]}_20", f"{IDS[1]}_0"]
    assert "out.jsonl: 2 of 3 clips, 10 captions\n  1 without video\n  1 missing: out.jsonl.missing.txt\n" in said
    (line,) = Path("out.jsonl.missing.txt").read_text().splitlines()
    assert line.startswith(f"{IDS[2]}_230\tmedia/{IDS[2]}.mp4: M002 ")
    listed = "".join(f"{name}\n" for name in sorted(by_name()))
    assert f"sha256 of the list: {hashlib.sha256(listed.encode()).hexdigest()}\n" in said
    # Once all is there, nothing says otherwise.
    film(f"media/{IDS[2]}.mp4")
    assert data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl", "--force") == 0
    assert len(by_name()) == 3
    assert not Path("out.jsonl.missing.txt").exists()


def test_audiocaps_file_of_another_stretch_is_none_of_the_clip(capsys):
    wav(f"media/{IDS[0]}_21.wav")
    wav(f"media/{IDS[1]}x.wav")
    assert data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl") == 2
    assert "D011 none of 3 clips is there" in capsys.readouterr().err
    assert not Path("out.jsonl").exists()


def test_audiocaps_best_of_several_files(capsys):
    wav(f"media/{IDS[0]}.wav")
    film(f"media/{IDS[0]}.mp4")
    film(f"media/{IDS[1]}.mp4")
    wav(f"media/{IDS[1]}_0_10.wav")
    data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl")
    assert [item.clip for item in by_name().values()] == [f"media/{IDS[0]}.mp4", f"media/{IDS[1]}_0_10.wav"]


def test_audiocaps_takes_the_next_file_where_the_best_is_broken(capsys):
    Path("media").mkdir()
    Path(f"media/{IDS[0]}.mp4").write_text("not a film")
    wav(f"media/{IDS[0]}.wav")
    for suffix in (".mp4", ".wav"):
        Path(f"media/{IDS[1]}{suffix}").write_text("not a film")
    assert data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl") == 0
    assert [item.clip for item in by_name().values()] == [f"media/{IDS[0]}.wav"]
    assert f"{IDS[1]}_0\tmedia/{IDS[1]}.mp4: M002 " in Path("out.jsonl.missing.txt").read_text()


def test_audiocaps_whole_videos_are_cut(capsys):
    film(f"media/{IDS[0]}.mp4", 35)
    data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl")
    assert "1 cut out of whole videos" in capsys.readouterr().out
    (item,) = by_name().values()
    assert (item.start, item.end) == (20.0, 30.0)
    (window,) = read_item(item, Request(frames=2, image_size=32)).windows
    assert [read_number(frame) for frame in window.frames] == [80, 100]


def test_audiocaps_frames_and_features_by_name(capsys):
    for name in IDS:
        wav(f"media/{name}.wav")
    Path(f"frames/{IDS[0]}_20000_30000").mkdir(parents=True)
    write_picture(f"frames/{IDS[0]}_20000_30000/1.png", numbered_picture(7))
    for number in range(3):
        Path(f"frames/frame_{number}").mkdir(parents=True)
        write_picture(f"frames/frame_{number}/Y{IDS[1]}.jpg", numbered_picture(number))
    Path("v").mkdir()
    np.save(f"v/{IDS[2]}_230.npy", np.zeros((20, 8)))
    extra = ("--frames", "frames", "--visual-features", "v")
    assert data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl", *extra) == 0
    first, second, third = by_name().values()
    assert [read_number(f) for f in read_item(first, Request(frames=1, image_size=32)).windows[0].frames] == [7]
    assert [read_number(f) for f in read_item(second, Request(frames=3, image_size=32)).windows[0].frames] == [0, 1, 2]
    assert third.visual_features == f"v/{IDS[2]}_230.npy"
    assert "without video" not in capsys.readouterr().out


def test_linked_folders_are_searched_once(capsys):
    wav(f"elsewhere/{IDS[0]}.wav")
    Path("media").mkdir()
    Path("media/link").symlink_to("../elsewhere")
    Path("elsewhere/circle").symlink_to("../media")
    assert data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl") == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file_name,caption_1\na.wav,A\n", "lacks youtube_id, start_time, caption"),
        ("youtube_id,start_time,caption\nabc,soon,A\n", "line 2: start_time is no number"),
        ("youtube_id,start_time,caption\nabc\n", "line 2 ends too early"),
        ("", "lacks"),
    ],
)
def test_another_list_is_refused(text, said, capsys):
    Path("list.csv").write_text(text)
    Path("media").mkdir()
    assert data("prepare", "audiocaps", "list.csv", "media", "--out", "out.jsonl") == 2
    error = capsys.readouterr().err
    assert error.startswith("list.csv: D010")
    assert said in error


def test_nothing_is_overwritten_unasked(capsys):
    wav(f"media/{IDS[0]}.wav")
    Path("out.jsonl").write_text("mine")
    words = ("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "out.jsonl")
    assert data(*words) == 2
    assert "C008" in capsys.readouterr().err
    assert Path("out.jsonl").read_text() == "mine"
    with pytest.raises(SystemExit):
        data(*words[:-1], "out.csv")


def test_folder_that_cannot_be_written(capsys):
    wav(f"media/{IDS[0]}.wav")
    Path("file").touch()
    assert data("prepare", "audiocaps", AUDIOCAPS, "media", "--out", "file/out.jsonl") == 2
    assert capsys.readouterr().err.startswith("file/out.jsonl: C004 can't be written")


# ------------------------------------------------------------------------------------------- prepare clotho and lavcap


def test_clotho(capsys):
    with Path("clotho.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", *(f"caption_{number}" for number in range(1, 6))])
        writer.writerow(["Distorted AM Radio noise.wav", "One, two", "B", "C", "D", "E"])
        writer.writerow(["gone.wav", "A", "B", "C", "D", "E"])
    wav("development/Distorted AM Radio noise.wav")
    assert data("prepare", "clotho", "clotho.csv", "development", "--out", "out.jsonl", "--split", "train") == 0
    (item,) = by_name().values()
    assert item.clip == "development/Distorted AM Radio noise.wav"
    assert (item.captions, item.split) == (("One, two", "B", "C", "D", "E"), "train")
    assert Path("out.jsonl.missing.txt").read_text() == "gone.wav\tno file\n"


@pytest.fixture
def released():
    """The layout of LAVCap's and AVCap's data sets, with two test clips, one of which has no sound."""
    rows, images, texts = [], [], []
    for number, (name, start) in enumerate(zip(IDS[:2], (20, 0), strict=True)):
        stem = f"{name}_{start * 1000}_{start * 1000 + 10000}"
        file = {"audio_path": f"{stem}.wav", "video_path": f"{stem}.jpg", "labels": "/m/09x0r"}
        rows.append({"audiocap_id": "1", "youtube_id": name, "start_time": str(start), "caption": "First", **file})
        images.append({"id": name, **file})
        texts += [{"id": f"{number}{i}", "image_id": name, "caption": f"{name} {i}"} for i in range(5)]
    stem = Path(rows[0]["audio_path"]).stem
    wav(f"dataset/audiocaps/test/waveforms/{stem}.wav")
    for number in range(20):
        Path(f"dataset/audiocaps/test/frames/frame_{number}").mkdir(parents=True)
        write_picture(f"dataset/audiocaps/test/frames/frame_{number}/{stem}.jpg", numbered_picture(number))
    Path("dataset/visual_feature/test").mkdir(parents=True)
    np.save(f"dataset/visual_feature/test/{stem}.npy", np.ones((20, 8), np.float32))
    Path("dataset/test.json").write_text(json.dumps([{**row, "torch_id": 0} for row in rows]))
    Path("dataset/test_coco.json").write_text(json.dumps({"images": images, "annotations": texts}))
    return stem


@pytest.mark.parametrize("words", [["test.json", "--captions", "dataset/test_coco.json"], ["test_coco.json"]])
def test_lavcap_layout(released, words, capsys):
    assert data("prepare", "lavcap", f"dataset/{words[0]}", *words[1:], "--out", "out.jsonl") == 0
    (item,) = by_name().values()
    assert item.name == f"{IDS[0]}_20"
    assert item.clip == f"dataset/audiocaps/test/waveforms/{released}.wav"
    assert item.captions == tuple(f"{IDS[0]} {number}" for number in range(5))
    assert Path("out.jsonl.missing.txt").read_text() == f"{IDS[1]}_0\tno file\n"
    recording = read_item(item, Request(frames=20, image_size=32, visual_width=8))
    assert [read_number(frame) for frame in recording.windows[0].frames] == list(range(20))
    assert recording.windows[0].visual_features.shape == (20, 8)


def test_lavcap_captions_of_the_list_itself(released):
    assert data("prepare", "lavcap", "dataset/test.json", "--out", "out.jsonl") == 0
    assert by_name()[f"{IDS[0]}_20"].captions == ("First",)


def test_lavcap_folders_elsewhere(released):
    Path("dataset/audiocaps/test").rename("moved")
    content = json.loads(Path("dataset/test.json").read_text())
    for row in content:
        row["audio_path"] = "/mnt/authors/data/" + row["audio_path"]
    Path("other.json").write_text(json.dumps({"data": content}))
    assert data("prepare", "lavcap", "other.json", "--root", "moved", "--out", "one.jsonl") == 0
    words = (
        "--audio",
        "moved/waveforms",
        "--frames",
        "moved/frames",
        "--visual-features",
        "dataset/visual_feature/test",
    )
    assert data("prepare", "lavcap", "other.json", *words, "--out", "two.jsonl") == 0
    one, two = by_name("one.jsonl"), by_name("two.jsonl")
    assert one[f"{IDS[0]}_20"].clip == two[f"{IDS[0]}_20"].clip == f"moved/waveforms/{released}.wav"
    assert two[f"{IDS[0]}_20"].frames == f"moved/frames/frame_*/{released}.jpg"
    assert two[f"{IDS[0]}_20"].visual_features == f"dataset/visual_feature/test/{released}.npy"


def test_lavcap_paths_of_windows(released):
    content = json.loads(Path("dataset/test.json").read_text())
    for row in content:
        row["audio_path"] = "D:\\data\\" + row["audio_path"]
        row["video_path"] = "D:\\data\\" + row["video_path"]
    Path("dataset/test.json").write_text(json.dumps(content))
    assert data("prepare", "lavcap", "dataset/test.json", "--out", "out.jsonl") == 0
    (item,) = by_name().values()
    assert (item.name, item.clip) == (f"{IDS[0]}_20", f"dataset/audiocaps/test/waveforms/{released}.wav")
    assert item.frames == f"dataset/audiocaps/test/frames/frame_*/{released}.jpg"
    assert item.visual_features == f"dataset/visual_feature/test/{released}.npy"


@pytest.mark.parametrize(
    "content", ["[1]", "{}", "not json", '[{"youtube_id": "x", "caption": "A"}]', '{"images": [], "annotations": 3}']
)
def test_json_of_another_layout(content, capsys):
    Path("list.json").write_text(content)
    assert data("prepare", "lavcap", "list.json", "--out", "out.jsonl") == 2
    assert capsys.readouterr().err.startswith("list.json: D010")


# --------------------------------------------------------------------------------------------------------------- check


@pytest.fixture
def faulty():
    """A manifest to train on with every fault, and two good clips."""
    film("good.mp4", 2)
    wav("fine.wav", 2.0, 300)
    wav("tiny.wav", 0.5)
    wav("quiet.wav", 2.0, level=0.001)
    wav("nothing.wav", 2.0, level=0.0)
    film("mute.mp4", 2, audio=None)
    Path("copy.mp4").write_bytes(Path("good.mp4").read_bytes())
    Path("text.wav").write_text("no sound")
    whole = film("cut.mkv", 4).read_bytes()
    Path("cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    np.save("v.npy", np.zeros((20, 8)))
    np.save("nan.npy", np.full((20, 8), np.nan))
    write_picture("p.png", numbered_picture(1))
    rows = [
        {"clip": "good.mp4", "split": "train"},
        {"clip": "fine.wav", "image": "p.png"},
        {"clip": "tiny.wav", "image": "p.png"},
        {"clip": "quiet.wav", "visual_features": "v.npy"},
        {"clip": "nothing.wav"},
        {"clip": "mute.mp4"},
        {"clip": "copy.mp4"},
        {"id": "stretch", "clip": "good.mp4", "end": 1},
        {"clip": "text.wav"},
        {"clip": "gone.mp4"},
        {"clip": "cut.mkv"},
        {"id": "nan", "visual_features": "nan.npy"},
        {"id": "ready", "visual_features": "v.npy"},
        {"id": "bare", "clip": "fine.wav", "start": 0.5, "caption": None},
        {"id": "blank", "clip": "fine.wav", "start": 0.25, "image": "p.png", "caption": ["A", " "]},
        {"id": "held-out", "clip": "fine.wav", "start": 0.75, "image": "p.png", "split": "Test"},
    ]
    return manifest([{"caption": "A sound", **row} for row in rows], "train.jsonl")


def test_check_finds_every_fault(faulty, capsys):
    assert data("check", faulty, "--out", "clean.jsonl") == 1
    *lines, summary, written = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[0] if "M0" not in line and "D0" not in line else line[:30] for line in lines] == [
        "tiny.wav: short",
        "quiet.wav: silent",
        "nothing.wav: silent",
        "nothing.wav: without-video",
        "mute.mp4: silent",
        "copy.mp4: duplicate",
        "text.wav: unreadable: M002 is ",
        "gone.mp4: unreadable: M001 no ",
        "cut.mkv: partial",
        "nan: unreadable: D002 holds nu",
        "bare: no-caption",
        "bare: without-video",
        "blank: no-caption",
        "held-out: marked-test",
    ]
    assert "quiet.wav: silent: peaks at -66 dBFS" in lines
    assert "copy.mp4: duplicate: the same as good.mp4" in lines
    assert summary.startswith("train.jsonl: 16 clips: 1 short, 3 silent, 2 without-video, 1 duplicate, 3 unreadable")
    assert list(by_name("clean.jsonl")) == ["good.mp4", "fine.wav", "stretch", "cut.mkv", "ready"]
    assert written == "clean.jsonl: 5 clips"


def test_check_as_json_with_other_limits(faulty, capsys):
    Path(faulty).rename("clips.jsonl")
    assert data("check", "clips.jsonl", "--json", "--shortest", 0.1, "--silence", -70) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["clips"] == 16
    found = {(finding["name"], finding["kind"]) for finding in said["findings"]}
    assert not {("tiny.wav", "short"), ("quiet.wav", "silent"), ("held-out", "marked-test")} & found
    assert ("nothing.wav", "silent") in found
    assert said["kinds"]["unreadable"] == 3


def test_clips_that_share_one_file_of_several_are_no_duplicates(capsys):
    wav("a.wav", 2.0)
    for name in ("one", "two"):
        np.save(f"{name}.npy", np.full((20, 8), len(name) + ord(name[0])))
    np.save("same.npy", np.zeros((20, 8)))
    rows = [
        {"id": "1", "clip": "a.wav", "visual_features": "one.npy"},
        {"id": "2", "clip": "a.wav", "visual_features": "two.npy"},
        {"id": "3", "visual_features": "same.npy", "audio_features": "one.npy"},
        {"id": "4", "visual_features": "same.npy", "audio_features": "two.npy"},
        {"id": "5", "visual_features": "same.npy", "audio_features": "two.npy"},
    ]
    assert data("check", manifest([{"caption": "A", **row} for row in rows]), "--out", "clean.jsonl") == 0
    assert capsys.readouterr().out.splitlines()[0] == "5: duplicate: the same as 4"
    assert list(by_name("clean.jsonl")) == ["1", "2", "3", "4"]


def test_a_clip_is_kept_where_the_earlier_one_like_it_has_no_caption(capsys):
    film("a.mp4", 2)
    rows = [
        {"id": "bare", "clip": "a.mp4"},
        {"id": "good", "clip": "a.mp4", "caption": "A"},
        {"id": "again", "clip": "a.mp4", "caption": "A"},
    ]
    assert data("check", manifest(rows), "--out", "clean.jsonl") == 0
    assert "again: duplicate: the same as good" in capsys.readouterr().out
    assert list(by_name("clean.jsonl")) == ["good"]


def test_check_of_good_clips(capsys):
    film("good.mp4", 2)
    path = manifest([{"clip": "good.mp4", "caption": "A"}])
    assert data("check", path) == 0
    assert capsys.readouterr().out == "m.jsonl: 1 clips: nothing found\n"


# ------------------------------------------------------------------------------------------------------ split and stats


def clips(count, **fields):
    return [Item(f"{number}.wav", f"clip{number}", captions=("A",), **fields) for number in range(count)]


def test_split_depends_on_the_name_alone():
    parts = {"train": 0.8, "val": 0.1, "test": 0.1}
    items = clips(3000)
    marked = {item.name: item.split for item in divide(items, parts)}
    sizes = [sum(split == part for split in marked.values()) for part in parts]
    assert sum(sizes) == 3000
    assert np.allclose(np.array(sizes) / 3000, [0.8, 0.1, 0.1], atol=0.02)
    fewer = divide(items[1::2][::-1], parts)
    assert all(marked[item.name] == item.split for item in fewer)
    assert {item.name: item.split for item in divide(items, parts, seed=1)} != marked


def test_split_keeps_sources_and_files_together():
    items = [
        Item(f"{video}_{start}.wav", f"{video}_{start}", source=video) for video in "abcdefghij" for start in range(9)
    ]
    items += [Item("long.wav", f"window{number}") for number in range(20)]
    items += [Item(f"j_{number}.wav", f"more{number}") for number in range(9)]  # the files of j, without a source
    marked = divide(items, {"one": 0.5, "two": 0.5})
    groups = {}
    for item in marked:
        name = "j" if item.name.startswith("more") else item.source or item.clip
        groups.setdefault(name, set()).add(item.split)
    assert len(groups) == 11
    assert all(len(parts) == 1 for parts in groups.values())
    assert set.union(*groups.values()) == {"one", "two"}


def test_split_writes_a_manifest_per_part(capsys):
    write_manifest(Path("all.jsonl"), clips(100))
    assert data("split", "all.jsonl", "--parts", "train=0.7,val=0.3", "--seed", 3) == 0
    said = capsys.readouterr().out.splitlines()
    train, val = by_name("all.train.jsonl"), by_name("all.val.jsonl")
    assert {item.split for item in train.values()} == {"train"}
    assert {item.split for item in val.values()} == {"val"}
    assert {**train, **val}.keys() == by_name("all.jsonl").keys()
    assert said[0].startswith(f"all.train.jsonl: train: {len(train)} of 100 clips, sha256 of the list: ")
    assert data("split", "all.jsonl", "--parts", "train=0.7,val=0.3", "--seed", 3, "--out", "marked.jsonl") == 0
    assert by_name("marked.jsonl") == {name: {**train, **val}[name] for name in by_name("all.jsonl")}


@pytest.mark.parametrize("parts", ["train", "train=0.5", "a=0.5,a=0.5", "a=1,b=0", "a=0.5,b=-0.5", "a=.,b=1", ""])
def test_parts_that_make_no_whole(parts, capsys):
    write_manifest(Path("all.jsonl"), clips(3))
    assert data("split", "all.jsonl", "--parts", parts) == 2
    assert "D012" in capsys.readouterr().err


def test_stats(capsys):
    wav("0.wav", 2.0)
    rows = [
        {"clip": "0.wav", "captions": ["A dog barks", "The dog's bark"], "split": "train"},
        {"id": "b", "clip": "0.wav", "start": 1.5, "end": 9, "caption": "It is raining", "image": "p.png"},
        {"id": "c", "visual_features": "v.npy", "start": 1, "end": 4},
        {"id": "d", "clip": "gone.wav", "frames": "f"},
    ]
    path = manifest(rows)
    assert data("stats", path, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["clips"], said["captions"], said["vocabulary"]) == (4, 3, 9)
    assert said["captions_per_clip"] == {"min": 0, "mean": 0.75, "max": 2}
    assert said["words_per_caption"] == {"min": 3, "mean": 3.0, "max": 3}
    assert said["seconds"] == {"clips": 2, "sum": 10.5, "min": 3.0, "mean": 5.25, "max": 7.5}
    assert said["with"] == {"clip": 3, "image": 1, "frames": 1, "audio_features": 0, "visual_features": 1}
    assert said["splits"] == {"train": 1, "none": 3}
    assert data("stats", path, "--json", "--read") == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == {
        "clips": 3,
        "sum": 5.5,
        "min": 0.5,
        "mean": 1.833,
        "max": 3.0,
    }
    assert data("stats", path) == 0
    assert "captions per clip: min 0, mean 0.75, max 2\n" in capsys.readouterr().out


def test_stats_of_an_empty_manifest(capsys):
    assert data("stats", manifest([])) == 0
    assert "clips: 0\n" in capsys.readouterr().out


def test_no_verb_needs_torch():
    for name in IDS:
        wav(f"media/{name}.wav")
    verbs = [
        ["prepare", "audiocaps", str(AUDIOCAPS), "media", "--out", "out.jsonl"],
        ["check", "out.jsonl"],
        ["split", "out.jsonl"],
        ["stats", "out.jsonl", "--read"],
    ]
    code = (
        "import sys\nfrom lavcap_core.cli import main\n"
        f"codes = [main(['data', *words]) for words in {verbs!r}]\n"
        "print(codes, [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0] []"
