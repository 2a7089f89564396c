from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavcap_starter.classes import load
from lavcap_starter.simulate import (
    Chances,
    Event,
    Matched,
    Matcher,
    Painter,
    Scene,
    Simulator,
    Sources,
    confusion,
    pictures_of,
    related,
    split,
    stem,
)

SOUND, PICTURE = load("sound"), load("picture")


@cache
def made():
    rng = np.random.default_rng(0)
    alike = confusion(rng.normal(size=(521, 64))), confusion(rng.normal(size=(1000, 64)))
    return Sources(SOUND, PICTURE), Painter(SOUND, *alike)


@pytest.fixture
def sources():
    return made()[0]


@pytest.fixture
def painter():
    return made()[1]


@cache
def shown():
    return pictures_of(SOUND, PICTURE, made()[0])


def simulator(sources, painter, **chances):
    caption = "A dog barks followed by a man speaking"
    dog, speech = SOUND.names.index("dog barking"), SOUND.names.index("speech")
    matched = Matched(caption, split(caption), ((dog,), (speech,)))
    return Simulator([matched], sources, painter, shown(), 4, Chances(**chances))


def texts(caption):
    return [(clause.text, clause.step) for clause in split(caption)]


def test_then_orders_and_while_overlaps():
    assert texts("A dog barks followed by a man speaking") == [("A dog barks", 0), ("a man speaking", 1)]
    assert texts("A dog barks, then a cat meows.") == [("A dog barks", 0), ("a cat meows", 1)]
    assert texts("Rain falls as wind blows and a bell rings") == [
        ("Rain falls", 0),
        ("wind blows", 0),
        ("a bell rings", 0),
    ]
    assert texts("Motor noise is followed by a horn honking and a siren wailing") == [
        ("Motor noise", 0),
        ("a horn honking", 1),
        ("a siren wailing", 1),
    ]


def test_what_joins_no_clauses_is_left_alone():
    assert texts("A sanding machine runs") == [("A sanding machine runs", 0)]
    assert texts("") == []


def test_forms_say_what_fits_in():
    forms = {clause.text: clause.form for clause in split("A dog barks followed by a man speaking while rain falls")}
    assert forms == {"A dog barks": "finite", "a man speaking": "gerund", "rain falls": "finite"}


@given(
    st.text(alphabet="abc ,.", max_size=20), st.sampled_from([" and ", ", then ", " followed by ", " as "]), st.text()
)
def test_clauses_stand_where_they_say(left, joint, right):
    caption = left + joint + right
    for clause in split(caption):
        assert caption[clause.start : clause.end] == clause.text
        assert clause.text == clause.text.strip()


@given(st.text())
def test_any_text_can_be_split(text):
    clauses = split(text)
    assert [clause.step for clause in clauses] == sorted(clause.step for clause in clauses)
    assert all(a.end <= b.start for a, b in pairwise(clauses))


def test_stems_join_forms_of_a_word():
    assert stem("barks") == stem("barking") == stem("barked") == "bark"
    assert stem("drilling") == stem("drill")
    assert stem("tapping") == stem("taps")
    assert stem("talking") == stem("speaks") == "speech"


def test_a_named_class_is_found_by_its_words_alone():
    vectors = np.eye(521, dtype=np.float32)
    matcher = Matcher(SOUND, vectors)
    nothing = np.zeros(521, np.float32)
    assert SOUND.names[matcher("a dog is barking loudly", nothing)[0]] == "dog barking"
    assert SOUND.names[matcher("a sewing machine works", nothing)[0]] == "sewing machine"
    assert matcher("hello", nothing) == ()


def test_one_speaker_is_no_conversation():
    talk = SOUND.names.index("people talking")
    matcher = Matcher(SOUND, np.eye(521, dtype=np.float32))
    meant = np.eye(521, dtype=np.float32)[talk]
    assert [SOUND.names[i] for i in matcher("a man talks", meant)] == ["speech"]
    assert talk in matcher("people talk", meant)


def test_confusion_is_a_cosine():
    alike = confusion(np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32))
    assert np.allclose(np.diag(alike), 1, atol=1e-5)
    assert np.allclose(alike, alike.T, atol=1e-6)
    assert np.abs(alike).max() < 1.0001


def test_related_finds_kinds_and_no_sausages():
    dogs = [PICTURE.names[i] for i in related(PICTURE.names, "dog")]
    assert "pug dog" in dogs
    assert "hot dog" not in dogs
    assert len(dogs) > 100
    assert "catamaran boat" not in [PICTURE.names[i] for i in related(PICTURE.names, "cat")]


def test_every_source_can_be_heard_and_what_must_be_seen_can_be(sources):
    for family in sources.families.values():
        for source in family:
            assert source.sounds, source.finite
            assert source.finite
            assert source.gerund
            assert source.pictures or not source.unheard, source.finite
            assert all("  " not in text and not text.endswith(".") for text in source.finite + source.gerund)


def test_families_hold_what_captions_hardly_name(sources):
    said = " ".join(text for family in sources.families.values() for source in family for text in source.finite)
    for text in ("a cow moos", "a violin plays", "an accordion plays", "a rooster crows", "a tiger roars"):
        assert text in said


def test_painted_posteriors_are_loud_where_the_event_is(painter):
    dog = SOUND.names.index("dog barking")
    rng = np.random.default_rng(1)
    inside, outside = [], []
    for _ in range(30):
        heard = painter.sounds(Scene(20, (Event(dog, 5, 12, 3.0),)), rng)
        assert heard.shape == (20, 521)
        assert heard.dtype == np.float32
        assert ((heard >= 0) & (heard <= 1)).all()
        inside.append(heard[5:12, dog].max())
        outside.append(max(heard[:5, dog].max(), heard[12:, dog].max()))
    assert np.mean(inside) > 0.8
    assert np.mean(outside) < 0.05


def test_what_is_more_general_is_heard_too(painter):
    dog, parent = SOUND.names.index("dog barking"), SOUND.names.index("animal")
    rng = np.random.default_rng(2)
    heard = [painter.sounds(Scene(5, (Event(dog, 0, 5, 3.0),)), rng)[:, parent].max() for _ in range(30)]
    assert np.median(heard) > 0.5


def test_pictures_are_distributions(painter):
    rng = np.random.default_rng(3)
    seen = painter.seen(Scene(3, (), (7,)), 4, rng)
    assert seen.shape == (4, 1000)
    assert np.allclose(seen.sum(axis=1), 1, atol=1e-5)


def test_the_same_seed_draws_the_same_example(sources, painter):
    draw = simulator(sources, painter)
    one, other = draw(np.random.default_rng((4, 2))), draw(np.random.default_rng((4, 2)))
    assert one.caption == other.caption
    assert np.array_equal(one.sound, other.sound)


def test_a_swapped_clause_keeps_the_rest(sources, painter):
    draw = simulator(sources, painter, made=0.0, swap=1.0)
    captions = {draw(np.random.default_rng(seed)).caption for seed in range(40)}
    assert len(captions) > 30
    assert all(
        ("a man speaking" in text) != text.startswith("A dog barks followed by") or "man" in text for text in captions
    )
    assert all(" followed by " in text for text in captions)


def test_chances_are_kept(sources, painter):
    never = simulator(sources, painter, made=0.0, swap=0.0, blind=1.0)
    drawn = [never(np.random.default_rng(seed)) for seed in range(20)]
    assert all(example.picture is None and example.sound is not None for example in drawn)
    assert {example.caption for example in drawn} == {"A dog barks followed by a man speaking"}
    always = simulator(sources, painter, made=0.0, swap=0.0, blind=0.0, unrelated=0.0)
    assert all(always(np.random.default_rng(seed)).picture is not None for seed in range(20))


def test_a_source_that_no_sound_names_is_always_seen(sources, painter):
    draw = simulator(sources, painter, made=1.0, blind=1.0)
    unheard = {text for source in sources.families["animals"] if source.unheard for text in source.finite}
    found = 0
    for seed in range(300):
        example = draw(np.random.default_rng(seed))
        if example.caption[0].lower() + example.caption[1:] in unheard:
            found += 1
            assert example.picture is not None
    assert found > 5


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6))
def test_examples_are_well_formed(seed):
    example = simulator(*made())(np.random.default_rng(seed))
    assert example.caption
    assert example.caption[0].isupper() or not example.caption[0].isalpha()
    assert not example.caption.endswith(".")
    assert example.sound is not None or example.picture is not None
    if example.sound is not None:
        assert 1 <= len(example.sound) <= 20
        assert np.isfinite(example.sound).all()
