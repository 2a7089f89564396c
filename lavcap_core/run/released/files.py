"""Reads checkpoints lazily and without running anything of theirs: safetensors, torch's files, and shards of either.

A full module state with a 7B language model is 13 or 27 GB, of which an import needs some 30 MB: tensors are read when
they are asked for.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from lavcap_core.errors import WeightsError

__all__ = ["Stored", "read"]

_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".index.json")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        shape: its shape.
        read: reads it, in the precision in which it is stored.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def read(checkpoint: Path) -> dict[str, Stored]:
    """Tensors of a checkpoint by name.

    Args:
        checkpoint: a folder of transformers' Trainer, or a file: .safetensors, a file of torch whose tensors lie at the
            top or under ``model``, or the index of a sharded one.

    Raises:
        WeightsError: W040 if there is nothing, or it can't be read; W041 if it holds objects that aren't read; W042 if
            it holds something else than named tensors.
    """
    file = _find(checkpoint)
    return _sharded(file) if file.name.endswith(".index.json") else _single(file)


def _find(place: Path) -> Path:
    if place.is_file():
        return place
    if not place.is_dir():
        raise WeightsError("W040", "no such file or folder", file=str(place))
    for name in _NAMES:
        if (place / name).is_file():
            return place / name
    inside = sorted(path.name for path in place.iterdir() if _is_checkpoint(path))
    help = f"name one of those in it: {', '.join(inside[:8])}" if inside else f"a checkpoint holds {_NAMES[0]} or such"
    raise WeightsError("W042", "this folder is no checkpoint", help=help, file=str(place))


def _is_checkpoint(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).is_file() for name in _NAMES)
    return path.name.endswith(_SUFFIXES)


def _single(file: Path) -> dict[str, Stored]:
    return _safetensors(file) if file.suffix == ".safetensors" else _torch(file)


def _safetensors(file: Path) -> dict[str, Stored]:
    from safetensors import SafetensorError, safe_open

    try:
        opened: Any = safe_open(file, framework="pt")
        names = list(opened.keys())
        return {name: Stored(tuple(opened.get_slice(name).get_shape()), _from(opened, name)) for name in names}
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from error


def _from(opened: Any, name: str) -> Callable[[], Tensor]:
    def get() -> Tensor:
        tensor: Tensor = opened.get_tensor(name)
        return tensor

    return get


def _torch(file: Path) -> dict[str, Stored]:
    try:
        # Settings are often kept as a Namespace, which holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged files, which an error is raised for
            held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except UnpicklingError as error:
        raise _refused(file, error) or _unreadable(file, error) from error
    except Exception as error:
        # What the reader of a damaged file stumbles over has no class of its own: any of Python's may come.
        raise _unreadable(file, error) from error
    state = held["model"] if isinstance(held, Mapping) and isinstance(held.get("model"), Mapping) else held
    if not isinstance(state, Mapping):
        raise WeightsError("W042", "holds no named tensors, neither at the top nor under 'model'", file=str(file))
    fine = ((name, isinstance(name, str) and isinstance(value, Tensor)) for name, value in state.items())
    other = next((name for name, good in fine if not good), None)
    if other is not None:
        raise WeightsError("W042", f"'{other}' in it is no tensor", help="see `lavcap explain W042`", file=str(file))
    return {name: Stored(tuple(value.shape), _as_it_is(value)) for name, value in state.items()}


def _as_it_is(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor.detach()


def _refused(file: Path, error: UnpicklingError) -> WeightsError | None:
    """The error for an object that isn't read; None if it's something else that went wrong."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return None
    return WeightsError(
        "W041",
        f"holds an object of {found[1]} beside its tensors, and reading that could run code",
        help="`lavcap explain W041` says how to store the tensors alone",
        file=str(file),
    )


def _unreadable(file: Path, error: Exception) -> WeightsError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return WeightsError(
        "W040",
        f"can't be read: {reason}",
        help="compare its size with the original's, and copy it again",
        file=str(file),
    )


def _sharded(index: Path) -> dict[str, Stored]:
    places = _weight_map(index)
    shards = {name: _single(_shard(index, name)) for name in sorted(set(places.values()))}
    missing = [name for name, shard in places.items() if name not in shards[shard]]
    if missing:
        raise WeightsError("W040", f"{places[missing[0]]} lacks {missing[0]}, which it should hold", file=str(index))
    return {name: shards[shard][name] for name, shard in places.items()}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text("utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError("W040", f"is no index of shards: {error}", file=str(index)) from error
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise WeightsError("W040", "is no index of shards: weight_map must name a file per tensor", file=str(index))
    return places


def _shard(index: Path, name: str) -> Path:
    file = index.parent / name
    # An index may come from anybody: it names files beside itself, and no others.
    if Path(name).name != name or not file.is_file():
        raise WeightsError("W040", f"its shard {name} is not in the folder", help="copy all shards", file=str(index))
    return file
