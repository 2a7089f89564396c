"""``lavcap explain``: the page of an error code."""

from __future__ import annotations

import argparse
from importlib import resources

from lavcap_core.errors import RunError
from lavcap_core.registry import suggest

__all__ = ["command", "pages"]


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("code", nargs="?", metavar="CODE", help="such as P001; without it, all codes are listed")
    parser.set_defaults(run=run)


def pages() -> dict[str, str]:
    """Code to page, of all codes."""
    folder = resources.files("lavcap_core") / "pages"
    files = [file for file in folder.iterdir() if file.name.endswith(".md")]
    return {file.name.removesuffix(".md"): file.read_text(encoding="utf-8") for file in sorted(files, key=str)}


def run(args: argparse.Namespace) -> int:
    """Prints a page, or the title of each."""
    all_pages = pages()
    if args.code is None:
        for text in all_pages.values():
            print(text.splitlines()[0].removeprefix("# "))
        return 0
    code = args.code.upper()
    if code not in all_pages:
        help = suggest(code, all_pages) or "see all codes with: lavcap explain"
        raise RunError("C007", f"no page for '{args.code}'", help=help)
    print(all_pages[code], end="")
    return 0
