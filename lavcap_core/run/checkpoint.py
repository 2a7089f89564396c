"""Checkpoints of a training run: what was trained and what it takes to go on, whole or not there at all.

A checkpoint is a folder ``step-00000200``:

| file | holds |
|---|---|
| ``trained.safetensors`` | trained parameters and buffers (adapters, projector), nothing that is frozen |
| ``spec.yaml`` | the filled-in spec, whose ``weights`` is that file: `lavcap caption --spec FOLDER/spec.yaml` uses it |
| ``optimiser.pt`` | state of the optimiser |
| ``state.json`` | the step, the best so far, unreadable clips, versions of all plugins in use, identity of the data |
| ``SHA256SUMS`` | a digest of each of these, and in its first line one of the other lines |

It is written under a temporary name, synced and renamed. A byte that changed afterwards is found when it is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lavcap_core.errors import WeightsError
from lavcap_core.files import sync
from lavcap_core.spec import Spec

__all__ = ["Checkpoint", "checkpoints", "newest", "prune", "read", "save", "spec_text", "verify"]

SUMS = "SHA256SUMS"
TRAINED = "trained.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole.

    Attributes:
        folder: where it is.
        trained: trained parameters and buffers.
        optimiser: state of the optimiser.
        state: content of ``state.json``.
    """

    folder: Path
    trained: dict[str, Tensor]
    optimiser: dict[str, Any]
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps that were done."""
        return int(self.state["step"])


def checkpoints(run: str | Path) -> list[Path]:
    """Checkpoints of a run, oldest first; those that are half written have another name."""
    return sorted((Path(run) / "checkpoints").glob("step-[0-9]*"))


def save(
    run: Path, spec: Spec, trained: Mapping[str, Tensor], optimiser: Mapping[str, Any], state: Mapping[str, Any]
) -> Path:
    """Writes a checkpoint of the step that ``state`` names.

    Returns:
        Its folder.
    """
    place = run / "checkpoints" / f"step-{state['step']:08d}"
    temporary = place.with_name(f".{place.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(dict(trained), temporary / TRAINED)
    torch.save(dict(optimiser), temporary / "optimiser.pt")
    (temporary / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True), encoding="utf-8")
    (temporary / "spec.yaml").write_text(spec_text(spec, TRAINED), encoding="utf-8")
    (temporary / SUMS).write_text(_sums(temporary), encoding="utf-8")
    for path in [*temporary.iterdir(), temporary]:
        sync(path)
    shutil.rmtree(place, ignore_errors=True)
    temporary.rename(place)
    sync(place.parent)
    return place


def spec_text(spec: Spec, weights: str | None) -> str:
    """The filled-in spec as YAML, a line per key; JSON on the right side, since nobody could read that differently."""
    filled = {**spec.filled(), "weights": weights}
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in filled.items())


def verify(folder: Path) -> None:
    """Compares every file with its digest.

    Raises:
        WeightsError: W031 that names what is damaged, missing or too much.
    """
    try:
        head, _, rest = (folder / SUMS).read_bytes().partition(b"\n")
        lines = rest.decode().splitlines()
    except (OSError, UnicodeDecodeError):
        raise _damaged(folder, f"{SUMS} can't be read") from None
    if head.decode(errors="replace") != _digest(rest):
        raise _damaged(folder, f"{SUMS} was changed")
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {path.name for path in folder.iterdir()} - {SUMS}
    if there != listed.keys():
        raise _damaged(folder, f"{', '.join(sorted(there ^ listed.keys()))} is missing or too much")
    for name, digest in listed.items():
        if _file_digest(folder / name) != digest:
            raise _damaged(folder, f"{name} was changed")


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; warns of each newer one that is not.

    Raises:
        WeightsError: W032 if there are checkpoints and none is whole.
    """
    found = checkpoints(run)
    for folder in reversed(found):
        try:
            return read(folder)
        except WeightsError as error:
            warnings.warn(f"{error.problems[0].message}; going on from the checkpoint before", stacklevel=2)
    if found:
        help = "start anew with another --out, or put back a checkpoint that is whole"
        raise WeightsError("W032", "no checkpoint of this run is whole", help=help, file=str(run))
    return None


def read(folder: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        WeightsError: W031 if it is damaged.
    """
    verify(folder)
    optimiser = torch.load(folder / "optimiser.pt", weights_only=True, map_location="cpu")
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(folder, load_file(folder / TRAINED), optimiser, state)


def prune(run: Path, keep: int, best: int | None, step: int) -> None:
    """Removes all but the newest ``keep`` checkpoints up to ``step`` and that of the step ``best``.

    What is newer than ``step`` is damaged: it must not push out the one that the run goes on from, and is left until
    the run comes by and writes it anew.
    """
    for folder in [folder for folder in checkpoints(run) if folder.name <= f"step-{step:08d}"][:-keep]:
        if best is None or folder.name != f"step-{best:08d}":
            # Renamed first, so that one that is half removed is not taken for a checkpoint.
            doomed = folder.with_name(f".{folder.name}")
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
            shutil.rmtree(doomed)


def _sums(folder: Path) -> str:
    rows = [f"{_file_digest(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    rest = "".join(rows)
    return f"{_digest(rest.encode())}\n{rest}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(folder: Path, what: str) -> WeightsError:
    help = "copy it anew, or take another checkpoint of the run"
    return WeightsError("W031", f"the checkpoint {folder.name} is damaged: {what}", help=help, file=str(folder))
