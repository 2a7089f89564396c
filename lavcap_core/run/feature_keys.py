"""What cached features depend on: which encoders' features can be kept, and the key under which they are."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from lavcap_core import media
from lavcap_core.component import Tune, Use
from lavcap_core.interfaces import Backend
from lavcap_core.recipes.captioner import Captioner
from lavcap_core.spec import Spec
from lavcap_core.tuning import trained_state

__all__ = ["FEATURES_RULE", "ingredients", "why_not"]

FEATURES_RULE = 1
"""Version of how features are computed and kept; part of cache keys."""


def why_not(encoder: Any) -> str | None:
    """Why the tokens of an encoder can't be computed once for all epochs, or None if they can."""
    if getattr(encoder, "takes_features", False):
        return "its features are ready already"
    if not isinstance(encoder, nn.Module):
        return "it is no torch module"
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        return "it is trained"
    if getattr(encoder, "augments", False):
        return "its input is augmented in training"
    if trained_state(encoder):
        return "its statistics change in training"
    if any(isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0 for part in _live(encoder)):
        return "it has dropout in training"
    return None


def _live(module: nn.Module) -> list[nn.Module]:
    """Modules that training puts into training mode."""
    modes = {part: part.training for part in module.modules()}
    module.train()
    live = [part for part in modes if part.training]
    for part, mode in modes.items():
        part.training = mode
    return live


def ingredients(modality: str, recipe: Captioner, backend: Backend, spec: Spec) -> dict[str, Any]:
    """All that the tokens of an encoder depend on beside the clip, as plain data.

    Devices and versions of torch are not among it: they change results by rounding only.
    """
    use = spec.parts[f"{modality}_encoder"]
    encoder = getattr(recipe, f"{modality}_encoder")
    assert use is not None
    return {
        "rule": FEATURES_RULE,
        "frame_rule": media.FRAME_RULE,
        "modality": modality,
        "component": f"{use.distribution} {version(use.distribution)} {use.name}",
        "settings": _settings(use, spec.filled()[f"{modality}_encoder"]),
        "sources": _sources(encoder),
        "weights": _weights_hash(encoder),
        "attributes": _attributes_hash(encoder),
        "request": _request(modality, recipe),
        "precision": _precision(backend),
    }


def _settings(use: Use, filled: Mapping[str, Any]) -> dict[str, Any]:
    # Nothing of it is trained, so that ranks and rates of what would be make no difference.
    return {name: value for name, value in filled.items() if not isinstance(getattr(use.config, name, None), Tune)}


def _sources(encoder: Any) -> str:
    """Hash of the package that the encoder's class comes from, for those who change it without a new version."""
    names = (type(encoder).__module__.partition(".")[0], type(encoder).__module__)
    file = next((file for name in names if (file := getattr(sys.modules[name], "__file__", None))), None)
    if file is None:  # typed in, so that there is no file to look at
        return ""
    place = Path(file)
    paths = sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(place.parent).as_posix()} ".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} ".encode())
        _hash_tensor(digest, tensor)
    return digest.hexdigest()


def _hash_tensor(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


_OF_MODULES = frozenset(nn.Module().__dict__)


def _attributes_hash(module: nn.Module) -> str:
    """Hash of what modules are told beside weights: heads, means, strides, ...; objects count by their class alone."""
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        told = {key: value for key, value in part.__dict__.items() if key not in _OF_MODULES and key != "train"}
        digest.update(f"{name} {type(part).__module__}.{type(part).__qualname__}\n".encode())
        _hash_value(digest, told)
    return digest.hexdigest()


def _hash_value(digest: Any, value: Any) -> None:
    value = _plain(value)
    if isinstance(value, Tensor):
        _hash_tensor(digest, value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(f"{key!s}: ".encode())
            _hash_value(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}\n".encode())
        for item in value:
            _hash_value(digest, item)
    else:
        simple = isinstance(value, str | int | float | complex | bytes | torch.dtype | None)
        digest.update((repr(value) if simple else _name(value)).encode() + b"\n")


def _name(value: Any) -> str:
    """What tells an object from others: the name of a function or class, a path, or else its class."""
    if isinstance(value, PurePath):
        return str(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _plain(value: Any) -> Any:
    """Structured values as mappings, lists and tensors."""
    if isinstance(value, type):
        return value
    if isinstance(value, Tune):  # nothing is trained
        return None
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if is_dataclass(value):
        return {entry.name: getattr(value, entry.name) for entry in fields(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value)) if value.dtype.kind in "biufc" else value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    to_dict = getattr(value, "to_dict", None)  # of configurations of transformers
    return to_dict() if callable(to_dict) else value


def _request(modality: str, recipe: Captioner) -> dict[str, Any]:
    """What is read of a clip, as far as it matters: how long a clip is may depend on whether its video is read."""
    request = asdict(recipe.request())
    if modality == "audio":
        request |= {"frames": request["frames"] > 0, "image_size": None}
    ready = {name: request[name] is not None for name in ("audio_width", "visual_width")}
    return request | ready | {"hop": None}


def _precision(backend: Backend) -> str:
    """What the backend's autocast makes of a product of float32 numbers."""
    one = torch.ones(1, 1, device=backend.device)
    with backend.autocast():
        return str((one @ one).dtype)
