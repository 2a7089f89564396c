import subprocess
import sys

import pytest
import torch
from torch import nn

from lavcap_core.component import Tune
from lavcap_core.errors import BuildError, WeightsError
from lavcap_core.tuning import apply_tune, keep_eval, load_trained, trained_state


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q_proj(x) * torch.sigmoid(self.k_proj(x)) + self.v_proj(x)


class Encoder(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("constant", torch.ones(1), persistent=False)
        self.blocks = nn.ModuleList(Attention(width) for _ in range(2))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        for block in self.blocks:
            x = block(x)
        return self.drop(x)


TARGETS = ("q_proj", "v_proj")


def trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_freeze_trains_nothing_and_stays_in_eval_under_a_training_parent() -> None:
    encoder = Encoder()
    parent = nn.Sequential(apply_tune(encoder, Tune(mode="freeze"), TARGETS), nn.Linear(8, 8), nn.Dropout(0.5))
    mean = encoder.norm.running_mean.clone()
    parent.train()
    assert not trainable(encoder)
    assert not any(part.training for part in encoder.modules())
    assert parent[2].training
    x = torch.randn(16, 8) + 3
    assert torch.equal(encoder(x), encoder(x))
    assert torch.equal(encoder.norm.running_mean, mean)


def test_finetune_trains_everything_and_follows_train() -> None:
    encoder = apply_tune(Encoder().requires_grad_(False), Tune(mode="finetune"), TARGETS)
    assert trainable(encoder) == {name for name, _ in encoder.named_parameters()}
    encoder.train()
    assert all(part.training for part in encoder.modules())


def test_lora_trains_query_and_value_and_leaves_key_alone() -> None:
    encoder = apply_tune(Encoder(), Tune(mode="lora", rank=2), TARGETS)
    names = trainable(encoder)
    assert len(names) == 8
    assert all("lora_" in name for name in names)
    assert not any("k_proj" in name for name in names)
    assert sum(encoder.get_parameter(name).numel() for name in names) == 2 * 2 * (2 * 8 + 2 * 8)


def test_lora_starts_as_the_model_it_was_put_on() -> None:
    encoder = Encoder().eval()
    x = torch.randn(4, 8)
    before = encoder(x)
    after = apply_tune(encoder, Tune(mode="lora"), TARGETS)(x)
    torch.testing.assert_close(after, before)


def test_lora_dropout_follows_train_and_all_else_stays_in_eval() -> None:
    encoder = apply_tune(Encoder(), Tune(mode="lora", dropout=0.5), TARGETS)
    parent = nn.Sequential(encoder)
    drops = {name for name, part in encoder.named_modules() if "lora_dropout" in name}
    assert drops
    parent.train()
    assert {name for name, part in encoder.named_modules() if part.training} == drops
    parent.eval()
    assert not any(part.training for part in encoder.modules())


def test_layers_that_recompute_get_their_switch_but_no_dropout() -> None:
    encoder = Encoder()
    encoder.blocks[0].gradient_checkpointing = True
    encoder.blocks[1].gradient_checkpointing = False
    parent = nn.Sequential(keep_eval(encoder)).train()
    assert encoder.blocks[0].training
    assert not encoder.blocks[0].q_proj.training
    assert not encoder.blocks[1].training
    parent.eval()
    assert not encoder.blocks[0].training


def test_lora_is_float32_on_a_bfloat16_model_and_passes_gradients() -> None:
    encoder = apply_tune(Encoder().to(torch.bfloat16), Tune(mode="lora", rank=2), TARGETS)
    assert {encoder.get_parameter(name).dtype for name in trainable(encoder)} == {torch.float32}
    encoder(torch.randn(4, 8, dtype=torch.bfloat16)).sum().backward()
    assert all(encoder.get_parameter(name).grad is not None for name in trainable(encoder))


def test_own_targets_override_the_default_ones() -> None:
    encoder = apply_tune(Encoder(), Tune(mode="lora", targets=("k_proj",)), TARGETS)
    assert all("k_proj" in name for name in trainable(encoder))


def test_a_target_that_is_not_there_is_named_even_beside_one_that_is() -> None:
    with pytest.raises(BuildError, match="q_porj") as caught:
        apply_tune(Encoder(), Tune(mode="lora", targets=("v_proj", "q_porj")), TARGETS)
    assert caught.value.code == "B031"
    assert "k_proj, q_proj, v_proj" in str(caught.value)


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BuildError, match="pip install 'peft") as caught:
        apply_tune(Encoder(), Tune(mode="lora"), TARGETS)
    assert caught.value.code == "B030"


@pytest.mark.parametrize("mode", ["freeze", "lora", "finetune"])
def test_trained_state_goes_there_and_back(mode: str) -> None:
    def build() -> nn.Module:
        tuned = apply_tune(Encoder(), Tune(mode=mode, rank=2), TARGETS)
        return nn.Sequential(tuned, nn.Linear(8, 3))

    one, other = build(), build()
    one.train()
    loss = one(torch.randn(16, 8)).square().sum()
    loss.backward()
    torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=0.1).step()
    state = trained_state(one)
    load_trained(other, state)
    for name, value in trained_state(other).items():
        assert torch.equal(value, state[name]), name
    # 4 tensors of LoRA per block and 2 blocks; 14 parameters and 3 buffers of the encoder; 2 of the head.
    assert len(state) == {"freeze": 2, "lora": 10, "finetune": 19}[mode]
    assert ("0.norm.running_mean" in state) == (mode == "finetune")
    assert not any("constant" in name for name in state)


def test_trained_state_is_a_copy() -> None:
    module = nn.Linear(2, 2)
    state = trained_state(module)
    nn.init.zeros_(module.weight)
    assert state["weight"].abs().sum() > 0
    assert not state["weight"].requires_grad


def test_a_shared_parameter_is_stored_once_and_stays_shared() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

    one, other = Tied(), Tied()
    state = trained_state(one)
    assert list(state) == ["embed.weight"]
    load_trained(other, state)
    assert torch.equal(other.head.weight, one.embed.weight)


def test_what_does_not_fit_is_listed_at_once_and_nothing_is_changed() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    before = trained_state(module)
    state = {
        "0.weight": torch.zeros(2, 2),
        "0.bias": torch.zeros(2),
        "1.weight": torch.zeros(4, 2),
        "2.weight": torch.zeros(1),
    }
    with pytest.raises(WeightsError) as caught:
        load_trained(module, state)
    text = str(caught.value)
    assert caught.value.code == "W030"
    assert "missing: 1.bias" in text
    assert "unexpected: 2.weight" in text
    assert "1.weight [4, 2] instead of [3, 2]" in text
    assert all(torch.equal(value, before[name]) for name, value in trained_state(module).items())


def test_peft_is_not_imported_until_lora_is_asked_for() -> None:
    code = "import sys, lavcap_core.tuning; assert 'peft' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
