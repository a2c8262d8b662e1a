"""``cluster.workers.worker`` without a process: a worker in the loop of the test, steered over a real channel."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.config import load
from cluster.workers import messages, worker
from cluster.workers.channel import Channel, close_all, pair
from cluster.workers.worker import Worker
from tests.cluster.workers.members import RtmpTape
from tests.descriptors import descriptors, no_descriptors
from tests.pyrtmp.aio.net import eventually, frame


class Subject:
    """A worker at work, and what it told its supervisor."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.lost: list[str] = []
        self.clients: list[socket.socket] = []
        ours, theirs = pair()
        self.channel = Channel(ours, self._received, self.lost.append)
        config = load(None, ["stream.takeover_seconds=0.2"], {})
        self.worker = Worker(messages.Boot(1, 5, 1935, config), theirs)
        self.running = asyncio.ensure_future(self.worker.run())

    def _received(self, data: memoryview, fds: list[int]) -> None:
        self.told.append(messages.decode(data))
        close_all(fds)

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.told if isinstance(message, kind)]

    def say(self, message: messages.Message, *fds: int) -> None:
        self.channel.send(messages.encode(message), fds, own=True)

    async def answer(self, what: messages.Question, *arguments: str) -> messages.Answer:
        number = 1 + len(self.of(messages.Answer))
        self.say(messages.Ask(number, what, list(arguments)))
        await eventually(lambda: len(self.of(messages.Answer)) == number)
        answer = self.of(messages.Answer)[-1]
        assert isinstance(answer, messages.Answer) and answer.request == number
        return answer

    def connection(self, protocol: Any) -> socket.socket:
        """A client whose connection was handed over."""
        ours, theirs = socket.socketpair()
        self.clients.append(ours)
        ours.setblocking(False)
        self.say(messages.Connection(protocol, "192.0.2.9"), theirs.detach())
        return ours

    async def publisher(self) -> RtmpTape:
        tape = RtmpTape(self.connection("rtmp"))
        publishing = asyncio.ensure_future(tape.publish())
        claims = len(self.of(messages.Claim))
        await eventually(lambda: len(self.of(messages.Claim)) > claims)
        self.say(messages.Granted(self.of(messages.Claim)[-1].request, None, None))
        await publishing
        return tape

    def silence(self) -> Any:
        """The worker does not read until what is returned is called."""
        descriptor = self.worker.channel._socket.fileno()
        loop = asyncio.get_running_loop()
        loop.remove_reader(descriptor)
        return lambda: loop.add_reader(descriptor, self.worker.channel._readable)


@pytest.fixture
async def subject(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
    monkeypatch.setattr(worker, "freeze_heap", lambda: None)
    before = descriptors()
    subject = Subject()
    await eventually(lambda: subject.of(messages.Ready))
    yield subject
    subject.channel.close()
    await asyncio.wait_for(subject.running, 10)
    for sock in subject.clients:
        sock.close()
    await eventually(lambda: descriptors() <= before)
    assert descriptors() == before


async def test_it_serves_the_connections_it_is_handed_and_says_how_many(subject: Subject) -> None:
    publisher = await subject.publisher()
    player = RtmpTape(subject.connection("rtmp"))
    await player.play()
    await publisher.write(frame(0, key=True))
    await player.until_number(0)
    http = subject.connection("http")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(http, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await loop.sock_recv(http, 100)).startswith(b"HTTP/1.1 200")
    subject.say(messages.Ping(4))
    await eventually(lambda: subject.of(messages.Pong))
    (pong,) = subject.of(messages.Pong)
    assert (pong.number, pong.taken, pong.connections) == (4, 3, 3) and pong.cpu > 0
    (began,) = subject.of(messages.Began)
    assert (began.app, began.name, began.hops) == ("live", "cam", []) and began.lineage
    assert {client.address for client in subject.worker.engine.server.clients.values()} == {"192.0.2.9"}
    await publisher.command("deleteStream", 1.0)
    await eventually(lambda: subject.of(messages.Released))
    assert subject.of(messages.Released) == [messages.Released(1, "live", "cam", 0)]


async def test_a_publisher_whose_claim_is_denied(subject: Subject) -> None:
    tape = RtmpTape(subject.connection("rtmp"))
    publishing = asyncio.ensure_future(tape.publish())
    await eventually(lambda: subject.of(messages.Claim))
    subject.say(messages.Denied(1, "taken"))
    with pytest.raises(AssertionError, match="BadName"):
        await publishing


async def test_questions(subject: Subject) -> None:
    publisher = await subject.publisher()
    await publisher.write(frame(5, key=True))
    await eventually(lambda: subject.worker.engine.server.hub.live()[0].messages_in == 2)
    assert json.loads((await subject.answer("streams", "")).body or "")
    assert (await subject.answer("time", "live", "cam")).body == "200"
    assert not (await subject.answer("time", "live", "nobody")).ok
    assert (await subject.answer("numbers")).ok
    assert (await subject.answer("challenge", "live", "nobody")).ok
    assert (await subject.answer("challenge", "live", "cam")).ok  # it has fallen silent
    assert subject.of(messages.Released) == [messages.Released(1, "live", "cam", 200)]
    assert not (await subject.answer("kick", "nobody")).ok
    assert not (await subject.answer("end", "live", "other")).ok
    with capture_logs() as logs:
        assert not (await subject.answer("kick")).ok
    assert [line["event"] for line in logs] == ["internal_error"]
    assert not subject.lost


async def test_descriptors_that_are_lost_on_the_way(subject: Subject) -> None:
    """A client is turned away; a link is asked for again."""
    wake_up = subject.silence()
    client = subject.connection("rtmp")
    subject.connection("rtmp")
    subject.say(messages.Peer(9), pair_end())
    with no_descriptors(), capture_logs() as logs:
        subject.worker.channel._readable()
    wake_up()
    assert [line["what"] for line in logs] == ["a connection from the supervisor", "a link to another worker"]
    await eventually(lambda: subject.of(messages.LinkLost))
    assert subject.of(messages.LinkLost) == [messages.LinkLost(9)]
    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    subject.say(messages.Ping(1))
    await eventually(lambda: subject.of(messages.Pong))
    assert subject.of(messages.Pong)[0].taken == 2
    # With descriptors again all is well.
    await subject.publisher()
    subject.say(messages.Peer(9), pair_end())
    await eventually(lambda: len(subject.of(messages.LinkLost)) == 2)  # whose other end nobody has


def pair_end() -> int:
    """One end; the other one is closed."""
    ours, theirs = pair()
    theirs.close()
    return ours.detach()


@pytest.mark.parametrize(
    "message", [messages.Ready(), messages.Claim(1, "a", "b"), messages.Granted(77, None, None)],
    ids=lambda message: type(message).__name__,
)
async def test_what_no_supervisor_says_ends_it(subject: Subject, message: messages.Message) -> None:
    with capture_logs() as logs:
        subject.say(message)
        await asyncio.wait_for(subject.running, 10)
    assert "supervisor_lost" in [line["event"] for line in logs]


@pytest.mark.parametrize("gently", [False, True])
async def test_it_lets_everybody_go_and_ends(subject: Subject, gently: bool) -> None:
    publisher = await subject.publisher()
    player = RtmpTape(subject.connection("rtmp"))
    await player.play()
    await publisher.write(frame(0, key=True))
    await player.until_number(0)
    subject.say(messages.Drain(0.2, gently))
    await player.until_closed()
    await publisher.until_closed()
    await asyncio.wait_for(subject.running, 10)
    await eventually(lambda: subject.lost)
    assert subject.of(messages.Drained) == [messages.Drained()]
    assert subject.of(messages.Released) == [messages.Released(1, "live", "cam", 0)]
    if gently:
        assert "NetStream.Play.Stop" not in player.codes()  # others have the stream


async def test_without_its_supervisor_it_ends(subject: Subject) -> None:
    publisher = await subject.publisher()
    subject.channel.close()
    await asyncio.wait_for(subject.running, 10)
    await publisher.until_closed()
