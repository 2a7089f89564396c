"""Exact transport."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import ot
import pytest
import torch
from torch import Tensor

from lavcap_core.errors import BuildError
from lavcap_ot.emd import EMD, build
from lavcap_ot.plugin import EMDConfig
from lavcap_ot.sinkhorn import Sinkhorn

CONTEXT: Any = SimpleNamespace(inputs={})


def problem() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    cost = torch.rand(4, 7, 5).double()
    a, b = torch.rand(4, 7).double() + 0.1, torch.rand(4, 5).double() + 0.1
    a[1, 4:], b[2, 3:], b[3] = 0, 0, 0
    return cost, a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True).clamp(min=1e-30)


@pytest.mark.parametrize("threads", [1, 3])
def test_equals_pot_sample_by_sample(threads: int) -> None:
    cost, a, b = problem()
    padded = cost.clone()
    padded[1, 4:] = torch.inf
    found = EMD(threads=threads)(padded, a, b)
    for i in range(3):
        expected = ot.emd2(a[i].numpy(), b[i].numpy(), cost[i].numpy())
        assert found.value[i].item() == pytest.approx(float(expected), abs=1e-12)
        assert (found.plan[i].sum(1) - a[i]).abs().max() < 1e-12
        assert (found.plan[i].sum(0) - b[i]).abs().max() < 1e-12
    assert found.marginal_error.max() < 1e-12
    assert found.plan[3].abs().sum() == found.value[3] == found.marginal_error[3] == 0


def test_gradient_is_that_of_linear_programming() -> None:
    cost, a, b = problem()
    cost, logits_a, logits_b = cost[:1].requires_grad_(), a[:1].log().requires_grad_(), b[:1].log().requires_grad_()

    def value(cost: Tensor, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = EMD()(cost, x.softmax(1), y.softmax(1)).value
        return found

    assert torch.autograd.gradcheck(value, (cost, logits_a, logits_b))
    assert not EMD()(cost, a[:1], b[:1]).plan.requires_grad


def test_is_the_limit_of_sinkhorn() -> None:
    cost, a, b = problem()
    entropic = Sinkhorn(2e-3, iterations=3000)(cost, a, b).plan
    assert (EMD()(cost, a, b).plan - entropic).abs().sum((1, 2)).max() < 0.05


def test_float32_in_float32_out() -> None:
    found = EMD()(*(part.float() for part in problem()))
    assert found.plan.dtype == found.value.dtype == found.marginal_error.dtype == torch.float32


def test_without_pot_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(BuildError, match="B040") as caught:
        build(EMDConfig(), CONTEXT)
    assert caught.value.problems[0].help == "pip install 'lavcap-ot[emd]'"


def test_builds_from_its_configuration() -> None:
    transport = build(EMDConfig(max_iterations=5000, threads=2), CONTEXT)
    assert (transport.max_iterations, transport.threads) == (5000, 2)
