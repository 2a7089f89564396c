"""Batches padded to few lengths, for devices that compile a graph per shape: other shapes, the same numbers."""

from collections.abc import Callable

import pytest
import torch

from lavcap_core.data import AUDIO, VISUAL, Tokens, padding
from lavcap_core.interfaces import Generate
from lavcap_llama.decoder import LlamaDecoder

CAPTIONS = ["a dog barks", "rain", "a man speaks over music"]


def tokens(counts: tuple[int, ...], length: int) -> Tokens:
    data = torch.randn(len(counts), length, 6, generator=torch.Generator().manual_seed(sum(counts)))
    mask = torch.arange(length) < torch.tensor(counts)[:, None]
    kinds = torch.where(torch.arange(length) % 2 == 0, AUDIO, VISUAL).to(torch.int8).expand(len(counts), length)
    return Tokens(data.masked_fill(~mask[:, :, None], torch.nan), mask, kinds)


def eights(length: int) -> int:
    return -(-length // 8) * 8


def seen(decoder: LlamaDecoder, inputs: Tokens, captions: list[str]) -> tuple[list[torch.Size], torch.Tensor]:
    shapes: list[torch.Size] = []
    model = decoder.model.model
    hook = model.register_forward_pre_hook(
        lambda _, args, given: shapes.append(given["inputs_embeds"].shape), with_kwargs=True
    )
    head = decoder.model.lm_head.register_forward_hook(lambda _, args, out: shapes.append(out.shape))
    loss = decoder.loss(inputs, captions)
    hook.remove()
    head.remove()
    return shapes, loss


@pytest.mark.parametrize("counts", [(3, 1, 5), (0, 2, 0), (0, 0, 0), (8, 8, 8)])
def test_loss_and_gradients_are_the_same(make: Callable[..., LlamaDecoder], counts: tuple[int, ...]) -> None:
    found = []
    for rule in (None, eights):
        decoder = make(modality_embedding=True)
        inputs = tokens(counts, 8)
        inputs = inputs.with_data(inputs.data.clone().requires_grad_())
        if rule is None:
            loss = decoder.loss(inputs, CAPTIONS)
        else:
            with padding(rule):
                loss = decoder.loss(inputs, CAPTIONS)
        loss.sum().backward()
        trained = [parameter.grad for parameter in decoder.projector.parameters()]
        found.append((loss.detach(), [inputs.data.grad, *trained]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)


def test_batches_of_like_size_have_one_shape(make: Callable[..., LlamaDecoder]) -> None:
    decoder = make()
    with padding(lambda length: -(-length // 64) * 64):
        first, _ = seen(decoder, tokens((3, 1, 5), 8), CAPTIONS)
        second, _ = seen(decoder, tokens((2, 4, 4), 8), ["a dog bark", "train", "a man speaks over musi"])
    assert first == second
    assert all(shape[1] % 64 == 0 for shape in first)
    assert seen(decoder, tokens((3, 1, 5), 8), CAPTIONS)[0] != first


def test_captions_are_the_same(make: Callable[..., LlamaDecoder]) -> None:
    decoder, inputs = make(), tokens((3, 1, 5), 8)
    plain = decoder.generate(inputs, Generate(beams=2, max_new_tokens=8))
    with padding(eights):
        assert decoder.generate(inputs, Generate(beams=2, max_new_tokens=8)) == plain
