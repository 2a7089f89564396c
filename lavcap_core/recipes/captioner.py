"""The recipe `captioner`: encoders, aligner, fuser, decoder, in one stage (LAVCap, Fig. 1).

Shapes: B batch, N_a audio tokens, N_v visual tokens, N fused tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lavcap_core.component import Port
from lavcap_core.data import AUDIO, VISUAL, Aligned, Batch, Padded, Sums, Tokens
from lavcap_core.interfaces import Aligner, AudioEncoder, Decoder, Fuser, Generate, VisualEncoder
from lavcap_core.media import Clip, Request

if TYPE_CHECKING:
    from lavcap_core.builder import Builder
    from lavcap_core.builtin import CaptionerConfig, Windows

__all__ = ["Captioner", "Losses", "build", "merge_windows"]


@dataclass(frozen=True)
class Losses:
    """Terms of the loss of a batch (LAVCap eq. 9).

    Attributes:
        total: scalar, caption + alignment.
        caption: scalar, mean cross-entropy of the caption tokens (eq. 8).
        alignment: scalar, mean weighted alignment loss over samples with both modalities (eq. 4), or None.
        tokens: number of caption tokens in the mean.
    """

    total: Tensor
    caption: Tensor
    alignment: Tensor | None
    tokens: Tensor


class Captioner(nn.Module):
    """Says what is heard and seen in a clip.

    Args:
        audio_encoder: sound to tokens, or None for a pipeline that only sees.
        visual_encoder: frames to tokens, or None for a pipeline that only hears.
        aligner: says which tokens correspond, or None.
        fuser: one sequence out of two.
        decoder: tokens to text.
        windows: how clips longer than a window are cut, as in the spec.
    """

    def __init__(
        self,
        audio_encoder: AudioEncoder | None,
        visual_encoder: VisualEncoder | None,
        aligner: Aligner | None,
        fuser: Fuser,
        decoder: Decoder,
        windows: Windows,
    ) -> None:
        super().__init__()
        self.audio_encoder = audio_encoder
        self.visual_encoder = visual_encoder
        self.aligner = aligner
        self.fuser = fuser
        self.decoder = decoder
        self.windows = windows

    def request(self) -> Request:
        """What to read of a file."""
        visual = self.visual_encoder
        audio_width, visual_width = _ready_width(self.audio_encoder), _ready_width(visual)
        return Request(
            audio=self.audio_encoder is not None and audio_width is None,
            frames=visual.frames if visual is not None and visual_width is None else 0,
            audio_width=audio_width,
            visual_width=visual_width,
            image_size=visual.image_size if visual is not None else 224,
            window=self.windows.seconds,
            hop=self.windows.hop,
            limit=self.windows.limit,
        )

    def prepare(self, clip: Clip) -> tuple[Tensor | None, Tensor | None]:
        """Features of one window for both encoders, on the CPU; None for what the clip or the pipeline lacks."""
        sound = clip.waveform if _ready_width(self.audio_encoder) is None else clip.audio_features
        frames = clip.frames if _ready_width(self.visual_encoder) is None else clip.visual_features
        audio = visual = None
        if self.audio_encoder is not None and sound is not None and len(sound):
            audio = self.audio_encoder.prepare(clip)
        if self.visual_encoder is not None and frames is not None and len(frames):
            visual = self.visual_encoder.prepare(clip)
        return audio, visual

    def encode(
        self, audio: Padded | Tokens | None, visual: Padded | Tokens | None, seconds: Tensor | None = None
    ) -> tuple[Tokens | None, Tokens | None]:
        """Tokens of both modalities; what is tokens already stays as it is.

        ``seconds`` [B] are the windows' lengths (default: the spec's).
        """
        sounds = audio if isinstance(audio, Tokens) else None
        if self.audio_encoder is not None and isinstance(audio, Padded):
            sounds = self.audio_encoder(audio)
        if isinstance(visual, Tokens):
            return sounds, visual
        if self.visual_encoder is None or visual is None:
            return sounds, None
        pictures = self.visual_encoder(visual)
        if pictures.times is not None:  # fractions of the window, as the encoder can't know its length
            length = self.windows.seconds if seconds is None else seconds.to(pictures.times)[:, None]
            pictures = replace(pictures, times=pictures.times * length)
        return sounds, pictures

    def fuse(self, audio: Tokens | None, visual: Tokens | None) -> tuple[Tokens, Aligned | None]:
        """Aligns, if the pipeline has an aligner, and fuses.

        A batch in which no clip has one of the modalities is aligned all the same, with no tokens on that side: what
        the aligner does to the others (projection, normalisation) must not depend on a clip's neighbours in a batch.
        """
        if self.aligner is None:
            return self.fuser(audio, visual, None), None
        audio, visual = self._with_empty(audio, visual)
        aligned = self.aligner(audio, visual)
        return self.fuser(aligned.audio, aligned.visual, aligned.alignment), aligned

    def _with_empty(self, audio: Tokens | None, visual: Tokens | None) -> tuple[Tokens, Tokens]:
        """Both modalities; one that the whole batch lacks as [B, 0, D]."""
        there = audio if audio is not None else visual
        if there is None or self.audio_encoder is None or self.visual_encoder is None:
            raise RuntimeError("an aligner needs both encoders and a batch with some tokens")

        def empty(encoder: AudioEncoder | VisualEncoder, modality: int) -> Tokens:
            data = there.data.new_zeros(len(there.data), 0, encoder.width)
            times = None if there.times is None else there.times[:, :0]
            return Tokens.of(data, modality, times=times)

        audio = audio if audio is not None else empty(self.audio_encoder, AUDIO)
        visual = visual if visual is not None else empty(self.visual_encoder, VISUAL)
        return audio, visual

    def forward(self, batch: Batch) -> Sums:
        """Loss terms of a batch in training, a number per sample (LAVCap eq. 4 and 8); none is weighted by the batch's.

        What wraps a model for training (sharding, compiling) calls this.
        """
        audio, visual = self.encode(batch.audio, batch.visual, batch.seconds)
        tokens, aligned = self.fuse(audio, visual)
        caption = self.decoder.loss(tokens, batch.captions, batch.prompts)
        counts = self.decoder.caption_tokens(batch.captions).to(caption.device)
        loss = None if aligned is None else aligned.alignment.loss
        if aligned is None or loss is None:
            return Sums(caption, counts, None)
        both = aligned.audio.present() & aligned.visual.present()
        return Sums(caption, counts, torch.where(both, loss, 0.0))

    def loss(
        self,
        audio: Tokens | None,
        visual: Tokens | None,
        captions: Sequence[str],
        prompts: Sequence[str] | None = None,
    ) -> Losses:
        """Loss of encoded clips against one caption each (LAVCap eq. 8-9)."""
        tokens, aligned = self.fuse(audio, visual)
        sums = self.decoder.loss(tokens, captions, prompts)
        count = self.decoder.caption_tokens(captions).to(sums.device).sum()
        caption = sums.sum() / count.clamp(min=1)
        alignment = aligned.alignment.mean_loss(aligned.audio, aligned.visual) if aligned is not None else None
        total = caption if alignment is None else caption + alignment
        return Losses(total, caption, alignment, count)

    @torch.inference_mode()
    def generate(
        self,
        audio: Tokens | None,
        visual: Tokens | None,
        options: Generate,
        prompts: Sequence[str] | None = None,
    ) -> list[str]:
        """Captions of encoded clips."""
        tokens, _ = self.fuse(audio, visual)
        return self.decoder.generate(tokens, options, prompts)


def _ready_width(encoder: AudioEncoder | VisualEncoder | None) -> int | None:
    """Width of the ready features that an encoder takes instead of sound or frames; None for other encoders."""
    return encoder.width if encoder is not None and getattr(encoder, "takes_features", False) else None


def merge_windows(tokens: Tokens, groups: Sequence[Sequence[int]], starts: Sequence[float]) -> Tokens:
    """Joins the tokens of each clip's windows into one row, window after window.

    Args:
        tokens: [W, N, D], one row per window.
        groups: for each clip, the rows of its windows in order of time.
        starts: for each window, its start in seconds, added to the tokens' times.

    Returns:
        [len(groups), N', D], where N' is the largest number of real tokens of a clip.
    """
    times = tokens.times
    if times is not None:
        times = times + torch.tensor(starts, dtype=times.dtype, device=times.device)[:, None]

    def pack(values: Tensor) -> Tensor:
        rows = [torch.cat([values[row][tokens.mask[row]] for row in group]) for group in groups]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    mask = pack(torch.ones_like(tokens.mask))
    return Tokens(pack(tokens.data), mask, pack(tokens.modality), None if times is None else pack(times))


def build(config: CaptionerConfig, context: Builder) -> Captioner:
    """Builds the parts in the order in which widths become known, and joins them."""
    ports: dict[str, Port] = {}
    parts: dict[str, Any] = {}
    for name in ("audio_encoder", "visual_encoder", "aligner", "fuser", "decoder"):
        parts[name] = context.build_slot(name, ports)
    return Captioner(
        parts["audio_encoder"],
        parts["visual_encoder"],
        parts["aligner"],
        cast(Fuser, parts["fuser"]),
        cast(Decoder, parts["decoder"]),
        cast("Windows", cast(Mapping[str, Any], context.sections)["windows"]),
    )
