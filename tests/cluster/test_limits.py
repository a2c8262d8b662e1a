"""Limits of a real node, in one process and with workers: who is one too many is told so, counted, and hurts nobody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from cluster.publish import publish
from pyrtmp import Client
from pyrtmp.errors import RefusedError
from tests.cluster.workers.real_node import RealNode, eventually, real_node
from tests.nginx import PROGRAM, nginx

WORKERS = pytest.mark.parametrize("workers", [0, 2])


async def refused(node: RealNode, reason: str) -> float:
    return (await node.metrics()).get(f'pyrtmp_refused_total{{reason="{reason}"}}', 0.0)


async def counted(node: RealNode, reason: str, number: int) -> None:
    """The numbers are up to a second old."""

    async def enough() -> bool:
        return await refused(node, reason) >= number

    await eventually(enough)
    assert await refused(node, reason) == number


async def status(http: aiohttp.ClientSession, node: RealNode, path: str, **headers: str) -> int:
    async with http.get(f"http://127.0.0.1:{node.ports['http']}{path}", headers=headers) as answer:
        return answer.status


@contextlib.asynccontextmanager
async def filmed(node: RealNode, key: str, clip: Path) -> AsyncIterator[None]:
    """A stream with real pictures: others cannot be packaged for HLS."""
    started = asyncio.Event()
    task = asyncio.create_task(publish(clip, node.rtmp(key), repeat=True, started=started.set))
    await started.wait()
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, RefusedError):
            await task


@WORKERS
async def test_streams(tmp_path: Path, workers: int) -> None:
    """Of the node, whichever worker a publisher comes to."""
    async with real_node(tmp_path, "limits.max_streams=2", workers=workers) as node:
        places = (0, 1) if workers else (None, None)
        first, second = [await node.publish(f"live/{name}", place) for name, place in zip("ab", places, strict=True)]
        for place in places:
            with pytest.raises(RefusedError, match="takes no more streams") as caught:
                await node.publish("live/c", place)
            assert caught.value.code == "NetStream.Publish.Denied"
        await counted(node, "streams", 2)
        with pytest.raises(RefusedError) as caught:
            await node.publish("live/a", places[1])
        assert caught.value.code == "NetStream.Publish.BadName"  # is not one more
        await node.leave(first)
        third = await node.publish_again("live/c", session=0)
        assert second.alive and third.alive


async def test_viewers_of_one_stream(tmp_path: Path, clip: Path) -> None:
    settings = ("limits.max_viewers_per_stream=3", "hls.fragment=1")
    async with (
        real_node(tmp_path, *settings, workers=0) as node, aiohttp.ClientSession() as http, filmed(node, "live/a", clip)
    ):
        base = f"http://127.0.0.1:{node.ports['http']}"
        first, second = await http.get(f"{base}/live/a.flv"), await Client.connect(node.rtmp("live/a"))
        messages = second.play()
        await anext(messages)
        player = {"User-Agent": "third"}
        assert first.status == await status(http, node, "/live/a.m3u8", **player) == 200

        async with await Client.connect(node.rtmp("live/a")) as extra:
            with pytest.raises(RefusedError, match="as many viewers") as caught:
                await anext(extra.play())
            assert caught.value.code == "NetStream.Play.Failed"
        for path in ("/live/a.flv", "/live/a.m3u8"):
            assert await status(http, node, path) == 503
        await counted(node, "viewers", 3)
        # Who is in stays, and other streams have room.
        assert await status(http, node, "/live/a.m3u8", **player) == 200
        async with filmed(node, "live/b", clip), http.get(f"{base}/live/b.flv") as other:
            assert other.status == 200
        await messages.aclose()  # type: ignore[attr-defined]
        await second.close()

        async def room() -> bool:
            return await status(http, node, "/live/a.flv") == 200

        await eventually(room)


async def test_viewers_of_one_stream_at_several_workers(tmp_path: Path) -> None:
    """They know of each other's a moment later."""
    async with real_node(tmp_path, "limits.max_viewers_per_stream=3", workers=2) as node:
        await node.publish("live/a", 0)
        first = await node.play("live/a", 0)
        for viewer in (first, await node.play("live/a", 1), await node.play("live/a", 1)):
            await viewer.until(len)

        async def full(worker: int) -> bool:
            client, _ = await node.connect("live/a", worker)
            async with client:
                try:
                    await anext(client.play())
                except RefusedError as refusal:
                    assert "as many viewers" in str(refusal)
                    return True
            return False

        for worker in (0, 1):
            await eventually(lambda worker=worker: full(worker))
        await node.leave(first)

        async def room() -> bool:
            return not await full(1)

        await eventually(room)


@WORKERS
async def test_bit_rate_of_a_publisher(tmp_path: Path, workers: int) -> None:
    async with real_node(tmp_path, "limits.max_publish_kbps=1500", workers=workers) as node:
        modest = await node.publish("live/modest", size=4000)  # 800 kbit/s
        greedy = await node.publish("live/greedy", size=150_000)  # 30 Mbit/s: ten seconds' worth in half a second
        await greedy.lost()
        assert isinstance(greedy.error, RefusedError) and greedy.error.code == "NetStream.Publish.Denied"
        assert "higher than 1500 kbit/s" in str(greedy.error)
        await counted(node, "bit_rate", 1)
        assert modest.alive
        [event] = node.events("refused")
        assert event["name"] == "live/greedy" and event["why"] == "bit_rate"


@contextlib.asynccontextmanager
async def knocking(port: int, number: int) -> AsyncIterator[list[socket.socket]]:
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
    try:
        for each in sockets:
            each.setblocking(False)
        yield sockets
    finally:
        for each in sockets:
            each.close()


def gone(sock: socket.socket) -> bool:
    try:
        return sock.recv(4096) == b""  # after the answer that says why, by HTTP
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
async def test_connections_that_ask_by_http(tmp_path: Path, limit: str) -> None:
    """Counted as those by RTMP are; with workers see ``test_shortage``."""
    async with real_node(tmp_path, f"limits.max_{limit}=4", workers=0) as node:
        async with knocking(node.ports["http"], 7) as sockets:
            await eventually(lambda: sum(map(gone, sockets)) == 3)
            with pytest.raises((OSError, RefusedError)):
                await node.connect("live/a")
            await counted(node, limit, 4)

        async def room() -> bool:
            try:
                await node.publish("live/a")
            except OSError:
                return False
            return True

        await eventually(room)
        # A connection becomes a viewer: it is still one.
        viewers = [await node.play_flv("live/a", None) for _ in range(3)]  # type: ignore[arg-type]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > 1)
        with socket.create_connection(("127.0.0.1", node.ports["http"])) as extra:
            assert (await asyncio.to_thread(extra.recv, 4096)).startswith(b"HTTP/1.1 503 ")


@WORKERS
async def test_requests_to_the_api(tmp_path: Path, workers: int) -> None:
    async with real_node(tmp_path, "api.requests_per_minute=100", workers=workers) as node:
        answers = []
        for _ in range(110):
            async with node.http.get("/api/v1/version") as answer:
                answers.append(answer.status)
        assert set(answers) == {200, 429} and answers.count(429) >= 8
        async with node.http.get("/healthz") as answer:
            assert answer.status == 200


@WORKERS
async def test_names_of_the_viewers_server(tmp_path: Path, workers: int) -> None:
    async with real_node(
        tmp_path, "http.hosts=live.example.org,*.cdn.example.org", workers=workers
    ) as node, aiohttp.ClientSession() as http:
        await node.publish("live/a")
        for host in ("live.example.org", "a.cdn.example.org:8080", "127.0.0.1"):
            assert await status(http, node, "/", Host=host) == 200
        for path in ("/", "/live/a.flv", "/live/a.m3u8", "/live/a/1.ts", "/_page/app.js", "/_page/streams.json"):
            assert await status(http, node, path, Host="evil.example.org") == 421
        await counted(node, "host", 6)


@pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed")
@WORKERS
async def test_a_prefix_behind_a_proxy(tmp_path: Path, clip: Path, workers: int) -> None:
    """The page, both kinds of streams, what a playlist names, and where one is sent."""
    (tmp_path / "nginx").mkdir()
    async with (
        real_node(tmp_path / "node", "http.prefix=/video", "hls.fragment=1", workers=workers) as node,
        nginx(tmp_path / "nginx", node.ports["http"], "1.1", "/video", keep=True) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        filmed(node, "live/a", clip),
    ):
        async with http.get("/video?player=flv", allow_redirects=False) as answer:
            assert answer.status == 308 and answer.headers["Location"] == "/video/?player=flv"
        async with http.get("/video/") as answer:
            page = await answer.text()
            assert answer.status == 200 and '"/_page' not in page
        for path in ("/video/_page/app.js", "/video/_page/vendor/mpegts.js", "/video/_page/streams.json"):
            async with http.get(path) as answer:
                assert answer.status == 200
        async with http.get("/video/live/a.flv") as answer:
            assert answer.status == 200 and await answer.content.readexactly(3) == b"FLV"
        async with http.get("/video/live/a.m3u8") as answer:
            lines = (await answer.text()).splitlines()
            [segment, *_] = [answer.url.join(aiohttp.client.URL(line)) for line in lines if not line.startswith("#")]
        assert segment.path.startswith("/video/live/a/")
        async with http.get(segment) as answer:
            assert answer.status == 200
        direct = f"http://127.0.0.1:{node.ports['http']}"
        for path in ("/", "/live/a.flv", "/videos/live/a.flv", "/_page/app.js", "/video//live/a.flv"):
            async with http.get(direct + path) as answer:
                assert answer.status in (400, 404)
        place = await node.get("/api/v1/place?stream=live/a&kind=play") if workers == 0 else None
        assert place is None or place["flv"] == f"{direct}/video/live/a.flv"


async def test_settings_follow_at_once(tmp_path: Path) -> None:
    """Limits may be set while the node runs."""
    file = tmp_path / "node.toml"
    file.write_text("[limits]\nmax_streams = 1\n")
    async with real_node(tmp_path / "node", config=file) as node:
        await node.publish("live/a")
        with pytest.raises(RefusedError):
            await node.publish("live/b")
        file.write_text("[limits]\nmax_streams = 2\nmax_publish_kbps = 20\n")
        assert (await node.order("POST", "/api/v1/reload"))[0] == 200
        publisher = await node.publish("live/b", size=20_000)
        await publisher.lost()
        await asyncio.sleep(0)
        assert isinstance(publisher.error, RefusedError)
