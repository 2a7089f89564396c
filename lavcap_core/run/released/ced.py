"""The CED of a checkpoint: written beside the spec where it isn't what the spec's own model gives.

The released code leaves CED's BatchNorm in training mode: its statistics follow the training even where CED is frozen,
and what was trained relies on them. A pipeline here has them in eval mode, as part of CED's weights. So they are stored
with these: with the CED of the checkpoint where it holds all of it, else with the one that the spec names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lavcap_core.builder import build_use
from lavcap_core.component import Tune, Use
from lavcap_core.errors import LavcapError, WeightsError
from lavcap_core.run.released.files import Stored
from lavcap_core.run.released.names import is_buffer
from lavcap_core.run.released.strategy import first
from lavcap_core.spec import Spec

__all__ = ["apart", "compare", "localise"]

_PREFIX = "audio_encoder.model."
_APART = 0.005  # bfloat16 changes a tensor's norm by some 0.2 % at most; weights of another training by more


def localise(spec: Spec, tensors: Mapping[str, Tensor], folder: Path) -> Spec:
    """Writes ``ced`` into a folder if CED isn't the spec's own, and gives the spec that names it as ``./ced``.

    Args:
        spec: with the audio encoder ced.
        tensors: all of CED, or some of its buffers, by name in the pipeline.
        folder: of the new spec.

    Raises:
        WeightsError: W049 if only statistics are given, and the spec's CED can't be had.
    """
    use = spec.parts["audio_encoder"]
    assert use is not None
    state = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    if all(map(is_buffer, state)):
        own = _own(use)
        if all(torch.equal(own[name], value.to(own[name].dtype)) for name, value in state.items()):
            return spec
        state = own | state
    (folder / "ced").mkdir()
    save_file(state, folder / "ced" / "model.safetensors")
    # The width is what a spec's check reads; heads are 64 wide, as in all published sizes.
    width = state["norm.weight"].numel() if "norm.weight" in state else None
    (folder / "ced" / "config.json").write_text(json.dumps({"embed_dim": width}), encoding="utf-8")
    changed = replace(use, config=use.config.model_copy(update={"model": "./ced", "revision": None}))
    return replace(spec, pipeline=spec.pipeline.model_copy(update={"audio_encoder": changed}))


def _own(use: Use) -> dict[str, Tensor]:
    """Weights of the CED that a spec names, without anything of training."""
    try:
        part = build_use(replace(use, config=use.config.model_copy(update={"tune": Tune()})))
    except LavcapError as error:
        raise WeightsError(
            "W049",
            "that training changed the statistics of CED's BatchNorm, which are stored with CED, and CED can't be had: "
            f"{error.problems[0].message}",
            help="--set audio_encoder.model=FOLDER names CED's weights",
        ) from error
    return {name.removeprefix("model."): value.detach().clone() for name, value in part.state_dict().items()}


def compare(spec: Spec, stored: Mapping[str, Stored]) -> str:
    """Says whether the CED of a checkpoint is the one that the spec names, statistics aside."""
    use = spec.parts["audio_encoder"]
    assert use is not None
    name = use.config.model or "the random one of the spec"
    try:
        own = _own(use)
    except WeightsError:
        return f"its CED was not compared with {name}, which can't be had"
    shorts = {key.removeprefix(_PREFIX): part for key, part in stored.items() if not is_buffer(key)}
    wrong = [
        key for key, part in shorts.items() if key not in own or apart(part.read(), _stretched(own[key], part.shape))
    ]
    return f"its CED is {name}" if not wrong else f"its CED is not {name}: {len(wrong)} tensors differ, {first(wrong)}"


def _stretched(own: Tensor, shape: Sequence[int]) -> Tensor:
    """Positions in time for as many columns as the checkpoint has; all else as it is."""
    if own.ndim != 4 or len(shape) != 4 or own.shape[3] == shape[3]:
        return own
    return F.interpolate(own, size=(own.shape[2], shape[3]), mode="bilinear", align_corners=False)


def apart(theirs: Tensor, ours: Tensor) -> bool:
    """Whether two tensors differ by more than the rounding of half precision."""
    if theirs.shape != ours.shape:
        return True
    ours = ours.detach().cpu().float()
    return not bool((theirs.float() - ours).norm() <= _APART * ours.norm())  # NaN is apart from everything
