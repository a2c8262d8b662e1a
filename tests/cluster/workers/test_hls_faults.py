"""HLS while workers die: playlists go on, wherever they are fetched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from time import monotonic
from urllib.parse import urljoin

import aiohttp
import m3u8  # type: ignore[import-untyped]
import pytest

from cluster.publish import publish
from tests.cluster.workers.real_node import RealNode, eventually, now, real_node


class Poller:
    """A player.  One that does not ``keep`` its connection opens another for everything it fetches, and so comes to
    every worker."""

    def __init__(self, url: str, *, keep: bool) -> None:
        self.url = url
        self.sequence = self.discontinuity = -1
        self.discontinuities = 0
        self.segments: dict[int, bytes] = {}
        self.faults: list[tuple[float, int, str]] = []
        self._keep = keep
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=not self._keep)) as http:
            while True:
                # A connection may end at any time: on to the next one.
                with contextlib.suppress(aiohttp.ClientError):
                    await self._follow(http)
                await asyncio.sleep(0.1)

    async def _get(self, http: aiohttp.ClientSession, url: str) -> bytes | None:
        async with http.get(url) as response:
            if response.status == 200:
                return await response.read()
            self._complain(response.status, url)
        return None

    def _complain(self, status: int, what: str) -> None:
        self.faults.append((monotonic(), status, what))

    async def _follow(self, http: aiohttp.ClientSession) -> None:
        body = await self._get(http, self.url)
        if body is None:
            return
        playlist = m3u8.loads(body.decode())
        numbers = (playlist.media_sequence, playlist.discontinuity_sequence or 0)
        if numbers[0] < self.sequence or numbers[1] < self.discontinuity:
            self._complain(0, f"sequence {numbers} follows {(self.sequence, self.discontinuity)}")
        self.sequence, self.discontinuity = numbers
        if playlist.is_endlist:
            self._complain(0, "it ended")
        for number, segment in enumerate(playlist.segments, playlist.media_sequence):
            if number not in self.segments:
                data = await self._get(http, urljoin(self.url, segment.uri))
                if data is not None:
                    # The first one may be marked: it may follow from something that is not in the playlist any more.
                    self.discontinuities += segment.discontinuity and bool(self.segments)
                    self.segments[number] = data

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        assert self._task.cancelled(), self._task.exception()

    async def until(self, segments: int, timeout: float = 20.0) -> None:
        """Wait until it has so many."""
        deadline = monotonic() + timeout
        while len(self.segments) < segments:
            assert not self._task.done(), self._task.exception()
            assert monotonic() < deadline, (len(self.segments), self.faults)
            await asyncio.sleep(0.05)


async def lose_worker(node: RealNode, worker: int) -> None:
    wall = now()
    os.kill((await node.pids())[worker], signal.SIGKILL)
    await node.event("worker_ready", wall, worker=worker)


async def _is_live(node: RealNode, key: str) -> bool:
    return key in {stream["id"] for stream in (await node.get("/api/v1/streams"))["streams"] if stream["frames"]}


async def encoder(node: RealNode, clip: Path, key: str) -> None:
    """Publishes for ever, as an encoder does: comes back at once when it loses its connection."""
    while True:
        with contextlib.suppress(ConnectionError):
            await publish(clip, node.rtmp(key), repeat=True)


@pytest.mark.parametrize("lost", ["publisher", "players", "all"])
async def test_hls_goes_on_when_workers_go(tmp_path: Path, clip: Path, lost: str) -> None:
    """The publisher's worker, another that only passes segments on, or one after the other by ``pyrtmp restart``."""
    async with real_node(tmp_path, "hls.fragment=1", "node.drain_seconds=2") as node:
        encoding = asyncio.create_task(encoder(node, clip, "live/a"))
        await eventually(lambda: _is_live(node, "live/a"))
        pollers = [Poller(f"http://127.0.0.1:{node.ports['http']}/live/a.m3u8", keep=number % 2) for number in range(4)]
        try:
            for poller in pollers:
                await poller.until(3)
            began = monotonic()
            if lost == "all":
                wall = now()
                await node.order("POST", "/api/v1/restart")
                await node.event("workers_restarted", wall, timeout=30.0)
            else:
                holder = (await node.get("/api/v1/streams/live/a"))["stream"]["worker"]
                await lose_worker(node, holder if lost == "publisher" else 1 - holder)
            await eventually(lambda: _is_live(node, "live/a"))
            back = monotonic() + 1.0
            await asyncio.gather(*(poller.until(len(poller.segments) + 4) for poller in pollers))
            for poller in pollers:
                # What was made just before the publisher's worker went may have gone with it.
                missing = set(range(min(poller.segments), max(poller.segments))) - set(poller.segments)
                assert len(missing) <= {"publisher": 1, "players": 0, "all": 2}[lost]
                assert poller.discontinuities in {"publisher": (1, 2), "players": (0,), "all": (1, 2)}[lost]
                # A worker that is new knows the stream, and what others have of it, when its publisher is back.
                meanwhile = [] if lost == "players" else [each for each in poller.faults if began < each[0] < back]
                assert not [each for each in poller.faults if each not in meanwhile or each[1] != 404]
        finally:
            for poller in pollers:
                await poller.stop()
            encoding.cancel()
            await asyncio.wait((encoding,))
        assert encoding.cancelled(), encoding.exception()
