"""What each tensor of a released checkpoint is, and how it is called here.

The released code nests peft's models, so that CED is ``audio_encoder.base_model.model`` and Llama
``llama_decoder.base_model.model``; without LoRA nothing stands between. ``base_layer`` is what LoRA was put around.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lavcap_core.errors import WeightsError
from lavcap_core.run.released.files import Stored

__all__ = ["PARTS", "Found", "is_buffer", "sort"]

PARTS = {
    "ced": "CED",
    "ced_lora": "CED LoRA",
    "llama": "Llama",
    "llama_lora": "Llama LoRA",
    "projector": "projector",
    "scale": "scale of the OT loss",
}
"""Parts of a checkpoint, and what they are called in front of people."""

_CED = re.compile(
    r"init_bn\.(weight|bias|running_mean|running_var|num_batches_tracked)|(time|freq)_pos_embed|"
    r"(patch_embed\.proj|norm|blocks\.\d+\.(norm[12]|attn\.([qkv]_)?proj|mlp\.fc[12]))\.(weight|bias)"
)
_LLAMA = re.compile(
    r"(lm_head|model\.(embed_tokens|norm|layers\.\d+\."
    r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|input_layernorm|post_attention_layernorm)))\.weight"
)
_LORA = re.compile(r"(model\.layers|blocks)\.\d+\.[\w.]+\.lora_[AB]\.default\.weight")
_SINGLE = {
    "speech_llama_proj.weight": ("projector", "decoder.projector.weight"),
    "speech_llama_proj.bias": ("projector", "decoder.projector.bias"),
    "logit_scale": ("scale", "aligner.loss.scale"),
}
_UNUSED = {
    r"audio_encoder\.(base_model\.model\.)?output_?layer\.[01]\.(weight|bias)": "CED's classifier: nothing uses it",
    r"audio_encoder\.(base_model\.model\.)?front_end\..*": "CED's features: the front end computes them",
    r"llama_decoder\..*\.rotary_emb\.inv_freq": "positions of the language model: it computes them",
}


def is_buffer(name: str) -> bool:
    """Whether a tensor is one of BatchNorm's statistics, and no parameter."""
    return name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))


@dataclass
class Found:
    """The tensors of a checkpoint.

    Attributes:
        parts: for each of `PARTS`, name in our pipeline to tensor; names of what LoRA was put around are those that it
            has without LoRA.
        dropped: reason to original names.
        unknown: original names, with a remark where there is something to say.
    """

    parts: dict[str, dict[str, Stored]] = field(default_factory=lambda: {part: {} for part in PARTS})
    dropped: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def sort(stored: Mapping[str, Stored], file: str) -> Found:
    """Sorts tensors into parts.

    Raises:
        WeightsError: W042 if none of them is LAVCap's.
    """
    found = Found()
    for key, tensor in stored.items():
        reason = next((reason for pattern, reason in _UNUSED.items() if re.fullmatch(pattern, key)), None)
        if reason is not None:
            found.dropped.setdefault(reason, []).append(key)
            continue
        part, name = _place(key)
        if part is None:
            found.unknown.append(key)
        elif name in found.parts[part]:
            found.unknown.append(f"{key} (a second {name})")
        else:
            found.parts[part][name] = tensor
    if not any(found.parts.values()):
        first = f", such as {next(iter(stored))}" if stored else ""
        raise WeightsError(
            "W042",
            f"is no checkpoint of LAVCap's released code: it knows none of its {len(stored)} tensors{first}",
            help="see `lavcap explain W042`",
            file=file,
        )
    return found


def _place(key: str) -> tuple[str | None, str]:
    """Part and name here; no part for a name that isn't known."""
    if key in _SINGLE:
        return _SINGLE[key]
    module, _, rest = key.partition(".")
    rest = rest.removeprefix("base_model.model.")
    plain = rest.replace(".base_layer.", ".").replace("init_bn.1.", "init_bn.")
    if module == "audio_encoder":
        if _LORA.fullmatch(rest):
            return "ced_lora", f"audio_encoder.model.{rest}"
        return ("ced" if _CED.fullmatch(plain) else None), f"audio_encoder.model.{plain}"
    if module == "llama_decoder":
        if _LORA.fullmatch(rest):
            return "llama_lora", f"decoder.model.{rest}"
        return ("llama" if _LLAMA.fullmatch(plain) else None), f"decoder.model.{plain}"
    return None, key
