"""The aligner: eq. 2-3 on tokens, masks, missing modalities, projections."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lavcap_core.component import Port, Use
from lavcap_core.data import AUDIO, VISUAL, Tokens
from lavcap_ot import aligner, emd, plugin, sinkhorn
from lavcap_ot.plugin import EMDAlignerConfig, OTAlignerConfig, OTLossConfig, SinkhornAlignerConfig
from lavcap_ot.sinkhorn import Sinkhorn


def context(audio: int = 16, visual: int = 16) -> Any:
    factories = {"sinkhorn": sinkhorn.build, "emd": emd.build}
    inputs = {"audio": Port("audio", audio), "visual": Port("visual", visual)}
    return SimpleNamespace(inputs=inputs, build=lambda use, _=None: factories[use.name](use.config, None))  # type: ignore[operator]


def tokens(batch: int, n: int, modality: int, lengths: list[int] | None = None, width: int = 16) -> Tokens:
    mask = torch.arange(n) < torch.tensor(lengths or [n] * batch)[:, None]
    return Tokens.of(torch.randn(batch, n, width), modality, mask, times=torch.arange(n) * 0.5)


def literal_plan(similarity: Tensor, epsilon: float = 0.1, iterations: int = 50) -> Tensor:
    """Eq. 2-3 for one sample: Sinkhorn's iterations, entry by entry."""
    n, m = similarity.shape
    kernel = [[math.exp(similarity[i, j].item() / epsilon) for j in range(m)] for i in range(n)]
    f, g = [1.0] * n, [1.0] * m
    for _ in range(iterations):
        g = [1 / m / sum(kernel[i][j] * f[i] for i in range(n)) for j in range(m)]
        f = [1 / n / sum(kernel[i][j] * g[j] for j in range(m)) for i in range(n)]
    return torch.tensor([[f[i] * kernel[i][j] * g[j] for j in range(m)] for i in range(n)])


def test_equals_equations_two_and_three() -> None:
    torch.manual_seed(0)
    audio, visual = tokens(2, 7, AUDIO), tokens(2, 4, VISUAL)
    found = aligner.build_sinkhorn(SinkhornAlignerConfig(), context())(audio, visual)
    assert torch.allclose(found.audio.data, F.normalize(audio.data, dim=2))
    assert torch.allclose(found.visual.data.norm(dim=2), torch.ones(2, 4))
    for i in range(2):
        similarity = F.cosine_similarity(audio.data[i][:, None], visual.data[i][None], dim=2)
        assert torch.allclose(found.alignment.similarity[i], similarity, atol=1e-6)
        assert torch.allclose(found.alignment.plan[i], literal_plan(similarity), atol=1e-7)
    assert found.alignment.loss is None
    assert found.alignment.marginal_error.shape == (2,)


def test_shorthands_equal_the_nested_form() -> None:
    torch.manual_seed(0)
    audio, visual = tokens(2, 7, AUDIO), tokens(2, 4, VISUAL)
    cases: list[tuple[Any, Any, Any, Any]] = [
        (plugin.sinkhorn, {"epsilon": 0.3}, aligner.build_sinkhorn, SinkhornAlignerConfig),
        (plugin.emd, {"threads": 1}, aligner.build_emd, EMDAlignerConfig),
    ]
    for transport, settings, build, config in cases:
        use = Use("transport", transport.name, "lavcap-ot", transport.config(**settings), transport)
        nested = aligner.build(OTAlignerConfig(transport=use, loss=OTLossConfig()), context())
        short = build(config(**settings, loss=OTLossConfig()), context())
        one, other = nested(audio, visual).alignment, short(audio, visual).alignment
        assert torch.equal(one.plan, other.plan)
        assert (one.loss == other.loss).all()


def test_padding_and_missing_modalities() -> None:
    torch.manual_seed(0)
    audio, visual = tokens(4, 7, AUDIO, [7, 5, 0, 7]), tokens(4, 4, VISUAL, [4, 3, 4, 0])
    audio.data[1, 5:] = torch.nan
    build = aligner.build_sinkhorn(SinkhornAlignerConfig(loss=OTLossConfig()), context())
    found = build(audio, visual)
    assert torch.allclose(found.alignment.plan.sum((1, 2)), torch.tensor([1.0, 1, 0, 0]), atol=1e-6)
    assert (found.alignment.loss[2:] == 0).all()
    assert found.alignment.similarity.isfinite().all()
    assert torch.equal(found.audio.data[3], F.normalize(audio.data[3], dim=1))
    assert torch.equal(found.visual.data[2], F.normalize(visual.data[2], dim=1))
    alone = build(
        Tokens.of(audio.data[1:2, :5], AUDIO), Tokens.of(visual.data[1:2, :3], VISUAL)
    )  # fmt: skip
    assert torch.allclose(found.alignment.plan[1, :5, :3], alone.alignment.plan[0], atol=1e-7)
    assert found.alignment.loss[1].item() == pytest.approx(alone.alignment.loss[0].item(), rel=1e-5)
    assert torch.equal(found.audio.mask, audio.mask)
    assert found.audio.times is audio.times


def test_padding_as_tokens() -> None:
    audio, visual = tokens(3, 6, AUDIO, [6, 4, 0]), tokens(3, 4, VISUAL)
    found = aligner.build_sinkhorn(SinkhornAlignerConfig(padding="token"), context())(audio, visual)
    assert torch.allclose(found.alignment.plan.sum(2)[:2], torch.full((2, 6), 1 / 6), atol=1e-6)
    assert found.audio.mask.tolist() == [[True] * 6, [True] * 6, [False] * 6]
    assert found.alignment.plan[2].abs().sum() == 0


def test_projection_meets_at_one_width() -> None:
    build = aligner.build_sinkhorn(SinkhornAlignerConfig(project=8, loss=OTLossConfig()), context(16, 24))
    found = build(tokens(2, 6, AUDIO), tokens(2, 4, VISUAL, width=24))
    assert found.audio.width == found.visual.width == 8
    found.alignment.loss.sum().backward()
    shapes = {tuple(p.shape) for p in build.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert shapes == {(8, 16), (8, 24)}


@pytest.mark.parametrize("detach", [True, False])
def test_the_plan_is_detached_unless_asked(detach: bool) -> None:
    audio = tokens(2, 6, AUDIO)
    audio.data.requires_grad_()
    build = aligner.build_sinkhorn(SinkhornAlignerConfig(detach=detach, loss=OTLossConfig()), context())
    found = build(audio, tokens(2, 4, VISUAL)).alignment
    assert found.plan.requires_grad is not detach
    found.loss.sum().backward()
    assert audio.data.grad is not None
    assert audio.data.grad.isfinite().all()


def test_similarities_and_the_bound_they_give() -> None:
    torch.manual_seed(1)
    audio, visual = tokens(1, 6, AUDIO), tokens(1, 4, VISUAL)
    cosine = F.normalize(audio.data, dim=2) @ F.normalize(visual.data, dim=2).mT
    cases = [
        ("l2", "dot", cosine, "exponential"),
        ("none", "cosine", cosine, "exponential"),
        ("none", "dot", audio.data @ visual.data.mT, "stabilised"),
    ]
    for normalise, similarity, expected, method in cases:
        config = SinkhornAlignerConfig.model_validate({"normalise": normalise, "similarity": similarity})
        build = aligner.build_sinkhorn(config, context())
        found = build(audio, visual)
        assert isinstance(build.transport, Sinkhorn)
        assert build.transport.method == method
        assert torch.allclose(found.alignment.similarity, expected, atol=1e-5)
        if normalise == "none":
            assert torch.equal(found.audio.data, audio.data)


def test_bfloat16_tokens_are_aligned_in_float32() -> None:
    audio, visual = tokens(2, 6, AUDIO), tokens(2, 4, VISUAL)
    build = aligner.build_sinkhorn(SinkhornAlignerConfig(loss=OTLossConfig()), context())
    with torch.autocast("cpu", torch.bfloat16):
        found = build(audio.with_data(audio.data.bfloat16()), visual.with_data(visual.data.bfloat16()))
    assert found.audio.data.dtype == torch.bfloat16
    parts = (found.alignment.similarity, found.alignment.plan, found.alignment.loss, found.alignment.marginal_error)
    assert {part.dtype for part in parts} == {torch.float32}
    assert found.alignment.marginal_error.max() < 1e-3
