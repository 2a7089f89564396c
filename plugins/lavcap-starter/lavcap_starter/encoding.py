"""What both encoders share: how weights are loaded, and how posteriors become tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lavcap_core.component import Context
from lavcap_core.errors import WeightsError
from lavcap_starter.classes import Classes
from lavcap_starter.tokens import Mixing, Vocabulary, confident, mix

__all__ = ["Speaker", "load_weights", "vocabulary"]


class Speaker(nn.Module):
    """Says in tokens what a classifier recognised (see `lavcap_starter.tokens`).

    Args:
        vocabulary: the class names' embeddings [C, D].
        mixing: how posteriors become tokens.
    """

    # Non-persistent buffers: they follow the module to its device, and are no weights of a checkpoint.
    table: Tensor
    weights: Tensor
    links: Tensor

    def __init__(self, vocabulary: Vocabulary, mixing: Mixing) -> None:
        super().__init__()
        self.mixing = mixing
        self.width = vocabulary.table.shape[1]
        for name in ("table", "weights", "links"):
            self.register_buffer(name, getattr(vocabulary, name), persistent=False)

    def forward(self, posteriors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and which of them say something.

        Args:
            posteriors: [B, N, C] in 0..1.
            mask: [B, N] bool, the windows that are real.

        Returns:
            [B, N, D] float32, 0 where masked, and [B, N] bool.
        """
        vocabulary = Vocabulary(self.table.float(), self.weights.float(), self.links)
        sure = confident(posteriors, vocabulary, self.mixing, mask)
        return mix(posteriors, vocabulary, self.mixing) * sure[..., None], sure


def load_weights(place: str, network: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Weights of a safetensors file, checked against what the network has.

    Raises:
        WeightsError: W096 if the file can't be read or lacks weights, has others, or has them in other shapes.
    """
    try:
        state: dict[str, Tensor] = load_file(place)
    except (OSError, SafetensorError) as error:
        raise _unfit(place, str(error)) from error
    with torch.device("meta"):
        expected = {
            key: value.shape for key, value in network().state_dict().items() if not key.endswith("batches_tracked")
        }
    wrong = sorted(key for key in expected.keys() | state.keys() if _shape(state.get(key)) != expected.get(key))
    if wrong:
        raise _unfit(place, f"{len(wrong)} weights are missing, unknown or of another shape, such as {wrong[0]}")
    return state


def vocabulary(context: Context, classes: Classes, kind: str, centre: bool, width: int) -> Vocabulary:
    """The classes with the embeddings [C, width] of their names, from ``starter:names``."""
    place = context.locate("starter:names")
    try:
        with safe_open(place, framework="pt") as file:
            table: Tensor = file.get_tensor(kind)
    except (OSError, SafetensorError) as error:
        raise _unfit(place, str(error)) from error
    if table.shape != (len(classes.names), width):
        raise _unfit(place, f"{kind} is {list(table.shape)}, not {[len(classes.names), width]}")
    return Vocabulary.of(classes, table, centre)


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _unfit(place: str, reason: str) -> WeightsError:
    help = f"if it is the starter's own, delete the folder {Path(place).parent} and fetch it again"
    return WeightsError("W096", f"unusable weights: {reason}", help=help, file=place)
