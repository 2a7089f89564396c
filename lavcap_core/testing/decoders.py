"""Checks of decoders: ``make`` builds one for fused tokens of `samples.WIDTH`."""

from __future__ import annotations

import torch
from torch import Tensor

from lavcap_core.component import Port
from lavcap_core.data import Tokens
from lavcap_core.interfaces import Generate
from lavcap_core.testing.samples import WIDTH, Built, Make, both, close, only, seeded, spoiled

__all__ = ["CHECKS"]

_CAPTIONS = ("A dog barks.", "Rain falls on a roof while a man speaks.", "Wind.")
_OPTIONS = Generate(beams=1, max_new_tokens=6)


def _decoder(make: Make) -> Built:
    with seeded():
        decoder = make({"tokens": Port("fused", WIDTH)})
    return decoder.eval() if isinstance(decoder, torch.nn.Module) else decoder


def _tokens() -> Tokens:
    return Tokens.concat(both())


def _loss(decoder: Built, tokens: Tokens, captions: tuple[str, ...] = _CAPTIONS) -> Tensor:
    loss: Tensor = decoder.loss(tokens, list(captions))
    return loss


def check_loss_shape(make: Make) -> None:
    """The loss is [B], float32, finite and positive."""
    loss = _loss(_decoder(make), _tokens())
    assert loss.shape == (3,), f"loss is {tuple(loss.shape)}, not one number a sample"
    assert loss.dtype == torch.float32, f"loss is {loss.dtype}"
    assert bool(torch.isfinite(loss).all()), "loss isn't finite"
    assert bool((loss > 0).all()), "loss isn't positive"


def check_caption_tokens(make: Make) -> None:
    """Counts of caption tokens are [B] int64, positive, and larger for a longer caption."""
    counts = _decoder(make).caption_tokens(list(_CAPTIONS))
    assert counts.shape == (3,), f"counts are {tuple(counts.shape)}"
    assert counts.dtype == torch.int64, f"counts are {counts.dtype}"
    assert bool((counts > 0).all()), "a caption of no tokens"
    assert int(counts[1]) > int(counts[2]), "a long caption has no more tokens than a short one"


def check_padding_invariance(make: Make) -> None:
    """More padding, whatever is in it, and other samples in the batch don't change a sample's loss."""
    decoder = _decoder(make)
    tokens = _tokens()
    with torch.no_grad():
        loss = _loss(decoder, tokens)
        close(_loss(decoder, spoiled(tokens)), loss, "loss with more padding", 1e-3)
        for row, caption in enumerate(_CAPTIONS):
            single = _loss(decoder, only(tokens, row), (caption,))
            close(single, loss[row : row + 1], "loss alone instead of in a batch", 1e-3)


def check_missing_modality(make: Make) -> None:
    """A sample without any token has a finite loss and a caption, and leaves the others unmoved."""
    decoder = _decoder(make)
    tokens = _tokens()
    keep = torch.tensor([True, False, True])[:, None]
    lacking = Tokens(tokens.data, tokens.mask & keep, tokens.modality, tokens.times)
    with torch.no_grad():
        loss, complete = _loss(decoder, lacking), _loss(decoder, tokens)
        empty = _loss(decoder, only(lacking, 1), _CAPTIONS[1:2])
    assert bool(torch.isfinite(loss).all()), "loss isn't finite for a sample without tokens"
    close(empty, loss[1:2], "loss of no tokens, masked or empty", 1e-3)
    close(loss[[0, 2]], complete[[0, 2]], "loss beside a sample without tokens", 1e-3)
    assert len(decoder.generate(lacking, _OPTIONS)) == 3, "not a caption for each sample"


def check_listens(make: Make) -> None:
    """The loss depends on the tokens."""
    decoder = _decoder(make)
    tokens = _tokens()
    with torch.no_grad():
        first, second = _loss(decoder, tokens), _loss(decoder, tokens.with_data(5 * tokens.data.flip(dims=(2,))))
    assert not torch.allclose(first, second, atol=1e-6), "the tokens don't change the loss"


def check_generates_text(make: Make) -> None:
    """Captions are a list of B strings."""
    captions = _decoder(make).generate(_tokens(), _OPTIONS)
    assert isinstance(captions, list), f"captions are a {type(captions).__name__}"
    assert len(captions) == 3, f"{len(captions)} captions for 3 samples"
    assert all(isinstance(caption, str) for caption in captions), "a caption isn't text"


def check_deterministic_in_eval(make: Make) -> None:
    """Greedy captions and the loss are the same twice."""
    decoder = _decoder(make)
    first, second = (decoder.generate(_tokens(), _OPTIONS) for _ in range(2))
    assert first == second, "two calls write different captions"
    with torch.no_grad():
        assert torch.equal(_loss(decoder, _tokens()), _loss(decoder, _tokens())), "two calls give different losses"


def check_no_inputs_mutated(make: Make) -> None:
    """Tokens are not written to, by the loss or while generating."""
    decoder, tokens = _decoder(make), _tokens()
    data, mask = tokens.data.clone(), tokens.mask.clone()
    _loss(decoder, tokens)
    decoder.generate(tokens, _OPTIONS)
    assert torch.equal(data, tokens.data), "the tokens were written to"
    assert torch.equal(mask, tokens.mask), "the mask was written to"


def check_gradients(make: Make) -> None:
    """Gradients of the loss reach the tokens, are finite, and spare the padding."""
    tokens = spoiled(_tokens())
    leaf = tokens.data.clone().requires_grad_()
    _loss(_decoder(make), tokens.with_data(leaf)).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None, "no gradient reaches the tokens"
    assert bool(torch.isfinite(leaf.grad).all()), "a gradient isn't finite"
    assert bool(leaf.grad[tokens.mask].any()), "no gradient reaches the tokens"
    assert not bool(leaf.grad[~tokens.mask].any()), "a gradient reaches the padding"


CHECKS = (
    check_loss_shape,
    check_caption_tokens,
    check_padding_invariance,
    check_missing_modality,
    check_listens,
    check_generates_text,
    check_deterministic_in_eval,
    check_no_inputs_mutated,
    check_gradients,
)
