"""``lavcap sweep``: the runs of an ablation, one after another or on several devices, and their table."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavcap_core.errors import RunError, SpecError

if TYPE_CHECKING:
    from lavcap_core.run.sweep.plan import Row, Run, Sweep

__all__ = ["command"]

_EPILOG = """
The folder gets table.md and table.json, and for each run its spec, its log and the folder that `lavcap train` writes.
The same command goes on after whatever stopped it: finished runs are not trained again, failed ones are tried again.
Exit code: 0 all done, 1 some runs failed, 2 wrong use or spec, 130 interrupted.
"""


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("sweep", metavar="SWEEP", help="a YAML file, or an installed sweep such as table3; see: lavcap init --list")
    add("--out", metavar="FOLDER", type=Path, help="folder of the runs and the table (default: runs/NAME of the sweep)")
    add("--only", action="append", default=[], metavar="NAME", help="only this run; may be repeated")
    add("--base", metavar="SPEC", help="a YAML file or preset in place of the sweep's base")
    add(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value for one key in all runs, but for those that change it themselves; may be repeated",
    )
    add("--devices", metavar="NAMES", help="as in backend.device, with commas between them: a run at a time on each")
    add("--jobs", metavar="N", type=int, help="runs at the same time (default: as many as there are devices, else 1)")
    add("--rerun", action="store_true", help="train anew what was trained with another spec; the old runs stay beside")
    add("--dry-run", action="store_true", help="list the runs, what they change, and how far they are")
    add("--write", metavar="FOLDER", type=Path, help="write the whole spec of each run there, and train nothing")
    add("--quiet", action="store_true", help="no progress on the console")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains what is not done yet; prints the table."""
    from lavcap_core.run.sweep import plan

    sweep = plan.read(plan.find(args.sweep), args.base, args.overrides)
    runs = sweep.runs(args.only)
    devices = _devices(args)
    _require_devices(runs, devices)
    out = args.out or Path("runs") / sweep.name
    if args.write:
        return _write(sweep, runs, args)
    if args.dry_run:
        return _list(sweep, runs, out)
    _require_data(runs)
    return _work(sweep, runs, out, devices, args)


def _devices(args: argparse.Namespace) -> list[str | None]:
    """A place for each run at a time: the devices in turn, or what the spec says."""
    names: list[str | None] = [name.strip() for name in args.devices.split(",")] if args.devices else [None]
    jobs = len(names) if args.jobs is None else args.jobs
    if jobs < 1 or not all(name is None or name for name in names):
        raise RunError("C065", "--jobs is at least 1, and --devices are names with commas between them")
    return [names[i % len(names)] for i in range(jobs)]


def _require_devices(runs: Sequence[Run], devices: Sequence[str | None]) -> None:
    """Checks the names as any value of a spec, before the first run starts."""
    from lavcap_core.spec import check_component

    backend = runs[0].spec.pipeline.backend
    settings = {key: value for key, value in runs[0].spec.filled()["backend"].items() if key != "use"}
    for device in filter(None, devices):
        check_component("backend", f"{backend.distribution}/{backend.name}", {**settings, "device": device})


def _require_data(runs: Sequence[Run]) -> None:
    if any(getattr(run.spec.sections.get("train"), "data", None) is None for run in runs):
        help = "name clips with captions: --set train.data=MANIFEST --set train.validation=MANIFEST"
        raise SpecError("C024", "the runs name no training data", help=help)


def _write(sweep: Sweep, runs: Sequence[Run], args: argparse.Namespace) -> int:
    """Writes the spec of each run; prints the names of the files."""
    from lavcap_core.files import replace_text
    from lavcap_core.run.sweep.plan import text

    args.write.mkdir(parents=True, exist_ok=True)
    for row, one in _with_rows(sweep, runs):
        file = args.write / f"{sweep.name}-{one.name}.yaml"
        replace_text(file, text(sweep, row, one))
        print(file)
    return 0


def _list(sweep: Sweep, runs: Sequence[Run], out: Path) -> int:
    """Prints a line per run: name, how far it is, what it changes."""
    from lavcap_core.run.sweep.work import status
    from lavcap_core.yaml import flow

    def shown(changes: Mapping[str, Any]) -> str:
        return "  ".join(f"{key}={flow(value)}" for key, value in changes.items())

    lines = []
    for row, one in _with_rows(sweep, runs):
        seed = {} if one.seed is None else {"train.seed": one.seed}
        lines.append((one.name, status(out, one).state, shown({**row.changes, **seed}) or "-"))
    widths = [max(len(line[i]) for line in lines) for i in range(2)]
    shared = f", all with {shown(sweep.shared)}" if sweep.shared else ""
    print(f"{sweep.title}: {len(lines)} runs of {sweep.base}{shared}")
    for name, state, changes in lines:
        print(f"  {name:<{widths[0]}}  {state:<{widths[1]}}  {changes}")
    return 0


def _with_rows(sweep: Sweep, runs: Sequence[Run]) -> list[tuple[Row, Run]]:
    return [(row, one) for row in sweep.rows for one in row.runs if one in runs]


def _work(sweep: Sweep, runs: Sequence[Run], out: Path, devices: Sequence[str | None], args: argparse.Namespace) -> int:
    from lavcap_core.run.sweep import table, work

    with work.lock(out) as inherit, _ended_by_signals(), _console(len(runs), args.quiet) as (tell, tick):
        if args.rerun:
            for one in runs:
                if work.status(out, one).state == "changed":
                    tell(f"{one.name}: of another spec, now {work.set_aside(out, one)}")
        work.require_same(out, runs)
        todo = [one for one in runs if work.status(out, one).state != "done"]
        if len(todo) < len(runs):
            tell(f"{len(runs) - len(todo)} of {len(runs)} runs are done already")

        def tell_and_table(line: str) -> None:
            tell(line)
            table.write(table.gather(sweep, out), out)

        work.work(sweep, out, todo, devices, inherit, tell_and_table, tick)
        found = table.gather(sweep, out)
        table.write(found, out)
    print(table.text(found), end="")
    return 1 if any(work.status(out, one).state != "done" for one in runs) else 0


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Being told to end, or losing the terminal, is as Ctrl-C: the runs are ended too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


Tell = Callable[[str], None]
Tick = Callable[[Mapping[str, str]], None]


@contextmanager
def _console(runs: int, quiet: bool) -> Iterator[tuple[Tell, Tick]]:
    """How to say that something happened, and how to show what is at work on a terminal."""
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    bar: Any = tqdm(total=runs, bar_format="{postfix}", disable=hidden, dynamic_ncols=True)

    def tell(line: str) -> None:
        if not quiet:
            bar.write(line, file=sys.stderr)

    def tick(progress: Mapping[str, str]) -> None:
        bar.set_postfix_str("; ".join(f"{name}: {how}" for name, how in progress.items()))

    with bar:
        yield tell, tick
