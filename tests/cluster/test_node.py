from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket

import pytest
from structlog.testing import capture_logs

from cluster import logs
from cluster.config import Config, ConfigError, Problem, load
from cluster.node import Node, StartError, raise_descriptor_limit
from pyrtmp.aio.client import Client

HERE = ["rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "api.listen=127.0.0.1:0"]


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
        async with asyncio.timeout(2):
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
        async with asyncio.timeout(2):
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


def test_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[str] = []
    monkeypatch.setattr(logs, "configure", lambda **settings: configured.append(settings["level"]))
    answers: list[Config | ConfigError] = [
        settings("log.level=debug", "egress.min_delay_ms=300", "hls.window=30"),
        ConfigError([Problem("node.toml:3", "hls.window", "should be a number")]),
    ]

    def reload() -> Config:
        answer = answers.pop(0)
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    node = Node(settings(), reload=reload)
    assert node.server.rounds.delay < 0.3
    with capture_logs() as events:
        node.reload()
        assert node.server.rounds.delay == 0.3
        node.reload()
    assert configured == ["debug"]
    assert [each["event"] for each in events] == ["reloaded", "reload_refused"]
    assert events[0]["needs_restart"] == "hls"
    assert events[1]["problem"] == "node.toml:3: hls.window: should be a number"


def test_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, hard), hard))
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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
