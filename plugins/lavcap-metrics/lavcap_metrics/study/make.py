"""Makes a study: draws clips, blinds captions, writes the page."""

from __future__ import annotations

import base64
import random
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lavcap_core.errors import RunError
from lavcap_core.files import replace_text
from lavcap_core.manifest import Item
from lavcap_core.run.evaluate.read import KINDS, Captions, Matched, match
from lavcap_core.webpage import assemble, embed, link
from lavcap_metrics.study.key import Clip, Key, Rated
from lavcap_metrics.study.media import TYPES, Found, find, unplayable

__all__ = ["GROUND_TRUTH", "QUESTION", "Drawn", "Sources", "draw", "key", "write_page"]

GROUND_TRUTH = "ground truth"
"""What references are called among the systems."""

QUESTION = "How well does each caption say what is heard and seen in the clip?"

Texts = Mapping[str, Mapping[str, str]]
"""Captions by system and name of the clip."""


@dataclass(frozen=True)
class Sources:
    """What a study is made of.

    Attributes:
        captions: of each system.
        references: clips with what people said of them; one of each clip's texts is shown as a system's. Or None.
        media: folder of the clips; or None, where they are the files that references or captions name.
    """

    captions: Sequence[Captions]
    references: Sequence[Item] | None
    media: Path | None


@dataclass(frozen=True)
class Drawn:
    """Clips that were drawn.

    Attributes:
        media: their files by name, relative to the folder of media if there is one.
        texts: captions of all clips that could be drawn, by system and name of the clip.
        candidates: how many could be drawn.
        left_out: how many could not, by reason.
    """

    media: Mapping[str, str]
    texts: Texts
    candidates: int
    left_out: Mapping[str, int]


def draw(sources: Sources, count: int, seed: int) -> Drawn:
    """Draws clips that every system has a caption of and whose file browsers play.

    Raises:
        RunError: E060 if there are too few, E061 if two systems are called the same; as `match` if captions and
            references don't belong together.
    """
    clips = _listed(sources)
    matched = [match(captions, clips, KINDS) for captions in sources.captions]
    texts = _texts(sources, matched, seed)
    names = list(dict.fromkeys(name for captions in texts.values() for name in captions))
    common = sorted(name for name in names if all(name in captions for captions in texts.values()))
    found = find(sources.media, common) if sources.media else _named(clips, matched, common)
    left_out = Counter({"without a caption of every system": len(names) - len(common)})
    left_out["fitted by several files"] = len(found.unclear)
    left_out["without a file"] = len(common) - len(found.files) - len(found.unclear)
    order = random.Random(seed).sample(sorted(found.files), len(found.files))
    media = _first_playable(sources.media or Path(), {name: found.files[name] for name in order}, count, left_out)
    left_out = +left_out  # without what is 0
    if len(media) < count:
        raise _too_few(len(media), count, left_out, sources.media)
    return Drawn(media, texts, len(found.files), left_out)


def _named(clips: Sequence[Item], matched: Sequence[Matched], wanted: Collection[str]) -> Found:
    """The files that references or captions name; not of clips that are a stretch of one, as files are played whole."""
    parts = {item.name for item in clips if item.start or item.end is not None}
    named = {name: file for one in matched for name, file in zip(one.ids, one.media, strict=True) if file}
    return Found({name: file for name, file in named.items() if name in wanted and name not in parts}, ())


def _first_playable(folder: Path, files: Mapping[str, str], count: int, left_out: Counter[str]) -> dict[str, str]:
    """So many of the files as browsers play, from the first on; counts the others by reason."""
    media: dict[str, str] = {}
    for name, file in files.items():
        if len(media) == count:
            break
        why = unplayable(folder / file)
        if why:
            left_out[f"{why}, which browsers don't play"] += 1
        else:
            media[name] = file
    return media


def _listed(sources: Sources) -> Sequence[Item]:
    """Which clips there are: without references, the first system's captions say it."""
    if sources.references is not None:
        return sources.references
    return [Item(None, name) for name in dict.fromkeys(row.name for row in sources.captions[0].rows)]


def _texts(sources: Sources, matched: Sequence[Matched], seed: int) -> Texts:
    systems = [captions.system for captions in sources.captions]
    systems += [] if sources.references is None else [GROUND_TRUTH]
    twice = sorted(name for name, count in Counter(systems).items() if count > 1)
    if twice:
        help = "call each its own: --name NAME, once for each file and in their order"
        raise RunError("E061", f"several systems are called {', '.join(twice)}", help=help)
    texts = {one.system: dict(zip(one.ids, one.candidates, strict=True)) for one in matched}
    if sources.references is not None:
        # Draws of their own: a seed draws the same clips with and without references.
        generator = random.Random(f"references {seed}")
        texts[GROUND_TRUTH] = {item.name: generator.choice(item.captions) for item in sources.references}
    return texts


def _too_few(found: int, count: int, left_out: Mapping[str, int], folder: Path | None) -> RunError:
    reasons = "; ".join(f"{number} {reason}" for reason, number in left_out.items())
    where = (
        f"looked for in {folder}" if folder else "the files that references or captions name; --media FOLDER has others"
    )
    help = f"left out: {reasons}. Clips are {where}" if reasons else "--clips asks for fewer"
    if any("browsers" in reason for reason in left_out):
        help += "; ffmpeg -i CLIP.avi -c:v libx264 -c:a aac CLIP.mp4 makes what browsers play"
    return RunError("E060", f"{count} clips are wanted, and {found} can be shown", help=help)


def key(drawn: Drawn, facts: Mapping[str, object]) -> Key:
    """Blinds captions: ids and order come from the operating system, so that nobody can work them out of the seed."""
    chance = secrets.SystemRandom()
    clips = [
        Clip(secrets.token_hex(4), name, file, tuple(_rated(name, drawn.texts, chance)))
        for name, file in drawn.media.items()
    ]
    facts = {**facts, "candidates": drawn.candidates, "left_out": dict(drawn.left_out)}
    return Key(secrets.token_hex(8), tuple(drawn.texts), tuple(chance.sample(clips, len(clips))), facts)


def _rated(name: str, texts: Texts, chance: random.Random) -> list[Rated]:
    """A clip's captions; one that several systems have is scored once, for all of them."""
    said: dict[str, list[str]] = {}
    for system, captions in texts.items():
        said.setdefault(captions[name], []).append(system)
    rated = [Rated(secrets.token_hex(6), text, tuple(systems)) for text, systems in said.items()]
    return chance.sample(rated, len(rated))


def write_page(study: Key, folder: Path, path: Path, question: str, embed_media: bool, limit: int) -> int:
    """Writes the page; all or nothing.

    Args:
        study: what it shows.
        folder: of the media.
        path: an HTML file.
        question: what raters are asked.
        embed_media: whether the media are in the page, or stay where they are and the page leads to them.
        limit: bytes of media that a page may hold.

    Returns:
        The bytes of media in it.

    Raises:
        RunError: E062 if the media are larger than the limit.
    """
    size = sum((folder / clip.media).stat().st_size for clip in study.clips) if embed_media else 0
    if size > limit:
        message = f"the clips have {size / 1e6:.0f} MB, and the page may hold {limit / 1e6:.0f} MB"
        help = "--limit MB allows more; --link leaves them where they are, and the page leads to them; --clips fewer"
        raise RunError("E062", message, help=help)
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    media = "".join(_element(clip, folder) for clip in study.clips) if embed_media else ""
    data = {"study": study.study, "question": question, "clips": _clips(study, folder, None if embed_media else path)}
    parts = {"data": embed(data), "media": media}
    replace_text(path, assemble(template, {"version": version("lavcap-metrics")}, parts))
    return size


def _clips(study: Key, folder: Path, page: Path | None) -> list[dict[str, Any]]:
    """What the page may know of each clip; with where it lies, seen from the page, if it isn't in it."""
    return [
        {
            "id": clip.id,
            "type": TYPES[Path(clip.media).suffix.lower()],
            "src": None if page is None else link(folder / clip.media, page.parent),
            "captions": [{"id": caption.id, "text": caption.text} for caption in clip.captions],
        }
        for clip in study.clips
    ]


def _element(clip: Clip, folder: Path) -> str:
    """A clip in base64, in an element that browsers neither show nor run: each is decoded when its turn comes."""
    content = base64.b64encode((folder / clip.media).read_bytes()).decode()
    return f'<script type="text/plain" id="media-{clip.id}">{content}</script>\n'
