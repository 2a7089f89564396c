"""The core's conformance kit on the encoder, over a tiny random CLIP."""

from collections.abc import Mapping

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from lavcap_clip.clip import ClipEncoder
from lavcap_clip.plugin import ClipConfig
from lavcap_core.component import Port
from lavcap_core.testing.checks import Check, checks_for

from .test_clip_clip import SIZES


@pytest.mark.parametrize("check", checks_for("visual_encoder"), ids=lambda check: check.name)
@pytest.mark.parametrize("settings", [{}, {"output": "patches", "pool": "grid"}], ids=["projected", "grid"])
def test_the_encoder_conforms(check: Check, settings: dict[str, object]) -> None:
    def make(inputs: Mapping[str, Port]) -> ClipEncoder:
        torch.manual_seed(0)
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES)).eval()
        return ClipEncoder(model, ClipConfig(frames=4, **settings))

    check(make)
