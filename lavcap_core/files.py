"""Files that are either the old one or the new one, whatever happens to the process that writes them; the cache."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["cache_folder", "replace_text", "sync"]


def replace_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name, syncs it and renames it.

    Half a surrogate pair, which no UTF-8 holds, is written as JSON escapes it.

    Raises:
        OSError: with the name of the file that was meant; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror, str(path)) from None


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    if path.is_dir() and os.name != "posix":  # elsewhere a folder can't be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder(name: str) -> Path:
    """A folder of the user's cache: in ``$LAVCAP_CACHE``, else in ``lavcap`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    chosen = os.environ.get("LAVCAP_CACHE")
    if chosen:
        return Path(chosen).expanduser() / name
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lavcap" / name
