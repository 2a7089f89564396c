"""``lavcap import``: what other code trained becomes a spec and trained parameters.

Its name is a word of Python, so that only `importlib` can import this module, which is how verbs are imported.
"""  # noqa: N999

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lavcap_core.cli.common import add_spec_arguments, read_spec

if TYPE_CHECKING:
    from lavcap_core.run.released.convert import Summary

__all__ = ["command"]

_PRESET = "lavcap-released"
_EPILOG = """
The spec says what was trained: without --spec or --preset it is the preset lavcap-released, and --set changes it, as in
--set decoder.model=FOLDER or --set audio_encoder.tune.mode=finetune. Then: lavcap caption --spec FOLDER/spec.yaml CLIP
"""


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("format", choices=["lavcap"], metavar="lavcap", help="LAVCap's released code, either version")
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a folder of transformers' Trainer, or a .pth file"
    )
    add_spec_arguments(parser, positional=False)
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="a new folder (default: the checkpoint's name with -imported, here)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="build the pipeline with its models, load the weights, compare what is frozen",
    )
    parser.add_argument("--ignore-unknown", action="store_true", help="leave out tensors that have no place")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Converts, and says what was taken and what was not."""
    if not args.spec and not args.preset:
        args.preset = _PRESET
    spec = read_spec(args)
    place = args.checkpoint.resolve()
    out = args.out or Path(f"{place.name if place.is_dir() else place.stem}-imported")
    from lavcap_core.run.released.convert import convert

    _print(convert(args.checkpoint, spec, out, check=args.check, ignore_unknown=args.ignore_unknown))
    return 0


def _print(summary: Summary) -> None:
    from lavcap_core.run.released.names import PARTS
    from lavcap_core.run.released.strategy import first

    for part, count in summary.counts.items():
        print(f"{PARTS[part]:<22}{count:>15,}")
    print(f"{'trained parameters':<22}{sum(summary.counts.values()):>15,}")
    for reason, names in summary.dropped.items():
        print(f"left out: {first(names, 1)} ({reason})")
    for note in summary.notes:
        print(f"note: {note}")
    files = sorted(f"{path.name}/" if path.is_dir() else path.name for path in summary.out.iterdir())
    print(f"{summary.out}: {', '.join(files)}")
