"""What the registry knows of this distribution; pydantic only, no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lavcap_core.component import Component, Config

__all__ = ["BUCKETS", "HpuConfig", "hpu"]

BUCKETS = tuple(power + extra for power in (2**i for i in range(4, 13)) for extra in (0, power // 2))
"""16, 24, 32, 48, 64, ... 4096, 6144: no length is padded by more than a half."""


class HpuConfig(Config):
    """Settings of the backend `hpu`."""

    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Precision of autocast; auto: bfloat16.")
    mode: Literal["auto", "lazy", "eager"] = Field(
        "auto",
        description="lazy: operations are gathered into graphs; eager: each is done at once; auto: as the environment "
        "says (PT_HPU_LAZY_MODE), or the installed software by itself.",
    )
    graphs: bool = Field(
        False, description="Captions: record the encoders' networks once per shape and play them back; lazy mode only."
    )
    buckets: tuple[int, ...] = Field(
        BUCKETS,
        description="Lengths to which batches are padded, rising; beyond the last: its multiples. Empty: no padding.",
    )
    fused: bool = Field(True, description="Habana's own AdamW and gradient clipping, where they are installed.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.buckets != tuple(sorted({length for length in self.buckets if length > 0})):
            raise ValueError(f"buckets: {list(self.buckets)} are not rising lengths above 0")
        if self.graphs and self.mode == "eager":
            raise ValueError("graphs: true needs mode: lazy")
        return self


hpu = Component(
    kind="backend",
    name="hpu",
    config=HpuConfig,
    factory="lavcap_hpu.backend:build",
    summary="Intel Gaudi in lazy and eager mode, through Habana's own torch",
    source="LAVCap III-A2 (trained on Gaudi 2)",
    doctor="lavcap_hpu.doctor:report",
)
