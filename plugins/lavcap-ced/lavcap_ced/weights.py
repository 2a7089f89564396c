"""Weights of CED: published layouts on a disk or a hub, read without unpickling code, every key accounted for.

Three layouts are told apart by their keys alone: the Hugging Face one (``encoder.`` in front, fused ``attn.qkv``, head
``outputlayer``), the original ``.pt`` (no prefix, ``init_bn.1``, ``front_end.*``), and that of `Ced` itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal
from zipfile import is_zipfile

import torch
from torch import Tensor

from lavcap_ced.model import Ced, Geometry
from lavcap_ced.plugin import HUB, WIDTHS
from lavcap_core.errors import Problem, WeightsError
from lavcap_core.pretrained import unknown_size

__all__ = ["load", "outline", "random", "read_state"]

_FILES = ("model.safetensors", "pytorch_model.bin")
_HEAD = 64  # width of an attention head in all published sizes
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<!\.pt)(?<!\.pth)(?<!\.bin)(?<!\.safetensors)")
_DROPPED = re.compile(r"front_end\..*|output_?layer\.[01]\.(weight|bias)")
_SHOWN = 20


def random(size: str, seed: int) -> Ced:
    """A network of a published size with random weights.

    Args:
        size: ``tiny``, ``mini``, ``small`` or ``base``.
        seed: of the weights; torch's own random state is neither read nor changed.
    """
    width = WIDTHS[size]
    return Ced(Geometry(width, width // _HEAD)).randomise(seed)


def load(model: str, *, revision: str | None = None, size: str | None = None) -> Ced:
    """Reads a network.

    Args:
        model: folder with config.json and model.safetensors or pytorch_model.bin; a .safetensors, .pt, .pth or .bin
            file; or a hub name.
        revision: branch, tag or commit of a hub name.
        size: the size that the weights must have, or None for any.

    Returns:
        The network in float32, in training mode as all new modules.

    Raises:
        WeightsError: W060 if there are no weights; W061 if the hub gives none; W062 if a file can't be read safely;
            W063 if keys are missing or unknown; W064 if shapes don't fit each other, config.json or ``size``.
    """
    path = Path(model)
    if not path.exists():
        path = _fetch(model, revision)
    file, settings = _find(path)
    state, unknown = _canonical(read_state(file))
    network = _fitting(state, unknown, settings, file)
    if size is not None and network.geometry.width != WIDTHS[size]:
        raise WeightsError(
            "W064",
            f"the weights have width {network.geometry.width}, size '{size}' has {WIDTHS[size]}",
            help="leave `size` out, or name the weights' own",
            file=str(file),
        )
    network.load_state_dict(state, assign=True)
    return network


def outline(model: str | None, size: str | None) -> Ced:
    """A network on the meta device, as large as `load` or `random` makes it; nothing is read but shapes.

    Raises:
        WeightsError: as `load` for local files.
        BuildError: B050 if ``model`` is a hub name of no published size, and ``size`` doesn't tell it.
    """
    if model is not None and Path(model).exists():
        file, settings = _find(Path(model))
        state, unknown = _canonical(read_state(file, "meta"))
        return _fitting(state, unknown, settings, file)
    size = size or HUB.get(model or "")
    if size is None:
        raise unknown_size(str(model), HUB)
    width = WIDTHS[size]
    with torch.device("meta"):
        return Ced(Geometry(width, width // _HEAD))


def _fetch(model: str, revision: str | None) -> Path:
    if not _HUB_NAME.fullmatch(model):
        raise WeightsError(
            "W060",
            f"no weights at '{model}': no such file or folder, and no hub name",
            help="see `lavcap explain W060`",
        )
    from huggingface_hub import snapshot_download

    try:
        for name in _FILES:
            path = Path(snapshot_download(model, revision=revision, allow_patterns=["config.json", name]))
            if (path / name).exists():
                break
    except (OSError, ValueError) as error:  # the hub's own errors and those of its HTTP client are among these
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            "W061",
            f"can't fetch '{model}' from the hub: {reason}",
            help=f"put config.json and model.safetensors (or pytorch_model.bin) of {model} into a folder, and name it: "
            "`model: FOLDER`",
        ) from error
    return path


def _find(path: Path) -> tuple[Path, Mapping[str, Any]]:
    """The file of weights, and what config.json says."""
    if path.is_file():
        return path, {}
    file = next((path / name for name in _FILES if (path / name).is_file()), None)
    if file is None:
        raise WeightsError("W060", f"no {' or '.join(_FILES)} in this folder", file=str(path))
    config = path / "config.json"
    if not config.is_file():
        return file, {}
    try:
        settings = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError("W062", f"can't be read as JSON: {error}", file=str(config)) from error
    return file, settings if isinstance(settings, dict) else {}


def read_state(file: Path, device: Literal["cpu", "meta"] = "cpu") -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of one of torch's, where they may lie under ``model`` or ``state_dict``.

    Args:
        file: the file.
        device: where the tensors are put; for ``meta`` their values aren't read.

    Raises:
        WeightsError: W062 if the file can't be read, or holds more than tensors and plain containers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file)) if device == "cpu" else _shapes(file)
        # Mapped into memory, what isn't looked at isn't read; files of the oldest format can't be.
        mapped = device == "meta" and is_zipfile(file)
        held = torch.load(file, map_location=device, weights_only=True, mmap=mapped)
    except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            "W062", f"can't be read as weights: {reason}", help="see `lavcap explain W062`", file=str(file)
        ) from error
    for name in ("model", "state_dict"):
        if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
            held = held[name]
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise WeightsError("W062", "holds something else than named tensors", file=str(file))
    return dict(held)


def _shapes(file: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file on the meta device."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as held:
        shapes = {name: held.get_slice(name).get_shape() for name in held.keys()}  # noqa: SIM118
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _canonical(raw: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Names as in `Ced`, fused layers split, head and front end left out; and keys that came twice."""
    state: dict[str, Tensor] = {}
    twice: list[str] = []
    for original, value in raw.items():
        for name, part in _named(original, value):
            if name in state:
                twice.append(f"{original} (a second {name})")
            state[name] = part if name.endswith("num_batches_tracked") else part.float()
    state.setdefault("init_bn.num_batches_tracked", torch.tensor(0))
    return state, twice


def _named(original: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    name = original.removeprefix("encoder.")
    if _DROPPED.fullmatch(name):
        return
    name = re.sub(r"^init_bn\.1\.", "init_bn.", name)
    fused = re.fullmatch(r"(blocks\.\d+\.attn\.)qkv\.(weight|bias)", name)
    if fused is None or value.shape[0] % 3:
        yield name, value
        return
    for letter, part in zip("qkv", value.chunk(3), strict=True):
        # Clones, so that the rows of one layer don't keep the others' memory or share its storage.
        yield f"{fused[1]}{letter}_proj.{fused[2]}", part.clone()


def _fitting(state: Mapping[str, Tensor], twice: Sequence[str], settings: Mapping[str, Any], file: Path) -> Ced:
    """A network on the meta device that takes the state as it is."""
    geometry = _geometry(state, settings)
    with torch.device("meta"):
        network = Ced(geometry)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    _require_keys(wanted, state, twice, file)
    wrong = [
        f"{name} {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if tuple(state[name].shape) != shape
    ]
    said = settings.get("embed_dim", geometry.width)
    if said != geometry.width:
        wrong.append(f"config.json says embed_dim {said}, the weights have {geometry.width}")
    if wrong:
        raise WeightsError("W064", f"shapes don't fit: {_first(wrong)}", file=str(file))
    return network


def _geometry(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Geometry:
    """Size as the tensors have it; where they say nothing (and W063 or W064 follows), that of CED-base."""
    patches, times = state.get("patch_embed.proj.weight"), state.get("time_pos_embed")
    width = patches.shape[0] if patches is not None and patches.ndim == 4 else WIDTHS["base"]
    columns = times.shape[-1] if times is not None and times.ndim == 4 else 63
    blocks = {found[1] for name in state if (found := re.match(r"blocks\.(\d+)\.", name))}
    heads = settings.get("num_heads", max(1, width // _HEAD))
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise WeightsError("W064", f"width {width} can't be divided among {heads} attention heads (num_heads)")
    return Geometry(width, heads, depth=len(blocks) or 12, columns=columns)


def _require_keys(wanted: Mapping[str, object], state: Mapping[str, Tensor], twice: Sequence[str], file: Path) -> None:
    lists = {
        "missing": [name for name in wanted if name not in state],
        "unknown": [name for name in state if name not in wanted] + list(twice),
    }
    problems = [
        Problem("W063", f"{title} keys: {_first(names)}", help="see `lavcap explain W063`", file=str(file))
        for title, names in lists.items()
        if names
    ]
    if problems:
        raise WeightsError(problems)


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
