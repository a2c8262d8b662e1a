"""What every registry promises, in memory and in a real Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from cluster.registry import Began, Copy, Ended, Lease, Location, Registry, RegistryError, TakenError, connect
from cluster.registry.memory import MemoryRegistry
from cluster.registry.redis import MAX_COPIES, Keys, RedisRegistry
from pyrtmp.names import StreamKey
from tests.cluster.registry.members import CAM, OTHER, Tape, eventually, offer, record
from tests.cluster.registry.servers import MISSING, Server


@pytest.fixture(params=["memory", pytest.param("redis", marks=MISSING)])
async def registry(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Registry]:
    if request.param == "memory":
        registry = connect("memory://")
    else:
        registry = connect(request.getfixturevalue("shared_redis").url, prefix)
    await registry.open()
    yield registry
    await registry.close()


async def claim(registry: Registry, node: str = "a", key: StreamKey = CAM, **more: int | None) -> Lease:
    return await registry.claim(key, offer(node, key), seconds=10, **more)


async def taken(registry: Registry, node: str, **more: int | None) -> Lease:
    with pytest.raises(TakenError) as caught:
        await claim(registry, node, **more)
    return caught.value.lease


async def test_one_owner(registry: Registry) -> None:
    lease = await claim(registry)
    assert lease == Lease.of(offer(), 1)
    assert await taken(registry, "b") == lease
    assert await registry.lookup(CAM) == Location(lease)
    assert await registry.lookup(OTHER) == Location()
    assert (await claim(registry, "b", OTHER)).epoch == 1


async def test_the_epoch_rises_with_each_grant_and_outlives_the_lease(registry: Registry) -> None:
    assert (await claim(registry)).epoch == 1
    again = await claim(registry)
    assert again.epoch == 2
    assert await registry.release(again)
    assert await registry.lookup(CAM) == Location()
    assert (await claim(registry, "b")).epoch == 3


async def test_a_take_over_is_compare_and_set(registry: Registry) -> None:
    first = await claim(registry)
    assert await taken(registry, "b", over=first.epoch + 1) == first
    second = await claim(registry, "b", over=first.epoch)
    assert second.epoch == 2
    assert await taken(registry, "c", over=first.epoch) == second


async def test_who_lost_a_lease_can_neither_renew_nor_release_it(registry: Registry) -> None:
    stale = await claim(registry)
    lease = await claim(registry, "b", over=stale.epoch)
    other = await claim(registry, "b", OTHER)
    gone = Lease.of(offer(key=StreamKey("live", "never")), 9)
    renewal = await registry.renew([stale, lease, other, gone], 10)
    assert renewal.kept == [lease, other]
    assert renewal.lost == [(stale, lease), (gone, None)]
    assert not await registry.release(stale)
    assert (await registry.lookup(CAM)).owner == lease
    assert (await registry.renew([], 10)).kept == []


async def test_a_lease_ends_unless_it_is_renewed(registry: Registry) -> None:
    lease = await registry.claim(CAM, offer(), seconds=0.3)
    kept = await registry.claim(OTHER, offer(key=OTHER), seconds=0.3)
    await registry.renew([kept], 10)
    end = asyncio.get_running_loop().time() + 3
    while (await registry.lookup(CAM)).owner is not None:
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.02)
    assert (await registry.lookup(OTHER)).owner == kept
    assert (await registry.renew([lease], 10)).lost == [(lease, None)]
    assert (await claim(registry, "b")).epoch == 2


async def test_what_was_lost_is_written_again_with_its_own_epoch(registry: Registry) -> None:
    assert (await claim(registry, epoch=7)).epoch == 7  # nobody's
    assert (await claim(registry, epoch=7)).epoch == 7  # one's own
    assert (await claim(registry, epoch=5)).epoch == 7
    assert (await claim(registry, epoch=9)).epoch == 9
    released = await claim(registry)
    assert released.epoch == 10
    await registry.release(released)
    assert (await claim(registry, epoch=9)).epoch == 11  # somebody had it meanwhile


async def test_of_two_owners_the_higher_epoch_wins_then_the_larger_name(registry: Registry) -> None:
    lease = await claim(registry, "b", epoch=7)
    assert await taken(registry, "a", epoch=6) == lease
    assert await taken(registry, "a", epoch=7) == lease
    assert (await claim(registry, "c", epoch=7)).epoch == 7
    assert (await claim(registry, "a", epoch=8)).epoch == 8
    assert (await taken(registry, "c", epoch=7)).node == "a"


async def test_a_new_grant_is_above_what_is_known_elsewhere(registry: Registry) -> None:
    assert (await claim(registry, floor=40)).epoch == 41
    assert (await claim(registry, floor=3)).epoch == 42
    lease = await claim(registry, "b", over=42, floor=100)
    assert lease.epoch == 101


async def test_many_at_once_one_gets_it(registry: Registry) -> None:
    names = [f"n{number}" for number in range(40)]
    random.shuffle(names)
    results = await asyncio.gather(*(claim(registry, name) for name in names), return_exceptions=True)
    (lease,) = [each for each in results if isinstance(each, Lease)]
    assert {each.lease for each in results if isinstance(each, TakenError)} == {lease}


async def test_copies(registry: Registry) -> None:
    one, two = (Copy(key=CAM, node=node, rtmp="127.0.0.1:1935", lineage="x") for node in "ab")
    elsewhere = Copy(key=OTHER, node="a", rtmp="127.0.0.1:1935")
    await registry.put_copies([two, one, elsewhere], 10)
    await registry.put_copies([], 10)
    assert await registry.lookup(CAM) == Location(None, (one, two))
    await registry.drop_copy(CAM, "a")
    await registry.drop_copy(CAM, "nobody")
    assert await registry.lookup(CAM) == Location(None, (two,))
    await registry.put_copies([one], 0.1)
    await asyncio.sleep(0.2)
    assert await registry.lookup(CAM) == Location(None, (two,))
    assert await registry.lookup(OTHER) == Location(None, (elsewhere,))


async def test_nodes(registry: Registry) -> None:
    assert not await registry.put_node(record("b"), 10)
    assert not await registry.put_node(record("a"), 0.1)
    assert await registry.put_node(record("b", draining=True), 10)
    assert [each.id for each in await registry.nodes()] == ["a", "b"]
    await asyncio.sleep(0.2)
    assert await registry.nodes() == [record("b", draining=True)]
    assert not await registry.put_node(record("a"), 10)
    await registry.drop_node("b")
    await registry.drop_node("nobody")
    assert await registry.nodes() == [record("a")]


async def test_events_reach_everybody_in_order(registry: Registry) -> None:
    tape = Tape()
    registry.listeners.append(tape)
    events = [Began(CAM, "a", 1), Ended(CAM, "a", 1)] * 20
    for event in events:
        await registry.publish(event)
    await eventually(lambda: len(tape.events) == len(events))
    assert tape.events == events


async def test_names_that_no_stream_has(registry: Registry) -> None:
    for key in (StreamKey("live", "{x}"), StreamKey("", "x"), StreamKey("live", "a/b"), StreamKey("..", "x")):
        lease = Lease.of(offer(), 1)
        object.__setattr__(lease, "key", key)
        for call in (
            lambda key=key: registry.lookup(key),
            lambda key=key: registry.drop_copy(key, "a"),
            lambda key=key: registry.claim(key, offer(key=key), seconds=1),
            lambda lease=lease: registry.renew([lease], 1),
            lambda lease=lease: registry.release(lease),
            lambda key=key: registry.put_copies([Copy(key=key, node="a", rtmp="h:1")], 1),
            lambda key=key: registry.publish(Began(key, "a", 1)),
        ):
            with pytest.raises(ValueError):
                await call()


async def test_memory_forgets_what_has_ended() -> None:
    registry = MemoryRegistry()
    for number in range(1000):
        key = StreamKey("live", str(number))
        await registry.claim(key, offer(key=key), seconds=0.0)
    assert len(registry._leases._values) < 200


# Redis


@pytest.fixture
async def redis(shared_redis: Server, prefix: str) -> AsyncIterator[RedisRegistry]:
    registry = connect(shared_redis.url, prefix)
    assert isinstance(registry, RedisRegistry)
    await registry.open()
    yield registry
    await registry.close()


HOSTILE = [
    b"",
    b"\xff\xfe\0\r\n",
    b"7",
    b"7 a",
    b"7 a {}",
    b"7 a {not json",
    b'7 a {"key":"live/other","node":"a","rtmp":"h:1"}',
    b"-1 a {}",
    b"0 a {}",
    b"999999999999999 z {}",
    b"9999999999999999999999 a {}",
    b"1e9 a {}",
    b"7 a {" + b"x" * 100_000,
    b"7 " + b"a" * 1000 + b" {}",
    b"$7\r\n*2\r\n+OK\r\n",
]


@MISSING
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value[:40]))
async def test_what_is_no_lease_is_nobodys(
    redis: RedisRegistry, shared_redis: Server, prefix: str, value: bytes
) -> None:
    name = Keys(prefix).lease(CAM)
    shared_redis.ask("SET", name, value)
    assert await redis.lookup(CAM) == Location()
    lease = Lease.of(offer(), 7)
    assert (await redis.renew([lease], 10)).kept in ([], [lease])
    assert (await claim(redis, "b")).node == "b"
    shared_redis.ask("SET", name, value)
    assert (await claim(redis, "b", epoch=3)).epoch >= 3
    assert (await redis.lookup(CAM)).owner is not None
    shared_redis.ask("SET", name, value)
    shared_redis.ask("SET", Keys(prefix).epoch(CAM), value)
    assert (await claim(redis, "c", over=5)).node == "c"
    assert await redis.release((await redis.lookup(CAM)).owner or lease)


@MISSING
@pytest.mark.parametrize(
    "command",
    [("LPUSH", "x"), ("SADD", "x"), ("HSET", "x", "y"), ("ZADD", 1, "x"), ("SET", "x"), ("XADD", "*", "a", "b")],
)
async def test_keys_of_another_type_are_overwritten(
    redis: RedisRegistry, shared_redis: Server, prefix: str, command: tuple[object, ...]
) -> None:
    keys = Keys(prefix)
    for name in (keys.lease(CAM), keys.epoch(CAM), *keys.copies(CAM), *keys.nodes):
        shared_redis.ask(command[0], name, *command[1:])
    assert await redis.lookup(CAM) == Location()
    assert await redis.nodes() == []
    await redis.drop_node("a")
    await redis.drop_copy(CAM, "a")
    copy = Copy(key=CAM, node="c", rtmp="h:1")
    lease = await claim(redis)
    await redis.put_copies([copy], 10)
    await redis.put_node(record(), 10)
    assert await redis.lookup(CAM) == Location(lease, (copy,))
    assert await redis.nodes() == [record()]


@MISSING
async def test_records_that_cannot_be_read_are_left_out(
    redis: RedisRegistry, shared_redis: Server, prefix: str
) -> None:
    keys = Keys(prefix)
    await redis.put_node(record(), 10)
    await redis.put_copies([Copy(key=CAM, node="c", rtmp="h:1")], 10)
    for number, value in enumerate(HOSTILE):
        for index, hash in (keys.nodes, keys.copies(CAM)):
            shared_redis.ask("ZADD", index, 9e15, f"x{number}")
            shared_redis.ask("HSET", hash, f"x{number}", value)
            shared_redis.ask("ZADD", index, "+inf", b"\xff\0")
    assert await redis.nodes() == [record()]
    assert [each.node for each in (await redis.lookup(CAM)).copies] == ["c"]


@MISSING
async def test_copies_have_a_limit(redis: RedisRegistry) -> None:
    copies = [Copy(key=CAM, node=f"n{number:03}", rtmp="h:1") for number in range(MAX_COPIES + 10)]
    await redis.put_copies(copies, 10)
    assert len((await redis.lookup(CAM)).copies) == MAX_COPIES


@MISSING
async def test_hostile_messages_are_passed_over(redis: RedisRegistry, shared_redis: Server, prefix: str) -> None:
    tape = Tape()
    redis.listeners.append(tape)
    for value in [*HOSTILE, b'{"kind":"began","key":"live/{x}","node":"a","epoch":1}', b"x" * 1_000_000] * 5:
        shared_redis.ask("PUBLISH", Keys(prefix).channel, value)
    await redis.publish(Began(CAM, "a", 1))
    await eventually(lambda: tape.events)
    assert tape.events == [Began(CAM, "a", 1)] and tape.backs == 0


@MISSING
async def test_nothing_is_left_for_ever(redis: RedisRegistry, shared_redis: Server, prefix: str) -> None:
    await claim(redis)
    await redis.put_copies([Copy(key=CAM, node="c", rtmp="h:1")], 10)
    await redis.put_node(record(), 10)
    names = [name for name in shared_redis.ask("KEYS", f"{prefix}*")]
    assert len(names) == 6
    assert all(0 < shared_redis.ask("PTTL", name) <= 86_400_000 for name in names)
    prefixed = f"{prefix}".encode()
    assert all(name.startswith(prefixed) for name in names)


@MISSING
async def test_scripts_come_back_after_they_were_flushed(redis: RedisRegistry, shared_redis: Server) -> None:
    leases = [await claim(redis, key=StreamKey("live", f"s{number}")) for number in range(600)]
    shared_redis.ask("SCRIPT", "FLUSH")
    assert len((await redis.renew(leases, 10)).kept) == 600
    shared_redis.ask("SCRIPT", "FLUSH")
    assert (await claim(redis, "b")).epoch == 1


@MISSING
async def test_a_cancelled_caller_does_not_disturb_the_others(redis: RedisRegistry) -> None:
    keys = [StreamKey("live", f"s{number}") for number in range(50)]
    for _ in range(5):
        tasks = [asyncio.create_task(redis.claim(key, offer(key=key), seconds=10)) for key in keys]
        for _ in range(random.randrange(6)):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for key in keys:
            owner = (await redis.lookup(key)).owner
            assert owner is None or owner.key == key


@MISSING
async def test_closed_registries_say_so(shared_redis: Server, prefix: str) -> None:
    registry = connect(shared_redis.url, prefix)
    with pytest.raises(RegistryError, match="not open"):
        await registry.nodes()
    await registry.open()
    await registry.open()
    await registry.close()
    with pytest.raises(RegistryError, match="not open"):
        await registry.nodes()
    await registry.close()
