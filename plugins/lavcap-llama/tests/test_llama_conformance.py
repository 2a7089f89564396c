"""The core's conformance kit on the decoder, frozen and with LoRA, over a tiny random language model."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from lavcap_core.component import Port, Tune
from lavcap_core.testing.checks import Check, checks_for
from lavcap_llama.decoder import LlamaDecoder, build
from lavcap_llama.plugin import DecoderConfig

from .conftest import Place


@pytest.mark.parametrize("check", checks_for("decoder"), ids=lambda check: check.name)
@pytest.mark.parametrize(
    "settings",
    [{}, {"tune": Tune(mode="lora"), "prompt": "separate", "modality_embedding": True}],
    ids=["frozen", "lora"],
)
def test_the_decoder_conforms(folder: Path, check: Check, settings: dict[str, object]) -> None:
    def make(inputs: Mapping[str, Port]) -> LlamaDecoder:
        torch.manual_seed(0)
        return build(DecoderConfig(model=str(folder), **settings), Place(dict(inputs)))

    check(make)
