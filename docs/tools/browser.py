"""Headless Chromium, driven over the DevTools protocol: open a page, measure it, take a picture of it.

The protocol's messages are JSON documents that end with a zero byte, on two pipes
(https://chromedevtools.github.io/devtools-protocol/)."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from truecourse.errors import PlatformError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
READ, WRITE = 3, 4
"""The file descriptors on which Chromium reads and writes messages."""
PATIENCE = 60.0
"""Seconds to wait for a message."""


def find_browser(given: str | None = None) -> str:
    """Return the path of a Chromium. Raises PlatformError if there is none."""
    for name in (given,) if given else PROGRAMS:
        if name and (path := shutil.which(name)):
            return path
    what = f"{given} is no program" if given else f"none of {', '.join(PROGRAMS)} is installed"
    raise PlatformError(
        what, hint="install Chromium, on Debian with `apt-get install chromium`; or give --browser PATH"
    )


class Browser:
    """A headless browser with one page, `width` CSS pixels wide, in light colours."""

    def __init__(self, program: str, width: int) -> None:
        self.width = width
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._number, self._buffer, self._session = 0, b"", ""
        (child_in, self._in), (self._out, child_out) = _pipe(), _pipe()
        options = ["--headless", "--remote-debugging-pipe", "--hide-scrollbars", "--disable-gpu", "--no-first-run"]
        options += [f"--user-data-dir={self._profile.name}", "--disable-dev-shm-usage"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []  # as root, Chromium starts without its sandbox only
        connect = f'exec "$0" "$@" {READ}<&{child_in} {WRITE}>&{child_out}'
        self._process = subprocess.Popen(  # noqa: S603
            ["bash", "-c", connect, program, *options, "about:blank"],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(child_in, child_out),
        )
        os.close(child_in)
        os.close(child_out)

    def __enter__(self) -> Self:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        light = [{"name": "prefers-color-scheme", "value": "light"}]
        self.call("Emulation.setEmulatedMedia", features=light)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def open(self, page: Path) -> None:
        """Open a file and wait until it is laid out."""
        self._resize(800)
        self.call("Page.navigate", url=page.absolute().as_uri())
        self._wait("Page.loadEventFired")
        self.evaluate("document.fonts.ready.then(() => true)")

    def evaluate(self, script: str) -> Any:
        """Run JavaScript in the page and return its value."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise PlatformError(f"a script failed in the page: {result['exceptionDetails'].get('text', '')}")
        return result["result"].get("value")

    def picture(self, top: float, left: float, width: float, height: float) -> bytes:
        """Return a PNG of a part of the page, in CSS pixels. The window is made as high as the page before."""
        self._resize(round(self.evaluate("document.documentElement.scrollHeight")))
        clip = {"x": left, "y": top, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result. Raises PlatformError if the browser refuses."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while (reply := self._read()).get("id") != self._number:
            pass
        if "error" in reply:
            raise PlatformError(f"{method} failed: {reply['error']['message']}", where="Chromium")
        result: dict[str, Any] = reply["result"]
        return result

    def _resize(self, height: int) -> None:
        size = {"width": self.width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def _wait(self, event: str) -> None:
        while self._read().get("method") != event:
            pass

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._out], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._out, 1 << 16) if ready else b""
            if not part:
                what = "Chromium ended" if ready else f"Chromium did not answer for {PATIENCE:.0f} s"
                raise PlatformError(what, hint="try `chromium --headless --screenshot about:blank`")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        document: dict[str, Any] = json.loads(message)
        return document


def _pipe() -> tuple[int, int]:
    """Open a pipe, (read end, write end), with numbers above those that Chromium uses."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]
