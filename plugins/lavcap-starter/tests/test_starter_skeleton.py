"""The encoders without weights, and what is known of weights without fetching them."""

import pytest
import torch

from lavcap_core.builder import find
from lavcap_core.data import Padded
from lavcap_core.errors import BuildError, WeightsError
from lavcap_starter import efficientnet, yamnet
from lavcap_starter.efficientnet import EfficientNetLite0
from lavcap_starter.fetch import Store, Weights
from lavcap_starter.plugin import WIDTH, EfficientNetConfig, YamnetConfig
from lavcap_starter.yamnet import YamnetNetwork


@pytest.mark.parametrize(
    ("module", "config", "network", "features"),
    [
        (yamnet, YamnetConfig(), YamnetNetwork, (1, 20, 96, 64)),
        (efficientnet, EfficientNetConfig(frames=5), EfficientNetLite0, (1, 5, 3, 224, 224)),
    ],
    ids=["yamnet", "efficientnet_lite"],
)
def test_has_the_parameters_of_the_real_one_and_runs(module, config, network, features):
    from lavcap_core.run.shadow import Shadow

    with torch.device("meta"):
        found = module.skeleton(config, None)
    assert {name: p.shape for name, p in found.network.named_parameters()} == {
        name: p.shape for name, p in network().named_parameters()
    }
    assert all(tensor.is_meta for tensor in [*found.parameters(), *found.buffers()])
    assert not any(p.requires_grad for p in found.parameters())
    with Shadow():
        lengths = torch.tensor([features[1]]).to("meta")
        tokens = found(Padded(torch.empty(features, device="meta"), lengths))
    assert tokens.data.shape == (1, features[1], WIDTH)


def test_weights_are_found_only_where_they_are(tmp_path):
    weights = Weights(Store(tmp_path))
    assert weights.find("yamnet") is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "yamnet").mkdir()
    assert weights.find("yamnet") == weights.locate("yamnet")
    with pytest.raises(WeightsError) as caught:
        weights.find("yamnot")
    assert caught.value.code == "W094"


def test_what_would_have_to_be_fetched_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setenv("LAVCAP_CACHE", str(tmp_path))
    with pytest.raises(BuildError, match="starter:smollm2 is not on this machine yet") as caught:
        find("starter:smollm2")
    assert caught.value.code == "B050"
    assert find("a/folder") == "a/folder"
