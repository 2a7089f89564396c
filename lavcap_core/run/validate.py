"""How a model does on clips that it doesn't learn from: loss, and metrics of its captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lavcap_core.builtin import TrainConfig
from lavcap_core.data import Batch
from lavcap_core.interfaces import Backend, Dataset, Generate
from lavcap_core.recipes.captioner import Captioner
from lavcap_core.run.evaluate.evaluation import reason
from lavcap_core.run.evaluate.score import choose, score
from lavcap_core.run.loader import Job, Loader
from lavcap_core.run.sampler import Sampler
from lavcap_core.spec import Spec

__all__ = ["validate"]

Say = Callable[[str], None]
Note = Callable[[str, str], None]


@torch.no_grad()
def validate(
    spec: Spec,
    recipe: Captioner,
    model: nn.Module,
    data: Dataset,
    backend: Backend,
    settings: TrainConfig,
    say: Say = lambda line: None,
    note: Note = lambda name, reason: None,
) -> dict[str, float]:
    """Loss of held-out clips, and the scores of their captions.

    Clips are shared over all processes; each clip's caption is drawn once and for all.

    Returns:
        ``loss``, ``caption`` (mean cross-entropy per token), ``alignment`` (mean over clips with both modalities), and
        the chosen metrics' scores; a metric that can't be computed is told to ``say``, and left out. ``clips`` is how
        many were judged; one that can't be read is told to ``note``, with the reason, by the process that met it.
    """
    model.eval()
    sums = torch.zeros(6, dtype=torch.float64)
    captions: dict[int, str] = {}
    for indices, batch in _batches(recipe, data, backend, settings, note):
        backend.seed(settings.seed)
        moved = batch.to(backend.device)
        with backend.autocast():
            sums += _sums(model(moved), moved)
        backend.mark()
        if settings.metrics:
            captions |= dict(zip(indices, _captions(spec, recipe, moved, backend), strict=False))
    caption, tokens, alignment, pairs, aligned, judged = backend.sum(sums).tolist()
    terms = {"caption": caption / max(tokens, 1.0)}
    if aligned:
        terms["alignment"] = alignment / max(pairs, 1.0)
    scores = _scores(captions, data, backend, settings.metrics, say)
    return {"clips": round(judged), "loss": sum(terms.values()), **terms, **scores}


def _batches(recipe: Captioner, data: Dataset, backend: Backend, settings: TrainConfig, note: Note) -> Any:
    """Indices and batch, of this process's part."""
    sampler = Sampler(data.lengths, settings.batch, 1, backend.processes, bucket=0)
    count = len(data.names)
    order = sorted(range(count), key=lambda index: data.lengths[index])
    steps = [order[start : start + sampler.size] for start in range(0, count, sampler.size)]
    jobs = (Job(step, sampler.share(clips, backend.index)) for step, clips in enumerate(steps))
    loader = Loader(lambda index, _: data.read(index, recipe, (settings.seed, 2, index)), count, settings.workers)
    for loaded in loader(jobs):
        failed = dict(loaded.failed)
        for index, why in failed.items():
            note(data.names[index], why)
        for clips, batch in zip(loaded.job.clips, loaded.batches, strict=True):
            yield [index for index in clips if index not in failed], batch


def _sums(found: Any, batch: Batch) -> Tensor:
    def total(values: Tensor) -> Tensor:
        return (values.cpu().double() * batch.weights.cpu()).sum()  # some devices lack float64

    caption, tokens, pairs = total(found.caption), total(found.tokens), total(batch.pairs())
    alignment = torch.zeros_like(pairs) if found.alignment is None else total(found.alignment)
    aligned, clips = torch.full_like(pairs, found.alignment is not None), batch.weights.cpu().double().sum()
    return torch.stack([caption, tokens, alignment, pairs, aligned, clips])


def _captions(spec: Spec, recipe: Captioner, batch: Batch, backend: Backend) -> list[str]:
    options = Generate(**spec.sections["generate"].model_dump())
    with backend.autocast():
        audio, visual = recipe.encode(batch.audio, batch.visual, batch.seconds)
        texts = recipe.generate(audio, visual, options, batch.prompts)
    backend.mark()
    return texts


def _scores(
    captions: Mapping[int, str], data: Dataset, backend: Backend, metrics: Sequence[str], say: Say
) -> dict[str, float]:
    """Scores of all processes' captions, the same on each: process 0 computes them for all."""
    if not metrics:
        return {}
    found = dict(backend.gather(sorted(captions.items())))
    scores: dict[str, float] = {}
    if backend.index == 0:
        order = sorted(found)
        references = [list(data.captions(index)) for index in order]
        scored = score(choose(metrics).uses, [found[index] for index in order], references)
        scores = scored.corpus
        for error in scored.errors.values():
            say(f"validation without a score: {reason(error)}")
    return dict(backend.gather(sorted(scores.items())))
