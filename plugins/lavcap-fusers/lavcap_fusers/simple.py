"""Fusers without parameters: token concat, channel concat, and one modality alone.

Shapes: B batch, N_a audio tokens, N_v visual tokens, D_a and D_v their widths.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.data import Alignment, Tokens
from lavcap_core.errors import PortError
from lavcap_fusers import plugin

__all__ = [
    "ChannelConcat",
    "Concat",
    "OneModality",
    "alone",
    "build_audio_only",
    "build_channel_concat",
    "build_concat",
    "build_visual_only",
    "nearest_in_time",
    "require_times",
    "with_lone_visual",
]


def require_times(tokens: Tokens, fuser: str) -> Tensor:
    """Times [B, N] of tokens.

    Raises:
        PortError: P051 if they have none: spreading them evenly would be a guess, wrong for short clips.
    """
    if tokens.times is None:
        raise PortError(
            "P051",
            f"{fuser} needs the times of its tokens, and an encoder gives none",
            help="use a fuser that needs no times, such as concat, or an encoder that sets Tokens.times",
        )
    return tokens.times


def alone(audio: Tokens | None, visual: Tokens | None) -> Tokens | None:
    """The one modality that is there, or None if both are."""
    if audio is None and visual is None:
        raise ValueError("a fuser needs audio tokens, visual tokens or both")
    return visual if audio is None else audio if visual is None else None


def with_lone_visual(fused: Tokens, audio: Tokens, visual: Tokens) -> Tokens:
    """Appends the visual tokens of samples that have no audio tokens, for fusers that otherwise drop them.

    Args:
        fused: [B, N_a, D], one token per audio token.
        audio: [B, N_a, D_a] what was fused.
        visual: [B, N_v, D] in the width of ``fused``.

    Returns:
        ``fused`` itself if every sample has audio, so that the usual batch isn't lengthened; else [B, N_a + N_v, D].
    """
    silent = ~audio.present()
    if not bool(silent.any()):
        return fused
    return Tokens.concat([fused, replace(visual, mask=visual.mask & silent[:, None])])


def nearest_in_time(audio: Tokens, visual: Tokens) -> Tensor:
    """Index [B, N_a] of the visual token nearest in time to each audio token; of equals, the first.

    Raises:
        PortError: P051 if either modality has no times.
    """
    gap = (require_times(audio, "channel_concat")[:, :, None] - require_times(visual, "channel_concat")[:, None]).abs()
    return gap.masked_fill(~visual.mask[:, None], torch.inf).argmin(dim=2)


class Concat(nn.Module):
    """Audio tokens first, then visual tokens: [B, N_a + N_v, D] (LAVCap, Table II).

    Modality, mask and times are kept. A modality that is missing adds nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        """Fuses [B, N_a, D] and [B, N_v, D]."""
        return Tokens.concat([part for part in (audio, visual) if part is not None])


class ChannelConcat(nn.Module):
    """Each audio token beside the visual token nearest in time: [B, N_a, D_a + D_v].

    The tokens count as audio, with the audio's times. A sample without visual tokens gets zeros in their place; the
    visual tokens of a sample without audio follow with zeros in the audio's place, and count as visual.
    """

    def __init__(self, audio_width: int, visual_width: int) -> None:
        super().__init__()
        self.audio_width = audio_width
        self.visual_width = visual_width
        self.width = audio_width + visual_width

    def forward(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        """Fuses [B, N_a, D_a] and [B, N_v, D_v].

        Raises:
            PortError: P051 if both modalities are there and one has no times.
        """
        if audio is None or visual is None or 0 in (audio.data.shape[1], visual.data.shape[1]):
            return self._widen(audio, visual)
        index = nearest_in_time(audio, visual)
        near = visual.data.gather(1, index[:, :, None].expand(-1, -1, self.visual_width))
        receives = audio.mask & visual.present()[:, None]
        near = near.masked_fill(~receives[:, :, None], 0)
        fused = audio.with_data(torch.cat([audio.data, near], dim=2))
        return with_lone_visual(fused, audio, self._widen(None, visual))

    def _widen(self, audio: Tokens | None, visual: Tokens | None) -> Tokens:
        if audio is not None and visual is not None:
            return Tokens.concat([self._widen(audio, None), self._widen(None, visual)])
        lone = alone(audio, visual)
        assert lone is not None
        room = (0, self.visual_width) if audio is not None else (self.audio_width, 0)
        return lone.with_data(nn.functional.pad(lone.data, room))


class OneModality(nn.Module):
    """The tokens of one modality, untouched (LAVCap, Table II and VII); a sample without it gets no tokens."""

    def __init__(self, width: int, audio: bool) -> None:
        super().__init__()
        self.width = width
        self.audio = audio

    def forward(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        """Gives [B, N, D] of its modality; [B, 0, D] for a batch without it."""
        kept, other = (audio, visual) if self.audio else (visual, audio)
        if kept is not None:
            return kept
        assert other is not None
        times = None if other.times is None else other.times[:, :0]
        data = other.data.new_zeros(other.data.shape[0], 0, self.width)
        return Tokens(data, other.mask[:, :0], other.modality[:, :0], times)


def build_concat(config: plugin.ConcatConfig, context: Context) -> Concat:
    """Factory of `concat`."""
    return Concat(int(plugin.concat.ports(config, context.inputs)["tokens"].width))


def build_channel_concat(config: plugin.ChannelConcatConfig, context: Context) -> ChannelConcat:
    """Factory of `channel_concat`."""
    plugin.channel_concat.ports(config, context.inputs)
    return ChannelConcat(int(context.inputs["audio"].width), int(context.inputs["visual"].width))


def build_audio_only(config: plugin.AudioOnlyConfig, context: Context) -> OneModality:
    """Factory of `audio_only`."""
    return OneModality(int(plugin.audio_only.ports(config, context.inputs)["tokens"].width), audio=True)


def build_visual_only(config: plugin.VisualOnlyConfig, context: Context) -> OneModality:
    """Factory of `visual_only`."""
    return OneModality(int(plugin.visual_only.ports(config, context.inputs)["tokens"].width), audio=False)
