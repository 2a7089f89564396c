"""Names of the sounds and pictures that the starter's encoders tell apart, written as a caption would write them.

The lists follow the order of the networks' outputs: ``classes/sound.txt`` the 521 classes of YAMNet (a tree, drawn by
indentation, after the AudioSet ontology), ``classes/picture.txt`` the 1000 classes of ImageNet. The wording is ours: a
phrase of one to three plain words that can stand in a caption, the animal named with its voice ("dog barking" for
*Bark*) and breeds ending in their kind ("pug dog"), so that what sounds and looks alike shares words.

This module is light: it imports nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

__all__ = ["GENERIC", "Classes", "load"]

GENERIC = 0.25
"""Factor on the evidence of a class that says little, such as *music* or *vehicle* (marked ``~``)."""


@dataclass(frozen=True)
class Classes:
    """What a classifier tells apart.

    Attributes:
        names: one phrase per output; two outputs may share one.
        weights: factor on the evidence of each output: 1; `GENERIC` for a class that says little; 0 for one that
            names a scene, silence or a recording's fault and never becomes a token.
        links: pairs (ancestor, descendant) of outputs, over all generations.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    links: tuple[tuple[int, int], ...]


@cache
def load(kind: Literal["sound", "picture"]) -> Classes:
    """Reads one of the two lists: 521 sounds or 1000 pictures."""
    text = files("lavcap_starter").joinpath("classes", f"{kind}.txt").read_text(encoding="utf-8")
    names: list[str] = []
    weights: list[float] = []
    links: list[tuple[int, int]] = []
    line: list[int] = []  # the classes above the current one, from the root
    for index, entry in enumerate(text.splitlines()):
        del line[len(entry) - len(entry.lstrip(" ")) :]
        links += [(above, index) for above in line]
        line.append(index)
        name, weight = _marked(entry.strip())
        names.append(name)
        weights.append(weight)
    return Classes(tuple(names), tuple(weights), tuple(links))


def _marked(entry: str) -> tuple[str, float]:
    marks = {" ~": GENERIC, " -": 0.0}
    return (entry[:-2], marks[entry[-2:]]) if entry[-2:] in marks else (entry, 1.0)
