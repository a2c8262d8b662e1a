"""Chromium, headless, driven over the DevTools protocol: what a viewer of a web page gets to see and hear.

    async with chromium(tmp_path) as browser:
        async with browser.open("http://127.0.0.1:8080/#live/demo") as page:
            await page.until_playing(timeout=10)
            watched = await page.watch(5)
    assert watched.frames > 100 and watched.pictures > 5 and not page.faults

The page may be any with one <video>: the node's own, or `pages/` (see `serve_pages`) from another port, so that CORS is
really exercised.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from clients_process import ClientError, running, tail

from config.ports import free_ports

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)

PAGES = Path(__file__).parent / "pages"
PLAYERS = Path(__file__).parents[2] / "hls" / "page" / "vendor"

# A 16 x 9 copy of the picture is enough to tell a moving one from a frozen or a black one, and costs nothing.
WATCH = """
(() => {
  const video = document.querySelector("video");
  if (!video) return null;
  const canvas = document.createElement("canvas");
  canvas.width = 16; canvas.height = 9;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  let picture = "";
  if (video.videoWidth && video.readyState >= 2) {
    context.drawImage(video, 0, 0, 16, 9);
    picture = Array.from(context.getImageData(0, 0, 16, 9).data, (v) => v.toString(16).padStart(2, "0")).join("");
  }
  const quality = video.getVideoPlaybackQuality();
  const ahead = video.buffered.length ? video.buffered.end(video.buffered.length - 1) - video.currentTime : 0;
  return {
    state: document.documentElement.dataset.state ?? "",
    player: window.pyrtmp?.player ?? "",
    stream: window.pyrtmp?.stream ?? "",
    time: video.currentTime,
    decoded: quality.totalVideoFrames,
    dropped: quality.droppedVideoFrames,
    audio: video.webkitAudioDecodedByteCount ?? 0,
    width: video.videoWidth, height: video.videoHeight,
    ahead, paused: video.paused, error: video.error ? video.error.message : "", picture,
  };
})()
"""

# Runs before any script of the page: when the first frame was presented, in ms since navigation started.
FIRST_FRAME = """
addEventListener("DOMContentLoaded", () => {
  document.querySelector("video")?.requestVideoFrameCallback((now) => { window.__firstFrame = now; });
});
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The player at one moment."""

    state: str
    """The page's own word for it: idle, loading, playing, waiting or error."""

    player: str
    """The page's player: flv, hls or native."""

    stream: str
    """The page's stream, app/name."""

    time: float
    """The media clock, seconds."""

    decoded: int
    """Video frames decoded since the player was opened."""

    dropped: int
    """Those decoded and never shown."""

    audio: int
    """Bytes of audio decoded."""

    width: int
    height: int

    ahead: float
    """Seconds of media in the buffer."""

    paused: bool
    error: str

    picture: str
    """The picture shrunk to 16 x 9, as hexadecimal RGBA; empty before the first frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a viewer saw between two moments."""

    seconds: float
    """How long was watched, wall clock."""

    advanced: float
    """How far the media clock went, seconds."""

    frames: int
    """Video frames decoded."""

    dropped: int
    """Video frames dropped."""

    audio_bytes: int
    """Bytes of audio decoded."""

    pictures: int
    """Different pictures among those looked at (ten a second)."""

    looks: int
    """Pictures looked at."""

    states: tuple[str, ...]
    """The page's states in order, each once per change."""

    last: Look

    @property
    def moving(self) -> bool:
        """Whether most looks showed a new picture."""
        return self.pictures > self.looks * 0.6


@dataclass(slots=True)
class Page:
    """One tab."""

    _session: _Session
    faults: list[str] = field(default_factory=list)
    """Console errors, uncaught exceptions, refused content and failed requests, as text."""

    requests: list[str] = field(default_factory=list)
    """Every URL asked for."""

    _parsed: asyncio.Event = field(default_factory=asyncio.Event)

    async def evaluate(self, script: str) -> Any:
        """Returns the value of a JavaScript expression (a promise is awaited)."""
        answer = await self._session.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise ClientError(f"{script!r}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def look(self) -> Look:
        """Returns the player's state now."""
        facts = await self.evaluate(WATCH)
        if facts is None:
            raise ClientError("the page has no video")
        return Look(**facts)

    async def until(self, condition: str, *, timeout: float) -> Any:
        """Waits until a JavaScript expression is true and returns its value."""
        deadline = time.monotonic() + timeout
        while not (value := await self.evaluate(condition)):
            if time.monotonic() > deadline:
                facts = await self.evaluate(WATCH)
                raise ClientError(f"after {timeout} s still not: {condition}; {facts}; {self.faults}")
            await asyncio.sleep(0.05)
        return value

    async def until_playing(self, *, timeout: float) -> float:
        """Waits for the first frame; returns when it was shown, in seconds since the page was asked for."""
        await self.until("window.__firstFrame", timeout=timeout)
        first: float = await self.evaluate("window.__firstFrame")
        return first / 1000

    async def watch(self, seconds: float) -> Watched:
        """Watches the player for so long."""
        began = time.monotonic()
        first = last = await self.look()
        pictures, states, looks = {first.picture}, [first.state], 1
        while (elapsed := time.monotonic() - began) < seconds:
            await asyncio.sleep(min(0.1, seconds - elapsed))
            last = await self.look()
            looks += 1
            pictures.add(last.picture)
            if last.state != states[-1]:
                states.append(last.state)
        return Watched(
            seconds=time.monotonic() - began,
            advanced=last.time - first.time,
            frames=last.decoded - first.decoded,
            dropped=last.dropped - first.dropped,
            audio_bytes=last.audio - first.audio,
            pictures=len(pictures - {""}),
            looks=looks,
            states=tuple(states),
            last=last,
        )

    async def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Gives the page another size, in CSS pixels, and a light or dark colour scheme."""
        await self._session.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._session.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Writes a PNG of what is on screen, or of the whole page."""
        answer = await self._session.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    async def click(self, selector: str) -> None:
        """Clicks the element with a real mouse press in its middle."""
        point = await self.evaluate(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self._session.call(
                "Input.dispatchMouseEvent", type=kind, x=point[0], y=point[1], button="left", clickCount=1
            )

    async def type(self, text: str) -> None:
        """Types text into what has the focus."""
        await self._session.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Presses a key that has a name, such as Enter."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Escape": 27, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            await self._session.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text
            )

    def _take(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            values = (str(arg.get("value", arg.get("description"))) for arg in params["args"])
            self.faults.append("console: " + " ".join(values))
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.faults.append("exception: " + details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Page.domContentEventFired":
            self._parsed.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.faults.append(f"request: {params['response']['status']} {params['response']['url']}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.faults.append(f"request: {params['errorText']} {params.get('blockedReason', '')}")


class _Session:
    """Calls to one target of the browser, and the events it sends back."""

    def __init__(self, browser: Browser, session_id: str | None) -> None:
        self._browser = browser
        self._session_id = session_id

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser._call(method, params, self._session_id)


class Browser:
    """A running Chromium."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._reader = asyncio.create_task(self._read())

    @contextlib.asynccontextmanager
    async def open(
        self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False, any_certificate: bool = False
    ) -> AsyncIterator[Page]:
        """Opens a tab for the length of the block, which begins when the page's scripts have run."""
        target = (await self._call("Target.createTarget", {"url": "about:blank"}))["targetId"]
        attached = await self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        session = _Session(self, attached["sessionId"])
        page = self._pages[attached["sessionId"]] = Page(session)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                await session.call(f"{domain}.enable")
            await session.call("Security.setIgnoreCertificateErrors", ignore=any_certificate)
            await page.resize(width, height, dark=dark)
            await session.call("Page.addScriptToEvaluateOnNewDocument", source=FIRST_FRAME)
            await session.call("Page.navigate", url=url)
            await asyncio.wait_for(page._parsed.wait(), 10)
            yield page
        finally:
            self._pages.pop(attached["sessionId"])
            with contextlib.suppress(ClientError):
                await self._call("Target.closeTarget", {"targetId": target})

    async def _call(self, method: str, params: dict[str, Any], session_id: str | None = None) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session_id is not None:
            message["sessionId"] = session_id
        try:
            await self._socket.send_json(message)
            return await asyncio.wait_for(answer, 20)
        except (TimeoutError, ConnectionError, aiohttp.ClientError) as error:
            raise ClientError(f"{method}: {error!r}") from error
        finally:
            self._answers.pop(number, None)

    async def _read(self) -> None:
        async for frame in self._socket:
            message = frame.json()
            if "id" in message:
                answer = self._answers.get(message["id"])
                if answer is None or answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(ClientError(str(message["error"])))
                else:
                    answer.set_result(message["result"])
            elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                page._take(message["method"], message["params"])

    async def _close(self) -> None:
        with contextlib.suppress(ClientError):
            await self._call("Browser.close", {})
        await self._socket.close()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


@contextlib.asynccontextmanager
async def chromium(directory: Path, *, timeout: float = 20.0) -> AsyncIterator[Browser]:
    """Runs Chromium with an empty profile under `directory` for the length of the block."""
    profile = directory / "chromium"
    profile.mkdir(parents=True)
    log = directory / "chromium.log"
    argv = ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    async with running(argv, log=log, env={"HOME": str(profile)}) as process:
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + timeout
        while not (port_file.exists() and port_file.read_text().count("\n")):
            if process.returncode is not None or time.monotonic() > deadline:
                raise ClientError(f"Chromium did not start:\n{tail(log)}")
            await asyncio.sleep(0.02)
        port, path = port_file.read_text().split("\n")[:2]
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
        ):
            browser = Browser(socket)
            try:
                yield browser
            finally:
                await browser._close()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 5)


@contextlib.asynccontextmanager
async def serve_pages() -> AsyncIterator[str]:
    """Serves `pages/` and the players on a port of their own; yields the base URL.

    `/cross.html?player=flv&url=...` (or `hls`) plays the URL from another origin.
    """
    app = web.Application()
    app.router.add_static("/players/", PLAYERS)
    app.router.add_static("/", PAGES)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
