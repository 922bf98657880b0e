"""A headless Chromium driven through the DevTools protocol, over pipes: no other package is needed."""

from __future__ import annotations

import base64
import functools
import http.server
import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking".split()
LONGEST = 15.0  # seconds that a page may take for one thing


class Browser:
    """One page. Every message of its console, every error and every failed request is in `console`."""

    def __init__(self, profile: Path) -> None:
        # Chromium reads commands from file 3 and answers on file 4, each ended by a zero byte
        start = ["sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>&2', str(CHROMIUM), *FLAGS]
        flags = ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [*start, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.numbers, self.session, self.console = itertools.count(1), "", list[str]()
        self.requests: list[str] = []
        page = next(t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; events that come before it are looked at."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while (said := self.read()).get("id") != number:
            self.event(said)
        assert "error" not in said, (method, said["error"])
        result: dict[str, Any] = said["result"]
        return result

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        text = bytearray()
        while (byte := self.process.stdout.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        found: dict[str, Any] = json.loads(text)
        return found

    def event(self, said: Mapping[str, Any]) -> None:
        params = said.get("params", {})
        if said.get("method") == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif said.get("method") == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"]))
        elif said.get("method") == "Log.entryAdded":
            self.console.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif said.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + LONGEST
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, (script, self.console, self.run("document.body.innerText"))
            time.sleep(0.03)

    def go(self, url: str, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Open a page in a window of this size."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def box(self, query: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element, scrolled into view."""
        script = f"""(() => {{ const e = document.querySelector({json.dumps(query)}); e.scrollIntoView({{block: "nearest"}});
            const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }})()"""
        left, top, width, height = self.run(script)
        return left, top, width, height

    def mouse(self, kind: str, x: float, y: float) -> None:
        held = (
            {"button": "left", "buttons": 1, "clickCount": 1}
            if kind != "mouseReleased"
            else {"button": "left", "clickCount": 1}
        )
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, pointerType="mouse", **held)

    def click(self, query: str) -> None:
        left, top, width, height = self.box(query)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, left + width / 2, top + height / 2)

    def stroke(self, query: str, points: Sequence[tuple[float, float]]) -> None:
        """Draw a line on an element; points are shares of its width and height."""
        left, top, width, height = self.box(query)
        at = [(left + x * width, top + y * height) for x, y in points]
        self.mouse("mousePressed", *at[0])
        for point in at[1:]:
            self.mouse("mouseMoved", *point)
        self.mouse("mouseReleased", *at[-1])

    def screenshot(self, path: Path, whole: bool = True) -> None:
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        try:
            self.session = ""
            self.send("Browser.close")
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    opened = Browser(profile)
    try:
        yield opened
    finally:
        opened.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """What `python -m http.server` runs, without its log, and with more headers where they are asked for."""

    more: Mapping[str, str] = {}

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def end_headers(self) -> None:
        for name, value in self.more.items():
            self.send_header(name, value)
        super().end_headers()


@contextmanager
def served(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a server of this folder."""
    handler = type("Handler", (Quiet,), {"more": dict(headers or {})})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
