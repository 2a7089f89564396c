"""OT loss (LAVCap eq. 4), as the paper writes it, as its released code computes it, and in between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavcap_ot.plugin import OTLossConfig

__all__ = ["OTLoss"]


class OTLoss(nn.Module):
    """Contrast of each token's row of the plan with the rows of similarity.

    With q_i the rows of the plan (columns for visual tokens) and s_j those of similarity, eq. 4 is
    - sum_i log( exp(<q_i, s_i> / tau) / sum_j exp(<q_i, s_j> / tau) ), for audio tokens plus for visual tokens.

    Args:
        config: which plan, which normalisation, temperature, reduction and weight.
    """

    def __init__(self, config: OTLossConfig) -> None:
        super().__init__()
        self.config = config
        scale = torch.tensor(1.0 / config.tau)
        if config.learnable:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale, persistent=False)

    def forward(self, similarity: Tensor, plan: Tensor, audio: Tensor, visual: Tensor) -> Tensor:
        """Weighted loss of each sample.

        Args:
            similarity: [B, N, M] float32, finite also where masked.
            plan: [B, N, M] float32.
            audio: [B, N] bool, real tokens.
            visual: [B, M] bool, real tokens.

        Returns:
            [B], 0 for a sample without audio or without visual tokens.
        """
        scale = self._clamped().to(similarity.dtype)
        loss = self._side(similarity, plan, audio, visual, scale)
        loss = loss + self._side(similarity.mT, plan.mT, visual, audio, scale)
        both = audio.any(dim=1) & visual.any(dim=1)
        return torch.where(both, self.config.weight * loss, 0.0)

    def _clamped(self) -> Tensor:
        """The scale 1 / tau; a learned one is kept within its bounds, where a clamp alone would end its gradient."""
        bounds = self.config.clamp
        if bounds is None:
            return self.scale
        if self.training:
            with torch.no_grad():
                self.scale.clamp_(*bounds)
        # The copy is what autograd keeps, so that a second forward may come before the backward.
        return self.scale.clone().clamp(*bounds)

    def _side(self, similarity: Tensor, plan: Tensor, rows: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
        q = self._weights(plan, rows, columns)
        s = similarity.masked_fill(~columns[:, None, :], 0.0)
        logits = scale * (q @ s.mT)
        if self.config.normalise == "over_plan":
            logits = logits.mT
        lowest = torch.finfo(logits.dtype).min
        total = logits.masked_fill(~rows[:, None, :], lowest).logsumexp(dim=2)
        terms = torch.where(rows, total - logits.diagonal(dim1=1, dim2=2), 0.0)
        count = rows.sum(dim=1).clamp(min=1)
        return terms.sum(dim=1) / count if self.config.reduction == "mean" else terms.sum(dim=1)

    def _weights(self, plan: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """q_i: [B, N, M], 0 where masked."""
        if self.config.plan == "log":
            logarithm = plan.clamp(min=torch.finfo(plan.dtype).tiny).log()
            return torch.where(rows[:, :, None] & columns[:, None, :], logarithm, 0.0)
        return plan * rows.sum(dim=1)[:, None, None] if self.config.plan == "row" else plan
