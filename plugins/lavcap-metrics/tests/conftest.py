"""Published scores to compare with, captions that are hard to tokenise, and stand-ins for Java."""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path

import pytest

from lavcap_core.errors import LavcapError
from lavcap_metrics import java


@pytest.fixture(scope="session")
def published():
    """CoNeTTE's captions of 912 clips with references and published scores; see data/PROVENANCE.md."""
    with gzip.open(Path(__file__).parent / "data" / "conette.json.gz") as file:
        return json.load(file)


@pytest.fixture(scope="session")
def real_java():
    """A Java of this machine; tests that need one are skipped only where there is none."""
    try:
        return java.find()
    except LavcapError as error:
        pytest.skip(str(error))


PIECES = (
    "A dog", "barks", "the U.S. Army", "etc.", "Mr. Smith's", "it's", "doesn't", "“quoted”", "'single'",
    '"double"', "``x''", "well-known", "rock 'n' roll", "- dash -", "—", "...", "…", "café",
    "naïve Ünïcode", "日本語", "🐶", "3,000.5", "$5", "50%", "(in brackets)", "[or these]", "{or these}",
    "http://a.b/c?d=e", "a@b.org", "#tag", "and/or", "A.B.C.", "no. 5", "WIND BLOWS!!", "why?",
    "one; two: three,", "can not cannot", "gonna", "12:30 p.m.", "1/2", "  two  blanks", "x\ty", "<b>",
    "&amp;", "-LRB-", "’tis", "dogs' toys", "e.g. this", "a.", ".", "'", "--", "\u00a0", "\u200b",
    "5 1/2", "*", "\\", "~",
)  # fmt: skip


@pytest.fixture(scope="session")
def raw():
    """Captions with capitals, punctuation and worse, and two to four references of each; some are empty."""
    generator = random.Random(5)

    def caption():
        return " ".join(generator.choices(PIECES, k=generator.randrange(12)))

    candidates = [*PIECES, "", " ", "!?", *(caption() for _ in range(60)), ""]
    return candidates, [[caption() for _ in range(generator.randrange(2, 5))] for _ in candidates]


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """Makes a Python script the first Java that is found."""

    def make(script, version="17.0.1"):
        home = tmp_path / f"java {version}"
        (home / "bin").mkdir(parents=True)
        (home / "release").write_text(f'JAVA_VERSION="{version}"\n')
        program = home / "bin" / "java"
        program.write_text(f"#!{sys.executable}\n{script}")
        program.chmod(0o755)
        monkeypatch.setenv("JAVA_HOME", str(home))
        return program

    return make


@pytest.fixture
def no_java(monkeypatch):
    """A machine without Java."""
    monkeypatch.setattr(java, "_places", lambda everywhere: iter(()))
