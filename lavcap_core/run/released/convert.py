"""Checks a released checkpoint against a spec, and writes what the spec needs of it: adapters, projector, scale.

What is frozen comes from the models that the spec names; `ced` tells of the one exception.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from lavcap_core.builder import build_recipe
from lavcap_core.errors import BuildError, Problem, RunError, WeightsError
from lavcap_core.files import sync
from lavcap_core.run.checkpoint import TRAINED, spec_text
from lavcap_core.run.released import ced
from lavcap_core.run.released.files import Stored, read
from lavcap_core.run.released.names import Found, is_buffer, sort
from lavcap_core.run.released.strategy import first, learns_scale, require_parts, require_strategy, tune
from lavcap_core.spec import Spec
from lavcap_core.spec import read as read_spec
from lavcap_core.tuning import load_trained

__all__ = ["Summary", "convert"]


@dataclass
class Summary:
    """What became of a checkpoint.

    Attributes:
        out: folder that was written.
        counts: trained parameters that were taken, by part.
        dropped: reason to names of tensors that were not.
        notes: what a person should know.
    """

    out: Path
    counts: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def convert(checkpoint: Path, spec: Spec, out: Path, *, check: bool = False, ignore_unknown: bool = False) -> Summary:
    """Writes ``spec.yaml``, ``trained.safetensors`` and, where CED isn't the spec's own, ``ced``.

    Args:
        checkpoint: folder of transformers' Trainer, or a file, see `lavcap_core.run.released.files.read`.
        spec: the pipeline that was trained, with its models as they are called here.
        out: folder to write; it comes into being as a whole.
        check: build the pipeline with its models, load what was written, and compare what was frozen.
        ignore_unknown: leave out tensors that have no place.

    Raises:
        RunError: C040 if ``out`` is there; C041 if the spec's encoder or decoder is another than the checkpoint's;
            C042 if ``out`` can't be written.
        WeightsError: W040 to W042 of files; W043 if tensors have no place; W044 if something else was trained than the
            spec says; W045 if tensors are missing or of another shape; W046 if what was frozen is not the spec's model;
            W048 if values aren't finite; W049 if CED is needed and can't be had.
    """
    if out.exists():
        raise RunError("C040", "is there already", help="--out names another folder", file=str(out))
    found = sort(read(checkpoint), str(checkpoint))
    require_parts(spec, found.parts)
    summary = Summary(out, dropped=found.dropped)
    try:
        _require_known(spec, found, ignore_unknown)
        summary.notes += require_strategy(spec, found.parts)
        with _staging(out) as folder:
            _write(folder, spec, found, summary, check)
    except WeightsError as error:
        raise WeightsError([_placed(problem, checkpoint, out) for problem in error.problems]) from error
    except OSError as error:
        raise RunError("C042", f"can't be written: {error.strerror or error}", file=str(out)) from None
    return summary


def _placed(problem: Problem, checkpoint: Path, out: Path) -> Problem:
    """Problems of the checkpoint are at the checkpoint, also where they are found in what was made of it."""
    here = problem.code.startswith("W04") if problem.file is None else problem.file.startswith(str(_temporary(out)))
    return replace(problem, file=str(checkpoint)) if here else problem


def _require_known(spec: Spec, found: Found, ignore: bool) -> None:
    unknown = list(found.unknown)
    if found.parts["scale"] and not learns_scale(spec):
        found.parts["scale"].clear()
        unknown.append("logit_scale (the spec's OT loss learns no scale)")
    if unknown and not ignore:
        raise WeightsError(
            "W043",
            f"tensors without a place in the pipeline: {first(unknown)}",
            help="--ignore-unknown leaves them out, if the pipeline is right without them",
        )
    if unknown:
        found.dropped["no place in the pipeline"] = unknown


def _temporary(out: Path) -> Path:
    return out.absolute().with_name(f".{out.name}.part")


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder that becomes ``out`` if all goes well, and else is removed."""
    folder = _temporary(out)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        for path in [*folder.rglob("*"), folder]:
            sync(path)
        folder.rename(out)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write(folder: Path, spec: Spec, found: Found, summary: Summary, check: bool) -> None:
    own = _with_ced(folder, spec, found, summary)
    head = "# From a checkpoint of LAVCap's released code.\n"
    (folder / "spec.yaml").write_text(head + spec_text(own, TRAINED), encoding="utf-8")
    own = read_spec(folder / "spec.yaml")
    outline = _outline(own, summary)
    trained = _adapters(own, found) | _language_model(own, found, outline)
    _require_fit(trained, outline)
    save_file(trained, folder / TRAINED)
    for part, tensors in found.parts.items():
        names = [name for name in tensors if name in trained and not is_buffer(name)]
        summary.counts |= {part: sum(trained[name].numel() for name in names)} if names else {}
    if check:
        _check(spec, own, found, summary)


def _with_ced(folder: Path, spec: Spec, found: Found, summary: Summary) -> Spec:
    if found.parts["ced"]:
        return ced.localise(spec, _values(found.parts["ced"]), folder)
    if spec.parts["audio_encoder"] is not None:
        summary.notes.append("no BatchNorm statistics in it: those of audio_encoder.model are taken")
    return spec


def _values(tensors: Mapping[str, Stored]) -> dict[str, Tensor]:
    """Reads tensors.

    Raises:
        WeightsError: W048 if one isn't finite.
    """
    values = {}
    for name, stored in tensors.items():
        value = stored.read()
        if value.is_floating_point() and not value.isfinite().all():
            help = "take a checkpoint from before it went wrong"
            raise WeightsError("W048", f"{name} holds values that are not finite", help=help)
        # Copies, since a file can't be written of tensors that share memory.
        values[name] = value.contiguous().clone()
    return values


def _outline(own: Spec, summary: Summary) -> nn.Module | None:
    """The pipeline without values; None, with a note, where the size of a model isn't known."""
    try:
        outline: nn.Module = build_recipe(own, skeleton=True)
    except BuildError as error:
        if error.code != "B050" or tune(own, "decoder").mode == "finetune":
            raise
        summary.notes.append(f"shapes were not compared with the models': {error.problems[0].message}")
        return None
    return outline


def _adapters(own: Spec, found: Found) -> dict[str, Tensor]:
    """All that was trained, but for a language model that was trained as a whole."""
    parts = ["ced_lora", "llama_lora", "projector", "scale"]
    if tune(own, "audio_encoder").mode == "finetune":
        parts.append("ced")
    values = {name: value for part in parts for name, value in _values(found.parts[part]).items()}
    scale = values.get("aligner.loss.scale")
    if scale is not None and scale.numel() == 1:
        values["aligner.loss.scale"] = scale.reshape(())
    return values


def _language_model(own: Spec, found: Found, outline: nn.Module | None) -> dict[str, Tensor]:
    """What was trained of the language model itself: all of it without the row of [PAD], or nothing."""
    stored = found.parts["llama"]
    shapes = {} if outline is None else {name: value.shape for name, value in _plain(outline).items()}
    wrong = [name for name, tensor in stored.items() if not _fits(name, tensor.shape, shapes.get(name))]
    if outline is not None and wrong:
        raise _other_model(wrong, stored)
    if tune(own, "decoder").mode == "finetune":
        return {name: value[: shapes[name][0]].clone() for name, value in _values(stored).items()}
    if stored:
        found.dropped["frozen: the spec's decoder.model has it"] = list(stored)
    return {}


def _plain(module: nn.Module) -> dict[str, Tensor]:
    """A module's state; what LoRA was put around has the name that it has without."""
    return {name.replace(".base_layer.", "."): value for name, value in module.state_dict().items()}


def _fits(name: str, shape: Sequence[int], own: Sequence[int] | None) -> bool:
    """Whether the spec's language model has this tensor, but for the row of the added [PAD]."""
    if own is None:
        return False
    rows = (own[0], own[0] + 1) if name.endswith(("embed_tokens.weight", "lm_head.weight")) else (own[0],)
    return len(shape) == len(own) and shape[0] in rows and tuple(shape[1:]) == tuple(own[1:])


def _other_model(wrong: Sequence[str], stored: Mapping[str, Stored]) -> WeightsError:
    return WeightsError(
        "W046",
        f"its language model is not the spec's decoder.model: {len(wrong)} of {len(stored)} tensors differ, "
        f"{first(wrong)}",
        help="--set decoder.model=... names the one that it was trained with",
    )


def _require_fit(trained: Mapping[str, Tensor], outline: nn.Module | None) -> None:
    if outline is None:
        return
    try:
        load_trained(outline, trained)
    except WeightsError as error:
        help = "--set gives the spec what that training had; see `lavcap explain W045`"
        raise WeightsError("W045", error.problems[0].message, help=help) from error


def _check(spec: Spec, own: Spec, found: Found, summary: Summary) -> None:
    """Builds the pipeline with its models, loads what was written, and compares what was frozen."""
    from lavcap_core.pipeline import load

    state = _plain(load(own).recipe)
    stored = found.parts["llama"]
    if tune(own, "decoder").mode != "finetune":
        wrong = [
            name
            for name, tensor in stored.items()
            if name not in state or ced.apart(tensor.read()[: len(state[name])], state[name])
        ]
        if wrong:
            raise _other_model(wrong, stored)
    summary.notes.append("the pipeline was built with its models, and takes the weights")
    frozen = tune(own, "audio_encoder").mode != "finetune"
    if frozen and not all(map(is_buffer, found.parts["ced"])):
        summary.notes.append(ced.compare(spec, found.parts["ced"]))
