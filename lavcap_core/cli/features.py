"""``lavcap data features``: computes what frozen encoders give for a spec's clips, so that training needn't."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, cast

from lavcap_core.builtin import TrainConfig
from lavcap_core.cli.common import add_spec_arguments, read_spec
from lavcap_core.errors import SpecError

if TYPE_CHECKING:
    from lavcap_core.run.features import Features, Report
    from lavcap_core.spec import Spec

__all__ = ["add_arguments"]

_EPILOG = """
Training does this at its first use; the command does it ahead, under torchrun on several devices, and says what failed.
Exit code: 0, or 1 if a clip could not be read or encoded.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = _EPILOG
    add_spec_arguments(parser, positional=True)
    parser.add_argument("--workers", type=int, metavar="N", help="threads that read clips (default: train.workers)")
    parser.add_argument(
        "--prune", type=_days, metavar="DAYS", help="then remove features that no run has used for so many days"
    )
    parser.set_defaults(run=run)


def _days(text: str) -> float:
    days = float(text)
    if not days > 0:
        raise argparse.ArgumentTypeError(f"not above 0: {text} (it would remove what has just been computed)")
    return days


def run(args: argparse.Namespace) -> int:
    """Fills the cache for the spec's training and validation clips, and says what is in it."""
    spec = read_spec(args)
    settings = cast(TrainConfig, spec.sections["train"])
    if settings.data is None and settings.validation is None:
        help = "write train: {data: MANIFEST} with clips and captions"
        raise SpecError("C024", "the spec names no training data", help=help, file=spec.file)
    from lavcap_core.builder import build_use
    from lavcap_core.run.features import Features, encoders

    backend = build_use(spec.pipeline.backend)
    backend.launch()
    backend.seed(settings.seed)  # of weights that are drawn, as in training
    features = Features(encoders(spec), backend, spec)
    speaks = backend.index == 0
    failed = _fill(spec, settings, features, settings.workers if args.workers is None else args.workers, speaks)
    if speaks:
        _say_sizes(features)
        if args.prune is not None:
            _prune(features, args.prune)
    return 1 if failed else 0


def _fill(spec: Spec, settings: TrainConfig, features: Features, workers: int, speaks: bool) -> int:
    from lavcap_core.builder import build_use
    from lavcap_core.run.features import prepare_reported

    failed = 0
    for name in ("data", "validation"):
        use = getattr(settings, name)
        if use is None:
            continue
        dataset = build_use(use)
        _, report = prepare_reported(dataset, features, workers)
        failed += len(report.failed)
        if speaks:
            _say(f"train.{name}", len(dataset.names), report)
    return failed


def _say(name: str, count: int, report: Report) -> None:
    for clip, reason in report.failed.items():
        print(f"{clip}: {reason}", file=sys.stderr)
    if not report.same:
        print(f"{name}: {count} clips, not cached: they differ at each reading")
        return
    new = ", ".join(f"{number} computed now ({modality})" for modality, number in sorted(report.computed.items()))
    print(f"{name}: {count} clips, {new or 'nothing computed now'}, {len(report.failed)} errors")


def _say_sizes(features: Features) -> None:
    for slot, reason in features.left_out.items():
        print(f"{slot}: not cached, {reason}")
    for modality, shards in features.shards.items():
        count, size = len(shards), shards.bytes()
        per_clip = f", {size / count / 1000:.1f} kB each" if count else ""
        print(f"{modality}_encoder: {count} clips in {shards.folder}{per_clip}")


def _prune(features: Any, days: float) -> None:
    from lavcap_core.run.features import prune

    count, size = prune(features.folder, days)
    print(f"removed the features of {count} encoders, {size / 1e6:.1f} MB")
