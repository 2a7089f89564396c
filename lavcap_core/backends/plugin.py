"""Descriptor of the backend that the core itself offers; pydantic only, no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lavcap_core.component import Component, Config

__all__ = ["TorchConfig", "torch"]


class TorchConfig(Config):
    """Settings of the torch backend."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, ...", min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of autocast; auto: bfloat16 where the device is fast at it, else float32."
    )
    shard: bool = Field(
        False, description="Training on several devices: spread the weights over them (FSDP) instead of copying them."
    )


torch = Component(
    kind="backend",
    name="torch",
    config=TorchConfig,
    factory="lavcap_core.backends.torch:build",
    summary="cpu, cuda and mps through accelerate",
)
