"""``cluster.edge``: pulls that are stopped in any state, and the claims they hold."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest

from pyrtmp.errors import RefusedError
from pyrtmp.message import AUDIO, VIDEO
from pyrtmp.names import StreamKey
from tests.cluster.edge.nodes import GOP, Fake, Nodes, ended, hang, plays
from tests.pyrtmp.aio.net import eventually


class Clerk:
    """Grants or refuses claims, or never answers."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked = 0
        self.held: list[StreamKey] = []

    async def claim_pull(self, key: StreamKey) -> tuple[int, float] | None:
        self.asked += 1
        if self.answer == "never":
            await asyncio.Event().wait()
        if self.answer == "no":
            raise RefusedError("NetStream.Publish.BadName", "taken")
        self.held.append(key)
        return (5000, monotonic())

    def release_pull(self, key: StreamKey, time: int) -> None:
        self.held.remove(key)


@pytest.mark.parametrize("how", ["close", "give up", "close twice"])
@pytest.mark.parametrize(
    "state", ["claiming", "taken", "connecting", "handshake", "waiting", "feeding", "doubting", "pausing", "lingering"]
)
async def test_stopped_in_any_state_nothing_is_left(nodes: Nodes, state: str, how: str) -> None:
    """The fixture looks for tasks and descriptors."""
    clerk = Clerk({"claiming": "never", "taken": "no"}.get(state, "yes"))
    origin = await nodes.origin()
    upstreams: list[Any] = {
        "connecting": [nodes.blackhole(), nodes.blackhole()],
        "handshake": [await nodes.fake("hello", hang)],
        "waiting": [await nodes.fake("start", hang)],
        "pausing": [nodes.unreachable()],
        "doubting": [origin, await nodes.fake("start", hang)],
    }.get(state, [origin])
    edge = await nodes.edge(*upstreams, claims=clerk, linger=30.0)
    if state in ("feeding", "doubting", "lingering"):
        source = await nodes.source(origin)
        await source.pictures(GOP)
        player = await nodes.watch(edge)
        if state == "doubting":
            await source.close()
            await eventually(lambda: upstreams[1].open)
        elif state == "lingering":
            player.sock.close()
            await eventually(lambda: not edge.server.clients)
    else:
        player = await nodes.peer(edge.server)
        await player.play()
        await eventually(lambda: len(edge.pulls) and clerk.asked)
        for each in upstreams:
            if isinstance(each, Fake) and state != "doubting":
                await eventually(lambda each=each: each.open)  # type: ignore[misc]
    edge.server.hub.source = None
    if how == "give up":
        edge.pulls.give_up(StreamKey("live", "cam"))
        await ended(edge)
    else:
        await asyncio.gather(*(edge.pulls.close() for _ in range(2 if how == "close twice" else 1)))
    assert not len(edge.pulls) and not clerk.held
    assert not edge.server.hub.live()
    await eventually(lambda: not plays(origin) and not any(fake.open for fake in nodes.fakes))


async def test_what_another_process_had_got_to_is_gone_on_from(nodes: Nodes) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin, claims=Clerk("yes"))
    source = await nodes.source(origin)
    await source.pictures(1)
    player = await nodes.watch(edge)
    assert [m.timestamp for m in player.media() if m.type in (AUDIO, VIDEO)][-1] >= 5000


async def test_what_is_taken_elsewhere_is_asked_for_again(nodes: Nodes) -> None:
    clerk = Clerk("no")
    origin = await nodes.origin()
    edge = await nodes.edge(origin, claims=clerk)
    source = await nodes.source(origin)
    await source.pictures(1)
    player = await nodes.peer(edge.server)
    await player.play()
    await eventually(lambda: clerk.asked >= 3)
    assert not plays(origin)
    clerk.answer = "yes"
    await player.until(player.numbers)
    player.sock.close()
    await ended(edge)
    assert not clerk.held
