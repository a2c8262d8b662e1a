"""``cluster.edge``: how much later frames are here than where they are published, along one pull and two."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import pytest

from cluster.edge.pulls import HOPS
from cluster.edge.upstreams import Upstream
from pyrtmp import Client, Message, Server
from pyrtmp.message import AUDIO
from tests.cluster.edge.nodes import Edge, Nodes, Source, address
from tests.pyrtmp.aio.net import AUDIO_SEQUENCE, eventually, sound


@contextlib.asynccontextmanager
async def again_and_again(send: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """For the length of the block, every 20 ms."""
    async def go_on() -> None:
        while True:
            await send()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def pictures(source: Source) -> contextlib.AbstractAsyncContextManager[None]:
    return again_and_again(lambda: source.pictures(1))


@contextlib.asynccontextmanager
async def long_line(upstream: Upstream, seconds: float) -> AsyncIterator[Upstream]:
    """Whatever is sent either way arrives so much later."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def write(writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                loop.call_later(seconds, write, writer, data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(upstream.host, upstream.port)
        for way in (carry(reader, back), carry(there, writer)):
            task = asyncio.create_task(way)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield Upstream(*server.sockets[0].getsockname())
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def delay(edge: Edge) -> float | None:
    (facts,) = edge.pulls.facts(0.0)
    return facts.delay


async def measured(edge: Edge) -> float:
    await eventually(lambda: delay(edge) is not None, 8.0)
    found = delay(edge)
    assert found is not None
    return found


def hops(edge: Edge) -> set[str]:
    return {hops for hops, histogram in edge.pulls.delays.items() if histogram.total}


async def test_a_pull_and_a_pull_of_that_are_measured(nodes: Nodes) -> None:
    origin = await nodes.origin()
    near = await nodes.edge(origin, node="near")
    far = await nodes.edge(near.server, node="far")
    source = await nodes.source(origin)
    async with pictures(source):
        await nodes.watch(far)
        assert 0 <= await measured(far) < 0.25
        assert 0 <= await measured(near) < 0.25
    assert hops(near) == {HOPS[0]} and hops(far) == {HOPS[1]}


@pytest.mark.timeout(30)
async def test_long_lines_add_up(nodes: Nodes) -> None:
    line = 0.15
    origin = await nodes.origin()
    async with long_line(address(origin), line) as first:
        near = await nodes.edge(first, node="near")
        async with long_line(address(near.server), line) as second:
            far = await nodes.edge(second, node="far")
            source = await nodes.source(origin)
            async with pictures(source):
                player = await nodes.player(near.server)
                await player.until(player.numbers)
                assert line - 0.01 < await measured(near) < line + 0.1
                await nodes.watch(far)
                assert 2 * line - 0.02 < await measured(far) < 2 * line + 0.2


async def test_sound_alone_is_measured(nodes: Nodes) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin)
    client = await _publish(origin)
    numbers = count()
    await client.send(Message(AUDIO, 0, 1, AUDIO_SEQUENCE))
    async with again_and_again(lambda: client.send(sound(next(numbers)))):
        await nodes.player(edge.server)
        assert 0 <= await measured(edge) < 0.25
    await client.close()


async def _publish(server: Server) -> Client:
    client = await Client.connect(f"rtmp://127.0.0.1:{server.addresses[0][1]}/live/cam")
    await client.publish()
    return client


async def test_an_upstream_of_another_kind_is_asked_nothing(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Client, "call", lambda self, name: asked.append(name) or 0)
    origin, sibling = await nodes.origin(node=""), await nodes.origin()
    stranger, friend = await nodes.edge(origin), await nodes.edge(sibling)
    source = await nodes.source(origin, sibling)
    async with pictures(source):
        player = await nodes.watch(stranger)
        await nodes.watch(friend)
        await eventually(lambda: asked, 8.0)
        await player.until(lambda: len(player.numbers()) > 50)
    assert len(asked) == 1 and delay(stranger) is None and not stranger.pulls.delays
