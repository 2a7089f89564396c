"""What this distribution offers: the fusers that LAVCap's OT-Att is compared with (Table III), and plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from lavcap_core.component import Component, Config, Port, require_equal_width
from lavcap_core.errors import PortError

__all__ = [
    "AudioOnlyConfig",
    "ChannelConcatConfig",
    "ConcatConfig",
    "CrossAttentionConfig",
    "JointConfig",
    "QFormerConfig",
    "VisualOnlyConfig",
    "audio_only",
    "channel_concat",
    "concat",
    "cross_attention",
    "joint",
    "qformer",
    "visual_only",
]

_PAPER = "LAVCap (arXiv 2501.09291)"


class ConcatConfig(Config):
    """Settings of `concat`: it has none."""


class ChannelConcatConfig(Config):
    """Settings of `channel_concat`: it has none."""


class AudioOnlyConfig(Config):
    """Settings of `audio_only`: it has none."""


class VisualOnlyConfig(Config):
    """Settings of `visual_only`: it has none."""


class CrossAttentionConfig(Config):
    """Settings of `cross_attention`."""

    heads: int = Field(12, ge=1, le=128, description="Attention heads; they divide the width.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the attention weights, in training.")
    norm: Literal["none", "pre"] = Field(
        "none",
        description="pre: a LayerNorm on queries and on keys and values. Aligners give rows of length 1, whose"
        " dot products are small: without it the attention starts out nearly uniform.",
    )


class JointConfig(Config):
    """Settings of `joint`."""

    heads: int = Field(12, ge=1, le=128, description="Attention heads; they divide the width.")
    mlp_ratio: float = Field(4.0, gt=0, le=16, description="Hidden width of the feed-forward part over the width.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on attention weights and residual branches.")


class QFormerConfig(Config):
    """Settings of `qformer`."""

    layers: int = Field(2, ge=1, le=24, description="BERT layers, each with cross attention.")
    heads: int = Field(12, ge=1, le=128, description="Attention heads; they divide the width.")
    window: float = Field(1 / 3, ge=0.01, le=600, description="Seconds of a window.")
    queries: int = Field(1, ge=1, le=64, description="Learned queries per window; each gives a token.")
    mlp_ratio: float = Field(4.0, gt=0, le=16, description="Hidden width of the feed-forward part over the width.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout, as in BERT.")


def _need(name: str, inputs: Mapping[str, Port], modalities: tuple[str, ...]) -> None:
    missing = [modality for modality in modalities if modality not in inputs]
    if missing:
        there = next((m for m in ("audio", "visual") if m in inputs), None)
        other = f", or fuser.use: {there}_only" if there else ""
        raise PortError(
            "P043",
            f"{name} needs {' and '.join(modalities)} tokens: nothing gives {' or '.join(missing)} tokens",
            help=f"add {' and '.join(f'{m}_encoder' for m in missing)}{other}",
        )


def _need_any(name: str, inputs: Mapping[str, Port]) -> None:
    if "audio" not in inputs and "visual" not in inputs:
        raise PortError(
            "P043",
            f"{name} needs audio or visual tokens: nothing gives any",
            help="add an audio_encoder or a visual_encoder",
        )


def _one_width(inputs: Mapping[str, Port]) -> int | str:
    wanted = inputs["audio"].width if "audio" in inputs else "WIDTH"
    return require_equal_width(inputs, f"set aligner.project: {wanted if isinstance(wanted, int) else 'WIDTH'}")


def _heads_divide(width: int | str, heads: int) -> None:
    if isinstance(width, int) and width % heads:
        fitting = max(n for n in range(1, min(heads, width) + 1) if width % n == 0)
        raise PortError(
            "P050", f"{heads} attention heads do not divide the width {width}", help=f"set fuser.heads: {fitting}"
        )


def _fused(width: int | str, space: str | None = None) -> dict[str, Port]:
    return {"tokens": Port("fused", width, space)}


def _concat_ports(config: ConcatConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    _need_any("concat", inputs)
    spaces = {port.space for port in inputs.values()}
    return _fused(_one_width(inputs), spaces.pop() if len(spaces) == 1 else None)


def _channel_concat_ports(config: ChannelConcatConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    _need("channel_concat", inputs, ("audio", "visual"))
    audio, visual = inputs["audio"].width, inputs["visual"].width
    both_known = isinstance(audio, int) and isinstance(visual, int)
    return _fused(audio + visual if both_known else f"{audio}+{visual}")  # type: ignore[operator]


def _cross_attention_ports(config: CrossAttentionConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    _need("cross_attention", inputs, ("audio", "visual"))
    width = _one_width(inputs)
    _heads_divide(width, config.heads)
    return _fused(width)


def _joint_ports(config: JointConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    _need_any("joint", inputs)
    width = _one_width(inputs)
    _heads_divide(width, config.heads)
    return _fused(width)


def _qformer_ports(config: QFormerConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    _need_any("qformer", inputs)
    width = _one_width(inputs)
    _heads_divide(width, config.heads)
    return _fused(width)


def _audio_only_ports(config: AudioOnlyConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    _need("audio_only", inputs, ("audio",))
    return _fused(inputs["audio"].width, inputs["audio"].space)


def _visual_only_ports(config: VisualOnlyConfig, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    _need("visual_only", inputs, ("visual",))
    return _fused(inputs["visual"].width, inputs["visual"].space)


concat = Component(
    kind="fuser",
    name="concat",
    config=ConcatConfig,
    factory="lavcap_fusers.simple:build_concat",
    summary="Audio tokens, then visual tokens.",
    source=f"{_PAPER}, Table II",
    ports=_concat_ports,
)

channel_concat = Component(
    kind="fuser",
    name="channel_concat",
    config=ChannelConcatConfig,
    factory="lavcap_fusers.simple:build_channel_concat",
    summary="Each audio token beside the visual token nearest in time; the widths add up.",
    ports=_channel_concat_ports,
)

audio_only = Component(
    kind="fuser",
    name="audio_only",
    config=AudioOnlyConfig,
    factory="lavcap_fusers.simple:build_audio_only",
    summary="Audio tokens alone.",
    source=f"{_PAPER}, Table II and VII",
    ports=_audio_only_ports,
)

visual_only = Component(
    kind="fuser",
    name="visual_only",
    config=VisualOnlyConfig,
    factory="lavcap_fusers.simple:build_visual_only",
    summary="Visual tokens alone.",
    source=f"{_PAPER}, Table VII",
    ports=_visual_only_ports,
)

cross_attention = Component(
    kind="fuser",
    name="cross_attention",
    config=CrossAttentionConfig,
    factory="lavcap_fusers.attention:build_cross_attention",
    summary="Audio tokens plus what they attend to among the visual ones, which are dropped.",
    source=f"{_PAPER}, Table III",
    ports=_cross_attention_ports,
)

joint = Component(
    kind="fuser",
    name="joint",
    config=JointConfig,
    factory="lavcap_fusers.attention:build_joint",
    summary="One transformer block over the tokens of both modalities.",
    source=f"{_PAPER}, Table III",
    ports=_joint_ports,
)

qformer = Component(
    kind="fuser",
    name="qformer",
    config=QFormerConfig,
    factory="lavcap_fusers.qformer:build_qformer",
    summary="A learned query per window of time attends to the audio and visual tokens in it.",
    source=f"{_PAPER}, Table III; Q-Former: BLIP-2 (arXiv 2301.12597); per window: SALMONN (arXiv 2310.13289)",
    ports=_qformer_ports,
)
