"""What files hold, as a hash: computed once per file, and again whenever the file may have changed."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from functools import cache
from pathlib import Path

from lavcap_core._media.pictures import find
from lavcap_core.errors import MediaError
from lavcap_core.files import cache_folder
from lavcap_core.manifest import Item

__all__ = ["Contents", "content_hash", "contents", "item_hash"]

_SETTLED = 2_000_000_000
"""Nanoseconds from a file's last change until its hash is kept: within a tick another change leaves no trace."""
_PENDING = 256


class Contents:
    """Hashes of files, kept in an SQLite file: by path, size, inode, and the times of the last change.

    Whatever is wrong with that file, hashes are right: they are computed anew.

    Args:
        file: where they are kept.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._pending: dict[str, tuple[str, str]] = {}
        self._database: sqlite3.Connection | None = None
        self._open()

    def hash(self, path: str | os.PathLike[str]) -> str:
        """SHA-256 of a file's bytes, in hexadecimal.

        Raises:
            MediaError: M001 if the file can't be read.
        """
        place = Path(path).absolute()
        name = str(place)
        try:
            before = _signature(place.stat())
            known = self._known(name, before)
            if known is not None:
                return known
            with place.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = place.stat()
        except OSError as error:
            message = "no such file" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
            raise MediaError("M001", message, file=os.fspath(path)) from None
        if _signature(after) == before and time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > _SETTLED:
            self._keep(name, before, digest)
        return digest

    def flush(self) -> None:
        """Writes what was computed since the last time."""
        with self._lock:
            rows = [(name, *found) for name, found in self._pending.items()]
            self._pending.clear()
            if self._database is None or not rows:
                return
            try:
                with self._database:
                    self._database.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", rows)
            except sqlite3.Error:  # full, locked for long, or on a file system that can't lock
                self._database = None

    def _known(self, name: str, signature: str) -> str | None:
        with self._lock:
            found = self._pending.get(name) or self._look_up(name)
        return found[1] if found is not None and found[0] == signature else None

    def _look_up(self, name: str) -> tuple[str, str] | None:
        if self._database is None:
            return None
        try:
            row = self._database.execute("SELECT signature, hash FROM contents WHERE path = ?", (name,)).fetchone()
        except sqlite3.Error:
            self._database = None
            return None
        return None if row is None else (row[0], row[1])

    def _keep(self, name: str, signature: str, digest: str) -> None:
        with self._lock:
            self._pending[name] = (signature, digest)
            full = len(self._pending) >= _PENDING
        if full:
            self.flush()

    def _open(self) -> None:
        for _ in range(2):
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                database = sqlite3.connect(self.file, timeout=30, check_same_thread=False)
                with database:
                    database.execute(
                        "CREATE TABLE IF NOT EXISTS contents (path TEXT PRIMARY KEY, signature TEXT, hash TEXT)"
                    )
            except (OSError, sqlite3.OperationalError):  # a folder that can't be written: hashes aren't kept
                return
            except sqlite3.DatabaseError:  # damaged: nothing is lost but time
                self.file.unlink(missing_ok=True)
            else:
                self._database = database
                return


def _signature(found: os.stat_result) -> str:
    # The time of the last change of a file's entry can't be set back, unlike that of its content.
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} {found.st_dev}"


@cache
def _opened(file: Path) -> Contents:
    return Contents(file)


def contents() -> Contents:
    """The hashes that are kept in the user's cache."""
    return _opened(cache_folder("features") / "contents.sqlite")


def content_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, for `lavcap_core.interfaces.Dataset.identity`; a file that didn't change is not read.

    Raises:
        MediaError: M001 if the file can't be read.
    """
    return contents().hash(path)


def item_hash(item: Item) -> str:
    """SHA-256 of all files that make a clip, and of the stretch that is read of them.

    Raises:
        MediaError: M001 if a file can't be read.
        DataError: D004 if there are no frames where there should be.
    """
    pictures = [] if item.frames is None else find(item.frames)
    files = [item.clip, item.image, item.audio_features, item.visual_features, *pictures]
    parts = [f"{item.start!r} {item.end!r}", *("-" if file is None else content_hash(file) for file in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
