"""A stream that was lost is looked for soon, since its publisher may come back to another origin any time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from cluster.edge.pull import LONGEST_PAUSE, LOST_PAUSE, Searches
from cluster.edge.pulls import Pulls
from cluster.edge.upstreams import Upstream, Upstreams
from pyrtmp import Client, Server
from pyrtmp.message import VIDEO, Message
from pyrtmp.names import StreamKey

HEADER = Message(VIDEO, 0, 1, bytes.fromhex("17000000000164001fffe1000467640bb801000468ef3cb0"))


def test_many_lost_streams_are_looked_for_less_often() -> None:
    searches = Searches()
    assert searches.pause == LOST_PAUSE
    searches.lost = {StreamKey("live", str(number)) for number in range(100)}
    assert LOST_PAUSE < searches.pause < LONGEST_PAUSE
    searches.lost = {StreamKey("live", str(number)) for number in range(10_000)}
    assert searches.pause == LONGEST_PAUSE


def test_a_failure_is_news_once() -> None:
    upstreams, one = Upstreams(()), Upstream("10.0.0.1", 1935)
    assert upstreams.failed(one) and not upstreams.failed(one)
    upstreams.worked(one)
    assert upstreams.failed(one)


@contextlib.asynccontextmanager
async def publishing(server: Server) -> AsyncIterator[None]:
    """A picture every 40 ms, each of them a key frame."""

    async def send(client: Client) -> None:
        await client.send(HEADER)
        for number in range(10_000):
            await client.send(Message(VIDEO, number * 40, 1, b"\x17\1\0\0\0" + bytes(100)))
            await asyncio.sleep(0.04)

    async with await Client.connect(f"rtmp://127.0.0.1:{server.addresses[0][1]}/live/cam") as client:
        await client.publish()
        task = asyncio.create_task(send(client))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("leaves", ["the publisher", "the origin"])
async def test_a_publisher_that_comes_back_to_another_origin(leaves: str) -> None:
    first, second, edge = Server(node="first"), Server(node="second"), Server(node="edge")
    for server in (first, second, edge):
        await server.start("127.0.0.1", 0)
    origins = [Upstream("127.0.0.1", server.addresses[0][1]) for server in (first, second)]
    pulls = edge.hub.source = Pulls(edge, Upstreams(origins), linger=lambda: 1.0)
    pictures: list[float] = []

    async def watch() -> None:
        async with await Client.connect(f"rtmp://127.0.0.1:{edge.addresses[0][1]}/live/cam") as viewer:
            async for message in viewer.play():
                pictures.extend([monotonic()] * (message.type == VIDEO and message.payload[1] == 1))

    try:
        async with publishing(first):
            watching = asyncio.create_task(watch())
            async with asyncio.timeout(5):
                while len(pictures) < 20:
                    await asyncio.sleep(0.01)
        if leaves == "the origin":
            await first.close()
        # OBS tries again after two seconds; by then pauses between searches would be two seconds as well.
        await asyncio.sleep(2.5)
        before = len(pictures)
        async with publishing(second):
            came = monotonic()
            async with asyncio.timeout(5):
                while len(pictures) == before:
                    await asyncio.sleep(0.01)
            assert pictures[before] - came < 0.9
        assert not watching.done()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    finally:
        await pulls.close()
        for server in (edge, first, second):
            await server.close()
