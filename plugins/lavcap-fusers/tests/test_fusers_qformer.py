"""The window-level Q-Former, against a transcription that takes one window at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lavcap_core.data import AUDIO, VISUAL, Tokens
from lavcap_core.errors import PortError
from lavcap_core.testing.samples import both, random_tokens, spoiled, valid
from lavcap_fusers.plugin import QFormerConfig
from lavcap_fusers.qformer import QFormer, windows_of

WIDTH = 12
LENGTHS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=3)


def made(**settings):
    torch.manual_seed(1)
    fuser = QFormer(WIDTH, QFormerConfig(**{"heads": 3, "window": 0.75} | settings)).eval()
    with torch.no_grad():
        for parameter in fuser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return fuser


def slow_attend(attention, queries, keys):
    """Queries [q, D] over keys [n, D], as the formula says."""
    heads, size = attention.num_heads, attention.embed_dim // attention.num_heads
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((queries, keys, keys), weights, biases, strict=True))
    parts = [slice(head * size, (head + 1) * size) for head in range(heads)]
    found = [(q[:, p] @ k[:, p].T / math.sqrt(size)).softmax(dim=1) @ v[:, p] for p in parts]
    return torch.cat(found, dim=1) @ attention.out_proj.weight.T + attention.out_proj.bias


def slow_window(fuser, tokens):
    """BERT layers over one window alone: queries [Q, D] from its tokens [n, D]."""
    queries = fuser.queries
    for layer in fuser.layers:
        queries = layer.norm1(queries + slow_attend(layer.self_attn, queries, queries))
        queries = layer.norm2(queries + slow_attend(layer.multihead_attn, queries, tokens))
        queries = layer.norm3(queries + layer.linear2(functional.gelu(layer.linear1(queries))))
    return queries


def slow_qformer(fuser, audio, visual, row):
    """Data, modality and times of one sample."""
    tokens = [
        (int(time // fuser.window), kind, value)
        for side in (audio, visual)
        for value, kind, time in zip(*(tensor for tensor in valid(side, row)), strict=True)
    ]
    found = []
    for window in sorted({index for index, _, _ in tokens}):
        inside = [(kind, value) for index, kind, value in tokens if index == window]
        kind = AUDIO if any(int(kind) == AUDIO for kind, _ in inside) else VISUAL
        for query in slow_window(fuser, torch.stack([value for _, value in inside])):
            found.append((query, kind, (window + 0.5) * fuser.window))
    return found


@settings(deadline=None, max_examples=30)
@given(lengths=LENGTHS, seed=st.integers(0, 99), queries=st.integers(1, 2), layers=st.integers(1, 2))
def test_qformer_is_the_literal_one(lengths, seed, queries, layers):
    fuser = made(queries=queries, layers=layers)
    audio = random_tokens(AUDIO, [pair[0] for pair in lengths], width=WIDTH, seed=seed)
    visual = random_tokens(VISUAL, [pair[1] for pair in lengths], width=WIDTH, seed=seed)
    with torch.no_grad():
        for parts in ((audio, visual), tuple(spoiled(t) if t.data.shape[1] else t for t in (audio, visual))):
            fused = fuser(*parts, None)
            for row in range(len(lengths)):
                expected = slow_qformer(fuser, audio, visual, row)
                data, modality, times = valid(fused, row)
                assert modality.tolist() == [kind for _, kind, _ in expected]
                assert times.tolist() == pytest.approx([time for _, _, time in expected])
                for value, (query, _, _) in zip(data, expected, strict=True):
                    torch.testing.assert_close(value, query, atol=1e-5, rtol=1e-4)


def test_ten_seconds_are_thirty_windows():
    """Native CED tokens of 0.16 s reach into each third of a second; the last of 62 ends at 9.92 s."""
    audio = Tokens.of(torch.randn(1, 62, WIDTH), AUDIO, times=(torch.arange(62) + 0.5) * 0.16)
    visual = Tokens.of(torch.randn(1, 20, WIDTH), VISUAL, times=(torch.arange(20) + 0.5) * 0.5)
    fused = made(window=1 / 3)(audio, visual, None)
    assert fused.data.shape == (1, 30, WIDTH)
    assert fused.mask.all()
    assert fused.times[0, -1].item() == pytest.approx(29.5 / 3)


def test_windows_without_tokens_are_masked():
    visual = Tokens.of(torch.randn(1, 2, WIDTH), VISUAL, times=torch.tensor([0.1, 2.0]))
    fused = made(window=0.5)(None, visual, None)
    assert fused.mask.tolist() == [[True, False, False, False, True]]
    assert not fused.data[0, 1:4].any()
    assert fused.modality[fused.mask].tolist() == [VISUAL, VISUAL]


def test_windows_exclude_their_end_and_start_at_nought():
    tokens = Tokens.of(torch.zeros(1, 4, 2), AUDIO, times=torch.tensor([-0.2, 0.0, 0.5, 1.0]))
    assert windows_of(tokens, 0.5)[0].int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_padding_makes_no_windows():
    mask = torch.tensor([[True, False]])
    tokens = Tokens.of(torch.zeros(1, 2, 2), AUDIO, mask, times=torch.tensor([0.1, torch.nan]))
    assert windows_of(tokens, 0.5).tolist() == [[[True, False]]]


def test_nothing_at_all():
    audio, visual = both((0, 0), (0, 0), width=WIDTH)
    fused = made()(audio, visual, None)
    assert not fused.mask.any()
    assert torch.isfinite(fused.data).all()


def test_windows_do_not_hear_each_other():
    fuser = made(window=0.5)
    data = torch.randn(1, 2, WIDTH)
    times = torch.tensor([0.1, 0.9])
    one = fuser(Tokens.of(data, AUDIO, times=times), None, None)
    data[0, 1] = 9.0
    other = fuser(Tokens.of(data, AUDIO, times=times), None, None)
    torch.testing.assert_close(one.data[0, 0], other.data[0, 0])
    assert not torch.allclose(one.data[0, 1], other.data[0, 1])


def test_the_order_of_tokens_does_not_matter():
    fuser = made()
    audio, visual = both((6,), (4,), width=WIDTH)
    turned = Tokens(*(tensor.flip(dims=(1,)) for tensor in (audio.data, audio.mask, audio.modality, audio.times)))
    one, other = fuser(audio, visual, None), fuser(turned, visual, None)
    torch.testing.assert_close(one.data, other.data, atol=1e-5, rtol=1e-4)


def test_without_times_it_says_so():
    audio, visual = both(width=WIDTH)
    with pytest.raises(PortError) as caught:
        made()(Tokens.of(audio.data, AUDIO), visual, None)
    assert caught.value.code == "P051"


def test_gradient_reaches_every_parameter_and_both_inputs():
    fuser = made(queries=2)
    audio, visual = both(width=WIDTH)
    leaves = [side.data.clone().requires_grad_() for side in (audio, visual)]
    fused = fuser(audio.with_data(leaves[0]), visual.with_data(leaves[1]), None)
    (fused.data[fused.mask] ** 3).sum().backward()
    for side, leaf in zip((audio, visual), leaves, strict=True):
        assert (leaf.grad[side.mask] != 0).any(dim=1).all()
        assert not leaf.grad[~side.mask].any()
    idle = [name for name, parameter in fuser.named_parameters() if not parameter.grad.any()]
    assert idle == []


def test_mixed_precision_gives_about_the_same():
    fuser = made()
    audio, visual = both((7, 0, 5, 0), (3, 5, 0, 0), width=WIDTH)
    with torch.no_grad():
        exact = fuser(audio, visual, None)
        with torch.autocast("cpu", torch.bfloat16):
            rough = fuser(audio, visual, None)
    assert torch.isfinite(rough.data).all()
    torch.testing.assert_close(rough.data.float(), exact.data, atol=0.1, rtol=0.05)


def test_layers_start_apart():
    layers = QFormer(WIDTH, QFormerConfig(heads=3)).layers
    assert len(layers) == 2
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)


def test_size():
    assert sum(p.numel() for p in QFormer(768, QFormerConfig()).parameters()) == 18_904_320
