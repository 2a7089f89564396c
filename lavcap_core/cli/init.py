"""``lavcap init``: a commented spec, or sweep, to start from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lavcap_core import presets
from lavcap_core.cli.common import DEFAULT_PRESET, _unknown_preset
from lavcap_core.errors import RunError
from lavcap_core.registry import installed

__all__ = ["command"]


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    help = "or a sweep; default: starter"
    parser.add_argument("preset", nargs="?", default=DEFAULT_PRESET, metavar="PRESET", help=help)
    parser.add_argument("--list", action="store_true", help="list the installed presets and sweeps")
    parser.add_argument("--out", metavar="FILE", help="default: PRESET.yaml here; - prints it")
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the text of a preset, or of a sweep, with its paths made absolute."""
    if args.list:
        for entry in (*installed().entries("preset"), *installed().entries("sweep")):
            use = ", for lavcap sweep" if entry.kind == "sweep" else ""
            print(f"{entry.name}  ({entry.distribution} {entry.version}{use})")
        return 0
    file = presets.find(args.preset) or presets.find(args.preset, "sweep")
    if file is None:
        raise _unknown_preset(args.preset)
    text = _with_absolute_weights(file)
    if args.out == "-":
        sys.stdout.write(text)
        return 0
    out = Path(args.out or f"{args.preset}.yaml")
    if out.exists() and not args.force:
        raise RunError("C008", "is there already", help="--force overwrites it, --out names another", file=str(out))
    out.write_text(text, encoding="utf-8")
    print(out)
    return 0


def _with_absolute_weights(file: Path) -> str:
    """The preset's text, comments and all; a relative ``weights:`` would point elsewhere in the user's folder."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    for i, line in enumerate(lines):
        key, colon, rest = line.partition(":")
        name = rest.partition("#")[0].strip()
        if key == "weights" and colon and name and not Path(name).is_absolute():
            lines[i] = line.replace(name, str((file.parent / name).resolve()), 1)
    return "".join(lines)
