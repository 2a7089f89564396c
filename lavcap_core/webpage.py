"""Web pages of one file that ask the network for nothing: a template with style, script and data inside.

A template is HTML with one ``<style>``, one ``<script>`` and names in double braces. Texts of users reach the page as
JSON in a script element of another type, which browsers don't run, or escaped. A content security policy allows the
template's own script and style by their hashes; whatever else might get in is not run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["assemble", "embed", "link"]

_NAME = re.compile(r"\{\{(\w+)\}\}")


def assemble(template: str, texts: Mapping[str, str], parts: Mapping[str, str]) -> str:
    """A page.

    Args:
        template: HTML that names what goes into it, ``{{policy}}`` in its head among them.
        texts: plain texts; they are escaped.
        parts: HTML that goes in as it is, such as what `embed` gives.
    """
    policy = (
        f"default-src 'none'; script-src {_hash(template, 'script')}; style-src {_hash(template, 'style')}; "
        "img-src data:; media-src 'self' file: data: blob:; base-uri 'none'; form-action 'none'"
    )
    filling = {**{name: _escaped(text) for name, text in texts.items()}, **parts, "policy": policy}
    return _NAME.sub(lambda found: filling[found[1]], template)  # in one go: what is filled in is not searched


def _escaped(text: str) -> str:
    """Names of files may hold half a surrogate pair, which no file can."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def _hash(template: str, tag: str) -> str:
    """The source expression of the template's element, of which there is one."""
    (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", template, flags=re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


def embed(data: Any) -> str:
    """JSON that can stand within a script element: in ASCII, so that no text can end the element or break the encoding.

    JSON has no NaN and no infinity: they become null.
    """
    return json.dumps(_finite(data), ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(name): _finite(value) for name, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data


def link(file: Path, folder: Path) -> str:
    """The address of a file for a page in a folder: relative, so that both can be moved together."""
    try:
        return quote(Path(os.path.relpath(file, folder)).as_posix(), errors="surrogateescape")
    except ValueError:  # on another drive
        return file.absolute().as_uri()
