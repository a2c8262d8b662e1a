"""Clients behind balancers are known by their own addresses, whichever worker has them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from pyrtmp import Client
from tests.cluster.workers.real_node import RealNode, real_node
from tests.pyrtmp.test_proxy import binary


@contextlib.asynccontextmanager
async def balancer(node: RealNode) -> AsyncIterator[int]:
    """Passes connections on, each as that of another client: 192.0.2.1 and so on; its port."""
    count = 0

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        back, forth = await asyncio.open_connection("127.0.0.1", node.ports["rtmp"])
        forth.write(binary(f"192.0.2.{count}"))
        await asyncio.gather(pump(reader, forth), pump(back, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_each_by_its_own_address_on_every_worker(tmp_path: Path) -> None:
    settings = (
        "rtmp.proxy_from=127.0.0.0/8", "http.trust_forwarded_from=127.0.0.1", "limits.max_connections_per_address=1"
    )
    async with real_node(tmp_path, *settings) as node, balancer(node) as port, contextlib.AsyncExitStack() as stack:
        clients = []
        for number in range(6):
            client = await Client.connect(f"rtmp://127.0.0.1:{port}/live/{number}", flashVer=f"client-{number}")
            clients.append(await stack.enter_async_context(client))
            await client.publish()
        listed = await node.clients()
        assert {name: each["ip"] for name, each in listed.items()} == {
            f"client-{number}": f"192.0.2.{number + 1}" for number in range(6)
        }
        # All come from one balancer, and yet not all to one worker.
        assert {each["worker"] for each in listed.values()} == {0, 1}
        assert {event["address"] for event in node.events("publish")} == {f"192.0.2.{each}" for each in range(1, 7)}
        # Connections without a word, as health checks make them, are nobody's business.
        for _ in range(4):
            _, writer = await asyncio.open_connection("127.0.0.1", node.ports["rtmp"])
            writer.close()
            await writer.wait_closed()
        assert not [event for event in node.events() if event["level"] in ("warning", "error")]
