import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavcap_llama.prompts import INSTRUCTIONS, NAMES, body, fill, parse, plain, slots


def said(name: str) -> str:
    """A named prompt as it stands in the sequence, with slots in brackets."""
    pieces = fill(parse(plain(name)), INSTRUCTIONS[name][0])
    return "".join(text if kind == "text" else f"[{kind}]" for kind, text in pieces)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audio", "USER: <Audio>[tokens]</Audio> Please describe the audio.\nASSISTANT:"),
        ("content", "USER: <Content>[tokens]</Content> Please describe the content.\nASSISTANT:"),
        (
            "separate",
            "USER: <Audio>[audio]</Audio> <Visual>[visual]</Visual> "
            "Please describe the audio and visual elements.\nASSISTANT:",
        ),
        ("speech", "USER: <Speech>[tokens]</Speech> Please describe the audio.\nASSISTANT:"),
    ],
)
def test_the_papers_prompts(name: str, expected: str) -> None:
    assert said(name) == expected


def test_speech_has_eight_instructions_and_each_prompt_some() -> None:
    assert len(set(INSTRUCTIONS["speech"])) == 8
    assert set(INSTRUCTIONS) == set(NAMES)


def test_instruction_and_its_neighbours_become_one_text() -> None:
    assert fill(parse("a {instruction} b{tokens}c"), "I") == (("text", "a I b"), ("tokens", ""), ("text", "c"))


def test_braces_of_an_instruction_are_text() -> None:
    assert fill(parse("{tokens}{instruction}"), "{tokens}") == (("tokens", ""), ("text", "{tokens}"))


def test_other_braces_of_a_template_are_text() -> None:
    assert parse("{json: {}} {tokens}") == (("text", "{json: {}} "), ("tokens", ""))
    assert slots("{audio} and {visual}, {nothing}") == {"audio", "visual"}


@given(st.lists(st.sampled_from(["x y", "{", "}", "{tokens}", "{audio}", "{instruction}"]), max_size=8))
def test_parsing_loses_nothing(parts: list[str]) -> None:
    template = "".join(parts)
    assert "".join(text if kind == "text" else f"{{{kind}}}" for kind, text in parse(template)) == template


def test_ones_own_template_is_taken_as_it_is() -> None:
    assert plain("<{tokens}>") == body("<{tokens}>") == "<{tokens}>"
    assert body("audio") == "<Audio>{tokens}</Audio> {instruction}"
