"""Sentinels and a Cluster whose master dies: claims work again in a few seconds, and nothing else leaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from cluster.registry import Began, Copy, Lease, Registry, RegistryError, TakenError, connect, redis
from pyrtmp.names import StreamKey
from tests.cluster.registry.members import CAM, Member, Tape, eventually, offer, record
from tests.cluster.registry.servers import MISSING, Group, Server, cluster, master_and_replica

pytestmark = [MISSING, pytest.mark.slow]

KEYS = [StreamKey("live", f"s{number}") for number in range(60)]


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[Member, Member]]:
    members = Member(connect(url), "a"), Member(connect(url), "b")
    for each in members:
        await each.keeper.start()
    try:
        yield members
    finally:
        for each in members:
            await each.keeper.close()


async def only_registry_errors(registry: Registry, stop: asyncio.Event) -> int:
    """Ask for everything, again and again; how often there was no answer."""
    away = 0

    async def ask(call: Awaitable[Any]) -> None:
        nonlocal away
        begun = monotonic()
        try:
            await call
        except TakenError:
            pass
        except RegistryError:
            away += 1
        assert monotonic() - begun < 2 * redis.SECONDS

    while not stop.is_set():
        key = random.choice(KEYS)
        lease = Lease.of(offer("z", key), 1)
        await asyncio.gather(
            ask(registry.lookup(key)),
            ask(registry.claim(key, offer("z", key), seconds=5)),
            ask(registry.renew([lease], 5)),
            ask(registry.release(lease)),
            ask(registry.put_copies([Copy(key=key, node="z", rtmp="h:1")], 1)),
            ask(registry.drop_copy(key, "z")),
            ask(registry.put_node(record("z"), 1)),
            ask(registry.nodes()),
            ask(registry.publish(Began(key, "z", 1))),
        )
        await asyncio.sleep(0.05)
    return away


async def works(registry: Registry, keys: list[StreamKey]) -> float:
    """Seconds until each of these can be claimed by somebody who is new, and is."""
    begun = monotonic()
    left = list(keys)
    async with asyncio.timeout(20):
        while left:
            try:
                await registry.claim(left[0], offer("new", left[0]), seconds=10)
            except RegistryError:
                await asyncio.sleep(0.05)
            else:
                left.pop(0)
    return monotonic() - begun


async def whole_again(registry: Registry, members: tuple[Member, Member]) -> float:
    """Seconds until the registry has what the nodes have."""
    begun = monotonic()
    async with asyncio.timeout(20):
        for member in members:
            for key in [each.key for each in member.keeper.leases]:
                while True:
                    try:
                        if (await registry.lookup(key)).owner == member.keeper.lease(key):
                            break
                    except RegistryError:
                        pass
                    await asyncio.sleep(0.05)
    return monotonic() - begun


async def hears(teller: Member, listener: Member) -> None:
    """Until events arrive again."""
    listener.began.clear()
    key = StreamKey("heard", listener.record.id)
    async with asyncio.timeout(10):
        while key not in listener.began:
            await teller.claim(key)
            await asyncio.sleep(0.1)


async def fail_over(url: str, master: Server) -> None:
    async with two(url) as (a, b):
        registry, third = connect(url), connect(url, "third:")
        await registry.open()
        await third.open()
        for number, key in enumerate(KEYS):
            await (a, b)[number % 2].claim(key)
        await b.keeper.hold_copy(CAM, "x")
        stop = asyncio.Event()
        asking = asyncio.create_task(only_registry_errors(third, stop))
        master.kill()
        claims, whole = await asyncio.gather(
            works(registry, [StreamKey("new", f"s{number}") for number in range(60)]), whole_again(registry, (a, b))
        )
        print(f"claims work after {claims:.2f} s, leases whole after {whole:.2f} s")
        assert claims < 10 and whole < 12
        await hears(a, b)
        await hears(b, a)
        stop.set()
        assert await asking > 0
        with pytest.raises(TakenError):
            await b.claim(KEYS[0])
        assert a.lost == b.lost == []
        assert a.challenged == [KEYS[0]]
        await registry.close()
        await third.close()


@pytest.mark.parametrize("sentinels", [1, 3])
async def test_a_master_behind_sentinels_dies(group: Group, sentinels: int) -> None:
    await fail_over_behind_sentinels(group, sentinels)


async def fail_over_behind_sentinels(group: Group, sentinels: int) -> None:
    master = await asyncio.to_thread(master_and_replica, group, sentinels)
    if sentinels > 1:
        group.sentinels[0].kill()  # the one that is asked first
    await fail_over(group.sentinel_url, master)


async def test_sentinels_that_do_not_know_the_service(group: Group) -> None:
    master = group.add()
    group.add_sentinel(master.port, 1)
    registry = connect(group.sentinel_url.replace("/cam", "/other"))
    await registry.open()
    with pytest.raises(RegistryError, match="no sentinel answers with a master of that name"):
        await registry.nodes()
    await registry.close()


async def test_sentinels_and_a_master_with_passwords(group: Group) -> None:
    master = group.add("requirepass topsecret")
    group.add_sentinel(master.port, 1, "sentinel auth-pass cam topsecret", "requirepass sesame")
    at = group.sentinel_url.removeprefix("redis+sentinel://")
    registry = connect(f"redis+sentinel://:topsecret@{at}/0?sentinel_password=sesame")
    tape = Tape()
    registry.listeners.append(tape)
    await registry.open()
    await registry.claim(CAM, offer(), seconds=10)
    await eventually(lambda: tape.backs)
    await registry.close()
    for url in (f"redis+sentinel://:topsecret@{at}", f"redis+sentinel://:wrong@{at}?sentinel_password=sesame"):
        registry = connect(url)
        await registry.open()
        with pytest.raises(RegistryError) as caught:
            await registry.nodes()
        for secret in ("topsecret", "sesame", "wrong"):
            assert secret not in str(caught.value)
        await registry.close()


async def test_a_master_of_a_cluster_dies(group: Group) -> None:
    await asyncio.to_thread(cluster, group)
    await fail_over(group.cluster_url, group.servers[1])


async def test_a_cluster_that_loses_a_third_for_good(group: Group) -> None:
    """What is on the other servers goes on."""
    await asyncio.to_thread(cluster, group, 3, False)
    for server in group.servers:
        server.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    async with two(group.cluster_url) as (a, b):
        for key in KEYS:
            await a.claim(key)
        group.servers[2].kill()
        await asyncio.sleep(2.0)  # until the others have noticed
        renewal = None
        async with asyncio.timeout(10):
            # A server that is slow to answer while the others settle who is left has its share renewed the next time.
            while renewal is None or len(renewal.kept) <= 20:
                try:
                    renewal = await a.registry.renew(a.keeper.leases, 10)
                except RegistryError:
                    await asyncio.sleep(0.1)
        assert 20 < len(renewal.kept) < 60 and renewal.lost == []
        fresh = [await b.claim(StreamKey("new", f"s{number}")) for number in range(30)]
        assert len(fresh) == 30  # from the registry or here
        assert a.lost == [] and not any(a.keeper.fenced(key) for key in KEYS)
    # The table of all commands is large: it is not read again with each look at who is left.
    stats = [server.ask("INFO", "commandstats") for server in group.servers[:2]]
    assert sum(each["cmdstat_command"]["calls"] for each in stats if "cmdstat_command" in each) <= 2


async def test_nothing_stays_open_of_a_cluster_that_was_left_while_a_server_hung(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited for that one would have asked the others who is left, over new connections."""
    await asyncio.to_thread(cluster, group, 3, False)
    monkeypatch.setattr(redis, "SECONDS", 0.1)
    before = asyncio.all_tasks()
    registry = connect(group.cluster_url)
    await registry.open()
    leases = [await registry.claim(key, offer("a", key), seconds=10) for key in KEYS]
    group.servers[2].pause()
    with pytest.raises(RegistryError):
        await registry.renew(leases, 10)
    await registry.close()
    group.servers[2].resume()
    await eventually(lambda: asyncio.all_tasks() == before)
    for server in group.servers:  # whoever asks is one
        await eventually(lambda s=server: s.info("connected_clients") == 1)
