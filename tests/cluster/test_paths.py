from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cluster.paths import LOOKS, Paths
from pyrtmp import Client, Message
from pyrtmp.aio.server import Server
from pyrtmp.message import AUDIO
from pyrtmp.tcpinfo import TcpInfo


class Fake:
    """A client whose kernel says what a test wants."""

    def __init__(self, info: TcpInfo | None = None, *, protocol: str = "flv", role: str = "play") -> None:
        self.protocol = protocol
        self.role = role
        self.info = info
        self.looks = 0

    def path(self) -> TcpInfo | None:
        self.looks += 1
        return self.info


def test_everybody_has_a_turn() -> None:
    clients = {str(number): Fake(TcpInfo(0.01, 0, 10, 0)) for number in range(2 * LOOKS + 7)}
    paths = Paths(clients)
    for _ in range(3):
        paths.sample()
    assert {client.looks for client in clients.values()} == {1}
    assert paths.round_trips["flv"].total == len(clients)
    paths.sample()
    assert sum(client.looks for client in clients.values()) == len(clients) + LOOKS


def test_what_was_sent_again_since_the_last_look() -> None:
    client = Fake(TcpInfo(0.03, 0, 100, 1))
    paths = Paths({"one": client})
    paths.sample()
    assert paths.resent["flv"].sum == pytest.approx(0.01)
    client.info = TcpInfo(0.03, 0, 200, 21)
    paths.sample()
    assert paths.resent["flv"].sum == pytest.approx(0.01 + 0.2)
    paths.sample()  # nothing was sent
    assert paths.resent["flv"].total == 2 and paths.round_trips["flv"].total == 3


def test_counters_of_the_kernel_wrap() -> None:
    client = Fake(TcpInfo(0.03, 0, 2**32 - 50, 2**32 - 5))
    paths = Paths({"one": client})
    paths.sample()
    before = paths.resent["flv"].sum
    client.info = TcpInfo(0.03, 0, 50, 5)
    paths.sample()
    assert paths.resent["flv"].sum - before == pytest.approx(0.1)


def test_who_has_left_is_forgotten() -> None:
    clients = {"one": Fake(TcpInfo(0.03, 0, 100, 1)), "two": Fake(TcpInfo(0.03, 0, 100, 1))}
    paths = Paths(clients)
    paths.sample()
    del clients["one"]
    paths.sample()
    clients["one"] = Fake(TcpInfo(0.03, 0, 10, 0))  # another, by chance of the same id
    before = paths.resent["flv"].sum
    paths.sample()
    assert paths.resent["flv"].sum == before


def test_only_publishers_and_viewers_count() -> None:
    silent = Fake(None)
    paths = Paths({
        "idle": Fake(TcpInfo(1, 0, 1, 1), protocol="rtmp", role="idle"), "silent": silent,
        "publisher": Fake(TcpInfo(0.2, 0, 5, 5), protocol="rtmp", role="publish"),
        "fresh": Fake(TcpInfo(0.0, 0, 0, 0), protocol="rtmp"),
    })  # fmt: skip
    paths.sample()
    assert list(paths.round_trips) == ["publish"] and not paths.resent and silent.looks == 1


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start("127.0.0.1", 0)
    yield server
    await server.close()


async def test_real_sockets(server: Server) -> None:
    host, port = server.addresses[0]
    url = f"rtmp://{host}:{port}/live/cam"
    async with await Client.connect(url) as publisher, await Client.connect(url) as player:
        await publisher.publish()
        await publisher.send(Message(AUDIO, 0, 1, b"\x2f" + bytes(2000)))
        async with asyncio.timeout(5):
            async for _ in player.play():
                break
        paths = Paths(server.clients)
        paths.sample()
        assert paths.round_trips["publish"].total == paths.round_trips["rtmp"].total == 1
        assert 0 < paths.round_trips["rtmp"].sum < 1
        assert paths.resent["rtmp"].counts[0] == 1
