import re
from pathlib import Path

import pytest

from lavcap_core.cli.explain import pages
from lavcap_core.errors import LavcapError, MediaError, Problem

ROOT = Path(__file__).parent.parent
CODES = re.compile(r"""["']([YSRPMWBCDE]\d{3})["']""")


def sources():
    for folder in [ROOT / "lavcap_core", *ROOT.glob("plugins/*/lavcap_*")]:
        yield from folder.rglob("*.py")


def raised_codes():
    return {code for path in sources() for code in CODES.findall(path.read_text(encoding="utf-8"))}


def test_every_code_has_a_page_and_every_page_a_code():
    assert raised_codes() == set(pages())


@pytest.mark.parametrize("code", sorted(pages()))
def test_page_has_a_title_and_says_something(code):
    lines = pages()[code].splitlines()
    assert lines[0].startswith(f"# {code}: ")
    assert 5 <= len(lines) <= 40


def test_problem_without_place():
    assert str(Problem("S002", "unknown key")) == "S002 unknown key"
    assert str(Problem("M001", "no such file", file="a.mp4")) == "a.mp4: M001 no such file"


def test_place_can_be_added():
    error = MediaError("M001", "no such file").at(file="a.mp4")
    assert isinstance(error, MediaError)
    assert str(error) == "a.mp4: M001 no such file"


def test_many_problems_are_one_error():
    error = LavcapError([Problem("S002", "a"), Problem("S003", "b")])
    assert error.code == "S002"
    assert str(error) == "S002 a\nS003 b"
