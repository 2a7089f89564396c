import pytest

from lavcap_core.component import Component, Config, Port, RecipeSlot, Use, require_equal_width
from lavcap_core.errors import PortError
from lavcap_core.ports import wire


class Empty(Config):
    pass


def use(ports):
    return Use("fuser", "x", "d", Empty(), Component("fuser", "x", Empty, "m:f", "s", ports=ports))


def gives(**ports):
    return use(lambda config, inputs: ports)


SLOTS = {
    "ear": RecipeSlot("audio_encoder"),
    "eye": RecipeSlot("visual_encoder"),
    "aligner": RecipeSlot("aligner", takes=("audio", "visual"), needs_all=True),
    "fuser": RecipeSlot("fuser", takes=("audio", "visual")),
}
A, V = Port("audio", 4), Port("visual", 6)


def test_what_a_slot_gives_replaces_what_was_there():
    wide = {"audio": Port("audio", 8), "visual": Port("visual", 8)}
    seen = {}
    parts = {
        "ear": gives(audio=A),
        "eye": gives(visual=V),
        "aligner": gives(**wide),
        "fuser": use(lambda c, i: seen.update(i) or {}),
    }
    wiring = wire(SLOTS, parts)
    assert seen == wide
    assert [(w.name, w.source, w.target) for w in wiring.wires] == [
        ("audio", "ear", "aligner"),
        ("visual", "eye", "aligner"),
        ("audio", "aligner", "fuser"),
        ("visual", "aligner", "fuser"),
    ]


def test_slot_that_needs_all_is_skipped_without():
    wiring = wire(SLOTS, {"ear": gives(audio=A), "aligner": gives(), "fuser": gives()})
    assert wiring.skipped == {"aligner": "there are no visual tokens"}
    assert wiring.inputs["fuser"] == {"audio": A}


def test_first_problem_stops_the_wiring():
    def fails(config, inputs):
        raise PortError("P001", "no")

    wiring = wire(SLOTS, {"ear": use(fails), "fuser": use(fails)})
    assert [(slot, problem.code) for slot, problem in wiring.problems] == [("ear", "P001")]


def test_require_equal_width():
    assert require_equal_width({"audio": A, "visual": Port("visual", 4)}, "h") == 4
    assert require_equal_width({"visual": V}, "h") == 6
    with pytest.raises(PortError, match="audio_encoder gives 4, visual_encoder gives 6"):
        require_equal_width({"audio": A, "visual": V}, "h")
    # A width that only the weights tell may turn out equal; it is compared again when it is known.
    assert require_equal_width({"audio": A, "visual": Port("visual", "clip.width")}, "h")
