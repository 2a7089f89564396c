"""Each token plus the mean of the other modality, through a learned gate. Shapes: B batch, N tokens, D width."""

import torch
from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.data import Alignment, Tokens
from lavcap_gate.plugin import MeanAddConfig


class MeanAdd(nn.Module):
    """Fuses tokens of one width: [B, N_a + N_v, D], audio first."""

    def __init__(self, width: int, gate: float) -> None:
        super().__init__()
        self.width = width
        self.gate = nn.Parameter(torch.tensor(gate))

    def forward(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        """A modality that is missing changes nothing, and adds nothing."""
        if audio is None or visual is None:
            return Tokens.concat([part for part in (audio, visual) if part is not None])
        return Tokens.concat([self.add(audio, mean(visual)), self.add(visual, mean(audio))])

    def add(self, tokens: Tokens, other: Tensor) -> Tokens:
        """Adds to real tokens only: padding receives nothing."""
        return tokens.with_data(tokens.data + self.gate * other * tokens.mask[:, :, None])


def mean(tokens: Tokens) -> Tensor:
    """[B, 1, D], the mean of the real tokens; 0 for a sample that has none."""
    real = tokens.data.masked_fill(~tokens.mask[:, :, None], 0)
    return real.sum(dim=1, keepdim=True) / tokens.mask.sum(dim=1).clamp(min=1)[:, None, None]


def build(config: MeanAddConfig, context: Context) -> MeanAdd:
    """Called with the checked settings and the real widths of what arrives."""
    return MeanAdd(next(int(port.width) for port in context.inputs.values()), config.gate)
