"""What a training run says: a bar or lines on the console, JSON lines, and accelerate's trackers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavcap_core.errors import BuildError
from lavcap_core.files import replace_text

__all__ = ["LOG", "VALIDATION", "Log", "rows"]

LOG = "log.jsonl"
VALIDATION = "validation.jsonl"


class Log:
    """Writes one run's progress; on all processes but the first it does nothing.

    Args:
        folder: of the run.
        steps: of the whole run.
        every: steps between lines on a console that shows no bar.
        trackers: names of accelerate's trackers.
        quiet: nothing on the console.
        silent: nothing at all, for processes that don't write.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        every: int = 10,
        trackers: Sequence[str] = (),
        quiet: bool = False,
        silent: bool = False,
    ) -> None:
        self.folder, self.steps, self.every, self.silent = folder, steps, every, silent
        self.quiet = quiet or silent
        self._trackers = [] if silent else [_tracker(name, folder) for name in trackers]
        self._bar: Any = None
        self._began, self._clips, self._seen = time.monotonic(), 0, 0

    def start(self, step: int, settings: Mapping[str, Any], owed: bool = False) -> None:
        """Begins at a step; what a run that was killed had written of later steps is taken back.

        ``owed`` says that the step's validation is still to come.
        """
        if self.silent:
            return
        _forget(self.folder / LOG, lambda row: row["step"] < step)
        _forget(self.folder / VALIDATION, lambda row: row["step"] < step + (not owed))
        for tracker in self._trackers:
            tracker.store_init_configuration(_flat(settings))
        if not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.steps, initial=step, unit="step", dynamic_ncols=True)
        self._began = time.monotonic()

    def step(self, row: Mapping[str, Any], clips: int) -> dict[str, Any]:
        """Logs one step; gives the row with clips per second and, in seconds, the time that is left."""
        self._clips += clips
        self._seen += 1
        spent = max(time.monotonic() - self._began, 1e-9)
        left = spent / self._seen * (self.steps - row["step"] - 1)
        full = {**row, "clips_per_second": round(self._clips / spent, 3), "left": round(left, 1)}
        if self.silent:
            return full
        _append(self.folder / LOG, full)
        numbers = {name: value for name, value in full.items() if isinstance(value, int | float) and name != "step"}
        for tracker in self._trackers:
            tracker.log({f"train/{name}": value for name, value in numbers.items()}, step=row["step"])
        self._show(full)
        return full

    def _show(self, row: Mapping[str, Any]) -> None:
        if self._bar is not None:
            terms = {name: f"{row[name]:.3f}" for name in ("loss", "caption", "alignment") if row.get(name) is not None}
            self._bar.set_postfix({**terms, "clips/s": f"{row['clips_per_second']:.1f}"}, refresh=False)
            self._bar.update()
        elif not self.quiet and ((row["step"] + 1) % self.every == 0 or row["step"] + 1 == self.steps):
            print(_line(row, self.steps), file=sys.stderr, flush=True)

    def validation(self, row: Mapping[str, Any]) -> None:
        """Logs what a validation found."""
        if self.silent:
            return
        _append(self.folder / VALIDATION, row)
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        for tracker in self._trackers:
            tracker.log({f"validation/{name}": value for name, value in numbers.items()}, step=row["step"])
        self.say(f"step {row['step']}: validation " + "  ".join(f"{n} {v:.4g}" for n, v in numbers.items()))

    def say(self, text: str) -> None:
        """A line on the console."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar and the trackers."""
        if self._bar is not None:
            self._bar.close()
        for tracker in self._trackers:
            tracker.finish()


def rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON lines file; half a last line, of a run that was killed, is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def _forget(path: Path, keep: Any) -> None:
    kept = "".join(json.dumps(row) + "\n" for row in rows(path) if keep(row))
    if path.exists() and path.read_text(encoding="utf-8") != kept:
        replace_text(path, kept)


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _line(row: Mapping[str, Any], steps: int) -> str:
    terms = "  ".join(
        f"{name} {row[name]:.4g}"
        for name in ("loss", "caption", "alignment", "norm", "lr")
        if row.get(name) is not None
    )
    minutes, seconds = divmod(int(row["left"]), 60)
    pace = f"{row['clips_per_second']:.1f} clips/s  {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
    return f"step {row['step'] + 1}/{steps}  {terms}  {pace}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat


def _tracker(name: str, folder: Path) -> Any:
    from accelerate import tracking

    kinds = {"tensorboard": ("TensorBoardTracker", "tensorboard"), "wandb": ("WandBTracker", "wandb")}
    kind, package = kinds[name]
    place = {"logging_dir" if name == "tensorboard" else "dir": str(folder)}
    try:
        tracker = getattr(tracking, kind)("lavcap", **place)
        if hasattr(tracker, "start"):  # older ones begin by themselves
            tracker.start()
    except (ImportError, NameError) as error:
        raise BuildError(
            "B067", f"train.trackers: {name} can't be used: {error}", help=f"pip install {package}"
        ) from error
    return tracker
