"""Streams as a publisher would send them, made once per session by PyAV's encoders."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import pytest
import uvloop
from av.stream import Stream as AvStream

from hls.http import ViewerSite
from pyrtmp.aio.client import Client
from pyrtmp.aio.server import Server
from pyrtmp.message import Message
from pyrtmp.stream import Stream

WIDTH, HEIGHT, RATE, SAMPLE_RATE = 160, 120, 25, 48000

VIDEO_OPTIONS = {
    "libx264": {"preset": "veryfast", "x264-params": "scenecut=0"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1:scenecut=0"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
}

TONE = bytes(x * 31 % 64 for x in range(1 << 16))

MakeFeed = Callable[..., list[Message]]


def flv_messages(data: bytes) -> Iterator[Message]:
    """The tags of an FLV file as messages."""
    position = 13
    while position < len(data):
        type = data[position]
        size = int.from_bytes(data[position + 1 : position + 4], "big")
        timestamp = int.from_bytes(data[position + 4 : position + 7], "big") | data[position + 7] << 24
        yield Message(type, timestamp, 1, data[position + 11 : position + 11 + size])
        position += 11 + size + 4


@functools.cache
def encode(video: str, audio: str, seconds: float, gop: float, bframes: int, width: int) -> bytes:
    """An FLV file of a moving picture and a saw-tooth tone."""
    file = io.BytesIO()
    with av.open(file, "w", format="flv") as output:
        picture = sound = None
        if video:
            picture = output.add_stream(video, rate=RATE)
            picture.width, picture.height, picture.pix_fmt = width, HEIGHT, "yuv420p"
            picture.gop_size = round(gop * RATE)
            picture.max_b_frames = bframes
            picture.options = dict(VIDEO_OPTIONS[video])
            if video == "libx265":
                picture.options["x265-params"] += f":keyint={round(gop * RATE)}:bframes={bframes}"
        if audio:
            sound = output.add_stream(audio, rate=SAMPLE_RATE)
            sound.layout = "stereo"
            sound.codec_context.open()
        samples = 0
        for number in range(round(seconds * RATE)):
            if picture is not None:
                frame = av.VideoFrame(width, HEIGHT, "yuv420p")
                for plane in frame.planes:
                    line = bytes((x + number * 3) % 256 for x in range(plane.line_size))
                    plane.update(line * plane.height)
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                output.mux(picture.encode(frame))
            while sound is not None and samples < (number + 1) * SAMPLE_RATE // RATE:
                size = sound.codec_context.frame_size or 1024
                tone = av.AudioFrame(format=sound.codec_context.format.name, layout="stereo", samples=size)
                for plane in tone.planes:
                    plane.update(TONE[: plane.buffer_size])
                tone.sample_rate, tone.pts, tone.time_base = SAMPLE_RATE, samples, Fraction(1, SAMPLE_RATE)
                samples += size
                output.mux(sound.encode(tone))
        streams: list[AvStream] = [stream for stream in (picture, sound) if stream is not None]
        for stream in streams:
            output.mux(stream.encode(None))  # type: ignore[attr-defined]
    return file.getvalue()


@pytest.fixture(scope="session")
def make_feed() -> MakeFeed:
    """``make_feed("libx264", "aac", seconds=4, gop=1, bframes=0, start=0)``: the messages a publisher sends.

    Either codec may be "".  ``start`` is added to all timestamps but those of the headers.
    """

    def make(
        video: str, audio: str, *, seconds: float = 4, gop: float = 1, bframes: int = 0, start: int = 0,
        width: int = WIDTH,
    ) -> list[Message]:
        messages = list(flv_messages(encode(video, audio, seconds, gop, bframes, width)))
        for message in messages:
            message.timestamp += start
        return messages

    return make


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """One thread, there from the start: what is open is counted."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        yield pool


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Viewers are served by the kernel under uvloop, as on a node; everything else runs on Python's own loop."""
    if item.path.name == "test_viewer.py":
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


# A server with its viewers' site, and what talks to it

AVC = bytes.fromhex("17000000000142c01effe1001967" "42c01eda02802dd0800000030080000018078b1750" "01000468ce3c80")
ASC = bytes.fromhex("af001210")


def picture(number: int, key: bool, size: int = 300) -> bytes:
    """A video payload that says which frame it is."""
    return (b"\x17" if key else b"\x27") + b"\x01\0\0\0" + b"\0\0\1\0" + number.to_bytes(4, "big") * (size // 4)


def sound(number: int) -> bytes:
    """An audio payload that says which frame it is."""
    return b"\xaf\x01" + number.to_bytes(4, "big") * 8


def messages(first: int, last: int, *, gop: int = 10, video: bool = True, audio: bool = True) -> list[Message]:
    """Frames ``first`` to ``last`` of a stream, 40 ms apart; the sequence headers before frame 0."""
    made = []
    if first == 0:
        made += [Message(9, 0, 1, AVC)] * video + [Message(8, 0, 1, ASC)] * audio
    for number in range(first, last):
        made += [Message(9, number * 40, 1, picture(number, number % gop == 0))] * video
        made += [Message(8, number * 40, 1, sound(number))] * audio
    return [Message(m.type, m.timestamp, 1, m.payload) for m in made]


@dataclass
class Answer:
    """An HTTP response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the headers (names in lower case) of the next response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), {name.lower(): value for name, value in fields}


class Bench:
    """A ``pyrtmp.Server`` and a ``ViewerSite`` on ports of their own."""

    def __init__(self, server: Server, site: ViewerSite) -> None:
        self.server = server
        self.site = site
        self.tls: ssl.SSLContext | None = None
        self.writers: list[asyncio.StreamWriter] = []

    @property
    def port(self) -> int:
        return self.site.addresses[0][1]

    async def publisher(self, path: str = "live/cam") -> Client:
        client = await Client.connect(f"rtmp://127.0.0.1:{self.server.addresses[0][1]}/{path}")
        await client.publish()
        return client

    async def arrived(self, path: str, count: int) -> Stream:
        """The stream once it has got so many messages."""
        app, _, name = path.rpartition("/")
        async with asyncio.timeout(5):
            while (stream := self.server.hub.find(app, name)) is None or stream.messages_in < count:
                await asyncio.sleep(0.001)
        return stream

    async def watched(self, viewers: int) -> None:
        """So many have come, and stand at the end of what was published: they will get all that comes."""
        await self.until(lambda: sum(stream.viewers for stream in self.server.hub) == viewers)

    async def send(self, client: Client, feed: Sequence[Message]) -> None:
        for message in feed:
            await client.send(Message(message.type, message.timestamp, message.msid, message.payload))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, limit=1 << 24)
        self.writers.append(writer)
        return reader, writer

    async def ask(
        self, path: str, *, method: str = "GET", version: str = "1.1", headers: str = "", body: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that has sent a request."""
        reader, writer = await self.connect()
        writer.write(f"{method} {path} HTTP/{version}\r\nHost: x\r\n{headers}\r\n".encode() + body)
        return reader, writer

    async def get(self, path: str, *, method: str = "GET", headers: str = "") -> Answer:
        """Ask and read the whole answer."""
        async with asyncio.timeout(20):
            reader, writer = await self.ask(path, method=method, headers=f"Connection: close\r\n{headers}")
            status, fields = await read_head(reader)
            body = await reader.read()
            writer.close()
            return Answer(status, fields, body)

    async def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Wait for what the server does by itself."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)


MakeBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def make_bench() -> AsyncIterator[MakeBench]:
    """``make_bench(server={...}, site={...}, tls=(server context, client context))``."""
    made: list[Bench] = []

    async def make(
        server: dict[str, Any] | None = None, site: dict[str, Any] | None = None,
        tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    ) -> Bench:
        rtmp = Server(**(server or {}))
        await rtmp.start("127.0.0.1", 0)
        bench = Bench(rtmp, ViewerSite(rtmp, **(site or {})))
        made.append(bench)
        await bench.site.start("127.0.0.1", 0, tls=tls[0] if tls else None)
        bench.tls = tls[1] if tls else None
        return bench

    yield make
    for bench in made:
        await bench.server.close()
        await bench.site.close()
        for writer in bench.writers:
            with contextlib.suppress(AttributeError):  # Python 3.11.2, where TLS has closed it already
                writer.transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def bench(make_bench: MakeBench) -> Bench:
    """A server with default settings."""
    return await make_bench()


@pytest.fixture
def kit() -> SimpleNamespace:
    """Messages of a made-up stream, and a reader of response heads."""
    return SimpleNamespace(
        AVC=AVC, ASC=ASC, picture=picture, sound=sound, messages=messages, read_head=read_head
    )
