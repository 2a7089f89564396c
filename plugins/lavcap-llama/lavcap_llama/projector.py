"""From the width of tokens to the language model's (LAVCap eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavcap_llama.plugin import ProjectorConfig

__all__ = ["build_projector"]


def build_projector(config: ProjectorConfig, inputs: int, width: int, words: Tensor | None = None) -> nn.Module:
    """A map [.., inputs] to [.., width] in float32: one linear layer, or two with GELU in between.

    ``gain`` scales the initial weights (of the last layer), since embeddings of a language model and tokens of length 1
    may differ much in size. With ``init: identity`` the layer starts as gain times the identity, its bias as 0 or, with
    ``offset: words``, as the mean of the embeddings ``words`` [V, width].
    """
    last = nn.Linear(inputs if config.kind == "linear" else width, width, bias=config.bias)
    with torch.no_grad():
        if config.init == "identity":
            nn.init.eye_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)
                if config.offset == "words" and words is not None:
                    last.bias.copy_(words.float().mean(dim=0))
        last.weight.mul_(config.gain)
    if config.kind == "linear":
        return last
    return nn.Sequential(nn.Linear(inputs, width, bias=config.bias), nn.GELU(), last)
