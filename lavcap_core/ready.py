"""The encoders `features`: vectors that another program computed stand for an encoder's tokens. No parameters.

Their attribute ``takes_features`` tells the recipe to read and prepare a clip's features, and no sound or frames.

Shapes: T vectors of a clip, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.data import AUDIO, VISUAL, Padded, Tokens
from lavcap_core.errors import DataError
from lavcap_core.media import Clip

if TYPE_CHECKING:
    from lavcap_core.builtin import AudioFeaturesConfig, VisualFeaturesConfig

__all__ = ["AudioFeatures", "VisualFeatures", "build_audio", "build_visual"]


class AudioFeatures(nn.Module):
    """Ready vectors of a clip's sound as tokens.

    Args:
        width: D.
    """

    takes_features = True
    window = None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def prepare(self, clip: Clip) -> Tensor:
        """[T, D + 1]: the vectors and, last, the second of the clip at which each stands.

        Raises:
            DataError: D003 if the clip has none.
        """
        if clip.audio_features is None:
            raise DataError("D003", "the clip has no audio_features", file=clip.path)
        vectors = torch.from_numpy(clip.audio_features)
        middles = (torch.arange(len(vectors)) + 0.5) * clip.seconds / len(vectors)
        return torch.cat([vectors, middles[:, None]], dim=1)

    def forward(self, batch: Padded) -> Tokens:
        """Tokens [B, T, D] with their times."""
        return Tokens.of(batch.data[:, :, :-1], AUDIO, batch.mask, batch.data[:, :, -1])


class VisualFeatures(nn.Module):
    """Ready vectors of a clip's frames as tokens, such as 20 projected embeddings of CLIP.

    Args:
        width: D.
        frames: vectors of a window at most; of more, N are taken as frames are: number ``i * T / N``, rounded down.
    """

    takes_features = True
    image_size = 224

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.width = width
        self.frames = frames

    def prepare(self, clip: Clip) -> Tensor:
        """[T, D].

        Raises:
            DataError: D003 if the clip has none.
        """
        if clip.visual_features is None:
            raise DataError("D003", "the clip has no visual_features", file=clip.path)
        vectors = torch.from_numpy(clip.visual_features)
        if len(vectors) <= self.frames:
            return vectors
        return vectors[torch.arange(self.frames) * len(vectors) // self.frames]

    def forward(self, batch: Padded) -> Tokens:
        """Tokens [B, T, D] with relative times: vector i of T stands at (i + 0.5) / T."""
        middles = (torch.arange(batch.data.shape[1], device=batch.data.device) + 0.5) / batch.lengths[:, None].clamp(1)
        return Tokens.of(batch.data, VISUAL, batch.mask, middles.masked_fill(~batch.mask, 0))


def build_audio(config: AudioFeaturesConfig, context: Context) -> AudioFeatures:
    """Builds the audio encoder `features`."""
    return AudioFeatures(config.width)


def build_visual(config: VisualFeaturesConfig, context: Context) -> VisualFeatures:
    """Builds the visual encoder `features`."""
    return VisualFeatures(config.width, config.frames)
