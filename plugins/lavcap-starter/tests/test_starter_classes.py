import pytest

from lavcap_starter.classes import GENERIC, load


@pytest.mark.parametrize(("kind", "count"), [("sound", 521), ("picture", 1000)])
def test_one_plain_name_for_every_output(kind, count):
    classes = load(kind)
    assert len(classes.names) == len(classes.weights) == count
    assert all(name == name.strip().lower() and 0 < len(name.split()) <= 4 for name in classes.names)
    assert not any(mark in name for name in classes.names for mark in "~,")


def test_indentation_gives_every_ancestor():
    links = set(load("sound").links)
    assert {(67, 69), (67, 70), (68, 70), (69, 70)} <= links, "animal > pet > dog > dog barking"
    assert (69, 76) not in links, "a cat is no dog"
    assert (132, 186) in links, "music > violin"
    assert all(above < below for above, below in links)


def test_scenes_are_left_out_and_broad_words_count_less():
    weights = load("sound").weights
    assert [weights[index] for index in (494, 500, 501, 502, 503, 504)] == [0] * 6
    assert [weights[index] for index in (67, 132, 294)] == [GENERIC] * 3
    assert weights[70] == weights[0] == 1
    assert set(load("picture").weights) == {1}


def test_names_keep_the_order_of_the_networks():
    assert [load("sound").names[index] for index in (0, 78, 204, 316)] == [
        "speech",
        "cat meowing",
        "accordion",
        "emergency vehicle",
    ]
    assert [load("picture").names[index] for index in (7, 281, 889, 999)] == [
        "rooster",
        "tabby cat",
        "violin",
        "toilet paper",
    ]
