"""``lavcap train``: trains what a spec says is trained."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lavcap_core.cli.common import add_spec_arguments, read_spec

__all__ = ["command"]

_EPILOG = """
The folder gets log.jsonl (a row per step), validation.jsonl, checkpoints, best.json and summary.json. The same command
with --resume goes on after whatever stopped it, to the same numbers. A checkpoint is used with:
lavcap caption --spec FOLDER/checkpoints/step-.../spec.yaml CLIP. Under torchrun, the same command uses all devices.
"""


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = _EPILOG
    add_spec_arguments(parser, positional=True)
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="folder of the run (default: runs/NAME of the spec)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint, if there is one")
    parser.add_argument("--quiet", action="store_true", help="no progress on the console")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains; says where the result is."""
    spec = read_spec(args)
    from lavcap_core.run.train import train

    folder = args.out or Path("runs") / (args.preset or Path(args.spec).stem)
    summary = train(spec, folder, resume=args.resume, quiet=args.quiet)
    if not args.quiet and os.environ.get("RANK", "0") == "0":  # of several processes the first one says it
        best = summary["best"]
        chosen = f", best after step {best['step']} by {best['by']} ({best['value']:.4g})" if best else ""
        print(f"{summary['steps']} steps{chosen}: {folder}")
    return 0
