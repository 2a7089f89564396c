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
    "lavcap.decoder": {"numbers": "lavcap_toy.plugin:numbers"},
    "lavcap.aligner": {"holder": "lavcap_toy.plugin:holder"},
}

TOY_SPEC = """\
lavcap: 1
audio_encoder: {use: loudness}
visual_encoder: {use: brightness}
fuser: {use: join}
decoder: {use: numbers}
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

    def run(self, *arguments, env=None, **options):
        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-m", "lavcap_core.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
            **options,
        )
