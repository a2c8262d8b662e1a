"""``cluster.edge`` behind HTTP: FLV and HLS players make a node fetch a stream, and keep it while they ask."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import monotonic

import aiohttp
import pytest
from yarl import URL

from cluster.flv import FlvReader
from cluster.publish import publish
from hls.http import ViewerSite
from hls.settings import HlsSettings
from pyrtmp import Hooks, RefusedError, Request, StreamSettings
from tests.cluster.edge.nodes import CAM, GOP, Edge, Nodes, coded, ended, plays
from tests.pyrtmp.aio.net import eventually, number_of

TOKEN = "token=a%2Fb&x=1"


class Door:
    """Whose hook lets in those who have the token, and keeps what each said."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hooks = Hooks(on_play=self._asked)

    def _asked(self, request: Request) -> None:
        self.asked.append(request.query)
        if request.query != TOKEN:
            raise RefusedError("NetStream.Play.Failed", "no")


class Site:
    """The viewers' site of an edge, and who asks it."""

    def __init__(self, edge: Edge, site: ViewerSite, http: aiohttp.ClientSession) -> None:
        self.edge = edge
        self.site = site
        self.http = http

    def ask(self, path: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Without changing how the query is written."""
        return self.http.get(URL(path, encoded=True))

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.ask(path) as response:
            return response.status, await response.read()


@contextlib.asynccontextmanager
async def serving(edge: Edge, **settings: float) -> AsyncIterator[Site]:
    site = ViewerSite(edge.server, hls=HlsSettings(fragment=1.0, **settings))  # type: ignore[arg-type]
    await site.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession("http://{}:{}".format(*site.addresses[0])) as http:
            yield Site(edge, site, http)
    finally:
        await edge.pulls.close()
        await edge.server.close()
        await site.close()


@contextlib.asynccontextmanager
async def published(clip: Path, address: tuple[str, int]) -> AsyncIterator[None]:
    started = asyncio.Event()
    url = "rtmp://{}:{}/live/clip".format(*address)
    task = asyncio.create_task(publish(clip, url, repeat=True, started=started.set))
    await started.wait()
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError, RefusedError):
        await task


async def test_flv(nodes: Nodes) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin)
    source = await nodes.source(origin)
    await source.pictures(GOP)
    async with serving(edge) as site:
        async with site.http.get("/live/cam.flv?token=x&origin=10.0.0.1") as response:
            assert response.status == 200
            reader, got = FlvReader(), []
            while len(coded(got)) < 2 * GOP:
                got += reader.feed(await response.content.readany())
        assert [number_of(m) for m in coded(got) if m.type == 9] == list(range(GOP))
        assert plays(origin) == 1
        await ended(edge)
        await eventually(lambda: not plays(origin))


async def test_the_page_finds_what_nobody_watches_yet(nodes: Nodes) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin)
    source = await nodes.source(origin)
    await source.pictures(GOP)
    async with serving(edge) as site:
        for query, live in (("", 0), ("?stream=live/nobody", 0), ("?stream=live/cam", 1)):
            assert (await site.get(f"/_page/streams.json{query}"))[0] == 200
            assert len(edge.server.hub.live()) == plays(origin) == live, query
        for wrong in ("cam", "live/", "live/%0A", "%2F"):
            status, _ = await site.get(f"/_page/streams.json?stream={wrong}")
            assert status in (400, 404)


async def test_flv_players_tokens_go_up(nodes: Nodes) -> None:
    doors = [Door(), Door()]
    origin = await nodes.origin(hooks=doors[0].hooks)
    middle = await nodes.edge(origin, node="middle", hooks=doors[1].hooks)
    edge = await nodes.edge(middle.server)
    source = await nodes.source(origin)
    await source.pictures(GOP)
    async with serving(edge) as site, site.ask(f"/live/cam.flv?{TOKEN}") as response:
        assert response.status == 200 and await response.content.readexactly(3) == b"FLV"
        assert [door.asked for door in doors] == [[TOKEN], [TOKEN]]
    await middle.server.close()


async def test_what_the_page_shows_for_a_stream_goes_up(nodes: Nodes) -> None:
    door = Door()
    origin = await nodes.origin(hooks=door.hooks)
    edge = await nodes.edge(origin)
    source = await nodes.source(origin)
    await source.pictures(GOP)
    async with serving(edge) as site:
        assert (await site.get(f"/_page/streams.json?stream=live/cam&{TOKEN}"))[0] == 200
        assert door.asked == [TOKEN] and edge.server.hub.is_live(CAM)


@pytest.mark.parametrize("path", ["/live/clip.m3u8", "/live/clip/index.m3u8"])
async def test_hls_players_tokens_go_up(nodes: Nodes, clip: Path, path: str) -> None:
    door = Door()
    origin = await nodes.origin(hooks=door.hooks)
    edge = await nodes.edge(origin)
    async with serving(edge) as site, published(clip, origin.addresses[0]):
        status, body = await site.get(f"{path}?{TOKEN}")
        assert status == 200 and door.asked == [TOKEN]
        # They stay on what the playlist names; that is fetched from the edge.
        segment = next(line for line in body.decode().splitlines() if line and line[0] != "#")
        assert segment.endswith(f"?{TOKEN}")
        assert (await site.get(f"/live/{segment}" if path.endswith("p.m3u8") else f"/live/clip/{segment}"))[0] == 200
        assert door.asked == [TOKEN]


async def test_a_wrong_token_does_not_shut_out_a_right_one(nodes: Nodes) -> None:
    door = Door()
    origin = await nodes.origin(hooks=door.hooks)
    edge = await nodes.edge(origin)
    source = await nodes.source(origin)
    await source.pictures(GOP)
    async with serving(edge) as site:
        wrong = asyncio.create_task(site.get("/live/cam.m3u8?token=wrong"))
        await eventually(lambda: door.asked == ["token=wrong"])
        async with site.ask(f"/live/cam.flv?{TOKEN}") as response:
            assert response.status == 200 and await response.content.readexactly(3) == b"FLV"
        assert door.asked[-1] == TOKEN
        wrong.cancel()


@pytest.mark.parametrize("path", ["/live/no.flv", "/live/no.m3u8", "/live/no/index.m3u8", "/live/no.m3u8?t=/../x"])
async def test_nobody_has_it(nodes: Nodes, path: str) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin, stream=StreamSettings(play_wait_seconds=0.4))
    async with serving(edge, wait_seconds=0.4) as site:
        asked = monotonic()
        status, _ = await site.get(path)
        assert status == 404 and monotonic() - asked > 0.3
        # Nothing is kept of it, and nobody looks for it any longer.
        await ended(edge)
        await eventually(lambda: not len(edge.server.hub) and not len(site.site.hls))
        assert not plays(origin)


async def test_hls_is_fetched_while_somebody_asks(nodes: Nodes, clip: Path) -> None:
    origin = await nodes.origin()
    edge = await nodes.edge(origin, linger=0.2)
    async with serving(edge, linger=1.5) as site, published(clip, origin.addresses[0]):
        asked = monotonic()
        answers = await asyncio.gather(*(site.get(f"/live/clip.m3u8?token={n}") for n in range(20)))
        print(f"first HLS playlist through an edge: {monotonic() - asked:.2f} s")
        assert {status for status, _ in answers} == {200}
        assert plays(origin) == 1 and origin.counters.plays["rtmp"] == 1
        segment = next(line for line in answers[0][1].decode().splitlines() if line and line[0] != "#")
        status, body = await site.get(f"/live/{segment}")
        assert status == 200 and body[0] == 0x47
        for _ in range(6):
            await asyncio.sleep(0.5)
            assert (await site.get("/live/clip.m3u8"))[0] == 200
        assert plays(origin) == 1 and origin.counters.plays["rtmp"] == 1
        left = monotonic()
        await eventually(lambda: not plays(origin), 10)
        assert monotonic() - left > 1.0
        await ended(edge)
        # And from the beginning.
        assert (await site.get("/live/clip.m3u8"))[0] == 200
        assert plays(origin) == 1
