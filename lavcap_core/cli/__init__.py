"""The command `lavcap`: one module per verb, imported only when the verb is called.

A verb is a function ``command(parser)`` that adds its arguments and sets ``run``, a function ``(args) -> exit code``.
Plugins add verbs through the entry points ``lavcap.command``, which name such a function.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from lavcap_core.errors import LavcapError

__all__ = ["VERBS", "main"]

VERBS = {
    "caption": "say what is heard and seen in clips",
    "evaluate": "score captions against references, and compare systems",
    "train": "train a pipeline from a spec, or go on with it",
    "sweep": "train the runs of an ablation, and table what came out",
    "data": "make, check, divide and describe manifests of training data",
    "init": "write a commented spec to start from",
    "check": "report everything that is wrong with a spec",
    "show": "draw a spec's parts with their widths (text, mermaid, dot)",
    "explain": "explain an error code",
    "schema": "print the JSON schema of specs, for editors",
    "plugins": "list, describe and examine plugins",
    "import": "turn what other code trained into a spec and weights",
    "info": "versions and hardware, to paste into a report",
}
"""Verbs of the core, each a module of this package."""

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; gives the exit code: 0 done, 1 some clips failed, 2 wrong use or spec, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        verb = next((word for word in arguments if not word.startswith("-")), None)
        args = _parser(verb).parse_args(arguments)
        code: int = args.run(args)
        return code
    except LavcapError as error:
        print(error, file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser, with the arguments of one verb only: the others' modules aren't imported."""
    parser = argparse.ArgumentParser(prog="lavcap", description="Captions of what a machine hears and sees.")
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    parser.set_defaults(run=lambda args: _help(parser))
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    for name, summary in VERBS.items():
        child = verbs.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == verb:
            importlib.import_module(f"lavcap_core.cli.{name}").command(child)
    _add_plugin_verbs(verbs, verb)
    return parser


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return OK


def _add_plugin_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str | None) -> None:
    if verb in VERBS:
        return
    from lavcap_core.registry import installed

    registry = installed()
    for name in sorted({entry.name for entry in registry.entries("command")} - VERBS.keys()):
        owners = " and ".join(e.distribution for e in registry.entries("command") if e.name == name)
        child = verbs.add_parser(name, help=f"from {owners}")
        if name == verb:
            _load_verb(registry.find("command", name), child)


def _load_verb(entry: object, parser: argparse.ArgumentParser) -> None:
    from lavcap_core.errors import PluginError
    from lavcap_core.registry import Entry

    assert isinstance(entry, Entry)
    try:
        entry.load()(parser)  # type: ignore[operator]
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(
            "R003", f"command '{entry.name}' of {entry.distribution} can't be loaded: {reason}"
        ) from error


class _Version(argparse.Action):
    """Reads the version only when asked."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"lavcap {version('lavcap-core')}")
        parser.exit()
