"""The CED audio tagger without its head: a ViT over 16 x 16 patches of a log-mel spectrogram (Dinkel et al. 2024).

"CED: Consistent ensemble distillation for audio tagging", ICASSP 2024, arXiv 2308.11957. Modules are named as in the
published checkpoints, except that query, key and value are three layers: LoRA adapts the first and the last alone.
Shapes: B batch, T frames, D width, P = T // 16 time patches, N = 4 P tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavcap_ced.front_ends import MELS

__all__ = ["PATCH", "ROWS", "Ced", "Geometry"]

PATCH = 16
"""Frames, and mel bins, of a patch."""
ROWS = MELS // PATCH
"""Patches along the frequency axis."""


@dataclass(frozen=True)
class Geometry:
    """Size of a network.

    Attributes:
        width: D, size of a token.
        heads: attention heads.
        depth: blocks.
        columns: time positions that it has embeddings for.
    """

    width: int
    heads: int
    depth: int = 12
    columns: int = 63


class _FrameNorm(nn.BatchNorm2d):
    """BatchNorm over mel bins that in training sees real frames only, and always computes in float32."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        if not self.training:
            scale = self.weight.float() * (self.running_var.float() + self.eps).rsqrt()  # type: ignore[union-attr]
            return (x - self.running_mean.float()) * scale + self.bias.float()  # type: ignore[union-attr]
        normed = torch.zeros_like(x)
        if mask.any():
            normed[mask] = super().forward(x[mask][:, :, None, None])[:, :, 0, 0].to(x.dtype)
        return normed


class _PatchEmbed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, kernel_size=PATCH, stride=PATCH)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), keys)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Ced(nn.Module):
    """CED's encoder: features to one vector per patch.

    Args:
        geometry: size of the network.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        width = geometry.width
        self.geometry = geometry
        self.init_bn = _FrameNorm(MELS, momentum=0.01)
        self.patch_embed = _PatchEmbed(width)
        self.time_pos_embed = nn.Parameter(torch.zeros(1, width, 1, geometry.columns))
        self.freq_pos_embed = nn.Parameter(torch.zeros(1, width, ROWS, 1))
        self.blocks = nn.ModuleList(_Block(width, geometry.heads) for _ in range(geometry.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes.

        Args:
            features: [B, T, 64] float32, T at least 16; frames after the last whole patch are not used.
            mask: [B, T] bool, True for real frames. A patch is real if all its frames are; others are no keys in any
                block.

        Returns:
            [B, N, D] in order ``(f t)``: all times of the lowest 16 mel bins first; 0 where a patch isn't real.
            [B, P] bool, which time patches are real.
        """
        columns = features.shape[1] // PATCH
        valid = mask[:, : columns * PATCH].view(len(mask), columns, PATCH).all(dim=2)
        x = self._embed(self.init_bn(features, mask), columns)
        tokens = valid.repeat(1, ROWS)
        # A sample without any real patch would have no key at all, which softmax can't stand; its tokens are zeroed.
        keys = (tokens | ~tokens.any(dim=1, keepdim=True))[:, None, None, :]
        for block in self.blocks:
            x = block(x, keys)
        return self.norm(x).masked_fill(~tokens[:, :, None], 0), valid

    def _embed(self, features: Tensor, columns: int) -> Tensor:
        proj = self.patch_embed.proj
        picture = features[:, : columns * PATCH].transpose(1, 2)[:, None].to(proj.weight.dtype)
        patches: Tensor = proj(picture) + self._time_positions(columns) + self.freq_pos_embed
        return patches.flatten(2).transpose(1, 2)

    def _time_positions(self, columns: int) -> Tensor:
        if columns <= self.time_pos_embed.shape[3]:
            return self.time_pos_embed[..., :columns]
        return F.interpolate(self.time_pos_embed, size=(1, columns), mode="bilinear", align_corners=False)

    def randomise(self, seed: int) -> Ced:
        """Fills every parameter as for training from nothing: normal of deviation 0.02, cut at 2; norms 1, biases 0."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
            else:
                nn.init.constant_(parameter, float(name.endswith("weight")))
        return self
