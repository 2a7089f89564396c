"""Learned fusers that attend over tokens: cross attention and the joint encoder (LAVCap, Table III).

Shapes: B batch, N_a audio tokens, N_v visual tokens, D width. Where nothing may be attended to, everything is allowed
and the result is thrown away: a softmax over nothing would be NaN, in the gradients too.
"""

from __future__ import annotations

from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.data import Alignment, Tokens
from lavcap_fusers import plugin
from lavcap_fusers.simple import alone, with_lone_visual

__all__ = ["CrossAttention", "Joint", "build_cross_attention", "build_joint", "cleaned", "ignored"]


def cleaned(tokens: Tokens) -> Tensor:
    """Data [B, N, D] with zeros where there is no token, so that not even a NaN in the padding gets further."""
    return tokens.data.masked_fill(~tokens.mask[:, :, None], 0)


def ignored(mask: Tensor) -> Tensor:
    """Keys [..., N] to leave out, for `torch.nn` attention: those not in the mask, none where the mask is empty."""
    return ~mask & mask.any(dim=-1, keepdim=True)


class CrossAttention(nn.Module):
    """h_a + MHA(h_a, h_v, h_v): audio tokens plus what they attend to among the visual ones, [B, N_a, D].

    The visual tokens themselves are dropped. A sample without them keeps its audio tokens as they are; one without
    audio tokens keeps its visual tokens, as otherwise nothing would be left to describe it.
    """

    def __init__(self, width: int, config: plugin.CrossAttentionConfig) -> None:
        super().__init__()
        self.width = width
        self.norm_audio = nn.LayerNorm(width) if config.norm == "pre" else nn.Identity()
        self.norm_visual = nn.LayerNorm(width) if config.norm == "pre" else nn.Identity()
        self.attention = nn.MultiheadAttention(width, config.heads, dropout=config.dropout, batch_first=True)

    def forward(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        """Fuses [B, N_a, D] and [B, N_v, D]."""
        lone = alone(audio, visual)
        if lone is not None:
            return lone
        assert audio is not None
        assert visual is not None
        if 0 in (audio.data.shape[1], visual.data.shape[1]):
            return Tokens.concat([audio, visual])
        fused = audio.with_data(cleaned(audio) + self._attended(audio, visual))
        return with_lone_visual(fused, audio, visual)

    def _attended(self, audio: Tokens, visual: Tokens) -> Tensor:
        """[B, N_a, D], zero for masked audio tokens and for samples without visual ones."""
        keys = self.norm_visual(cleaned(visual))
        queries = self.norm_audio(cleaned(audio))
        attended, _ = self.attention(queries, keys, keys, key_padding_mask=ignored(visual.mask), need_weights=False)
        receives = audio.mask & visual.present()[:, None]
        result: Tensor = attended.masked_fill(~receives[:, :, None], 0)
        return result


class Joint(nn.Module):
    """One pre-norm transformer block over the tokens of both modalities: [B, N_a + N_v, D], audio first.

    Exact GELU, biases everywhere. A sample or a pipeline with one modality attends within it.
    """

    def __init__(self, width: int, config: plugin.JointConfig) -> None:
        super().__init__()
        self.width = width
        self.block = nn.TransformerEncoderLayer(
            width,
            config.heads,
            dim_feedforward=round(width * config.mlp_ratio),
            dropout=config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )

    def forward(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        """Fuses [B, N_a, D] and [B, N_v, D]."""
        tokens = Tokens.concat([part for part in (audio, visual) if part is not None])
        if tokens.data.shape[1] == 0:
            return tokens
        data = self.block(cleaned(tokens), src_key_padding_mask=ignored(tokens.mask))
        return tokens.with_data(data.masked_fill(~tokens.mask[:, :, None], 0))


def build_cross_attention(config: plugin.CrossAttentionConfig, context: Context) -> CrossAttention:
    """Factory of `cross_attention`."""
    return CrossAttention(int(plugin.cross_attention.ports(config, context.inputs)["tokens"].width), config)


def build_joint(config: plugin.JointConfig, context: Context) -> Joint:
    """Factory of `joint`."""
    return Joint(int(plugin.joint.ports(config, context.inputs)["tokens"].width), config)
