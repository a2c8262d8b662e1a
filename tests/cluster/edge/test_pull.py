"""``cluster.edge``: a stream is pulled once, while somebody watches, and from whoever has it."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.edge import attempt, rtmp
from pyrtmp import StreamSettings
from pyrtmp.aio.client import RtmpUrl
from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Hooks, Request
from tests.cluster.edge.nodes import (
    CAM,
    GOP,
    Nodes,
    address,
    brief,
    coded,
    ended,
    plays,
    time_goes_on,
)
from tests.pyrtmp.aio.net import eventually, frame


async def test_one_viewer_is_one_play_and_gets_what_was_published(nodes: Nodes) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin)
    source = await nodes.source(origin)
    await source.pictures(GOP + 3)
    player = await nodes.watch(edge)
    await source.pictures(2 * GOP)
    await player.until(lambda: player.numbers()[-1] == 3 * GOP + 2)
    assert player.numbers() == list(range(GOP, 3 * GOP + 3))
    assert brief(coded(player.media())) == source.since(player)
    assert plays(origin) == 1 and edge.pulls.started == 1
    (stream,) = edge.server.hub.live()
    assert (stream.pulled, stream.hops) == (True, ("origin",))
    assert stream.lineage == origin.hub.live()[0].lineage
    (facts,) = edge.pulls.facts(monotonic())
    assert (facts.key, facts.upstream, facts.changes) == (CAM, str(address(origin)), 0)
    # Nothing but media: what the origin says to its player stays between those two.
    assert {m.payload for m in player.media()} == {m.payload for m in source.sent if m.payload[1] == 0} | {
        m.payload for m in coded(player.media())
    }


async def test_why_an_upstream_refused_is_told_without_tokens(nodes: Nodes) -> None:
    def refuse(request: Request) -> None:
        raise RefusedError("NetStream.Play.Failed", f"cam?{request.query} is not for you")

    origin = await nodes.origin(hooks=Hooks(on_play=refuse))
    edge = await nodes.edge(nodes.unreachable(), origin)
    player = await nodes.peer(edge.server)
    await player.play("cam?token=secret")

    def error() -> str:
        return "".join(facts.error for facts in edge.pulls.facts(monotonic()))

    with capture_logs() as log:
        await eventually(lambda: "Failed" in error())
    assert error() == f"{address(origin)}: NetStream.Play.Failed"
    (told,) = (each for each in log if each["event"] == "upstream_refused")
    assert told["error"] == "NetStream.Play.Failed" and "secret" not in str(log)


async def test_a_crowd_is_one_play(nodes: Nodes) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin)
    source = await nodes.source(origin)
    await source.pictures(3)
    players = await asyncio.gather(*(nodes.watch(edge) for _ in range(200)))
    assert all(player.numbers()[0] == 0 for player in players)
    assert origin.counters.plays["rtmp"] == 1 and plays(origin) == 1 and edge.pulls.started == 1
    assert edge.pulls.failures == 0


async def test_viewers_who_come_before_the_publisher_wait(nodes: Nodes) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin)
    waiting = await nodes.peer(edge.server)
    await waiting.play()
    await eventually(lambda: origin.counters.refused["play"])
    source = await nodes.source(origin)
    await source.pictures(1)
    await waiting.until(waiting.numbers)


@pytest.mark.parametrize("linger", [0.0, 0.5])
async def test_it_ends_when_nobody_has_watched_for_a_while(nodes: Nodes, linger: float) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin, linger=linger)
    source = await nodes.source(origin)
    await source.pictures(1)
    player = await nodes.watch(edge)
    player.sock.close()
    left = monotonic()
    await eventually(lambda: not plays(origin))
    assert linger <= monotonic() - left
    await ended(edge)
    assert not len(edge.server.hub)
    await asyncio.sleep(0.6)
    assert not plays(origin) and edge.pulls.started == 1 and origin.counters.plays["rtmp"] == 1


async def test_nobody_asks_for_nobody(nodes: Nodes) -> None:
    fake = await nodes.fake("connect")
    edge = await nodes.edge(fake, linger=60)
    player = await nodes.peer(edge.server)
    await player.play()
    await eventually(lambda: fake.connections >= 2)
    player.sock.close()
    await ended(edge)  # it has nothing to linger with
    asked = fake.connections
    await asyncio.sleep(0.8)
    assert fake.connections == asked


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.1, 1.0])
async def test_who_comes_back_always_gets_media(nodes: Nodes, pause: float) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin, linger=1.0 if pause < 0.3 else 0.3)
    source = await nodes.source(origin)
    await source.pictures(1)
    for _ in range(2 if pause >= 1 else 6):
        player = await nodes.watch(edge)
        player.sock.close()
        await asyncio.sleep(pause)
    if pause < 0.3:
        assert edge.pulls.started == 1


async def test_who_comes_while_it_ends_gets_media(nodes: Nodes) -> None:
    """At every moment around the end."""
    origin = await nodes.origin()
    edge = await nodes.edge(origin, linger=0.0)
    source = await nodes.source(origin)
    await source.pictures(1)
    for step in range(12):
        player = await nodes.watch(edge)
        player.sock.close()
        await asyncio.sleep(0.03 * step)
    await ended(edge)


async def test_the_last_of_four_origins_has_it(nodes: Nodes, record_property: Any) -> None:
    origins = [await nodes.origin(f"origin{number}") for number in range(4)]
    source = await nodes.source(origins[3])
    await source.pictures(1)
    edge = await nodes.edge(*origins)
    player = await nodes.peer(edge.server)
    started = monotonic()
    await player.play()
    await player.until(player.numbers)
    took = monotonic() - started
    print(f"first frame from the last of four origins: {1000 * took:.1f} ms")
    assert took < attempt.CONNECT_SECONDS


async def test_those_before_it_do_not_answer(nodes: Nodes) -> None:
    origin = await nodes.origin()
    source = await nodes.source(origin)
    await source.pictures(1)
    blackholes = [nodes.blackhole(), nodes.blackhole()]
    edge = await nodes.edge(nodes.unreachable(), blackholes[0], nodes.unreachable(), blackholes[1], origin)
    started = monotonic()
    await nodes.watch(edge)
    took = monotonic() - started
    print(f"first frame behind two that do not answer and two that are not there: {1000 * took:.1f} ms")
    assert took < 2 * attempt.CONNECT_SECONDS, "they are not waited for one after the other"
    # Those that could not be reached are asked last from now on.
    found = await edge.upstreams.find(CAM)
    assert found.index(address(origin)) < 3


async def test_a_stream_nobody_has(nodes: Nodes) -> None:
    origins = [await nodes.origin(f"origin{number}") for number in range(2)]
    edge = await nodes.edge(nodes.unreachable(), *origins, stream=StreamSettings(play_wait_seconds=0.5))
    with capture_logs() as logs:
        player = await nodes.peer(edge.server)
        await player.play()
        await player.until_code("NetStream.Play.StreamNotFound")
        await ended(edge)
    assert not len(edge.server.hub) and not any(map(plays, origins))
    assert [line["event"] for line in logs].count("not_found") == 1
    # One line for every time that one was asked in vain, not one for every look at it.
    failed = [line for line in logs if line["event"] == "upstream_failed"]
    assert 1 <= len(failed) <= 4
    assert edge.pulls.failures >= len(failed)


async def test_one_that_takes_long_to_fail_is_reported_once(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "CONNECT_SECONDS", 1.0)
    edge = await nodes.edge(nodes.unreachable(), nodes.blackhole())
    with capture_logs() as logs:
        player = await nodes.peer(edge.server)
        await player.play()
        await eventually(lambda: any(line["event"] == "not_found" for line in logs))
    assert [line["event"] for line in logs].count("upstream_failed") == 2


async def test_somebody_publishes_it_here(nodes: Nodes) -> None:
    """The local publisher takes the stream over, viewers stay, and when it leaves the origin is asked again."""
    origin = await nodes.origin()
    edge = await nodes.edge(origin)
    source = await nodes.source(origin)
    await source.pictures(GOP)
    player = await nodes.watch(edge)
    local = await nodes.publisher(edge.server)
    await ended(edge)
    await local.write(frame(500, key=True), frame(501))
    await player.until(lambda: player.numbers()[-1] == 501)
    assert not plays(origin) and edge.server.counters.refused["publish"] == 0
    assert not edge.server.hub.live()[0].pulled
    local.sock.close()
    await eventually(lambda: plays(origin))
    await source.pictures(GOP + 1)
    await player.until(lambda: player.numbers()[-1] == 2 * GOP)
    assert time_goes_on(player)


async def test_somebody_publishes_it_here_while_it_is_looked_for(nodes: Nodes) -> None:
    edge = await nodes.edge(nodes.blackhole())
    player = await nodes.peer(edge.server)
    await player.play()
    await eventually(lambda: len(edge.pulls))
    local = await nodes.publisher(edge.server)
    await local.write(frame(0, key=True))
    await player.until(player.numbers)
    await ended(edge)


async def test_an_operator_ends_it(nodes: Nodes) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin)
    source = await nodes.source(origin)
    await source.pictures(1)
    player = await nodes.watch(edge)
    (stream,) = edge.server.hub.live()
    edge.server.hub.end(stream, monotonic())
    await player.until_code("NetStream.Play.UnpublishNotify")
    await ended(edge)
    await eventually(lambda: not plays(origin))


async def test_the_stream_ends_at_the_origin(nodes: Nodes) -> None:
    short = StreamSettings(grace_seconds=0.2, play_wait_seconds=1)
    origin = await nodes.origin(stream=short)
    edge = await nodes.edge(origin, stream=short)
    source = await nodes.source(origin)
    await source.pictures(1)
    player = await nodes.watch(edge)
    await source.close()
    await player.until_code("NetStream.Play.UnpublishNotify")
    # It went as it should: nobody holds that against the origin.
    assert not edge.upstreams._failed
    player.sock.close()
    await ended(edge)


@pytest.mark.parametrize("http", [False, True])
async def test_an_upstream_that_goes_on_with_another_stream(nodes: Nodes, http: bool) -> None:
    """A slave, when the publisher came back at another master: who fetches from it is born anew as well."""
    slave = await nodes.origin("slave")
    edge = await nodes.edge(await nodes.http(slave) if http else slave)
    first = await nodes.source(slave, lineage="L1")
    await first.pictures(GOP)
    player = await nodes.watch(edge)
    here, there = edge.server.hub.find("live", "cam"), slave.hub.find("live", "cam")
    assert here is not None and there is not None
    assert here.birth == there.birth is not None
    await first.close()
    await eventually(lambda: not there.live)
    second = await nodes.source(slave, lineage="L2")
    await second.pictures(1)
    await player.until(lambda: len(player.numbers()) == GOP + 1)
    await second.pictures(GOP + 2)
    await player.until(lambda: len(player.numbers()) == 2 * GOP + 3)
    assert here.birth == there.birth and here.birth.pace > 0
    assert player.numbers() == [*range(GOP), *range(GOP + 3)] and time_goes_on(player)
    assert plays(slave) == 1


async def test_names_with_a_query_are_the_same_stream(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled = []
    connect = rtmp.Client.connect

    async def recorded(url: str, **options: Any) -> Any:
        dialled.append(url)
        return await connect(url, **options)

    origin = await nodes.origin()
    edge = await nodes.edge(origin)
    source = await nodes.source(origin)
    await source.pictures(1)
    monkeypatch.setattr(rtmp.Client, "connect", recorded)
    for query in ("?token=a/b", "?url=rtmp://127.0.0.1:1/live/x", "?#@evil:99/x/y", "?%2e%2e", ""):
        player = await nodes.player(edge.server, f"cam{query}")
        await player.until(player.numbers)
    assert dialled == [address(origin).url(CAM) + "?token=a/b"]  # the first viewer's, and nobody else's


async def test_no_query_leads_anywhere_else(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled = []
    connect = rtmp.Client.connect

    async def recorded(url: str, **options: Any) -> Any:
        dialled.append(RtmpUrl.parse(url))
        return await connect(url, **options)

    origin = await nodes.origin()
    edge = await nodes.edge(origin, linger=0.0)
    source = await nodes.source(origin)
    await source.pictures(1)
    monkeypatch.setattr(rtmp.Client, "connect", recorded)
    queries = ("?url=rtmp://127.0.0.1:1/live/x", "?#@evil:99/x/y", "?%2e%2e", "?a b\r\nc", "?" + "x" * 3000)
    for number, query in enumerate(queries, 1):
        player = await nodes.player(edge.server, f"cam{query}")
        await player.until(player.numbers)
        player.sock.close()
        await eventually(lambda: not len(edge.pulls))
        assert len(dialled) == number
    assert {(url.host, url.port, url.app, url.name.partition("?")[0]) for url in dialled} == {
        (address(origin).host, address(origin).port, "live", "cam")
    }
    assert [url.name.partition("?")[2] for url in dialled] == [
        "url=rtmp://127.0.0.1:1/live/x", "%23@evil:99/x/y", "%2e%2e", "", ""
    ]
