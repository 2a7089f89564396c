import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from lavcap_core.errors import DataError
from lavcap_starter.classes import load
from lavcap_starter.encoding import Speaker
from lavcap_starter.simulate import Matched, split
from lavcap_starter.simulated import Simulated, read_captions
from lavcap_starter.tokens import Mixing, Vocabulary

SOUND, PICTURE = load("sound"), load("picture")


class Elsewhere(torch.Tensor):
    """Behaves as if on another device: mixes with nothing of the CPU, and has no numpy until `cpu` brought it there."""

    def __deepcopy__(self, memo):  # torch's own asks for a wrapper
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach().clone().as_subclass(Elsewhere).requires_grad_(self.requires_grad)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert a tensor of another device to numpy")
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        if any(type(tensor) is torch.Tensor and tensor.dim() for tensor in tensors):
            raise RuntimeError("Expected all tensors to be on the same device")
        found = super().__torch_function__(func, types, args, kwargs)
        return found.as_subclass(torch.Tensor) if func is torch.Tensor.cpu else found


def encoder(network, classes, seed):
    table = torch.randn(len(classes.names), 8, generator=torch.Generator().manual_seed(seed))
    return SimpleNamespace(network=network, frames=4, speaker=Speaker(Vocabulary.of(classes, table), Mixing()))


@pytest.fixture
def recipe():
    torch.manual_seed(0)
    heard = SimpleNamespace(classifier=nn.Linear(16, len(SOUND.names)).requires_grad_(False))
    seen = SimpleNamespace(_fc=nn.Linear(16, len(PICTURE.names)).requires_grad_(False))
    return SimpleNamespace(audio_encoder=encoder(heard, SOUND, 1), visual_encoder=encoder(seen, PICTURE, 2))


def moved(recipe, trained=False):
    """A copy of a recipe, elsewhere."""
    recipe = copy.deepcopy(recipe)
    for part, layer in (
        (recipe.audio_encoder, recipe.audio_encoder.network.classifier),
        (recipe.visual_encoder, recipe.visual_encoder.network._fc),
    ):
        weight = layer.weight.detach().as_subclass(Elsewhere)
        del layer.weight
        layer.weight = weight.requires_grad_(trained)
        for name, buffer in part.speaker.named_buffers():
            setattr(part.speaker, name, buffer.as_subclass(Elsewhere))
    return recipe


def dataset():
    caption = "A dog barks followed by a man speaking"
    sounds = ((SOUND.names.index("dog barking"),), (SOUND.names.index("speech"),))
    return Simulated([Matched(caption, split(caption), sounds)], 4)


@pytest.mark.parametrize("trained", [False, True])
def test_clips_are_the_same_wherever_the_recipe_is(recipe, trained):
    here, there, other = dataset(), dataset(), moved(recipe, trained)
    for index in range(4):
        one, two = here.read(index, recipe, (5, index)), there.read(index, other, (5, index))
        assert one.caption == two.caption
        for mine, theirs in ((one.audio, two.audio), (one.visual, two.visual)):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert type(theirs.data) is torch.Tensor
                assert torch.equal(mine.data, theirs.data)
    assert type(other.audio_encoder.speaker.table) is Elsewhere  # the recipe's own stays where it was


def test_a_row_without_its_caption_is_named(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text('id,caption\n1,"a dog\nbarks"\n2\n3,rain\n')
    with pytest.raises(DataError, match=r"D096 a row has no field for 'caption'") as caught:
        read_captions(str(file))
    assert str(caught.value).startswith(f"{file}:4")
