"""Alignment of audio and visual tokens by optimal transport (LAVCap eq. 2-4)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from lavcap_core.component import Context
from lavcap_core.data import Aligned, Alignment, Tokens
from lavcap_core.interfaces import Transport
from lavcap_ot import emd, sinkhorn
from lavcap_ot.loss import OTLoss
from lavcap_ot.plugin import AlignerSettings, EMDAlignerConfig, OTAlignerConfig, SinkhornAlignerConfig
from lavcap_ot.precision import full_precision, widen

__all__ = ["OTAligner", "build", "build_emd", "build_sinkhorn"]


class OTAligner(nn.Module):
    """Transports audio tokens to visual tokens at the cost -S, S their similarity, with uniform weights.

    Args:
        settings: normalisation, projection, similarity, detachment, loss and padding.
        transport: optimal transport; if it has a method ``bind``, it is told the bound of the cost's range.
        widths: width of the tokens of each modality, for learned projections.
    """

    def __init__(self, settings: AlignerSettings, transport: Transport, widths: dict[str, int]) -> None:
        super().__init__()
        self.settings = settings
        self.transport = transport
        self.loss = OTLoss(settings.loss) if settings.loss is not None else None
        width = settings.project
        self.project = nn.ModuleDict(
            {name: nn.Linear(size, width, bias=False) for name, size in widths.items()} if width is not None else {}
        )
        bind = getattr(transport, "bind", None)
        if bind is not None:
            bind(2.0 if settings.bounded else None)

    def forward(self, audio: Tokens, visual: Tokens) -> Aligned:
        """Aligns audio tokens [B, N, D] with visual tokens [B, M, D].

        Returns:
            Tokens as they were compared (projected, normalised), similarity and plan [B, N, M], and the loss [B] if
            there is one. A sample that lacks a modality has plan 0 and loss 0.
        """
        audio, visual = self._prepare(audio, "audio"), self._prepare(visual, "visual")
        with full_precision(audio.data):
            similarity = self._similarity(audio, visual)
            found = self.transport(-similarity, _uniform(audio.mask, similarity), _uniform(visual.mask, similarity))
            plan = found.plan.detach() if self.settings.detach else found.plan
            loss = None if self.loss is None else self.loss(similarity, plan, audio.mask, visual.mask)
        return Aligned(audio, visual, Alignment(similarity, plan, loss, found.marginal_error))

    def _prepare(self, tokens: Tokens, name: str) -> Tokens:
        """The tokens as they are compared and fused; what is masked is 0."""
        if self.settings.padding == "token":
            mask = tokens.present()[:, None].expand_as(tokens.mask)
            tokens = Tokens(tokens.data, mask, tokens.modality, tokens.times)
        data = tokens.data.masked_fill(~tokens.mask[:, :, None], 0.0)
        if name in self.project:
            data = self.project[name](data)
        if self.settings.normalise == "l2":
            data = F.normalize(widen(data), dim=2).to(data.dtype)
        return tokens.with_data(data)

    def _similarity(self, audio: Tokens, visual: Tokens) -> Tensor:
        h_a, h_v = widen(audio.data), widen(visual.data)
        if self.settings.similarity == "cosine":
            h_a, h_v = F.normalize(h_a, dim=2), F.normalize(h_v, dim=2)
        return h_a @ h_v.mT


def _uniform(mask: Tensor, like: Tensor) -> Tensor:
    """Equal weights [B, N] of sum 1 over what the mask leaves."""
    real = mask.to(like.dtype)
    return real / real.sum(dim=1, keepdim=True).clamp(min=1)


def _widths(context: Context) -> dict[str, int]:
    return {name: int(port.width) for name, port in context.inputs.items() if name in ("audio", "visual")}


def build(config: OTAlignerConfig, context: Context) -> OTAligner:
    """Aligner with the transport that the configuration names."""
    return OTAligner(config, cast(Transport, context.build(config.transport)), _widths(context))


def build_sinkhorn(config: SinkhornAlignerConfig, context: Context) -> OTAligner:
    """Aligner with entropic transport."""
    return OTAligner(config, sinkhorn.build(config, context), _widths(context))


def build_emd(config: EMDAlignerConfig, context: Context) -> OTAligner:
    """Aligner with exact transport."""
    return OTAligner(config, emd.build(config, context), _widths(context))
