"""``pyrtmp.aio.listener``: accepting on real sockets, also when descriptors run out."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from pyrtmp.aio.listener import Listener, bind
from pyrtmp.counters import Counters
from tests.descriptors import descriptors, no_descriptors
from tests.pyrtmp.aio.net import Journal, eventually


class Subject:
    """A listener on a free port, and who came."""

    def __init__(self) -> None:
        (sock,) = bind("127.0.0.1", 0)
        self.counters = Counters()
        self.journal = Journal()
        self.accepted: list[socket.socket] = []
        self.addresses: list[str] = []
        self.clients: list[socket.socket] = []
        self.listener = Listener(sock, self._accept, self.counters, self.journal)

    def _accept(self, sock: socket.socket, address: str) -> None:
        self.accepted.append(sock)
        self.addresses.append(address)

    def client(self) -> socket.socket:
        """Connecting over loopback succeeds before anybody accepts."""
        sock = socket.create_connection(self.listener.address)
        self.clients.append(sock)
        return sock

    def close(self) -> None:
        self.listener.close()
        for sock in (*self.clients, *self.accepted):
            sock.close()


@pytest.fixture
async def subject() -> AsyncIterator[Subject]:
    subject = Subject()
    yield subject
    subject.close()


async def test_connections_are_handed_on_with_their_address(subject: Subject) -> None:
    client = subject.client()
    await eventually(lambda: subject.accepted)
    assert subject.addresses == ["127.0.0.1"]
    (sock,) = subject.accepted
    assert not sock.getblocking()
    assert sock.getpeername() == client.getsockname()
    assert sock.getsockname() == subject.listener.address


async def test_a_burst_is_taken_in_pieces_so_that_others_get_their_turn(subject: Subject) -> None:
    for _ in range(200):
        subject.client()
    turns: list[int] = []
    while len(subject.accepted) < 200:
        await asyncio.sleep(0)
        turns.append(len(subject.accepted))
    assert max(after - before for before, after in zip([0, *turns], turns, strict=False)) == 64


async def test_nobody_is_accepted_after_close(subject: Subject) -> None:
    before = descriptors() if sys.platform == "linux" else 0
    other = Subject()
    client = other.client()
    other.listener.close()
    with pytest.raises(OSError):
        socket.create_connection(other.listener.address)
    client.close()
    assert not other.accepted
    if sys.platform == "linux":
        assert descriptors() == before


async def test_without_descriptors_clients_are_turned_away_and_later_ones_let_in(subject: Subject) -> None:
    crowd = [subject.client() for _ in range(5)]
    with no_descriptors():
        await eventually(lambda: subject.counters.refused["descriptors"] == 5)
        for sock in crowd:
            sock.settimeout(5)
            assert sock.recv(1) == b""
        assert not subject.accepted
    assert [line[1] for line in subject.journal.lines] == ["out_of_descriptors"]
    subject.client()
    await eventually(lambda: subject.accepted)
    # Another time is another line.
    subject.client()
    with no_descriptors():
        await eventually(lambda: subject.counters.refused["descriptors"] == 6)
    assert len(subject.journal.bad()) == 2


async def test_bind_listens_on_every_address_and_leaves_nothing_when_one_is_taken() -> None:
    sockets = bind("localhost", 0)
    assert sockets and all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in sockets)
    assert not any(sock.getblocking() for sock in sockets)
    port = sockets[0].getsockname()[1]
    before = descriptors() if sys.platform == "linux" else 0
    with pytest.raises(OSError):
        bind("127.0.0.1" if sockets[0].family == socket.AF_INET else "::1", port)
    if sys.platform == "linux":
        assert descriptors() == before
    for sock in sockets:
        sock.close()


async def test_bind_takes_an_empty_host_for_all_addresses() -> None:
    sockets = bind("", 0)
    hosts = {sock.getsockname()[0] for sock in sockets}
    assert hosts <= {"0.0.0.0", "::"} and "0.0.0.0" in hosts
    for sock in sockets:
        sock.close()


async def test_bind_tells_of_a_host_that_is_none() -> None:
    with pytest.raises(OSError):
        bind("999.0.0.1", 0)
