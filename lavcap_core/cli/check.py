"""``lavcap check``: everything that is wrong with a spec, in one go."""

from __future__ import annotations

import argparse

from lavcap_core.cli.common import add_spec_arguments, read_spec

__all__ = ["command"]


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_spec_arguments(parser, positional=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a line for a good spec; the problems of a bad one are printed by `main`."""
    spec = read_spec(args)
    plugins = ", ".join(f"{name} {version}" for name, version in spec.versions().items())
    print(f"{spec.file}: fine ({plugins})")
    for slot, reason in spec.wiring.skipped.items():
        print(f"{spec.file}: note: {slot} is not in use: {reason}")
    return 0
