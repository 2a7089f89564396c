import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavcap_core.errors import SpecError
from lavcap_core.yaml import MAX_BYTES, parse, parse_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("5e-6", 5e-6),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2001-01-01", "2001-01-01"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = parse_scalar(text)
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False))
def test_floats_survive(value):
    assert float(parse_scalar(repr(value).replace("inf", ".inf"))) == value


@given(st.integers())
def test_integers_survive(value):
    assert parse_scalar(str(value)) == value


def test_every_node_knows_its_place():
    root, problems = parse("a: 1\nb:\n  - x\n  - {c: 2.5}\n", "f.yaml")
    assert not problems
    assert root.plain() == {"a": 1, "b": ("x", {"c": 2.5})}
    inner = root.value["b"].value[1].value["c"]
    assert (inner.line, inner.column, inner.key) == (4, 9, (4, 6))
    assert root.value["b"].value[0].line == 3


def test_quoted_scalars_are_texts():
    root, _ = parse("a: '1'\nb: \"true\"\n")
    assert root.plain() == {"a": "1", "b": "true"}


def test_duplicate_key_is_a_problem_and_the_rest_is_read():
    root, problems = parse("a: 1\nb: 2\na: 3\n", "f.yaml")
    assert root.plain() == {"a": 1, "b": 2}
    assert [str(p).splitlines()[0] for p in problems] == ["f.yaml:3:1: Y002 the key 'a' is already on line 1"]


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("a: [1, 2", "Y001", None),
        ("a:\n\t- 1", "Y001", (2, 1)),
        ("{[1, 2]: 3}", "Y001", (1, 2)),
        ("[" * 40 + "]" * 40, "Y003", (1, 34)),
        ("a: 1\n---\nb: 2", "Y004", (2, 1)),
        ("a: &x 1\nb: *x", "Y005", (1, 4)),
        ("a: *x", "Y005", (1, 4)),
        ("a: !!python/name:os.system", "Y006", (1, 4)),
        ("a: !!str 1", "Y006", (1, 4)),
        ("x" * (MAX_BYTES + 1), "Y003", None),
        ("[" + "1," * 30000 + "]", "Y003", None),
        ("a: \x00", "Y001", None),
    ],
)
def test_what_is_refused(text, code, place):
    with pytest.raises(SpecError) as caught:
        parse(text, "f.yaml")
    problem = caught.value.problems[0]
    assert problem.code == code
    assert problem.file == "f.yaml"
    if place:
        assert (problem.line, problem.column) == place


def test_billion_laughs_are_refused():
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(SpecError, match="Y005"):
        parse("\n".join(lines))


def test_empty_document_is_an_empty_mapping():
    assert parse("")[0].plain() == {}
    assert parse("# nothing\n")[0].plain() == {}


@given(st.text(max_size=200))
def test_any_text_parses_or_gives_a_spec_error(text):
    try:
        parse(text)
    except SpecError as error:
        assert error.code[0] == "Y"  # noqa: PT017
