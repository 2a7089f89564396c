"""Precision that autocast can't lower."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["full_precision", "widen"]


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Context in which autocast leaves operations on the tensor's device alone.

    In bfloat16 the marginals of a Sinkhorn plan are wrong by 2-3 % and single entries by 6-31 %.
    """
    kind = tensor.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float64 if it is that, else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
