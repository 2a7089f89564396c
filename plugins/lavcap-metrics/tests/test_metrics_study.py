"""Listening studies: the page hides whose captions are, answers survive, means and intervals are right."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lavcap_core.cli import main
from lavcap_core.testing import browser
from lavcap_core.testing.clips import write_clip
from lavcap_metrics.study import answers, media, report
from lavcap_metrics.study.key import Clip, Key, Rated

SYSTEMS = ("alpha.jsonl", "beta.jsonl", "ground truth")
CLIPS = 6
ATTACK = "</script><script>window.ran = 1</script><i>"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six clips that browsers play, and one that they don't."""
    folder = tmp_path_factory.mktemp("study") / "clips"
    (folder / "inner").mkdir(parents=True)
    sound = write_clip(folder / "clip0.wav", 0.2, video=None, audio="pcm_s16le")
    for i in range(1, CLIPS - 1):
        shutil.copy(sound, folder / f"clip{i}.wav")
    write_clip(folder / "inner" / f"clip{CLIPS - 1}.mp4", 0.3)
    write_clip(folder / "odd.mp4", 0.3, video="mpeg4")
    (folder / "notes.txt").write_text("")
    return folder


@pytest.fixture
def folder(tmp_path, clips, monkeypatch):
    """Captions of two systems, and references; of clip0 both systems say the same."""
    names = [*(f"clip{i}" for i in range(CLIPS)), "odd", "gone"]
    for system in ("alpha", "beta"):
        rows = [{"clip": f"/there/{name}.wav", "caption": f"{system} hears {ATTACK}{name}"} for name in names]
        rows[0]["caption"] = "both hear clip0"
        (tmp_path / f"{system}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{name}.wav,people say {number} of {name}" for name in names for number in range(3)]
    (tmp_path / "test.csv").write_text("\n".join(["clip,caption", *lines]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(clips, *more, count=CLIPS):
    return main(["study", "make", "alpha.jsonl", "beta.jsonl", "--media", str(clips), "--clips", str(count), *more])


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text())[1])


def test_page_shows_captions_and_hides_whose_they_are(folder, clips, capsys):
    assert make(clips, "--references", "test.csv") == 0
    said = capsys.readouterr()
    assert "study.html: 6 of 7 clips, 3 systems" in said.out
    assert "1 clip without a file" in said.err
    text = (folder / "study.html").read_text()
    assert not [name for name in (*SYSTEMS, "test.csv", "study.key") if name in text]
    data, key = data_of(folder / "study.html"), Key.read(folder / "study.key.json")
    assert key.systems == SYSTEMS
    shown = {caption["id"]: caption["text"] for clip in data["clips"] for caption in clip["captions"]}
    assert shown == {caption.id: caption.text for clip in key.clips for caption in clip.captions}
    for clip in key.clips:
        for caption in clip.captions:
            first = caption.text.split()[0]
            assert caption.systems == {
                "alpha": SYSTEMS[:1],
                "beta": SYSTEMS[1:2],
                "people": SYSTEMS[2:],
                "both": SYSTEMS[:2],
            }.get(first)
    assert len(shown) == 3 * CLIPS - 1
    assert key.facts["files"]["ground truth"] == "test.csv"


def test_it_needs_no_torch(folder, clips):
    words = ["study", "make", "alpha.jsonl", "--media", str(clips), "--clips", "2", "--references", "test.csv"]
    code = f"import sys\nfrom lavcap_core.cli import main\nmain({words!r})\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_seed_draws_the_clips_and_not_the_blinding(folder, clips):
    drawn = []
    for out, seed in (("a.html", "1"), ("b.html", "1"), ("c.html", "2")):
        assert make(clips, "--out", out, "--seed", seed, count=3) == 0
        drawn.append(Key.read(folder / out.replace(".html", ".key.json")))
    assert make(clips, "--out", "d.html", "--seed", "1", "--references", "test.csv", count=3) == 0
    names = [{clip.name.removesuffix(".wav").rpartition("/")[2] for clip in key.clips} for key in drawn]
    assert {clip.name.removesuffix(".wav") for clip in Key.read(folder / "d.key.json").clips} == names[0]
    assert names[0] == names[1] != names[2]
    ids = [{caption.id for clip in key.clips for caption in clip.captions} for key in drawn]
    assert not ids[0] & ids[1]
    assert drawn[0].study != drawn[1].study


def test_order_in_the_source_follows_no_system(folder, clips):
    first = set()
    for number in range(12):
        assert make(clips, "--out", f"{number}.html", "--link") == 0
        data = data_of(folder / f"{number}.html")
        first |= {clip["captions"][0]["text"].split()[0] for clip in data["clips"] if len(clip["captions"]) > 1}
    assert first == {"alpha", "beta"}


def test_media_are_embedded_or_linked(folder, clips, capsys):
    assert make(clips, "--out", "embedded.html") == 0
    assert make(clips, "--out", "linked.html", "--link") == 0
    embedded, linked = (data_of(folder / name)["clips"] for name in ("embedded.html", "linked.html"))
    assert {clip["src"] for clip in embedded} == {None}
    assert all((folder / clip["src"]).is_file() for clip in linked)
    assert sorted(clip["type"] for clip in linked) == ["audio/wav"] * 5 + ["video/mp4"]
    assert make(clips, "--out", "small.html", "--limit", "0.01") == 2
    assert "E062" in capsys.readouterr().err
    assert not (folder / "small.html").exists()


def test_too_few_clips_are_told_with_the_reasons(folder, clips, capsys):
    assert make(clips, count=7) == 2
    said = capsys.readouterr().err
    assert "E060 7 clips are wanted, and 6 can be shown" in said
    assert "1 without a file" in said
    assert "1 with codec mpeg4, which browsers don't play" in said
    assert "ffmpeg" in said


def test_names_of_systems_must_differ(folder, clips, capsys):
    assert main(["study", "make", "alpha.jsonl", "alpha.jsonl", "--media", str(clips)]) == 2
    assert "E061 several systems are called alpha.jsonl" in capsys.readouterr().err
    assert make(clips, "--name", "ground truth", "--references", "test.csv") == 2
    assert make(clips, "--name", "one", "--name", "two", "--name", "three") == 2
    assert make(clips, "--name", "one") == 0
    assert Key.read(folder / "study.key.json").systems == ("one", "beta.jsonl")


def test_a_key_is_never_replaced(folder, clips, capsys):
    assert make(clips) == 0
    before = (folder / "study.html").read_text(), (folder / "study.key.json").read_text()
    assert make(clips) == 2
    assert "E068" in capsys.readouterr().err
    assert before == ((folder / "study.html").read_text(), (folder / "study.key.json").read_text())


@pytest.mark.parametrize("name", ["gone", "clips"])
def test_folder_of_media_must_be_one(folder, name, capsys):
    (folder / "clips").write_text("")
    assert main(["study", "make", "alpha.jsonl", "--media", name]) == 2
    assert "E060" in capsys.readouterr().err


def test_what_cannot_be_written_is_said_in_a_line(folder, clips, capsys):
    (folder / "file").write_text("")
    assert make(clips, "--out", "file/study.html") == 2
    assert "E069 can't be written" in capsys.readouterr().err


def test_neither_page_nor_key_of_a_study_is_ever_lost(folder, clips, capsys):
    assert make(clips, "--limit", "0.00001") == 2  # too small for the clips
    assert not list(folder.glob("study*"))
    assert make(clips, "--key", "study.html") == 2
    assert make(clips) == 0
    page, key = ((folder / name).read_bytes() for name in ("study.html", "study.key.json"))
    assert make(clips, "--key", "other.json") == 2
    (folder / "answers").mkdir()
    assert main(["study", "report", "study.key.json", "answers", "--json", "study.key.json"]) == 2
    assert "E069" in capsys.readouterr().err
    assert ((folder / "study.html").read_bytes(), (folder / "study.key.json").read_bytes()) == (page, key)


def test_half_of_a_surrogate_pair_in_a_caption(folder, clips):
    text = (folder / "alpha.jsonl").read_text().replace("both hear clip0", "half \\ud83d of it")
    (folder / "alpha.jsonl").write_text(text)
    assert make(clips) == 0
    assert any(
        one.text == "half \ud83d of it" for clip in Key.read(folder / "study.key.json").clips for one in clip.captions
    )


def test_a_copy_that_browsers_play_goes_before_one_that_they_do_not(tmp_path):
    for name in ("a.avi", "a.mp4", "b.avi", "b.wav", "c.avi"):
        (tmp_path / name).touch()
    assert media.find(tmp_path, ["a", "b", "c"]).files == {"a": "a.mp4", "b": "b.wav", "c": "c.avi"}


def test_a_file_that_is_named_twice_is_read_once(tmp_path):
    (tmp_path / "a.json").touch()
    assert answers.files([tmp_path, tmp_path / "a.json", tmp_path / ".." / tmp_path.name]) == [tmp_path / "a.json"]


def test_a_film_goes_before_a_sound_and_what_is_unclear_is_left(tmp_path):
    for name in ("a.wav", "a.mp4", "b.wav", "x/c.wav", "y/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = media.find(tmp_path, ["a", "b", "c", "d"])
    assert found.files == {"a": "a.mp4", "b": "b.wav"}
    assert found.unclear == ("c",)


def test_what_browsers_play_is_told_by_content_not_by_name(tmp_path):
    wrong = tmp_path / "a.mp4"
    wrong.write_text("no film")
    assert media.unplayable(wrong) == "that can't be read"
    assert media.unplayable(tmp_path / "a.avi") == "of kind .avi"


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("a.mp3", {"video": None, "audio": "libmp3lame"}),
        ("a.webm", {"video": "libvpx-vp9", "audio": "libopus"}),
        ("b.webm", {"video": "libvpx", "audio": "libopus"}),
        ("a.flac", {"video": None, "audio": "flac"}),
    ],
)
def test_formats_that_go_by_another_name_where_they_are_decoded(tmp_path, name, codecs):
    assert media.unplayable(write_clip(tmp_path / name, 0.3, rate=48000, **codecs)) is None


def test_without_a_folder_the_clips_are_the_files_that_are_named(folder, clips, capsys):
    rows = [{"id": f"clip{i}", "clip": f"{clips}/clip{i}.wav", "caption": f"people say {i}"} for i in range(3)]
    rows[2]["end"] = 0.1  # a stretch, and the page plays whole files
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["study", "make", "alpha.jsonl", "beta.jsonl", "--references", "list.jsonl", "--clips"]
    assert main([*command, "3"]) == 2
    assert "2 can be shown" in capsys.readouterr().err
    assert main([*command, "2"]) == 0
    found = Key.read(folder / "study.key.json").clips
    assert {clip.name: clip.media for clip in found} == {f"clip{i}": f"{clips}/clip{i}.wav" for i in range(2)}
    assert (folder / "study.html").stat().st_size > 2 * 4 / 3 * (clips / "clip0.wav").stat().st_size


# Reports


def saved(folder, key, rater, scores, other=None):
    """A file as the page writes it; scores by id of the caption; other is what it has instead."""
    captions = sum(len(clip.captions) for clip in key.clips)
    row = {"lavcap_study_answers": 1, "study": key.study, "rater": rater, "complete": len(scores) == captions}
    row |= {"captions": captions, "scored": len(scores), "started": "2026-01-01T10:00:00.000Z"}
    path = folder / f"answers-{rater}.json"
    while path.exists():
        path = path.with_stem(f"{path.stem}-")
    path.write_text(json.dumps({**row, "saved": "2026-01-01T11:00:00.000Z", "scores": scores, **(other or {})}))
    return path


def score_all(key, scores):
    """Scores by id; a caption of several systems gets the first's."""
    return {caption.id: scores[caption.systems[0]] for clip in key.clips for caption in clip.captions}


@pytest.fixture
def key(folder, clips):
    assert make(clips, "--references", "test.csv") == 0
    (folder / "answers").mkdir()
    return Key.read(folder / "study.key.json")


def run_report(*more):
    return main(["study", "report", "study.key.json", "answers", "--json", "report.json", *more])


def test_report_gives_means_intervals_and_published_rows(folder, key, capsys):
    for rater, shift in (("anna", 0), ("ben", 1)):
        scores = dict(zip(SYSTEMS, (1 + shift, 2 + shift, 4 + shift), strict=True))
        saved(folder / "answers", key, rater, score_all(key, scores))
    assert run_report() == 0
    said = capsys.readouterr().out
    found = json.loads((folder / "report.json").read_text())
    means = {one["system"]: one["mean"] for one in found["systems"]}
    # Of clip0, alpha and beta said the same, which was scored as alpha's.
    assert means == pytest.approx({"alpha.jsonl": 1.5, "beta.jsonl": 2.5 - 1 / CLIPS, "ground truth": 4.5})
    assert found["systems"][2]["counts"] == [0, 0, 0, CLIPS, CLIPS]
    # Raters differ by 1, clips by nothing: a draw has one rater twice, or both.
    assert (found["systems"][2]["low"], found["systems"][2]["high"]) == (4.0, 5.0)
    differences = {(one["first"], one["second"]): one for one in found["differences"]}
    truth = differences["alpha.jsonl", "ground truth"]
    assert (truth["difference"], truth["low"], truth["high"]) == (-3, -3, -3)
    assert [one["complete"] for one in found["raters"]] == [True, True]
    assert found["published"]["means"]["audio-visual"] == 4.08
    assert re.search(r"^audio-visual \(published\) +4\.08", said, flags=re.M)
    assert "not measured here" in said
    assert "2 raters, 6 clips, 34 scores" in said
    assert "only 2 raters" in said


def test_incomplete_answers_count_and_are_named(folder, key, capsys):
    scores = score_all(key, dict.fromkeys(SYSTEMS, 3))
    saved(folder / "answers", key, "anna", dict(list(scores.items())[:4]))
    saved(folder / "answers", key, "ben", {})
    assert run_report() == 0
    said = capsys.readouterr().out
    assert "1 rater, 6 clips, 4 scores; not complete: anna, ben" in said
    assert "one rater" in said
    assert [one["scored"] for one in json.loads((folder / "report.json").read_text())["raters"]] == [4, 0]


def test_wrong_files_are_named_and_lose_nothing_else(folder, key, capsys):
    good = score_all(key, dict.fromkeys(SYSTEMS, 3))
    caption = next(iter(good))
    place = folder / "answers"
    saved(place, key, "anna", good)
    (place / "cut.json").write_text('{"lavcap_study_answers": 1, "stu')
    (place / "list.json").write_text("[]")
    (place / "latin.json").write_bytes(b'{"rater": "\xe9"}')
    (place / "deep.json").write_text("[" * 100_000)
    wrong = {
        "six": {"scores": {**good, caption: 6}},
        "true": {"scores": {**good, caption: True}},
        "text": {"scores": {**good, caption: "5"}},
        "strange": {"scores": {**good, "0123": 5}},
        "none": {"scores": None},
        "empty": {"scores": ""},
        "nobody": {"rater": " "},
        "newer": {"lavcap_study_answers": 2},
        "foreign": {"study": "another"},
    }
    for name, other in wrong.items():
        saved(place, key, name, good, other)
    assert run_report() == 1
    said = capsys.readouterr()
    assert "1 rater, 6 clips, 17 scores" in said.out
    told = dict(re.findall(r"^\S*?([\w-]+)\.json: (E\d+)", said.err, flags=re.M))
    names = ["cut", "list", "latin", "deep", *(f"answers-{name}" for name in wrong)]
    assert told == {name: "E065" if name == "answers-foreign" else "E064" for name in names}
    assert len(json.loads((folder / "report.json").read_text())["left_out"]) == len(names)


def test_of_two_files_of_a_rater_the_later_counts_and_it_is_told(folder, key, capsys):
    place = folder / "answers"
    saved(place, key, "anna", score_all(key, dict.fromkeys(SYSTEMS, 5)), {"saved": "2026-01-02T09:00:00.000Z"})
    saved(place, key, "anna", score_all(key, dict.fromkeys(SYSTEMS, 1)), {"rater": "anna "})
    assert run_report() == 1
    said = capsys.readouterr()
    assert "E066 rater 'anna' saved other scores" in said.err
    assert "1 rater," in said.out
    assert json.loads((folder / "report.json").read_text())["systems"][0]["mean"] == 5


def test_without_any_score_there_is_no_report(folder, key, capsys):
    saved(folder / "answers", key, "anna", {})
    assert run_report() == 2
    assert "E067" in capsys.readouterr().err
    assert not (folder / "report.json").exists()


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"lavcap_study": 2}', '{"lavcap_study": 1, "study": 1}'])
def test_key_must_be_one(folder, text, capsys):
    if text is not None:
        (folder / "study.key.json").write_text(text)
    assert main(["study", "report", "study.key.json", "answers"]) == 2
    assert "E063" in capsys.readouterr().err


def test_key_among_the_answers_is_no_answer(folder, key):
    saved(folder, key, "anna", score_all(key, dict.fromkeys(SYSTEMS, 2)))
    assert main(["study", "report", "study.key.json", *map(str, folder.glob("*.json"))]) == 0


def opinions(table):
    """Key and answers of one system: scores [raters, clips], 0 where there is none."""
    raters, count = np.shape(table)
    clips = tuple(Clip(f"k{i}", f"clip{i}", "m", (Rated(f"c{i}", "text", ("one",)),)) for i in range(count))
    given = [{f"c{i}": int(row[i]) for i in range(count) if row[i]} for row in np.asarray(table)]
    return Key("s", ("one",), clips), [answers.Answers("f", f"r{i}", "", given[i]) for i in range(raters)]


def test_interval_speaks_of_other_raters_and_other_clips():
    generator = np.random.default_rng(0)
    effects = generator.normal(0, 0.7, (20, 1)) + generator.normal(0, 0.7, (1, 35)) + generator.normal(0, 0.3, (20, 35))
    table = np.clip(np.round(3 + effects), 1, 5)
    (one,) = report.report(*opinions(table)).systems
    assert one.mean == pytest.approx(table.mean())
    # Two-way random effects: variance of the mean is that of raters over 20 and of clips over 35.
    expected = np.sqrt(table.mean(1).var(ddof=1) / 20 + table.mean(0).var(ddof=1) / 35)
    assert (one.high - one.low) / 2 / 1.96 == pytest.approx(expected, rel=0.1)
    naive = table.std(ddof=1) / np.sqrt(table.size)
    assert expected > 3 * naive


def test_what_raters_skipped_counts_neither_way():
    key, given = opinions([[5, 0, 0], [3, 1, 0]])
    found = report.report(key, given)
    assert found.systems[0].mean == 3
    assert found.systems[0].ratings == 3
    assert np.isfinite([found.systems[0].low, found.systems[0].high]).all()


def test_the_seed_makes_the_interval():
    table = np.random.default_rng(0).integers(1, 6, (12, 30))
    first, again, other = (report.report(*opinions(table), seed).systems[0] for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_a_system_without_scores_is_not_in_the_table():
    key, given = opinions([[5, 2]])
    found = report.report(replace(key, systems=("one", "two")), given)
    assert [one.system for one in found.systems] == ["one"]
    assert found.differences == ()


# In a browser


@pytest.fixture(scope="module")
def chromium():
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium: make browser installs it; CHROMIUM names another")
    with browser.chromium(program) as running:
        yield running


def begin(page, rater):
    page.type("#rater", rater)
    page.press("Enter")
    page.until("document.querySelector('video, audio')?.duration")
    return page.texts("#captions legend")


def test_a_rater_scores_by_keyboard_comes_back_and_saves(folder, key, chromium):
    url = (folder / "study.html").as_uri()
    page = chromium.open(url, folder / "answers")
    order = []
    begin(page, "anna")
    for number in range(CLIPS):
        assert page.text("#title") == f"Clip {number + 1} of {CLIPS}"
        order.append(page.texts("#captions legend"))
        for _ in range(len(order[-1])):
            page.press("4")
        if number == 2:  # comes back
            page.go(url)
            begin(page, "anna")
            assert page.text("#title") == f"Clip 4 of {CLIPS}"
        else:
            page.press("Enter")  # on the button that has the focus: next, or save
    assert page.text("#progress") == "All 17 captions are scored: save the file."
    file = folder / "answers" / "answers-anna.json"
    page.until("document.querySelector('#saved').textContent")
    chromium.wait(lambda row: row.get("method") == "Browser.downloadProgress" and row["params"]["state"] == "completed")
    content = json.loads(file.read_text())
    assert (content["complete"], content["scored"], set(content["scores"].values())) == (True, 17, {4})
    assert run_report() == 0
    assert {one["mean"] for one in json.loads((folder / "report.json").read_text())["systems"]} == {4}
    assert page.errors() == []
    assert set(page.requests()) == {url}
    assert page.read("window.ran") is None
    assert sum(ATTACK in text for texts in order for text in texts) == 2 * (CLIPS - 1)
    assert len({tuple(texts) for texts in order}) == CLIPS


def test_each_rater_has_an_order_of_their_own_which_stays(folder, key, chromium):
    orders = {}
    for rater in ("anna", "ben", "1", "2", "anna"):
        page = chromium.open((folder / "study.html").as_uri())
        begin(page, rater)
        found = page.read("order.map((clip) => [clip.id, ...clip.captions.map((caption) => caption.id)])")
        assert sorted(sorted(clip) for clip in found) == sorted(
            sorted([clip.id, *(caption.id for caption in clip.captions)]) for clip in key.clips
        )
        assert orders.setdefault(rater, found) == found
    assert len({json.dumps(order) for order in orders.values()}) == 4


def test_scores_by_mouse_are_kept_and_an_incomplete_file_says_so(folder, key, chromium):
    page = chromium.open((folder / "study.html").as_uri(), folder / "answers")
    begin(page, "ben")
    page.click("#captions input[value='2']")
    page.click("#next")
    page.click("#previous")
    assert page.read("document.querySelector('#captions input:checked').value") == "2"
    assert page.texts("#captions fieldset.done") != []
    page.click("#save")
    assert page.until("document.querySelector('#saved').textContent").startswith("Saved, with 16 captions not scored")
    chromium.wait(lambda row: row.get("method") == "Browser.downloadProgress" and row["params"]["state"] == "completed")
    content = json.loads((folder / "answers" / "answers-ben.json").read_text())
    assert (content["complete"], list(content["scores"].values())) == (False, [2])


def test_linked_clips_play(folder, clips, chromium):
    shutil.copytree(clips, folder / "clips")
    assert main(["study", "make", "alpha.jsonl", "--media", "clips", "--clips", "6", "--link"]) == 0
    page = chromium.open((folder / "study.html").as_uri())
    begin(page, "anna")
    assert any("/clips/" in url for url in page.requests())
    assert page.errors() == []


def test_a_clip_that_is_gone_is_told_to_the_rater(folder, clips, chromium):
    shutil.copytree(clips, folder / "clips")
    assert main(["study", "make", "alpha.jsonl", "--media", "clips", "--clips", "6", "--link"]) == 0
    shutil.rmtree(folder / "clips")
    page = chromium.open((folder / "study.html").as_uri())
    page.type("#rater", "anna")
    page.press("Enter")
    assert "can't be played" in page.until("document.querySelector('#player .notice')?.textContent")


def test_a_browser_that_keeps_nothing_warns(folder, key, chromium):
    page = chromium.open((folder / "study.html").as_uri())
    page.read("void Object.defineProperty(window, 'localStorage', {get() { throw new Error('blocked'); }})")
    begin(page, "anna")
    page.press("3")
    assert "save the file before you close it" in page.text("#warning")
