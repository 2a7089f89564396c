"""Scores that papers print, to be set beside one's own and marked as such."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from lavcap_core.run.evaluate.names import is_audiocaps
from lavcap_core.run.evaluate.result import Evaluation

__all__ = ["Published", "known", "of_same_data", "score_name"]

_PRINTED = {"CIDEr": "CIDEr-D"}
"""Printed name to the name of the score. What papers call CIDEr comes from the COCO caption tools: their scorer of that
name clips counts and penalises lengths, which is CIDEr-D (Vedantam et al. 2015), and is called so here."""


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Attributes:
        system: as the paper calls it.
        source: where it is printed.
        data: which clips it is of; their list is another than one's own, unless shown otherwise.
        scores: by the names that scores have here, times 100.
    """

    system: str
    source: str
    data: str
    scores: Mapping[str, float]

    @property
    def note(self) -> str:
        """What must be said beside it."""
        return f"{self.system}: published, {self.source}; not measured here, and on another list of clips ({self.data})"


def score_name(printed: str) -> str:
    """The name here of a score that papers print under another."""
    return _PRINTED.get(printed, printed)


def known() -> list[Published]:
    """All rows that come with the core."""
    rows = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return [
        Published(row["system"], row["source"], row["data"], {score_name(k): v for k, v in row["scores"].items()})
        for row in rows
    ]


def of_same_data(evaluations: Iterable[Evaluation]) -> list[Published]:
    """The rows, if all clips are named as those of AudioCaps; else none: they are of other data."""
    ids = [clip.id for evaluation in evaluations for clip in evaluation.clips]
    return known() if ids and all(map(is_audiocaps, ids)) else []
