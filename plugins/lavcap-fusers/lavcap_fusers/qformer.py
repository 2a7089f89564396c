"""Window-level Q-Former (LAVCap, Table III): a learned query per window of time over the tokens in it.

Shapes: B batch, N tokens of both modalities, D width, W windows, Q queries per window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.data import AUDIO, VISUAL, Alignment, Tokens
from lavcap_fusers import plugin
from lavcap_fusers.attention import cleaned, ignored
from lavcap_fusers.simple import require_times

__all__ = ["QFormer", "build_qformer", "windows_of"]


def windows_of(tokens: Tokens, seconds: float) -> Tensor:
    """Which tokens lie in which window: [B, W, N] bool.

    Window w covers times from w·seconds up to (w + 1)·seconds, its end excluded; a time before 0 counts as 0.
    W is what the latest valid token of the batch needs, at least 1.

    Raises:
        PortError: P051 if the tokens have no times.
    """
    times = require_times(tokens, "qformer").masked_fill(~tokens.mask, 0).float()
    index = (times.clamp(min=0) / seconds).floor().long()
    count = int(index.max()) + 1 if index.numel() else 1
    windows = torch.arange(count, device=index.device)
    return (index[:, None, :] == windows[None, :, None]) & tokens.mask[:, None, :]


class QFormer(nn.Module):
    """BERT layers in which the queries of a window attend to the audio and visual tokens in it: [B, W·Q, D].

    Each layer is BERT's with cross attention: self-attention (among the queries of one window), cross attention,
    feed-forward with exact GELU, each followed by add and norm (epsilon 1e-12). The queries start from a normal
    distribution with deviation 0.02. A window without tokens is masked. A token counts as audio if its window holds
    any audio token, else as visual; its time is the middle of the window.

    Raises:
        PortError: P051 when called with tokens that have no times.
    """

    def __init__(self, width: int, config: plugin.QFormerConfig) -> None:
        super().__init__()
        self.width = width
        self.window = config.window
        self.heads = config.heads
        self.queries = nn.Parameter(torch.empty(config.queries, width).normal_(std=0.02))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width,
                config.heads,
                dim_feedforward=round(width * config.mlp_ratio),
                dropout=config.dropout,
                activation="gelu",
                layer_norm_eps=1e-12,
                batch_first=True,
            )
            for _ in range(config.layers)
        )

    def forward(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        """Fuses [B, N_a, D] and [B, N_v, D]."""
        tokens = Tokens.concat([part for part in (audio, visual) if part is not None])
        inside = windows_of(tokens, self.window).repeat_interleave(len(self.queries), dim=1)
        mask = inside.any(dim=2)
        data = self._attend(tokens, inside).masked_fill(~mask[:, :, None], 0)
        heard = (inside & (tokens.modality == AUDIO)[:, None]).any(dim=2)
        modality = torch.where(heard, AUDIO, VISUAL).to(torch.int8)
        return Tokens(data, mask, modality, self._times(inside))

    def _attend(self, tokens: Tokens, inside: Tensor) -> Tensor:
        """[B, W·Q, D] of the queries, ``inside`` [B, W·Q, N]."""
        batch, length, _ = inside.shape
        if tokens.data.shape[1] == 0:
            return tokens.data.new_zeros(batch, length, self.width)
        queries = self.queries.repeat(length // len(self.queries), 1).expand(batch, -1, -1)
        window = torch.arange(length, device=inside.device) // len(self.queries)
        others = window[:, None] != window[None, :]
        outside = ignored(inside).repeat_interleave(self.heads, dim=0)
        memory = cleaned(tokens)
        for layer in self.layers:
            queries = layer(queries, memory, tgt_mask=others, memory_mask=outside)
        return queries

    def _times(self, inside: Tensor) -> Tensor:
        batch, length, _ = inside.shape
        window = torch.arange(length, device=inside.device) // len(self.queries)
        return ((window + 0.5) * self.window).expand(batch, -1)


def build_qformer(config: plugin.QFormerConfig, context: Context) -> QFormer:
    """Factory of `qformer`."""
    return QFormer(int(plugin.qformer.ports(config, context.inputs)["tokens"].width), config)
