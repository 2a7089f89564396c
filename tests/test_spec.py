import json
from pathlib import Path

import pytest
from toys import TOY_SPEC

from lavcap_core.errors import LavcapError, PluginError, SpecError
from lavcap_core.spec import check_component, read, read_text


def problems_of(text, **options):
    with pytest.raises(SpecError) as caught:
        read_text(text, "bad.yaml", **options)
    return caught.value.problems


def test_five_mistakes_are_five_problems_with_places(toy):
    text = """\
lavcap: 1
audio_encoder:
  use: loudness
  widht: 3
visual_encoder: {use: brightness, width: 0}
fuser: {use: join}
fuser: {use: join}
decoder: {use: numbers, tune: {rank: "8"}}
backend: {use: abacus}
"""
    found = [(p.line, p.column, p.code, p.key) for p in problems_of(text)]
    assert found == [
        (4, 3, "S002", "audio_encoder.widht"),
        (5, 35, "S005", "visual_encoder.width"),
        (7, 1, "Y002", None),
        (8, 32, "S004", "decoder.tune.rank"),
        (9, 11, "R001", "backend.use"),
    ]


def test_a_problem_looks_like_this(toy):
    text = "lavcap: 1\naudio_encoder:\n  use: loudness\n  widht: 3\nfuser: join\ndecoder: numbers\n"
    assert str(problems_of(text)[0]) == (
        "bad.yaml:4:3: S002 audio_encoder.widht: unknown key (got 3)\n"
        "     4 |   widht: 3\n"
        "       |   ^\n"
        "   help: did you mean 'width'?"
    )


@pytest.mark.parametrize(
    ("change", "code", "key"),
    [
        (("lavcap: 1", "lavcap: 2"), "S005", "lavcap"),
        (("lavcap: 1", "lavcap: '1'"), "S005", "lavcap"),
        (("lavcap: 1\n", ""), "S003", "lavcap"),
        (("fuser: {use: join}\n", ""), "S003", "fuser"),
        (("{use: join}", "{}"), "S003", "fuser"),
        (("{use: join}", "[join]"), "S003", "fuser"),
        (("{use: join}", "{use: 7}"), "S003", "fuser"),
        (("{use: loudness}", "{use: loudness, width: 2.5}"), "S004", "audio_encoder.width"),
        (("{use: loudness}", "{use: loudness, width: true}"), "S004", "audio_encoder.width"),
        (("{use: loudness}", "{use: loudness, width: }"), "S004", "audio_encoder.width"),
        (("{use: numbers}", "{use: numbers, tune: lora}"), "S004", "decoder.tune"),
        (("{use: numbers}", "{use: numbers, tune: {mode: lorra}}"), "S005", "decoder.tune.mode"),
        (("{use: numbers}", "{use: numbers, fail_above: .nan}"), "S005", "decoder.fail_above"),
        (("{use: join}", "{use: join}\nwindows: {hop: 20.0}"), "S005", "windows"),
        (("{use: join}", "{use: join}\nwindow: {hop: 2}"), "S002", "window"),
        (("{use: join}", "{use: join}\nrecipe: {use: captionr}"), "R001", "recipe.use"),
        (("{use: join}", "{use: join}\ngenerate: {beams: 4, max_new_tokens: -1}"), "S005", "generate.max_new_tokens"),
    ],
)
def test_each_mistake(toy, change, code, key):
    assert change[0] in TOY_SPEC
    found = problems_of(TOY_SPEC.replace(*change))
    assert [(p.code, p.key) for p in found] == [(code, key)]


def test_ports_are_checked_once_the_rest_is_right(toy):
    found = problems_of(TOY_SPEC.replace("brightness}", "brightness, width: 3}"))
    assert [(p.code, p.key, p.line, p.column) for p in found] == [("P001", "fuser.use", 4, 9)]
    assert "audio_encoder gives 2, visual_encoder gives 3" in found[0].message
    assert found[0].help == "set aligner.project: WIDTH"


def test_spec_without_an_encoder(toy):
    found = problems_of("lavcap: 1\nfuser: join\ndecoder: numbers\n")
    assert [(p.code, p.key, p.line, p.column) for p in found] == [("P002", "fuser.use", 2, 8)]


def test_misspelt_shorthand_is_shown_at_the_name(toy):
    found = problems_of("lavcap: 1\naudio_encoder: loudness\nfuser: joim\ndecoder: numbers\n")
    assert [(p.code, p.line, p.column) for p in found] == [("R001", 3, 8)]


def test_shorthand_and_defaults(toy):
    spec = read_text(TOY_SPEC.replace("{use: join}", "join"))
    assert spec.recipe.name == "captioner"
    assert spec.parts["fuser"].name == "join"
    assert spec.parts["aligner"] is None
    assert spec.sections["generate"].beams == 4
    assert spec.versions() == {"lavcap-core": "0.1.0", "lavcap-toy": "1.0"}


def test_filled_in_spec_is_complete_and_reads_back_to_itself(toy):
    spec = read_text(TOY_SPEC)
    text = json.dumps(spec.filled())
    assert json.loads(text)["decoder"]["tune"]["rank"] == 8
    assert read_text(text).filled() == spec.filled()


def test_numbers_may_be_integers_where_floats_are_meant(toy):
    spec = read_text(TOY_SPEC + "windows: {seconds: 5, hop: 5}\n")
    assert spec.sections["windows"].seconds == 5.0


def test_overrides_go_through_the_same_checks(toy):
    spec = read_text(TOY_SPEC, overrides=["audio_encoder.width=3", "visual_encoder={use: brightness, width: 3}"])
    assert spec.parts["visual_encoder"].config.width == 3
    assert read_text(TOY_SPEC, overrides=["visual_encoder=null"]).parts["visual_encoder"] is None
    found = problems_of(TOY_SPEC, overrides=["audio_encoder.widht=3", "generate.beams=none", "nonsense", "a..b=1"])
    assert sorted((p.code, p.file) for p in found) == [
        ("S002", "--set audio_encoder.widht=3"),
        ("S004", "--set generate.beams=none"),
        ("S006", "--set a..b=1"),
        ("S006", "--set nonsense"),
    ]


def test_override_can_name_a_component_that_the_file_does_not(toy):
    spec = read_text("lavcap: 1\naudio_encoder: loudness\ndecoder: numbers\n", overrides=["fuser.use=join"])
    assert spec.parts["fuser"].name == "join"


def test_settings_alone_are_of_the_default_component(toy):
    spec = read_text(TOY_SPEC + "backend: {device: cpu}\n")
    assert (spec.pipeline.backend.name, spec.pipeline.backend.config.device) == ("torch", "cpu")
    assert read_text(TOY_SPEC, overrides=["backend.dtype=float32"]).pipeline.backend.config.dtype == "float32"
    (problem,) = problems_of(TOY_SPEC + "backend: {devise: cpu}\n")
    assert (problem.code, problem.line, problem.help) == ("S002", 6, "did you mean 'device'?")


def test_paths_are_relative_to_the_file(toy, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "s.yaml").write_text(
        TOY_SPEC.replace("numbers}", "numbers, model: model}") + "weights: w.safetensors\n"
    )
    spec = read(tmp_path / "s.yaml")
    assert spec.parts["decoder"].config.model == str(tmp_path / "model")
    assert spec.pipeline.weights == str(tmp_path / "w.safetensors")
    hub = read_text(TOY_SPEC.replace("numbers}", "numbers, model: org/name}"), folder=tmp_path)
    assert hub.parts["decoder"].config.model == "org/name"


def test_held_components_are_checked_too(toy):
    text = TOY_SPEC + "aligner:\n  use: holder\n  transport: {use: sinkhornn}\n"
    assert [(p.code, p.key, p.line) for p in problems_of(text)] == [("R001", "aligner.transport.use", 8)]
    missing = problems_of(TOY_SPEC + "aligner: {use: holder}\n")
    assert [(p.code, p.key) for p in missing] == [("S003", "aligner.transport")]


def test_pipeline_without_one_modality_skips_the_aligner(toy):
    text = TOY_SPEC.replace("visual_encoder: {use: brightness}\n", "")
    spec = read_text(text + "aligner: {use: holder, transport: {use: sinkhorn}}\n")
    assert spec.parts["aligner"] is None
    assert spec.wiring.skipped == {"aligner": "there are no visual tokens"}


@pytest.mark.parametrize(("name", "code"), [("nothing.yaml", "Y007"), ("folder", "Y007"), ("latin.yaml", "Y001")])
def test_files_that_can_not_be_read(tmp_path, name, code):
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4\n")
    with pytest.raises(SpecError) as caught:
        read(tmp_path / name)
    assert caught.value.code == code


def test_root_that_is_no_mapping(toy):
    assert [p.code for p in problems_of("- 1\n")] == ["S004"]


def test_check_component(toy):
    use = check_component("audio_encoder", "loudness", {"width": 7})
    assert use.config.width == 7
    with pytest.raises(SpecError, match="widht"):
        check_component("audio_encoder", "loudness", {"widht": 7})
    with pytest.raises(PluginError, match="R001"):
        check_component("audio_encoder", "loudnes", {})


def test_errors_survive_pickling(toy):
    import pickle

    with pytest.raises(LavcapError) as caught:
        read_text("a: 1\n", "bad.yaml")
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems
    assert str(again) == str(caught.value)


PRESETS = sorted((Path(__file__).parent.parent / "lavcap_core" / "presets").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_of_the_core_are_right(path):
    spec = read(path)
    assert not spec.wiring.skipped
