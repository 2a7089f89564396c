"""``lavcap caption``: what is heard and seen in clips."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavcap_core.cli.common import add_spec_arguments, read_spec
from lavcap_core.errors import RunError
from lavcap_core.manifest import Item, find_items

if TYPE_CHECKING:
    from lavcap_core.run.caption import Row, Rows
    from lavcap_core.spec import Spec

__all__ = ["add_work_arguments", "caption_clips", "command", "work_spec"]

_EPILOG = """
Without --spec or --preset, the preset `starter` is used. With --out, rows are appended as they come: the same command
goes on where it was stopped. Exit code: 0 all captioned, 1 some clips failed, 2 wrong use or spec, 130 interrupted.
"""


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("clips", nargs="+", metavar="CLIP", help="files, folders, globs, or a manifest (.csv, .jsonl)")
    add_spec_arguments(parser, positional=False)
    parser.add_argument("--image", metavar="FILE", help="a picture for a sound file (one clip only)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write JSON lines here, and resume from here")
    add_work_arguments(parser)
    parser.add_argument("--seed", type=int, help="of drawing, where the spec generates by drawing")
    parser.set_defaults(run=run)


def add_work_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds what says how captioning goes on, but for --out and --seed."""
    parser.add_argument("--overwrite", action="store_true", help="start --out anew")
    parser.add_argument("--retry", action="store_true", help="try clips again that --out has as errors")
    parser.add_argument("--device", help="as in backend.device (default: the spec's)")
    parser.add_argument("--dtype", help="precision: float32, bfloat16, float16 (default: the spec's)")
    parser.add_argument("--batch", type=_positive, default=4, metavar="N", help="clips at once (default: 4)")
    parser.add_argument(
        "--workers", type=_positive, default=2, metavar="N", help="threads that read files (default: 2)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def run(args: argparse.Namespace) -> int:
    """Captions; exit code 0 if every clip has a caption, else 1."""
    return 1 if caption_clips(args, work_spec(args), _items(args)) else 0


def work_spec(args: argparse.Namespace) -> Spec:
    """The spec that the arguments name, with --device and --dtype."""
    args.overrides += [f"backend.{key}={value}" for key in ("device", "dtype") if (value := getattr(args, key))]
    return read_spec(args)


def caption_clips(args: argparse.Namespace, spec: Spec, items: Sequence[Item]) -> int:
    """Captions to --out, or prints; gives the number of clips without a caption."""
    rows = _open_rows(args, spec)
    failed = rows.failed if rows else 0
    todo = [item for item in items if not rows or item.name not in rows.done]
    if rows and len(todo) < len(items):
        print(f"{len(items) - len(todo)} of {len(items)} clips are in {args.out} already", file=sys.stderr)
    try:
        failed += _caption(args, spec, todo, rows)
    finally:
        if rows:
            rows.close()
    if rows:
        print(f"{args.out}: {len(items) - failed} captions, {failed} errors", file=sys.stderr)
    return failed


def _items(args: argparse.Namespace) -> list[Item]:
    items = find_items(args.clips)
    if not items:
        raise RunError("C005", f"no clips in {', '.join(args.clips)}", help="name files, or a folder with media")
    if args.image is None:
        return items
    if len(items) != 1:
        raise RunError("C006", "--image goes with one clip", help="a manifest has a column 'image' for many")
    return [replace(items[0], image=args.image)]


def _open_rows(args: argparse.Namespace, spec: Spec) -> Rows | None:
    if args.out is None:
        return None
    from lavcap_core.run.caption import Rows

    if args.overwrite:
        args.out.unlink(missing_ok=True)
    rows = Rows(args.out, retry=args.retry)
    rows.open({"spec": spec.filled() | {"backend": None}, "versions": spec.versions(), "seed": args.seed})
    return rows


def _caption(args: argparse.Namespace, spec: Spec, items: Sequence[Item], rows: Rows | None) -> int:
    """Captions what is left to do; gives the number of errors."""
    if not items:
        return 0
    from lavcap_core.hooks import manager
    from lavcap_core.pipeline import load
    from lavcap_core.run.caption import caption_items

    hooks = manager()
    failed = done = 0
    pipeline = load(spec)
    hooks.hook.run_start(verb="caption", spec=spec.filled())
    options = {"seed": args.seed}
    try:
        made = caption_items(pipeline, items, batch=args.batch, workers=args.workers, options=options)
        for row in _progress(made, len(items), args.quiet):
            failed += row["status"] == "error"
            done += 1
            if rows:
                rows.write(row)
            else:
                _print(row, alone=len(items) == 1)
            hooks.hook.caption_end(row=row)
    finally:
        hooks.hook.run_end(verb="caption", summary={"captions": done - failed, "errors": failed})
    return failed


def _progress(rows: Iterator[Row], total: int, quiet: bool) -> Iterator[Row]:
    from tqdm import tqdm

    hidden = quiet or total == 1 or not sys.stderr.isatty()
    bar: Any = tqdm(total=total, unit="clip", disable=hidden, dynamic_ncols=True)
    with bar:
        for row in rows:
            with bar.external_write_mode():  # so that a printed caption and the bar don't mix
                yield row
            bar.update()


def _print(row: Row, alone: bool) -> None:
    name = "" if alone else f"{row['clip']}: "
    if row["status"] == "error":
        print(f"{row['clip']}: {row['code']} {row['reason']}", file=sys.stderr, flush=True)
        return
    for segment in row.get("segments", ()):
        print(f"{name}[{segment['start']:.1f}-{segment['end']:.1f} s] {segment['text']}")
    if not row.get("segments"):
        print(f"{name}{row['caption']}", flush=True)
    if row["status"] == "partial":
        print(f"{row['clip']}: only {row['seconds']:.1f} s could be read: {row['reason']}", file=sys.stderr, flush=True)
