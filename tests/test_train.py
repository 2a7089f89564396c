import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lavcap_core.errors import RunError
from lavcap_core.run.train import Schedule, checkpoints, groups, train


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.norm = nn.LayerNorm(4)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(4, 1)

    def loss(self, step):
        generator = torch.Generator().manual_seed(step)
        data = torch.randn(8, 4, generator=generator)
        return (self.last(self.drop(self.norm(self.frozen(data)))) - 3.0).square().mean()


def schedule(**changes):
    return Schedule(**{"steps": 8, "lr": 0.05, "warmup": 2, "every": 3, **changes})


def run(folder, model=None, resume=False, loss=None, **changes):
    model = model or Model()
    torch.manual_seed(11)
    train(model, loss or model.loss, schedule(**changes), folder, resume=resume)
    return model


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path):
    whole = run(tmp_path / "whole")
    model = Model()

    def stops(step):
        if step == 5:
            raise KeyboardInterrupt
        return model.loss(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", model, loss=stops)
    torch.manual_seed(99)  # a new process has another state of the generator, which dropout would show
    resumed = Model()
    train(resumed, resumed.loss, schedule(), tmp_path / "parts", resume=True)
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_dropout_is_what_makes_the_generator_matter(tmp_path):
    one, other = Model(), Model()
    torch.manual_seed(1)
    train(one, one.loss, schedule(), tmp_path / "one")
    torch.manual_seed(2)
    train(other, other.loss, schedule(), tmp_path / "other")
    assert not torch.equal(one.last.weight, other.last.weight)


def test_only_what_is_trained_changes_and_is_stored(tmp_path):
    before = Model().frozen.weight.clone()
    model = run(tmp_path)
    assert torch.equal(model.frozen.weight, before)
    stored = load_file(checkpoints(tmp_path)[-1] / "trained.safetensors")
    assert set(stored) == {"norm.weight", "norm.bias", "last.weight", "last.bias"}
    assert torch.equal(stored["last.weight"], model.last.weight)


def test_the_loss_falls_and_the_log_says_so(tmp_path):
    run(tmp_path, steps=60, lr=0.05, every=60)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(60))
    assert sum(row["loss"] for row in rows[-10:]) < 0.8 * sum(row["loss"] for row in rows[:10])


def test_learning_rate_warms_up_and_falls_to_its_floor(tmp_path):
    run(tmp_path, steps=10, warmup=2, lr=1.0, floor=0.1, loss=None)
    rates = [json.loads(line)["lr"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0.1 <= rates[-1] < 0.2


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint(tmp_path):
    model = Model()
    with pytest.raises(RunError, match="C020"):
        run(tmp_path, model, loss=lambda step: model.loss(step) * (float("nan") if step == 4 else 1.0))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003"]
    assert torch.isfinite(model.last.weight).all()


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    run(tmp_path)
    with pytest.raises(RunError, match="C021"):
        run(tmp_path)


def test_half_a_checkpoint_is_not_taken_for_a_whole(tmp_path):
    run(tmp_path)
    (tmp_path / ".step-00000099").mkdir()
    assert checkpoints(tmp_path)[-1].name == "step-00000008"


def test_old_checkpoints_are_forgotten(tmp_path):
    run(tmp_path, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000006", "step-00000008"]


def test_biases_and_norms_do_not_decay_and_factors_apply():
    found = groups(Model(), schedule(weight_decay=0.1, lr=0.5, faster={"last": 2.0}))
    sizes = {(group["weight_decay"], group["lr"]): [tuple(p.shape) for p in group["params"]] for group in found}
    assert sizes == {(0.0, 0.5): [(4,), (4,)], (0.1, 1.0): [(1, 4)], (0.0, 1.0): [(1,)]}


def test_gradients_are_clipped(tmp_path):
    model = Model()
    start = model.last.weight.clone()
    torch.manual_seed(0)
    train(model, lambda step: 1e6 * model.loss(step), schedule(steps=1, lr=1e-3, clip=1.0, warmup=0), tmp_path)
    assert (model.last.weight - start).abs().max() <= 1.01e-3
    assert json.loads((tmp_path / "log.jsonl").read_text())["norm"] > 1
