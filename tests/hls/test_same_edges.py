"""A player that asks two edges in turn: a playlist here, a segment there."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from itertools import pairwise

import av
import m3u8

from cluster.edge.pulls import Pulls
from cluster.edge.upstreams import Upstream, Upstreams
from hls.settings import HlsSettings
from pyrtmp.message import Message
from tests.hls.conftest import Bench

MakeBench = Callable[..., Awaitable[Bench]]
MakeFeed = Callable[..., list[Message]]


async def test_a_player_between_two_edges_misses_nothing(make_bench: MakeBench, make_feed: MakeFeed) -> None:
    settings = HlsSettings(fragment=1.0, window=30.0)
    origin = await make_bench(server={"node": "o"})
    host, port = origin.server.addresses[0][:2]
    edges = [await make_bench(server={"node": name}, site={"hls": settings}) for name in ("a", "b")]
    pulls = []
    for edge in edges:
        edge.server.hub.source = Pulls(edge.server, Upstreams([Upstream(host, port)]), linger=lambda: 5.0)
        pulls.append(edge.server.hub.source)
    feed = make_feed("libx264", "aac", seconds=12, gop=1, bframes=2)
    client = await origin.publisher()
    clock = asyncio.get_running_loop().time()

    async def publish() -> None:
        for message in feed:
            await asyncio.sleep(max(clock + message.timestamp / 3000 - asyncio.get_running_loop().time(), 0))
            await origin.send(client, [message])

    async def playlist(edge: Bench) -> m3u8.M3U8:
        answer = await edge.get("/live/cam.m3u8")
        assert answer.status == 200
        return m3u8.loads(answer.body.decode())

    publisher = asyncio.create_task(publish())
    await asyncio.sleep(0.3)
    await playlist(edges[0])
    await asyncio.sleep(0.9)  # the other one joins later
    await playlist(edges[1])
    got: dict[str, bytes] = {}
    newest = 0
    for turn in range(200):
        known = await playlist(edges[turn % 2])
        for segment in known.segments[-3 if not got else 0 :]:
            name = segment.uri.rpartition("/")[2]
            if int(name[:-3]) > newest:
                answer = await edges[(turn + 1) % 2].get(f"/live/cam/{name}")
                if answer.status == 404:
                    break  # the other one has not got so far yet
                newest = int(name[:-3])
                got[name] = answer.body
        if publisher.done():
            break
        await asyncio.sleep(0.05)
    numbers = [int(name[:-3]) for name in got]
    assert len(numbers) >= 7 and numbers == list(range(numbers[0], numbers[-1] + 1))
    for name, data in got.items():
        for edge in edges:
            answer = await edge.get(f"/live/cam/{name}")
            assert answer.status == 404 or answer.body == data
    with av.open(io.BytesIO(b"".join(got.values())), format="mpegts") as source:
        packets = [(p.stream.type, p.dts) for p in source.demux() if p.size and p.dts is not None]
        assert not any(p[1] is None for p in packets)
    for kind, step in (("video", 3600), ("audio", 1920)):
        times = [dts for type, dts in packets if type == kind]
        assert all(abs(later - time - step) <= 180 for time, later in pairwise(times))
    await client.close()
    for each in pulls:
        await each.close()
