"""Any image model of timm: one pooled feature vector per frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lavcap_clip.frames import encode_frames, normalise, resize
from lavcap_clip.plugin import TimmConfig
from lavcap_core.component import Context
from lavcap_core.data import Padded, Tokens
from lavcap_core.errors import BuildError, MediaError, WeightsError
from lavcap_core.media import Clip
from lavcap_core.tuning import apply_tune

__all__ = ["TimmEncoder", "build", "skeleton"]

_TARGETS = ("qkv",)


class TimmEncoder(nn.Module):
    """Frames to tokens, one per frame: what the model pools before its classifier.

    Args:
        model: an image model without classifier, from pixels [n, 3, S, S] to features [n, D].
        size: S.
        mean: of the pictures, per channel, in 0..1.
        std: their standard deviation.
        frames: frames per window.
        batch: frames that are encoded at a time.
    """

    def __init__(
        self, model: Any, size: int, mean: Sequence[float], std: Sequence[float], frames: int, batch: int
    ) -> None:
        super().__init__()
        self.model = model
        self.width: int = model.num_features
        self.image_size, self.frames, self.chunk = size, frames, batch
        self.mean, self.std = tuple(mean), tuple(std)

    def prepare(self, clip: Clip) -> Tensor:
        """The clip's frames as uint8 [T, 3, S, S], resized where they have another size than the model wants.

        Raises:
            MediaError: M070 if the clip has no frames.
        """
        if clip.frames is None:
            raise MediaError("M070", "the clip has no frames to encode", file=clip.path)
        return resize(clip.frames, self.image_size)

    def __call__(self, batch: Padded) -> Tokens:
        """Tokens [B, T, D] of prepared frames, with relative times."""
        tokens: Tokens = super().__call__(batch)
        return tokens

    def forward(self, batch: Padded) -> Tokens:
        """See `__call__`."""
        return encode_frames(batch, self._encode, self.chunk)

    def _encode(self, pictures: Tensor) -> Tensor:
        pixels = normalise(pictures, self.mean, self.std).to(next(self.model.parameters()).dtype)
        features: Tensor = self.model(pixels)
        return features[:, None]


def build(config: TimmConfig, context: Context) -> TimmEncoder:
    """Builds the visual encoder `timm`.

    Raises:
        BuildError: B071 if timm can't be imported, B072 if it knows no such model.
        WeightsError: W071 if the hub can't be reached, W072 if the file is not of this model.
    """
    timm = _timm()
    model = _empty(timm, config.model)
    data = timm.data.resolve_model_data_config(model)
    if config.weights is None:
        model = _fetched(timm, config.model)
    else:
        _read(timm, model, context.locate(config.weights))
    return _encoder(model, data, config)


def skeleton(config: TimmConfig, context: Context) -> TimmEncoder:
    """What `build` gives, on the meta device and without reading weights.

    Raises:
        BuildError: B071 and B072 as `build`.
    """
    timm = _timm()
    model = _empty(timm, config.model)
    return _encoder(model, timm.data.resolve_model_data_config(model), config)


def _empty(timm: Any, name: str) -> Any:
    try:
        return timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError) as error:
        near = ", ".join(timm.list_models(f"*{name.split('.')[0][:12]}*")[:5])
        raise BuildError(
            "B072", f"timm knows no model {name} ({error})", help=f"near: {near}" if near else None
        ) from error


def _encoder(model: Any, data: Mapping[str, Any], config: TimmConfig) -> TimmEncoder:
    model = apply_tune(model.eval(), config.tune, _TARGETS)
    return TimmEncoder(model, data["input_size"][-1], data["mean"], data["std"], config.frames, config.batch)


def _timm() -> Any:
    try:
        import timm
    except Exception as error:
        # A torchvision made for another torch raises RuntimeError, not ImportError.
        raise BuildError(
            "B071",
            f"timm can't be imported ({error})",
            help="pip install 'lavcap-clip[timm]'; torchvision must be the one made for this torch",
        ) from error
    return timm


def _fetched(timm: Any, name: str) -> Any:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        # timm hands on whatever the hub's client raises, and RuntimeError for a model without weights.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            "W071", f"can't get {name} from the hub: {reason}", help="put its weights into a file and set `weights`"
        ) from error


def _read(timm: Any, model: Any, file: str) -> None:
    """Reads weights of the model, with or without its classifier."""
    try:
        state = timm.models.load_state_dict(file, weights_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError("W072", f"{file} can't be read: {reason}") from error
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = {name: value for name, value in state.items() if not name.startswith(tuple(f"{head}." for head in heads))}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise WeightsError(
            "W072", f"{file} holds no weights of this model: {lines[min(1, len(lines) - 1)].strip()}"
        ) from error
