"""What several metrics of one evaluation need is worked out once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["Memo"]

T = TypeVar("T")


class Memo(Generic[T]):
    """Keeps the last results. Threads that ask for the same at once wait for the first; failures are not kept.

    Args:
        size: how many results are kept.
    """

    def __init__(self, size: int = 8) -> None:
        self._size = size
        self._lock = Lock()
        self._known: OrderedDict[Hashable, Future[T]] = OrderedDict()

    def get(self, key: Hashable, work: Callable[[], T]) -> T:
        """The result of ``work()``, or the one that is known under the key."""
        with self._lock:
            future = self._known.get(key)
            mine = future is None
            if future is None:
                future = self._known[key] = Future()
            self._known.move_to_end(key)
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        if mine:
            self._work(key, future, work)
        return future.result()

    def _work(self, key: Hashable, future: Future[T], work: Callable[[], T]) -> None:
        try:
            future.set_result(work())
        # Whatever it is, those who wait must learn of it.
        except BaseException as error:
            with self._lock:
                if self._known.get(key) is future:
                    del self._known[key]
            future.set_exception(error)
