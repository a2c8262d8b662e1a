"""``cluster.edge.flv``: streams that come by HTTP-FLV."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest
from structlog.testing import capture_logs

from cluster.config import load
from cluster.edge.pull import HUNG_SECONDS
from cluster.edge.upstreams import Upstream
from cluster.flv import FlvReader
from cluster.node import Node
from cluster.tls.client import system_context
from pyrtmp import Client, Server, StreamSettings
from pyrtmp.hooks import Hooks, Request
from pyrtmp.message import AUDIO, VIDEO, Message
from tests.cluster.conftest import HERE
from tests.cluster.edge.nodes import (
    FLV,
    GOP,
    OK,
    Edge,
    Fake,
    Nodes,
    Session,
    address,
    brief,
    coded,
    ended,
    over_http,
    tags,
    time_goes_on,
)
from tests.nginx import PROGRAM, nginx
from tests.pyrtmp.aio.net import AUDIO_SEQUENCE, SEQUENCE, Peer, eventually, frame


def viewers(server: Server) -> int:
    return sum(client.protocol == "flv" for client in server.clients.values())


async def changed(edge: Edge, times: int, timeout: float = 5.0) -> None:
    await eventually(lambda: [facts.changes for facts in edge.pulls.facts(0)] == [times], timeout)


async def whole(player: Peer, newest: int) -> None:
    await player.until(lambda: player.numbers()[-1:] == [newest])
    await player.until(lambda: coded(player.media())[-1].type == AUDIO)


@pytest.mark.parametrize("start", [0, 419_430, 107_374_180], ids=["from 0", "over 24 bits", "over 32 bits"])
async def test_frames_are_those_that_were_published(nodes: Nodes, start: int) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(await nodes.http(origin))
    source = await nodes.source(origin)
    source.number = start
    await source.pictures(GOP)
    players = await asyncio.gather(*(nodes.watch(edge) for _ in range(20)))
    await source.pictures(GOP)
    for player in players:
        await whole(player, start + 2 * GOP - 1)
        assert brief(coded(player.media())) == [
            (type, time & 0xFFFFFFFF, payload) for type, time, payload in source.since(player)
        ]
        assert {m.payload for m in player.media() if m.payload[1] == 0} == {SEQUENCE, AUDIO_SEQUENCE}
    assert viewers(origin) == origin.counters.plays["flv"] == 1 and not origin.counters.plays["rtmp"]
    (facts,) = edge.pulls.facts(0)
    assert facts.upstream.startswith("http://127.0.0.1:")
    for player in players:
        player.sock.close()
    await ended(edge)
    await eventually(lambda: not viewers(origin))


@pytest.mark.parametrize("back", [False, True], ids=["to RTMP", "from RTMP"])
async def test_an_upstream_dies_and_another_one_has_a_copy(nodes: Nodes, back: bool) -> None:
    """Nothing is lost, nothing comes twice, whichever of them speaks which protocol."""
    origins = [await nodes.origin(f"origin{number}") for number in range(2)]
    upstreams = [await nodes.http(origins[0]), address(origins[1])]
    if back:
        upstreams = [address(origins[0]), await nodes.http(origins[1])]
    edge = await nodes.edge(*upstreams)
    source = await nodes.source(*origins, lineage="L")
    source.gop = 1000
    await source.pictures(GOP + 3)
    players = [await nodes.watch(edge) for _ in range(3)]
    source.clients.pop(0).abort()
    sending = asyncio.ensure_future(source.pictures(30, 0.01))
    lost = monotonic()
    await origins[0].close()
    await changed(edge, 1)
    assert monotonic() - lost < HUNG_SECONDS
    await sending
    for player in players:
        await whole(player, source.number - 1)
        assert brief(coded(player.media())) == source.since(player)
    (stream,) = edge.server.hub.live()
    assert (stream.lineage, stream.hops) == ("L", ("encoder", "origin1"))


async def test_an_upstream_falls_silent(nodes: Nodes) -> None:
    async def silent(fake: Fake, session: Session) -> None:
        await session.request()
        session.writer.write(OK + FLV + tags(frame(0, key=True), frame(1)))
        await session.gone()

    fake = await nodes.fake("accept", silent)
    origin = await nodes.origin()
    edge = await nodes.edge(over_http(fake), await nodes.http(origin))
    player = await nodes.watch(edge)
    source = await nodes.source(origin)
    sending = asyncio.ensure_future(source.pictures(400, 0.02))
    await changed(edge, 1, 4 * HUNG_SECONDS)
    await player.until(lambda: len(player.numbers()) > 2 * GOP)
    sending.cancel()
    await asyncio.wait((sending,))
    assert time_goes_on(player)
    await eventually(lambda: not fake.open)


async def test_the_stream_ends_at_the_origin(nodes: Nodes) -> None:
    short = StreamSettings(grace_seconds=0.2, play_wait_seconds=1)
    origin = await nodes.origin(stream=short)
    edge = await nodes.edge(await nodes.http(origin), stream=short)
    source = await nodes.source(origin)
    await source.pictures(1)
    player = await nodes.watch(edge)
    await source.close()
    await player.until_code("NetStream.Play.UnpublishNotify", 2)
    assert not edge.upstreams._failed


async def test_nobody_has_it(nodes: Nodes) -> None:
    """The origin says so at once, however long it would have its own viewers wait."""
    origin = await nodes.origin()
    edge = await nodes.edge(await nodes.http(origin), stream=StreamSettings(play_wait_seconds=2.0))
    with capture_logs() as logs:
        player = await nodes.peer(edge.server)
        await player.play()
        await eventually(lambda: any(line["event"] == "not_found" for line in logs), 1.8)
        await player.until_code("NetStream.Play.StreamNotFound")
        await ended(edge)
    assert not edge.upstreams._failed and not len(origin.hub)
    # And when it comes, it is found.
    player = await nodes.peer(edge.server)
    await player.play()
    source = await nodes.source(origin)
    await source.pictures(1)
    await player.until(player.numbers)


async def test_edges_in_a_row(nodes: Nodes) -> None:
    """Each tells the next where the stream comes from; a viewer's token goes all the way."""
    asked: list[Request] = []
    origin = await nodes.origin(hooks=Hooks(on_play=asked.append))
    first = await nodes.edge(await nodes.http(origin), node="first")
    second = await nodes.edge(await nodes.http(first.server), node="second")
    source = await nodes.source(origin, lineage="L")
    await source.pictures(GOP)
    player = await nodes.player(second.server, "cam?token=a%2Fb+c&x=1")
    await player.until(player.numbers)
    (stream,) = second.server.hub.live()
    assert (stream.hops, stream.lineage) == (("encoder", "origin", "first"), "L")
    assert {request.query for request in asked} == {"token=a%2Fb+c&x=1"}
    player.sock.close()
    await ended(second)
    await ended(first)


async def test_two_edges_that_ask_each_other(nodes: Nodes) -> None:
    """What one of them has left of the stream does not go round."""
    origin = await nodes.origin()
    one = await nodes.edge(address(origin), node="one")
    two = await nodes.edge(await nodes.http(one.server), node="two")
    known = [address(origin), await nodes.http(two.server), await nodes.http(one.server)]

    async def resolve(key: object) -> list[Upstream]:
        return known

    one.upstreams._resolve = resolve
    source = await nodes.source(origin)
    await source.pictures(GOP)
    players = [await nodes.watch(one), await nodes.watch(two)]
    for player in players:
        await player.until(lambda player=player: player.numbers() == list(range(GOP)))
    await origin.close()
    await asyncio.sleep(1.5)
    assert max(stream.messages_in for edge in (one, two) for stream in edge.server.hub) <= 2 * GOP + 2
    for player in players:
        await player.send(b"")
        assert player.numbers() == list(range(GOP))
        player.sock.close()
    await asyncio.gather(ended(one, 8), ended(two, 8))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    return certificate, key


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls(
    nodes: Nodes, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    system_context.cache_clear()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    origin = await nodes.origin()
    edge = await nodes.edge(await nodes.http(origin, tls), stream=StreamSettings(play_wait_seconds=0.5))
    source = await nodes.source(origin)
    await source.pictures(GOP)
    player = await nodes.peer(edge.server)
    await player.play()
    if trusted:
        await player.until(lambda: player.numbers() == list(range(GOP)))
    else:
        await player.until_code("NetStream.Play.StreamNotFound")
        assert edge.upstreams._failed and not viewers(origin)
    system_context.cache_clear()


@pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_through_nginx(nodes: Nodes, tmp_path: Path, version: str) -> None:
    """Which makes chunks of it, under a path of its own; what nodes tell each other passes through it."""
    origin = await nodes.origin()
    async with nginx(tmp_path, (await nodes.http(origin)).port, version, "/origins/one/") as port:
        edge = await nodes.edge(Upstream("127.0.0.1", port, scheme="http", prefix="/origins/one"))
        source = await nodes.source(origin, lineage="L")
        await source.pictures(GOP)
        player = await nodes.watch(edge)
        await source.pictures(GOP)
        await whole(player, 2 * GOP - 1)
        assert brief(coded(player.media())) == source.since(player)
        assert edge.server.hub.live()[0].hops == ("encoder", "origin")
        player.sock.close()
        await ended(edge)
        await eventually(lambda: not viewers(origin))


async def test_a_node_with_such_an_origin(node: Node, live: str, clip: Path) -> None:
    """From the configuration on: the bytes of the file, as RTMP viewers of the edge get them."""
    settings = [*HERE, "node.id=edge", "node.role=edge", f"edge.origins=http://{node.http_address}/"]
    edge = Node(load(None, settings, {}))
    await edge.start()
    try:
        async with await Client.connect(f"rtmp://{edge.rtmp_address}/live/clip") as player:
            async with contextlib.aclosing(played(player, 60)) as messages:
                got = [message.payload async for message in messages]
    finally:
        await edge.close()
    published = [m.payload for m in FlvReader().feed(clip.read_bytes()) if m.type == VIDEO]
    assert len(got) == 60 and set(got) <= set(published)
    at = [published.index(payload) for payload in got]
    coming = [index for index in at if index]  # without the sequence header
    assert all((after - before) % (len(published) - 1) == 1 for before, after in pairwise(coming))


async def played(player: Client, pictures: int) -> AsyncIterator[Message]:
    async for message in player.play():
        if message.type == VIDEO:
            yield message
            pictures -= 1
            if not pictures:
                return
