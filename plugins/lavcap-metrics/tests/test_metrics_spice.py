"""SPICE: its real jar on a stand-in for CoreNLP, its command line, and SPIDEr."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from lavcap_core.builder import build
from lavcap_core.errors import BuildError, RunError
from lavcap_metrics import corenlp, java, spice, spider, words
from lavcap_metrics.plugin import SpiceConfig

CAPTIONS = ["dog barks", "man speaks loudly", "café ☕", ""]
REFERENCES = [["dog barks", "big dog"], ["woman sings"], ["café ☕", "x"], ["cat"]]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAVCAP_CACHE", str(tmp_path / "cache dir"))
    monkeypatch.setattr(spice, "_known", spice.Memo())
    monkeypatch.setattr(corenlp, "_theirs", lambda: tmp_path / "pycocoevalcap")
    return tmp_path / "cache dir"


@pytest.fixture
def jars(tmp_path):
    """A folder with files that are there in the place of the jars."""
    folder = tmp_path / "jars"
    folder.mkdir()
    for name, entry in corenlp.JARS.items():
        with zipfile.ZipFile(folder / name, "w") as jar:
            jar.writestr(entry, "")
    return folder


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Jars with a CoreNLP that takes every word for a noun, and knows nothing else."""
    javac = shutil.which("javac")
    if javac is None:
        pytest.skip("no javac to compile the stand-in for CoreNLP")
    sources = sorted(str(path) for path in (Path(__file__).parent / "corenlp").rglob("*.java"))
    folder = tmp_path_factory.mktemp("corenlp")
    subprocess.run([javac, "--release", "8", "-nowarn", "-d", str(folder / "classes"), *sources], check=True)
    for name, entry in corenlp.JARS.items():
        with zipfile.ZipFile(folder / name, "w") as jar:
            if "models" in name:
                jar.writestr(entry, "")
                continue
            for path in sorted((folder / "classes").rglob("*.class")):
                jar.write(path, str(path.relative_to(folder / "classes")))
    return folder


MACHINES = list({found.major: found for found in java.available()}.values())


@pytest.mark.parametrize("found", MACHINES, ids=lambda found: f"Java {found.major}")
def test_the_real_spice_runs_on_every_java(found, stand_in, cache, monkeypatch):
    monkeypatch.setattr(java, "oldest_fitting", lambda oldest, newest: found)
    metric = build("metric", "spice", tokeniser="none", jars=str(stand_in), memory="1G")
    score = metric(CAPTIONS, REFERENCES)
    # Sets of nouns: {dog, barks} of {dog, barks, big}; nothing in common; {café, ☕} of {café, ☕, x}; nothing said.
    assert score.clips["SPICE"] == pytest.approx([0.8, 0, 0.8, 0])
    assert score.corpus["SPICE"] == pytest.approx(0.4)
    assert (cache / "spice" / "parses" / "data.mdb").stat().st_size > 0
    spice._known = spice.Memo()
    assert metric(CAPTIONS, REFERENCES) == score  # now of the parses that were kept


def test_the_real_spice_without_corenlp_gets_as_far_as_that(jars, real_java):
    with pytest.raises(RunError) as error:
        build("metric", "spice", tokeniser="none", jars=str(jars), memory="1G", cache=False)(CAPTIONS, REFERENCES)
    assert error.value.code == "E032"
    assert "edu/stanford/nlp" in str(error.value) or "edu.stanford.nlp" in str(error.value)


FAKE = """
import json, pathlib, sys
arguments = sys.argv[1:]
main = arguments.index('edu.anu.spice.SpiceScorer')
flags, (source, *options) = arguments[:main], arguments[main + 1:]
log = pathlib.Path(LOG)
log.write_text(log.read_text() + 'run\\n' if log.exists() else 'run\\n')
log.with_suffix('.json').write_text(json.dumps(arguments))
assert options[-2:] == ['-subset', '-silent']
assert pathlib.Path(options[options.index('-cache') + 1]).is_dir()
rows = json.loads(pathlib.Path(source).read_text('ascii'))
scores = [
    {'image_id': row['image_id'],
     'scores': {'All': {'f': len(row['test'].split()) / 10 if row['test'] else None, 'pr': 1.0, 're': len(row['refs'])},
                'Color': {'f': None, 'pr': None, 're': None}}}
    for row in rows
]
pathlib.Path(options[options.index('-out') + 1]).write_text(json.dumps(scores[::-1], indent=2))
"""


@pytest.fixture
def log(tmp_path):
    return tmp_path / "runs.txt"


def fake(log, text=FAKE):
    return text.replace("LOG", repr(str(log)))


def test_the_command(jars, fake_java, log, monkeypatch):
    program = fake_java(fake(log), version="1.8.0_312")
    score = build("metric", "spice", tokeniser="none", jars=str(jars))(CAPTIONS[:3], REFERENCES[:3])
    assert score.clips["SPICE"] == [0.2, 0.3, 0.2]
    assert score.corpus["SPICE"] == pytest.approx(0.7 / 3)
    assert score.facts["spice"] == "1.0, CoreNLP 3.6.0"
    words = spice.command(
        java.find(), corenlp.find(str(jars)), Path("in.json"), Path("out.json"), SpiceConfig(jars=str(jars))
    )
    assert words[:2] == [str(program), "-Xmx8G"]
    assert not any(word.startswith("--") for word in words)  # Java 8 knows no such flags
    paths = [Path(path) for path in words[words.index("-cp") + 1].split(":")]
    assert all(path.exists() for path in paths)
    assert [path.name for path in paths[:2]] == ["stanford-corenlp-3.6.0.jar", "ejml-0.23.jar"]
    assert (paths[-1].name, len(paths)) == ("spice-1.0.jar", 18)


@pytest.mark.parametrize(
    ("version", "opens", "native", "unsafe", "script"),
    [("11.0.1", 6, False, False, False), ("17.0.1", 6, False, False, True), ("25", 6, True, True, True)],
)
def test_flags_of_newer_javas(jars, fake_java, version, opens, native, unsafe, script):
    fake_java("", version=version)
    words = spice.command(java.find(), corenlp.find(str(jars)), Path("in"), Path("out"), SpiceConfig(jars=str(jars)))
    assert sum(word.startswith("--add-opens=java.base/java.") for word in words) == opens
    assert ("--enable-native-access=ALL-UNNAMED" in words) is native
    assert ("--sun-misc-unsafe-memory-access=allow" in words) is unsafe
    assert words[words.index("-cp") + 1].endswith("lavcap_metrics/script") is script


def test_spider_computes_nothing_again(jars, fake_java, log, monkeypatch):
    fake_java(fake(log))
    weighed = []
    compute = words._cider_d
    monkeypatch.setattr(words, "_cider_d", lambda texts: weighed.append(texts) or compute(texts))
    settings = {"tokeniser": "none", "jars": str(jars)}
    captions, references = ["a b", "c d e", "spider"], [["a b"], ["c d", "e"], ["f"]]
    spiced = build("metric", "spice", **settings)(captions, references)
    rare = build("metric", "cider_d", tokeniser="none")(captions, references)
    both = build("metric", "spider", **settings)(captions, references)
    assert both.corpus["SPIDEr"] == pytest.approx((rare.corpus["CIDEr-D"] + spiced.corpus["SPICE"]) / 2, abs=1e-15)
    assert both.clips["SPIDEr"] == [
        (x + y) / 2 for x, y in zip(rare.clips["CIDEr-D"], spiced.clips["SPICE"], strict=True)
    ]
    assert log.read_text().count("run") == 1
    assert len(weighed) == 1


def test_spider_of_published_spice_is_the_published_one(published, monkeypatch):
    told = (published["corpus"]["SPICE"], published["clips"]["SPICE"])
    monkeypatch.setattr(spider, "spice", lambda candidates, references, config: told)
    score = build("metric", "spider", tokeniser="none")(published["candidates"], published["references"])
    assert score.corpus["SPIDEr"] == pytest.approx(published["corpus"]["SPIDEr"], abs=1e-9)
    assert score.clips["SPIDEr"] == pytest.approx(published["clips"]["SPIDEr"], abs=1e-9)


def test_a_clip_without_a_number_is_not_a_number(jars, fake_java, log):
    fake_java(fake(log))
    score = build("metric", "spice", tokeniser="none", jars=str(jars))(["a b", ""], [["a"], ["b"]])
    assert score.clips["SPICE"][0] == 0.2
    assert score.clips["SPICE"][1] != score.clips["SPICE"][1]
    assert score.corpus["SPICE"] != score.corpus["SPICE"]


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("import time\ntime.sleep(60)", "E031", "no sign of life for 0.5 s"),
        ("import sys\nsys.exit('java.lang.OutOfMemoryError: heap\\n\\tat a.b')", "E032", "OutOfMemoryError: heap"),
        ("", "E043", "No such file"),
        ("import sys\nopen(sys.argv[sys.argv.index('-out') + 1], 'w').write('[{}]')", "E043", "image_id"),
    ],
    ids=["hangs", "fails", "writes nothing", "writes something else"],
)
def test_failures_are_reported(jars, fake_java, script, code, said):
    fake_java(script)
    with pytest.raises(RunError) as error:
        build("metric", "spice", tokeniser="none", jars=str(jars), timeout=0.5)(["a"], [["b"]])
    assert error.value.code == code
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["spice", "spider"])
def test_without_jars_it_is_unavailable(name):
    with pytest.raises(BuildError) as error:
        build("metric", name)(["a"], [["a"]])
    assert error.value.code == "E040"
    assert "lavcap metrics install-spice" in str(error.value)


def test_the_engine_is_what_its_source_says(tmp_path):
    """The class that stands for JavaScript is in the package compiled; here from its source again."""
    javac = shutil.which("javac")
    if javac is None:
        pytest.skip("no javac")
    folder = Path(spice.__file__).parent / "script" / "lavcap"
    source = str(folder / "JsonEngine.java")
    subprocess.run([javac, "--release", "8", "-nowarn", "-d", str(tmp_path), source], check=True)
    compiled = (tmp_path / "lavcap" / "JsonEngine.class").read_bytes()
    assert compiled[:8] == (folder / "JsonEngine.class").read_bytes()[:8]  # of Java 8
    assert members(tmp_path) == members(folder.parent)


def members(folder):
    """Everything that a class declares and does."""
    done = subprocess.run(
        ["javap", "-p", "-c", "-cp", str(folder), "lavcap.JsonEngine"], capture_output=True, text=True, check=True
    )
    return done.stdout
