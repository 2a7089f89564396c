"""The text around the tokens: LAVCap's prompts (Table V and the released code's) and one's own. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["INSTRUCTIONS", "NAMES", "Piece", "body", "fill", "parse", "plain", "slots"]

_BODIES = {
    "audio": "<Audio>{tokens}</Audio> {instruction}",
    "content": "<Content>{tokens}</Content> {instruction}",
    "separate": "<Audio>{audio}</Audio> <Visual>{visual}</Visual> {instruction}",
    "speech": "<Speech>{tokens}</Speech> {instruction}",
}

NAMES = tuple(_BODIES)
"""Names of the prompts that come with the decoder."""

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "audio": ("Please describe the audio.",),
    "content": ("Please describe the content.",),
    "separate": ("Please describe the audio and visual elements.",),
    # The first is the one of evaluation; the wording of the other seven is ours.
    "speech": (
        "Please describe the audio.",
        "Describe what can be heard in one sentence.",
        "Write a caption for this recording.",
        "What is happening in this clip?",
        "Say briefly which sounds occur.",
        "Listen and tell what you hear.",
        "Summarise the sounds of this clip in a sentence.",
        "Give a short description of the sound events.",
    ),
}
"""Instructions of each prompt; the first is used in evaluation."""

Piece = tuple[str, str]
"""``("text", words)``, or ``(slot, "")`` with slot ``tokens``, ``audio``, ``visual`` or ``instruction``."""

_SLOT = re.compile(r"\{(tokens|audio|visual|instruction)\}")


def parse(template: str) -> tuple[Piece, ...]:
    """Splits a template at its slots; other braces are text."""
    parts = _SLOT.split(template)  # text, slot, text, slot, ..., text
    pieces = [("text", part) if index % 2 == 0 else (part, "") for index, part in enumerate(parts)]
    return tuple(piece for piece in pieces if piece != ("text", ""))


def slots(template: str) -> set[str]:
    """Names of the slots of a template."""
    return {kind for kind, _ in parse(template) if kind != "text"}


def body(prompt: str) -> str:
    """The template of a named prompt without USER and ASSISTANT, or one's own as it is."""
    return _BODIES.get(prompt, prompt)


def plain(prompt: str) -> str:
    """The template of a named prompt between USER and ASSISTANT, or one's own as it is."""
    return f"USER: {_BODIES[prompt]}\nASSISTANT:" if prompt in _BODIES else prompt


def fill(pieces: Sequence[Piece], instruction: str) -> tuple[Piece, ...]:
    """Puts the instruction in and joins neighbouring texts, so that they are tokenised as one.

    Braces in the instruction are text: it may come from anybody.
    """
    filled: list[Piece] = []
    for kind, text in pieces:
        words = instruction if kind == "instruction" else text
        if kind not in ("text", "instruction"):
            filled.append((kind, ""))
        elif filled and filled[-1][0] == "text":
            filled[-1] = ("text", filled[-1][1] + words)
        else:
            filled.append(("text", words))
    return tuple(filled)
