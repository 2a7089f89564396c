"""Tokens on the disk: safetensors files of some hundred clips each, whose names are the hashes of their bytes.

A shard is written whole, synced, renamed, and never changed; its name says what it must hold. So there is no index to
lose (it is read from the headers), writers don't disturb each other, and damage is found when a shard is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lavcap_core.data import Ready
from lavcap_core.errors import DataError
from lavcap_core.files import replace_text, sync

__all__ = ["Entry", "Shards", "compact"]

_CLIPS, _BYTES, _SECONDS = 256, 32 << 20, 120.0
"""A shard is written when it has so many clips or bytes, or so long after its first clip."""
_LEFT_OVER = 3600.0
"""Seconds after which a half-written file belongs to nobody any more."""
_WORST = 1e-3
"""Largest root mean square error of half precision, relative to the values'; else float32 is kept."""


@dataclass(frozen=True)
class Entry:
    """What an encoder gave for one clip.

    Attributes:
        tokens: the tokens, or None if the clip lacks the modality.
        seconds: length of the clip.
        has: all modalities that the clip has, whether they are kept or not.
    """

    tokens: Ready | None
    seconds: float
    has: frozenset[str] = frozenset()


@dataclass
class Shards:
    """Entries of one encoder in one configuration.

    Args:
        folder: where the shards are.
        key: hash of all that the entries depend on beside the clip; shards of another one are not looked at.
    """

    folder: Path
    key: str
    damaged: list[str] = field(default_factory=list)
    """Shards that were found damaged by `open`."""
    _places: dict[str, tuple[Any, float, frozenset[str]]] = field(default_factory=dict)
    _pending: dict[str, Entry] = field(default_factory=dict)
    _bytes: int = 0
    _since: float = 0.0

    def open(self) -> None:
        """Finds what is there and checks every shard's bytes against its name; damaged ones are left out."""
        self._places, self.damaged = {}, []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                self._add(path)
            except FileNotFoundError:  # another process has just removed it
                continue
            except (SafetensorError, OSError, ValueError, KeyError):
                self.damaged.append(path.name)

    def remove_damaged(self) -> None:
        """Removes damaged shards, and files that killed writers left behind."""
        left = [path for path in self.folder.glob(".*.tmp") if _age(path) > _LEFT_OVER]
        for path in [*(self.folder / name for name in self.damaged), *left]:
            with suppress(OSError):  # gone already, or a folder that only others may write
                path.unlink()

    def _add(self, path: Path) -> None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != path.stem:
                raise ValueError(path.name)
        opened = safe_open(path, framework="pt")
        facts = opened.metadata()  # type: ignore[no-untyped-call]
        if facts["key"] == self.key:
            for clip, (seconds, has) in json.loads(facts["clips"]).items():
                self._places.setdefault(clip, (opened, seconds, frozenset(has)))

    def __contains__(self, clip: str) -> bool:
        return clip in self._places or clip in self._pending

    def __len__(self) -> int:
        return len(self._places)

    def bytes(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def read(self, clip: str) -> Entry:
        """The entry of a clip, from shards that `open` has seen.

        Raises:
            KeyError: if there is none.
        """
        opened, seconds, has = self._places[clip]
        data = opened.get_tensor(f"{clip}.data")
        if not len(data):
            return Entry(None, seconds, has)
        timed = f"{clip}.times" in opened.keys()  # noqa: SIM118 (it is no mapping)
        times = opened.get_tensor(f"{clip}.times") if timed else None
        return Entry(Ready(data, opened.get_tensor(f"{clip}.mask"), times), seconds, has)

    def add(self, clip: str, entry: Entry) -> None:
        """Adds an entry; it is on the disk after `flush`, which full shards call by themselves.

        Raises:
            DataError: D031 if it can't be written.
        """
        if not self._pending:
            self._since, self._bytes = time.monotonic(), 0
        self._pending[clip] = entry
        self._bytes += 0 if entry.tokens is None else entry.tokens.data.nbytes
        late = time.monotonic() - self._since > _SECONDS
        if late or len(self._pending) >= _CLIPS or self._bytes >= _BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what was added. `open` sees it afterwards.

        Raises:
            DataError: D031 if it can't be written.
        """
        if not self._pending:
            return
        clips = {clip: (entry.seconds, sorted(entry.has)) for clip, entry in self._pending.items()}
        blob = save(_tensors(self._pending), {"key": self.key, "clips": json.dumps(clips)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder, f"{hashlib.sha256(blob).hexdigest()}.safetensors", blob)
        except OSError as error:
            raise DataError(
                "D031",
                f"the feature cache can't be written: {error.strerror}",
                help="set train.cache_folder to a folder with more room, or train.cache: false",
                file=str(self.folder),
            ) from None
        self._pending = {}

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Writes beside the shards what they depend on, for people; its date says when they were last used."""
        file = self.folder / "about.json"
        with suppress(OSError):  # what can't be written shows when there is something to write
            self.folder.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                replace_text(file, json.dumps(facts, indent=1, sort_keys=True) + "\n")
            os.utime(file)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _tensors(entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for clip, entry in entries.items():
        tokens = entry.tokens
        found[f"{clip}.data"] = torch.zeros(0, 0) if tokens is None else tokens.data
        if tokens is not None:
            found[f"{clip}.mask"] = tokens.mask
            if tokens.times is not None:
                found[f"{clip}.times"] = tokens.times.float()
    # Rows of one batch share their memory, which safetensors refuses.
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in found.items()}


def _write(folder: Path, name: str, blob: bytes) -> None:
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    sync(folder)


def compact(data: Tensor) -> Tensor:
    """Values [N, D] in half precision, or in float32 where half has not the range or the precision for them."""
    data = data.float()
    half = data.half()
    error = (half.float() - data).square().mean().sqrt()
    return half if error <= _WORST * data.square().mean().sqrt() else data
