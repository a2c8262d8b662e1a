"""``cluster.registry.keeper``: nodes that share a registry, in memory and in a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from time import monotonic

import pytest

from cluster.registry import (
    Began,
    Challenge,
    Copy,
    Event,
    Lease,
    Location,
    NodeRecord,
    Offer,
    Registry,
    RegistryError,
    TakenError,
    connect,
)
from cluster.registry.memory import MemoryRegistry
from pyrtmp.names import StreamKey
from tests.cluster.registry.members import CAM, OTHER, Clock, Member, Tape, eventually, offer, record
from tests.cluster.registry.servers import MISSING

Make = Callable[..., Member]


@pytest.fixture(params=["memory", pytest.param("redis", marks=MISSING)])
async def make(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Make]:
    """Makes nodes that share a registry."""
    shared = MemoryRegistry()
    members: list[Member] = []

    def make(id: str, **options: object) -> Member:
        if request.param == "memory":
            registry: Registry = shared
        else:
            registry = connect(request.getfixturevalue("shared_redis").url, prefix)
        members.append(Member(registry, id, **options))  # type: ignore[arg-type]
        return members[-1]

    yield make
    for member in members:
        await member.keeper.close()
    assert not any(member.keeper._tasks for member in members)


async def started(make: Make, *ids: str, **options: object) -> list[Member]:
    members = [make(id, **options) for id in ids]
    for member in members:
        await member.keeper.start()
    return members


async def taken(member: Member, key: StreamKey = CAM) -> Lease:
    with pytest.raises(TakenError) as caught:
        await member.claim(key)
    return caught.value.lease


# Claims


async def test_who_publishes_first_owns_the_stream(make: Make) -> None:
    a, b = await started(make, "a", "b")
    lease = await a.claim()
    assert (lease.node, lease.epoch, lease.publisher, lease.boot) == ("a", 1, "publisher-at-a", "boot-of-a")
    assert a.keeper.lease(CAM) == lease and a.keeper.leases == [lease] and not a.keeper.fenced(CAM)
    assert await taken(b) == lease
    assert a.challenged == [CAM]
    assert b.keeper.lease(CAM) is None and b.keeper.fenced(CAM)
    await eventually(lambda: b.began == [CAM])
    assert (await b.keeper.locate(CAM)).owner == lease
    assert a.began == [] and a.lost == []


async def test_a_publisher_that_lets_go(make: Make) -> None:
    a, b = await started(make, "a", "b")
    await a.claim()
    a.yields, a.delay = True, 1.2  # longer than it takes to be thought dead
    lease = await b.claim()
    assert (lease.node, lease.epoch) == ("b", 2)
    assert a.challenged == [CAM] and a.keeper.lease(CAM) is None and a.lost == []
    await a.keeper.release(CAM)
    assert (await a.keeper.locate(CAM)).owner == lease


async def test_a_stream_that_its_node_released_is_free_at_once(make: Make) -> None:
    a, b = await started(make, "a", "b")
    lease = await a.claim()
    await a.keeper.release(CAM, lease.epoch + 1)
    assert a.keeper.lease(CAM) == lease
    await a.keeper.release(CAM, lease.epoch)
    await a.keeper.release(CAM)
    assert (await b.claim()).epoch == 2
    assert a.challenged == []


async def test_a_second_claim_of_the_same_node_is_granted(make: Make) -> None:
    (a,) = await started(make, "a")
    first, second = await a.claim(), await a.claim()
    assert second.epoch == first.epoch + 1
    await a.keeper.release(CAM, first.epoch)  # of the publisher before
    assert a.keeper.lease(CAM) == second


async def test_a_node_that_hangs_loses_the_stream_when_another_wants_it(make: Make) -> None:
    a, b = await started(make, "a", "b")
    await a.claim()
    a.hang()
    begun = monotonic()
    lease = await b.claim()
    assert lease.epoch == 2 and 0.9 < monotonic() - begun < 9, "before the lease ends"
    assert a.keeper.lease(CAM) is not None and a.lost == []
    await a.wake()
    a.keeper.on_back()
    await eventually(lambda: a.lost)
    assert a.lost == [(CAM, lease)] and a.keeper.fenced(CAM)
    assert b.keeper.lease(CAM) == lease and b.lost == []


async def test_a_node_that_is_gone_loses_the_stream_at_once(make: Make) -> None:
    a, b = await started(make, "a", "b", alive_seconds=60.0)
    await a.claim()
    a.hang()
    await b.registry.drop_node("a")
    async with asyncio.timeout(9):
        assert (await b.claim()).epoch == 2


async def test_a_node_that_was_started_again_has_not_what_it_had_before(make: Make) -> None:
    a, b = await started(make, "a", "b", alive_seconds=60.0)
    old = await a.claim()
    await a.claim(OTHER)
    a.hang()
    assert (await b.keeper.locate(CAM)).owner == old
    (again,) = await started(make, "a")
    again.record = replace(again.record, boot="another")
    again.keeper.touch()
    await eventually(lambda: any(each.boot == "another" for each in b.keeper.nodes()))
    assert await b.keeper.locate(CAM) == Location()
    async with asyncio.timeout(9):
        assert (await b.claim()).epoch == 2
        assert (await again.claim(OTHER)).epoch == 2


async def test_an_owner_that_is_alive_but_slow_keeps_the_stream(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.registry.challenges.VERDICT_SECONDS", 0.3)
    a, b = await started(make, "a", "b")
    await a.claim()
    a.delay, a.yields = 1.0, True
    await taken(b)


async def test_a_challenge_that_fails_is_refused(make: Make) -> None:
    a, b = await started(make, "a", "b")
    await a.claim()
    a.keeper._on_challenge = lambda key: 1 / 0  # type: ignore[assignment,return-value]
    await taken(b)
    assert a.keeper.lease(CAM) is not None


async def test_many_who_want_a_stream_ask_once(make: Make) -> None:
    a, b, c, d = await started(make, "a", "b", "c", "d")
    await a.claim()
    a.yields, a.delay = True, 0.2
    for each in (b, c, d):
        each.yields = False
    results = await asyncio.gather(*(each.claim() for each in (b, c, d)), return_exceptions=True)
    (lease,) = [each for each in results if isinstance(each, Lease)]
    assert all(isinstance(each, Lease | TakenError) for each in results)
    assert a.challenged == [CAM]
    assert (await a.keeper.locate(CAM)).owner == lease


async def test_nobody_is_taken_over_by_who_hears_nothing(make: Make) -> None:
    a, b = await started(make, "a", "b")
    lease = await a.claim()
    b.registry.listeners.clear()
    async with asyncio.timeout(9):
        assert await taken(b) == lease
    assert (await b.keeper.locate(CAM)).owner == lease


async def test_a_client_that_goes_while_it_claims_leaves_nothing_behind(make: Make) -> None:
    a, b = await started(make, "a", "b")
    for steps in range(12):
        task = asyncio.create_task(a.claim())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: not a.keeper._tasks)
        if task.cancelled():
            assert a.keeper.lease(CAM) is None
        await a.keeper.release(CAM)
    async with asyncio.timeout(9):
        await b.claim()
    assert a.challenged == []


async def test_races_have_one_winner(make: Make) -> None:
    a, b = await started(make, "a", "b")
    won = []
    for number in range(100):
        key = StreamKey("live", f"race{number}")
        first, second = (a, b) if number % 2 else (b, a)
        results = await asyncio.gather(first.claim(key), second.claim(key), return_exceptions=True)
        (lease,) = [each for each in results if isinstance(each, Lease)]
        (refused,) = [each for each in results if isinstance(each, TakenError)]
        assert refused.lease == lease
        won.append(lease.node)
        for each in (a, b):
            assert (await each.keeper.locate(key)).owner == lease
            assert (each.keeper.lease(key) is not None) == (each.record.id == lease.node)
    assert a.lost == b.lost == []
    assert len(set(won)) == 2


async def test_races_for_a_stream_whose_owner_died_have_one_winner(make: Make) -> None:
    a, b, c = await started(make, "a", "b", "c", alive_seconds=1.0)
    keys = [StreamKey("live", f"race{number}") for number in range(20)]
    for key in keys:
        await c.claim(key)
    c.hang()

    async def race(key: StreamKey) -> None:
        results = await asyncio.gather(a.claim(key), b.claim(key), return_exceptions=True)
        (lease,) = [each for each in results if isinstance(each, Lease)]
        assert lease.epoch == 2 and sum(isinstance(each, TakenError) for each in results) == 1

    await asyncio.gather(*map(race, keys))


# Leases


async def test_leases_are_renewed(make: Make) -> None:
    a, b = await started(make, "a", "b", lease_seconds=0.6)
    lease = await a.claim()
    await a.keeper.hold_copy(OTHER, "lineage")
    await asyncio.sleep(1.5)
    assert await b.registry.lookup(CAM) == Location(lease)
    assert [each.node for each in (await b.registry.lookup(OTHER)).copies] == ["a"]
    assert a.keeper.expired() == [] and not a.keeper.fenced(CAM)


async def test_who_stood_still_learns_that_the_stream_is_anothers(make: Make) -> None:
    clock = Clock()
    (a,) = await started(make, "a", clock=clock, lease_seconds=0.5)
    (b,) = await started(make, "b", lease_seconds=0.5)
    await a.claim()
    a.hang()
    await asyncio.sleep(0.7)
    winner = await b.claim()
    assert winner.epoch == 2 and b.keeper.lease(CAM) == winner
    clock.ahead += 1.0
    assert a.keeper.fenced(CAM)  # before it has asked, and before its own loop runs again
    assert a.keeper.expired() == [CAM]
    await a.wake()
    await eventually(lambda: a.lost)
    assert a.lost == [(CAM, winner)]


async def test_who_stood_still_but_lost_nothing_is_trusted_when_the_registry_says_so(make: Make) -> None:
    clock = Clock()
    (a,) = await started(make, "a", clock=clock, lease_seconds=60.0)
    lease = await a.claim()
    clock.ahead += 30.0
    assert not a.keeper.fenced(CAM)
    clock.ahead += 40.0
    assert a.keeper.fenced(CAM)
    await eventually(lambda: not a.keeper.fenced(CAM))
    assert a.keeper.lease(CAM) == lease and a.lost == []


async def test_the_loop_finds_out_by_itself(make: Make) -> None:
    clock = Clock()
    (a,) = await started(make, "a", clock=clock, lease_seconds=60.0)
    await a.claim()
    held = a.keeper._held[CAM]
    clock.ahead += 70.0
    before = held.confirmed
    await eventually(lambda: held.confirmed > before + 69)
    assert not a.keeper.fenced(CAM)


# Copies, nodes, look-ups


async def test_copies_come_and_go(make: Make) -> None:
    a, b = await started(make, "a", "b")
    assert await b.keeper.locate(CAM) == Location()
    await a.keeper.hold_copy(CAM, "line")
    await asyncio.sleep(0.3)
    copies = (Copy(key=CAM, node="a", lineage="line", rtmp="127.0.0.1:1935"),)
    assert (await b.keeper.locate(CAM)).copies == copies
    await a.keeper.drop_copy(CAM)
    await a.keeper.drop_copy(CAM)
    assert (await b.registry.lookup(CAM)).copies == ()


async def test_nodes_are_seen_and_leave(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.registry.keeper.HEARTBEAT_SECONDS", 60.0)
    monkeypatch.setattr("cluster.registry.keeper.NODE_SECONDS", 60.0)
    a, b = await started(make, "a", "b")
    assert [each.id for each in b.keeper.nodes()] == ["a", "b"]
    a.keeper.touch()
    await eventually(lambda: len(a.keeper.nodes()) == 2)
    a.record = replace(a.record, draining=True, stress=0.5)
    a.keeper.touch()
    await eventually(lambda: any(each.draining for each in b.keeper.nodes()))
    await a.claim()
    await a.keeper.hold_copy(OTHER, "x")
    await a.keeper.close()
    b.keeper.touch()
    await eventually(lambda: [each.id for each in b.keeper.nodes()] == ["b"])
    assert await b.registry.lookup(CAM) == await b.registry.lookup(OTHER) == Location()


async def test_an_event_drops_what_was_remembered(make: Make) -> None:
    a, b = await started(make, "a", "b")
    assert await b.keeper.locate(CAM) == Location()
    for epoch in (1, 2, 3):
        await a.claim()
        await eventually(lambda epoch=epoch: len(b.began) == epoch)
        owner = (await b.keeper.locate(CAM)).owner
        assert owner is not None and owner.epoch == epoch
    ended = Tape()
    b.registry.listeners.append(ended)
    await a.keeper.release(CAM)
    await eventually(lambda: ended.events)
    assert await b.keeper.locate(CAM) == Location()


# A registry that is away, and what is in it when it is back


class Moody(MemoryRegistry):
    """One that can be away, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.lookups = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def _ask(self) -> None:
        if self.away:
            raise RegistryError("it is away")

    async def claim(
        self, key: StreamKey, offer: Offer, *, seconds: float, over: int | None = None, epoch: int = 0, floor: int = 0
    ) -> Lease:
        self._ask()
        return await super().claim(key, offer, seconds=seconds, over=over, epoch=epoch, floor=floor)

    async def renew(self, leases, seconds):  # type: ignore[no-untyped-def]
        self._ask()
        return await super().renew(leases, seconds)

    async def release(self, lease: Lease) -> bool:
        self._ask()
        return await super().release(lease)

    async def lookup(self, key: StreamKey) -> Location:
        self.lookups += 1
        await self.gate.wait()
        self._ask()
        return await super().lookup(key)

    async def put_node(self, record: NodeRecord, seconds: float) -> bool:
        self._ask()
        return await super().put_node(record, seconds)

    async def nodes(self) -> list[NodeRecord]:
        self._ask()
        return await super().nodes()

    async def drop_node(self, id: str) -> None:
        self._ask()

    async def publish(self, event: Event) -> None:
        self._ask()
        await super().publish(event)

    def back(self) -> None:
        self.away = False
        for listener in self.listeners:
            listener.on_back()


@pytest.fixture
def moody() -> Moody:
    return Moody()


@pytest.fixture
async def two(moody: Moody) -> AsyncIterator[tuple[Member, Member]]:
    # Leases long enough that nothing here happens because it is time to renew them.
    a, b = Member(moody, "a", lease_seconds=60.0), Member(moody, "b", lease_seconds=60.0)
    await a.keeper.start()
    await b.keeper.start()
    yield a, b
    moody.away = False
    await a.keeper.close()
    await b.keeper.close()


async def test_without_a_registry_everybody_may_publish(moody: Moody, two: tuple[Member, Member]) -> None:
    a, b = two
    before = await a.claim(OTHER)
    moody.away = True
    assert (await a.claim()).epoch == 1
    assert (await a.claim(OTHER)).epoch == before.epoch + 1
    assert not a.keeper.fenced(CAM) and a.keeper.lease(CAM) is not None
    assert (await b.keeper.locate(CAM)) == Location()
    await a.keeper.release(OTHER)
    moody.back()
    await eventually(lambda: b.began.count(CAM) == 1)
    assert (await b.keeper.locate(CAM)).owner == a.keeper.lease(CAM)
    assert a.lost == b.lost == []


@pytest.mark.parametrize(("epochs", "winner"), [((3, 1), "a"), ((1, 3), "b"), ((2, 2), "b")])
async def test_of_two_who_published_meanwhile_one_stays(
    moody: Moody, two: tuple[Member, Member], epochs: tuple[int, int], winner: str
) -> None:
    moody.away = True
    for member, count in zip(two, epochs, strict=True):
        for _ in range(count):
            lease = await member.claim()
        assert lease.epoch == count
    moody.back()
    loser = two[0] if winner == "b" else two[1]
    stays = two[1] if winner == "b" else two[0]
    await eventually(lambda: loser.lost)
    assert loser.lost == [(CAM, stays.keeper.lease(CAM))]
    assert stays.lost == [] and stays.keeper.lease(CAM) is not None and loser.keeper.lease(CAM) is None
    assert (await loser.keeper.locate(CAM)).owner == stays.keeper.lease(CAM)


async def test_a_registry_that_is_away_ends_nothing(moody: Moody) -> None:
    clock = Clock()
    a = Member(moody, "a", clock=clock)
    await a.keeper.start()
    lease = await a.claim()
    moody.away = True
    for _ in range(60):  # a minute, in steps that are no standstill
        clock.ahead += 0.5
        assert not a.keeper.fenced(CAM)
        await asyncio.sleep(0)
    assert a.keeper.expired() == [CAM] and a.lost == []
    moody.back()
    await eventually(lambda: not a.keeper.expired())
    assert a.keeper.lease(CAM) == lease
    await a.keeper.close()


async def test_an_empty_registry_is_filled_again(moody: Moody, two: tuple[Member, Member]) -> None:
    a, b = two
    keys = [StreamKey("live", f"s{number}") for number in range(100)]
    leases = [await a.claim(key) for key in keys]
    await b.keeper.hold_copy(CAM, "x")
    moody.forget()  # and no connection ends
    await eventually(lambda: len(moody._leases.all()) == 100)
    assert a.keeper.leases == leases and a.lost == []
    await eventually(lambda: moody._copies.get(CAM))
    assert len(await moody.nodes()) == 2


async def test_a_registry_that_has_an_older_state(moody: Moody, two: tuple[Member, Member]) -> None:
    a, b = two
    old = await a.claim()
    a.yields = True
    lease = await b.claim()
    moody.forget()
    await moody.claim(CAM, old.offer, seconds=10, epoch=old.epoch)  # a replica that had not heard of b
    b.keeper.on_back()
    await eventually(lambda: moody._leases.get(str(CAM)) == lease)
    assert b.lost == []


async def test_it_starts_and_closes_without_a_registry(moody: Moody) -> None:
    moody.away = True
    a = Member(moody, "a")
    await a.keeper.start()
    await a.claim()
    await a.keeper.hold_copy(OTHER, "x")
    assert a.keeper.nodes() == () and not a.keeper.reachable
    await a.keeper.close()
    assert a.keeper.leases == [] and moody.listeners == []


# Look-ups


async def test_one_look_up_for_all_who_ask(moody: Moody, two: tuple[Member, Member]) -> None:
    a, b = two
    lease = await a.claim()
    await eventually(lambda: b.began)
    moody.gate.clear()
    asking = [asyncio.create_task(b.keeper.locate(CAM)) for _ in range(200)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0.02)
    moody.gate.set()
    assert {each.owner for each in await asyncio.gather(*asking[1:])} == {lease}
    assert moody.lookups == 1
    await b.keeper.locate(CAM)
    assert moody.lookups == 1


async def test_answers_are_remembered_for_a_moment(moody: Moody) -> None:
    clock = Clock()
    a = Member(moody, "a", clock=clock)
    await moody.claim(OTHER, offer("z", OTHER), seconds=100)
    for key, seconds in ((CAM, 0.25), (OTHER, 1.0)):
        moody.lookups = 0
        await a.keeper.locate(key)
        clock.ahead += seconds - 0.1
        await a.keeper.locate(key)
        assert moody.lookups == 1
        clock.ahead += 0.2
        await a.keeper.locate(key)
        assert moody.lookups == 2


async def test_an_answer_that_an_event_overtook_is_not_remembered(moody: Moody, two: tuple[Member, Member]) -> None:
    _, b = two
    moody.gate.clear()
    early = asyncio.create_task(b.keeper.locate(CAM))
    await asyncio.sleep(0.01)
    b.keeper.on_event(Began(CAM, "z", 4))
    late = asyncio.create_task(b.keeper.locate(CAM))
    await asyncio.sleep(0.01)
    assert moody.lookups == 2
    moody.gate.set()
    await asyncio.gather(early, late)
    await b.keeper.locate(CAM)
    assert moody.lookups == 2


async def test_an_answer_that_an_event_overtook_is_better_than_none(moody: Moody, two: tuple[Member, Member]) -> None:
    _, b = two
    lease = await moody.claim(CAM, offer("z"), seconds=1000)
    moody.gate.clear()
    early = asyncio.create_task(b.keeper.locate(CAM))
    await asyncio.sleep(0.01)
    b.keeper.on_event(Began(CAM, "z", 1))
    moody.gate.set()
    await early
    moody.away = True
    assert (await b.keeper.locate(CAM)).owner == lease
    assert moody.lookups == 2


async def test_the_last_answer_holds_while_the_registry_is_away(moody: Moody) -> None:
    clock = Clock()
    a = Member(moody, "a", clock=clock)
    lease = await moody.claim(CAM, offer("z"), seconds=1000)
    await a.keeper.locate(CAM)
    moody.away = True
    for _ in range(3):
        clock.ahead += 3600
        assert (await a.keeper.locate(CAM)).owner == lease
        assert await a.keeper.locate(OTHER) == Location()
        assert await a.keeper.locate(StreamKey("{", "*")) == Location()


async def test_events_of_others_do_no_harm(moody: Moody, two: tuple[Member, Member]) -> None:
    a, b = two
    lease = await a.claim()
    for _ in range(3000):
        a.keeper.on_event(Challenge(CAM, "b", "a", "not-asked"))
        a.keeper.on_event(Began(CAM, "b", 99))
    a.keeper._on_began = lambda key: 1 / 0  # type: ignore[assignment,return-value]
    a.keeper.on_event(Began(CAM, "b", 1))
    await eventually(lambda: not a.keeper._challenges._tasks)
    assert a.challenged == [CAM]
    assert a.keeper.lease(CAM) == lease and a.lost == []
    assert record("a").id == "a" and b.lost == []


async def test_after_trouble_silence_says_nothing(make: Make) -> None:
    a, b = await started(make, "a", "b")
    lease = await a.claim()
    a.hang()
    b.keeper.on_back()
    assert await taken(b) == lease  # perhaps it does not hear yet
    await b.registry.drop_node("a")
    assert await taken(b) == lease  # perhaps it has not told of itself again
    b.keeper._trouble -= 4.0
    assert (await b.claim()).epoch == lease.epoch + 1


async def test_one_broken_connection_is_no_outage(moody: Moody, two: tuple[Member, Member]) -> None:
    a, b = two
    lease = await a.claim()
    errors = iter([RegistryError("a connection ended")])
    before = moody._ask

    def ask() -> None:
        before()
        for error in errors:
            raise error

    moody._ask = ask  # type: ignore[method-assign]
    assert await taken(b) == lease
