"""What an evaluation found, with everything that must be known before it is compared with another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lavcap_core.errors import RunError
from lavcap_core.files import replace_text

__all__ = ["ClipScores", "Evaluation"]

FORMAT = 1
FACTS = frozenset(
    ["clips", "references", "list", "texts", "left_out", "empty", "words", "metrics", "gives", "settings", "versions"]
)


@dataclass(frozen=True)
class ClipScores:
    """One clip of an evaluation.

    Attributes:
        id: what captions and references call it.
        candidate: the caption.
        references: what people said.
        scores: its own scores by name, such as ``CIDEr-D``.
        media: a file to play, or None.
    """

    id: str
    candidate: str
    references: tuple[str, ...]
    scores: Mapping[str, float]
    media: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """Scores of one system's captions.

    Attributes:
        system: what the captions are of, such as the name of their file.
        scores: corpus scores by name.
        intervals: lower and upper bound of the 95 % bootstrap interval, by name of the score.
        unavailable: for each metric that could not be computed: why, and what to do.
        clips: in order of their ids.
        facts: ``clips`` (how many), ``references`` (least, most and mean per clip), ``list`` (SHA-256 of the clips'
            names), ``texts`` (SHA-256 of the references), ``left_out`` (ids by reason, where the user allowed it),
            ``empty`` (clips whose empty caption was scored), ``words`` (least, most and mean of captions and
            references), ``metrics`` (each metric's facts: tokeniser, versions of programs), ``gives`` (each metric's
            scores), ``settings`` (each metric's), ``versions`` (of the metrics' distributions), ``bootstrap``.
        statistics: for metrics whose corpus score is no mean: rows of counts, a row per clip; see `Score.statistics`.
    """

    system: str
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    unavailable: Mapping[str, str]
    clips: tuple[ClipScores, ...]
    facts: Mapping[str, Any]
    statistics: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes JSON; all or nothing."""
        replace_text(path, json.dumps({"evaluation": FORMAT, **asdict(self)}, ensure_ascii=False, indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Evaluation:
        """Reads what `write` wrote.

        Raises:
            RunError: E001 if it is no such file.
        """
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            if row.pop("evaluation") != FORMAT:
                raise ValueError("of another version")
            if not row["facts"].keys() >= FACTS:
                raise ValueError(f"without {', '.join(sorted(FACTS - row['facts'].keys()))}")
            clips = tuple(ClipScores(**{**clip, "references": tuple(clip["references"])}) for clip in row.pop("clips"))
            intervals = {name: (low, high) for name, (low, high) in row.pop("intervals").items()}
            return Evaluation(clips=clips, intervals=intervals, **row)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(
                "E001",
                f"{path} is no evaluation: {error!r}",
                help="name a file that `lavcap evaluate ... --json FILE` wrote for one system",
            ) from None
