import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from transformers.utils import logging

from lavcap_core.errors import WeightsError
from lavcap_core.pretrained import fetch_options, quiet, reading, require_complete


class Session:
    """A hub's client that answers, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, float]] = []

    def head(self, url: str, timeout: float) -> object:
        self.asked.append((url, timeout))
        if self.error is not None:
            raise self.error
        return object()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    made = Session()
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: made)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return made


def test_a_hub_that_answers_may_be_asked(session: Session) -> None:
    assert fetch_options("org/model") == {"local_files_only": False}
    assert session.asked == [(constants.ENDPOINT, 10)]


@pytest.mark.parametrize("error", [OSError("no route"), TimeoutError(), RuntimeError("proxy")])
def test_a_hub_that_does_not_answer_is_not_waited_for(session: Session, error: Exception) -> None:
    session.error = error
    assert fetch_options("org/model") == {"local_files_only": True}


def test_nothing_is_asked_for_a_folder_or_offline(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch_options(str(tmp_path)) == {"local_files_only": True}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_options("org/model") == {"local_files_only": True}
    assert session.asked == []


@pytest.mark.parametrize("error", [OSError("first\nsecond"), KeyError("scores"), ValueError("")])
def test_what_goes_wrong_is_one_line_with_the_code_of_its_place(tmp_path: Path, error: Exception) -> None:
    for name, code in ((str(tmp_path), "W002"), ("org/model", "W001")):
        with pytest.raises(WeightsError) as caught, reading(name, "config.json", "W001", "W002"):
            raise error
        problem = caught.value.problems[0]
        assert problem.code == code
        assert "\n" not in problem.message
        assert "config.json" in str(problem.help)
        assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("missing", "said"), [({"b", "a"}, "lacks weights: a and 1 more"), (["x"], "lacks weights: x")]
)
def test_missing_weights_are_an_error(missing: Any, said: str) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        require_complete("m", {"missing_keys": missing}, "W003")
    assert caught.value.code == "W003"
    require_complete("m", {"missing_keys": []}, "W003")


def test_bars_are_off_while_loading_and_as_before_afterwards() -> None:
    before = logging.is_progress_bar_enabled()
    seen: list[bool] = []

    def fail() -> None:
        seen.append(logging.is_progress_bar_enabled())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), quiet():
        fail()
    assert seen == [False]
    assert logging.is_progress_bar_enabled() == before


def test_importing_it_loads_no_library() -> None:
    code = (
        "import sys, lavcap_core.pretrained; assert not {'transformers', 'huggingface_hub', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
