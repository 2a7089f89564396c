"""Captions many clips: reads ahead on workers, batches, isolates failures, writes rows that a second run resumes."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lavcap_core.errors import LavcapError, RunError
from lavcap_core.files import replace_text
from lavcap_core.manifest import Item

if TYPE_CHECKING:
    from lavcap_core.data import Caption
    from lavcap_core.pipeline import Pipeline, Prepared

__all__ = ["Row", "Rows", "caption_items"]

Row = dict[str, Any]


def caption_items(
    pipeline: Pipeline,
    items: Sequence[Item],
    *,
    batch: int = 8,
    workers: int = 2,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Row]:
    """Captions clips; gives one row per item, in order.

    Args:
        pipeline: a built pipeline.
        items: the clips.
        batch: clips that are captioned together.
        workers: threads that read and prepare files ahead of the device.
        options: fields of `lavcap_core.interfaces.Generate` that differ from the spec's.

    A file that can't be read, and a clip that fails while it is captioned, become rows with status ``error``; the
    others of its batch are captioned all the same.
    """
    group: list[tuple[Item, Prepared | Exception]] = []
    for pair in _read_ahead(pipeline, items, workers, ahead=2 * batch):
        group.append(pair)
        if len(group) == batch:
            yield from _caption_group(pipeline, group, options or {})
            group = []
    if group:
        yield from _caption_group(pipeline, group, options or {})


def _read_ahead(
    pipeline: Pipeline, items: Iterable[Item], workers: int, ahead: int
) -> Iterator[tuple[Item, Prepared | Exception]]:
    waiting: deque[tuple[Item, Future[Prepared]]] = deque()
    # Threads, not processes: decoding happens in FFmpeg, which doesn't hold Python's lock.
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(pipeline.read_item, item)))
                if len(waiting) > ahead:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())
        finally:  # on Ctrl-C, what was not begun is not waited for
            for _, future in waiting:
                future.cancel()


def _result(item: Item, future: Future[Prepared]) -> tuple[Item, Prepared | Exception]:
    try:
        return item, future.result()
    except Exception as error:
        return item, error


def _caption_group(
    pipeline: Pipeline, group: Sequence[tuple[Item, Prepared | Exception]], options: Mapping[str, Any]
) -> Iterator[Row]:
    good = [(item, found) for item, found in group if not isinstance(found, Exception)]
    captions = iter(_captions(pipeline, good, options))
    for item, found in group:
        yield _row(item, found if isinstance(found, Exception) else next(captions))


def _captions(
    pipeline: Pipeline, good: Sequence[tuple[Item, Prepared]], options: Mapping[str, Any]
) -> list[Caption | Exception]:
    if not good:
        return []
    try:
        prompts = [item.prompt for item, _ in good]
        return list(pipeline.caption_prepared([prepared for _, prepared in good], prompts, **options))
    except Exception as error:
        # One clip must not take the others of its batch with it: halve until only the failing ones are left.
        if len(good) == 1:
            return [error]
        middle = len(good) // 2
        return _captions(pipeline, good[:middle], options) + _captions(pipeline, good[middle:], options)


def _row(item: Item, result: Caption | Exception) -> Row:
    if isinstance(result, LavcapError):
        problem = result.problems[0]
        return {"clip": item.name, "caption": None, "status": "error", "code": problem.code, "reason": problem.message}
    if isinstance(result, Exception):
        reason = f"{type(result).__name__}: {result}".splitlines()[0]
        return {"clip": item.name, "caption": None, "status": "error", "code": "C001", "reason": reason}
    row: Row = {"clip": item.name, "caption": result.text, "status": result.status}
    if result.status == "partial":
        row |= {"reason": result.reason, "seconds": result.seconds}
    if result.segments:
        row["segments"] = list(result.segments)
    return row


@dataclass
class Rows:
    """The file captions.jsonl: one row per clip, appended as they come, resumed by a second run.

    Beside it, ``captions.jsonl.run.json`` keeps the filled-in spec and the versions of what wrote it: rows of two
    pipelines never mix in one file.

    Args:
        path: the file.
        retry: whether rows with status ``error`` are tried again.
    """

    path: Path
    retry: bool = False
    done: set[str] = field(default_factory=set)
    failed: int = 0
    _file: IO[str] | None = None

    def open(self, run: Mapping[str, Any]) -> None:
        """Reads what is there and opens the file for appending.

        Raises:
            RunError: C003 if another pipeline wrote it; C004 if it can't be written or holds something else.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._check_run(run)
            self._keep(self._read())
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise RunError("C004", f"can't be written: {error.strerror}", file=str(self.path)) from None

    def write(self, row: Row) -> None:
        """Appends a row; it is on the disk when this returns, whatever happens to the process afterwards."""
        assert self._file is not None, "open() comes first"
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _check_run(self, run: Mapping[str, Any]) -> None:
        side = self.path.with_name(self.path.name + ".run.json")
        text = json.dumps(run, indent=1, sort_keys=True)
        if self.path.exists() and side.exists() and side.read_text(encoding="utf-8") != text:
            help = "name another --out, or start anew with --overwrite"
            raise RunError("C003", "holds captions of another pipeline or version", help=help, file=str(self.path))
        replace_text(side, text)

    def _read(self) -> list[Row]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(_checked(line)) if line.strip() else None
            except (ValueError, KeyError):
                # The last line may be half of a row: the run was killed while it wrote.
                if number < len(lines):
                    message = f"line {number} is no row of captions"
                    help = "name another --out, or start anew with --overwrite"
                    raise RunError("C004", message, help=help, file=str(self.path)) from None
        return rows

    def _keep(self, rows: Sequence[Row]) -> None:
        kept = [row for row in rows if not (self.retry and row["status"] == "error")]
        self.done = {row["clip"] for row in kept}
        self.failed = sum(row["status"] == "error" for row in kept)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        if self.path.exists() and text != self.path.read_text(encoding="utf-8"):
            replace_text(self.path, text)


def _checked(line: str) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row["clip"], str) or not isinstance(row["status"], str):
        raise ValueError(line)
    return row
