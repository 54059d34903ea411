"""A real browser to look at pages with: Chromium without a window, driven over its debugging port."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

DESKTOP, PHONE = (1440, 1000), (390, 844)
NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """Return the browser of this machine, None if it has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with one page; use as a context manager."""

    def __init__(self, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        self.size, self.dark = size, dark
        self.errors: list[str] = []  # of scripts and of the console
        self.requests: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Browser:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = executable()
        assert command is not None, f"none of {NAMES} is installed"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        options += [f"--user-data-dir={self._folder.name}", "--disable-background-networking", "--no-first-run"]
        options += ["--disable-dev-shm-usage", "--force-device-scale-factor=1", "about:blank"]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen([command, *options], stdout=null, stderr=null)
        port = self._port()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            target = next(each for each in json.load(answer) if each["type"] == "page")
        self._session: Any = self._run(self._connect(target["webSocketDebuggerUrl"]))
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(self.size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._session.close())
        self._run(self._client.close())
        self._loop.close()
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()

    def _port(self) -> int:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(OSError, IndexError, ValueError):
                return int(Path(self._folder.name, "DevToolsActivePort").read_text().splitlines()[0])
            time.sleep(0.1)
        raise RuntimeError("the browser did not start")

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    async def _connect(self, url: str) -> Any:
        self._client = aiohttp.ClientSession()
        return await self._client.ws_connect(url, max_msg_size=0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return what it answers."""
        return self._run(asyncio.wait_for(self._call(method, parameters), 90))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._session.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._session.receive()).data)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                self.errors.append(about["entry"]["text"])

    def resize(self, size: tuple[int, int]) -> None:
        """Give the page a size in pixels; a narrow one is that of a phone."""
        width, height = size
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **shape)

    def open(self, address: str) -> float:
        """Go to a page; return the seconds until it was there, its images decoded and its scripts run."""
        self.errors.clear()
        self.requests.clear()
        self.call("Page.navigate", url="about:blank")
        begun = time.monotonic()
        self.call("Page.navigate", url=address)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")
        return time.monotonic() - begun

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", script))
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Return the value of an expression once it is true."""
        end, value = time.monotonic() + seconds, None
        while time.monotonic() < end:
            with suppress(RuntimeError):  # of a page that is not there yet
                if value := self.run(script):
                    return value
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {script}; errors: {self.errors}; text: {self.text()[:2000]}")

    def text(self) -> str:
        """Return the text that is seen."""
        return str(self.run("document.body.innerText"))

    def press(self, key: str, shift: bool = False) -> None:
        """Press a key, by its name in JavaScript."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        about |= {"modifiers": 8 if shift else 0} | (
            {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        )
        self.call("Input.dispatchKeyEvent", type="keyDown", **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send an event of the mouse: mousePressed, mouseReleased, mouseMoved, mouseWheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector: str) -> None:
        """Click the middle of the first element that a selector finds."""
        place = f"document.querySelector({json.dumps(selector)})"
        # what comes into sight is laid out only then, and moves what is below it: until nothing moves any more
        x, y = self.run(
            f"""(async () => {{
                for (let before = '', tries = 0; tries < 60; tries++) {{
                    {place}.scrollIntoView({{block: 'center'}});
                    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                    const r = {place}.getBoundingClientRect(), now = `${{r.x}} ${{r.y}}`;
                    if (now === before) return [r.x + r.width / 2, r.y + r.height / 2];
                    before = now;
                }}
                throw new Error('it does not rest');
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def screenshot(self, whole: bool = False) -> bytes:
        """Return a PNG of what is seen, or of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])
