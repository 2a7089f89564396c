"""Tokens from what a classifier says: class names as vectors of the language model, mixed by their posteriors.

A sound network and a picture network that never met share no space. Here both speak in the language model's own input
embeddings: the token of a window is the mean of the names of what was recognised in it, weighted by confidence. So a
meow and a picture of a cat lie close before anything is trained, which gives optimal transport something true to find,
and the language model reads the tokens almost as it would read the words.

Training on simulated posteriors uses the same functions, so what is learned there holds for real ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lavcap_starter.classes import Classes

__all__ = ["Mixing", "Vocabulary", "confident", "evidence", "mix", "mixture"]


@dataclass(frozen=True)
class Mixing:
    """How posteriors become tokens.

    Attributes:
        top: names per token at most.
        power: exponent on the evidence before it becomes a weight; above 1 favours the strongest name.
        floor: a window whose strongest evidence is below this names nothing and is masked.
        vague: whether a sample none of whose windows reach the floor keeps them all.
    """

    top: int = 3
    power: float = 2.0
    floor: float = 0.1
    vague: bool = True


@dataclass(frozen=True)
class Vocabulary:
    """A classifier's classes as tensors. C classes, D width of the embeddings, L links.

    Attributes:
        table: [C, D] float32, the embedding of each class name.
        weights: [C] float32, factor on each class's evidence; 0 leaves it out.
        links: [2, L] int64, ancestors and descendants.
    """

    table: Tensor
    weights: Tensor
    links: Tensor

    @classmethod
    def of(cls, classes: Classes, table: Tensor, centre: bool = True) -> Vocabulary:
        """Joins names' data and their embeddings [C, D].

        Centring takes the mean name off every name. Embeddings of one model share a large common part that says
        nothing; without it cosines tell names apart (the decoder's projector can add it back with its bias).
        """
        weights = torch.tensor(classes.weights)
        table = table.float()
        if centre:
            table = table - table[weights > 0].mean(dim=0)
        return cls(table, weights, torch.tensor(classes.links, dtype=torch.long).reshape(-1, 2).T)

    def to(self, device: torch.device | str) -> Vocabulary:
        """The same on a device."""
        return Vocabulary(self.table.to(device), self.weights.to(device), self.links.to(device))


def evidence(posteriors: Tensor, vocabulary: Vocabulary) -> Tensor:
    """What each class says that no narrower class says better.

    A tagger that hears a meow is even surer of *cat* and *animal*. A class keeps only what its strongest descendant
    leaves unexplained, ``max(p - max p_descendant, 0)``, times its own factor.

    Args:
        posteriors: [..., C] in 0..1: sigmoid or softmax outputs.
        vocabulary: the classes.

    Returns:
        [..., C] in 0..1.
    """
    above, below = vocabulary.links
    index = above.expand(*posteriors.shape[:-1], -1)
    explained = torch.zeros_like(posteriors).scatter_reduce(-1, index, posteriors[..., below], "amax")
    return (posteriors - explained).clamp(min=0) * vocabulary.weights


def mixture(evidence: Tensor, mixing: Mixing) -> Tensor:
    """Weights [..., C] of the ``top`` strongest classes, summing to 1 (0 where there is no evidence at all)."""
    strongest, index = evidence.topk(min(mixing.top, evidence.shape[-1]), dim=-1)
    # Relative to the strongest first: powers of tiny posteriors would underflow.
    relative = (strongest / strongest[..., :1].clamp(min=1e-12)) ** mixing.power
    weights = relative / relative.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    return torch.zeros_like(evidence).scatter(-1, index, weights)


def mix(posteriors: Tensor, vocabulary: Vocabulary, mixing: Mixing) -> Tensor:
    """Tokens [..., D]: the mean name of what was recognised, weighted by evidence.

    Args:
        posteriors: [..., C] in 0..1.
        vocabulary: the classes and their names' embeddings [C, D].
        mixing: how many names, how sharp.
    """
    return mixture(evidence(posteriors, vocabulary), mixing) @ vocabulary.table


def confident(posteriors: Tensor, vocabulary: Vocabulary, mixing: Mixing, mask: Tensor) -> Tensor:
    """Which windows name something: [B, N] bool, a part of ``mask``.

    Args:
        posteriors: [B, N, C] in 0..1.
        vocabulary: the classes.
        mixing: with the floor, and what is done where none reach it.
        mask: [B, N] bool, the windows that are real.
    """
    sure = mask & (evidence(posteriors, vocabulary).amax(dim=-1) >= mixing.floor)
    return torch.where(sure.any(dim=1, keepdim=True), sure, mask) if mixing.vague else sure
