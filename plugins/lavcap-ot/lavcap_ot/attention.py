"""OT-Att: tokens attend across modalities through the transport plan (LAVCap eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.data import Alignment, Tokens
from lavcap_core.errors import BuildError
from lavcap_ot.plugin import OTAttConfig
from lavcap_ot.precision import full_precision, widen

__all__ = ["OTAtt", "build"]


class OTAtt(nn.Module):
    """h_a + w_a h_v and h_v + w_v h_a, audio tokens first.

    The paper's weights are w_a = Q and w_v = Q^T (``scale: none``). Their rows sum to 1/N_a and 1/N_v, so that they
    hardly change a token; ``scale: row`` takes N_a Q and N_v Q^T, the barycentric projections, with N counted over real
    tokens.

    Args:
        width: width of the tokens.
        config: scale and gate.
    """

    def __init__(self, width: int, config: OTAttConfig) -> None:
        super().__init__()
        self.width = width
        self.config = config
        self.gate = nn.Parameter(torch.full((2,), config.initial)) if config.gate == "scalar" else None

    def forward(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        """Fuses audio tokens [B, N, D] and visual tokens [B, M, D] to [B, N + M, D].

        A sample without one of them keeps the other as it is; so does a pipeline that lacks a modality or an aligner.

        Raises:
            BuildError: B041 if the alignment has no plan.
        """
        if audio is not None and visual is not None and alignment is not None:
            if alignment.plan is None:
                raise BuildError(
                    "B041", "ot_att needs a transport plan, and the aligner gives none", help="set aligner.use: ot"
                )
            audio, visual = self._attend(audio, visual, alignment.plan)
        return Tokens.concat([tokens for tokens in (audio, visual) if tokens is not None])

    def _attend(self, audio: Tokens, visual: Tokens, plan: Tensor) -> tuple[Tokens, Tokens]:
        with full_precision(plan):
            h_a, h_v = _rows(audio), _rows(visual)
            gate_a, gate_v = (1.0, 1.0) if self.gate is None else self.gate.unbind()
            to_audio = gate_a * (self._weights(plan, audio) @ h_v)
            to_visual = gate_v * (self._weights(plan.mT, visual) @ h_a)
            return (
                audio.with_data((widen(audio.data) + to_audio).to(audio.data.dtype)),
                visual.with_data((widen(visual.data) + to_visual).to(visual.data.dtype)),
            )

    def _weights(self, plan: Tensor, tokens: Tokens) -> Tensor:
        return plan * tokens.mask.sum(dim=1)[:, None, None] if self.config.scale == "row" else plan


def _rows(tokens: Tokens) -> Tensor:
    """Data [B, N, D] in at least float32, 0 where masked, since 0 times what padding holds may not be 0."""
    return widen(tokens.data).masked_fill(~tokens.mask[:, :, None], 0.0)


def build(config: OTAttConfig, context: Context) -> OTAtt:
    """Fuser of a configuration, as wide as the tokens that arrive."""
    return OTAtt(next(int(port.width) for port in context.inputs.values()), config)
