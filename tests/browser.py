"""A browser for tests, where the machine has one: Chromium behind its driver, spoken to in JSON."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
THERE = CHROMIUM is not None and DRIVER is not None


class Browser:
    """One window."""

    def __init__(self, base: str, session: str) -> None:
        self._base = base
        self._session = session

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return _post(f"{self._base}/session/{self._session}{path}", body)

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, page: Path | str) -> None:
        """A file, or an address."""
        self._post("/url", {"url": page if isinstance(page, str) else page.absolute().as_uri()})

    def look(self, width: int, scheme: str, height: int = 900) -> None:
        """A window of that size on a screen, and whether its owner likes pages `light` or `dark`."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, script: str) -> Any:
        return self._post("/execute/sync", {"script": script, "args": []})

    def wait_for(self, expression: str) -> Any:
        """What the expression is once it is true of the page. Gives up after a minute, which is no timing."""
        for _ in range(600):
            if value := self.run(f"return {expression}"):
                return value
            time.sleep(0.1)
        raise AssertionError(f"it never came to {expression}: {self.run('return document.body.innerText')}")

    def press(self, key: str, times: int = 1) -> None:
        """A key by its name (`Tab`, `ArrowLeft`, `Home`), or a letter."""
        text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
        name = " " if key == "Space" else key
        codes = {"Tab": 9, "Enter": 13, "Space": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                told = {"text": text} if text and kind == "keyDown" else {}
                self.devtools(
                    "Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=codes.get(key, 0), **told
                )

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.devtools("Page.captureScreenshot", format="png")["data"])

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last question: `browser` (the console) or `performance` (the network too)."""
        found: list[dict[str, Any]] = self._post("/se/log", {"type": kind})
        return found


@contextmanager
def browser() -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    driver = subprocess.Popen(
        [str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    session = ""
    try:
        _await(base)
        arguments = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                     "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run")  # fmt: skip
        wanted = {
            "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = _post(f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        yield Browser(base, session)
    finally:
        if session:
            with urllib.request.urlopen(
                urllib.request.Request(f"{base}/session/{session}", method="DELETE"), timeout=30
            ):
                pass
        driver.terminate()
        driver.wait(30)


def _await(base: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{base}/status", timeout=5) as answer:
                if json.load(answer)["value"]["ready"]:
                    return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.1)
    raise AssertionError("the browser's driver does not answer")


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]
