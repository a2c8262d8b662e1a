from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pyrtmp import Client, EgressSettings, Limits, Server, StreamSettings, Timeouts
from tests.descriptors import descriptors
from tests.pyrtmp.aio.net import HELLO, Journal, Net, eventually, frame, journal


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)


async def test_limit_of_connections(net: Net) -> None:
    server = await net.server(max_connections=3)
    peers = [await net.peer(server) for _ in range(3)]
    await eventually(lambda: len(server.clients) == 3)
    one_more = await net.peer(server)
    await one_more.until_closed()
    assert server.counters.refused == {"connections": 1}
    assert len(journal(server).bad()) == 1
    peers[0].reset()
    await eventually(lambda: len(server.clients) == 2)
    await (await net.peer(server)).connect()


async def test_limit_of_connections_per_address(net: Net) -> None:
    server = await net.server(max_connections_per_address=2)
    for _ in range(2):
        await (await net.peer(server)).connect()
    third = await net.peer(server)
    await third.until_closed()
    assert server.counters.refused == {"connections_per_address": 1}
    other = await net.peer(server)
    other.sock.close()
    other.sock = socket.socket()
    other.sock.setblocking(False)
    other.sock.bind(("127.0.0.2", 0))
    await asyncio.get_running_loop().sock_connect(other.sock, server.addresses[0])
    await other.connect()


async def test_close_ends_everything_and_leaves_nothing(net: Net) -> None:
    await (await net.publisher(await net.server())).command("deleteStream", 1.0)
    await net.servers[0].close()
    before = descriptors()  # those of the loop are open by now
    server = await net.server()
    publisher = await net.publisher(server)
    player = await net.player(server)
    slow = await net.player(server, receive_buffer=4096)
    waiting = await net.peer(server)
    await waiting.play("other")
    idle = await net.peer(server)
    await publisher.write(*(frame(n, 60000, key=n == 0) for n in range(100)))
    await player.until(lambda: len(player.numbers()) == 100)
    await asyncio.wait_for(server.close(), 5)
    await player.until_closed()
    assert player.codes()[-1] == "NetStream.Play.Stop"
    await waiting.until_closed()
    assert waiting.codes()[-1] == "NetStream.Play.StreamNotFound"
    for peer in (publisher, slow, idle):
        await peer.until_closed()
    for peer in net.peers:
        peer.sock.close()
    await eventually(lambda: descriptors() <= before)
    gc.collect()
    await server.close()  # again


async def test_one_that_does_not_read_does_not_keep_a_closing_connection(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    await net.player(server, receive_buffer=4096)
    await publisher.write(*(frame(n, 60000, key=n == 0) for n in range(150)))
    (lane,) = server.hub.live()[0].lanes.values()
    (viewer,) = lane.viewers
    await eventually(lambda: viewer.segment is not None and not viewer.ready)
    client = next(client for client in server.clients.values() if client.role == "play")
    client.kick()
    assert not lane.viewers
    await eventually(lambda: len(server.clients) == 1, 4)


async def test_start_tells_that_the_port_is_taken(net: Net) -> None:
    server = await net.server()
    other = Server()
    with pytest.raises(OSError):
        await other.start(*server.addresses[0])
    await other.close()


async def test_listens_on_all_addresses(net: Net) -> None:
    server = Server()
    await server.start("", 0)
    net.servers.append(server)
    assert any(":" in host for host, _ in server.addresses) or len(server.addresses) == 1


async def test_rtmps_is_byte_exact(net: Net, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server = await net.server(tls=tls[0])
    url = f"rtmps://127.0.0.1:{server.addresses[0][1]}/live/cam"
    sent = [frame(n, 30000, key=n % 20 == 0) for n in range(60)]
    async with await Client.connect(url, tls=tls[1]) as publisher, await Client.connect(url, tls=tls[1]) as player:
        await publisher.publish()
        await publisher.send(sent[0])
        got = []
        async for message in player.play():
            got.append(message)
            if len(got) == len(sent):
                break
            if len(got) == 1:
                for later in sent[1:]:
                    await publisher.send(later)
    assert [m.payload for m in got] == [m.payload for m in sent]


async def test_a_tls_handshake_has_a_deadline_and_counts_as_a_connection(
    net: Net, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server = await net.server(tls=tls[0], timeouts=Timeouts(handshake=0.3), max_connections=2)
    silent, plain = await net.peer(server), await net.peer(server)
    await eventually(lambda: len(server.clients) == 2)
    await (await net.peer(server)).until_closed()
    await plain.send(HELLO)
    plain._skip = 10_000  # a TLS alert is no handshake
    await plain.until_closed()
    await silent.until_closed()
    await eventually(lambda: not server.clients)
    assert server.counters.refused == {"tls": 2, "connections": 1}


async def test_close_in_a_tls_handshake(net: Net, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server = await net.server(tls=tls[0])
    silent = await net.peer(server)
    await eventually(lambda: len(server.clients) == 1)
    await server.close()
    await silent.until_closed()


SERVER_WITH_FEW_DESCRIPTORS = """
    import asyncio, json, resource, sys, time
    import uvloop
    from pyrtmp import Server
    from tests.pyrtmp.aio.net import Journal

    async def main():
        journal = Journal()
        server = Server(journal=journal)
        await server.start("127.0.0.1", 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        print(server.addresses[0][1], flush=True)
        loop = asyncio.get_running_loop()
        for _ in range(3):  # a line in, the facts so far out
            await loop.run_in_executor(None, sys.stdin.readline)
            print(json.dumps({
                "cpu": time.process_time(), "clients": len(server.clients),
                "refused": server.counters.refused["descriptors"], "lines": len(journal.of("out_of_descriptors")),
            }), flush=True)
        await server.close()

    (uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_out_of_descriptors_neither_spins_nor_stops_accepting(loop: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", textwrap.dedent(SERVER_WITH_FEW_DESCRIPTORS), loop,
        cwd=Path(__file__).parents[3], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def facts() -> dict[str, float]:
        stdin.write(b"\n")
        return cast(dict[str, float], json.loads(await asyncio.wait_for(stdout.readline(), 10)))

    net = Net()
    try:
        port = int(await asyncio.wait_for(stdout.readline(), 20))
        server = cast(Server, SimpleNamespace(addresses=[("127.0.0.1", port)]))
        publisher = await net.publisher(server)
        player = await net.player(server)
        crowd = [await net.peer(server) for _ in range(150)]
        before, started = await facts(), time.monotonic()
        assert before["refused"] > 50
        assert before["clients"] < 60
        # Out of descriptors the picture goes on, and nobody spins.
        for n in range(20):
            await publisher.write(frame(n, key=n == 0))
            await player.until(lambda n=n: player.numbers()[-1:] == [n])
        await asyncio.sleep(1.0)  # the span over which CPU time is taken
        after = await facts()
        assert (after["cpu"] - before["cpu"]) / (time.monotonic() - started) < 0.2
        assert after["lines"] <= 5
        # With room again newcomers come in.
        for peer in crowd:
            peer.sock.close()
            net.peers.remove(peer)
        await connected_again(net, server)
        await facts()
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        await net.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def connected_again(net: Net, server: Server) -> None:
    """Connect as soon as the server has noticed that others left; at most 50 tries."""
    for _ in range(50):
        peer = await net.peer(server)
        try:
            await peer.connect()
            return
        except (OSError, AssertionError):
            net.peers.remove(peer)
            peer.sock.close()
    raise AssertionError("nobody was let in")


# Where another process listens


async def test_open_is_enough_to_serve_sockets_from_elsewhere(net: Net) -> None:
    """Deadlines are looked at though nothing here listens."""
    other = await net.server()
    server = Server(timeouts=Timeouts(handshake=0.2), tick=0.02, journal=Journal())
    net.servers.append(server)
    server.open()
    server.open()
    assert server.addresses == []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = cast(Server, SimpleNamespace(addresses=[listening.getsockname()]))
        publisher, silent = await net.peer(there), await net.peer(there)
        for address in ("192.0.2.7", "192.0.2.8"):
            sock, _ = listening.accept()
            sock.setblocking(False)
            server.accept(sock, address, None)
    await publisher.publish()
    await silent.until_closed()
    assert server.counters.refused == {"handshake_timeout": 1}
    (client,) = server.clients.values()
    assert (client.address, client.role) == ("192.0.2.7", "publish")
    assert not len(other.hub)


async def test_other_settings_count_for_what_comes_and_timeouts_for_all(net: Net) -> None:
    server = await net.server()
    publisher, player = await net.watched(server)
    silent = await net.peer(server)
    await eventually(lambda: len(server.clients) == 3)
    before = server.hub.live()[0]
    server.configure(
        stream=StreamSettings(max_waiting=1), egress=EgressSettings(min_delay_ms=30), limits=Limits(max_name_bytes=20),
        timeouts=Timeouts(handshake=0.05), max_connections=4, max_connections_per_address=0,
        proxy_from=(),
    )
    await silent.until_closed()
    assert server.counters.refused["handshake_timeout"] == 1
    assert server.rounds.delay >= 0.03
    # Those who were here go on.
    await publisher.write(frame(1))
    await player.until(lambda: player.numbers() == [0, 1])
    assert server.hub.live() == [before]
    waiting = await net.peer(server)
    await waiting.play("a")
    await eventually(lambda: len(server.hub) == 2)
    late = await net.peer(server)
    await late.play("b")
    await late.until_code("NetStream.Play.StreamNotFound")
    await (await net.peer(server)).until_closed()
    assert server.counters.refused["connections"] == 1
    late.reset()
    await eventually(lambda: len(server.clients) == 3)
    long = await net.peer(server)
    await long.connect()
    await long.command("createStream", transaction=2)
    await long.command("play", "x" * 21, -2.0, msid=1)
    await long.until(lambda: len(long.codes()) > 1 or long.closed)
    assert long.codes()[-1] != "NetStream.Play.Start"
    # The stream that began before has the settings it began with.
    assert before._settings.max_waiting == StreamSettings().max_waiting
