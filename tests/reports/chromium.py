"""A headless Chromium that a test plays a reader's session in, by its debugging protocol over a pair of pipes."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE_S = 40.0
_KEY_CODES = {
    "Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
    "PageUp": 33, "PageDown": 34,
}  # fmt: skip
_SHIFT = 8
_BOX = """(selector) => {
  const part = document.querySelector(selector);
  part.scrollIntoView({block: "center", behavior: "instant"});
  const box = part.getBoundingClientRect();
  return [box.left, box.top, box.width, box.height];
}"""


class Chromium:
    """One browser with one tab; `complaints` are what its console and its policy said."""

    def __init__(self, program: str, folder: Path) -> None:
        (asks, self._out), (self._in, answers) = os.pipe(), os.pipe()
        far = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (asks, answers)]  # out of the way of 3 and 4
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]  # fmt: skip
        start = f'exec "$0" "$@" 3<&{far[0]} 4>&{far[1]}'  # the protocol's two are numbers 3 and 4
        self._process = subprocess.Popen(
            ["bash", "-c", start, program, *words],
            pass_fds=far, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (asks, answers, *far):
            os.close(end)
        self._numbers, self._rest, self._session = itertools.count(1), b"", ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._open_tab()

    def _open_tab(self) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._session = ""
        with contextlib.suppress(OSError):
            self.send("Browser.close")
        self._process.wait(timeout=PATIENCE_S)
        os.close(self._out)
        os.close(self._in)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; its result."""
        number = next(self._numbers)
        call = {"id": number, "method": method, "params": parameters}
        call |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(call).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)
        raise AssertionError(f"Chromium did not answer {method}")

    def wait_for(self, method: str) -> None:
        """Read until an event comes."""
        for event in self._messages():
            self._note(event)
            if event.get("method") == method:
                return

    def _messages(self) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            while b"\0" in self._rest:
                message, _, self._rest = self._rest.partition(b"\0")
                yield json.loads(message)
            if select.select([self._in], [], [], 1)[0]:
                self._rest += os.read(self._in, 1 << 16)

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"].get("exception", told["exceptionDetails"])))
        if event.get("method") in {"Runtime.consoleAPICalled", "Log.entryAdded"}:
            self.complaints.append(json.dumps(told))
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def show(self, url: str, *, width: int = 1440, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Load a page in a window of this size."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", media="", features=scheme)
        self.send("Emulation.setScriptExecutionDisabled", value=not script)
        self.send("Page.navigate", url="about:blank")
        self.wait_for("Page.loadEventFired")
        self.send("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def run(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until the page has drawn what was asked of it."""
        self.run("new Promise((ready) => requestAnimationFrame(() => requestAnimationFrame(ready)))")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element, scrolled into the middle of the window."""
        return tuple(self.run(f"({_BOX})({json.dumps(selector)})"))

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """One event of the mouse: mouseMoved, mousePressed or mouseReleased."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def point(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.mouse("mouseMoved", x, y)
        self.settle()

    def click(self, x: float, y: float, *, shift: bool = False) -> None:
        """Press and release the left button."""
        self.point(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1, modifiers=_SHIFT if shift else 0)
        self.settle()

    def click_on(self, selector: str, *, shift: bool = False) -> None:
        """Click the middle of an element."""
        left, top, width, height = self.box(selector)
        self.click(left + width / 2, top + height / 2, shift=shift)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press at one place, release at another."""
        self.point(*start)
        self.mouse("mousePressed", *start, button="left", buttons=1, clickCount=1)
        for share in (0.3, 0.7, 1):
            x, y = (a + share * (b - a) for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y, button="left", buttons=1)
        self.mouse("mouseReleased", *end, button="left", clickCount=1)
        self.settle()

    def press(self, key: str, times: int = 1, *, shift: bool = False) -> None:
        """Press a key so many times."""
        for _ in range(times):
            keys = {"key": key, "code": key, "windowsVirtualKeyCode": _KEY_CODES.get(key, ord(key[0].upper()))}
            text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            modifiers = _SHIFT if shift else 0
            self.send("Input.dispatchKeyEvent", type="keyDown", modifiers=modifiers, **keys, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **keys)
        self.settle()

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A screenshot of the window, or of the whole page."""
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))
