import torch

from lavcap_core.component import Port
from lavcap_core.data import AUDIO, VISUAL, Tokens
from lavcap_core.testing.checks import from_component, parametrize_with_checks
from lavcap_gate.plugin import mean_add


@parametrize_with_checks("fuser", from_component(mean_add))
def test_conformance(check):
    check()


def test_adds_the_mean_of_the_other_modality():
    fuser = from_component(mean_add, gate=0.5)({"audio": Port("audio", 1), "visual": Port("visual", 1)})
    audio = Tokens.of(torch.tensor([[[1.0], [2.0]]]), AUDIO)
    visual = Tokens.of(torch.tensor([[[10.0], [30.0]]]), VISUAL)
    assert fuser(audio, visual, None).data.flatten().tolist() == [11.0, 12.0, 10.75, 30.75]
