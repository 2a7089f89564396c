"""The page of an evaluation in a real Chromium: it is sorted, filtered, read and played; nothing foreign runs."""

import pytest

from lavcap_core.run.evaluate.html import write_page
from lavcap_core.run.evaluate.resample import Compared
from lavcap_core.run.evaluate.result import ClipScores, Evaluation
from lavcap_core.testing import browser
from lavcap_core.testing.clips import write_clip

ATTACK = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'><b>bold</b> rain"
FACTS = {"clips": 120, "list": "a", "texts": "b", "metrics": {"bleu": {"tokeniser": "ptb"}}, "versions": {}}


@pytest.fixture(scope="module")
def chromium():
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium: make browser installs it; CHROMIUM names another")
    with browser.chromium(program) as running:
        yield running


def clips(system, folder):
    """120 clips: CIDEr-D goes up from clip0, of the second system down; clip7 has none."""
    for i in range(120):
        value = i / 100 if system == "first" else (120 - i) / 100
        caption = ATTACK if i == 3 else f"a dog barks {i} times" if system == "first" else f"a cat {i}"
        scores = {} if i == 7 else {"BLEU-4": 0.5, "CIDEr-D": value}
        media = str(folder / "clip 0.wav") if i == 0 else None
        yield ClipScores(f"clip{i}", caption, (f"barking {i}", "a hound <i>howls</i>"), scores, media)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pages of one and of two systems, and a clip to play."""
    folder = tmp_path_factory.mktemp("pages")
    write_clip(folder / "clip 0.wav", 0.3, video=None, audio="pcm_s16le")
    made = [
        Evaluation(name, {"CIDEr-D": 0.6}, {"CIDEr-D": (0.5, 0.7)}, {}, tuple(clips(name, folder)), FACTS)
        for name in ("first", "<b>second</b>")
    ]
    write_page(made[:1], folder / "one.html")
    write_page(made, folder / "two.html", compared=[{"CIDEr-D": Compared(0.1, 0.05, 0.15, 0.0001)}])
    return folder


@pytest.fixture
def page(chromium, folder, request):
    name = getattr(request, "param", "one.html")
    page = chromium.open((folder / name).as_uri())
    yield page
    assert page.errors() == []
    assert {url.rpartition("/")[2] for url in page.requests()} <= {name, "clip%200.wav"}
    assert page.read("window.ran") is None


two = pytest.mark.parametrize("page", ["two.html"], indirect=True)


def ids(page):
    return [text.split("\n")[0] for text in page.texts("#clips tbody th")]


def test_sorts_by_a_score_and_back(page):
    assert ids(page)[:3] == ["clip0", "clip1", "clip2"]
    head = "#clips th[data-column='1']"
    assert page.text(head).startswith("CIDEr-D")
    page.click(f"{head} button")
    assert page.read(f'document.querySelector("{head}").ariaSort') == "ascending"
    page.click(f"{head} button")
    assert page.read(f'document.querySelector("{head}").ariaSort') == "descending"
    assert ids(page)[:3] == ["clip119", "clip118", "clip117"]
    assert page.read("[...document.querySelectorAll('#clips th[aria-sort]')].map((e) => e.ariaSort)").count("none") == 3


def test_what_has_no_score_is_last_either_way(page):
    page.choose("#size", "200")
    for _ in range(2):
        page.click("#clips th[data-column='1'] button")
        assert ids(page)[-1] == "clip7"


def test_sorts_by_keyboard(page):
    page.read("document.querySelector(\"#clips th[data-column='1'] button\").focus()")
    page.press("Enter")
    page.press("Space")
    assert ids(page)[0] == "clip119"


def test_filters_by_text_and_by_score(page):
    page.type("#text", "BARKING 11")
    assert page.text("#status") == "1–11 of 11 (120 in all)"
    page.choose("#score", "CIDEr-D")
    page.type("#low", "115")
    assert ids(page) == ["clip115", "clip116", "clip117", "clip118", "clip119"]
    page.type("#high", "116")
    assert ids(page) == ["clip115", "clip116"]
    page.type("#text", "nothing like it")
    assert page.text("#status") == "No clip (120 in all)"
    page.click("#reset")
    assert page.text("#status") == "1–50 of 120"


def test_reads_a_row(page):
    page.type("#text", "clip3")
    row = "#clips tbody:nth-of-type(1)"
    assert ids(page)[0] == "clip3"
    assert page.text(f"{row} td.caption") == ATTACK
    assert page.texts(f"{row} td.number") == ["50.00", "3.00"]
    assert page.text(f"{row} summary") == "barking 3 (+1)"
    page.click(f"{row} summary")
    assert page.text(f"{row} details li") == "a hound <i>howls</i>"
    page.click("#all-references")
    assert page.texts(f"{row} li") == ["barking 3", "a hound <i>howls</i>"]


def test_leaves_columns_out(page):
    heads = page.texts("#clips thead th")
    page.click("#choose summary")
    page.click("#columns input")
    assert page.texts("#clips thead th") == [text for text in heads if not text.startswith("BLEU-4")]
    assert page.text("#clips tbody td.number") == "0.00"
    page.click("#columns input")
    assert page.texts("#clips thead th") == heads


def test_turns_pages(page):
    page.click("#next")
    page.click("#next")
    assert page.text("#status") == "101–120 of 120"
    assert len(ids(page)) == 20
    assert page.read("document.querySelector('#next').disabled") is True
    page.type("#text", "a dog")
    assert page.text("#status").startswith("1–50 of 119")


def test_plays_a_clip_that_is_at_hand_and_loads_it_no_sooner(page):
    assert len(page.texts("#clips .player button")) == 1
    assert [url for url in page.requests() if url.endswith(".wav")] == []
    page.click("#clips .player button")
    assert page.until("document.querySelector('audio')?.duration > 0.2")


@two
def test_compares_systems(page):
    assert page.texts("#clips tbody:nth-of-type(1) td.system") == ["first", "<b>second</b>"]
    assert page.texts("#differences tbody th") == ["<b>second</b>"]
    assert page.text("#differences tbody td") == "+10.00\n[+5.00, +15.00]\np < 0.001"
    page.choose("#of", "<b>second</b> minus first")
    page.click("#clips th[data-column='1'] button")
    assert ids(page)[:2] == ["clip119", "clip118"]
    page.choose("#of", "<b>second</b>")
    page.choose("#score", "CIDEr-D")
    page.type("#high", "2")
    assert ids(page) == ["clip119", "clip118"]


@two
def test_shows_the_corpus_scores_with_intervals(page):
    assert page.texts("#corpus td") == ["60.00\n[50.00, 70.00]"] * 2
    assert page.read("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.look(800, 600, dark=True)
    assert page.read("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"


def test_a_script_that_gets_in_all_the_same_is_not_run(chromium, folder):
    text = (folder / "one.html").read_text(encoding="utf-8")
    for attack in ("<script>window.ran = 1</script>", "<img src='data:,' onerror='window.ran = 1'>"):
        (folder / "broken.html").write_text(text.replace("<main>", f"<main>{attack}"), encoding="utf-8")
        page = chromium.open((folder / "broken.html").as_uri())
        assert ids(page)[0] == "clip0"
        assert page.read("window.ran") is None
        assert any("Content Security Policy" in line for line in page.errors())
