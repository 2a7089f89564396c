import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lavcap_core.errors import RunError
from lavcap_core.manifest import Item
from lavcap_core.pipeline import load
from lavcap_core.run.caption import Rows, caption_items
from lavcap_core.testing.clips import tone, write_clip


def grey(level):
    return lambda number: np.full((48, 64, 3), level, np.uint8)


def clip(folder, name, seconds=2.0, loud=0.5, level=255, **options):
    """A clip of constant loudness and brightness: its caption can be told beforehand."""
    sound = tone(seconds) * (loud / 0.5)
    write_clip(folder / name, seconds, sound=sound, picture=grey(level), **options)
    return folder / name


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_folder_of_twenty_with_three_bad_ones(toy, toy_spec, folder, tmp_path):
    good = clip(folder, "clip00.mp4").read_bytes()
    for number in range(1, 17):
        (folder / f"clip{number:02}.mp4").write_bytes(good)
    (folder / "bad1.mp4").write_bytes(b"")
    (folder / "bad2.mp4").write_text("not a film")
    (folder / "bad3.wav").write_bytes(good[:40])
    out = tmp_path / "captions.jsonl"
    done = toy.run("caption", "--spec", toy_spec, folder, "--out", out)
    assert done.returncode == 1
    rows = rows_of(out)
    errors = [row for row in rows if row["status"] == "error"]
    assert len(rows) == 20
    assert sorted(row["clip"].rpartition("/")[2] for row in errors) == ["bad1.mp4", "bad2.mp4", "bad3.wav"]
    assert all(row["code"].startswith("M") and row["reason"] and row["caption"] is None for row in errors)
    assert {row["caption"] for row in rows if row["status"] == "ok"} == {"loud 4 x 0.12, bright 4 x 0.99"}
    assert f"{out}: 17 captions, 3 errors" in done.stderr


def test_captions_on_the_terminal(toy, toy_spec, folder):
    one, two = clip(folder, "a.mp4"), clip(folder, "b.mp4", level=0, audio=None)
    done = toy.run("caption", "--spec", toy_spec, one, check=True)
    assert done.stdout == "loud 4 x 0.12, bright 4 x 0.99\n"
    assert done.stderr == ""
    done = toy.run("caption", "--spec", toy_spec, one, two, "gone.mp4")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [f"{one}: loud 4 x 0.12, bright 4 x 0.99", f"{two}: bright 4 x 0.00"]
    assert done.stderr.startswith("gone.mp4: M001 ")


def test_sound_with_a_picture(toy, toy_spec, folder):
    from lavcap_core.testing.clips import write_picture

    write_clip(
        folder / "a.wav", 1.0, video=None, audio="pcm_s16le", sound=tone(1.0, 16000, 1), rate=16000, layout="mono"
    )
    write_picture(folder / "a.png", grey(255)(0))
    expected = "loud 2 x 0.12, bright 4 x 1.00\n"
    done = toy.run("caption", "--spec", toy_spec, folder / "a.wav", "--image", folder / "a.png", check=True)
    assert done.stdout == expected
    assert toy.run("caption", "--spec", toy_spec, folder, check=True).stdout == expected
    assert toy.run("caption", "--spec", toy_spec, folder / "a.wav", check=True).stdout == "loud 2 x 0.12\n"


def test_second_run_goes_on_where_the_first_stopped(toy, toy_spec, folder, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        clip(folder, name)
    (folder / "c.mp4").write_bytes(b"")
    out = tmp_path / "out" / "captions.jsonl"
    assert toy.run("caption", "--spec", toy_spec, folder / "a.mp4", folder / "c.mp4", "--out", out).returncode == 1
    text = out.read_text()
    out.write_text(text + '{"clip": "half of a ro')
    done = toy.run("caption", "--spec", toy_spec, folder, "--out", out)
    assert done.returncode == 1, "an error of the first run still counts"
    assert "2 of 3 clips are in" in done.stderr
    assert out.read_text().startswith(text)
    assert [row["clip"].rpartition("/")[2] for row in rows_of(out)] == ["a.mp4", "c.mp4", "b.mp4"]
    clip(folder, "c.mp4")
    assert toy.run("caption", "--spec", toy_spec, folder, "--out", out, "--retry").returncode == 0
    assert [row["status"] for row in rows_of(out)] == ["ok"] * 3


def test_rows_of_two_pipelines_do_not_mix(toy, toy_spec, folder, tmp_path):
    clip(folder, "a.mp4")
    out = tmp_path / "captions.jsonl"
    toy.run("caption", "--spec", toy_spec, folder, "--out", out, check=True)
    other = toy.run("caption", "--spec", toy_spec, folder, "--out", out, "--set", "decoder.fail_above=7")
    assert other.returncode == 2
    assert "C003" in other.stderr
    anew = toy.run("caption", "--spec", toy_spec, folder, "--out", out, "--set", "decoder.fail_above=7", "--overwrite")
    assert anew.returncode == 0


def test_a_file_that_is_not_ours_is_left_alone(toy, toy_spec, folder, tmp_path):
    clip(folder, "a.mp4")
    (tmp_path / "notes.txt").write_text("my notes\nmore\n")
    done = toy.run("caption", "--spec", toy_spec, folder, "--out", tmp_path / "notes.txt")
    assert done.returncode == 2
    assert "C004" in done.stderr
    assert (tmp_path / "notes.txt").read_text() == "my notes\nmore\n"


def test_kill_loses_nothing_that_was_written(toy, toy_spec, folder, tmp_path):
    good = clip(folder, "clip00.mp4", seconds=3).read_bytes()
    for number in range(1, 60):
        (folder / f"clip{number:02}.mp4").write_bytes(good)
    out = tmp_path / "captions.jsonl"
    words = ["caption", "--spec", str(toy_spec), str(folder), "--out", str(out), "--batch", "1", "--workers", "1"]
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(toy.folder)!r})"]
    command[-1] += f"\nfrom lavcap_core.cli import main\nmain({words!r})"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (out.exists() and out.read_text().count("\n") >= 3) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = out.read_text()
    toy.run(*words, check=True)
    assert out.read_text().startswith(before[: before.rfind("\n") + 1])
    assert sorted(row["clip"] for row in rows_of(out)) == sorted(str(path) for path in folder.iterdir())


def test_interrupt_is_exit_code_130(toy, toy_spec, folder, tmp_path):
    good = clip(folder, "clip00.mp4", seconds=3).read_bytes()
    for number in range(1, 60):
        (folder / f"clip{number:02}.mp4").write_bytes(good)
    out = tmp_path / "captions.jsonl"
    words = ["caption", "--spec", str(toy_spec), str(folder), "--out", str(out), "--batch", "1", "--workers", "1"]
    code = f"import signal, sys; sys.path.insert(0, {str(toy.folder)!r})\n"
    # Where the tests run in the background, a shell has made them, and so this process, deaf to interrupts.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"from lavcap_core.cli import main\nsys.exit(main({words!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not (out.exists() and out.read_text().count("\n") >= 3) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate()[1]
    assert process.returncode == 130
    toy.run(*words, check=True)
    assert len(rows_of(out)) == 60


def test_clip_that_fails_in_the_decoder_takes_no_other_with_it(toy, folder, tmp_path, toy_spec):
    paths = [clip(folder, f"{i}.mp4", loud=0.5 if i != 2 else 0.9) for i in range(4)]
    pipeline = load(toy_spec, ["decoder.fail_above=0.2", "visual_encoder=null"])
    rows = list(caption_items(pipeline, [Item(str(path), path.name) for path in paths], batch=4))
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "ok"]
    assert (rows[2]["code"], rows[2]["reason"]) == ("C001", "RuntimeError: too much for me")


def test_prompts_and_starts_of_a_manifest(toy, toy_spec, folder, tmp_path):
    clip(folder, "a.mp4", seconds=4)
    lines = [{"id": "x", "clip": "a.mp4", "prompt": "Say it"}, {"id": "y", "clip": "a.mp4", "start": 2.0}]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "captions.jsonl"
    toy.run("caption", "--spec", toy_spec, folder / "m.jsonl", "--out", out, check=True)
    assert [(row["clip"], row["caption"]) for row in rows_of(out)] == [
        ("x", "Say it, loud 8 x 0.12, bright 4 x 0.99"),
        ("y", "loud 4 x 0.12, bright 4 x 0.99"),
    ]


def test_truncated_file_is_partial(toy, toy_spec, folder, tmp_path):
    whole = clip(folder, "a.mkv", seconds=8)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    out = tmp_path / "captions.jsonl"
    toy.run("caption", "--spec", toy_spec, folder, "--out", out, check=True)
    row = rows_of(out)[0]
    assert row["status"] == "partial"
    assert 1 < row["seconds"] < 8
    assert row["reason"]


def test_no_clips_and_no_preset(toy, toy_spec, tmp_path):
    done = toy.run("caption", "--spec", toy_spec, tmp_path / "site" / "lavcap_toy")
    assert (done.returncode, "C005" in done.stderr) == (2, True)
    done = toy.run("caption", "--preset", "startr", "x.mp4")
    assert (done.returncode, "S007" in done.stderr) == (2, True)


def test_rows_refuse_to_write_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="C004"):
        Rows(tmp_path / "file" / "captions.jsonl").open({})


def test_hooks_hear_of_every_row(toy, toy_spec, folder, tmp_path):
    code = (
        "from lavcap_core.hooks import hookimpl\n"
        "@hookimpl\ndef caption_end(row):\n    print('heard', row['status'])\n"
        "@hookimpl\ndef run_end(verb, summary):\n    print(verb, summary)\n"
    )
    points = {"lavcap.hooks": {"ear": "lavcap_ear:hooks", "bad": "lavcap_ear:nothing"}}
    files = {"lavcap_ear/__init__.py": "from lavcap_ear import hooks\n", "lavcap_ear/hooks.py": code}
    toy.add("lavcap-ear", points, files)
    done = toy.run("caption", "--spec", toy_spec, clip(folder, "a.mp4"), "--out", tmp_path / "o.jsonl", check=True)
    assert done.stdout.splitlines() == ["heard ok", "caption {'captions': 1, 'errors': 0}"]
    assert "hooks of lavcap-ear/bad can't be loaded" in done.stderr
