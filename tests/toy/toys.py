"""Distributions made up on the spot, as pip would have installed them, and the toy plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOY = Path(__file__).parent

TOY_POINTS = {
    "lavcap.audio_encoder": {"loudness": "lavcap_toy.plugin:loudness"},
    "lavcap.visual_encoder": {"brightness": "lavcap_toy.plugin:brightness"},
    "lavcap.fuser": {"join": "lavcap_toy.plugin:join"},
    "lavcap.decoder": {"numbers": "lavcap_toy.plugin:numbers", "speller": "lavcap_toy.plugin:speller"},
    "lavcap.dataset": {"tones": "lavcap_toy.plugin:tones"},
    "lavcap.metric": {"exact": "lavcap_toy.plugin:exact"},
    "lavcap.aligner": {"holder": "lavcap_toy.plugin:holder"},
}

WORDS_POINTS = {
    "lavcap.metric": {
        name: f"lavcap_words.plugin:{name}"
        for name in ("share", "ratio", "twin", "missing", "broken", "short", "model")
    }
}

TOY_SPEC = """\
lavcap: 1
audio_encoder: {use: loudness}
visual_encoder: {use: brightness}
fuser: {use: join}
decoder: {use: numbers}
"""

TRAIN_SPEC = """\
lavcap: 1
backend: {use: torch, device: cpu}
audio_encoder: {use: loudness}
fuser: {use: join}
decoder: {use: speller}
train:
  data: {use: tones, count: 16}
  epochs: 5
  batch: 4
  lr: 1e-2
  warmup_steps: 2
  cache: false
"""


class Site:
    """A folder of installed distributions, first on the path of this process and of commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name, points, files=None, requires=(), version="1.0"):
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        groups = (
            f"[{group}]\n" + "".join(f"{n} = {value}\n" for n, value in names.items())
            for group, names in points.items()
        )
        (info / "entry_points.txt").write_text("\n".join(groups))
        for path, text in (files or {}).items():
            place = self.folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    def add_toy(self):
        (self.folder / "lavcap_toy").symlink_to(TOY / "lavcap_toy")
        self.add("lavcap-toy", TOY_POINTS)

    def add_words(self):
        (self.folder / "lavcap_words").symlink_to(TOY / "lavcap_words")
        self.add("lavcap-words", WORDS_POINTS)

    def run(self, *arguments, env=None, **options):
        return self.python("-m", "lavcap_core.cli", *arguments, env=env, **options)

    def python(self, *arguments, env=None, **options):
        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
            **options,
        )
