"""``lavcap schema``: the JSON schema of specs with what is installed, for editors."""

from __future__ import annotations

import argparse
import json

from lavcap_core.schema import pipeline_schema

__all__ = ["command"]


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--recipe", default="captioner", help="default: captioner")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the schema."""
    print(json.dumps(pipeline_schema(args.recipe), indent=2))
    return 0
