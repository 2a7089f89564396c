"""Arguments that several verbs share."""

from __future__ import annotations

import argparse

from lavcap_core.errors import SpecError
from lavcap_core.spec import Spec, read

__all__ = ["DEFAULT_PRESET", "add_spec_arguments", "read_spec"]

DEFAULT_PRESET = "starter"


def add_spec_arguments(parser: argparse.ArgumentParser, positional: bool) -> None:
    """Adds SPEC (or ``--spec``), ``--preset`` and ``--set``."""
    if positional:
        parser.add_argument("spec", nargs="?", metavar="SPEC", help="a YAML file or the name of a preset")
    else:
        parser.add_argument("--spec", metavar="SPEC", help="a YAML file")
    parser.add_argument("--preset", metavar="NAME", help="an installed preset; see: lavcap init --list")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value for one key, such as aligner.epsilon=0.05; may be repeated",
    )


def read_spec(args: argparse.Namespace) -> Spec:
    """The spec that the arguments name, checked; without any, the preset `starter`.

    Raises:
        SpecError: S007 for an unknown preset, with what is installed or how to install it.
    """
    from lavcap_core.presets import find

    if args.spec and args.preset:
        raise SpecError("S007", "a spec and a preset are both named", help="name one of them")
    name = args.preset or (None if args.spec else DEFAULT_PRESET)
    if name is None:
        return read(find(args.spec) or args.spec, args.overrides)
    file = find(name)
    if file is None:
        raise _unknown_preset(name)
    return read(file, args.overrides)


def _unknown_preset(name: str) -> SpecError:
    from lavcap_core import catalog, presets
    from lavcap_core.registry import suggest

    plugins = catalog.find("preset", name)
    have = presets.names()
    help = plugins[0].install if plugins else suggest(name, have) or f"installed are: {', '.join(have) or 'none'}"
    return SpecError("S007", f"no preset named '{name}' is installed", help=help)
