"""Which clips make which step: shuffled, of like length, each once per epoch over all processes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Sampler", "Share"]

Share = list[list[int]]
"""The clips of one step that one process takes: a list per batch. An empty batch is one that others fill."""


@dataclass(frozen=True)
class Sampler:
    """The order of clips.

    The clips of a step depend on the seed, the epoch and `size` alone, not on how many processes share them: two
    processes of 4 clips see in a step what one of 8 does.

    Attributes:
        lengths: length of each clip.
        batch: clips at once on each process.
        accumulate: batches of a step on each process.
        processes: how many share the clips.
        bucket: steps' worth of shuffled clips that are sorted by length together; 0: none.
        seed: of the shuffling.
    """

    lengths: Sequence[float]
    batch: int
    accumulate: int = 1
    processes: int = 1
    bucket: int = 32
    seed: int = 0

    @property
    def size(self) -> int:
        """Clips of a step."""
        return self.batch * self.accumulate * self.processes

    @property
    def steps(self) -> int:
        """Steps of an epoch; the last one may have fewer clips."""
        return -(-len(self.lengths) // self.size)

    def epoch(self, epoch: int) -> list[list[int]]:
        """The clips of each step of an epoch."""
        rng = np.random.default_rng((self.seed, 0, epoch))
        order = rng.permutation(len(self.lengths))
        if not self.bucket:
            return [order[start : start + self.size].tolist() for start in range(0, len(order), self.size)]
        steps: list[list[int]] = []
        lengths = np.asarray(self.lengths)
        for start in range(0, len(order), self.bucket * self.size):
            part = order[start : start + self.bucket * self.size]
            part = part[np.argsort(lengths[part], kind="stable")]
            steps += [part[first : first + self.size].tolist() for first in range(0, len(part), self.size)]
        return [steps[index] for index in rng.permutation(len(steps))]

    def share(self, clips: Sequence[int], process: int) -> Share:
        """What one process takes of a step's clips: all take as many batches, of as even sizes as can be."""
        parts = [part.tolist() for part in np.array_split(np.asarray(clips, dtype=int), self.processes)]
        mine = parts[process]
        batches = -(-max(len(part) for part in parts) // self.batch)
        return [list(mine[i * self.batch : (i + 1) * self.batch]) for i in range(batches)]
