"""Importing it gives torch the module `torch.hpu`, as the real one does."""

import torch as _torch

from . import hpu

if not hasattr(_torch, "hpu"):
    _torch._register_device_module("hpu", hpu)
