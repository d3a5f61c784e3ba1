"""A real browser for tests: Debian's headless Chromium, unpacked from packages, in a sandbox without a network.

It is driven by its own protocol over a pipe (``--remote-debugging-pipe``): JSON messages, each ended by a zero byte.
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tests.bundles.trees import default_directory
from tests.cluster.packages import Apt, unpack

PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
PROGRAM = "/usr/lib/chromium/chromium-headless-shell"
PLACE = "/page"  # where the browser sees the files that it is shown
POINTS = ("proc", "dev", "tmp", PLACE[1:])  # what the sandbox is mounted on
SECONDS = 120
FAR = 20  # a descriptor
HIGHEST = 8_000  # pixels of a picture


@functools.cache
def tree() -> Path:
    """Return a directory with the browser and all that it needs, from libc up.

    Raises:
        RuntimeError: it is not there and cannot be fetched.
    """
    root = default_directory() / "tools" / "chromium"
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / "chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=root.parent) as name:
                work = Path(name)
                unpack(Apt.updated(work / "apt").closure(PACKAGES, work / "debs"), work / "tree")
                for point in POINTS:
                    (work / "tree" / point).mkdir(exist_ok=True)
                (work / "tree").rename(root)
    return root


class Page:
    """A tab of the browser.

    Args:
        send: pipe to the browser.
        answers: pipe from it.
    """

    def __init__(self, send: IO[bytes], answers: IO[bytes]) -> None:
        self._send, self._answers = send, answers
        self._number, self._rest = 0, b""
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON has
        """Call a method and return its result; what happens meanwhile is noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._send.write(json.dumps(message).encode() + b"\0")
        self._send.flush()
        while True:
            told = self._next()
            if told.get("id") == self._number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                found: dict[str, Any] = told["result"]
                return found

    def open(self, name: str, *, width: int = 1200, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Show a file of the directory that the browser was started for, and wait until all of it is there."""
        size = {"width": width, "height": height}
        self.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=f"file://{PLACE}/{name}")
        self.wait(f"document.readyState + location.pathname === 'complete{PLACE}/{name}'")

    def wait(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < deadline, f"it does not come true: {expression}"
            time.sleep(0.02)

    def value(self, expression: str) -> Any:  # noqa: ANN401 - whatever JSON has
        """Return the value of a JavaScript expression."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def type(self, selector: str, text: str) -> None:
        """Put the cursor into a field, take out what is there, and type."""
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        self.key("Delete")
        self.call("Input.insertText", text=text)

    def key(self, name: str) -> None:
        """Press a key and let go of it."""
        codes = {"Tab": 9, "Enter": 13, "Delete": 46, " ": 32}
        text = {"text": "\r"} if name == "Enter" else {"text": name} if name == " " else {}
        known = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name]} | text
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **known)

    def picture(self, target: Path) -> bytes:
        """Take a picture of the whole page, write it as PNG, and return it."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=self._all())
        content = base64.b64decode(told["data"])
        target.write_bytes(content)
        return content

    def _all(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], HIGHEST), "scale": 1}

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._answers.fileno(), 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        self._note(told.get("method", ""), told.get("params", {}))
        return told

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Log.entryAdded":
            self.complaints.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(f"console.{params['type']}: {params['args']}")


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start the browser for files below a directory, which it can read; it dies with the context.

    Raises:
        RuntimeError: it is not there and cannot be fetched.
    """
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    words = ["bwrap", "--ro-bind", str(tree()), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    words += ["--ro-bind", str(folder), PLACE, "--unshare-all", "--die-with-parent"]
    words += ["--clearenv", "--setenv", "HOME", "/tmp", PROGRAM]
    words += ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    # The browser has its pipes at 3 and 4; a shell puts them there, from where they are in nobody's way.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, FAR) for end in (theirs_in, theirs_out)]
    moved = f'exec 3<&{theirs[0]} 4>&{theirs[1]} {theirs[0]}<&- {theirs[1]}>&-; exec "$@"'
    with (folder / "browser.log").open("wb") as log:
        started = subprocess.Popen(
            ["bash", "-c", moved, "bash", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=theirs,
        )
    for end in (theirs_in, theirs_out, *theirs):
        os.close(end)
    try:
        with os.fdopen(ours_out, "wb") as send, os.fdopen(ours_in, "rb", buffering=0) as answers:
            yield Page(send, answers)
    finally:
        started.kill()
        started.wait()
