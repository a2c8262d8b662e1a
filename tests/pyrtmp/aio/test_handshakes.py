"""``pyrtmp.aio.handshakes``, and what a handshake counts for while it goes on."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest

from pyrtmp.aio.handshakes import Handshakes
from pyrtmp.counters import Counters
from tests.pyrtmp.aio.net import Journal, eventually
from tests.pyrtmp.aio.test_server import tls as tls  # a fixture: contexts of a server and of its clients

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


class Bench:
    """Handshakes with clients at the other end of socket pairs."""

    def __init__(self, tls: Contexts, seconds: float = 5.0) -> None:
        self.counters, self.journal = Counters(), Journal()
        self.handshakes = Handshakes(lambda: seconds, self.counters, self.journal)
        self.failed = 0
        self._tls = tls

    def client(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        self.handshakes.begin(
            theirs, self._tls[0], asyncio.Protocol, failed=self._count, address="192.0.2.1"
        )
        return ours

    def _count(self) -> None:
        self.failed += 1


async def test_a_handshake_that_ends_well(tls: Contexts) -> None:
    bench = Bench(tls)
    sock = bench.client()
    assert len(bench.handshakes) == 1
    _, writer = await asyncio.open_connection(sock=sock, ssl=tls[1], server_hostname="127.0.0.1")
    await eventually(lambda: not len(bench.handshakes))
    assert not bench.counters.refused
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x40\x00" + bytes(100), b""])
async def test_what_is_none(tls: Contexts, words: bytes) -> None:
    bench = Bench(tls, seconds=0.1)
    sock = bench.client()
    sock.sendall(words)
    await eventually(lambda: bench.counters.refused["tls"] == 1)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        while await loop.sock_recv(sock, 100):  # an alert, then the end
            pass
    assert not len(bench.handshakes)
    sock.close()


async def test_they_are_broken_off(tls: Contexts) -> None:
    bench = Bench(tls)
    sock = bench.client()
    await asyncio.sleep(0)
    bench.handshakes.close()
    async with asyncio.timeout(5):
        assert await asyncio.get_running_loop().sock_recv(sock, 100) == b""
    assert not bench.counters.refused
    sock.close()
