from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import uvloop

from cluster.config.settings import RecordSettings
from cluster.flv import FlvReader
from cluster.recording.facts import Recorded
from cluster.recording.recorder import Recorder
from pyrtmp.hooks import Request
from pyrtmp.hub import Hub
from pyrtmp.journal import LoggingJournal
from pyrtmp.message import Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Stream

KEY = StreamKey("live", "cam")


class Publisher:
    id = "p"

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        """It has nothing to close."""


class Desk:
    """A hub whose streams are recorded on a real disk; the test is every publisher."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "recordings"
        self.hub = Hub(StreamSettings(), lambda stream: None)
        self.recorders: list[Recorder] = []
        self.settings = RecordSettings(
            streams=("live/*",), directory=str(self.directory), format="flv", min_free_bytes=0
        )
        self._files: asyncio.Queue[tuple[StreamKey, Request | None, Recorded]] = asyncio.Queue()

    def recorder(self, **settings: Any) -> Recorder:
        self.settings = replace(self.settings, **settings)
        recorder = Recorder(
            self.hub, self.settings, node="n1", journal=LoggingJournal(logging.getLogger("recording")),
            publisher=lambda key: Request("c1", "192.0.2.1", "rtmp", key.app, key, "a=b"),
            recorded=lambda *facts: self._files.put_nowait(facts),
        )  # fmt: skip
        self.recorders.append(recorder)
        recorder.start()
        return recorder

    def publish(self, key: StreamKey = KEY) -> Stream:
        return self.hub.publish(key, Publisher(), monotonic())

    def leave(self, stream: Stream) -> None:
        assert stream.publisher is not None
        self.hub.unpublish(stream, stream.publisher, monotonic())

    def push(self, stream: Stream, messages: Iterable[Message]) -> None:
        """One round."""
        for each in messages:
            stream.push(Message(each.type, each.timestamp, 1, each.payload))
        stream.flush()

    async def complete(self) -> tuple[StreamKey, Request | None, Recorded]:
        """The next file that is."""
        async with asyncio.timeout(20):
            return await self._files.get()

    async def file(self) -> Path:
        return Path((await self.complete())[2].path)

    async def until(self, reached: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not reached():
                await asyncio.sleep(0.005)

    def names(self) -> list[str]:
        """Of files, below the directory."""
        return sorted(each.relative_to(self.directory).as_posix() for each in self.directory.rglob("*.*"))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    for recorder in desk.recorders:
        await recorder.close()
        assert recorder.facts() == []


def read(path: Path) -> list[Message]:
    """The messages of an FLV file, which is whole."""
    data = path.read_bytes()
    reader = FlvReader()
    messages = reader.feed(data)
    assert reader.feed(b"\x08") == [] and sum(15 + len(each.payload) for each in messages) + 13 == len(data)
    return messages


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """As on a node."""
    return {"uvloop": uvloop.new_event_loop}
