"""The conformance kit against the backend torch, which passes it, and against wrong ones, which must not."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from lavcap_core.backends.torch import TorchBackend
from lavcap_core.builtin import torch as component
from lavcap_core.data import _PADDING
from lavcap_core.testing.checks import checks_for, from_component, parametrize_with_checks, run


@parametrize_with_checks("backend", from_component(component, device="cpu"))
def test_torch(check):
    check()


@parametrize_with_checks("backend", from_component(component, device="cpu", dtype="bfloat16"))
def test_torch_in_mixed_precision(check):
    check()


class Short(TorchBackend):
    barrier = property()


class Nameless(TorchBackend):
    def describe(self):
        return {"torch": "2"}


class Halving(TorchBackend):
    def place(self, module):
        return module.half()


class Lossy(TorchBackend):
    """Trains in half precision what is kept in float32 elsewhere."""

    def wrap(self, model):
        return super().wrap(model).bfloat16()

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16)


class Skewed(TorchBackend):
    def backward(self, loss):
        super().backward(loss * 1.01)


class Forgetful(TorchBackend):
    """Each backward pass takes away what was there."""

    def wrap(self, model):
        self.model = super().wrap(model)
        return self.model

    def backward(self, loss):
        self.model.zero_grad()
        super().backward(loss)


class Late(TorchBackend):
    """Gives the norm after clipping."""

    def gradients(self, model, clip):
        super().gradients(model, clip)
        return super().gradients(model, 0.0)


class Unclipped(TorchBackend):
    def gradients(self, model, clip):
        return super().gradients(model, 0.0)


class Hoarding(TorchBackend):
    """Keeps gradients for the next step."""

    def step(self, optimiser):
        optimiser.step()


class Careless(TorchBackend):
    """Moves what is frozen."""

    def step(self, optimiser):
        super().step(optimiser)
        with torch.no_grad():
            for parameter in self.model.frozen.parameters():
                parameter.mul_(0.99)

    def wrap(self, model):
        self.model = super().wrap(model)
        return self.model


class Cold(TorchBackend):
    """Goes on without the optimiser's moments."""

    def load_optimiser(self, model, optimiser, state):
        pass


class Unseeded(TorchBackend):
    def seed(self, seed):
        pass


class Padding(TorchBackend):
    def shapes(self):
        _PADDING.set(lambda longest: longest + 3)
        return nullcontext()


class Rounding(TorchBackend):
    def sum(self, values):
        return values.float().double()


WRONG = {
    Short: "check_interface",
    Nameless: "check_describe",
    Halving: "check_place_and_wrap",
    Lossy: "check_autocast",
    Skewed: "check_steps",
    Forgetful: "check_accumulation",
    Late: "check_clipping",
    Unclipped: "check_clipping",
    Hoarding: "check_steps",
    Careless: "check_frozen_and_unreached",
    Cold: "check_resuming",
    Unseeded: "check_seed",
    Padding: "check_shapes",
    Rounding: "check_alone",
}


@pytest.fixture(autouse=True)
def _no_padding_goes_on():
    token = _PADDING.set(None)
    yield
    _PADDING.reset(token)


@pytest.mark.parametrize(("wrong", "name"), WRONG.items(), ids=lambda value: getattr(value, "__name__", value))
def test_what_is_wrong_is_found(wrong, name):
    failed = [result.check.name for result in run("backend", lambda inputs: wrong("cpu")) if result.error is not None]
    assert name in failed


def test_every_check_finds_something():
    elsewhere = {"check_devices_do_not_mix"}  # on a CPU there is nothing to mix
    assert {check.name for check in checks_for("backend")} - elsewhere == set(WRONG.values())
