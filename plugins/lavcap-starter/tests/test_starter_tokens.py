import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lavcap_starter.classes import Classes, load
from lavcap_starter.tokens import Mixing, Vocabulary, confident, evidence, mix, mixture

CLASSES = Classes(("animal", "dog", "dog barking", "rain", "silence"), (0.25, 1, 1, 1, 0), ((0, 1), (0, 2), (1, 2)))
TABLE = torch.eye(5)


@pytest.fixture
def vocabulary():
    return Vocabulary.of(CLASSES, TABLE, centre=False)


def test_a_class_keeps_what_narrower_ones_leave_unexplained(vocabulary):
    got = evidence(torch.tensor([0.9, 0.8, 0.5, 0.1, 1.0]), vocabulary)
    torch.testing.assert_close(got, torch.tensor([0.1 * 0.25, 0.3, 0.5, 0.1, 0.0]))


def test_a_surer_child_leaves_its_parent_nothing(vocabulary):
    assert evidence(torch.tensor([0.2, 0.1, 0.7, 0, 0]), vocabulary)[:2].tolist() == [0, 0]


def test_mix_is_the_weighted_mean_of_names(vocabulary):
    token = mix(torch.tensor([0.0, 0.0, 0.6, 0.3, 0.9]), vocabulary, Mixing(top=2, power=1))
    torch.testing.assert_close(token, torch.tensor([0, 0, 2 / 3, 1 / 3, 0]))


def test_power_favours_the_strongest():
    evidence = torch.tensor([0.6, 0.3, 0.1])
    torch.testing.assert_close(mixture(evidence, Mixing(top=2, power=2)), torch.tensor([0.8, 0.2, 0.0]))
    torch.testing.assert_close(mixture(evidence, Mixing(top=1)), torch.tensor([1.0, 0.0, 0.0]))


def test_centring_takes_off_the_mean_of_names_in_use():
    vocabulary = Vocabulary.of(CLASSES, torch.tensor([[1.0], [2], [3], [6], [1000]]))
    assert vocabulary.table[:4].flatten().tolist() == [-2, -1, 0, 3]


@settings(max_examples=50, deadline=None)
@given(arrays("float32", (2, 3, 521), elements=st.floats(0, 1, width=32)), st.integers(1, 8), st.floats(0.5, 4))
def test_weights_sum_to_one_and_leave_scenes_out(posteriors, top, power):
    vocabulary = Vocabulary.of(load("sound"), torch.zeros(521, 2))
    found = evidence(torch.from_numpy(posteriors), vocabulary)
    weights = mixture(found, Mixing(top=top, power=power))
    assert ((weights > 0).sum(-1) <= top).all()
    assert (weights[..., vocabulary.weights == 0] == 0).all()
    total = weights.sum(-1)
    assert torch.allclose(total[found.amax(-1) > 1e-6], torch.ones(()), atol=1e-5)
    assert torch.isfinite(weights).all()


def test_no_evidence_gives_a_zero_token_not_nan(vocabulary):
    assert mix(torch.zeros(1, 5), vocabulary, Mixing()).tolist() == [[0, 0, 0, 0, 0]]


def test_unsure_windows_are_masked_unless_all_are(vocabulary):
    sure, unsure = [0, 0, 0.9, 0, 0], [0, 0, 0.05, 0, 1.0]
    posteriors = torch.tensor([[sure, unsure, sure], [unsure, unsure, sure], [sure, sure, sure]])
    mask = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    kept = confident(posteriors, vocabulary, Mixing(), mask)
    assert kept.tolist() == [[True, False, True], [True, True, False], [False, False, False]]
