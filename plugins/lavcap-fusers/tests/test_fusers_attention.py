"""Cross attention and the joint block, against the same sums written out token by token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lavcap_core.data import AUDIO, VISUAL, Tokens
from lavcap_core.testing.samples import both, random_tokens, spoiled, valid, without
from lavcap_fusers.attention import CrossAttention, Joint, ignored
from lavcap_fusers.plugin import CrossAttentionConfig, JointConfig

WIDTH = 12
LENGTHS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=3)


def slow_attention(attention, query, keys):
    """One query [D] over keys [n, D]: softmax(q k / sqrt(d)) v per head, then the output projection."""
    heads, size = attention.num_heads, attention.embed_dim // attention.num_heads
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q = weights[0] @ query + biases[0]
    ks = [weights[1] @ key + biases[1] for key in keys]
    vs = [weights[2] @ key + biases[2] for key in keys]
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = torch.stack([q[part] @ k[part] / math.sqrt(size) for k in ks])
        share = scores.exp() / scores.exp().sum()
        out.append(sum(p * v[part] for p, v in zip(share, vs, strict=True)))
    return attention.out_proj.weight @ torch.cat(out) + attention.out_proj.bias


def made(kind, **settings):
    torch.manual_seed(1)
    config = CrossAttentionConfig if kind is CrossAttention else JointConfig
    fuser = kind(WIDTH, config(**{"heads": 3} | settings)).eval()
    with torch.no_grad():
        for parameter in fuser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return fuser


def batch(lengths, seed=0):
    return (
        random_tokens(AUDIO, [pair[0] for pair in lengths], width=WIDTH, seed=seed),
        random_tokens(VISUAL, [pair[1] for pair in lengths], width=WIDTH, seed=seed),
    )


def slow_cross(fuser, audio, visual, row):
    sounds, pictures = valid(audio, row)[0], valid(visual, row)[0]
    if not len(sounds):
        return pictures
    if not len(pictures):
        return sounds
    keys = fuser.norm_visual(pictures)
    return torch.stack([sound + slow_attention(fuser.attention, fuser.norm_audio(sound), keys) for sound in sounds])


@settings(deadline=None, max_examples=40)
@given(lengths=LENGTHS, seed=st.integers(0, 99), norm=st.sampled_from(["none", "pre"]))
def test_cross_attention_is_the_literal_one(lengths, seed, norm):
    fuser = made(CrossAttention, norm=norm)
    audio, visual = batch(lengths, seed)
    with torch.no_grad():
        for parts in ((audio, visual), tuple(spoiled(t) if t.data.shape[1] else t for t in (audio, visual))):
            fused = fuser(*parts, None)
            for row in range(len(lengths)):
                torch.testing.assert_close(
                    valid(fused, row)[0], slow_cross(fuser, audio, visual, row), atol=1e-5, rtol=1e-4
                )


def slow_joint(fuser, audio, visual, row):
    block = fuser.block
    tokens = torch.cat([valid(audio, row)[0], valid(visual, row)[0]])
    if not len(tokens):
        return tokens
    normed = block.norm1(tokens)
    tokens = tokens + torch.stack([slow_attention(block.self_attn, token, normed) for token in normed])
    return tokens + block.linear2(functional.gelu(block.linear1(block.norm2(tokens))))


@settings(deadline=None, max_examples=40)
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_joint_is_the_literal_one(lengths, seed):
    fuser = made(Joint)
    audio, visual = batch(lengths, seed)
    for parts in ((audio, visual), tuple(spoiled(t) if t.data.shape[1] else t for t in (audio, visual))):
        for grad in (False, True):  # torch takes another path where no gradient is wanted
            with torch.set_grad_enabled(grad):
                fused = fuser(*parts, None)
            for row in range(len(lengths)):
                torch.testing.assert_close(
                    valid(fused, row)[0], slow_joint(fuser, audio, visual, row), atol=1e-5, rtol=1e-4
                )


def test_cross_attention_drops_visual_tokens():
    audio, visual = both(width=WIDTH)
    fused = made(CrossAttention)(audio, visual, None)
    assert fused.data.shape == (3, 7, WIDTH)
    assert torch.equal(fused.times, audio.times)
    assert (fused.modality == AUDIO).all()


def test_cross_attention_of_a_sample_with_one_modality_is_the_identity():
    fuser = made(CrossAttention)
    audio, visual = both(width=WIDTH)
    unseen, unheard = fuser(audio, without(visual, 1), None), fuser(without(audio, 1), visual, None)
    assert torch.equal(valid(unseen, 1)[0], valid(audio, 1)[0])
    assert torch.equal(valid(unheard, 1)[0], valid(visual, 1)[0])
    assert valid(unheard, 1)[1].tolist() == [VISUAL] * 5


@pytest.mark.parametrize("kind", [CrossAttention, Joint])
def test_the_order_of_visual_tokens_does_not_matter(kind):
    """Neither has positions: the visual tokens in another order give the same audio tokens."""
    fuser = made(kind)
    audio, visual = both((4, 4), (3, 3), width=WIDTH)
    turned = Tokens(*(tensor[:, [2, 0, 1]] for tensor in (visual.data, visual.mask, visual.modality, visual.times)))
    one, other = fuser(audio, visual, None), fuser(audio, turned, None)
    torch.testing.assert_close(one.data[:, :4], other.data[:, :4], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [CrossAttention, Joint])
def test_not_even_nan_in_the_padding_gets_out(kind):
    fuser = made(kind)
    audio, visual = (
        side.with_data(side.data.masked_fill(~side.mask[:, :, None], torch.nan)) for side in both(width=WIDTH)
    )
    assert torch.isfinite(fuser(audio, visual, None).data).all()


@pytest.mark.parametrize("kind", [CrossAttention, Joint])
def test_gradient_reaches_every_parameter_and_both_inputs(kind):
    fuser = made(kind).train()
    audio, visual = both(width=WIDTH)
    leaves = [side.data.clone().requires_grad_() for side in (audio, visual)]
    fused = fuser(audio.with_data(leaves[0]), visual.with_data(leaves[1]), None)
    (fused.data[fused.mask] ** 2).sum().backward()
    for side, leaf in zip((audio, visual), leaves, strict=True):
        assert (leaf.grad[side.mask] != 0).any()
        assert not leaf.grad[~side.mask].any()
    idle = [name for name, parameter in fuser.named_parameters() if not parameter.grad.any()]
    assert idle == []


@pytest.mark.parametrize("kind", [CrossAttention, Joint])
def test_mixed_precision_gives_about_the_same(kind):
    fuser = made(kind)
    audio, visual = both((7, 0, 5, 0), (3, 5, 0, 0), width=WIDTH)
    with torch.no_grad():
        exact = fuser(audio, visual, None)
        with torch.autocast("cpu", torch.bfloat16):
            rough = fuser(audio, visual, None)
    assert torch.isfinite(rough.data).all()
    torch.testing.assert_close(rough.data.float(), exact.data, atol=0.1, rtol=0.05)


def test_sizes_of_the_paper():
    assert sum(p.numel() for p in CrossAttention(768, CrossAttentionConfig()).parameters()) == 4 * (768 * 768 + 768)
    assert sum(p.numel() for p in Joint(768, JointConfig()).parameters()) == 7_087_872


def test_ignored_leaves_an_empty_row_open():
    mask = torch.tensor([[True, False], [False, False]])
    assert ignored(mask).tolist() == [[False, True], [False, False]]
