"""Training, as one procedure: build, read ahead, step, validate, keep (LAVCap III-A2).

What a step sees depends on its number, the seed and the data alone: clips come from `Sampler`, what is drawn at random
on the way (captions, masks, dropout) from a generator that is seeded anew at each step. So a run that was killed goes
on to the same numbers, and several processes see together what one would have seen alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lavcap_core import hooks
from lavcap_core.builder import build_recipe, build_use
from lavcap_core.builtin import MAY_CHANGE, TrainConfig
from lavcap_core.component import Use
from lavcap_core.data import Batch, Sample
from lavcap_core.errors import DataError, RunError, SpecError, WeightsError
from lavcap_core.files import replace_text
from lavcap_core.interfaces import Backend, Dataset
from lavcap_core.pipeline import load_weights
from lavcap_core.recipes.captioner import Captioner
from lavcap_core.run import checkpoint, validate
from lavcap_core.run.evaluate.score import choose, require
from lavcap_core.run.loader import Job, Loaded, Loader
from lavcap_core.run.log import LOG, VALIDATION, Log, rows
from lavcap_core.run.sampler import Sampler
from lavcap_core.spec import Spec

__all__ = ["Plan", "factor", "groups", "train"]

_TERMS = ("loss", "caption", "alignment")
_SIZES = ("batch", "accumulate")
"""Settings that other processes may share out otherwise: their product, clips per step, is what must stay."""
_SKIPS = 20
"""Steps in a row that may be skipped before the run is given up."""


@dataclass(frozen=True)
class Plan:
    """How long a run is, in steps.

    Attributes:
        epoch: steps of an epoch.
        steps: of the whole run.
        warmup: of the warm-up.
        save: from one checkpoint to the next.
        validate: from one validation to the next.
    """

    epoch: int
    steps: int
    warmup: int
    save: int
    validate: int

    @classmethod
    def of(cls, settings: TrainConfig, epoch: int) -> Plan:
        """The plan of some settings for epochs of ``epoch`` steps."""
        steps = settings.steps or settings.epochs * epoch
        warmup = round(settings.warmup_epochs * epoch) if settings.warmup_steps is None else settings.warmup_steps
        return cls(
            epoch, steps, min(warmup, steps), settings.save_every or epoch, _times(settings.validate_every, epoch)
        )

    def ends(self, step: int, every: int) -> bool:
        """Whether something is due after a step."""
        return (step + 1) % every == 0 or step + 1 == self.steps


def _times(epochs: float, steps: int) -> int:
    return max(1, round(epochs * steps))


def factor(step: int, plan: Plan, settings: TrainConfig) -> float:
    """Learning rate of a step as a fraction of its peak: linear warm-up, then down to the final one."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    floor = min(1.0, settings.final_lr / settings.lr)
    progress = min(1.0, (step - plan.warmup) / max(1, plan.steps - plan.warmup))
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return floor + (1 - floor) * shape[settings.schedule]


def groups(model: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """Parameter groups of the optimiser: by weight decay (matrices only) and by factor of the learning rate."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = math.prod(value for text, value in settings.lr_factors.items() if text in name)
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((decay, settings.lr * share), []).append(parameter)
    return [{"params": params, "weight_decay": decay, "lr": lr, "peak": lr} for (decay, lr), params in found.items()]


def train(spec: Spec, folder: str | Path, *, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Trains what the spec says is trained.

    Args:
        spec: a checked spec with a `train` section that names data.
        folder: of the run: ``log.jsonl``, ``validation.jsonl``, ``checkpoints``, ``best.json``, ``summary.json``.
        resume: go on from the newest whole checkpoint in the folder; begins where there is none.
        quiet: nothing on the console but warnings.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        SpecError: C024 if the spec names no training data; C026 if validation doesn't give what `train.best` names.
        RunError: C020 if a loss is not finite; C021 if the folder holds a run and ``resume`` is off; C022 if it holds a
            run of another spec or other data; C023 if no clip can be read; C025 if nothing is trained; E014 if a
            metric of `train.metrics` can't be computed here.
        WeightsError: W032 if no checkpoint is whole.
    """
    run = _Run.of(spec, Path(folder), resume, quiet)
    events = hooks.manager()
    events.hook.run_start(verb="train", spec=spec.filled())
    try:
        with run.backend.shapes():
            return run.go(events)
    finally:
        run.log.close()
        events.hook.run_end(verb="train", summary={"step": run.step, "skipped": run.skipped, "best": run.best})


@dataclass
class _Run:
    """A run in progress; what changes from step to step is below the line."""

    spec: Spec
    settings: TrainConfig
    folder: Path
    backend: Backend
    recipe: Captioner
    model: nn.Module
    optimiser: Any
    data: Dataset
    held_out: Dataset | None
    sampler: Sampler
    plan: Plan
    log: Log
    # ---
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0
    _in_a_row: int = 0
    _aligned: bool = False
    _owed: bool = False  # a validation of the step that is saved
    _failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: Spec, folder: Path, resume: bool, quiet: bool) -> _Run:
        settings = cast(TrainConfig, spec.sections["train"])
        backend = cast(Backend, build_use(spec.pipeline.backend))
        backend.launch()
        if settings.validation is not None and backend.index == 0:
            _require_metrics(settings)
        begin(folder, spec, resume, backend)
        backend.seed(settings.seed)  # of weights that are drawn, such as the projector's
        recipe = build_recipe(spec)
        if spec.pipeline.weights is not None:
            load_weights(recipe, spec.pipeline.weights)
        data, held_out = (dataset(use, recipe, backend, spec) for use in (settings.data, settings.validation))
        if data is None:
            help = "write train: {data: MANIFEST} with clips and captions"
            raise SpecError("C024", "the spec names no training data", help=help, file=spec.file)
        _check_splits(data, held_out)
        model = backend.wrap(recipe)
        found = groups(recipe, settings)
        if not found:
            help = "set tune: {mode: lora} or {mode: finetune} on a part"
            raise RunError("C025", "nothing in this pipeline is trained", help=help)
        sampler = Sampler(
            data.lengths, settings.batch, settings.accumulate, backend.processes, settings.bucket, settings.seed
        )
        plan = Plan.of(settings, sampler.steps)
        log = Log(folder, plan.steps, settings.log_every, settings.trackers, quiet, silent=backend.index > 0)
        optimiser = backend.optimiser(found, settings.betas)
        run = cls(spec, settings, folder, backend, recipe, model, optimiser, data, held_out, sampler, plan, log)
        run._restore()
        return run

    def go(self, events: Any) -> dict[str, Any]:
        """All steps that are left."""
        self.log.start(self.step, self.spec.filled(), self._owed)
        if self._owed:
            self._judge()
        loader = Loader(self._read, len(self.data.names), self.settings.workers)
        for loaded in loader(self._jobs()):
            self._note_failed(loaded)
            row = self._step(loaded.job.step, loaded.batches)
            clips = sum(len(part) for part in loaded.job.clips) * self.backend.processes
            self.log.step(row, clips)
            events.hook.step_end(step=row["step"], terms=row)
            self.step = loaded.job.step + 1
            self._keep(loaded.job.step)
        return self._summary()

    # --- reading -----------------------------------------------------------------------------------------------------

    def _jobs(self) -> Iterator[Job]:
        for step in range(self.step, self.plan.steps):
            epoch, within = divmod(step, self.plan.epoch)
            if step == self.step or within == 0:
                order = self.sampler.epoch(epoch)
            yield Job(step, self.sampler.share(order[within], self.backend.index), epoch)

    def _read(self, index: int, epoch: int) -> Sample:
        return self.data.read(index, self.recipe, (self.settings.seed, 1, epoch, index))

    def _note_failed(self, loaded: Loaded) -> None:
        for index, reason in loaded.failed:
            self._note(self.data.names[index], reason)

    def _note(self, name: str, reason: str) -> None:
        """A clip that can't be read is said once."""
        if name not in self._failed:
            self._failed[name] = reason
            self.log.say(f"{name}: left out, since it can't be read: {reason}")

    def _share_failed(self) -> None:
        """Tells all processes what each could not read; all call it at the same points."""
        for name, reason in self.backend.gather(sorted(self._failed.items())):
            self._note(name, reason)

    # --- one step ----------------------------------------------------------------------------------------------------

    def _step(self, step: int, batches: Sequence[Batch]) -> dict[str, Any]:
        self.model.train()
        self.backend.seed(_seed(self.settings.seed, step, self.backend.index))
        share = factor(step, self.plan, self.settings)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * share
        totals = self.backend.sum(_totals(self.recipe, batches))
        if not totals[0]:
            raise RunError("C023", f"none of the clips of step {step} can be read", help="see the lines above")
        terms = torch.zeros(2, device=self.backend.device)
        for batch in batches:
            terms += self._forward_backward(batch.to(self.backend.device), totals)
        terms = self.backend.sum(terms).cpu()
        self._require_alignment(batches)
        if step == 0:
            self._store_spec()
        norm = float(self.backend.gradients(self.model, self.settings.clip))
        row = {"step": step, "epoch": step // self.plan.epoch, "lr": self.settings.lr * share}
        loss = float(terms.sum())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._reject(step, loss, norm)
            return {**row, "skipped": True}
        aligned = float(terms[1]) if self._aligned else None
        self._in_a_row = 0
        self.backend.step(self.optimiser)
        return {**row, "loss": loss, "caption": float(terms[0]), "alignment": aligned, "norm": norm}

    def _require_alignment(self, batches: Sequence[Batch]) -> None:
        """Only an aligner that has run, on clips with both modalities, shows whether it has a loss."""
        wanted = self.settings.best == "alignment" and self.held_out is not None and not self._aligned
        if wanted and (self.recipe.aligner is None or any(bool(batch.pairs().any()) for batch in batches)):
            raise _no_best("alignment", ["loss", "caption"])

    def _forward_backward(self, batch: Batch, totals: Tensor) -> Tensor:
        """Adds the gradient of a batch's part of the loss (eq. 9); gives both of its terms.

        Cross-entropy is a mean over the caption tokens of all processes' batches of the step, the alignment loss one
        over their clips with both modalities, so that neither depends on how the clips were shared out.
        """
        tokens, pairs = totals.clamp(min=1).float().to(batch.weights.device)  # some devices lack float64
        with self.backend.autocast():
            sums = self.model(batch)
            caption = (sums.caption * batch.weights).sum() / tokens
            alignment = torch.zeros_like(caption)
            if sums.alignment is not None:
                self._aligned = True
                alignment = (sums.alignment * batch.weights).sum() / pairs
        self.backend.backward(caption + alignment)
        return torch.stack([caption.detach(), alignment.detach()]).float()

    def _reject(self, step: int, loss: float, norm: float) -> None:
        """A loss or gradient that is not finite: never a step, never saved."""
        self.optimiser.zero_grad(set_to_none=True)
        self.skipped += 1
        self._in_a_row += 1
        what = f"step {step}: the loss is {loss}, the gradient's norm {norm}"
        overflow = self.backend.scaled and math.isfinite(loss)
        if (self.settings.nonfinite == "stop" and not overflow) or self._in_a_row >= _SKIPS:
            help = "lower train.lr, compute in float32, or set train.nonfinite: skip; the checkpoints are unharmed"
            raise RunError("C020", what, help=help)
        self.log.say(f"{what}; skipped")

    # --- keeping -----------------------------------------------------------------------------------------------------

    def _store_spec(self) -> None:
        """Once the first loss is there: a run that failed before must not stand in the way of its own correction."""
        if self.backend.index == 0:
            replace_text(self.folder / "spec.yaml", checkpoint.spec_text(self.spec, self.spec.pipeline.weights))

    def _keep(self, step: int) -> None:
        self._owed = self.held_out is not None and self.plan.ends(step, self.plan.validate)
        if self._owed or self.plan.ends(step, self.plan.save):
            self._save()
        if self._owed:
            self._judge()

    def _judge(self) -> None:
        """Validates what is saved already, so that an error costs no step; a resumed run makes up for it."""
        self._validate()
        self._owed = False
        self._save()

    def _validate(self) -> None:
        assert self.held_out is not None
        row = validate.validate(
            self.spec, self.recipe, self.model, self.held_out, self.backend, self.settings, self.log.say, self._note
        )
        row = {"step": self.step, "epoch": self.step / self.plan.epoch, **row}
        self.log.validation(row)
        value = row.get(self.settings.best)
        if value is None:
            if self.settings.best in _TERMS:
                raise _no_best(self.settings.best, [name for name in row if name not in ("step", "epoch", "clips")])
            return  # its metric failed, which the log says: this checkpoint is not judged
        # Of a term of the loss the lowest is best, of a score the highest.
        sign = -1 if self.settings.best in _TERMS else 1
        if math.isfinite(value) and (not self.best or sign * value > sign * self.best["value"]):
            self.best = {"step": self.step, "by": self.settings.best, "value": value}

    def _save(self) -> None:
        self._share_failed()
        trained = self.backend.trained(self.model)
        optimiser = self.backend.optimiser_state(self.model, self.optimiser)
        if self.backend.index == 0:
            checkpoint.save(self.folder, self.spec, trained, optimiser, self._state())
            self._tidy()
        self.backend.barrier()

    def _tidy(self) -> None:
        _point(self.folder, self.best)
        if not self._owed:  # this checkpoint is going to be replaced: until then the one before is kept
            checkpoint.prune(self.folder, self.settings.keep, self.best.get("step"), self.step)

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best": self.best,
            "skipped": self.skipped,
            "owed": self._owed,
            "unreadable": self._failed,
            "clips_per_step": self.sampler.size,
            "data": _names_hash(self.data.names),
            "versions": self.spec.versions(),
            "backend": dict(self.backend.describe()),
        }

    def _restore(self) -> None:
        """Puts the newest checkpoint back, if there is one."""
        found = checkpoint.newest(self.folder)
        if found is None:
            return
        now = self._state()
        for name, what in (("clips_per_step", "clips per step"), ("data", "list of clips")):
            if found.state[name] != now[name]:
                help = "resume with as many processes x batch x accumulate, on the same data; or choose another folder"
                raise RunError("C022", f"the run in {self.folder} has another {what}", help=help)
        if found.state["versions"] != now["versions"]:
            self.log.say(f"the run was begun with {found.state['versions']}, and goes on with {now['versions']}")
        try:
            self.backend.load_trained(self.model, found.trained)
        except WeightsError as error:
            raise error.at(file=str(found.folder)) from None
        self.backend.load_optimiser(self.model, self.optimiser, found.optimiser)
        self.step, self.best, self.skipped = found.step, found.state["best"], found.state["skipped"]
        self._owed, self._failed = found.state.get("owed", False), dict(found.state.get("unreadable", {}))
        if self.backend.index == 0:
            self._tidy()

    def _summary(self) -> dict[str, Any]:
        self._share_failed()
        judged, steps = rows(self.folder / VALIDATION), rows(self.folder / LOG)
        last = steps[-1] if steps else {}
        summary = {
            "steps": self.step,
            "best": self.best,
            "last": {name: last.get(name) for name in ("loss", "caption", "alignment", "clips_per_second")},
            "validation": judged[-1] if judged else None,
            "best_validation": next((row for row in judged if row["step"] == self.best.get("step")), None),
            "skipped": self.skipped,
            "unreadable": dict(sorted(self._failed.items())),
            "trained": sum(p.numel() for p in self.recipe.parameters() if p.requires_grad),
        }
        if self.backend.index == 0:
            replace_text(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        return summary


def begin(folder: Path, spec: Spec, resume: bool, backend: Backend) -> None:
    """Makes the folder of a run, or sees that it is one of this spec; `spec.yaml` in it says that a run was begun.

    Raises:
        RunError: C021 if it holds a run and ``resume`` is off; C022 if that run had another spec.
    """
    file = folder / "spec.yaml"
    text = checkpoint.spec_text(spec, spec.pipeline.weights)
    if file.exists():
        if not resume:
            help = "go on with --resume, or choose another --out"
            raise RunError("C021", f"the folder {folder} holds a run already", help=help)
        changed = _changes(file, text)
        if changed:
            help = "resume with the spec as it was, or choose another --out"
            raise RunError("C022", f"the run in {folder} has another spec: {', '.join(changed)} changed", help=help)
    if backend.index == 0:
        folder.mkdir(parents=True, exist_ok=True)
    backend.barrier()


def _changes(file: Path, new: str) -> list[str]:
    """Keys by which a run's spec differs from another, but for what makes no difference to the numbers.

    Raises:
        RunError: C022 if the file is not a run's.
    """

    def read(text: str) -> dict[str, Any]:
        values = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in text.splitlines())}
        values["train"] = {k: v for k, v in values["train"].items() if k not in (*MAY_CHANGE, *_SIZES)}
        return {name: value for name, value in values.items() if name not in ("backend", "generate")}

    try:
        before = read(file.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError):
        help = "choose another --out"
        raise RunError("C022", "is not the spec of a training run", help=help, file=str(file)) from None
    after = read(new)
    return [
        f"{name}.{key}" if isinstance(before.get(name), dict) and isinstance(after.get(name), dict) else name
        for name in sorted(before.keys() | after.keys())
        for key in _differing(before.get(name), after.get(name))
    ]


def _differing(one: Any, other: Any) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return [] if one == other else [""]


def dataset(use: Use | None, recipe: Captioner, backend: Backend, spec: Spec) -> Dataset | None:
    """Builds a dataset of a spec; what is frozen is computed once, if the spec says so."""
    settings = cast(TrainConfig, spec.sections["train"])
    if use is None:
        return None
    data = cast(Dataset, build_use(use))
    if not settings.cache:
        return data
    from lavcap_core.run.features import prepare

    cached: Dataset = prepare(data, recipe, backend, spec, settings.workers)
    return cached


def _require_metrics(settings: TrainConfig) -> None:
    """What `train.metrics` needs is there, and gives what `train.best` names: known before the first step.

    Raises:
        RunError: E014 if a metric can't be computed here.
        SpecError: C026 if validation will not give the score of `train.best`.
    """
    scores = require(choose(settings.metrics).uses) if settings.metrics else []
    if settings.best not in (*_TERMS, *scores):
        raise _no_best(settings.best, [*_TERMS, *scores])


def _no_best(name: str, have: Sequence[str]) -> SpecError:
    return SpecError("C026", f"train.best: validation gives no '{name}'", help=f"it gives {', '.join(have)}")


def _check_splits(data: Dataset, held_out: Dataset | None) -> None:
    """A run learns from no clip of a test, and is judged by none either, nor by what it learns from.

    Raises:
        DataError: C027.
    """
    wrong = {"train.data": _marked(data, "test", "val", "validation")}
    if held_out is not None:
        wrong["train.validation"] = _marked(held_out, "test", "train")
        if set(held_out.names) & set(data.names):
            wrong["train.validation"] = "that are in train.data too"
    for key, what in wrong.items():
        if what:
            help = "lavcap data split makes parts that share nothing; a test is for lavcap evaluate alone"
            raise DataError("C027", f"{key} holds clips {what}", help=help)


def _marked(data: Dataset, *names: str) -> str | None:
    found = sorted(getattr(data, "splits", set()) & set(names))
    return f"marked '{found[0]}'" if found else None


def _totals(recipe: Captioner, batches: Sequence[Batch]) -> Tensor:
    """Caption tokens, and clips with both modalities, of this process's part of a step: [2] float64."""
    totals = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        counts = recipe.decoder.caption_tokens(batch.captions).double() * batch.weights
        totals += torch.stack([counts.sum(), (batch.pairs() * batch.weights).sum().double()])
    return totals


def _seed(*parts: int) -> int:
    """One seed out of several numbers; neighbouring ones give unrelated seeds."""
    digest = hashlib.sha256(",".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def _names_hash(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _point(folder: Path, best: Mapping[str, Any]) -> None:
    """Says which checkpoint is the best one."""
    if best:
        content = {**best, "checkpoint": f"checkpoints/step-{best['step']:08d}"}
        replace_text(folder / "best.json", json.dumps(content, indent=1) + "\n")
