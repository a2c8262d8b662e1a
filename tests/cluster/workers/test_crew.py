"""``cluster.workers.crew``: places kept filled, with processes that are none (``children``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.config import load
from cluster.workers import crew as crew_module
from cluster.workers import messages
from cluster.workers.crew import Crew
from cluster.workers.process import HUNG_PINGS, Phase, Process
from tests.cluster.workers.children import Child, start
from tests.descriptors import descriptors
from tests.pyrtmp.aio.net import eventually

CONFIG = load(None, [], {})


class Subject:
    """A crew, whom it started and what it said."""

    def __init__(self, size: int) -> None:
        self.children: list[Child] = []
        self.events: list[tuple[str, int]] = []
        self.said: list[Any] = []
        self.prepare: Callable[[Child], None] = lambda child: None
        self.fail = 0
        """How many more processes cannot be started."""
        self.may_spawn = asyncio.Event()
        self.may_spawn.set()
        self.crew = Crew(size, CONFIG, self)

    async def spawn(self, serial: int, on_message: Any, on_lost: Any) -> Process:
        await self.may_spawn.wait()
        if self.fail:
            self.fail -= 1
            raise OSError("no more processes")
        process, child = start(serial, on_message, on_lost)
        self.children.append(child)
        self.prepare(child)
        if not child.ended:
            child.say(messages.Waiting())
        return process

    # CrewListener

    def worker_ready(self, process: Process) -> None:
        self.events.append(("ready", process.serial))

    def worker_gone(self, process: Process) -> None:
        self.events.append(("gone", process.serial))

    def worker_said(self, process: Process, message: Any) -> None:
        self.said.append(message)
        if isinstance(message, messages.Waiting | messages.Ready):
            raise ValueError("again")

    def places(self) -> list[int | None]:
        """Serials by place."""
        return [None if slot.process is None else slot.process.serial for slot in self.crew._slots]

    def child(self, serial: int) -> Child:
        return next(child for child in self.children if child.serial == serial)

    def spare(self) -> int | None:
        return None if self.crew._spare is None else self.crew._spare.serial

    async def ready(self) -> None:
        """Every place is filled, and there is a spare."""
        await eventually(lambda: all(s.ready.is_set() for s in self.crew._slots) and self.crew._spare is not None)


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[int], Subject]]:
    before = descriptors()
    subjects: list[Subject] = []

    def make(size: int = 2) -> Subject:
        subject = Subject(size)
        monkeypatch.setattr(crew_module, "spawn", subject.spawn)
        monkeypatch.setattr(crew_module, "PING_SECONDS", 0.01)
        subjects.append(subject)
        return subject

    yield make
    for subject in subjects:
        await subject.crew.close()
        assert all(child.ended for child in subject.children) and not subject.crew._tasks
        assert not subject.crew._processes
    assert descriptors() == before


async def test_every_place_is_filled_and_there_is_a_spare(make: Callable[[int], Subject]) -> None:
    subject = make(3)
    crew = subject.crew
    crew.start(1935)
    assert await crew.all_ready()
    await subject.ready()
    assert len(crew) == 3 and len(subject.children) == 4 and len(crew._processes) == 4
    assert [process.serial for process in crew] == subject.places() == [1, 2, 3]
    assert subject.spare() == 4 and crew[4] is None and crew[99] is None
    assert sorted(subject.events) == [("ready", 1), ("ready", 2), ("ready", 3)]
    boots = [child.booted for child in subject.children[:3]]
    assert [(boot.worker, boot.serial, boot.rtmp_port) for boot in boots if boot] == [
        (0, 1, 1935), (1, 2, 1935), (2, 3, 1935)
    ]
    assert boots[0] is not None and boots[0].config == CONFIG
    assert [crew.restarts(number) for number in range(3)] == [0, 0, 0]


async def test_the_spare_takes_the_place_of_one_that_dies(make: Callable[[int], Subject]) -> None:
    subject = make(2)
    crew = subject.crew
    crew.start(1935)
    await subject.ready()
    with capture_logs() as logs:
        subject.child(1).end(-11)
        await eventually(lambda: ("ready", 3) in subject.events)
    assert subject.events[2:] == [("gone", 1), ("ready", 3)]
    assert subject.places() == [3, 2] and crew[1] is None
    assert (crew.restarts(0), crew.restarts(1)) == (1, 0)
    assert [line["replaced_in_seconds"] for line in logs if line["event"] == "worker_lost"] == [0.0]
    await subject.ready()
    assert subject.spare() == 4


async def test_all_die_at_once(make: Callable[[int], Subject]) -> None:
    subject = make(3)
    subject.crew.start(1935)
    await subject.ready()
    for serial in (1, 2, 3):
        subject.child(serial).end(1)
    await eventually(lambda: len(subject.events) == 9)
    await subject.ready()
    assert None not in subject.places() and len(set(subject.places())) == 3
    assert len(subject.crew._processes) == 4


async def test_one_that_answers_no_pings_is_ended_and_replaced(make: Callable[[int], Subject]) -> None:
    subject = make(2)
    subject.crew.start(1935)
    await subject.ready()
    with capture_logs() as logs:
        subject.child(1).pongs = False
        await eventually(lambda: ("ready", 3) in subject.events)
    assert subject.child(1).signals and not subject.child(2).signals
    assert "worker_hung" in [line["event"] for line in logs]
    assert len(subject.child(1).of(messages.Ping)) >= HUNG_PINGS
    assert subject.places() == [3, 2]


async def test_one_that_needs_long_to_begin_is_not_hung(make: Callable[[int], Subject]) -> None:
    subject = make(1)

    def slow(child: Child) -> None:
        child.readies = child.pongs = False

    subject.prepare = slow
    subject.crew.start(1935)
    await eventually(lambda: len(subject.children) and len(subject.children[0].of(messages.Ping)) > HUNG_PINGS + 3)
    child = subject.children[0]
    child.say(messages.Ready())
    assert await subject.crew.all_ready()
    before = len(child.of(messages.Ping))
    await eventually(lambda: len(child.of(messages.Ping)) > before + 2)
    child.pongs = True
    child.pong()
    await eventually(lambda: len(child.of(messages.Ping)) > before + 2 * HUNG_PINGS)
    assert not child.signals and subject.places() == [1]


async def test_one_that_dies_again_and_again_is_replaced_more_and_more_rarely(
    make: Callable[[int], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "_LONGEST_PAUSE", 0.02)
    subject = make(1)
    subject.crew.start(1935)
    await subject.ready()
    with capture_logs() as logs:
        for _ in range(4):
            (serial,) = subject.places()
            assert serial is not None
            subject.child(serial).end(1)
            await eventually(lambda serial=serial: subject.places() not in ([serial], [None]))  # type: ignore[misc]
            await subject.ready()
        # One that has worked for a while was not at fault.
        monkeypatch.setattr(crew_module, "LIVED_SECONDS", 0.0)
        (serial,) = subject.places()
        assert serial is not None
        subject.child(serial).end(1)
        await eventually(lambda: subject.places() not in ([serial], [None]))
    pauses = [line["replaced_in_seconds"] for line in logs if line["event"] == "worker_lost"]
    assert pauses == [0.0, 0.02, 0.02, 0.02, 0.0]


async def test_workers_that_cannot_even_begin(make: Callable[[int], Subject]) -> None:
    subject = make(1)

    def dies(child: Child) -> None:
        if child.serial > 1:  # the first is there so that there is a spare
            child.end(1)

    subject.prepare = lambda child: setattr(child, "readies", False)
    subject.crew.start(1935)
    await eventually(lambda: subject.children and subject.children[0].booted)
    waiting = asyncio.ensure_future(subject.crew.all_ready())
    subject.prepare = dies
    for child in list(subject.children):
        child.end(1)
    slot = subject.crew._slots[0]
    await eventually(lambda: slot.failures >= 3 or waiting.done())
    assert await waiting is False


async def test_processes_that_cannot_be_started_are_tried_again(make: Callable[[int], Subject]) -> None:
    subject = make(1)
    subject.fail = 2  # the worker and the spare
    with capture_logs() as logs:
        subject.crew.start(1935)
        await subject.ready()
    assert [line["event"] for line in logs].count("worker_not_started") == 2
    assert subject.places() == [1 + 2] or subject.places() == [4]
    assert len(subject.crew._processes) == 2


async def test_a_spare_that_dies_is_replaced_and_nobody_else_is_touched(make: Callable[[int], Subject]) -> None:
    subject = make(1)
    subject.crew.start(1935)
    await subject.ready()
    assert subject.spare() == 2
    subject.child(2).end(1)
    await eventually(lambda: subject.spare() not in (None, 2))
    assert subject.events == [("ready", 1)] and subject.places() == [1]


@pytest.mark.parametrize(
    "message", [messages.Waiting(), messages.Claim(1, "a", "b"), messages.Drained()], ids=lambda m: type(m).__name__
)
async def test_a_spare_that_says_what_only_workers_may_say_is_ended(
    make: Callable[[int], Subject], message: messages.Message
) -> None:
    subject = make(1)
    subject.crew.start(1935)
    await subject.ready()
    subject.child(2).say(message)
    await eventually(lambda: subject.child(2).ended)
    assert subject.said == [] and subject.events == [("ready", 1)]


async def test_a_worker_that_says_twice_that_it_is_ready_is_ended(make: Callable[[int], Subject]) -> None:
    subject = make(1)
    subject.crew.start(1935)
    await subject.ready()
    subject.child(1).say(messages.Began("a", "b"))
    subject.child(1).say(messages.Ready())
    await eventually(lambda: ("ready", 2) in subject.events)
    assert subject.said == [messages.Began("a", "b"), messages.Ready()]
    assert subject.events == [("ready", 1), ("gone", 1), ("ready", 2)]


async def test_replacing_one_never_leaves_its_place_empty(make: Callable[[int], Subject]) -> None:
    subject = make(2)
    crew = subject.crew
    crew.start(1935)
    await subject.ready()
    subject.child(1).drains = False
    replacing = asyncio.ensure_future(crew.replace(0, 60))
    await eventually(lambda: subject.child(1).of(messages.Drain))
    assert subject.child(1).of(messages.Drain) == [messages.Drain(60, True)]
    assert subject.places() == [3, 2] and subject.events[2:] == [("ready", 3)]
    (old,) = [process for process in crew if process.serial == 1]
    assert old.phase is Phase.DRAINING and len(list(crew)) == 3 and not replacing.done()
    subject.child(1).end(0)
    await replacing
    assert subject.events[3:] == [("gone", 1)] and len(list(crew)) == 2
    assert crew.restarts(0) == 1


async def test_one_that_dies_while_it_is_replaced(make: Callable[[int], Subject]) -> None:
    subject = make(1)
    subject.crew.start(1935)
    await subject.ready()
    subject.child(2).readies = False
    replacing = asyncio.ensure_future(subject.crew.replace(0, 60))
    await eventually(lambda: subject.child(2).booted)
    subject.child(1).end(1)
    await eventually(lambda: ("gone", 1) in subject.events)
    subject.child(2).say(messages.Ready())
    await replacing
    await subject.ready()
    assert subject.places() == [2] and len(subject.crew._processes) == 2


@pytest.mark.parametrize("where", ["waits its time", "waits for a process", "begins"])
async def test_replacing_a_place_that_is_being_filled_fills_it_once(
    make: Callable[[int], Subject], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Not with two workers, of which one would never be looked after again."""
    monkeypatch.setattr(crew_module, "_LONGEST_PAUSE", 0.1)
    subject = make(1)
    crew = subject.crew
    crew.start(1935)
    await subject.ready()
    slot = crew._slots[0]
    if where == "waits its time":
        slot.failures = 5
        subject.child(1).end(1)
        await eventually(lambda: slot.timer is not None)
    elif where == "waits for a process":
        subject.may_spawn.clear()
        subject.child(1).end(1)
        await eventually(lambda: ("ready", 2) in subject.events)
        subject.child(2).end(1)  # there is no spare yet
        await eventually(lambda: crew._wanted)
    else:
        subject.child(2).readies = False
        subject.child(1).end(1)
        await eventually(lambda: subject.child(2).booted)
    replacing = asyncio.ensure_future(crew.replace(0, 60))
    await asyncio.sleep(0)
    subject.may_spawn.set()
    if where == "begins":
        subject.child(2).say(messages.Ready())
    await replacing
    await eventually(lambda: slot.timer is None and not crew._wanted and not crew._spawning)
    assert len(list(crew)) == 1 and [process.serial for process in crew] == subject.places()


async def test_draining_ends_all_and_replaces_none(make: Callable[[int], Subject]) -> None:
    subject = make(2)
    crew = subject.crew
    crew.start(1935)
    await subject.ready()
    await asyncio.wait_for(crew.drain(30, handover=False), 5)
    assert [child.of(messages.Drain) for child in subject.children[:2]] == [[messages.Drain(30, False)]] * 2
    assert all(child.ended and not child.signals for child in subject.children[:2])
    await eventually(lambda: list(crew) == [])
    assert len(subject.children) == 3


async def test_close_ends_what_has_just_been_started(make: Callable[[int], Subject]) -> None:
    subject = make(2)
    subject.may_spawn.clear()
    subject.crew.start(1935)
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(subject.crew.close())
    await asyncio.sleep(0)
    subject.may_spawn.set()
    await closing
    assert subject.events == [] and len(subject.children) == 3


async def test_close_ends_those_who_do_not_listen(make: Callable[[int], Subject]) -> None:
    subject = make(1)
    subject.prepare = lambda child: setattr(child, "stays", True)
    subject.crew.start(1935)
    await subject.ready()
    await asyncio.wait_for(subject.crew.close(), 5)
    assert all(child.signals for child in subject.children)
