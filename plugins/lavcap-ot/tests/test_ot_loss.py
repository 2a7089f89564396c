"""OT loss against the equations written out token by token."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavcap_ot.loss import OTLoss
from lavcap_ot.plugin import OTLossConfig

DEFAULT: dict[str, Any] = {}
PAPER: dict[str, Any] = {"plan": "prob", "normalise": "over_similarity", "reduction": "sum", "tau": 0.07}
RELEASED: dict[str, Any] = {
    "plan": "log", "normalise": "over_plan", "reduction": "mean", "tau": 1 / math.log(1 / 0.07),
    "learnable": True, "clamp": (0.0, 4.6052),
}  # fmt: skip


def dot(x: list[float], y: list[float]) -> float:
    return sum(p * q for p, q in zip(x, y, strict=True))


def paper_loss(q: list[list[float]], s: list[list[float]], tau: float) -> float:
    """Eq. 4 for one modality: rows q_i and s_j."""
    total = 0.0
    for i in range(len(q)):
        below = sum(math.exp(dot(q[i], s[j]) / tau) for j in range(len(s)))
        total -= math.log(math.exp(dot(q[i], s[i]) / tau) / below)
    return total


def released_loss(q: list[list[float]], s: list[list[float]], scale: float) -> float:
    """The released code for one modality: logarithm of the plan, softmax over its rows, mean over tokens."""
    log_q = [[math.log(x) for x in row] for row in q]
    total = 0.0
    for j in range(len(s)):
        below = sum(math.exp(scale * dot(log_q[i], s[j])) for i in range(len(q)))
        total -= math.log(math.exp(scale * dot(log_q[j], s[j])) / below)
    return total / len(s)


def default_loss(q: list[list[float]], s: list[list[float]]) -> float:
    """Eq. 4 with rows of sum 1 and the mean over tokens."""
    rows = [[len(q) * x for x in row] for row in q]
    return paper_loss(rows, s, 0.07) / len(q)


def literal(preset: str, plan: Tensor, similarity: Tensor) -> float:
    total = 0.0
    for q, s in ((plan.tolist(), similarity.tolist()), (plan.T.tolist(), similarity.T.tolist())):
        if preset == "paper":
            total += paper_loss(q, s, 0.07)
        elif preset == "released":
            total += released_loss(q, s, math.log(1 / 0.07))
        else:
            total += default_loss(q, s)
    return total


def sample(n: int, m: int, seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    plan = torch.rand(n, m).double() + 0.01
    return plan / plan.sum(), torch.rand(n, m).double() * 2 - 1


@pytest.mark.parametrize(("preset", "options"), [("default", DEFAULT), ("paper", PAPER), ("released", RELEASED)])
@given(n=st.integers(1, 6), m=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_equals_the_equations(preset: str, options: dict[str, Any], n: int, m: int, seed: int) -> None:
    plan, similarity = sample(n, m, seed)
    loss = OTLoss(OTLossConfig(**options)).double()
    everything = torch.ones(1, n, dtype=torch.bool), torch.ones(1, m, dtype=torch.bool)
    found = loss(similarity[None], plan[None], *everything)
    assert found.shape == (1,)
    assert found.item() == pytest.approx(literal(preset, plan, similarity), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("options", [DEFAULT, PAPER, RELEASED])
def test_masked_tokens_are_left_out(options: dict[str, Any]) -> None:
    plan, similarity = sample(4, 3, 1)
    padded_plan = torch.nn.functional.pad(plan, (0, 2, 0, 3)).expand(3, -1, -1).clone()
    padded_similarity = torch.nn.functional.pad(similarity, (0, 2, 0, 3), value=5.0).expand(3, -1, -1).clone()
    audio, visual = torch.zeros(3, 7, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    audio[:2, :4], visual[0, :3], visual[2, :3] = True, True, True
    padded_plan[1:] = 0
    loss = OTLoss(OTLossConfig(**options)).double()
    found = loss(padded_similarity.requires_grad_(), padded_plan, audio, visual)
    alone = loss(similarity[None], plan[None], audio[:1, :4], visual[:1, :3])
    assert found[0].item() == pytest.approx(alone.item(), rel=1e-9)
    assert found[1:].tolist() == [0, 0]
    (grad,) = torch.autograd.grad(found.sum(), padded_similarity)
    assert grad.isfinite().all()
    assert grad[0, 4:].abs().sum() == grad[0, :, 3:].abs().sum() == grad[1:].abs().sum() == 0


def test_weight_multiplies() -> None:
    plan, similarity = sample(4, 3, 2)
    everything = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    one, half = (OTLoss(OTLossConfig(weight=w))(similarity[None], plan[None], *everything) for w in (1.0, 0.5))
    assert torch.allclose(half, one / 2)


def test_the_released_scale_is_learned_and_kept_within_bounds() -> None:
    loss = OTLoss(OTLossConfig(**RELEASED))
    (scale,) = loss.parameters()
    assert scale.item() == pytest.approx(2.659, abs=1e-3)
    plan, similarity = sample(4, 3, 3)
    everything = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        scale.fill_(9.0)
    loss(similarity[None].float(), plan[None].float(), *everything).sum().backward()
    assert scale.item() == pytest.approx(4.6052)
    assert scale.grad is not None
    assert scale.grad.abs() > 0


def test_a_fixed_scale_is_no_parameter_and_in_no_checkpoint() -> None:
    loss = OTLoss(OTLossConfig())
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_exact_zeros_of_the_plan_stay_finite_under_log() -> None:
    plan, similarity = sample(4, 3, 4)
    plan[0, 0] = 0
    everything = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    loss = OTLoss(OTLossConfig(**RELEASED))
    assert loss(similarity[None].float(), plan[None].float(), *everything).isfinite().all()
