"""``cluster.edge``: edges that ask edges, and each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from pyrtmp.kin import Kin
from pyrtmp.names import StreamKey
from tests.cluster.edge.nodes import GOP, Nodes, address, ended, plays
from tests.pyrtmp.aio.net import eventually


async def test_edges_in_a_row(nodes: Nodes) -> None:
    origin = await nodes.origin("origin")
    first = await nodes.edge(origin, node="first")
    second = await nodes.edge(first.server, node="second")
    source = await nodes.source(origin, lineage="L")
    await source.pictures(1)
    player = await nodes.watch(second)
    (stream,) = second.server.hub.live()
    assert (stream.hops, stream.lineage) == (("encoder", "origin", "first"), "L")
    await source.pictures(5)
    await player.until(lambda: player.numbers()[-1] == 5)
    player.sock.close()
    await ended(second)
    await ended(first)
    await eventually(lambda: not plays(origin))


async def test_two_edges_that_ask_each_other(nodes: Nodes) -> None:
    one = await nodes.edge(node="one")
    two = await nodes.edge(one.server, node="two")
    upstreams = [address(two.server)]

    async def resolve(key: StreamKey) -> list[Any]:
        return upstreams

    one.upstreams._resolve = resolve
    with capture_logs() as logs:
        player = await nodes.peer(one.server)
        await player.play()
        await eventually(lambda: len(two.pulls))
        await asyncio.sleep(2.5)
        asked = one.server.counters.refused["play"] + two.server.counters.refused["play"]
        assert asked < 20
        player.sock.close()
        await asyncio.gather(ended(one, 8), ended(two, 8))
    assert len(logs) < 10
    assert not plays(one.server) and not plays(two.server)


async def test_two_edges_that_ask_each_other_lose_the_origin(nodes: Nodes) -> None:
    """What is left of the stream does not go round between them."""
    origin = await nodes.origin()
    source = await nodes.source(origin)
    await source.pictures(GOP)
    one = await nodes.edge(origin, node="one")
    two = await nodes.edge(one.server, node="two")
    upstreams = [address(origin), address(two.server)]

    async def resolve(key: StreamKey) -> list[Any]:
        return upstreams

    one.upstreams._resolve = resolve
    players = [await nodes.watch(one), await nodes.watch(two)]
    for player in players:
        await player.until(lambda player=player: player.numbers() == list(range(GOP)))
    await origin.close()
    await asyncio.sleep(2.5)
    passed = [stream.messages_in for edge in (one, two) for stream in edge.server.hub]
    assert max(passed, default=0) <= 2 * GOP + 2
    for player in players:
        await player.send(b"")
        assert player.numbers() == list(range(GOP))


@pytest.mark.parametrize(
    "kin, refused",
    [
        (Kin("x", ("origin",)), True),
        (Kin("x", tuple("abcdefgh")), True),
        (Kin("x", ("other", "x"), "L"), False),
    ],
)
async def test_a_publisher_that_says_it_came_through_here(nodes: Nodes, kin: Kin, refused: bool) -> None:
    origin = await nodes.origin()
    peer = await nodes.peer(origin)
    await peer.send(b"\3" + bytes(1536) + bytes(1536))
    await peer.command("connect", transaction=1, object={"app": "live", "tcUrl": "rtmp://h/live", **kin.entry()})
    await peer.until_code("NetConnection.Connect.Success")
    await peer.command("createStream", transaction=2)
    await peer.command("publish", "cam", "live", msid=1)
    await peer.until_code("NetStream.Publish.Loop" if refused else "NetStream.Publish.Start")
    if not refused:
        (stream,) = origin.hub.live()
        assert (stream.lineage, stream.hops) == ("L", ("other", "x"))
