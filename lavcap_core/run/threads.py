"""Does the same to many things on threads, in order, without holding more than a few results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["each"]

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], things: Iterable[T], workers: int) -> Iterator[R]:
    """Results in the order of the things; at most a few more than there are workers wait to be taken."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        try:
            for thing in things:
                waiting.append(pool.submit(function, thing))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # on Ctrl-C, what was not begun is not waited for
            for future in waiting:
                future.cancel()
