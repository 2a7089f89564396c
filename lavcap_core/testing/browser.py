"""A headless Chromium that opens a page as a person would: clicks, types, reads; for tests of pages.

It is driven through the DevTools protocol over two pipes: no port is opened, and no driver has to fit the version.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Browser", "Page", "chromium", "find"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE = 30.0
"""Seconds to wait for an answer."""

_KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Space": (32, " "), "ArrowRight": (39, ""), "ArrowLeft": (37, "")}

Row = dict[str, Any]


def find() -> str | None:
    """Chromium, as ``$CHROMIUM`` names it or found on the path; None if there is none."""
    if os.name != "posix":  # elsewhere pipes can't be handed over like this
        return None
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in _NAMES if (found := shutil.which(name))), None)


@contextlib.contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """A running browser with a profile of its own, ended and forgotten afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            yield browser
        finally:
            browser.close()


class Browser:
    """A running browser.

    Args:
        program: Chromium.
        profile: a folder for its files.
    """

    def __init__(self, program: str, profile: str) -> None:
        self._number = 0
        self._rest = b""
        self._events: list[Row] = []
        ours, theirs = os.pipe(), os.pipe()
        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
        # Its sandbox can't be set up by root, nor in most containers; the pages are the tests' own.
        options += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]

        def pipes() -> None:
            # Copies first: the ends may be numbered 3 or 4 themselves.
            reading, writing = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self._process = subprocess.Popen(
            [program, *options, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,  # Python's own descriptors are closed by themselves
            preexec_fn=pipes,
            start_new_session=True,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from = ours[1], theirs[0]

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Row:
        """Calls a method of the DevTools protocol; gives its result."""
        self._number += 1
        message: Row = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        answer = self.wait(lambda row: row.get("id") == message["id"])
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: Row = answer["result"]
        return result

    def wait(self, wanted: Callable[[Row], bool], seconds: float = _PATIENCE) -> Row:
        """The first message that is wanted; what comes before it is kept as events."""
        end = time.monotonic() + seconds
        while True:
            for place, row in enumerate(self._events):
                if wanted(row):
                    return self._events.pop(place)
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"the browser did not say it in {seconds:g} s")
            self._events += self._read(left)

    def _read(self, seconds: float) -> list[Row]:
        if not select.select([self._from], [], [], seconds)[0]:
            return []
        data = os.read(self._from, 1 << 20)
        if not data:
            raise RuntimeError("the browser has ended")
        *whole, self._rest = (self._rest + data).split(b"\0")
        return [json.loads(text) for text in whole]

    def events(self, session: str) -> list[Row]:
        """All events of a page so far."""
        self.call("Browser.getVersion")  # what was said before its answer has arrived with it
        return [row for row in self._events if row.get("sessionId") == session]

    def open(self, url: str, downloads: Path | None = None) -> Page:
        """Opens a page in a tab of its own, and waits until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        if downloads is not None:
            self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), eventsEnabled=True)
        page = Page(self, session)
        page.go(url)
        return page

    def close(self) -> None:
        """Ends the browser and all that it started."""
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # a session of its own
            self._process.wait()
        os.close(self._to)
        os.close(self._from)


class Page:
    """A page in a tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **parameters: Any) -> Row:
        """Calls a method of the DevTools protocol for this page."""
        return self._browser.call(method, self._session, **parameters)

    def go(self, url: str) -> None:
        """Loads a page, or loads it anew."""
        self.call("Page.navigate", url=url)
        self._browser.wait(
            lambda row: row.get("method") == "Page.loadEventFired" and row.get("sessionId") == self._session
        )

    def read(self, expression: str) -> Any:
        """The value of an expression of JavaScript, as JSON has it; a promise's once it is kept."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = _PATIENCE) -> Any:
        """Waits until an expression is true; gives its value."""
        end = time.monotonic() + seconds
        while not (value := self.read(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true in {seconds:g} s: {expression}")
            time.sleep(0.02)
        return value

    def click(self, selector: str, number: int = 0) -> None:
        """Scrolls to an element, the number-th that the selector finds, and clicks its middle with the mouse."""
        element = f"document.querySelectorAll({json.dumps(selector)})[{number}]"
        place = self.read(
            f"(() => {{ {element}.scrollIntoView({{block: 'center'}}); const r = {element}.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Puts the cursor into a field and types over what is there."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.read(f"{element}.focus(), {element}.select()")
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, text: str) -> None:
        """Chooses an option by its text."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.read(
            f"{element}.value = [...{element}.options].find((o) => o.text === {json.dumps(text)}).value,"
            f"{element}.dispatchEvent(new Event('change'))"
        )

    def press(self, key: str) -> None:
        """Presses a key: a character, or Enter, Tab, Space, ArrowRight, ArrowLeft."""
        code, text = _KEYS.get(key, (ord(key[0].upper()), key))
        what: Mapping[str, Any] = {"key": " " if key == "Space" else key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **what, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def text(self, selector: str) -> str:
        """The text of an element, as it is seen."""
        return str(self.read(f"document.querySelector({json.dumps(selector)}).innerText"))

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements."""
        found = self.read(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.innerText)")
        return [str(text) for text in found]

    def errors(self) -> list[str]:
        """What went wrong so far: exceptions, errors on the console, refused resources."""
        return [text for event in self._browser.events(self._session) if (text := _error(event))]

    def requests(self) -> list[str]:
        """The addresses that the page asked for so far, its own among them; not what it holds itself."""
        events = self._browser.events(self._session)
        urls = [str(e["params"]["request"]["url"]) for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def look(self, width: int, height: int, dark: bool = False) -> bytes:
        """A picture (PNG) of what a window of that size shows."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


def _error(event: Row) -> str | None:
    """What an event says that went wrong, if it does."""
    method, what = event["method"], event["params"]
    if method == "Runtime.exceptionThrown":
        return str(what["exceptionDetails"])
    if method == "Log.entryAdded" and what["entry"]["level"] == "error":
        return f"{what['entry']['text']} {what['entry'].get('url', '')}"
    if method == "Runtime.consoleAPICalled" and what["type"] in ("error", "assert"):
        return str(what["args"])
    return None
