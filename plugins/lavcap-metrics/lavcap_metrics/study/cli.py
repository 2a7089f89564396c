"""The command ``lavcap study``. Light: what it needs is imported when its work starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lavcap_core.errors import RunError

if TYPE_CHECKING:
    from lavcap_metrics.study.make import Drawn, Sources

__all__ = ["study"]

_LIMIT = 100.0


def study(parser: argparse.ArgumentParser) -> None:
    """Adds ``make`` and ``report`` to the parser; each sets ``run``, called with the arguments."""
    parser.description = "Listening studies: people score captions of several systems, and see not whose they are."
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_make(verbs.add_parser("make", help="write a page that shows clips and captions and collects scores"))
    _add_report(verbs.add_parser("report", help="mean opinion scores of the files that raters saved"))


def _add_make(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("captions", nargs="+", metavar="FILE", type=Path, help="captions (.jsonl, .csv), a file for each system")
    add("--name", action="append", default=[], metavar="NAME", help="of a system, in order (default: the file's)")
    add("--references", metavar="FILE", type=Path, help="what people said of the clips: shown as one system more")
    add(
        "--media",
        metavar="FOLDER",
        type=Path,
        help="folder of the clips (default: the files that references or captions name)",
    )
    add("--clips", metavar="N", type=_count, default=35, help="how many to show (default: 35)")
    add("--seed", metavar="N", type=int, default=0, help="draws the clips (default: 0)")
    add("--out", metavar="FILE", type=Path, default=Path("study.html"), help="the page (default: study.html)")
    add("--key", metavar="FILE", type=Path, help="which caption is whose (default: study.key.json beside the page)")
    add("--question", metavar="TEXT", help="what raters are asked")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--embed", action="store_true", help="put the clips into the page (default)")
    how.add_argument("--link", action="store_true", help="leave the clips where they are; the page leads to them")
    add("--limit", metavar="MB", type=float, default=_LIMIT, help=f"most that a page may hold (default: {_LIMIT:g})")
    parser.set_defaults(run=_make)


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("key", metavar="KEY", type=Path, help="the .key.json file of the study")
    add("answers", nargs="+", metavar="FILE", type=Path, help="what raters saved: files, or folders of them")
    add("--json", metavar="FILE", type=Path, help="write everything")
    add("--seed", metavar="N", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.set_defaults(run=_report)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


def _make(args: argparse.Namespace) -> int:
    from lavcap_metrics.study import make

    key_file = args.key or args.out.parent / f"{args.out.stem}.key.json"
    _require_new(args.out, key_file)
    sources = _sources(args)
    question = args.question or make.QUESTION
    drawn = make.draw(sources, args.clips, args.seed)
    files = {captions.system: captions.file for captions in sources.captions}
    files |= {make.GROUND_TRUTH: str(args.references)} if args.references else {}
    made = make.key(drawn, {"files": files, "seed": args.seed, "question": question})
    with _written(key_file):  # first: a page without its key would be worth nothing
        made.write(key_file)
    limit = round(args.limit * 1e6)
    try:
        with _written(args.out):
            size = make.write_page(made, args.media or Path(), args.out, question, not args.link, limit)
    except BaseException:  # nobody has a page that this key could be of
        key_file.unlink(missing_ok=True)
        raise
    _tell(args, drawn, size, key_file)
    return 0


def _require_new(page: Path, key: Path) -> None:
    """Without the key, the scores of those who have the page already are worth nothing."""
    if page.is_dir() or key == page:
        raise RunError("E069", "is no file for a page" if page.is_dir() else "is page and key", file=str(page))
    for file, what in ((page, "page"), (key, "key")):
        if file.exists():
            help = "choose another --out, or remove the old study's page and key if nobody is at work on it"
            raise RunError("E068", f"is the {what} of an earlier study", help=help, file=str(file))


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Makes the folder of a file; says in a line what keeps it from being written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RunError("E069", f"can't be written: {error.strerror or error}", file=str(path)) from None


def _sources(args: argparse.Namespace) -> Sources:
    from lavcap_core.run.evaluate.read import read_captions, read_references
    from lavcap_metrics.study.make import Sources

    if args.media and not args.media.is_dir():
        raise RunError("E060", "is no folder", help="--media names the folder of the clips", file=str(args.media))
    if len(args.name) > len(args.captions):
        raise RunError("E061", f"{len(args.name)} names for {len(args.captions)} files of captions")
    captions = [read_captions(file) for file in args.captions]
    named = [replace(one, system=name) for one, name in zip(captions, args.name, strict=False)]
    references = read_references(args.references) if args.references else None
    return Sources([*named, *captions[len(named) :]], references, args.media)


def _tell(args: argparse.Namespace, drawn: Drawn, size: int, key_file: Path) -> None:
    where = f"leads to {args.media or 'the clips'}" if args.link else f"{size / 1e6:.1f} MB of clips in it"
    print(f"{args.out}: {args.clips} of {drawn.candidates} clips, {len(drawn.texts)} systems, {where}")
    print(f"{key_file}: which caption is whose; raters must not get it")
    for reason, number in drawn.left_out.items():
        print(f"left out: {number} clip{'' if number == 1 else 's'} {reason}", file=sys.stderr)


def _report(args: argparse.Namespace) -> int:
    from lavcap_metrics.study import answers, report
    from lavcap_metrics.study.key import Key

    key = Key.read(args.key)
    if args.json and args.json.resolve() == args.key.resolve():
        raise RunError("E069", "is the study's key, without which its scores mean nothing", file=str(args.json))
    # A pattern such as answers/*.json may bring the key or the last report, if they lie there.
    own = [path.resolve() for path in (args.key, args.json) if path]
    paths: Sequence[Path] = [path for path in answers.files(args.answers) if path.resolve() not in own]
    used, problems = answers.gather(paths, key)
    for problem in problems:
        print(problem, file=sys.stderr)
    found = report.report(key, used, args.seed)
    if args.json:
        with _written(args.json):
            report.write(found, {str(problem.file): problem.message for problem in problems}, args.json)
    print(report.text(found), end="")
    return 1 if problems else 0
