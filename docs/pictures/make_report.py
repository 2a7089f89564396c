"""Takes the picture of an evaluation's page, in Chromium.

    python docs/pictures/make_report.py

Captions and references are those of the tests of lavcap-metrics; the scores are computed.
"""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from pathlib import Path

from PIL import Image

from lavcap_core.cli import main
from lavcap_core.testing import browser

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "plugins" / "lavcap-metrics" / "tests" / "data" / "conette.json.gz"


def write(folder: Path) -> Path:
    """Captions, references and the page."""
    data = json.loads(gzip.decompress(DATA.read_bytes()))
    with (folder / "conette.jsonl").open("w") as captions, (folder / "test.jsonl").open("w") as references:
        for number, (caption, texts) in enumerate(zip(data["candidates"], data["references"], strict=True)):
            clip = f"test/{number:03}.wav"
            captions.write(json.dumps({"clip": clip, "caption": caption}) + "\n")
            references.write(json.dumps({"id": clip, "clip": clip, "captions": texts}) + "\n")
    files = [
        str(folder / "conette.jsonl"),
        "--references",
        str(folder / "test.jsonl"),
        "--html",
        str(folder / "p.html"),
    ]
    main(["evaluate", *files, "--metrics", "bleu,rouge_l,cider_d", "--tokeniser", "none"])
    return folder / "p.html"


def take(page: Path, program: str) -> bytes:
    """The clips that speak of a dog, from the worst by CIDEr-D."""
    with browser.chromium(program) as running:
        shown = running.open(page.as_uri())
        shown.look(1180, 640)
        shown.type("#text", "dog bark")
        head = shown.texts("#clips thead th").index("CIDEr-D")
        shown.click("#clips thead th button", head)
        shown.read("document.activeElement.blur(), document.querySelector('#clips-title').scrollIntoView()")
        return shown.look(1180, 640)


if __name__ == "__main__":
    program = browser.find()
    if program is None:
        raise SystemExit("no Chromium: make browser")
    with tempfile.TemporaryDirectory() as folder:
        picture = Image.open(io.BytesIO(take(write(Path(folder)), program))).convert("RGB")
    picture.quantize(64).save(HERE / "report.png", optimize=True)
