"""Loads a causal language model and its tokenizer: from a folder, a GGUF file or the hub."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from lavcap_core.errors import BuildError, WeightsError
from lavcap_core.pretrained import fetch_options, quiet, reading, require_complete

__all__ = ["FILES", "find", "gguf_options", "load"]

FILES = "config.json, generation_config.json, tokenizer.json, tokenizer_config.json and model*.safetensors"
"""What a folder of a language model should hold."""


def load(name: str, dtype: torch.dtype | None) -> tuple[Any, Any]:
    """Loads a language model in eval mode, and its tokenizer.

    Args:
        name: a folder of transformers, a folder with one GGUF file, a GGUF file, or a hub name.
        dtype: of the weights; None: as they are stored (float32 for GGUF).

    Returns:
        The model and the tokenizer. The model's own defaults of generation are gone, but for its end tokens.

    Raises:
        WeightsError: W080 if there is no such file or folder, W081 if the hub can't be reached, W082 if the files are
            broken, incomplete or of no causal language model, W083 if the tokenizer has no end token.
        BuildError: B080 if a GGUF file is asked for and gguf is not installed.
    """
    place, file = find(name)
    fetch = fetch_options(place)
    source: dict[str, Any] = {"trust_remote_code": False, **fetch}
    if file is not None:
        dtype = dtype or torch.float32
        source.update(gguf_options(file))
    with reading(name, FILES, "W081", "W082"), quiet():
        model, report = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype or "auto", output_loading_info=True, adapter_kwargs=fetch, **source
        )
        source.pop("quantization_config", None)
        tokenizer = AutoTokenizer.from_pretrained(place, **source)
        if file is not None:
            model = _unpacked(model, dtype or torch.float32)
    require_complete(name, report, "W082")
    _set_ends(name, model, tokenizer)
    return model.eval(), tokenizer


def find(name: str) -> tuple[str, str | None]:
    """Folder or hub name, and the GGUF file in the folder.

    Raises:
        WeightsError: W080 if there is no such file or folder.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix != ".gguf":
            raise WeightsError("W080", f"{path.name} is no GGUF file", help="name the folder that holds the model")
        return str(path.parent), path.name
    if path.is_dir():
        packed = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file():
            return name, None
        if len(packed) == 1:
            return name, packed[0].name
        raise WeightsError(
            "W080",
            f"the folder {name} holds neither config.json nor one GGUF file",
            help=f"it should hold {FILES}, or one .gguf file",
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith((".", "~")) or path.suffix == ".gguf":
        raise WeightsError("W080", f"there is no file or folder {name}", help=f"a folder should hold {FILES}")
    return name, None


def _require_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise BuildError(
            "B080", f"GGUF files need gguf, which can't be imported ({error})", help="pip install 'lavcap-llama[gguf]'"
        ) from error


def gguf_options(file: str) -> dict[str, Any]:
    """Options of ``from_pretrained`` for a GGUF file.

    Raises:
        BuildError: B080 if gguf is not installed.
    """
    _require_gguf()
    options: dict[str, Any] = {"gguf_file": file}
    # Newer versions leave weights packed unless told; older ones know no such setting and always unpack.
    with contextlib.suppress(ImportError):
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    return options


def _unpacked(model: Any, dtype: torch.dtype) -> Any:
    """A plain copy: what comes out of GGUF still calls itself quantised, may be packed, and can't be saved."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    copy = AutoModelForCausalLM.from_config(config, dtype=dtype)
    copy.load_state_dict(model.state_dict())
    return copy


def _set_ends(name: str, model: Any, tokenizer: Any) -> None:
    """Leaves the model's end tokens as its only defaults of generation; without a pad token, the end token pads."""
    if tokenizer.eos_token_id is None:
        raise WeightsError(
            "W083", f"the tokenizer of {name} has no end token", help="set eos_token in its tokenizer_config.json"
        )
    known = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = {tokenizer.eos_token_id, *([known] if isinstance(known, int) else known or [])}
    # What pads is masked everywhere, so that no token has to be added for it, nor embeddings resized.
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=sorted(ends), pad_token_id=pad
    )
