"""What lavcap knows of the fuser before it is built; imports no torch, so that listing and checking stay fast."""

from collections.abc import Mapping

from pydantic import Field

from lavcap_core.component import Component, Config, Port, require_equal_width


class MeanAddConfig(Config):
    """Settings of `mean_add`."""

    gate: float = Field(0.1, ge=-10, le=10, description="Start of the learned gate.")


def _ports(config: MeanAddConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    return {"tokens": Port("fused", require_equal_width(inputs, "set aligner.project: WIDTH"))}


mean_add = Component(
    kind="fuser",
    name="mean_add",
    config=MeanAddConfig,
    factory="lavcap_gate.mean_add:build",
    summary="Each token plus the mean of the other modality, through a learned gate.",
    ports=_ports,
)
