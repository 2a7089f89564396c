"""Which caption of a study is of which system: a file of its own, which raters don't get."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lavcap_core.errors import RunError
from lavcap_core.files import replace_text

__all__ = ["Clip", "Key", "Rated"]

_FORMAT = 1


@dataclass(frozen=True)
class Rated:
    """A caption that is scored.

    Attributes:
        id: what the page and the answers call it; it says nothing of the systems.
        text: the caption.
        systems: whose it is; several, if they said the same.
    """

    id: str
    text: str
    systems: tuple[str, ...]


@dataclass(frozen=True)
class Clip:
    """A clip of a study.

    Attributes:
        id: what the page calls it.
        name: what captions and references call it.
        media: the file, relative to the folder of media.
        captions: in the order of the page's source, which is random.
    """

    id: str
    name: str
    media: str
    captions: tuple[Rated, ...]


@dataclass(frozen=True)
class Key:
    """A study, with what the page hides.

    Attributes:
        study: its id.
        systems: in the order in which they were named.
        clips: in the order of the page's source, which is random.
        facts: what it was made of: ``files`` by system, ``seed``, ``question``, ``candidates`` (clips to draw from).
    """

    study: str
    systems: tuple[str, ...]
    clips: tuple[Clip, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes JSON; all or nothing."""
        replace_text(path, json.dumps({"lavcap_study": _FORMAT, **asdict(self)}, ensure_ascii=False, indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Key:
        """Reads what `write` wrote.

        Raises:
            RunError: E063 if it is no such file.
        """
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            if row["lavcap_study"] != _FORMAT:
                raise ValueError(f"of version {row['lavcap_study']!r}")
            return Key(row["study"], tuple(row["systems"]), tuple(map(_clip, row["clips"])), row["facts"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            help = "name the .key.json file that `lavcap study make` wrote beside the page"
            raise RunError("E063", f"is no key of a study: {error!r}", help=help, file=str(path)) from None


def _clip(row: Mapping[str, Any]) -> Clip:
    captions = (Rated(one["id"], one["text"], tuple(one["systems"])) for one in row["captions"])
    return Clip(row["id"], row["name"], row["media"], tuple(captions))
