from __future__ import annotations

import os

from cluster.fleet import OneProcess
from cluster.node import Node
from cluster.reloading import Reloaded
from pyrtmp.aio.client import Client


async def test_a_node_in_one_process(node: Node, live: str) -> None:
    ready = True
    fleet = OneProcess(node.engine, ready=lambda: ready, reload=lambda: Reloaded(changed=("log.level",)))
    assert fleet.ready()
    ready = False
    assert not fleet.ready()
    assert (await fleet.reload()).changed == ("log.level",)
    assert not await fleet.restart_workers()

    async with await Client.connect(live) as viewer:
        await anext(viewer.play())
        [stream] = await fleet.streams()
        assert (str(stream.key), stream.held, stream.worker) == ("live/clip", True, -1)
        assert await fleet.streams(1, 5) == []
        one = await fleet.stream("live", "clip")
        assert one is not None and one.metadata["width"] == 640
        assert await fleet.stream("live", "none") is None

        publisher, player = await fleet.clients()
        assert (publisher.role, player.role) == ("publish", "play")
        assert [each.id for each in await fleet.clients(1, 1)] == [player.id]
        found = await fleet.client(player.id)
        assert found is not None and found.id == player.id
        assert await fleet.client("nobody") is None

        assert await fleet.kick_client(player.id) and not await fleet.kick_client("nobody")
    assert await fleet.end_stream("live", "clip") and not await fleet.end_stream("live", "clip")
    assert node.server.hub.live() == []


async def test_numbers_are_as_of_now(node: Node) -> None:
    fleet = OneProcess(node.engine, ready=lambda: True, reload=Reloaded)
    [before] = await fleet.numbers()
    assert (before.worker, before.pid, before.connections) == (-1, os.getpid(), 0)
    node.engine._sampled = 0.0  # whatever was seen is old
    async with await Client.connect(f"rtmp://{node.rtmp_address}/live/cam"):
        [numbers] = await fleet.numbers()
        assert (numbers.connections, numbers.counters.connections) == (1, 1)
