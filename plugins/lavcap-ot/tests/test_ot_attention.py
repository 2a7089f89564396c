"""OT-Att against eq. 5 written out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lavcap_core.component import Port
from lavcap_core.data import AUDIO, VISUAL, Alignment, Tokens
from lavcap_core.errors import BuildError
from lavcap_ot.attention import OTAtt, build
from lavcap_ot.plugin import OTAttConfig
from lavcap_ot.sinkhorn import Sinkhorn


def setting(lengths: list[tuple[int, int]], n: int = 5, m: int = 3) -> tuple[Tokens, Tokens, Alignment]:
    torch.manual_seed(0)
    masks = [torch.arange(k) < torch.tensor([pair[i] for pair in lengths])[:, None] for i, k in enumerate((n, m))]
    audio = Tokens.of(torch.randn(len(lengths), n, 4), AUDIO, masks[0])
    visual = Tokens.of(torch.randn(len(lengths), m, 4), VISUAL, masks[1])
    a, b = (mask / mask.sum(1, keepdim=True).clamp(min=1) for mask in masks)
    similarity = torch.randn(len(lengths), n, m)
    return audio, visual, Alignment(similarity, Sinkhorn(0.5)(-similarity, a, b).plan)


def literal(h_a: Tensor, h_v: Tensor, plan: Tensor, row: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Eq. 5 token by token, for a sample without padding."""
    n, m = plan.shape
    audio = [h_a[i] + (n if row else 1) * sum(plan[i, j] * h_v[j] for j in range(m)) for i in range(n)]
    visual = [h_v[j] + (m if row else 1) * sum(plan[i, j] * h_a[i] for i in range(n)) for j in range(m)]
    return audio, visual


@pytest.mark.parametrize("scale", ["none", "row"])
def test_equals_equation_five_on_valid_tokens(scale: Any) -> None:
    lengths = [(5, 3), (4, 2), (5, 0), (0, 3)]
    audio, visual, alignment = setting(lengths)
    fused = OTAtt(4, OTAttConfig(scale=scale))(audio, visual, alignment)
    assert fused.data.shape == (4, 8, 4)
    assert fused.modality[0].tolist() == [AUDIO] * 5 + [VISUAL] * 3
    assert torch.equal(fused.mask, torch.cat([audio.mask, visual.mask], 1))
    assert alignment.plan is not None
    for i, (n, m) in enumerate(lengths[:2]):
        h_a, h_v = literal(audio.data[i, :n], visual.data[i, :m], alignment.plan[i, :n, :m], scale == "row")
        assert torch.allclose(fused.data[i, :n], torch.stack(h_a), atol=1e-5)
        assert torch.allclose(fused.data[i, 5 : 5 + m], torch.stack(h_v), atol=1e-5)
    assert torch.equal(fused.data[2, :5], audio.data[2])
    assert torch.equal(fused.data[3, 5:], visual.data[3])


def test_row_weights_are_averages() -> None:
    audio, visual, alignment = setting([(4, 2)])
    same = visual.with_data(torch.ones_like(visual.data))
    fused = OTAtt(4, OTAttConfig(scale="row"))(audio, same, alignment)
    assert torch.allclose(fused.data[0, :4] - audio.data[0, :4], torch.ones(4, 4), atol=1e-5)


def test_the_gate_is_learned() -> None:
    audio, visual, alignment = setting([(5, 3)])
    fuser = OTAtt(4, OTAttConfig(gate="scalar", initial=0.0))
    fused = fuser(audio, visual, alignment)
    assert torch.equal(fused.data, torch.cat([audio.data, visual.data], 1))
    fused.data.square().sum().backward()
    (gate,) = fuser.parameters()
    assert gate.grad is not None
    assert (gate.grad.abs() > 0).all()
    full = OTAtt(4, OTAttConfig(gate="scalar"))(audio, visual, alignment)
    assert torch.allclose(full.data, OTAtt(4, OTAttConfig())(audio, visual, alignment).data)
    assert not list(OTAtt(4, OTAttConfig()).parameters())


def test_what_is_absent_passes_through() -> None:
    audio, visual, alignment = setting([(5, 3)])
    fuser = OTAtt(4, OTAttConfig())
    assert torch.equal(fuser(audio, None, None).data, audio.data)
    assert torch.equal(fuser(None, visual, None).data, visual.data)
    assert torch.equal(fuser(audio, visual, None).data, torch.cat([audio.data, visual.data], 1))
    with pytest.raises(BuildError, match="B041"):
        fuser(audio, visual, Alignment(alignment.similarity))


def test_padding_that_is_not_a_number_stays_out() -> None:
    audio, visual, alignment = setting([(4, 2)])
    audio.data[:, 4:], visual.data[:, 2:] = torch.nan, torch.inf
    fused = OTAtt(4, OTAttConfig())(audio, visual, alignment)
    assert fused.data[fused.mask].isfinite().all()


def test_keeps_the_precision_of_the_tokens() -> None:
    audio, visual, alignment = setting([(5, 3)])
    low = OTAtt(4, OTAttConfig())(
        audio.with_data(audio.data.bfloat16()), visual.with_data(visual.data.bfloat16()), alignment
    )
    assert low.data.dtype == torch.bfloat16


def test_builds_as_wide_as_its_tokens() -> None:
    context: Any = SimpleNamespace(inputs={"audio": Port("audio", 48), "visual": Port("visual", 48)})
    assert build(OTAttConfig(), context).width == 48
