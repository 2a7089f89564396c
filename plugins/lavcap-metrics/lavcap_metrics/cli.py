"""The command ``lavcap metrics``: what is there, and SPICE's jars. Light: imports no metric."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["metrics"]


def metrics(parser: argparse.ArgumentParser) -> None:
    """Adds ``doctor`` and ``install-spice``; each sets ``run``, called with the arguments."""
    parser.description = "What the metrics need on this machine."
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    doctor = verbs.add_parser("doctor", help="try Java, the tokeniser, METEOR, and say what SPICE lacks")
    doctor.set_defaults(run=_doctor)
    install = verbs.add_parser(
        "install-spice", help="bring the jars of Stanford CoreNLP 3.6.0 that SPICE parses with, some 350 MB"
    )
    install.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FOLDER",
        help="a folder with the jars, or the publisher's archive; default: Maven Central, else nlp.stanford.edu",
    )
    install.set_defaults(run=_install)


def _doctor(args: argparse.Namespace) -> int:
    from lavcap_metrics.doctor import report

    fine = True
    for name, is_fine, text in report():
        first, *rest = text.splitlines()
        print(f"{name:16} {'fine   ' if is_fine else 'missing'} {first}", flush=True)
        for line in rest:
            print(f"{'':16} {'':7} {line}")
        # SPICE and sentence models are for those who ask for them.
        fine = fine and (is_fine or name in ("SPICE", "sentence models"))
    return 0 if fine else 1


def _install(args: argparse.Namespace) -> int:
    from lavcap_metrics import corenlp

    for name, row in corenlp.install(args.source).items():
        print(f"{name}\n  from     {row.source}\n  compared with {row.checked}\n  SHA-256  {row.sha256}")
    print(f"SPICE's jars are in {corenlp.folder()}")
    return 0
