"""``cluster.workers.process``: a worker as its supervisor sees it, over a real channel."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cluster.workers import messages, process
from cluster.workers.process import BOOT_PINGS, HUNG_PINGS, Phase, Process
from tests.cluster.workers.children import Child, is_open, start
from tests.descriptors import descriptors
from tests.pyrtmp.aio.net import eventually


class Subject:
    """A process, what it said and how it was lost."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.lost: list[str] = []
        self.process, self.child = start(7, self._on_message, lambda process, reason: self.lost.append(reason))

    def _on_message(self, process: Process, message: Any) -> None:
        assert process is self.process
        self.said.append(message)
        if isinstance(message, messages.Drained):
            raise ValueError("not now")

    async def pinged(self, **facts: Any) -> None:
        """Ping, and have the answer."""
        self.child.pongs = False
        before = len(self.child.of(messages.Ping))
        assert self.process.ping()
        await eventually(lambda: len(self.child.of(messages.Ping)) > before)
        self.child.pong(**facts)
        await eventually(lambda: self.process._ponged == self.process._pings or self.lost)


@pytest.fixture
async def subject() -> AsyncIterator[Subject]:
    before = descriptors()
    subject = Subject()
    yield subject
    subject.process.close()
    subject.child.end(0)
    assert descriptors() == before


async def test_phases(subject: Subject) -> None:
    process = subject.process
    working = []
    for phase in Phase:
        process.enter(phase)
        working.append(process.working)
    assert working == [False, False, False, True, True, False]
    assert process.lived > 0 and process.pid == subject.child.pid


async def test_what_it_says_is_handed_on_and_what_is_wrong_ends_it(subject: Subject) -> None:
    subject.child.say(messages.Waiting())
    subject.child.say(messages.Claim(1, "live", "cam"))
    await eventually(lambda: len(subject.said) == 2)
    assert subject.said == [messages.Waiting(), messages.Claim(1, "live", "cam")]
    subject.child.say(messages.Drained())
    await eventually(lambda: subject.lost)
    assert subject.lost == ["not understood: not now"]
    assert subject.child.signals == [signal.SIGKILL] and subject.process.phase is Phase.ENDED


@pytest.mark.parametrize("data", [b"\xff" + b"pickle", b"\xfe", b"\x00{}", b"x" * 70_000])
async def test_what_is_no_message_ends_it(subject: Subject, data: bytes) -> None:
    """Pickles above all: a worker that was taken over must not take over its supervisor."""
    subject.child.channel.send(data)
    await eventually(lambda: subject.lost)
    assert len(subject.lost) == 1 and subject.child.ended and subject.said == []


async def test_its_end_is_told_once_and_questions_are_not_left_open(subject: Subject) -> None:
    subject.process.enter(Phase.READY)
    asked = asyncio.ensure_future(subject.process.asking.ask("numbers"))
    await eventually(lambda: subject.child.of(messages.Ask))
    subject.child.end(1)
    with pytest.raises(ConnectionError):
        await asked
    assert subject.lost == ["gone"] and await subject.process.wait() == 1
    subject.process.kill()  # nobody minds
    subject.process.close()
    assert subject.lost == ["gone"]


async def test_nothing_is_told_after_close(subject: Subject) -> None:
    subject.process.close()
    await eventually(lambda: subject.child.ended)
    assert subject.lost == [] and subject.process.phase is Phase.ENDED


async def test_a_connection_goes_over_and_is_closed_here(subject: Subject) -> None:
    one, other = socket.socketpair()
    subject.process.pass_connection("rtmp", one, "192.0.2.1")
    assert one.fileno() == -1
    subject.process.pass_connection("http", socket.socket(), "192.0.2.2")
    await eventually(lambda: len(subject.child.fds) == 2)
    assert subject.child.of(messages.Connection) == [
        messages.Connection("rtmp", "192.0.2.1"), messages.Connection("http", "192.0.2.2")
    ]
    subject.child.end(0)
    assert other.recv(1) == b""  # the child had the last one
    other.close()


async def test_a_descriptor_told_goes_over_even_when_there_is_nobody(subject: Subject) -> None:
    sock = socket.socket()
    subject.process.close()
    subject.process.tell(messages.Peer(3), fd := sock.detach())
    assert not is_open(fd)


async def test_connections_are_counted_at_once_and_then_by_the_worker(subject: Subject) -> None:
    process = subject.process
    for _ in range(3):
        process.pass_connection("rtmp", socket.socket(), "x")
    assert process.connections == 3
    # It has taken two by now, of which one has left; one is on its way.
    await subject.pinged(taken=2, connections=1)
    assert process.connections == 2
    process.pass_connection("http", socket.socket(), "x")
    assert process.connections == 3
    await subject.pinged(taken=4, connections=4)
    assert process.connections == 4


async def test_the_share_of_a_core_is_what_it_used_lately(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(process, "monotonic", lambda: now)
    await subject.pinged(cpu=50.0)
    assert subject.process.cpu_share == 0.0
    cpu = 50.0
    for _ in range(30):
        now += 0.25
        cpu += 0.1
        await subject.pinged(cpu=cpu)
    assert subject.process.cpu_share == pytest.approx(0.4, rel=0.01)
    # It says more than is possible, or goes back: neither counts.
    now += 0.25
    await subject.pinged(cpu=1e9)
    assert subject.process.cpu_share < 0.6
    for _ in range(30):
        now += 0.25
        await subject.pinged(cpu=0.0)
    assert subject.process.cpu_share == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    "pong",
    [
        pytest.param({"number": 2}, id="to a ping that is to come"),
        pytest.param({"number": 0}, id="to none"),
        pytest.param({"taken": 1}, id="of more than it was passed"),
    ],
)
async def test_a_pong_that_cannot_be_ends_it(subject: Subject, pong: dict[str, int]) -> None:
    subject.child.pongs = False
    subject.process.ping()
    subject.child.say(messages.Pong(**{"number": 1, "taken": 0, "connections": 0, "cpu": 0.0, **pong}))
    await eventually(lambda: subject.lost)


async def test_a_pong_counts_once(subject: Subject) -> None:
    await subject.pinged()
    subject.child.say(messages.Pong(1, 0, 0, 0.0))
    await eventually(lambda: subject.lost)


async def test_one_that_answers_no_ping_is_hung(subject: Subject) -> None:
    process = subject.process
    process.enter(Phase.READY)
    await subject.pinged()
    assert process.answers
    sent = [process.ping() for _ in range(HUNG_PINGS + 5)]
    assert sent == [True] * HUNG_PINGS + [False] * 5
    assert not process.answers
    await eventually(lambda: len(subject.child.of(messages.Ping)) == HUNG_PINGS + 1)
    subject.child.pong()
    await eventually(lambda: process.answers)
    assert process.ping()


async def test_one_that_begins_to_work_has_more_time(subject: Subject) -> None:
    subject.process.enter(Phase.BOOTING)
    assert [subject.process.ping() for _ in range(BOOT_PINGS + 1)] == [True] * BOOT_PINGS + [False]


async def test_what_it_did_not_answer_while_it_began_is_not_held_against_it(subject: Subject) -> None:
    """It says that it is ready before it reads what has come meanwhile."""
    process, child = subject.process, subject.child
    child.pongs = False
    process.enter(Phase.BOOTING)
    for _ in range(HUNG_PINGS + 5):
        assert process.ping()
    process.enter(Phase.READY)
    assert process.ping()
    await eventually(lambda: len(child.of(messages.Ping)) == HUNG_PINGS + 6)
    # The answers may come one by one.
    child.say(messages.Pong(1, 0, 0, 0.0))
    await eventually(lambda: process._ponged == 1)
    assert process.ping() and not process.answers
    # From here on it counts as ever.
    assert [process.ping() for _ in range(HUNG_PINGS)] == [True] * (HUNG_PINGS - 2) + [False] * 2
    await eventually(lambda: len(child.of(messages.Ping)) > 2 * HUNG_PINGS)


async def test_a_child_is_a_child(subject: Subject) -> None:
    """What these tests take for a process."""
    assert isinstance(subject.child, Child)
    subject.process.kill()
    assert await subject.process.wait() == -signal.SIGKILL
    await eventually(lambda: subject.lost)
