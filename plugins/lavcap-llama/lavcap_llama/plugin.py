"""What the registry knows of this distribution; pydantic only, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from lavcap_core.component import Component, Config, ModelName, Port, Tune
from lavcap_core.errors import PortError
from lavcap_llama.prompts import NAMES, slots

__all__ = ["DecoderConfig", "ProjectorConfig", "check_space", "check_square", "facts", "llama"]


class ProjectorConfig(Config):
    """The map from a token to the language model's embeddings (LAVCap eq. 6)."""

    kind: Literal["linear", "mlp"] = Field(
        default="linear", description="One linear layer, or two with GELU in between."
    )
    init: Literal["default", "identity"] = Field(
        default="default",
        description="identity: gain times the identity; needs tokens as wide as the embeddings, kind linear.",
    )
    gain: float = Field(default=1.0, gt=0, le=1e4, description="Factor on the initial weights (mlp: the last layer's).")
    bias: bool = Field(default=True, description="Whether the layers have a bias.")
    offset: Literal["zero", "words"] = Field(
        default="zero",
        description="What the last bias starts at with init: identity; words: the vocabulary's mean embedding, for "
        "tokens that are centred.",
    )

    @model_validator(mode="after")
    def _identity_is_linear(self) -> Self:
        if self.init == "identity" and self.kind != "linear":
            raise ValueError("init: identity needs kind: linear")
        return self


class DecoderConfig(Config):
    """Settings of the decoder `llama`."""

    model: ModelName = Field(
        description="A folder, a GGUF file, `source:name` of a weights plugin, or a hub name of any causal LM."
    )
    projector: ProjectorConfig = Field(default=ProjectorConfig(), description="How tokens become embeddings.")
    modality_embedding: bool = Field(
        default=False, description="Add a learned vector per modality after the projection; it starts at 0."
    )
    prompt: str = Field(
        default="audio",
        description=f"One of {', '.join(NAMES)}, or a text with {{tokens}} or {{audio}} and {{visual}}, "
        "and {instruction} where instructions go.",
    )
    instructions: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Own instructions; the first is the one of evaluation."
    )
    random_prompts: bool | None = Field(
        default=None, description="Draw an instruction at random for each sample in training; null: only for `speech`."
    )
    template: Literal["plain", "chat"] = Field(
        "plain", description="plain: USER and ASSISTANT as in LAVCap; chat: the tokenizer's own chat template."
    )
    tune: Tune = Field(default=Tune(), description="What is trained of the model; LoRA: on q_proj and v_proj.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Precision of the weights; auto: as they are stored, float32 where all is trained."
    )
    gradient_checkpointing: bool = Field(default=False, description="Less memory, a third more time.")
    space: str | None = Field(
        default=None, description="Identity of the model's embedding space; null: what lavcap.json in its folder says."
    )

    @model_validator(mode="after")
    def _prompt_has_a_place_for_tokens(self) -> Self:
        if self.prompt not in NAMES and not slots(self.prompt) & {"tokens", "audio", "visual"}:
            raise ValueError(
                f"prompt: '{self.prompt}' is neither one of {', '.join(NAMES)} nor a text with {{tokens}}, {{audio}} "
                "or {visual}"
            )
        return self


def facts(model: str) -> Mapping[str, Any]:
    """What a local folder says of its model: ``space`` and ``width`` of lavcap.json, else the width of config.json."""
    folder = Path(model).parent if model.endswith(".gguf") else Path(model)
    for name, key in (("lavcap.json", "width"), ("config.json", "hidden_size")):
        file = folder / name
        if file.is_file():
            try:
                said = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # a broken file is reported where the weights are loaded
            if isinstance(said, dict):
                return {"space": said.get("space"), "width": said.get(key)}
    return {}


def check_space(port: Port, own: str | None) -> None:
    """Refuses tokens that live in an embedding space other than the language model's.

    Raises:
        PortError: P080.
    """
    if port.space is not None and port.space != own:
        mine = f"of '{own}'" if own else "without a known embedding space"
        raise PortError(
            "P080",
            f"the tokens live in the embedding space '{port.space}', and this is a language model {mine}",
            help="take the language model that the encoders were made for, or encoders whose tokens have no space",
        )


def check_square(config: ProjectorConfig, inputs: int | str, width: int | None) -> None:
    """Refuses an identity between different widths.

    Raises:
        PortError: P081.
    """
    if config.init == "identity" and isinstance(inputs, int) and width is not None and inputs != width:
        raise PortError(
            "P081",
            f"an identity projector needs tokens as wide as the embeddings: {inputs} and {width}",
            help="set decoder.projector.init: default",
        )


def _ports(config: DecoderConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    tokens = inputs.get("tokens")
    if tokens is not None:
        known = facts(config.model)
        own = config.space or known.get("space")
        # A model that isn't here yet (a hub name, `source:name`) is checked when it is built.
        if own is not None or known:
            check_space(tokens, own)
        check_square(config.projector, tokens.width, known.get("width"))
    return {}


llama = Component(
    kind="decoder",
    name="llama",
    config=DecoderConfig,
    factory="lavcap_llama.decoder:build",
    summary="Any causal language model of transformers: frozen, LoRA or finetuned, with projector and prompts",
    source="LAVCap eq. 6-8, Tables IV and V",
    ports=_ports,
    skeleton="lavcap_llama.skeleton:build",
)
