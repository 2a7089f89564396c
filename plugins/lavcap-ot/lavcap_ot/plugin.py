"""What lavcap-ot offers: optimal transport, alignment by it, and fusion through its plan. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lavcap_core.component import Component, Config, Port, Slot, Use, require_equal_width

__all__ = [
    "AlignerSettings",
    "EMDAlignerConfig",
    "EMDConfig",
    "OTAlignerConfig",
    "OTAttConfig",
    "OTLossConfig",
    "SinkhornAlignerConfig",
    "SinkhornConfig",
    "emd",
    "emd_aligner",
    "ot",
    "ot_att",
    "sinkhorn",
    "sinkhorn_aligner",
]


class SinkhornConfig(Config):
    """Entropic transport."""

    epsilon: float = Field(
        default=0.1, gt=0, description="Weight of the entropy, in units of the cost (or of its mean)."
    )
    relative: bool = Field(
        default=False,
        description="Epsilon is in units of each sample's mean absolute cost: for costs without a known scale.",
    )
    iterations: int = Field(default=50, ge=1, le=100_000, description="Number of iterations; all are always done.")
    method: Literal["auto", "exponential", "stabilised", "log"] = Field(
        default="auto", description="Domain of the iterations; auto: exponential where the cost is known to allow it."
    )
    gradient: Literal["implicit", "envelope", "unrolled"] = Field(
        default="implicit",
        description="implicit: of plan and value; envelope: of the value only; unrolled: through all steps.",
    )


class EMDConfig(Config):
    """Exact transport."""

    max_iterations: int = Field(default=1_000_000, ge=1, description="Limit of the network simplex, per sample.")
    threads: int | None = Field(default=None, ge=1, description="Samples solved at the same time; None: one per core.")


class OTLossConfig(Config):
    """OT loss (LAVCap eq. 4). Defaults are for new work; the readings of the paper and its code are in the README."""

    plan: Literal["log", "prob", "row"] = Field(
        default="row", description="What stands for the plan Q: log Q, Q, or Q with rows of sum 1 (N Q)."
    )
    normalise: Literal["over_similarity", "over_plan"] = Field(
        default="over_similarity",
        description="The softmax runs over rows of similarity (paper) or of the plan (released code).",
    )
    tau: float = Field(
        default=0.07, gt=0, description="Temperature; if learnable, 1 / tau is the scale's initial value."
    )
    learnable: bool = Field(default=False, description="Learn the scale 1 / tau (directly, not its logarithm).")
    clamp: tuple[float, float] | None = Field(default=None, description="Bounds within which a learned scale is kept.")
    reduction: Literal["sum", "mean"] = Field(default="mean", description="Over the tokens of each modality.")
    weight: float = Field(default=1.0, ge=0, description="Factor of the loss (lambda_OT of eq. 9).")

    @model_validator(mode="after")
    def _clamp_is_an_interval_of_a_learned_scale(self) -> Self:
        if self.clamp is not None and not self.learnable:
            raise ValueError("clamp bounds a learned scale: set learnable: true")
        if self.clamp is not None and self.clamp[0] >= self.clamp[1]:
            raise ValueError("clamp needs the lower bound first")
        return self


class AlignerSettings(Config):
    """What all aligners by optimal transport share."""

    normalise: Literal["l2", "none"] = Field(
        default="l2", description="Unit length of the tokens, both for comparing and for what is fused afterwards."
    )
    project: int | None = Field(default=None, ge=1, description="Learned projections of both modalities to this width.")
    similarity: Literal["cosine", "dot"] = Field(default="cosine", description="Similarity S; the cost is -S.")
    detach: bool = Field(default=True, description="No gradient flows through the plan.")
    loss: OTLossConfig | None = Field(default=None, description="OT loss; None: no loss.")
    padding: Literal["mask", "token"] = Field(
        default="mask",
        description="mask: padding gets no mass; token: padding counts as tokens (as in the released code).",
    )

    @property
    def bounded(self) -> bool:
        """Whether similarities lie within [-1, 1]."""
        return self.similarity == "cosine" or self.normalise == "l2"


class OTAlignerConfig(AlignerSettings):
    """Alignment with any transport."""

    transport: Annotated[Use, Slot("transport")] = Field(description="Transport that makes the plan.")


class SinkhornAlignerConfig(AlignerSettings, SinkhornConfig):
    """Alignment with entropic transport, all in one."""


class EMDAlignerConfig(AlignerSettings, EMDConfig):
    """Alignment with exact transport, all in one."""


class OTAttConfig(Config):
    """OT-Att (LAVCap eq. 5)."""

    scale: Literal["none", "row"] = Field(
        default="none", description="none: weights are the plan, as in the paper; row: weights of each token sum to 1."
    )
    gate: Literal["none", "scalar"] = Field(
        default="none", description="scalar: learned factors of what each modality gets."
    )
    initial: float = Field(default=1.0, description="Initial value of the gate.")


def _aligner_ports(config: AlignerSettings, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    ports = {name: inputs[name] for name in ("audio", "visual") if name in inputs}
    if config.project is not None:
        return {name: Port(port.modality, config.project) for name, port in ports.items()}
    require_equal_width(ports, help=f"set aligner.project: {_smaller(ports)}")
    return ports


def _smaller(ports: Mapping[str, Port]) -> int | str:
    widths = [port.width for port in ports.values() if isinstance(port.width, int)]
    return min(widths, default=768)


def _fuser_ports(config: OTAttConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    ports = {name: inputs[name] for name in ("audio", "visual") if name in inputs}
    width = require_equal_width(ports, help=f"set aligner.project: {_smaller(ports)}")
    spaces = {port.space for port in ports.values()}
    return {"tokens": Port("fused", width, spaces.pop() if len(spaces) == 1 else None)}


sinkhorn = Component(
    kind="transport",
    name="sinkhorn",
    config=SinkhornConfig,
    factory="lavcap_ot.sinkhorn:build",
    summary="Entropic optimal transport of masked batches, with exact gradients.",
    source="LAVCap (arXiv 2501.09291) eq. 2-3; Cuturi 2013",
)

emd = Component(
    kind="transport",
    name="emd",
    config=EMDConfig,
    factory="lavcap_ot.emd:build",
    summary="Exact optimal transport (earth mover's distance) through POT.",
    source="Bonneel et al. 2011, through POT",
)

ot = Component(
    kind="aligner",
    name="ot",
    config=OTAlignerConfig,
    factory="lavcap_ot.aligner:build",
    summary="Aligns audio and visual tokens by optimal transport; OT loss.",
    source="LAVCap (arXiv 2501.09291) eq. 2-4",
    ports=_aligner_ports,
)

sinkhorn_aligner = Component(
    kind="aligner",
    name="sinkhorn",
    config=SinkhornAlignerConfig,
    factory="lavcap_ot.aligner:build_sinkhorn",
    summary="The aligner ot with the transport sinkhorn, all settings in one place.",
    source="LAVCap (arXiv 2501.09291) eq. 2-4",
    ports=_aligner_ports,
)

emd_aligner = Component(
    kind="aligner",
    name="emd",
    config=EMDAlignerConfig,
    factory="lavcap_ot.aligner:build_emd",
    summary="The aligner ot with the transport emd, all settings in one place.",
    source="LAVCap (arXiv 2501.09291) eq. 2-4, with exact transport",
    ports=_aligner_ports,
)

ot_att = Component(
    kind="fuser",
    name="ot_att",
    config=OTAttConfig,
    factory="lavcap_ot.attention:build",
    summary="Tokens attend across modalities through the transport plan, then audio and visual tokens in a row.",
    source="LAVCap (arXiv 2501.09291) eq. 5",
    ports=_fuser_ports,
)
