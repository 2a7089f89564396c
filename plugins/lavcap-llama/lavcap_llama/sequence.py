"""Lays prompts, tokens and captions out in one padded batch, with nothing between them. B batch, L length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lavcap_core.data import AUDIO, VISUAL, Tokens, padded_length

__all__ = ["Layout", "Part", "lay_out"]

Part = list[int] | str
"""Ids of a text, or the slot ``tokens``, ``audio`` or ``visual``."""


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
        ids: [B, L] int64 ids of the text, 0 where a token or nothing stands.
        mask: [B, L] bool, False on padding.
        at: rows and columns [n] of the tokens in the sequence; of fillers, in its padding.
        source: rows and columns [n] of the same tokens in `Tokens.data`.
    """

    ids: Tensor
    mask: Tensor
    at: tuple[Tensor, Tensor]
    source: tuple[Tensor, Tensor]


def _indices(tokens: Tokens) -> dict[str, list[list[int]]]:
    """Which valid tokens each slot takes, for every sample."""
    mask, modality = tokens.mask.cpu(), tokens.modality.cpu()
    choices = {"tokens": mask, "audio": mask & (modality == AUDIO), "visual": mask & (modality == VISUAL)}
    return {name: [row.nonzero().flatten().tolist() for row in choice] for name, choice in choices.items()}


def lay_out(prompts: Sequence[Sequence[Part]], tokens: Tokens, ends: Sequence[Sequence[int]], left: bool) -> Layout:
    """Packs each sample's prompt, its valid tokens and ``ends`` without gaps; pads at the end, or at the start.

    Args:
        prompts: the parts of every sample's prompt, in order.
        tokens: [B, N, D]; masked ones are left out.
        ends: ids that follow the prompt of each sample (the caption, or nothing).
        left: whether padding goes to the start (for generation) instead of the end.
    """
    chosen = _indices(tokens)
    # One number per position: an id, or -1 - i for token i.
    rows = [
        [
            code
            for part in parts
            for code in (part if not isinstance(part, str) else [-1 - i for i in chosen[part][row]])
        ]
        + list(ends[row])
        for row, parts in enumerate(prompts)
    ]
    length, fillers = _room(max(map(len, rows)), sum(code < 0 for row in rows for code in row))
    codes = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, content in enumerate(rows):
        place = slice(length - len(content), None) if left else slice(0, len(content))
        codes[row, place] = torch.tensor(content, dtype=torch.long)
        mask[row, place] = True
    where = (codes < 0).nonzero()
    source = torch.stack([where[:, 0], -1 - codes[where[:, 0], where[:, 1]]], dim=1)
    # Fillers stand where every row is padding.
    where = torch.cat([where, torch.tensor([[0, 0 if left else length - 1]]).expand(fillers, 2)])
    source = torch.cat([source, source[:1].expand(fillers, 2)])
    device = tokens.data.device
    rows_at, columns_at = where.T.to(device)
    rows_of, columns_of = source.T.to(device)
    return Layout(codes.clamp(min=0).to(device), mask.to(device), (rows_at, columns_at), (rows_of, columns_of))


def _room(longest: int, tokens: int) -> tuple[int, int]:
    """Length of the sequences, and fillers that bring the number of tokens to one of few (see `padded_length`)."""
    length = padded_length(longest)
    fillers = padded_length(tokens) - tokens if tokens else 0
    return padded_length(longest + 1) if fillers and length == longest else length, fillers
