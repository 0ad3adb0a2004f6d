"""Drive a headless Chromium by the DevTools Protocol, over the pipes of `--remote-debugging-pipe`.

No driver and no WebSocket: a message is JSON, and a zero byte ends it. Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

WITHIN_S = 20.0
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_READ_BYTES = 64 * 1024 * 1024
_OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--no-sandbox", "--hide-scrollbars", "--font-render-hinting=none",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.*", "--lang=en-US",
)  # fmt: skip


def program() -> str | None:
    """Return the path of a Chromium or Chrome of this machine, None where it has none."""
    return next((path for name in _PROGRAMS if (path := shutil.which(name))), None)


class BrowserError(Exception):
    """What the browser, or the page, reports as an error."""


class Tab:
    """One page of the browser. `console`: errors and violations of policies; `requests`: URLs that it requested."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.console: list[str] = []
        self.requests: list[tuple[str, dict[str, str]]] = []

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to this page; return its result. Raises BrowserError."""
        return await self._browser.send(method, self._session, **parameters)

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited. Raises BrowserError."""
        answer = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    async def until(self, expression: str, within_s: float = WITHIN_S) -> Any:
        """Wait until an expression in the page is truthy; return its value. Raises AssertionError."""
        give_up_at = time.monotonic() + within_s
        while not (value := await self.evaluate(expression)):
            if time.monotonic() > give_up_at:
                text = await self.evaluate("document.body.innerText")
                raise AssertionError(f"not within {within_s} s: {expression}\n{text}\n{self.console}")
            await asyncio.sleep(0.03)
        return value

    async def text(self, selector: str) -> str:
        """Return the visible text of an element; an empty one where there is none."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def click(self, selector: str) -> None:
        """Click an element."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    async def fill(self, selector: str, value: str) -> None:
        """Set the value of a field."""
        element = f"document.querySelector({json.dumps(selector)})"
        await self.evaluate(f"{element}.value = {json.dumps(value)}; {element}.dispatchEvent(new Event('input'))")

    async def press(self, key: str, text: str = "") -> None:
        """Press and release a key."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        parameters = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        await self.send(
            "Input.dispatchKeyEvent", type="keyDown", text=text or ("\r" if key == "Enter" else ""), **parameters
        )
        await self.send("Input.dispatchKeyEvent", type="keyUp", **parameters)

    async def open(self, url: str) -> None:
        """Open a page, and wait until it is loaded. Raises BrowserError."""
        loaded = self._browser.expect("Page.loadEventFired", self._session)
        answer = await self.send("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserError(answer["errorText"])
        async with asyncio.timeout(WITHIN_S):
            await loaded

    async def resize(self, width: int, height: int, *, is_phone: bool = False, scale: float = 1) -> None:
        """Set the size of the window, in CSS pixels. scale: device pixels for each."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )

    async def set_media(self, **features: str) -> None:
        """Emulate media features: prefers_color_scheme="dark"."""
        values = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.send("Emulation.setEmulatedMedia", features=values)

    async def screenshot(self, file: Path, *, is_full: bool = False) -> None:
        """Write a picture of the window, or of the whole page."""
        answer = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=is_full)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(answer["data"]))

    def on_event(self, method: str, parameters: dict[str, Any]) -> None:
        """Record an event of the page."""
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded":
            entry = parameters["entry"]
            self.console.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            request = parameters["request"]
            self.requests.append((request["url"], request["headers"]))


class Browser:
    """A running browser."""

    def __init__(
        self, process: asyncio.subprocess.Process, writer: asyncio.WriteTransport, reader: asyncio.StreamReader
    ) -> None:
        self._process = process
        self._writer = writer
        self._reader = reader
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._expected: list[tuple[str, str, asyncio.Future[None]]] = []
        self._tabs: dict[str, Tab] = {}
        self._reading = asyncio.create_task(self._read())

    async def send(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command; return its result. Raises BrowserError."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._writer.write(json.dumps(command).encode() + b"\0")  # a blocking write would deadlock with its events
        async with asyncio.timeout(WITHIN_S):
            return await answer

    def expect(self, method: str, session: str) -> asyncio.Future[None]:
        """Return a future that is done at the next event of this name."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expected.append((method, session, future))
        return future

    async def tab(self) -> Tab:
        """Open an empty page, in a context of its own: nothing is shared with other pages."""
        context = (await self.send("Target.createBrowserContext"))["browserContextId"]
        target = await self.send("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = self._tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.send(f"{domain}.enable")
        await tab.resize(1280, 900)
        return tab

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" in message:
                    self._on_answer(message)
                else:
                    self._on_event(message)

    def _on_answer(self, message: dict[str, Any]) -> None:
        answer = self._answers.pop(message["id"], None)
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(BrowserError(message["error"]["message"]))
        else:
            answer.set_result(message["result"])

    def _on_event(self, message: dict[str, Any]) -> None:
        method, session = message["method"], message.get("sessionId", "")
        for expected in [each for each in self._expected if each[:2] == (method, session)]:
            self._expected.remove(expected)
            if not expected[2].done():
                expected[2].set_result(None)
        if (tab := self._tabs.get(session)) is not None:
            tab.on_event(method, message["params"])

    async def close(self) -> None:
        """Close the browser; kill it where it does not end within 5 s."""
        with contextlib.suppress(BrowserError, TimeoutError, OSError):
            await self.send("Browser.close")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._reading.cancel()
        self._writer.close()


@contextlib.asynccontextmanager
async def chromium(profile: Path, *options: str) -> AsyncIterator[Browser]:
    """Run a browser with an empty profile. Raises AssertionError where this machine has none."""
    path = program()
    assert path is not None, "there is no Chromium"
    read_by_browser, to_browser = os.pipe()
    from_browser, written_by_browser = os.pipe()
    shell = f'exec "$@" 3<&{read_by_browser} 4>&{written_by_browser}'
    arguments = [path, *_OPTIONS, f"--user-data-dir={profile}", *options, "about:blank"]
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", shell, "chromium", *arguments,
        pass_fds=(read_by_browser, written_by_browser),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    os.close(read_by_browser)
    os.close(written_by_browser)
    reader = asyncio.StreamReader(limit=_READ_BYTES)
    loop = asyncio.get_running_loop()
    make: Callable[[], asyncio.StreamReaderProtocol] = lambda: asyncio.StreamReaderProtocol(reader)  # noqa: E731
    transport, _ = await loop.connect_read_pipe(make, os.fdopen(from_browser, "rb"))
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(to_browser, "wb"))
    browser = Browser(process, writer, reader)
    try:
        yield browser
    finally:
        await browser.close()
        transport.close()
