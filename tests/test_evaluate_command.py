"""`lavcap evaluate` as it is typed."""

import csv
import json
import shutil

import pytest
from toys import TOY_SPEC

from lavcap_core.cli import main
from lavcap_core.run.evaluate.result import Evaluation
from lavcap_core.testing.clips import write_clip

SHARE = ["--metrics", "share"]
HEAVY = ("torch", "transformers", "peft", "av")


@pytest.fixture
def folder(site, tmp_path, monkeypatch):
    """References of four clips, and captions of two systems."""
    site.add_words()
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    texts = {"a": "a dog barks", "b": "rain falls", "c": "a man speaks", "d": "wind blows"}
    rows(
        place / "refs.jsonl", [{"id": name, "clip": f"{name}.wav", "captions": [text]} for name, text in texts.items()]
    )
    rows(place / "good.jsonl", [ok(f"clips/{name}.wav", text) for name, text in texts.items()])
    rows(place / "poor.jsonl", [ok(name, "a dog") for name in texts])
    return place


def rows(path, content):
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


def ok(name, text):
    return {"clip": name, "caption": text, "status": "ok"}


def evaluate(*words):
    return main(["evaluate", *map(str, words)])


def test_one_system(folder, capsys):
    assert evaluate("poor.jsonl", "--references", "refs.jsonl", *SHARE) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines()[0].startswith("poor.jsonl: 4 clips (list ")
    assert "\nshare  0.375 [0, 0.75]\n" in said.out


def test_reports(folder, capsys):
    words = ["--json", "out/e.json", "--csv", "out/e.csv", "--html", "out/e.html", "--name", "mine"]
    assert evaluate("poor.jsonl", "--references", "refs.jsonl", "--metrics", "share,ratio", *words) == 0
    found = Evaluation.read(folder / "out" / "e.json")
    assert (found.system, found.scores) == ("mine", {"share": 0.375, "ratio": 0.375})
    with (folder / "out" / "e.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["system"], line["id"], line["share"]) for line in lines[:2]] == [
        ("mine", "a", "1.0"),
        ("mine", "b", "0.0"),
    ]
    assert "a man speaks" in (folder / "out" / "e.html").read_text()


def test_systems_side_by_side_and_tested(folder, capsys):
    assert evaluate("poor.jsonl", "good.jsonl", "--references", "refs.jsonl", *SHARE, "--markdown") == 0
    out = capsys.readouterr().out
    assert "|  | poor.jsonl | good.jsonl |" in out
    assert "| share | 0.375 [0, 0.75] | 1 [1, 1] |" in out
    # Three clips differ, all one way: p = 2 / 8.
    assert "| share | +0.625 [+0.25, +1] p=0.2" in out


def test_saved_evaluations_and_captions_mix(folder, capsys):
    assert evaluate("poor.jsonl", "--references", "refs.jsonl", *SHARE, "--json", "poor.json") == 0
    assert evaluate("good.jsonl", "--references", "refs.jsonl", *SHARE, "--json", "good.json") == 0
    capsys.readouterr()
    assert evaluate("poor.json", "good.json") == 0
    saved = capsys.readouterr().out
    assert evaluate("poor.json", "good.jsonl", "--references", "refs.jsonl", *SHARE) == 0
    assert capsys.readouterr().out == saved
    assert evaluate("good.json", "good.json") == 0
    assert "     good.json  good.json" in capsys.readouterr().out


def test_systems_of_one_file_name_are_told_apart(folder, capsys):
    (folder / "x").mkdir()
    shutil.copy("good.jsonl", "x/poor.jsonl")
    assert evaluate("poor.jsonl", "x/poor.jsonl", "--references", "refs.jsonl", *SHARE) == 0
    assert "x/poor.jsonl: 4 clips" in capsys.readouterr().out


def test_what_is_wrong_with_captions_stops_and_is_listed(folder, capsys):
    rows(folder / "bad.jsonl", [ok("a", "a"), ok("x", "x"), {"clip": "b", "caption": None, "status": "error"}])
    assert evaluate("bad.jsonl", "--references", "refs.jsonl", *SHARE) == 2
    err = capsys.readouterr().err
    assert [line.split()[1] for line in err.splitlines() if "help" not in line] == ["E004", "E005", "E008"]
    rows(folder / "worse.jsonl", [ok("a", "a")])
    assert evaluate("bad.jsonl", "worse.jsonl", "--references", "refs.jsonl", *SHARE, "--allow", "failed,extra") == 2
    err = capsys.readouterr().err
    assert [line.split()[0] for line in err.splitlines() if "help" not in line] == ["bad.jsonl:", "worse.jsonl:"]
    assert evaluate("bad.jsonl", "--references", "refs.jsonl", *SHARE, "--allow", "missing,failed,extra") == 0
    said = capsys.readouterr()
    assert "warning: bad.jsonl: not scored, since missing: 2 clips (c, d)" in said.err
    assert "bad.jsonl: 1 clip (list" in said.out
    assert "bad.jsonl: not scored, since extra: 1 clip (x)" in said.out


def test_other_lists_warn_and_the_intersection_is_offered(folder, capsys):
    rows(folder / "fewer.jsonl", [ok("a", "a"), ok("b", "rain")])
    words = ["good.jsonl", "fewer.jsonl", "--references", "refs.jsonl", *SHARE, "--allow", "missing"]
    assert evaluate(*words) == 0
    said = capsys.readouterr()
    line = "good.jsonl and fewer.jsonl are on different lists of clips (4 and 2, 2 in common); --intersect scores both"
    assert f"warning: {line}" in said.err
    assert f"\nwarning: {line}" in said.out
    assert "Difference" not in said.out
    assert evaluate(*words, "--intersect") == 0
    said = capsys.readouterr()
    assert "different lists" not in said.err + said.out
    assert "good.jsonl: 2 clips" in said.out
    assert "Difference from good.jsonl" in said.out


def test_unavailable_metrics_cost_no_other(folder, capsys):
    words = ["good.jsonl", "--references", "refs.jsonl", "--tokeniser", "none"]
    assert evaluate(*words, "--metrics", "share,missing") == 1
    out = capsys.readouterr().out
    assert "share  1 [1, 1]" in out
    assert "not computed: missing: C001 its program is not there (install the program)" in out
    assert evaluate(*words, "--metrics", "broken") == 1


def test_settings_of_a_metric(folder, capsys):
    words = ["good.jsonl", "--references", "refs.jsonl", "--metrics", "model"]
    assert evaluate(*words, "--metric-set", "model.bonus=0.5") == 0
    assert "model  0.75" in capsys.readouterr().out
    assert evaluate(*words, "--metric-set", "model.bonus=x") == 2
    assert evaluate(*words, "--metric-set", "model=3") == 2
    assert evaluate(*words, "--metric-set", "share.tokeniser=none") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["good.jsonl"], "E016 good.jsonl has nothing to be compared with"),
        (["good.jsonl", "--set", "a=b", "--references", "refs.jsonl"], "E016 --set is for a spec"),
        (["a.yaml", "b.yaml", "--data", "refs.jsonl"], "E016 --data goes with one spec"),
        (["good.jsonl", "--references", "refs.jsonl", "--name", "a", "--name", "b"], "E016 1 systems have 2 --name"),
        (["good.jsonl", "--references", "refs.jsonl", "--allow", "missing,odd"], "E016 --allow: there is no 'odd'"),
        (["good.jsonl", "--references", "refs.jsonl", "--metrics", "shar"], "R001 no metric named 'shar'"),
        (["none.jsonl", "--references", "refs.jsonl"], "none.jsonl: E002 can't be read"),
        (["good.jsonl", "--references", "none.csv"], "none.csv: E002 can't be read"),
        (["none.json"], "E001"),
        (["good.jsonl", "--references", "refs.jsonl", "--json", "refs.jsonl/x.json"], "refs.jsonl/x.json: E017"),
    ],
)
def test_wrong_use(folder, capsys, words, said):
    assert evaluate(*words) == 2
    assert said in capsys.readouterr().err


def test_a_report_that_is_a_folder(folder, capsys):
    (folder / "e.json").mkdir()
    assert evaluate("good.jsonl", "--references", "refs.jsonl", *SHARE, "--json", "e.json") == 2
    said = capsys.readouterr()
    assert said.err.startswith("e.json: E017")
    assert "share  1 [1, 1]" in said.out  # what was computed isn't lost
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_published_scores(folder, capsys):
    words = ["good.jsonl", "--references", "refs.jsonl", *SHARE]
    assert evaluate(*words) == 0
    assert "published" not in capsys.readouterr().out
    assert evaluate(*words, "--published") == 0
    out = capsys.readouterr().out
    assert "LAVCap (published)" in out
    assert "LAVCap: published, arXiv 2501.09291, Table I; not measured here" in out
    text = "youtube_id,start_time,caption\n7fmOlUlwoNg,20,rain falls\n"
    (folder / "test.csv").write_text(text)
    rows(folder / "c.jsonl", [ok("Y7fmOlUlwoNg_20000_30000.wav", "rain")])
    words = ["c.jsonl", "--references", "test.csv", *SHARE]
    assert evaluate(*words) == 0
    assert "LAVCap (published)" in capsys.readouterr().out
    assert evaluate(*words, "--no-published") == 0
    assert "LAVCap" not in capsys.readouterr().out


def test_the_field_s_metrics_by_name(folder, capsys):
    words = ["--metrics", "bleu,rouge_l,cider_d,diversity", "--tokeniser", "none", "--json", "e.json"]
    assert evaluate("good.jsonl", "--references", "refs.jsonl", *words) == 0
    found = Evaluation.read(folder / "e.json")
    assert found.scores["BLEU-1"] == pytest.approx(1)
    assert found.scores["ROUGE-L"] == pytest.approx(1)
    assert {"BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr-D"} <= found.intervals.keys()
    assert found.facts["metrics"]["bleu"]["tokeniser"] == "none"
    assert evaluate("e.json", "e.json") == 0
    assert "BLEU-4   +0.00 [+0.00, +0.00] p=1" in capsys.readouterr().out


def test_no_torch_is_imported(folder, site):
    """Neither torch nor the media library, for captions whose names are those of the references."""
    words = ["evaluate", "good.jsonl", "poor.jsonl", "--references", "refs.jsonl", "--tokeniser", "none"]
    words += ["--metrics", "bleu,rouge_l,cider_d,diversity,share", "--html", "x.html", "--json", "x.json"]
    code = f"import sys\nfrom lavcap_core.cli import main\ncode = main({words!r})\n"
    done = site.python("-c", code + f"print(code, [name for name in {HEAVY!r} if name in sys.modules])", cwd=folder)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


# --- captioning and scoring in one go ---------------------------------------------------------------------------------


@pytest.fixture
def clips(folder, site):
    site.add_toy()
    write_clip(folder / "one.mp4")
    write_clip(folder / "two.wav", video=None, audio="pcm_s16le")
    (folder / "toy.yaml").write_text(TOY_SPEC)
    content = [{"id": "1", "clip": "one.mp4", "caption": "loud 4"}, {"id": "2", "clip": "two.wav", "caption": "loud"}]
    rows(folder / "test.jsonl", content)
    return folder


def test_a_spec_is_captioned_and_scored(clips, capsys):
    words = ["toy.yaml", "--data", "test.jsonl", *SHARE, "--quiet"]
    assert evaluate(*words, "--json", "toy.json") == 0
    said = capsys.readouterr()
    assert "toy.test.captions.jsonl: 2 captions, 0 errors" in said.err
    found = Evaluation.read(clips / "toy.json")
    assert found.system == "toy"
    captions = [json.loads(line) for line in (clips / "toy.test.captions.jsonl").read_text().splitlines()]
    assert [(clip.id, clip.candidate) for clip in found.clips] == [(row["clip"], row["caption"]) for row in captions]
    assert found.clips[0].media == str(clips / "one.mp4")
    # Nothing is captioned twice; another spec's captions are not mixed in.
    assert evaluate(*words) == 0
    assert "2 of 2 clips are in toy.test.captions.jsonl already" in capsys.readouterr().err
    assert evaluate(*words, "--set", "audio_encoder.width=3", "--set", "visual_encoder.width=3") == 2
    assert "C003" in capsys.readouterr().err


def test_clips_that_fail_are_errors_unless_allowed(clips, capsys):
    (clips / "two.wav").write_bytes(b"nothing")
    words = ["toy.yaml", "--data", "test.jsonl", *SHARE, "--quiet"]
    assert evaluate(*words) == 2
    assert "E005 could not be captioned: 1 of 2 clips (2)" in capsys.readouterr().err
    assert evaluate(*words, "--allow", "failed") == 0
    assert "toy: 1 clip (list" in capsys.readouterr().out


def test_clips_without_references_are_told_before_captioning(clips, capsys):
    rows(clips / "test.jsonl", [{"clip": "one.mp4"}])
    assert evaluate("toy.yaml", "--data", "test.jsonl", *SHARE) == 2
    assert "E010" in capsys.readouterr().err
    assert not (clips / "toy.test.captions.jsonl").exists()


def test_reports_are_written_before_the_terminal_can_fail(folder, monkeypatch):
    from lavcap_core.run.evaluate import table

    def fail(*arguments):
        raise UnicodeEncodeError("ascii", "x", 0, 1, "no such letter")

    monkeypatch.setattr(table, "text", fail)
    with pytest.raises(UnicodeEncodeError):
        evaluate("good.jsonl", "--references", "refs.jsonl", *SHARE, "--json", "e.json")
    assert Evaluation.read(folder / "e.json").scores == {"share": 1.0}


def test_half_of_a_surrogate_pair_is_kept(folder):
    rows(folder / "odd.jsonl", [ok(name, "x \ud83d y") for name in "abcd"])
    assert evaluate("odd.jsonl", "--references", "refs.jsonl", *SHARE, "--json", "e.json", "--csv", "e.csv") == 0
    assert Evaluation.read(folder / "e.json").clips[0].candidate == "x \ud83d y"
    assert "x \\ud83d y" in (folder / "e.csv").read_text()


def test_scored_evaluations_take_no_settings_of_scoring(folder, capsys):
    assert evaluate("good.jsonl", "--references", "refs.jsonl", *SHARE, "--json", "e.json") == 0
    assert evaluate("e.json", "--metrics", "nonsense") == 2
    assert "E016 --metrics is for captions" in capsys.readouterr().err


def test_of_several_captions_the_first_is_said_to_be_scored(folder, capsys):
    rows(folder / "twice.jsonl", [ok(name, "a dog barks") for name in "aabcd"])
    assert evaluate("twice.jsonl", "--references", "refs.jsonl", *SHARE, "--allow", "duplicate") == 0
    said = capsys.readouterr()
    assert "first caption scored, as there are several: 1 clip (a)" in said.out
    assert "not scored" not in said.out + said.err


def test_numbers_may_be_ids(folder):
    rows(folder / "numbers.jsonl", [{"id": i, "captions": ["rain"], "clip": f"{i}.wav"} for i in (1, 2)])
    rows(folder / "said.jsonl", [{"id": i, "caption": "rain"} for i in (1, 2)])
    assert evaluate("said.jsonl", "--references", "numbers.jsonl", *SHARE) == 0


def test_a_metric_that_cannot_be_resampled_costs_no_other(folder, capsys, monkeypatch):
    import lavcap_words.parts

    def fail(self, statistics):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(lavcap_words.parts.Ratio, "resampled", fail)
    assert evaluate("good.jsonl", "--references", "refs.jsonl", "--metrics", "share,ratio") == 1
    said = capsys.readouterr().out
    assert "\nshare  1 " in said
    assert "not computed: ratio: E011 metric 'ratio' failed: ZeroDivisionError" in said
