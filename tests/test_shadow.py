"""What is known on the meta device: values of what follows from sizes, and no others."""

import pytest
import torch

from lavcap_core.errors import BuildError
from lavcap_core.run.shadow import LARGEST, Shadow


@pytest.fixture
def shadow():
    with Shadow() as mode:
        yield mode


def unknown(*shape, dtype=torch.float32):
    """A tensor such as a network computes."""
    return torch.empty(*shape, device="meta").to(dtype)


@pytest.mark.parametrize("lengths", [[3, 5], [0, 1], [4, 4]])
def test_masks_that_follow_from_lengths_have_their_values(shadow, lengths):
    mask = torch.arange(5, device="meta") < torch.tensor(lengths).to("meta")[:, None]
    assert mask.is_meta
    assert mask.sum(dim=1).tolist() == lengths
    assert bool(mask.all()) is (lengths == [5, 5])
    assert unknown(2, 5, 7)[mask].shape == (sum(lengths), 7)
    assert mask.nonzero().cpu()[:, 0].tolist() == [0] * lengths[0] + [1] * lengths[1]
    assert [int(row.sum()) for row in mask] == lengths


def test_views_and_changes_in_place_are_those_of_real_tensors(shadow):
    values = torch.zeros(4, device="meta")
    values[1:3] = 5
    turned = values.view(2, 2).T
    turned.add_(1)
    assert values.tolist() == [1, 6, 6, 1]
    assert turned.tolist() == [[1, 6], [6, 1]]
    assert values[2:].cumsum(0).tolist() == [6, 7]


def test_masks_of_what_is_not_known_are_all_true(shadow):
    new = torch.zeros(8, dtype=torch.bool, device="meta")
    assert new.tolist() == [False] * 8
    new[1:] = (unknown(8, 3)[1:] != unknown(8, 3)[:-1]).any(dim=1)
    assert new.tolist() == [True] * 8
    assert unknown(8, 3)[new].shape == (8, 3)
    target = torch.zeros(8, 3, device="meta")
    target[new] = unknown(8, 3)
    with pytest.raises(BuildError, match="asks for values"):
        target.tolist()


@pytest.mark.parametrize(
    "read", [lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: x.cpu(), lambda x: int(x.argmax())]
)
def test_other_values_are_an_error(shadow, read):
    with pytest.raises(BuildError) as caught:
        read(unknown(3))
    assert caught.value.code == "B052"


def test_what_is_drawn_or_empty_is_not_known(shadow):
    for tensor in (
        torch.rand(3, device="meta"),
        torch.empty(3, device="meta"),
        torch.zeros(3, device="meta").normal_(),
    ):
        with pytest.raises(BuildError):
            tensor.tolist()


def test_large_tensors_are_not_kept(shadow):
    assert int(torch.arange(LARGEST, device="meta")[-1]) == LARGEST - 1
    with pytest.raises(BuildError):
        torch.arange(LARGEST + 1, device="meta").tolist()


def test_without_meta_tensors_nothing_changes(shadow):
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(3, 3, generator=generator)
    assert (data @ data).sum().item() == pytest.approx(float((data.numpy() @ data.numpy()).sum()))


def test_gradients_flow_on_the_meta_device(shadow):
    weight = torch.empty(4, 4, device="meta", requires_grad=True)
    (unknown(3, 4) @ weight).relu().sum().backward()
    assert weight.grad.is_meta
    assert weight.grad.shape == (4, 4)
