"""Words to ids: prompts with slots for tokens, captions, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lavcap_core.errors import BuildError, RunError
from lavcap_llama.prompts import INSTRUCTIONS, Piece, body, fill, parse, plain
from lavcap_llama.sequence import Part

__all__ = ["Text"]

_MARK = "lavcap-user-turn"  # stands for the user's turn while the chat template is rendered


class Text:
    """A tokenizer with its prompt.

    Instructions and captions may come from anybody: what looks like a special token in them is tokenised as plain text.

    Args:
        tokenizer: of transformers, with an end token.
        prompt: name of a prompt, or a template.
        template: ``plain`` or ``chat``.
        instructions: own ones; the first is the one of evaluation.
        random: whether training draws from them; None: only for the prompt `speech`.

    Raises:
        BuildError: B082 if ``chat`` is asked for and the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: str = "audio",
        template: str = "plain",
        instructions: Sequence[str] | None = None,
        random: bool | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.instructions = tuple(instructions or INSTRUCTIONS.get(prompt, INSTRUCTIONS["audio"]))
        self.random = prompt == "speech" if random is None else random
        chat = template == "chat"
        self.pieces = parse(body(prompt) if chat else plain(prompt))
        self.head, self.tail = self._chat() if chat else (self._begin(), [])
        self.gap = self._gap(self.pieces, chat)

    def _begin(self) -> list[int]:
        begin = self.tokenizer.bos_token_id
        return [] if begin is None else [begin]

    def _chat(self) -> tuple[list[int], list[int]]:
        """What the chat template puts before and after the user's words, special tokens included."""
        words = ""
        if self.tokenizer.chat_template:
            turn = [{"role": "user", "content": _MARK}]
            words = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        if _MARK not in words:
            raise BuildError(
                "B082", "the tokenizer of this model has no usable chat template", help="set decoder.template: plain"
            )
        head, _, tail = words.partition(_MARK)
        return self._ids(head, special=True), self._ids(tail, special=True)

    def _gap(self, pieces: Sequence[Piece], chat: bool) -> str:
        """A space before the caption, unless something else parts it from the prompt.

        SentencePiece tokenizers put one in front of any text by themselves.
        """
        starts = self.tokenizer.tokenize("a")[0]
        ends = pieces[-1][1] if pieces[-1][0] == "text" else ""
        return "" if chat or starts.startswith("▁") or ends.endswith((" ", "\n")) else " "

    def _ids(self, text: str, special: bool = False) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not special).input_ids
        return ids

    def prompts(self, count: int, own: Sequence[str] | None = None, training: bool = False) -> list[list[Part]]:
        """The parts of each sample's prompt.

        Args:
            count: B.
            own: instructions, one per sample, instead of the decoder's.
            training: whether instructions may be drawn at random (from torch's generator).

        Raises:
            RunError: C080 if instructions are given and the template has no place for them, or not one per sample.
        """
        if own is None:
            return [self._prompt(instruction) for instruction in self._instructions(count, training)]
        if not any(kind == "instruction" for kind, _ in self.pieces):
            raise RunError(
                "C080", "the decoder's prompt has no place for instructions", help="put {instruction} into its template"
            )
        if len(own) != count:
            raise RunError("C080", f"{len(own)} prompts for {count} samples", help="give one prompt per sample")
        return [self._prompt(instruction) for instruction in own]

    def _instructions(self, count: int, training: bool) -> list[str]:
        if not (self.random and training):
            return [self.instructions[0]] * count
        drawn = torch.randint(len(self.instructions), (count,))
        return [self.instructions[int(i)] for i in drawn]

    def _prompt(self, instruction: str) -> list[Part]:
        inside: list[Part] = [
            self._ids(text) if kind == "text" else kind for kind, text in fill(self.pieces, instruction)
        ]
        return [self.head, *inside, self.tail]

    def captions(self, captions: Sequence[str]) -> list[list[int]]:
        """Ids of each caption, with the end token."""
        return [[*self._ids(self.gap + caption.strip()), self.tokenizer.eos_token_id] for caption in captions]

    def decode(self, ids: Tensor, ends: Sequence[int]) -> list[str]:
        """Texts of generated ids [B, L] up to the first end token, stripped."""
        rows = ids.tolist()
        stops = [next((i for i, code in enumerate(row) if code in ends), len(row)) for row in rows]
        texts: list[str] = self.tokenizer.batch_decode(
            [row[:stop] for row, stop in zip(rows, stops, strict=True)], skip_special_tokens=True
        )
        return [text.strip() for text in texts]
