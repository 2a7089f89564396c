"""The core's conformance kit on both encoders, with random weights."""

import torch

from lavcap_core.testing.checks import parametrize_with_checks
from lavcap_starter.classes import load
from lavcap_starter.efficientnet import EfficientNetEncoder, EfficientNetLite0
from lavcap_starter.tokens import Mixing, Vocabulary
from lavcap_starter.yamnet import YamnetEncoder, YamnetNetwork


def vocabulary(kind):
    classes = load(kind)
    return Vocabulary.of(classes, torch.randn(len(classes.names), 16))


def sound(inputs):
    torch.manual_seed(0)
    return YamnetEncoder(YamnetNetwork().state_dict(), vocabulary("sound"), Mixing(floor=0.0))


def picture(inputs):
    torch.manual_seed(0)
    return EfficientNetEncoder(EfficientNetLite0().state_dict(), vocabulary("picture"), Mixing(floor=0.0), 4, 64)


@parametrize_with_checks("audio_encoder", sound)
def test_yamnet_conforms(check):
    check()


@parametrize_with_checks("visual_encoder", picture)
def test_efficientnet_conforms(check):
    check()
