"""METEOR, and the whole pipeline on raw captions: the published scores, and pycocoevalcap's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from lavcap_core.builder import build
from lavcap_core.errors import BuildError, RunError
from lavcap_metrics import meteor


def test_scores_are_the_published_ones(published, real_java):
    metric = build("metric", "meteor", tokeniser="none")
    score = metric(published["candidates"], published["references"])
    assert score.corpus["METEOR"] == pytest.approx(published["corpus"]["METEOR"], abs=1e-9)
    np.testing.assert_allclose(score.clips["METEOR"], published["clips"]["METEOR"], rtol=0, atol=1e-9)
    process = meteor._processes["2G"]._process

    # Of sums of the statistics, what the jar makes of them; in the same process.
    drawn = np.random.default_rng(1).integers(len(score.statistics), size=200)
    some = metric([published["candidates"][i] for i in drawn], [published["references"][i] for i in drawn])
    found = metric.resampled(np.stack([score.statistics.sum(0), score.statistics[drawn].sum(0)]))["METEOR"]
    assert found == pytest.approx([score.corpus["METEOR"], some.corpus["METEOR"]], abs=1e-9)
    np.testing.assert_allclose(metric.resampled(score.statistics)["METEOR"], score.clips["METEOR"], rtol=0, atol=1e-9)
    assert meteor._processes["2G"]._process is process


def test_captions_that_match_wholly_or_not_at_all(real_java):
    metric = build("metric", "meteor", tokeniser="none")
    candidates, references = ["a dog barks", "", "x", "a b ||| c"], [["a dog barks"], ["a"], ["y", ""], ["a b c"]]
    score = metric(candidates, references)
    assert score.clips["METEOR"] == [1.0, 0.0, 0.0, 1.0]
    assert metric.resampled(score.statistics)["METEOR"].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert metric.resampled(score.statistics.sum(0))["METEOR"] == pytest.approx(score.corpus["METEOR"], abs=1e-12)
    assert metric.resampled(np.zeros(23))["METEOR"] == 0


def test_raw_captions_are_scored_as_pycocoevalcap_does(raw, real_java, monkeypatch, capsys):
    candidates, references = raw
    monkeypatch.setenv("PATH", str(Path(real_java.program).parent), prepend=os.pathsep)
    tokenise = PTBTokenizer().tokenize
    gts = tokenise({i: [{"caption": text} for text in told] for i, told in enumerate(references)})
    res = tokenise({i: [{"caption": text}] for i, text in enumerate(candidates)})
    theirs = {
        ("bleu", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"): Bleu(4).compute_score(gts, res, verbose=0),
        ("rouge_l", "ROUGE-L"): Rouge().compute_score(gts, res),
        ("cider_d", "CIDEr-D"): Cider().compute_score(gts, res),
        ("meteor", "METEOR"): Meteor().compute_score(gts, res),
    }
    for (name, *names), (corpus, clips) in theirs.items():
        score = build("metric", name)(candidates, references)
        assert list(score.corpus.values()) == np.atleast_1d(corpus).tolist()
        assert [list(score.clips[one]) for one in names] == np.atleast_2d(clips).tolist()
        assert score.facts["tokeniser"] == "PTBTokenizer 3.4.1, lower case, no punctuation"


ECHO = """
import sys
assert sys.argv[-6:] == ['-', '-', '-stdio', '-l', 'en', '-norm'], sys.argv
for line in sys.stdin:
    if line.startswith('SCORE'):
        print(' '.join(['1.0'] * 23), flush=True)
    else:
        print('0.5\\n' * line.count('|||') + '0.5', flush=True)
"""


def test_no_memory_of_that_size(fake_java):
    fake_java(
        "import sys\n"
        "if any(word.startswith('-Xmx') for word in sys.argv):\n"
        "    sys.exit('Error: Could not reserve enough space for object heap')\n" + ECHO
    )
    metric = build("metric", "meteor", tokeniser="none", memory="77G")
    assert metric(["a", "b"], [["a"], ["b"]]).clips["METEOR"] == [0.5, 0.5]
    meteor._processes["77G"].close()


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("import time\ntime.sleep(60)", "E031", "no sign of life for 1 s"),
        (ECHO.replace("print('0.5", "__import__('time').sleep(60); print('0.5"), "E031", "no sign of life"),
        ("import sys\nsys.exit(3)", "E032", "exit code 3"),
        (
            "input()\nprint('Error: something', flush=True)\ninput()\nprint('x\\nx', flush=True)\ninput()",
            "E032",
            "else",
        ),
    ],
    ids=["hangs at once", "hangs later", "ends", "answers nonsense"],
)
def test_a_process_that_fails_is_reported_and_started_again(fake_java, script, code, said):
    program = fake_java(script)
    metric = build("metric", "meteor", tokeniser="none", memory="78G", timeout=1.0)
    with pytest.raises(RunError) as error:
        metric(["a"], [["a"]])
    assert (error.value.code, said in str(error.value)) == (code, True), error.value
    program.write_text(f"#!{sys.executable}\n{ECHO}")
    assert metric(["a"], [["a"]]).corpus["METEOR"] == 0.5
    meteor._processes["78G"].close()


def test_without_java(no_java):
    with pytest.raises(BuildError) as error:
        build("metric", "meteor", tokeniser="none", memory="79G")(["a"], [["a"]])
    assert error.value.code == "E030"
