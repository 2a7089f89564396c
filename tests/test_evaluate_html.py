"""The page of an evaluation as text: what it holds, and what texts of users can't do in it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lavcap_core.run.evaluate.html import write_page
from lavcap_core.run.evaluate.published import Published
from lavcap_core.run.evaluate.resample import Compared
from lavcap_core.run.evaluate.result import ClipScores, Evaluation
from lavcap_core.testing.clips import write_clip
from lavcap_core.webpage import assemble, embed

NASTY = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\"quotes\" 'and' `ticks` & ${more} {{data}}",
    "כלב נובח \u202e\u2028",
    "half a pair \ud83d",
]
FACTS = {
    "clips": 2,
    "list": "a" * 64,
    "texts": "b" * 64,
    "metrics": {"bleu": {"tokeniser": "ptb"}},
    "versions": {},
    "gives": {"diversity": ["vocabulary"]},
}


def clip(name, caption="a dog barks", media=None, **scores):
    return ClipScores(name, caption, ("a dog is barking", "barking"), scores, media)


def evaluation(system="mine", clips=(), facts=None, unavailable=None):
    scores = {"BLEU-4": 0.25, "vocabulary": 1234.0}
    clips = clips or (clip("a", **{"BLEU-4": 0.2}), clip("b", **{"BLEU-4": 0.3}))
    return Evaluation(
        system, scores, {"BLEU-4": (0.2, 0.31)}, unavailable or {}, tuple(clips), {**FACTS, **(facts or {})}
    )


class Elements(HTMLParser):
    """Names, attributes and texts of a page's elements; a text up to the first tag in it."""

    def __init__(self, text):
        super().__init__()
        self.found, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1][2] += data


def page(tmp_path, *evaluations, **more):
    write_page(evaluations, tmp_path / "page.html", **more)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = next(text for tag, attributes, text in Elements(text).found if attributes.get("id") == "data")
    return text, json.loads(data)


def test_it_holds_what_was_found(tmp_path):
    text, data = page(tmp_path, evaluation(unavailable={"spice": "E040 no jars (lavcap metrics install-spice)"}))
    assert "<title>Evaluation of mine</title>" in text
    assert data["columns"] == [{"name": "BLEU-4", "digits": 2}, {"name": "vocabulary", "digits": None}]
    system = {"name": "mine", "scores": [25, 1234], "intervals": [[20, 31], None]}
    assert data["systems"] == [system]
    assert data["notices"] == [
        {"title": "Not computed:", "lines": ["spice: E040 no jars (lavcap metrics install-spice)"]}
    ]
    facts = {fact["name"]: (fact["values"], fact["inner"]) for fact in data["facts"]}
    assert facts["clips"] == (["2"], False)
    assert facts["SHA-256 of the clip list"] == (["a" * 64], False)
    assert facts["metrics › bleu › tokeniser"] == (["ptb"], True)
    assert data["clips"][0]["captions"] == ["a dog barks"]
    assert data["clips"][0]["scores"] == [[20]]
    assert data["clips"][0]["references"] == ["a dog is barking", "barking"]


def test_spans_and_lists_are_facts_in_words(tmp_path):
    facts = {"references": {"least": 1, "most": 5, "mean": 4.98765}, "empty": [], "left_out": {"missing": ["x", "y"]}}
    _, data = page(tmp_path, evaluation(facts=facts))
    said = {fact["name"]: fact["values"] for fact in data["facts"]}
    assert said["references per clip"] == ["1 to 5, mean 4.988"]
    assert said["empty captions"] == ["none"]
    assert said["left out › missing"] == ["2: x, y"]


def test_systems_stand_side_by_side_with_clips_that_one_of_them_lacks(tmp_path):
    other = evaluation("other", [clip("b", "a cat", **{"BLEU-4": 0.1}), clip("c10"), clip("c9")], {"list": "c" * 64})
    _, data = page(tmp_path, evaluation(), other, compared=[None])
    assert [row["id"] for row in data["clips"]] == ["a", "b", "c9", "c10"]
    assert [row["captions"] for row in data["clips"][:2]] == [["a dog barks", None], ["a dog barks", "a cat"]]
    assert [row["scores"] for row in data["clips"][1:3]] == [[[30], [10]], [None, [None]]]
    assert "different lists of clips" in data["notices"][0]["lines"][0]
    assert data["differences"] == []


def test_differences_are_printed_as_the_scores_are(tmp_path):
    found = {"BLEU-4": Compared(-0.05, -0.1, 0.02, 0.25)}
    _, data = page(tmp_path, evaluation(), evaluation("other"), compared=[found])
    (row,) = data["differences"]
    assert row["name"] == "other"
    assert row["scores"] == [{"difference": -5, "low": -10, "high": 2, "p": 0.25}, None]


def test_published_rows_say_that_they_are(tmp_path):
    row = Published("LAVCap", "a paper, Table I", "other clips", {"BLEU-4": 29.7, "SPICE": 18.5})
    _, data = page(tmp_path, evaluation(), published=[row])
    assert [column["name"] for column in data["columns"]] == ["BLEU-4", "SPICE", "vocabulary"]
    assert data["published"][0]["scores"] == [29.7, 18.5, None]
    assert "published" in data["published"][0]["note"]
    assert "not measured here" in data["published"][0]["note"]


@pytest.mark.parametrize("text", NASTY)
def test_no_text_leaves_its_place(tmp_path, text):
    plain, _ = page(tmp_path, evaluation())
    clips = [ClipScores(text, text, (text,), {text: 50.0})]
    nasty, data = page(tmp_path, evaluation(text, clips, {text: {text: [text]}}, {text: text}))
    assert [row[:2] for row in Elements(nasty).found if row[0] != "meta"] == [
        row[:2] for row in Elements(plain).found if row[0] != "meta"
    ]
    assert data["clips"][0] == {
        "id": text,
        "captions": [text],
        "references": [text],
        "scores": [[50]],
        "media": None,
        "kind": "audio",
    }


def test_it_names_nothing_on_the_network_and_allows_only_its_own_script(tmp_path):
    text, _ = page(tmp_path, evaluation())
    assert re.findall(r"(?:https?:)?//\w", re.sub(r"/\*.*?\*/", "", text)) == []
    elements = Elements(text).found
    assert not [row for row in elements if row[1].keys() & {"src", "onclick", "onload", "style"}]
    assert [row[1]["href"] for row in elements if "href" in row[1]] == ["data:,"]
    policy = next(row[1]["content"] for row in elements if row[1].get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    script = next(row[2] for row in elements if row[0] == "script" and not row[1])
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_media_are_linked_relative_to_the_page_where_they_are_at_hand(tmp_path):
    sound = tmp_path / "clips" / "a b#1?.wav"
    sound.parent.mkdir()
    write_clip(sound, 0.1, video=None, audio="pcm_s16le")
    (tmp_path / "secret.txt").write_text("")
    clips = [
        clip("a", media=str(sound)),
        clip("b", media=str(tmp_path / "gone.mp4")),
        clip("c", media=str(tmp_path / "secret.txt")),
        clip("d"),
    ]
    _, data = page(tmp_path, evaluation(clips=clips))
    assert [row["media"] for row in data["clips"]] == ["clips/a%20b%231%3F.wav", None, None, None]
    assert [row["kind"] for row in data["clips"]] == ["audio", "video", "audio", "audio"]


def test_numbers_that_json_lacks_become_null(tmp_path):
    assert embed({"a": [float("nan"), np.inf, (1.5,)]}) == '{"a":[null,null,[1.5]]}'
    _, data = page(tmp_path, evaluation(clips=[clip("a", **{"BLEU-4": float("nan")})]))
    assert data["clips"][0]["scores"] == [[None]]


def test_what_is_filled_in_is_not_searched_for_names():
    template = "<style>a</style><script>b</script>{{title}}{{body}}"
    made = assemble(template, {"title": "<{{body}}>"}, {"body": "{{title}}"})
    assert made.endswith("&lt;{{body}}&gt;{{title}}")
