"""``cluster.workers.claims``: who publishes what, on both sides of the channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.workers import claims, messages
from cluster.workers.claims import Claimant, Registry
from pyrtmp.errors import RefusedError
from pyrtmp.hub import Hub
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Stream
from pyrtmp.wirelog import PlainStorage
from tests.cluster.workers.members import Machine, RtmpTape, holders
from tests.pyrtmp.aio.net import eventually, frame

CAM, OTHER = StreamKey("live", "cam"), StreamKey("live", "other")
GRACE = 15.0


class Clock:
    """Seconds, when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(claims, "monotonic", clock)
    return clock


class Office:
    """A registry, whom it asked and what it announced."""

    def __init__(self) -> None:
        self.announced: list[tuple[StreamKey, int | None]] = []
        self.challenged: list[int] = []
        self.registry = Registry(lambda key, serial: self.announced.append((key, serial)), GRACE)
        self.answers: Callable[[int], Awaitable[bool]] = self._no

    async def _no(self, holder: int) -> bool:
        return False

    async def _challenge(self, holder: int) -> bool:
        self.challenged.append(holder)
        return await self.answers(holder)

    async def claim(self, serial: int, request: int = 1, key: StreamKey = CAM) -> tuple[int, float] | None:
        return await self.registry.claim(key, serial, request, self._challenge)

    async def refused(self, serial: int, request: int = 1, key: StreamKey = CAM) -> None:
        with pytest.raises(RefusedError) as caught:
            await self.claim(serial, request, key)
        assert caught.value.code == "NetStream.Publish.BadName" and str(key) in str(caught.value)


@pytest.fixture
def office(clock: Clock) -> Office:
    return Office()


async def turns(count: int = 5) -> None:
    """Let others run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_no_more_streams_than_so_many(office: Office) -> None:
    registry, third = office.registry, StreamKey("live", "third")
    registry.most = 2
    await office.claim(1)
    await registry.claim(OTHER, 2, 1, None)  # is fetched, and does not count
    await office.claim(2, key=third)
    with pytest.raises(RefusedError) as caught:
        await office.claim(3, key=StreamKey("live", "fourth"))
    assert (caught.value.code, caught.value.reason) == ("NetStream.Publish.Denied", "streams")
    with pytest.raises(RefusedError, match="no more streams"):
        await office.claim(3, key=OTHER)  # somebody would publish it now
    await office.refused(3)
    registry.release(CAM, 1, 1, 0)
    await office.claim(3, key=StreamKey("live", "fourth"))


async def test_a_claim_is_announced_once_its_publisher_began(office: Office) -> None:
    registry = office.registry
    assert await office.claim(1) is None
    assert holders(registry) == {CAM: 1} and registry.held() == []
    registry.began(CAM, 2)  # not its
    registry.began(OTHER, 1)
    assert office.announced == []
    registry.began(CAM, 1)
    assert office.announced == [(CAM, 1)] and registry.held() == [(CAM, 1)]
    await office.claim(2, key=OTHER)
    assert holders(registry) == {CAM: 1, OTHER: 2}


async def test_one_who_is_alive_keeps_its_stream(office: Office) -> None:
    await office.claim(1)
    office.registry.began(CAM, 1)
    await office.refused(2)
    assert office.challenged == [1] and holders(office.registry) == {CAM: 1}
    assert office.announced == [(CAM, 1)]


async def test_one_who_lets_go_loses_it(office: Office) -> None:
    async def yes(holder: int) -> bool:
        return True

    office.answers = yes
    await office.claim(1)
    office.registry.began(CAM, 1)
    await office.claim(2)
    assert holders(office.registry) == {CAM: 2} and office.announced == [(CAM, 1), (CAM, None)]
    office.registry.began(CAM, 1)  # too late
    assert office.announced[2:] == []
    office.registry.began(CAM, 2)
    assert office.announced[2:] == [(CAM, 2)]


async def test_its_own_claim_is_not_challenged(office: Office) -> None:
    """Whoever publishes in that worker has been challenged there."""
    await office.claim(1, 1)
    office.registry.began(CAM, 1)
    await office.claim(1, 2)
    assert office.challenged == [] and holders(office.registry) == {CAM: 1}


async def test_of_twenty_who_ask_at_once_one_gets_it(office: Office) -> None:
    busy = 0

    async def no(holder: int) -> bool:
        nonlocal busy
        busy += 1
        assert busy == 1, "two challenges at once"
        await turns()
        busy -= 1
        return False

    office.answers = no
    results = await asyncio.gather(*(office.claim(serial) for serial in range(20)), return_exceptions=True)
    winners = [serial for serial, result in enumerate(results) if result is None]
    assert len(winners) == 1 and holders(office.registry) == {CAM: winners[0]}
    assert sum(isinstance(result, RefusedError) for result in results) == 19
    assert office.challenged == winners * 19


async def test_twenty_streams_do_not_wait_for_each_other(office: Office) -> None:
    never = asyncio.Event()

    async def wait(holder: int) -> bool:
        await never.wait()
        return False

    office.answers = wait
    await office.claim(1)
    waiting = asyncio.ensure_future(office.claim(2))
    await turns()
    for number in range(20):
        await office.claim(3, key=StreamKey("live", str(number)))
    assert not waiting.done() and office.challenged == [1]
    waiting.cancel()
    await asyncio.wait((waiting,))


@pytest.mark.parametrize("answer", [False, True])
async def test_a_holder_that_dies_while_it_is_challenged_has_lost(office: Office, answer: bool) -> None:
    registry = office.registry

    async def dies(holder: int) -> bool:
        assert registry.forget_worker(holder) == [CAM]
        return answer

    office.answers = dies
    await office.claim(1)
    registry.began(CAM, 1)
    await office.claim(2)
    assert holders(registry) == {CAM: 2} and office.announced == [(CAM, 1), (CAM, None)]


async def test_a_holder_that_releases_while_it_is_challenged_makes_room(office: Office, clock: Clock) -> None:
    async def leaves(holder: int) -> bool:
        office.registry.release(CAM, holder, 1, 5000)
        return False

    office.answers = leaves
    await office.claim(1)
    assert await office.claim(2) == (5000, clock.now)


async def test_a_claim_that_is_cancelled_while_it_waits_is_none(office: Office) -> None:
    async def never(holder: int) -> bool:
        await asyncio.Event().wait()
        return True

    await office.claim(1)
    office.answers = never
    first = asyncio.ensure_future(office.claim(2))
    await turns()
    second = asyncio.ensure_future(office.claim(3))
    await turns()
    assert office.challenged == [1]
    second.cancel()  # it waited for the lock
    first.cancel()  # it waited for the answer
    await asyncio.wait((first, second))
    assert holders(office.registry) == {CAM: 1}
    office.answers = office._no
    await office.refused(4)
    office.registry.release(CAM, 1, 1, 0)
    await office.claim(4)
    assert holders(office.registry) == {CAM: 4}


async def test_a_stale_release_is_ignored(office: Office) -> None:
    registry = office.registry
    await office.claim(1, 1)
    await office.claim(1, 2)
    registry.began(CAM, 1)
    registry.release(CAM, 1, 1, 9000)  # of the claim before
    registry.release(CAM, 2, 2, 9000)  # not its
    registry.release(OTHER, 1, 2, 9000)
    assert holders(registry) == {CAM: 1} and office.announced == [(CAM, 1)]
    registry.release(CAM, 1, 2, 100)
    assert not holders(registry) and office.announced == [(CAM, 1), (CAM, None)]
    registry.release(CAM, 1, 2, 100)
    assert office.announced == [(CAM, 1), (CAM, None)]


async def test_what_a_stream_had_got_to_is_known_for_the_grace_time(office: Office, clock: Clock) -> None:
    await office.claim(1)
    office.registry.release(CAM, 1, 1, 5000)
    clock.now += GRACE
    assert await office.claim(2) == (5000, clock.now - GRACE)
    office.registry.release(CAM, 2, 1, 6000)
    clock.now += GRACE + 0.1
    assert await office.claim(1) is None


async def test_of_those_who_saw_it_the_one_who_got_furthest_counts(office: Office, clock: Clock) -> None:
    registry = office.registry
    await office.claim(1)
    registry.began(CAM, 1)
    registry.forget_worker(1)
    for time in (7000, 9000, 8000):
        clock.now += 0.1
        registry.seen(CAM, time)
    assert await office.claim(2) == (9000, clock.now)


async def test_those_who_saw_it_may_say_so_before_the_holder_is_known_to_be_lost(office: Office, clock: Clock) -> None:
    await office.claim(1)
    office.registry.began(CAM, 1)
    office.registry.seen(CAM, 9000)
    office.registry.forget_worker(1)
    assert await office.claim(2) == (9000, clock.now)


async def test_a_stream_is_lost_until_it_is_begun_anew(office: Office, clock: Clock) -> None:
    registry = office.registry
    assert not registry.lost(CAM)
    await office.claim(1)
    registry.forget_worker(1)
    assert not registry.lost(CAM)  # nobody watched what had not begun
    await office.claim(1)
    registry.began(CAM, 1)
    assert not registry.lost(CAM)
    registry.forget_worker(1)
    registry.tick()
    assert registry.lost(CAM)
    await office.claim(2)
    assert registry.lost(CAM)
    registry.began(CAM, 2)
    assert not registry.lost(CAM)
    registry.release(CAM, 2, 1, 0)
    assert not registry.lost(CAM)
    await office.claim(1)
    registry.began(CAM, 1)
    registry.forget_worker(1)
    clock.now += GRACE + 0.1
    registry.tick()
    assert not registry.lost(CAM) and not registry._entries


async def test_those_who_saw_a_stream_nobody_knows_are_heard(office: Office, clock: Clock) -> None:
    office.registry.seen(CAM, 7000)
    assert not holders(office.registry)
    assert await office.claim(2) == (7000, clock.now)


async def test_a_dead_holder_of_a_stream_of_that_name_long_ago_says_nothing(office: Office, clock: Clock) -> None:
    await office.claim(1)
    office.registry.release(CAM, 1, 1, 10_000_000)
    clock.now += 3600
    assert await office.claim(2) is None
    assert office.registry.forget_worker(2) == [CAM]
    assert await office.claim(3) is None


async def test_what_nobody_has_or_needs_is_forgotten(office: Office, clock: Clock) -> None:
    registry = office.registry
    await office.claim(1)
    registry.tick()
    assert holders(registry) == {CAM: 1}
    registry.release(CAM, 1, 1, 5000)
    registry.tick()
    assert len(registry._entries) == 1
    clock.now += GRACE + 0.1
    registry.tick()
    assert not registry._entries and not registry._locks
    await office.claim(1)
    await office.refused(2)
    registry.forget_worker(1)
    assert await office.claim(2, 2) is None
    registry.release(CAM, 2, 2, 0)
    clock.now += GRACE + 0.1
    registry.tick()
    assert not registry._entries and not registry._locks


async def test_forgetting_one_worker_leaves_the_claims_of_others(office: Office) -> None:
    await office.claim(1)
    await office.claim(2, key=OTHER)
    assert office.registry.forget_worker(3) == []
    assert office.registry.forget_worker(1) == [CAM]
    assert holders(office.registry) == {OTHER: 2} and office.announced == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("claim release began die tick".split()), st.integers(0, 3)), max_size=40))
def test_a_stream_has_one_holder_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """And those who watch are told of it: what was announced last is what holds."""

    async def check() -> None:
        office = Office()
        registry = office.registry

        async def maybe(holder: int) -> bool:
            await turns(1)
            return holder % 2 == 0

        office.answers = maybe
        granted: dict[int, int] = {}
        tasks = []
        for request, (what, serial) in enumerate(steps):
            if what == "claim":

                async def claim(serial: int = serial, request: int = request) -> None:
                    try:
                        await office.claim(serial, request)
                    except RefusedError:
                        return
                    granted[serial] = request

                tasks.append(asyncio.ensure_future(claim()))
            elif what == "release":
                registry.release(CAM, serial, granted.pop(serial, -1), request)
            elif what == "began":
                registry.began(CAM, serial)
            elif what == "die":
                registry.forget_worker(serial)
                granted.pop(serial, None)
            else:
                registry.tick()
            await turns(1)
            held = registry.held()
            assert len(held) <= 1
            last = office.announced[-1][1] if office.announced else None
            assert last == (held[0][1] if held else None)
        await asyncio.gather(*tasks)

    asyncio.run(check())


# The worker's side


class FakePublisher:
    id = "x"

    def displaced(self, stream: Stream, code: str, description: str) -> None: ...


class FakeRelay(FakePublisher):
    tracks = None
    told = ""

    def open(self, lane: Any) -> None: ...

    def close(self, lane: Any) -> None: ...

    def end(self) -> None: ...


class Bench:
    """A claimant on a real hub, and what it told the supervisor."""

    def __init__(self) -> None:
        self.told: list[messages.Message] = []
        self.hub = Hub(StreamSettings(), lambda stream: None, PlainStorage)
        self.claimant = Claimant(self.hub, self.told.append)

    async def ask(self, key: StreamKey = CAM) -> asyncio.Task[tuple[int, float] | None]:
        task = asyncio.ensure_future(self.claimant.claim(key))
        await turns(1)
        return task

    async def ask_and_publish(self) -> asyncio.Task[None]:
        """What ``pyrtmp.aio.publishing`` does."""

        async def publish() -> None:
            await self.claimant.claim(CAM)
            self.hub.publish(CAM, FakePublisher(), 0.0)

        task = asyncio.ensure_future(publish())
        await turns(1)
        return task

    def grant(self, request: int, time: int | None = None, at: float | None = None) -> None:
        self.claimant.granted(messages.Granted(request, time, at))

    def said(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.told if isinstance(message, kind)]


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_claim_waits_for_the_supervisors_word(bench: Bench) -> None:
    tasks = [await bench.ask(), await bench.ask(OTHER)]
    assert bench.told == [messages.Claim(1, *CAM), messages.Claim(2, *OTHER)]
    bench.grant(2, 7000, 12.5)
    bench.grant(1)
    assert await asyncio.gather(*tasks) == [None, (7000, 12.5)]
    bench.claimant.release(CAM, 8000)
    bench.claimant.release(CAM, 8000)  # once
    assert bench.said(messages.Released) == [messages.Released(1, *CAM, 8000)]


async def test_a_claim_may_be_denied(bench: Bench) -> None:
    task = await bench.ask()
    bench.claimant.denied(messages.Denied(1, "taken"))
    with pytest.raises(RefusedError, match="taken") as caught:
        await task
    assert caught.value.code == "NetStream.Publish.BadName"
    bench.claimant.release(CAM, 0)
    assert bench.said(messages.Released) == []


async def test_a_word_that_answers_nothing(bench: Bench) -> None:
    with pytest.raises(ValueError):
        bench.grant(1)
    bench.claimant.denied(messages.Denied(1, "never asked"))


async def test_only_what_is_published_here_is_told_to_have_begun(bench: Bench) -> None:
    stream = bench.hub.open(CAM, 0.0)
    relay = FakeRelay()
    bench.hub.relay(stream, relay, 0.0)
    assert bench.told == []
    bench.hub.publish(CAM, FakePublisher(), 0.0, hops=("a", "b"))
    assert bench.told == [messages.Began(*CAM, stream.lineage, ["a", "b"])]
    bench.hub.end(stream, 0.0)
    assert len(bench.told) == 1


async def test_the_newest_grant_is_what_is_released(bench: Bench) -> None:
    for request in (1, 2):
        task = await bench.ask()
        bench.grant(request)
        await task
    bench.claimant.release(CAM, 100)
    assert bench.said(messages.Released) == [messages.Released(2, *CAM, 100)]


@pytest.mark.parametrize("answer", ["granted", "denied"])
async def test_one_that_does_not_wait_gives_back_what_it_is_granted(bench: Bench, answer: str) -> None:
    task = await bench.ask()
    task.cancel()
    await asyncio.wait((task,))
    if answer == "granted":
        bench.grant(1)
    else:
        bench.claimant.denied(messages.Denied(1, "taken"))
    await turns()
    released = [messages.Released(1, *CAM, 0)] if answer == "granted" else []
    assert bench.said(messages.Released) == released


async def test_a_grant_and_a_goodbye_at_the_same_moment(bench: Bench) -> None:
    """The answer is there, but who asked is cancelled before it can take it."""
    task = await bench.ask()
    bench.grant(1)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    await turns()
    assert bench.said(messages.Released) == [messages.Released(1, *CAM, 0)]


async def test_a_denial_and_a_goodbye_at_the_same_moment(bench: Bench) -> None:
    task = await bench.ask()
    bench.claimant.denied(messages.Denied(1, "taken"))
    task.cancel()
    await asyncio.wait((task,))
    await turns()
    assert task.cancelled() and bench.said(messages.Released) == []


@pytest.mark.parametrize("gone", [0, 1])
async def test_of_two_here_who_are_granted_a_stream_the_one_who_left_does_not_release_it(
    bench: Bench, gone: int
) -> None:
    """Both words come in one go, before the one that stays could begin."""
    tasks = [await bench.ask_and_publish() for _ in range(2)]
    tasks[gone].cancel()
    await asyncio.wait((tasks[gone],))
    bench.grant(1)
    bench.grant(2)
    await tasks[1 - gone]
    await turns()
    stream = bench.hub.find(*CAM)
    assert stream is not None and bench.told[2:] == [messages.Began(*CAM, stream.lineage)]
    # Nobody else can have claimed it since: the newest claim is what the supervisor knows.
    bench.claimant.release(CAM, 500)
    assert bench.told[3:] == [messages.Released(2, *CAM, 500)]


async def test_one_who_left_does_not_release_what_another_one_here_publishes(bench: Bench) -> None:
    first = await bench.ask_and_publish()
    bench.grant(1)
    await first
    second = await bench.ask()
    second.cancel()
    await asyncio.wait((second,))
    bench.grant(2)
    await turns()
    assert bench.said(messages.Released) == []


async def test_a_relayed_stream_is_not_published_here(bench: Bench) -> None:
    bench.hub.relay(bench.hub.open(CAM, 0.0), FakeRelay(), 0.0)
    task = await bench.ask()
    task.cancel()
    await asyncio.wait((task,))
    bench.grant(1)
    await turns()
    assert bench.said(messages.Released) == [messages.Released(1, *CAM, 0)]


# All of it together


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    machine = Machine()
    yield machine
    await machine.close()


async def test_a_storm_of_publishers_on_two_workers_has_one_winner(machine: Machine) -> None:
    members = await machine.two()
    peers = [await machine.rtmp(members[number % 2]) for number in range(20)]
    winners: list[RtmpTape] = []

    async def publish(peer: RtmpTape) -> None:
        try:
            await peer.publish()
            winners.append(peer)
            for number in range(10_000):
                await peer.write(frame(number, key=number % 10 == 0))
                await asyncio.sleep(0.03)  # at its pace
        except (AssertionError, OSError):
            await peer.until_closed()

    for turn in range(2):
        tasks = [asyncio.ensure_future(publish(peer)) for peer in peers]
        await eventually(lambda: sum(task.done() for task in tasks) == 19, 10)  # noqa: B023
        assert len(winners) == turn + 1 and len(holders(machine.registry)) == 1
        assert sum(len([s for s in member.server.hub.live() if not s.relayed]) for member in members) == 1
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for peer in peers:
            peer.sock.close()
        await eventually(lambda: not holders(machine.registry))
        peers = [await machine.rtmp(members[number % 2]) for number in range(20)]
    assert [member.server.counters.takeovers for member in members] == [0, 0]


async def test_publishers_that_leave_while_they_wait_leave_no_claim(machine: Machine) -> None:
    members = await machine.two()
    winner = await machine.publisher(members[0])

    async def send() -> None:
        for number in range(10_000):
            await winner.write(frame(number, key=number % 10 == 0))
            await asyncio.sleep(0.03)  # at its pace

    sending = asyncio.ensure_future(send())
    waiting = [await machine.rtmp(members[number % 2]) for number in range(10)]
    for peer in waiting:
        await peer.connect()
        await peer.command("createStream", transaction=2)
        await peer.command("publish", "cam", "live", msid=1)
    await eventually(lambda: sum(isinstance(message, messages.Claim) for message in machine.said) >= 1 + 5)
    for member in members:
        for client in list(member.server.clients.values()):
            if client.role != "publish":
                client.kick()
    await eventually(lambda: not any(member.claimant._waiting for member in members))
    assert holders(machine.registry) == {CAM: 1} and members[0].stream().publisher is not None
    sending.cancel()
    winner.sock.close()
    await eventually(lambda: not holders(machine.registry))
    await machine.publisher(members[1])
    assert holders(machine.registry) == {CAM: 2}


# Pulls


async def test_a_pull_gives_way_and_challenges_nobody(office: Office) -> None:
    async def pull(serial: int, request: int) -> None:
        await office.registry.claim(CAM, serial, request, None)

    await pull(1, 1)
    for serial in (1, 2):
        with pytest.raises(RefusedError):
            await pull(serial, 2)
    # Whoever publishes it takes it over, and what the pull says when it ends is nothing to that.
    asked: list[int] = []

    async def challenge(holder: int) -> bool:
        asked.append(holder)
        return True

    await office.registry.claim(CAM, 2, 7, challenge)
    assert asked == [1] and holders(office.registry) == {CAM: 2}
    office.registry.release(CAM, 1, 1, 5000)
    assert holders(office.registry) == {CAM: 2}
    with pytest.raises(RefusedError):
        await pull(1, 3)
    office.registry.release(CAM, 2, 7, 6000)
    await pull(1, 4)
    assert holders(office.registry) == {CAM: 1}


async def test_a_client_that_claims_what_is_pulled_here_keeps_its_claim(bench: Bench) -> None:
    pulling = asyncio.ensure_future(bench.claimant.claim_pull(CAM))
    await turns(1)
    assert bench.told == [messages.Claim(1, *CAM, pull=True)]
    bench.grant(1)
    await pulling
    client = await bench.ask()
    bench.grant(2)
    await client
    bench.claimant.release_pull(CAM, 4000)
    bench.claimant.release_pull(CAM, 4000)  # once
    assert bench.said(messages.Released) == [messages.Released(1, *CAM, 4000)]
    bench.claimant.release(CAM, 9000)
    assert bench.said(messages.Released)[1:] == [messages.Released(2, *CAM, 9000)]


async def test_a_pull_that_does_not_wait_claims_nothing(bench: Bench) -> None:
    pulling = asyncio.ensure_future(bench.claimant.claim_pull(CAM))
    await turns(1)
    pulling.cancel()
    await asyncio.wait((pulling,))
    bench.grant(1)
    await turns(2)
    assert bench.said(messages.Released) == [messages.Released(1, *CAM, 0)]
    bench.claimant.release_pull(CAM, 4000)
    assert len(bench.said(messages.Released)) == 1
