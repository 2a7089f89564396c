import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lavcap_ced.model import Ced, Geometry
from lavcap_ced.plugin import WIDTHS
from lavcap_core.component import Tune
from lavcap_core.tuning import apply_tune

SMALL = Geometry(width=32, heads=2, depth=2)


def network(geometry=SMALL):
    """Random weights, with embeddings and statistics far enough from 0 and 1 that leaving one out shows."""
    model = Ced(geometry).randomise(3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        model.init_bn.running_mean.copy_(torch.linspace(-1, 1, 64))
        model.init_bn.running_var.copy_(torch.linspace(0.5, 2, 64))
    return model.eval()


def features(*shape, seed=0):
    return torch.randn(*shape, 64, generator=torch.Generator().manual_seed(seed))


def full(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


def reference(model, x):
    """The network written once more, with timm's fused attention and an explicit loop over patches."""
    bn = model.init_bn
    x = (x - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias
    kernel = model.patch_embed.proj.weight[:, 0]
    tokens = []
    for f in range(4):
        for t in range(x.shape[1] // 16):
            patch = x[:, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16]  # [B, time, mel]
            value = torch.einsum("btm,dmt->bd", patch, kernel) + model.patch_embed.proj.bias
            tokens.append(value + model.time_pos_embed[0, :, 0, t] + model.freq_pos_embed[0, :, f, 0])
    y = torch.stack(tokens, dim=1)
    for block in model.blocks:
        a, width = block.attn, y.shape[2]
        n = F.layer_norm(y, (width,), block.norm1.weight, block.norm1.bias, 1e-6)
        weight = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight])
        bias = torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias])
        qkv = F.linear(n, weight, bias).reshape(*y.shape[:2], 3, a.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] @ qkv[1].transpose(-2, -1)) / qkv.shape[-1] ** 0.5
        y = y + a.proj((scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(y.shape))
        n = F.layer_norm(y, (width,), block.norm2.weight, block.norm2.bias, 1e-6)
        hidden = block.mlp.fc1(n)
        y = y + block.mlp.fc2(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))
    return F.layer_norm(y, (width,), model.norm.weight, model.norm.bias, 1e-6)


def test_agrees_with_the_architecture_written_out():
    model, x = network(), features(2, 70)
    with torch.no_grad():
        tokens, valid = model(x, full(x))
        torch.testing.assert_close(tokens, reference(model, x), atol=1e-4, rtol=1e-4)
    assert valid.shape == (2, 4)


@pytest.mark.parametrize(("frames", "patches"), [(1001, 62), (1012, 63), (1024, 64), (16, 1), (31, 1)])
def test_token_counts(frames, patches):
    x = features(1, frames)
    tokens, valid = network()(x, full(x))
    assert tokens.shape == (1, 4 * patches, 32)
    assert valid.shape == (1, patches)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(16, 120), min_size=2, max_size=4), seed=st.integers(0, 9))
def test_padding_changes_nothing(lengths, seed):
    model = network()
    longest = max(lengths)
    x = features(len(lengths), longest, seed=seed)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together, valid = model(x.masked_fill(~mask[:, :, None], 1e4), mask)
        for row, length in enumerate(lengths):
            alone, _ = model(x[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
            columns = length // 16
            assert valid[row].tolist() == [True] * columns + [False] * (longest // 16 - columns)
            got = together[row].unflatten(0, (4, -1))
            torch.testing.assert_close(got[:, :columns].flatten(0, 1), alone[0], atol=1e-5, rtol=1e-4)
            assert (got[:, columns:] == 0).all()


def test_a_patch_is_real_only_if_all_its_frames_are():
    x, mask = features(1, 48), torch.arange(48)[None] < 47
    assert network()(x, mask)[1].tolist() == [[True, True, False]]


def test_a_sample_without_frames_is_zero_and_its_gradients_finite():
    model, x = network(), features(2, 32)
    mask = torch.tensor([[True] * 32, [False] * 32])
    tokens, valid = model(x, mask)
    tokens.sum().backward()
    assert (tokens[1] == 0).all()
    assert not valid[1].any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_time_positions_are_sliced_and_interpolated():
    model = network()
    stored = model.time_pos_embed
    assert torch.equal(model._time_positions(20), stored[..., :20])
    assert torch.equal(model._time_positions(63), stored)
    # Bilinear without aligned corners: column j of 64 lies at (j + 0.5) 63 / 64 - 0.5 of the 63.
    places = ((torch.arange(64) + 0.5) * 63 / 64 - 0.5).clamp(0, 62)
    low = places.long()
    share = (places - low)[None, None, None]
    expected = stored[..., low] * (1 - share) + stored[..., (low + 1).clamp(max=62)] * share
    torch.testing.assert_close(model._time_positions(64), expected, atol=1e-5, rtol=1e-4)


def test_batch_norm_keeps_its_statistics_in_eval_mode():
    model, x = network(), features(2, 32)
    before = model.init_bn.running_mean.clone()
    model(x, full(x))
    assert torch.equal(model.init_bn.running_mean, before)


def test_batch_norm_trains_on_real_frames_only():
    model = network().train()
    x, mask = features(2, 40) * 3 + 1, torch.arange(40) < torch.tensor([[40], [20]])
    real = torch.cat([x[0], x[1, :20]])
    mean, variance = model.init_bn.running_mean.clone(), model.init_bn.running_var.clone()
    normed = model.init_bn(x.masked_fill(~mask[:, :, None], 1e4), mask)
    torch.testing.assert_close(model.init_bn.running_mean, 0.99 * mean + 0.01 * real.mean(0))
    torch.testing.assert_close(model.init_bn.running_var, 0.99 * variance + 0.01 * real.var(0))
    expected = (real - real.mean(0)) / (real.var(0, correction=0) + 1e-5).sqrt()
    expected = expected * model.init_bn.weight + model.init_bn.bias
    torch.testing.assert_close(normed[mask], expected, atol=1e-4, rtol=1e-4)
    assert (normed[~mask] == 0).all()


def test_batch_norm_stands_a_batch_without_frames():
    model, x = network().train(), features(1, 16)
    model(x, ~full(x))
    assert model.init_bn.num_batches_tracked == 0


def test_half_precision_normalises_in_float32():
    model, x = network(), features(1, 32) * 30 - 40
    with torch.no_grad():
        exact, _ = model(x, full(x))
        half, _ = model.bfloat16()(x, full(x))
    assert half.dtype == torch.bfloat16
    assert F.cosine_similarity(half.float(), exact, dim=2).min() > 0.99


@pytest.mark.parametrize(("size", "millions"), [("tiny", 5.5), ("mini", 9.6), ("small", 22), ("base", 86)])
def test_sizes_have_the_published_numbers_of_parameters(size, millions):
    with torch.device("meta"):
        model = Ced(Geometry(WIDTHS[size], WIDTHS[size] // 64))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.04)  # the published figures count the head


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    one, two, other = (Ced(SMALL).randomise(seed) for seed in (7, 7, 8))
    first = one.patch_embed.proj.weight
    assert torch.equal(first, two.patch_embed.proj.weight)
    assert not torch.equal(first, other.patch_embed.proj.weight)
    assert (one.norm.weight == 1).all()
    assert (one.blocks[0].attn.q_proj.bias == 0).all()
    assert state.numel()


def test_epsilons_and_momentum():
    model = network()
    assert {part.eps for part in model.modules() if isinstance(part, torch.nn.LayerNorm)} == {1e-6}
    assert (model.init_bn.eps, model.init_bn.momentum) == (1e-5, 0.01)


@pytest.mark.parametrize("autocast", [False, True])
def test_lora_in_mixed_precision(autocast):
    tune = Tune(mode="lora", rank=2)
    model = apply_tune(network() if autocast else network().bfloat16(), tune, ("q_proj", "v_proj"))
    x = features(2, 48)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        tokens, _ = model(x, full(x))
        tokens.float().square().sum().backward()
    gradients = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
