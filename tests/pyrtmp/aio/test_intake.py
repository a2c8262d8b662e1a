from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from pyrtmp import EgressSettings
from pyrtmp.aio.intake import Intake
from pyrtmp.aio.sockets import GATHERED_BYTES
from tests.pyrtmp.aio.net import SHORT, Net, eventually, frame

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_RCVLOWAT keeps a socket from being readable")

RARE = EgressSettings(min_delay_ms=200, max_delay_ms=200)


class Source:
    def __init__(self) -> None:
        self.calls: list[bool] = []
        self.reads = 0

    def gather(self, on: bool) -> None:
        self.calls.append(on)

    def read(self) -> None:
        self.reads += 1


def test_rounds_read_while_they_are_rare() -> None:
    intake, source = Intake(), Source()
    intake.add(source)
    assert not intake.active
    intake.follow(0.005)
    intake.follow(0.008)
    assert source.calls == []
    intake.follow(0.05)
    assert intake.active and source.calls == [True]
    intake.follow(0.008)
    assert intake.active, "between the two thresholds it stays as it is"
    intake.follow(0.001)
    assert not intake.active and source.calls == [True, False]


def test_a_publisher_is_not_left_unread_for_long() -> None:
    intake, source = Intake(), Source()
    intake.add(source)
    intake.follow(0.35)
    intake.follow(2.0)
    assert not intake.active and source.calls == [True, False]


def test_without_a_publisher_there_is_nothing_to_read() -> None:
    intake = Intake()
    intake.follow(0.35)
    assert not intake.active


def test_a_publisher_that_comes_or_goes_meanwhile() -> None:
    intake, first, second = Intake(), Source(), Source()
    intake.add(first)
    intake.follow(0.35)
    intake.add(second)
    intake.add(second)
    assert second.calls == [True]
    intake.read()
    intake.remove(first)
    intake.remove(first)
    assert first.calls == [True, False]
    intake.read()
    assert (first.reads, second.reads) == (1, 2)
    intake.stop()
    assert second.calls == [True, False]


def lowat(net_socket: object) -> int:
    return int(net_socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT))  # type: ignore[attr-defined]


async def test_messages_of_rare_rounds_are_read_together(net: Net) -> None:
    server = await net.server(egress=RARE)
    publisher, player = await net.watched(server)
    assert server.rounds.intake.active
    (stream,) = server.hub.live()
    connection = stream.publisher
    before, rounds = stream.messages_in, server.counters.rounds
    seen: list[int] = []
    for n in range(1, 30):
        await publisher.write(frame(n))
        await asyncio.sleep(0.01)
        seen.append(stream.messages_in - before)
    await player.until(lambda: player.numbers() == list(range(30)))
    # 29 messages over 0.3 s, but the process looked at them only as often as it had rounds.
    assert len(set(seen)) <= server.counters.rounds - rounds + 1
    assert lowat(connection.transport.get_extra_info("socket")) == GATHERED_BYTES  # type: ignore[union-attr]


async def test_much_at_once_is_read_before_the_round(net: Net) -> None:
    server = await net.server(egress=EgressSettings(min_delay_ms=500, max_delay_ms=500))
    publisher, _ = await net.watched(server)
    (stream,) = server.hub.live()
    await publisher.write(*(frame(n, 60_000) for n in range(1, 30)))
    await eventually(lambda: stream.messages_in >= 20, 0.4)


async def test_the_end_of_a_publisher_is_noticed_at_once(net: Net) -> None:
    server = await net.server(egress=EgressSettings(min_delay_ms=500, max_delay_ms=500))
    publisher, _ = await net.watched(server)
    publisher.reset()
    await eventually(lambda: not server.hub.live(), 0.4)


async def test_a_publisher_that_stops_publishing_is_read_by_the_loop_again(net: Net) -> None:
    server = await net.server(egress=RARE)
    publisher, _ = await net.watched(server)
    (stream,) = server.hub.live()
    sock = stream.publisher.transport.get_extra_info("socket")  # type: ignore[union-attr]
    await publisher.command("deleteStream", 1.0)
    await eventually(lambda: not server.hub.live())
    assert lowat(sock) == 1


async def test_a_broken_publisher_is_refused_by_the_round_and_the_others_go_on(net: Net) -> None:
    server = await net.server(egress=RARE)
    good, player = await net.watched(server, "good")
    bad = await net.publisher(server, "bad")
    await bad.send(b"\x07" * 4000)
    await good.write(frame(1))
    await bad.until_closed()
    await player.until(lambda: player.numbers() == [0, 1])


async def test_deadlines_hold_while_rounds_read(net: Net) -> None:
    server = await net.server(egress=RARE, timeouts=SHORT, tick=0.05)
    publisher, _ = await net.watched(server)
    await publisher.until_closed()
