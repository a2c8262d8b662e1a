from __future__ import annotations

import asyncio
import os
import ssl
from time import monotonic

import pytest

from pyrtmp import Timeouts, amf
from pyrtmp.chunk import encode
from pyrtmp.message import Message
from tests.descriptors import descriptors
from tests.pyrtmp.aio.net import HELLO, SHORT, Net, eventually, frame, journal


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="h").do_handshake()
    return outgoing.read()


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "tls": client_hello(),
    "noise": os.urandom(5000),
    "chunks": HELLO + b"\x02\0\0\0\xff\xff\xff\x14\0\0\0\0" + bytes(2000),
    "amf": HELLO + b"".join(encode(Message(20, 0, 0, b"\x02\xff\xff"), 3)),
    "state": HELLO + b"".join(encode(Message(20, 0, 0, amf.encode0("play", 0, None, "cam")), 3)),
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_ends_the_connection_with_one_line(net: Net, kind: str) -> None:
    server = await net.server(timeouts=SHORT)
    publisher = await net.publisher(server)
    peer = await net.peer(server)
    await peer.send(GARBAGE[kind])
    await peer.until_closed(2)
    await publisher.write(frame(0, key=True))
    player = await net.player(server)
    await player.until(player.numbers)
    assert len(journal(server).bad()) == 1
    assert sum(server.counters.refused.values()) == 1


async def test_a_byte_at_a_time_is_as_good(net: Net) -> None:
    server = await net.server()
    peer = await net.peer(server)
    whole = HELLO + b"".join(encode(Message(20, 0, 0, amf.encode0("connect", 1, {"app": "live"})), 3, chunk_size=128))
    for index in range(len(whole)):
        await peer.send(whole[index : index + 1])
    await peer.until_code("NetConnection.Connect.Success")


@pytest.mark.parametrize("phase", ["accepted", "handshake", "connected", "waiting", "playing", "publishing"])
async def test_resets_in_every_phase_leave_nothing(net: Net, phase: str) -> None:
    server = await net.server()
    if phase == "playing":
        await net.publisher(server)
    before = len(server.clients), descriptors()
    for _ in range(10):
        peer = await net.peer(server)
        if phase == "handshake":
            await peer.send(HELLO[:2000])
        elif phase == "connected":
            await peer.connect()
        elif phase in ("waiting", "playing"):
            await peer.play()
        elif phase == "publishing":
            await peer.publish()
        peer.reset()
    await eventually(lambda: len(server.clients) == before[0])
    await eventually(lambda: descriptors() <= before[1] + 1)  # the log of the stream
    assert not journal(server).bad()


@pytest.mark.parametrize(
    "state, reason",
    [("accepted", "handshake_timeout"), ("handshake", "connect_timeout"), ("connected", "request_timeout"),
     ("publishing", "first_media_timeout"), ("published", "media_timeout")],
)
async def test_every_state_has_its_deadline(net: Net, state: str, reason: str) -> None:
    server = await net.server(timeouts=SHORT)
    peer = await net.peer(server)
    if state == "handshake":
        await peer.send(HELLO)
    elif state == "connected":
        await peer.connect()
    elif state == "publishing":
        await peer.connect()
        await peer.command("createStream", transaction=2)
        await peer.command("publish", "cam", "live", msid=1)
    elif state == "published":
        await peer.publish()
    await peer.until_closed()
    assert server.counters.refused == {reason: 1}
    assert len(journal(server).of("deadline")) == 1


async def test_500_silent_connections_do_not_disturb_a_stream(net: Net) -> None:
    stay = 3.0
    server = await net.server(timeouts=Timeouts(handshake=stay))
    publisher = await net.publisher(server)
    player = await net.player(server)
    memory = rss()
    gaps: list[float] = []

    async def watch() -> None:
        last = monotonic()
        for n in range(10_000):
            await publisher.write(frame(n, key=n % 25 == 0))
            await player.until(lambda n=n: player.numbers()[-1:] == [n])
            gaps.append(monotonic() - last)
            last = monotonic()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(watch())
    for _ in range(500):
        await net.peer(server)
    await eventually(lambda: len(server.clients) == 502)
    assert rss() - memory < 64 << 20
    await eventually(lambda: len(server.clients) == 2, 2 * stay)
    task.cancel()
    assert max(gaps) < stay / 2
    assert server.counters.refused["handshake_timeout"] == 500


@pytest.mark.parametrize("playing", [False, True])
async def test_pings_without_reading_the_answers(net: Net, playing: bool) -> None:
    server = await net.server()
    await net.publisher(server)
    if playing:
        peer = await net.player(server, receive_buffer=4096)
    else:
        peer = await net.peer(server, receive_buffer=4096)
        await peer.connect()
    pings = b"".join(encode(Message(4, 0, 0, b"\0\6\0\0\0\7"), 2)) * 10_000
    memory = rss()
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(40):
            while True:
                await peer.send(pings)
    await eventually(lambda: len(server.clients) == 1)
    assert rss() - memory < 64 << 20
    assert len(journal(server).of("viewer_lost", "flood")) == 1


async def test_create_stream_without_reading_the_answers(net: Net) -> None:
    server = await net.server()
    peer = await net.peer(server, receive_buffer=4096)
    await peer.connect()
    create = b"".join(encode(Message(20, 0, 0, amf.encode0("createStream", 2, None)), 3)) * 2000
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(40):
            while True:
                await peer.send(create)
    await eventually(lambda: not server.clients)
    assert server.counters.refused["flood"] == 1


async def test_a_bug_ends_one_connection(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyrtmp.stream import Stream

    server = await net.server()
    good = await net.publisher(server, "good")
    bad = await net.publisher(server, "bad")
    push = Stream.push

    def broken(self: Stream, message: Message) -> None:
        if self.key.name == "bad":
            raise ZeroDivisionError
        push(self, message)

    monkeypatch.setattr(Stream, "push", broken)
    await bad.write(frame(0))
    await bad.until_closed()
    player = await net.player(server, "good")
    await good.write(frame(0, key=True))
    await player.until(player.numbers)
    assert len(journal(server).of("internal_error")) == 1


async def test_a_bug_in_one_viewer_does_not_end_the_round(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyrtmp.aio.viewers import TransportViewer

    server = await net.server()
    publisher = await net.publisher(server)
    bad = await net.player(server, msid=2)
    good = await net.player(server)

    def broken(self: TransportViewer, now: float) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(TransportViewer, "serve", broken)
    await publisher.write(frame(0, key=True))
    await good.until(good.numbers)
    await bad.until_closed()
