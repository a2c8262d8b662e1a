from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from cluster.config import load
from cluster.engine import VERSION, Engine
from pyrtmp.aio.client import Client
from pyrtmp.message import VIDEO, Message
from tests.pyrtmp.aio.net import eventually

HERE = ("rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "node.workers=0")

KEY_FRAME = Message(VIDEO, 0, 1, b"\x17\x01\x00\x00\x00" + bytes(100))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """An engine that listens for RTMP, as worker 3."""
    engine = Engine(load(None, HERE, {}), worker=3, rtmp_port=1936)
    engine.start()
    await engine.server.start("127.0.0.1", 0)
    yield engine
    await engine.close()


def url(engine: Engine, name: str = "live/cam") -> str:
    return f"rtmp://127.0.0.1:{engine.server.addresses[0][1]}/{name}"


async def test_it_opens_nothing_by_itself() -> None:
    engine = Engine(load(None, HERE, {}))
    engine.start()
    assert engine.server.addresses == [] and engine.site.addresses == []
    await engine.close()
    await engine.close()  # in any state


async def test_one_that_never_started_closes() -> None:
    engine = Engine(load(None, HERE, {}))
    assert engine.numbers().worker == -1
    await engine.drain(1.0, asyncio.Event())
    await engine.close()


async def test_it_counts_and_gives_orders(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.engine._FRESH_SECONDS", 0.0)
    async with await Client.connect(url(engine)) as publisher, await Client.connect(url(engine)) as viewer:
        await publisher.publish()
        await publisher.send(KEY_FRAME)
        messages = viewer.play()
        await anext(messages)
        engine.sample()
        numbers = engine.numbers(ipc=(5, 6))
        assert (numbers.worker, numbers.ipc_bytes_in, numbers.ipc_bytes_out) == (3, 5, 6)
        assert numbers.now.clients == {"rtmp": {"publish": 1, "play": 1}}
        assert (numbers.now.held, numbers.viewers["rtmp"]) == (1, 1)
        assert engine.facts.streams()[0].worker == engine.facts.clients()[0].worker == 3

        assert not engine.kick_client("nobody") and not engine.end_stream("live", "none")
        [player] = [client for client in engine.server.clients.values() if client.role == "play"]
        assert engine.kick_client(player.id)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                async for _ in messages:
                    pass
        assert engine.end_stream("live", "cam")
        assert engine.server.hub.live() == []


async def test_samples_are_shared_by_those_who_ask_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.engine._FRESH_SECONDS", 3600.0)
    first = engine.numbers()
    engine.sample()
    assert engine.numbers() == first
    monkeypatch.setattr("cluster.engine._FRESH_SECONDS", 0.0)
    engine.sample()
    assert engine.numbers().cpu_seconds >= first.cpu_seconds and engine.numbers() != first


async def test_the_page_lists_what_it_is_given() -> None:
    async def streams() -> list[dict[str, Any]]:
        return [{"app": "live", "name": "elsewhere"}]

    for given, expected in ((streams, [{"app": "live", "name": "elsewhere"}]), (None, [])):
        engine = Engine(load(None, HERE, {}), rtmp_port=1936, streams=given)
        engine.rtmp_port = 1937
        engine.start()
        await engine.site.start("127.0.0.1", 0)
        address = "http://{}:{}".format(*engine.site.addresses[0])
        async with aiohttp.ClientSession() as http, http.get(f"{address}/_page/streams.json") as response:
            page = await response.json()
        await engine.close()
        assert page == {"streams": expected, "rtmp_port": 1937, "rtmps_port": 0, "version": VERSION}


async def test_other_settings(engine: Engine) -> None:
    config = load(
        None,
        [
            *HERE, "egress.min_delay_ms=200", "timeouts.write_stall=3", "limits.max_name_bytes=20",
            "limits.max_connections=1", "stream.play_wait_seconds=2", "http.cors_origins=https://a.org",
            "http.trust_forwarded_from=192.0.2.1", "rtmp.proxy_from=192.0.2.0/24",
        ],
        {},
    )  # fmt: skip
    engine.configure(config)
    server = engine.server
    assert engine.config is config
    assert server.rounds.delay == 0.2
    assert (server.timeouts.write_stall, server.limits.max_name_bytes) == (3, 20)
    assert server.hub.settings.play_wait_seconds == 2
    await engine.site.start("127.0.0.1", 0)
    address = "http://{}:{}".format(*engine.site.addresses[0])
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{address}/", headers={"Origin": "https://a.org"}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://a.org"
        async with http.get(f"{address}/", headers={"Origin": "https://b.org"}) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
    async with await Client.connect(url(engine)):
        assert not server.may_accept("127.0.0.1")


async def test_where_streams_go(engine: Engine) -> None:
    """By application, and where a back end says; other settings count at once."""
    asked: list[dict[str, Any]] = []

    async def on_forward(request: web.BaseRequest) -> web.Response:
        asked.append(await request.json())
        return web.json_response({"code": 0, "data": {"urls": [f"{url(other, request.path[1:])}"]}})

    other = Engine(load(None, [*HERE, "node.id=other"], {}))
    other.start()
    await other.server.start("127.0.0.1", 0)
    site = web.Server(on_forward)
    listener = await asyncio.get_running_loop().create_server(site, "127.0.0.1", 0)
    backend = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"

    def configure(*settings: str) -> None:
        engine.configure(load(None, [*HERE, *settings], {}))

    async def goes_to(*keys: str) -> None:
        # The other side has it a moment before its answer is here.
        await eventually(
            lambda: {str(stream.key) for stream in other.server.hub.live()} == set(keys)
            and [(each.stream, each.state) for each in engine.forwards()] == [("live/cam", "live")] * len(keys)
        )

    async with await Client.connect(url(engine)) as publisher:
        await publisher.publish()
        by_app = json.dumps({"live": [url(other, "{app}/by-app")], "games": [url(other, "games/{name}")]})
        configure(f"forward.apps={by_app}", "forward.to=127.0.0.1:1")
        await goes_to("live/by-app")
        configure(f"forward.apps={by_app}", f"forward.ask_url={backend}/live/one")
        await goes_to("live/by-app", "live/one")
        configure(f"forward.ask_url={backend}/live/one", "hls.window=30")  # not asked again
        await goes_to("live/one")
        configure(f"forward.ask_url={backend}/live/two")
        await goes_to("live/two")
        configure()
        await goes_to()
    assert [(each["stream"], each["server_id"]) for each in asked] == [("cam", engine.config.node.id)] * 2
    listener.close()
    await site.shutdown(0.1)  # connections to it are kept
    await other.close()


async def test_draining_lets_everybody_go(engine: Engine) -> None:
    async with await Client.connect(url(engine)) as publisher:
        await publisher.publish()
        with capture_logs() as events:
            await engine.drain(10.0, asyncio.Event())
    assert [each["event"] for each in events if each["event"] in ("draining", "ended")] == ["draining", "ended"]
    assert not engine.server.clients and not engine.server.addresses


@pytest.mark.parametrize(("seconds", "impatient"), [(0.05, False), (600.0, True)])
async def test_draining_has_an_end(seconds: float, impatient: bool, engine: Engine) -> None:
    engine.server.close = asyncio.Event().wait  # type: ignore[assignment]
    cut = asyncio.Event()
    if impatient:
        cut.set()
    try:
        async with asyncio.timeout(5):
            with capture_logs() as events:
                await engine.drain(seconds, cut)
    finally:
        del engine.server.close  # type: ignore[misc]
    assert "drain_cut_short" in [each["event"] for each in events]
