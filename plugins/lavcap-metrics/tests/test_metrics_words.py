"""BLEU, ROUGE-L and CIDEr-D: the published scores, to the last digit."""

from __future__ import annotations

import numpy as np
import pytest

from lavcap_core.builder import build
from lavcap_core.errors import RunError
from lavcap_core.scores import Metric, Resampled
from lavcap_metrics.meteor import Meteor
from lavcap_metrics.words import Bleu

NAMES = {"bleu": ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"], "rouge_l": ["ROUGE-L"], "cider_d": ["CIDEr-D"]}


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_published_ones_without_java(name, published, no_java, capsys):
    metric = build("metric", name, tokeniser="none")
    score = metric(published["candidates"], published["references"])
    assert list(score.corpus) == list(score.clips) == NAMES[name]
    for one in NAMES[name]:
        assert score.corpus[one] == pytest.approx(published["corpus"][one], abs=1e-9)
        np.testing.assert_allclose(score.clips[one], published["clips"][one], rtol=0, atol=1e-9)
    assert score.facts["tokeniser"] == "none"
    assert capsys.readouterr() == ("", "")  # pycocoevalcap's scorers print


def test_bleu_of_drawn_clips(published):
    metric = build("metric", "bleu", tokeniser="none")
    candidates, references = published["candidates"], published["references"]
    score = metric(candidates, references)
    drawn = np.random.default_rng(1).integers(len(candidates), size=(2, 300))
    found = metric.resampled(score.statistics[drawn].sum(1))
    for row in range(2):
        again = metric([candidates[i] for i in drawn[row]], [references[i] for i in drawn[row]])
        for name in NAMES["bleu"]:
            assert found[name][row] == pytest.approx(again.corpus[name], rel=1e-12)


def test_bleu_without_a_word():
    metric = build("metric", "bleu", tokeniser="none")
    score = metric(["", "a b"], [["a"], ["c"]])
    found = metric.resampled(score.statistics.sum(0))
    assert found["BLEU-4"] == pytest.approx(score.corpus["BLEU-4"], rel=1e-12)
    assert metric([""], [["a"]]).corpus["BLEU-1"] == pytest.approx(0, abs=1e-9)


def test_all_are_metrics_and_two_can_be_resampled():
    every = {name: build("metric", name) for name in (*NAMES, "meteor", "spice", "spider", "fense", "diversity")}
    assert all(isinstance(metric, Metric) for metric in every.values())
    assert [type(metric) for metric in every.values() if isinstance(metric, Resampled)] == [Bleu, Meteor]


def test_references_without_a_word():
    with pytest.raises(RunError) as error:
        build("metric", "cider_d", tokeniser="none")(["a dog"], [["", " "]])
    assert error.value.code == "E034"


def test_a_caption_without_a_reference_is_a_mistake():
    with pytest.raises(ValueError, match="references"):
        build("metric", "rouge_l", tokeniser="none")(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="references"):
        build("metric", "rouge_l", tokeniser="none")(["a", "b"], [["a"]])
