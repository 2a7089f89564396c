"""``lavcap evaluate``: scores of captions against references."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lavcap_core.cli.caption import add_work_arguments, caption_clips, work_spec
from lavcap_core.errors import Problem, RunError
from lavcap_core.run.evaluate.read import KINDS

if TYPE_CHECKING:
    from lavcap_core.run.evaluate.published import Published
    from lavcap_core.run.evaluate.read import Captions, Matched
    from lavcap_core.run.evaluate.result import Evaluation
    from lavcap_core.run.evaluate.score import Chosen
    from lavcap_core.run.evaluate.table import Differences

__all__ = ["command"]

_EPILOG = """
Captions are rows of `lavcap caption --out`, or a csv or jsonl file with id and caption; references a manifest, or the
official csv of AudioCaps or Clotho. Several files, of captions or saved by --json, stand side by side; the others are
tested against the first. With --data, a spec's captions are made first, into --out; the same command goes on with them.
Exit code: 0 all scored, 1 a metric failed, or one that was asked for can't be computed, 2 wrong use or input, 130
interrupted.
"""


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("inputs", nargs="+", metavar="FILE", help="captions (.jsonl, .csv), evaluations (.json), or with --data a spec")
    add("--references", metavar="FILE", type=Path, help="what people said of the clips (.jsonl, .csv)")
    add("--data", metavar="FILE", type=Path, help="caption the clips of this manifest with a spec or preset first")
    add("--metrics", metavar="NAMES", help="with commas between (default: all installed that run no model)")
    add("--metric-set", action="append", default=[], metavar="NAME.KEY=VALUE", help="a setting of a metric")
    add("--tokeniser", choices=("ptb", "none"), help="of all metrics that have one (default: ptb)")
    add("--allow", metavar="KINDS", default="", help=f"what is no error, with commas between: {', '.join(KINDS)}")
    add("--intersect", action="store_true", help="score all systems on the clips that all of them have")
    add("--name", action="append", default=[], metavar="NAME", help="of a system, in order (default: the file's)")
    add("--json", metavar="FILE", type=Path, help="write everything, to be compared later")
    add("--csv", metavar="FILE", type=Path, help="write the scores of each clip")
    add("--html", metavar="FILE", type=Path, help="write a page with all clips to sort and filter")
    add("--markdown", action="store_true", help="print Markdown")
    add(
        "--published",
        action=argparse.BooleanOptionalAction,
        help="print LAVCap's published scores beside, or don't (default: if clips are named as those of AudioCaps)",
    )
    add("--seed", type=_seed, default=0, metavar="N", help="of the bootstrap and the tests (default: 0)")
    captioning = parser.add_argument_group("captioning, with --data")
    add = captioning.add_argument
    add("--out", metavar="FILE", type=Path, help="the captions (default: SPEC.DATA.captions.jsonl)")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as in lavcap caption")
    add_work_arguments(captioning)
    parser.set_defaults(run=run)


_SCORING = ("metrics", "metric_set", "tokeniser", "allow", "references")
"""Arguments that say how captions are scored."""


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return number


def run(args: argparse.Namespace) -> int:
    """Scores, prints and writes."""
    from lavcap_core.run.evaluate import compare

    _require_usage(args)
    evaluations = _named(args, _evaluations(args))
    if args.intersect:
        evaluations = compare.intersection(evaluations, args.seed)
    warnings = compare.unlike(evaluations)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    _report(args, evaluations, compare.compared(evaluations, args.seed), warnings)
    return 1 if any(_failed(args, each) for each in evaluations) else 0


def _failed(args: argparse.Namespace, evaluation: Evaluation) -> bool:
    """Whether a metric failed in a way that nobody foresaw, or one that was asked for can't be computed."""
    asked = [word.rpartition("/")[2] for word in _words(args.metrics or "")]
    lost = evaluation.unavailable.items()
    return not evaluation.scores or any(name in asked or why.startswith("E011") for name, why in lost)


def _require_usage(args: argparse.Namespace) -> None:
    """Says all that is wrong with the command at once, before any work."""
    problems = [Problem("E016", message, help) for message, help in _misused(args)]
    for file in filter(None, (args.json, args.csv, args.html, args.out)):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problems.append(Problem("E017", f"can't be written: {error.strerror}", file=str(file)))
    if problems:
        raise RunError(problems)


def _misused(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    captions = [name for name in args.inputs if not name.endswith(".json")]
    if args.data and len(args.inputs) > 1:
        yield "--data goes with one spec", "evaluate each with --json FILE, and compare the files"
    if not args.data and captions and args.references is None:
        yield f"{captions[0]} has nothing to be compared with", "--references FILE, or --data MANIFEST for a spec"
    scoring = [f"--{name.replace('_', '-')}" for name in _SCORING if getattr(args, name)]
    if scoring and not captions:
        yield f"{scoring[0]} is for captions, and these are scored already", "evaluate the captions anew with it"
    if not args.data and args.overrides:
        yield "--set is for a spec, with --data", "a metric's settings are --metric-set NAME.KEY=VALUE"
    if args.name and len(args.name) != len(args.inputs):
        yield f"{len(args.inputs)} systems have {len(args.name)} --name", "name each of them, in order"
    if len(set(args.name)) < len(args.name):
        yield "two systems have the same --name", "call each its own"
    unknown = [kind for kind in _words(args.allow) if kind not in KINDS]
    if unknown:
        yield f"--allow: there is no '{unknown[0]}'", f"there are: {', '.join(KINDS)}"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _evaluations(args: argparse.Namespace) -> list[Evaluation]:
    """Every system's; what is wrong with any file is told before the first is scored."""
    from lavcap_core.run.evaluate.evaluation import evaluate
    from lavcap_core.run.evaluate.result import Evaluation

    saved = {name: Evaluation.read(Path(name)) for name in args.inputs if _is_saved(args, name)}
    if len(saved) == len(set(args.inputs)):
        return [saved[name] for name in args.inputs]
    chosen = _chosen(args)
    matched = _matched(args, [name for name in args.inputs if name not in saved])
    return [saved[name] if name in saved else evaluate(matched[name], chosen, args.seed) for name in args.inputs]


def _is_saved(args: argparse.Namespace, name: str) -> bool:
    return not args.data and name.endswith(".json")


def _matched(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Matched]:
    """Captions put together with references, by the name of their file."""
    from lavcap_core.run.evaluate.read import match, read_captions, read_references
    from lavcap_core.run.evaluate.table import left_out

    references = read_references(args.references or args.data)
    found: dict[str, Matched] = {}
    problems: list[Problem] = []
    for name in names:
        captions = _captioned(args) if args.data else read_captions(Path(name))
        try:
            found[name] = match(captions, references, _words(args.allow))
        except RunError as error:
            problems += error.problems
    if problems:
        raise RunError(problems)
    for name, matched in found.items():
        for kind, clips in matched.left_out.items():
            print(f"warning: {name}: {left_out(kind, clips)}", file=sys.stderr)
    return found


def _named(args: argparse.Namespace, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Evaluations called as the user says, else as short as tells them apart."""
    names = args.name or [each.system for each in evaluations]
    if len(set(names)) < len(names):
        names = args.inputs
    return [replace(each, system=name) for each, name in zip(evaluations, names, strict=True)]


def _chosen(args: argparse.Namespace) -> Chosen:
    from lavcap_core.errors import SpecError
    from lavcap_core.run.evaluate.score import choose
    from lavcap_core.spec import merge
    from lavcap_core.yaml import Node

    node, problems = merge(Node({}), args.metric_set)
    settings = node.plain()
    problems += [
        Problem("S004", "names no setting of a metric", "write NAME.KEY=VALUE", key=name)
        for name, value in settings.items()
        if not isinstance(value, dict)
    ]
    if problems:
        raise SpecError(problems)
    return choose(_words(args.metrics) if args.metrics else None, args.tokeniser, settings)


def _captioned(args: argparse.Namespace) -> Captions:
    """Captions of a spec, made if they aren't there yet."""
    from lavcap_core.manifest import read_manifest
    from lavcap_core.run.evaluate.read import read_captions

    args.spec, args.preset = args.inputs[0], None
    path = Path(args.spec)
    system = path.absolute().parent.name if path.name == "spec.yaml" else path.stem
    args.out = args.out or Path(f"{system}.{args.data.stem}.captions.jsonl")
    spec = work_spec(args)
    caption_clips(argparse.Namespace(**{**vars(args), "seed": None}), spec, read_manifest(args.data))
    return read_captions(args.out, system)


def _report(
    args: argparse.Namespace, evaluations: Sequence[Evaluation], differences: Differences, warnings: Sequence[str]
) -> None:
    from lavcap_core.run.evaluate import published, table

    beside = published.of_same_data(evaluations) if args.published is None else []
    beside = published.known() if args.published else beside
    sections = [*table.scores(evaluations, beside), *table.differences(evaluations, differences)]
    notes = [*(f"warning: {line}" for line in warnings), *(row.note for row in beside)]
    try:
        _write(args, evaluations, beside, differences)
    except OSError as error:
        raise RunError("E017", f"can't be written: {error.strerror}", file=str(error.filename)) from None
    finally:  # in this order neither a file nor a terminal that takes no more costs the other
        print((table.markdown if args.markdown else table.text)(evaluations, sections, notes), end="")


def _write(
    args: argparse.Namespace, evaluations: Sequence[Evaluation], beside: Sequence[Published], differences: Differences
) -> None:
    from lavcap_core.run.evaluate import table

    if args.json:
        table.write_json(evaluations, differences, args.json)
    if args.csv:
        table.write_csv(evaluations, args.csv)
    if args.html:
        from lavcap_core.run.evaluate.html import write_page

        write_page(evaluations, args.html, published=beside, compared=differences)
