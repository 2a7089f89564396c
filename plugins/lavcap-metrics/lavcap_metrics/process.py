"""Programs that run beside this one: watched, ended when they hang, never left behind."""

from __future__ import annotations

import atexit
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from lavcap_core.errors import RunError

__all__ = ["Watched"]

_LIVE: set[Watched] = set()
_KEPT_LINES = 100
_LOOK = 0.2
"""Seconds between two looks at whether a program still runs."""


class Watched:
    """A program that is ended if nothing is heard of it, and at the latest with this process.

    Args:
        name: what messages call it.
        command: the program and its arguments.
        cwd: where it runs, or None.
        talks: whether lines are written to it and read from it (`ask`).

    Raises:
        RunError: E032 if it can't be started.
    """

    def __init__(self, name: str, command: Sequence[str], cwd: Path | None = None, talks: bool = False) -> None:
        self.name = name
        self._owner = os.getpid()
        self._heard = time.monotonic()
        self._errors: deque[str] = deque(maxlen=_KEPT_LINES)
        self._answers: SimpleQueue[str | None] = SimpleQueue()
        self._popen = _start(name, command, cwd, subprocess.PIPE if talks else subprocess.DEVNULL)
        self._threads = [threading.Thread(target=self._hear_errors, daemon=True)]
        if talks:
            self._threads.append(threading.Thread(target=self._hear_answers, daemon=True))
        for thread in self._threads:
            thread.start()
        _LIVE.add(self)

    @property
    def alive(self) -> bool:
        """Whether it runs, and is of this process, not of one that this one was forked from."""
        return self._owner == os.getpid() and self._popen.poll() is None

    @property
    def failed(self) -> bool:
        """Whether it ended, and not as it should."""
        return self._popen.poll() not in (None, 0)

    @property
    def last_words(self) -> str:
        """The last lines of its standard error."""
        return "\n".join(self._errors)

    def ask(self, lines: Sequence[str], answers: int, timeout: float) -> list[str]:
        """Writes lines and reads so many in return. Not to be called from two threads at once.

        Raises:
            RunError: E031 if no line comes for the timeout in seconds; E032 if the program ends.
        """
        self._heard = time.monotonic()
        data = "".join(line + "\n" for line in lines).encode("utf-8", errors="replace")
        # Written from another thread: with both pipes full, each side would wait for the other.
        threading.Thread(target=self._write, args=(data,), daemon=True).start()
        try:
            return [self._answer(timeout) for _ in range(answers)]
        except BaseException:  # answers that nobody reads would be taken for those of the next question
            self.close()
            raise

    def wait(self, timeout: float) -> None:
        """Waits until it ends by itself.

        Raises:
            RunError: E031 if nothing is heard for the timeout in seconds; E032 if it says that it failed.
        """
        try:
            while self._popen.poll() is None:
                self.check(timeout)
                time.sleep(_LOOK)
        finally:
            self.close()
        if self._popen.returncode != 0:
            raise self.ended()

    def touch(self) -> None:
        """Counts the time without a sign of life from now."""
        self._heard = time.monotonic()

    def check(self, timeout: float) -> None:
        """Ends it if nothing was heard for the timeout in seconds.

        Raises:
            RunError: E031.
        """
        if time.monotonic() - self._heard > timeout:
            self.close()
            raise RunError(
                "E031",
                f"{self.name} gave no sign of life for {timeout:g} s and was ended{self._quoted()}",
                help="raise the metric's setting `timeout` if this machine is slow",
            )

    def ended(self) -> RunError:
        """What to raise where it ended and should not have: E032."""
        self.close()
        message = f"{self.name} ended with exit code {self._popen.returncode}{self._quoted()}"
        return RunError("E032", message, help="lavcap metrics doctor   says what was found on this machine")

    def close(self) -> None:
        """Ends it, and waits for its end; nothing if it is another process's."""
        if self._owner != os.getpid():
            return
        _LIVE.discard(self)
        self._popen.kill()
        self._popen.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            with suppress(OSError):  # what could not be written any more
                if stream is not None:
                    stream.close()

    def _quoted(self) -> str:
        # Of a Java exception, the line that names it and not the last of the calls below.
        words = [line.strip() for line in self._errors if line.strip() and not line.strip().startswith(("at ", "... "))]
        return f"; it said: {words[-1]}" if words else ""

    def _answer(self, timeout: float) -> str:
        while True:
            try:
                line = self._answers.get(timeout=_LOOK)
            except Empty:
                self.check(timeout)
                continue
            if line is None:
                raise self.ended()
            return line

    def _write(self, data: bytes) -> None:
        assert self._popen.stdin is not None
        with suppress(OSError, ValueError):  # it ended, which those who read its answers learn
            self._popen.stdin.write(data)
            self._popen.stdin.flush()

    def _hear_answers(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._heard = time.monotonic()
            self._answers.put(line.decode("utf-8", errors="replace").rstrip("\r\n"))
        self._answers.put(None)

    def _hear_errors(self) -> None:
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            self._heard = time.monotonic()
            self._errors.append(line.decode("utf-8", errors="replace").rstrip("\r\n"))


def _start(name: str, command: Sequence[str], cwd: Path | None, pipe: int) -> subprocess.Popen[bytes]:
    # Its words are English whatever the user's language: Turkish has other small letters, German other numbers.
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.Popen(
            list(command), stdin=pipe, stdout=pipe, stderr=subprocess.PIPE, cwd=cwd, env=environment
        )
    except OSError as error:
        raise RunError("E032", f"{name} can't be started: {error}", help="lavcap metrics doctor") from None


def _close_all() -> None:
    for process in list(_LIVE):
        process.close()


atexit.register(_close_all)
