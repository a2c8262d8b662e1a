from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket

import aiohttp
import pytest
from structlog.testing import capture_logs

from cluster.config import Config, ConfigError, Problem, load
from cluster.node import Node
from cluster.opening import StartError
from pyrtmp.aio.client import Client

HERE = ["rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "api.listen=127.0.0.1:0", "node.workers=0"]


def settings(*more: str) -> Config:
    return load(None, [*HERE, *more], {})


async def test_start_run_drain_close() -> None:
    node = Node(settings())
    node.obey_signals()
    await node.start()
    running = asyncio.create_task(node.run())
    assert node.ready()
    assert gc.get_freeze_count() > 0
    for address in (node.rtmp_address, node.http_address, node.api_address):
        assert address.port != 0
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.close()
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        await running
    await node.drain()
    assert not node.ready()
    for address in (node.rtmp_address, node.http_address):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address.host, address.port or 1)
    await node.close()
    await node.close()  # in any state


async def test_a_node_that_never_started_closes() -> None:
    await Node(settings()).close()


async def test_viewers_and_publishers_are_let_go(node: Node, live: str) -> None:
    async with await Client.connect(live) as viewer:
        messages = viewer.play()
        await anext(messages)
        await node.drain()
        assert not node.server.clients
        async with asyncio.timeout(5):  # the stream ends, by its status or with the connection
            try:
                async for _ in messages:
                    pass
            except ConnectionError:
                pass


async def test_draining_has_an_end() -> None:
    node = Node(settings("node.drain_seconds=0.2"))
    await node.start()
    try:
        node.server.close = asyncio.Event().wait  # type: ignore[assignment]
        async with asyncio.timeout(10):
            with capture_logs() as events:
                await node.drain()
        assert "drain_cut_short" in [each["event"] for each in events]
    finally:
        del node.server.close  # type: ignore[misc]
        await node.close()


async def test_a_second_signal_is_now() -> None:
    node = Node(settings("node.drain_seconds=600"))
    await node.start()
    try:
        node.server.close = asyncio.Event().wait  # type: ignore[assignment]
        node.stop("SIGTERM")
        draining = asyncio.create_task(node.drain())
        await asyncio.sleep(0.05)
        assert not draining.done()
        node.stop("SIGTERM")
        async with asyncio.timeout(10):
            await draining
    finally:
        del node.server.close  # type: ignore[misc]
        await node.close()


@pytest.mark.parametrize("setting", ["rtmp.listen", "http.listen", "api.listen"])
async def test_a_port_that_is_in_use(setting: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        node = Node(settings(f"{setting}={address}"))
        with pytest.raises(StartError, match=rf"^{setting} = {address} cannot be opened: another program"):
            await node.start()
        await node.close()


async def test_an_address_of_another_machine() -> None:
    node = Node(settings("rtmp.listen=192.0.2.1:1935"))
    with pytest.raises(StartError, match="this machine does not have that address"):
        await node.start()
    await node.close()


async def test_reload() -> None:
    answers: list[Config | ConfigError] = [
        settings("egress.min_delay_ms=300", "api.token=s3cret", "node.drain_seconds=3", "node.id=other"),
        ConfigError([Problem("node.toml:3", "hls.window", "should be a number")]),
    ]

    def read() -> Config:
        answer = answers.pop(0)
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    node = Node(settings(), reload=read)
    await node.start()
    try:
        async with aiohttp.ClientSession(f"http://{node.api_address}") as http:

            async def version(**headers: str) -> int:
                async with http.get("/api/v1/version", headers=headers) as response:
                    return response.status

            assert await version() == 200
            done = node.reload()
            assert done.changed == ("node.drain_seconds", "api.token", "egress.min_delay_ms")
            assert done.needs_restart == ("node.id",)
            assert node.server.rounds.delay == 0.3
            assert await version() == 401
            assert await version(Authorization="Bearer s3cret") == 200
            assert node.reload().problems == ("node.toml:3: hls.window: should be a number",)
            assert node.server.rounds.delay == 0.3
    finally:
        await node.close()


async def test_hangup_reloads() -> None:
    read = asyncio.Event()

    def settings_again() -> Config:
        read.set()
        return settings()

    node = Node(settings(), reload=settings_again)
    node.obey_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    async with asyncio.timeout(5):
        await read.wait()
    await node.close()


async def test_the_demo_is_an_ordinary_publisher() -> None:
    node = Node(settings(), demo=True)
    await node.start()
    try:
        async with asyncio.timeout(20):
            while not (streams := node.server.hub.live()) or streams[0].key_frames < 2:
                await asyncio.sleep(0.02)
        facts = node.facts.stream("live", "demo")
        assert facts is not None and facts.video is not None and facts.audio is not None
        assert facts.gop_ms == 1000
        assert (facts.video.codec, facts.audio.codec) == ("h264", "aac")
    finally:
        await node.close()
    assert node.server.hub.live() == []
