"""Publishing without waiting: ``send_many``, ``unsent`` and ``wait_closed``."""

from __future__ import annotations

import asyncio
from time import monotonic

from pyrtmp import Client, RefusedError, Server
from pyrtmp.aio.client import _CLOSE_SECONDS
from pyrtmp.aio.connection import Connection
from tests.pyrtmp.aio.net import SEQUENCE, Net, eventually, frame


def url(server: Server) -> str:
    return f"rtmp://127.0.0.1:{server.addresses[0][1]}/live/cam"


async def test_messages_in_one_write(net: Net) -> None:
    server = await net.server()
    player = await net.peer(server)
    await player.play()
    async with await Client.connect(url(server)) as client:
        await client.publish()
        messages = [frame(n, key=n == 0) for n in range(10)]
        written = client.send_many(messages)
        assert written == sum(len(m.payload) + 12 for m in messages)
        await player.until(lambda: player.numbers() == list(range(10)))
        assert client.unsent == 0
        assert client.send_many([]) == 0


async def test_what_the_server_does_not_take_is_counted(net: Net) -> None:
    server = await net.server()
    async with await Client.connect(url(server)) as client:
        await client.publish()
        (connection,) = server.clients.values()
        assert isinstance(connection, Connection)
        connection.transport.pause_reading()
        written = sum(client.send_many([frame(n, 100_000)]) for n in range(200))
        await asyncio.sleep(0)
        assert written // 2 < client.unsent < written
        started = monotonic()
        await client.close(timeout=0.1)
        assert 0.05 < monotonic() - started < _CLOSE_SECONDS
        assert client.unsent == 0


async def test_a_lost_connection_is_told(net: Net) -> None:
    server = await net.server()
    async with await Client.connect(url(server)) as client:
        await client.publish()
        ending = asyncio.create_task(client.wait_closed())
        await eventually(lambda: server.hub.live())
        assert not ending.done()
        next(iter(server.clients.values())).kick()
        assert isinstance(await ending, ConnectionError)
        assert client.send_many([frame(0)]) == 0


async def test_a_displaced_publisher_is_told(net: Net) -> None:
    server = await net.server()
    async with await Client.connect(url(server)) as client:
        await client.publish()
        client.send_many([frame(0, key=True)])
        await eventually(lambda: server.hub.live()[0].messages_in)
        ending = asyncio.create_task(client.wait_closed())
        server.hub.displace(server.hub.live()[0], monotonic(), "NetStream.Publish.BadName", SEQUENCE.hex()[:4])
        error = await ending
        assert isinstance(error, RefusedError)
        assert error.code == "NetStream.Publish.BadName"
