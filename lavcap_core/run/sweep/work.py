"""Trains the runs of a sweep, each in a process of its own: memory is freed, and a crash stops that run alone.

The folder of a sweep holds for each run ``NAME.yaml`` (its whole spec), ``NAME`` (the folder that `lavcap train`
writes), ``NAME.log`` (what it said), and ``NAME.error`` while its last attempt failed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavcap_core.builtin import MAY_CHANGE
from lavcap_core.errors import RunError
from lavcap_core.files import replace_text
from lavcap_core.run.sweep.plan import Run, Sweep, text

__all__ = ["Place", "Status", "lock", "require_same", "set_aside", "status", "work"]

_POLL = 0.2
_PATIENCE = 20.0
_CODE = re.compile(r"(?:^|\s)([A-Z]\d{3}) ")
_HARMLESS = ("backend.device", *(f"train.{name}" for name in MAY_CHANGE))


@dataclass(frozen=True)
class Place:
    """Where the files of a run are."""

    out: Path
    name: str

    @property
    def folder(self) -> Path:
        """What `lavcap train` writes."""
        return self.out / self.name

    @property
    def spec(self) -> Path:
        """The whole spec, as it is given to `lavcap train`."""
        return self.out / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """What the run said on its console."""
        return self.out / f"{self.name}.log"

    @property
    def error(self) -> Path:
        """Why the last attempt failed; there while it is so."""
        return self.out / f"{self.name}.error"

    @property
    def summary(self) -> Path:
        """What came out; the last file that a run writes."""
        return self.folder / "summary.json"


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        state: ``new``, ``begun``, ``failed`` (the last attempt), ``done``, or ``changed``: done or begun with another
            spec.
        reason: why it failed, or what changed.
    """

    state: str
    reason: str = ""


def status(out: Path, run: Run) -> Status:
    """How far a run is, as its files say."""
    place = Place(out, run.name)
    changed = _changes(place.folder / "spec.yaml", run.spec.filled())
    if changed:
        return Status("changed", ", ".join(changed))
    if place.summary.exists():
        return Status("done")
    if place.error.exists():
        return Status("failed", place.error.read_text(encoding="utf-8").strip())
    return Status("begun" if place.folder.exists() else "new")


def _changes(file: Path, now: Mapping[str, Any]) -> list[str]:
    """Keys in which a run's stored spec differs from what it would be now."""
    if not file.exists():
        return []
    lines = (line.partition(": ") for line in file.read_text(encoding="utf-8").splitlines())
    before = dict(_flat({key: json.loads(value) for key, _, value in lines}))
    after = dict(_flat(json.loads(json.dumps(now))))
    keys = [*before, *(key for key in after if key not in before)]
    return [key for key in keys if before.get(key) != after.get(key) and key not in _HARMLESS]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, child in value.items():
        yield from _flat(child, f"{key}.{name}" if key else name)


def require_same(out: Path, runs: Sequence[Run]) -> None:
    """Refuses runs that were begun with another spec.

    Raises:
        RunError: C063 that names them all.
    """
    found = {run.name: known for run in runs if (known := status(out, run)).state == "changed"}
    if found:
        what = "; ".join(f"{name} ({known.reason})" for name, known in found.items())
        help = "--rerun trains them anew and keeps the old ones beside; or choose another --out"
        raise RunError("C063", f"runs of another spec are there: {what}", help=help, file=str(out))


def set_aside(out: Path, run: Run) -> Path:
    """Renames what is there of a run, so that it starts anew; gives the new name."""
    place = Place(out, run.name)
    number = next(n for n in range(1, 1_000_000) if not (out / f"{run.name}.old{n}").exists())
    aside = out / f"{run.name}.old{number}"
    place.folder.rename(aside)
    place.error.unlink(missing_ok=True)
    if place.log.exists():
        place.log.rename(out / f"{aside.name}.log")
    return aside


@contextmanager
def lock(out: Path) -> Iterator[int | None]:
    """Keeps a second sweep out of a folder, also while runs go on whose sweep was killed: they inherit the lock.

    Gives the descriptor to pass to them; None where the system has no such locks.

    Raises:
        RunError: C064 if the folder is in use.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield None
        return
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            help = "wait for it; if a sweep was killed, its runs may still be at work: end them, or wait for them"
            raise RunError("C064", "a sweep is at work in this folder", help=help, file=str(out)) from None
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass
class _Child:
    run: Run
    place: Place
    process: subprocess.Popen[bytes]
    device: str | None
    began: float
    said: int

    def reason(self) -> str:
        """Why it ended: its last line with an error's code, else its last line."""
        with self.place.log.open("rb") as file:
            file.seek(self.said)
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        code = self.process.returncode
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        coded = [line[found.start(1) :] for line in lines if (found := _CODE.search(line))]
        said = coded[-1] if coded else lines[-1].strip() if lines and code > 0 else ""
        return f"{said} ({ended})" if said else ended


def work(
    sweep: Sweep,
    out: Path,
    runs: Sequence[Run],
    devices: Sequence[str | None],
    inherit: int | None,
    tell: Callable[[str], None],
    tick: Callable[[Mapping[str, str]], None],
) -> None:
    """Trains runs, as many at once as there are devices; whatever happens, no process of it is left behind.

    Args:
        sweep: that they are of.
        out: its folder.
        runs: that are not done.
        devices: names as in ``backend.device``, or None for what the spec says; one run at a time for each.
        inherit: descriptor of the folder's lock.
        tell: is told what starts and ends.
        tick: is told now and then how far the runs at work are, by name.
    """
    waiting, free = deque(runs), deque(devices)
    children: list[_Child] = []
    try:
        while waiting or children:
            while waiting and free:
                children.append(_start(sweep, out, waiting.popleft(), free.popleft(), inherit))
                tell(f"{children[-1].run.name}: at work{_on(children[-1].device)}, see {children[-1].place.log}")
            time.sleep(_POLL)
            tick({child.run.name: _progress(child.place) for child in children})
            for child in [child for child in children if child.process.poll() is not None]:
                children.remove(child)
                free.append(child.device)
                tell(_end(child))
    finally:
        _stop(children)


def _on(device: str | None) -> str:
    return f" on {device}" if device else ""


def _start(sweep: Sweep, out: Path, run: Run, device: str | None, inherit: int | None) -> _Child:
    place = Place(out, run.name)
    row = next(row for row in sweep.rows if run in row.runs)
    replace_text(place.spec, text(sweep, row, run))
    place.error.unlink(missing_ok=True)
    words = [sys.executable, "-m", "lavcap_core.cli", "train", str(place.spec), "--out", str(place.folder), "--resume"]
    words += ["--set", f"backend.device={device}"] if device else []
    with place.log.open("ab") as log:
        said = log.tell()
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches the sweep alone, which ends its runs in order.
            start_new_session=True,
            pass_fds=() if inherit is None else (inherit,),
        )
    return _Child(run, place, process, device, time.monotonic(), said)


def _end(child: _Child) -> str:
    """Notes how a run ended; gives what to say of it."""
    spent = _minutes(time.monotonic() - child.began)
    if child.process.returncode == 0 and child.place.summary.exists():
        return f"{child.run.name}: done in {spent}"
    reason = child.reason() if child.process.returncode else "it ended without a summary"
    replace_text(child.place.error, reason + "\n")
    return f"{child.run.name}: failed after {spent}: {reason}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _progress(place: Place) -> str:
    """The step that a run is at, and what time is left, from the last line of its log."""
    try:
        with (place.folder / "log.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            row = json.loads(file.read().rsplit(b"\n", 2)[-2])
        return f"step {row['step'] + 1}, {_minutes(row['left'])} left"
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return "starting"


def _stop(children: Sequence[_Child]) -> None:
    """Ends what still runs; its checkpoints are whole whenever it ends."""
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
