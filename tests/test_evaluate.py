"""Captions and references put together, metrics computed, evaluations saved and compared."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavcap_core.errors import LavcapError, PluginError, RunError, SpecError
from lavcap_core.manifest import Item, list_hash
from lavcap_core.run.evaluate import compare, published, table
from lavcap_core.run.evaluate.evaluation import evaluate, rescored
from lavcap_core.run.evaluate.names import assign, is_audiocaps
from lavcap_core.run.evaluate.read import Captions, Row, match, read_captions, read_references
from lavcap_core.run.evaluate.result import Evaluation
from lavcap_core.run.evaluate.score import choose, require, score

VIDEO = "7fmOlUlwoNg"


@pytest.fixture
def words(site):
    site.add_words()
    return site


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("dog.wav", "dog.wav"),
        ("clips/deep/dog.wav", "dog"),
        (r"clips\dog.WAV", "dog.mp4"),
        ("dog.2", "dog.2"),
        (f"videos/{VIDEO}.mp4", f"{VIDEO}_20"),
        (f"Y{VIDEO}_20000_30000.wav", f"{VIDEO}_20"),
        (f"{VIDEO}_20.0", f"{VIDEO}_20"),
        (f"Y{VIDEO}_20.5.flac", f"{VIDEO}_20.5"),
    ],
)
def test_names_that_belong_together(name, clip):
    found = assign([name, "cat"], [clip, "cow"])
    assert (found.pairs, found.extra, found.unclear) == ({clip: name}, ("cat",), {})


@pytest.mark.parametrize(
    ("name", "clip"),
    [("dog.wav", "dogs"), ("dog.1", "dog.2"), (f"{VIDEO}_21.mp4", f"{VIDEO}_20"), (f"X{VIDEO}_20", f"{VIDEO}_20")],
)
def test_names_that_do_not(name, clip):
    assert assign([name], [clip]).extra == (name,)


def test_what_fits_in_several_ways_is_unclear():
    found = assign(["a/dog.wav", "b/dog.wav", "cat"], ["dog", "cat"])
    assert found.unclear == {"dog": ("a/dog.wav", "b/dog.wav")}
    assert found.pairs == {"cat": "cat"}
    assert assign(["dog"], ["a/dog.wav", "b/dog.wav"]).unclear.keys() == {"a/dog.wav", "b/dog.wav"}
    assert assign([f"{VIDEO}.mp4"], [f"{VIDEO}_20", f"{VIDEO}_50"]).unclear.keys() == {f"{VIDEO}_20", f"{VIDEO}_50"}
    assert assign(["dog", "x/dog.mp4"], ["dog"]).unclear == {"dog": ("dog", "x/dog.mp4")}


def test_the_same_name_is_taken_before_the_same_stem():
    found = assign(["dog.wav", "dog.mp4"], ["dog.mp4", "dog.wav"])
    assert found.pairs == {"dog.wav": "dog.wav", "dog.mp4": "dog.mp4"}


@given(st.lists(st.sampled_from(["a", "b/a", "a.wav", "b", "b.mp4", f"{VIDEO}_1", VIDEO]), unique=True))
def test_every_name_is_somewhere_and_no_clip_is_twice(names):
    clips = ["a", "b.wav", f"{VIDEO}_1", "b/c"]
    found = assign(names, clips)
    assert set(found.pairs) <= set(clips)
    assert not set(found.pairs) & set(found.unclear)
    unclear = {name for fitting in found.unclear.values() for name in fitting}
    assert sorted([*found.pairs.values(), *found.extra, *unclear]) == sorted(names)


def test_names_of_audiocaps():
    assert is_audiocaps(f"{VIDEO}_20")
    assert not is_audiocaps("dog_20")


# --- files ------------------------------------------------------------------------------------------------------------


def test_rows_of_captions(tmp_path):
    rows = [
        {"clip": "a.mp4", "caption": " A dog. ", "status": "ok"},
        {"clip": "b.mp4", "caption": "Rain", "status": "partial", "seconds": 1.0},
        {"clip": "c.mp4", "caption": None, "status": "error", "code": "M002"},
        {"id": "d", "clip": "e.mp4", "caption": ""},
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_captions(tmp_path / "c.jsonl")
    assert found.system == "c.jsonl"
    assert found.rows == (Row("a.mp4", "A dog."), Row("b.mp4", "Rain"), Row("c.mp4", None), Row("d", ""))


def test_csv_of_captions_and_every_wrong_row_at_once(tmp_path):
    (tmp_path / "c.csv").write_text("file_name,caption\na.wav,A dog\nb.wav,\n")
    assert read_captions(tmp_path / "c.csv").rows == (Row("a.wav", "A dog"), Row("b.wav", ""))
    (tmp_path / "c.jsonl").write_text('{"id": "a"}\n{"caption": "x"}\n[]\nno\n{"id": "a", "caption": ["x"]}\n')
    with pytest.raises(RunError) as caught:
        read_captions(tmp_path / "c.jsonl")
    assert [(problem.code, problem.line) for problem in caught.value.problems] == [("E002", n) for n in range(1, 6)]


@pytest.mark.parametrize("name", ["c.txt", "none.csv", "folder.csv"])
def test_what_is_no_file_of_captions(tmp_path, name):
    (tmp_path / "c.txt").write_text("a")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(RunError, match="E002"):
        read_captions(tmp_path / name)


def test_references_of_every_kind(tmp_path):
    (tmp_path / "a.csv").write_text(
        f"audiocap_id,youtube_id,start_time,caption\n1,{VIDEO},20,A dog\n2,{VIDEO},20,Rain \n3,abcdefghijk,5,Wind\n"
    )
    (tmp_path / "c.csv").write_text("file_name,caption_1,caption_2\nRain 1.wav,Rain,It rains\n")
    (tmp_path / "m.jsonl").write_text('{"id": "x", "clip": "x.mp4", "captions": ["A dog", " "]}\n')
    found = {name: read_references(tmp_path / name) for name in ("a.csv", "c.csv", "m.jsonl")}
    assert [(item.name, item.captions) for item in found["a.csv"]] == [
        (f"{VIDEO}_20", ("A dog", "Rain")),
        ("abcdefghijk_5", ("Wind",)),
    ]
    assert [(item.name, item.captions) for item in found["c.csv"]] == [("Rain 1.wav", ("Rain", "It rains"))]
    assert [(item.name, item.captions) for item in found["m.jsonl"]] == [("x", ("A dog",))]


@pytest.mark.parametrize(
    ("text", "code"), [('{"id": "x", "clip": "x.mp4"}', "E010"), ("", "E010"), ('{"id": "x", "caption": "a"}', "C002")]
)
def test_references_that_are_none(tmp_path, text, code):
    (tmp_path / "m.jsonl").write_text(text + "\n")
    with pytest.raises(RunError, match=code):
        read_references(tmp_path / "m.jsonl")


# --- matching ---------------------------------------------------------------------------------------------------------

REFERENCES = [Item(None, name, captions=(f"{name} one", f"{name} two")) for name in ("c", "a", "b", "d")]


def captions(*pairs, system="s", file="c.jsonl"):
    return Captions(system, file, tuple(Row(*pair) for pair in pairs))


WRONG = captions(("a", "A"), ("a", "again"), ("b", None), ("c", ""), ("x", "X"))


def test_clips_come_in_order_of_their_names(tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"")
    references = [replace(item, clip=str(tmp_path / f"{item.name}.mp4")) for item in REFERENCES]
    found = match(captions(("d", "D"), ("b", "B"), ("a", "A"), ("c", "C")), references)
    assert found.ids == ("a", "b", "c", "d")
    assert found.candidates == ("A", "B", "C", "D")
    assert found.references[1] == ("b one", "b two")
    assert found.media == (None, str(tmp_path / "b.mp4"), None, None)
    assert (found.left_out, found.empty) == ({}, ())


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(RunError) as caught:
        match(WRONG, REFERENCES)
    assert [(problem.code, problem.message) for problem in caught.value.problems] == [
        ("E004", "no caption: 1 of 4 clips (d)"),
        ("E005", "could not be captioned: 1 of 4 clips (b)"),
        ("E006", "empty caption: 1 of 4 clips (c)"),
        ("E007", "several captions: 1 clip (a)"),
        ("E008", "not among the references: 1 clip (x)"),
    ]
    assert all("--allow" in problem.help and problem.file == "c.jsonl" for problem in caught.value.problems)


def test_ten_names_are_shown_and_the_rest_counted():
    references = [Item(None, f"{number:02}", captions=("x",)) for number in range(15)]
    with pytest.raises(
        RunError, match=r"E004 no caption: 14 of 15 clips \(01, 02, 03, 04, 05, 06, 07, 08, 09, 10 and 4 more\)"
    ):
        match(captions(("00", "x")), references)


@pytest.mark.parametrize(
    ("kind", "code"),
    [("missing", "E004"), ("failed", "E005"), ("empty", "E006"), ("duplicate", "E007"), ("extra", "E008")],
)
def test_what_is_allowed_is_no_error_and_the_others_are(kind, code):
    with pytest.raises(RunError) as caught:
        match(WRONG, REFERENCES, [kind])
    assert code not in {problem.code for problem in caught.value.problems}
    assert len(caught.value.problems) == 4


def test_what_is_allowed_is_recorded_and_empty_captions_are_scored():
    found = match(WRONG, REFERENCES, ["missing", "failed", "empty", "duplicate", "extra"])
    assert dict(zip(found.ids, found.candidates, strict=True)) == {"a": "A", "c": ""}
    assert found.left_out == {"missing": ["d"], "failed": ["b"], "duplicate": ["a"], "extra": ["x"]}
    assert found.empty == ("c",)


def test_unclear_names_can_not_be_allowed():
    two = captions(("x/a.wav", "A"), ("y/a.wav", "B"))
    with pytest.raises(RunError, match=r"E009 .*: 1 clip \(a \(captions of x/a.wav, y/a.wav\)\)"):
        match(two, REFERENCES, ["missing", "failed", "empty", "duplicate", "extra"])


@pytest.mark.parametrize("rows", [[("x", "X")], [], [("a", None)]])
def test_nothing_in_common(rows):
    with pytest.raises(RunError) as caught:
        match(captions(*rows), REFERENCES, ["missing", "extra", "failed"])
    assert [problem.code for problem in caught.value.problems] == ["E003"]


# --- scoring ----------------------------------------------------------------------------------------------------------

CANDIDATES = ["a dog barks", "Rain falls", "x"]
TEXTS = [["a dog"], ["rain falls down", "wind"], ["y", "z"]]


def test_metrics_give_what_they_give_and_failures_cost_no_other(words):
    scored = score(choose(["share", "missing", "ratio", "broken", "short"]).uses, CANDIDATES, TEXTS)
    assert scored.corpus == pytest.approx({"share": (2 / 3 + 1 + 0) / 3, "ratio": 3 / 6})
    assert scored.errors.keys() == {"missing", "broken", "short"}
    assert str(scored.errors["missing"]) == "C001 its program is not there\n   help: install the program"
    assert "metric 'broken' failed: ZeroDivisionError: division by zero" in str(scored.errors["broken"])
    assert "1 clip scores 'short' of 3 captions" in str(scored.errors["short"])
    assert set(scored.resample) == {"ratio"}


def test_a_name_that_two_metrics_give(words):
    scored = score(choose(["share", "twin"]).uses, CANDIDATES, TEXTS)
    assert list(scored.scores) == ["share"]
    assert "E013 metric 'twin' gives share, as 'share' does" in str(scored.errors["twin"])


def test_tokeniser_and_settings_reach_the_metrics(words):
    first = score(choose(["share"], "none").uses, CANDIDATES, TEXTS).scores["share"]
    assert first.facts == {"tokeniser": "none"}
    assert first.clips["share"][1] == 0.5
    assert score(choose(["model"], "none", {"model": {"bonus": 0.5}}).uses, ["a"], [["a"]]).corpus == {"model": 0.75}


def test_by_default_all_that_run_no_model(words):
    words.add("lavcap-bad", {"lavcap.metric": {"bad": "lavcap_bad:bad"}}, {"lavcap_bad.py": "raise SystemExit(3)"})
    chosen = choose()
    names = {use.name for use in chosen.uses}
    assert {"share", "ratio", "missing", "broken", "bleu", "cider_d"} <= names
    assert not names & {"model", "fense"}
    assert set(chosen.broken) == {"bad"}
    assert "model" in {use.name for use in choose(settings={"model": {"bonus": 1.0}}).uses}


def test_wrong_choices(words):
    with pytest.raises(PluginError, match="R001"):
        choose(["shar"])
    with pytest.raises(SpecError, match="S002"):
        choose(["model"], settings={"model": {"bonnus": 1.0}})
    with pytest.raises(RunError, match=r"E016 .*'ratio'"):
        choose(["share"], settings={"ratio": {}})
    with pytest.raises(PluginError, match="R001"):
        choose(settings={"ratoi": {}})


def test_without_metrics(words):
    from lavcap_core.registry import Registry

    with pytest.raises(RunError, match="E012"):
        choose(registry=Registry([]))


def test_metrics_are_tried_before_hours_of_work(words):
    assert require(choose(["share", "ratio"]).uses) == ["share", "ratio"]
    with pytest.raises(RunError) as caught:
        require(choose(["missing", "share", "broken"]).uses)
    assert [problem.message.split(":")[0] for problem in caught.value.problems] == [
        "metric 'missing' can't be computed",
        "metric 'broken' can't be computed",
    ]
    assert caught.value.problems[0].help == "install the program"


# --- evaluations ------------------------------------------------------------------------------------------------------


def of(names, *pairs, system="s", references=REFERENCES, tokeniser=None):
    matched = match(captions(*pairs, system=system), references, ["missing"])
    return evaluate(matched, choose(names, tokeniser))


ALL = [("a", "a one"), ("b", "b dog"), ("c", "a cat sits"), ("d", "d two x")]


def test_an_evaluation_says_what_it_is_of_and_survives_a_file(words, tmp_path):
    found = of(["share", "ratio", "missing"], *ALL)
    assert found.scores == pytest.approx({"share": (1 + 0.5 + 0 + 2 / 3) / 4, "ratio": 5 / 10})
    assert found.clips[1].scores == {"share": 0.5, "ratio": 0.5}
    assert found.unavailable == {"missing": "C001 its program is not there (install the program)"}
    facts = found.facts
    assert (facts["clips"], facts["references"]) == (4, {"least": 2, "most": 2, "mean": 2.0})
    assert facts["list"] == list_hash(REFERENCES)
    assert facts["words"]["captions"] == {"least": 2, "most": 3, "mean": 2.5}
    assert facts["metrics"] == {"share": {"tokeniser": "ptb"}, "ratio": {}}
    assert facts["settings"] == {"share": {"tokeniser": "ptb"}, "ratio": {}}
    assert facts["versions"] == {"lavcap-words": "1.0"}
    assert all(low <= found.scores[name] <= high for name, (low, high) in found.intervals.items())
    assert set(found.intervals) == {"share", "ratio"}
    found.write(tmp_path / "e.json")
    again = Evaluation.read(tmp_path / "e.json")
    assert again == found
    assert vars(compare.compared([found, again])[0]["ratio"])["p"] == 1


def test_hash_of_the_references_depends_on_texts_and_not_on_their_order(words):
    turned = [replace(item, captions=item.captions[::-1]) for item in REFERENCES[::-1]]
    other = [replace(REFERENCES[0], captions=("c one",)), *REFERENCES[1:]]
    hashes = [of(["share"], *ALL, references=references).facts["texts"] for references in (REFERENCES, turned, other)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("text", ["", "{}", '{"evaluation": 2}', "[1]"])
def test_what_is_no_evaluation(tmp_path, text):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(RunError, match="E001"):
        Evaluation.read(tmp_path / "e.json")


def test_an_evaluation_without_its_facts_is_none(words, tmp_path):
    of(["share"], *ALL).write(tmp_path / "e.json")
    row = json.loads((tmp_path / "e.json").read_text())
    del row["facts"]["list"]
    (tmp_path / "e.json").write_text(json.dumps(row))
    with pytest.raises(RunError, match=r"E001 .*without list"):
        Evaluation.read(tmp_path / "e.json")


# --- comparing --------------------------------------------------------------------------------------------------------


def test_evaluations_on_the_same_clips_are_tested_pair_by_pair(words):
    one = of(["share", "ratio"], *ALL)
    other = of(["share", "ratio"], *[(name, f"{name} one") for name in "abcd"], system="t")
    assert compare.unlike([one, other]) == []
    (found,) = compare.compared([one, other])
    assert found["share"].difference == pytest.approx(1 - one.scores["share"])
    # Three of four clips differ, all one way: 2 of 8 ways to swap them are as large.
    assert found["share"].p == pytest.approx(0.25, abs=0.02)
    assert found["ratio"].difference == pytest.approx(0.5)


def test_what_can_not_be_compared_is_said(words):
    one = of(["share"], *ALL)
    fewer = of(["share"], *ALL[:3], system="t")
    assert compare.unlike([one, fewer]) == [
        "s and t are on different lists of clips (4 and 3, 3 in common); --intersect scores both on these"
    ]
    assert compare.compared([one, fewer]) == [None]
    texts = of(["share"], *ALL, references=[replace(item, captions=("one",)) for item in REFERENCES], system="t")
    assert compare.unlike([one, texts]) == ["s and t have other reference texts for the same clips"]
    assert compare.compared([one, texts]) == [None]
    lower = of(["share"], *ALL, system="t", tokeniser="none")
    assert compare.unlike([one, lower]) == ["s and t: share with another tokeniser (ptb and none)"]
    newer = replace(one, system="t", facts={**one.facts, "versions": {"lavcap-words": "2.0"}})
    assert compare.unlike([one, newer]) == ["s and t: scored by lavcap-words 1.0 and 2.0"]


def test_the_intersection_is_scored_anew(words):
    names = ["share", "missing", "model"]
    one, other = of(names, *ALL[:3]), of(names, *ALL[1:], system="t")
    left, right = compare.intersection([one, other])
    assert [clip.id for clip in left.clips] == [clip.id for clip in right.clips] == ["b", "c"]
    assert left.scores["share"] == right.scores["share"] == pytest.approx(0.25)
    assert left.facts["list"] == right.facts["list"] == list_hash([Item(None, "b"), Item(None, "c")])
    assert left.facts["clips"] == 2
    assert left.scores["model"] == 0.25
    assert set(left.unavailable) == {"missing"}
    assert compare.compared([left, right])[0]["share"].p == 1
    assert compare.intersection([one, one])[0] is one
    with pytest.raises(RunError, match="E015"):
        compare.intersection([rescored(one, frozenset("a")), rescored(other, frozenset("d"))])


def test_a_metric_that_is_gone_leaves_its_scores_without_a_test(words, monkeypatch):
    from lavcap_core import registry

    one = of(["ratio", "share"], *ALL)
    monkeypatch.setattr(registry, "_installed", registry.Registry([]))
    (found,) = compare.compared([one, replace(one, system="t")])
    assert set(found) == {"share"}
    assert "R001" in rescored(one, frozenset("ab")).unavailable["ratio"]


# --- published --------------------------------------------------------------------------------------------------------


def test_published_numbers_have_the_names_of_scores_and_say_what_they_are():
    (row,) = published.known()
    assert row.scores == {
        "BLEU-1": 72.3,
        "BLEU-4": 29.7,
        "ROUGE-L": 51.0,
        "METEOR": 26.2,
        "CIDEr-D": 84.9,
        "SPICE": 18.5,
        "SPIDEr": 51.7,
    }
    assert all(text in row.note for text in ("2501.09291", "not measured here", "another list of clips"))


def test_published_numbers_stand_beside_audiocaps_only(words):
    audiocaps = [Item(None, f"{VIDEO}_{start}", captions=("a",)) for start in (1, 2)]
    here = of(["share"], *[(item.name, "a") for item in audiocaps], references=audiocaps)
    assert [row.system for row in published.of_same_data([here])] == ["LAVCap"]
    assert published.of_same_data([here, of(["share"], *ALL)]) == []
    assert published.of_same_data([]) == []


# --- tables -----------------------------------------------------------------------------------------------------------


def made(scores, intervals=None, system="s", **facts):
    numbers = {"least": 5, "most": 5, "mean": 5.0}
    base = {
        "clips": 2,
        "references": numbers,
        "list": "0" * 64,
        "texts": "1" * 64,
        "left_out": {},
        "empty": [],
        "words": {"captions": numbers, "references": numbers},
    }
    return Evaluation(system, scores, intervals or {}, {}, (), {**base, **facts})


def test_table_for_a_terminal():
    one = made({"vocabulary": 309.0, "CIDEr-D": 0.71349, "BLEU-1": 0.5}, {"CIDEr-D": (0.66561, 0.76434)})
    other = made({"BLEU-1": 1.0}, system="other", left_out={"missing": ["a"]}, references={**numbers(), "most": 6})
    text = table.text([one, other], table.scores([one, other], published.known()), ["a note"])
    assert text == (
        "s: 2 clips (list 000000000000), 5 references each (texts 111111111111), captions of 5.0 words (references "
        "5.0), 0 empty\n\n"
        "other: 2 clips (list 000000000000), 5 to 6 (mean 5.00) references each (texts 111111111111), captions of 5.0 "
        "words (references 5.0), 0 empty\n"
        "other: not scored, since missing: 1 clip (a)\n\n"
        "Scores times 100, with 95 % bootstrap intervals over clips\n\n"
        "         s                     other   LAVCap (published)\n"
        "BLEU-1   50.00                 100.00  72.3\n"
        "BLEU-4   -                     -       29.7\n"
        "ROUGE-L  -                     -       51.0\n"
        "METEOR   -                     -       26.2\n"
        "CIDEr-D  71.35 [66.56, 76.43]  -       84.9\n"
        "SPICE    -                     -       18.5\n"
        "SPIDEr   -                     -       51.7\n\n"
        "Others, as they are, with 95 % bootstrap intervals over clips\n\n"
        "            s    other\n"
        "vocabulary  309  -\n\n"
        "a note\n"
    )


def numbers():
    return {"least": 5, "most": 5, "mean": 5.0}


def test_table_in_markdown_escapes_bars():
    one = made({"BLEU-1": 0.5}, system="a|b")
    text = table.markdown([one], table.scores([one]), ["a note"])
    assert "|  | a\\|b |\n| --- | ---: |\n| BLEU-1 | 50.00 |\n\n- a note\n" in text


def test_what_is_unavailable_is_said_once_for_all_systems():
    one = replace(made({}), unavailable={"spice": "no jars", "x": "y"})
    other = replace(made({}, system="t"), unavailable={"spice": "no jars"})
    assert "\n\nnot computed: spice: no jars\nnot computed: x of s: y\n" in table.text([one, other], [], [])


def test_csv_and_json_of_several(words, tmp_path):
    one, other = of(["share"], *ALL), of(["ratio"], *ALL, system="t")
    table.write_csv([one, other], tmp_path / "x.csv")
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[:2] == ["system,id,caption,share,ratio", "s,a,a one,1.0,"]
    assert lines[5] == "t,a,a one,,1.0"
    assert len(lines) == 9
    table.write_json([one, replace(one, system="t")], compare.compared([one, one]), tmp_path / "x.json")
    row = json.loads((tmp_path / "x.json").read_text())
    assert [each["system"] for each in row["evaluations"]] == ["s", "t"]
    assert row["differences"]["t"]["share"]["difference"] == 0
    with pytest.raises(LavcapError, match="E001"):
        Evaluation.read(tmp_path / "x.json")
