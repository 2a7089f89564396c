"""Reads the clips of coming steps on threads, and makes batches of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lavcap_core.data import Batch, Sample
from lavcap_core.errors import LavcapError, RunError
from lavcap_core.run.sampler import Share

__all__ = ["Job", "Loaded", "Loader", "reason"]


@dataclass(frozen=True)
class Job:
    """What is to be read for one step.

    Attributes:
        step: its number.
        clips: indices of the clips, a list per batch; an empty batch is filled up with a clip that counts nothing.
        epoch: the epoch, for what is drawn at random.
    """

    step: int
    clips: Share
    epoch: int = 0


@dataclass(frozen=True)
class Loaded:
    """What was read for one step.

    Attributes:
        job: what was asked for.
        batches: one per list of clips.
        failed: clips that could not be read, with the reason.
    """

    job: Job
    batches: list[Batch]
    failed: list[tuple[int, str]]


class Loader:
    """Reads ahead.

    Args:
        read: reads one clip: ``(index, epoch)`` to a sample; runs on a thread.
        count: clips that there are.
        workers: threads; 0 reads in the caller's.
        ahead: jobs that are begun before they are asked for.
    """

    def __init__(self, read: Callable[[int, int], Sample], count: int, workers: int = 2, ahead: int = 2) -> None:
        self.read = read
        self.count = count
        self.workers = workers
        self.ahead = ahead
        self._spare: Sample | None = None

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Loaded]:
        """Batches of each job, in order; a clip that can't be read is left out."""
        if not self.workers:
            for job in jobs:
                yield self._gather(job, [[self._try(index, job.epoch) for index in part] for part in job.clips])
            return
        # Threads, not processes: decoding and tensors do their work outside Python's lock.
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: deque[tuple[Job, list[list[Future[Sample | Exception]]]]] = deque()
            try:
                for job in jobs:
                    waiting.append((job, [[pool.submit(self._try, i, job.epoch) for i in part] for part in job.clips]))
                    if len(waiting) > self.ahead:
                        yield self._wait(*waiting.popleft())
                while waiting:
                    yield self._wait(*waiting.popleft())
            finally:
                for _, parts in waiting:
                    for future in (future for part in parts for future in part):
                        future.cancel()

    def _try(self, index: int, epoch: int) -> Sample | Exception:
        try:
            return self.read(index, epoch)
        except (LavcapError, OSError, ValueError) as error:
            return error

    def _wait(self, job: Job, parts: list[list[Future[Sample | Exception]]]) -> Loaded:
        return self._gather(job, [[future.result() for future in part] for part in parts])

    def _gather(self, job: Job, parts: Sequence[Sequence[Sample | Exception]]) -> Loaded:
        failed = [
            (index, reason(found))
            for clips, part in zip(job.clips, parts, strict=True)
            for index, found in zip(clips, part, strict=True)
            if isinstance(found, Exception)
        ]
        good = [[found for found in part if isinstance(found, Sample)] for part in parts]
        self._spare = next((sample for part in good for sample in part), self._spare)
        return Loaded(job, [self._batch(part, job) for part in good], failed)

    def _batch(self, samples: Sequence[Sample], job: Job) -> Batch:
        if samples:
            return Batch.of(samples)
        # All processes run as many batches, so that what they do together never waits for one that has nothing to do.
        return Batch.of([self._filler(job.epoch)], [0.0])

    def _filler(self, epoch: int) -> Sample:
        for index in range(self.count if self._spare is None else 0):
            found = self._try(index, epoch)
            if isinstance(found, Sample):
                self._spare = found
                break
        if self._spare is None:
            help = "see what is wrong with them with: lavcap data check MANIFEST"
            raise RunError("C023", f"none of the {self.count} clips can be read", help=help)
        return self._spare


def reason(error: Exception) -> str:
    """What is wrong with a clip, in one line."""
    if isinstance(error, LavcapError):
        problem = error.problems[0]
        return f"{problem.code} {problem.message}"
    return f"{type(error).__name__}: {error}".splitlines()[0]
