"""A real Redis that dies, comes back empty, hangs, or does not let us in."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest

from cluster.registry import Began, Copy, Keeper, Lease, Location, RegistryError, TakenError, connect, redis
from config.ports import free_ports
from pyrtmp.names import StreamKey
from tests.cluster.registry.members import CAM, OTHER, Member, Tape, eventually, offer, record
from tests.cluster.registry.servers import MISSING, Group, Server

pytestmark = MISSING


@pytest.fixture
def server(group: Group) -> Server:
    return group.add()


@pytest.fixture
async def two(server: Server, group: Group) -> AsyncIterator[tuple[Member, Member]]:
    members = Member(connect(server.url), "a"), Member(connect(server.url), "b")
    for each in members:
        await each.keeper.start()
    yield members
    for each in members:
        await each.keeper.close()


def both(members: tuple[Member, Member]) -> list[Keeper]:
    return [each.keeper for each in members]


async def held_in(member: Member, leases: list[Lease]) -> bool:
    """Whether the registry has them all."""
    try:
        return all([(await member.registry.lookup(each.key)).owner == each for each in leases])
    except RegistryError:
        return False


async def whole_again(member: Member, leases: list[Lease]) -> float:
    """Seconds until the registry has them all."""
    begun = monotonic()
    async with asyncio.timeout(10):
        while not await held_in(member, leases):
            await asyncio.sleep(0.02)
    return monotonic() - begun


async def test_a_server_that_is_killed_and_comes_back_empty(two: tuple[Member, Member], server: Server) -> None:
    a, b = two
    leases = [await a.claim(StreamKey("live", f"s{number}")) for number in range(200)]
    mine = await b.claim()
    await b.keeper.hold_copy(OTHER, "line")
    assert (await b.keeper.locate(leases[0].key)).owner == leases[0]
    server.kill()
    await eventually(lambda: not any(each.reachable for each in both(two)))
    assert (await b.keeper.locate(leases[0].key)).owner == leases[0]
    assert not a.keeper.fenced(leases[0].key)
    during = await a.claim(StreamKey("live", "during"))
    server.start()
    took = await whole_again(a, [*leases, mine, during])
    assert took < 5
    async with asyncio.timeout(5):
        while (await b.keeper.locate(during.key)).owner != during or not (await a.registry.lookup(OTHER)).copies:
            await asyncio.sleep(0.05)
    await eventually(lambda: all(len(each.nodes()) == 2 for each in both(two)))
    assert a.lost == b.lost == []
    assert await b.registry.renew(leases[:1], 10)  # the scripts are new to it, too
    print(f"whole again after {took:.2f} s")


async def test_a_server_that_forgets_everything(two: tuple[Member, Member], server: Server) -> None:
    a, b = two
    leases = [await a.claim(StreamKey("live", f"s{number}")) for number in range(100)]
    leases.append(await b.claim())
    server.ask("FLUSHALL")
    server.ask("SCRIPT", "FLUSH")
    took = await whole_again(a, leases)
    assert took < 5 and a.lost == b.lost == []
    print(f"whole again after {took:.2f} s")


async def test_a_server_that_hangs_holds_nobody_up_for_long(two: tuple[Member, Member], server: Server) -> None:
    a, b = two
    lease = await a.claim()
    assert (await b.keeper.locate(CAM)).owner == lease
    server.pause()
    begun = monotonic()
    granted = await asyncio.gather(*(a.claim(StreamKey("live", f"new{number}")) for number in range(20)))
    assert monotonic() - begun < 2 * redis.SECONDS
    b.keeper.on_event(Began(CAM, "a", 1))
    assert (await b.keeper.locate(CAM)).owner == lease
    begun = monotonic()
    results = await asyncio.gather(
        b.registry.nodes(),
        b.registry.lookup(CAM),
        b.registry.claim(OTHER, offer("b", OTHER), seconds=10),
        b.registry.renew([lease], 10),
        b.registry.release(lease),
        b.registry.publish(Began(CAM, "a", 1)),
        b.registry.put_copies([Copy(key=CAM, node="b", rtmp="h:1")], 10),
        return_exceptions=True,
    )
    assert {type(each) for each in results} == {RegistryError}
    assert monotonic() - begun < 2 * redis.SECONDS
    server.resume()
    await whole_again(a, [lease, *[a.keeper.lease(each.key) or each for each in granted]])
    assert a.lost == []
    # Each answer still belongs to its question.
    for each in a.keeper.leases:
        assert (await b.registry.lookup(each.key)).owner == a.keeper.lease(each.key)


async def test_what_nobody_waits_for_any_more_is_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a server that is slow for a while would have to do all of that before it answers anybody."""
    registry = connect(server.url)
    await registry.open()
    leases = [await registry.claim(key, offer("a", key), seconds=10) for key in (CAM, OTHER)]
    assert (await registry.renew(leases, 10)).kept == leases
    server.ask("CONFIG", "RESETSTAT")
    server.pause()
    monkeypatch.setattr(redis, "SECONDS", 0.1)
    for _ in range(5):
        with pytest.raises(RegistryError):
            await registry.renew(leases, 10)
    monkeypatch.undo()
    server.resume()
    await registry.close()  # when all that was begun has ended
    assert server.ask("INFO", "commandstats")["cmdstat_evalsha"]["calls"] == len(leases)


async def test_connections_that_are_killed(two: tuple[Member, Member], server: Server) -> None:
    a, b = two
    leases = [await a.claim(StreamKey("live", f"s{number}")) for number in range(20)]
    for _ in range(5):
        server.ask("CLIENT", "KILL", "TYPE", "normal")
        server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        results = await asyncio.gather(*(b.registry.lookup(each.key) for each in leases), return_exceptions=True)
        assert all(isinstance(each, Location | RegistryError) for each in results)
    await whole_again(b, leases)
    b.began.clear()

    async def heard() -> bool:
        await a.claim(OTHER)
        await asyncio.sleep(0.1)
        return OTHER in b.began

    async with asyncio.timeout(5):
        while not await heard():
            pass
    assert a.lost == []


async def test_listening_begins_again(server: Server) -> None:
    registry = connect(server.url)
    tape = Tape()
    registry.listeners.append(tape)
    await registry.open()
    assert tape.backs == 1
    server.kill()
    server.start()
    await eventually(lambda: tape.backs == 2)
    server.pause()  # the connection stays open, but nothing comes
    await asyncio.sleep(3)
    server.resume()
    await eventually(lambda: tape.backs >= 3, 10)
    await registry.publish(Began(CAM, "a", 1))
    await eventually(lambda: tape.events)
    await registry.close()


@pytest.mark.parametrize(
    "scheme", ["redis://127.0.0.1:{}", "redis+sentinel://127.0.0.1:{}/cam", "redis+cluster://127.0.0.1:{}"]
)
async def test_a_server_that_was_never_there(scheme: str) -> None:
    member = Member(connect(scheme.format(free_ports(1)[0])), "a")
    begun = monotonic()
    await member.keeper.start()
    assert (await member.claim()).epoch == 1
    assert await member.keeper.locate(OTHER) == Location()
    with pytest.raises(RegistryError):
        await member.registry.nodes()
    await member.keeper.close()
    assert monotonic() - begun < 5 * redis.SECONDS


async def test_a_server_that_speaks_something_else() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + os.urandom(1000))
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    for url in (f"redis://127.0.0.1:{port}", f"redis+cluster://127.0.0.1:{port}"):
        registry = connect(url)
        await registry.open()
        for _ in range(3):
            with pytest.raises(RegistryError):
                await registry.nodes()
        await registry.close()
    listener.close()
    await listener.wait_closed()


# Who may


async def test_passwords(group: Group) -> None:
    server = group.add("requirepass topsecret")
    for userinfo in ("", ":wrong@", "default:wrong@", "nobody:topsecret@"):
        registry = connect(f"redis://{userinfo}127.0.0.1:{server.port}")
        await registry.open()
        with pytest.raises(RegistryError) as caught:
            await registry.nodes()
        assert "topsecret" not in str(caught.value) and "wrong" not in str(caught.value)
        await registry.close()
    for userinfo in (":topsecret@", "default:topsecret@"):
        registry = connect(f"redis://{userinfo}127.0.0.1:{server.port}/3")
        await registry.open()
        await registry.put_node(record(), 10)
        assert await registry.nodes() == [record()]
        await registry.close()


ACL = "on >pass%word ~pyrtmp:* &pyrtmp:* -@all +evalsha +eval +publish +subscribe +ping +select"
SCRIPTED = (
    "+get +set +del +expire +pexpire +pttl +time +type +zrangebyscore +zrem +zadd +zcard +zscore +hset +hdel +hmget"
)


async def test_a_user_who_may_do_only_what_is_needed(group: Group) -> None:
    server = group.add()
    server.ask("ACL", "SETUSER", "node", *ACL.split(), *SCRIPTED.split())
    url = f"redis://node:pass%25word@127.0.0.1:{server.port}/1"
    a, b = Member(connect(url), "a"), Member(connect(url), "b")
    for each in (a, b):
        await each.keeper.start()
    lease = await a.claim()
    with pytest.raises(TakenError):
        await b.claim()
    assert a.challenged == [CAM]
    await a.keeper.hold_copy(OTHER, "x")
    assert (await a.registry.renew([lease], 10)).kept == [lease]
    assert len((await b.keeper.locate(OTHER)).copies) == 1
    for each in (a, b):
        await each.keeper.close()
    assert server.ask("ACL", "LOG") == []
    elsewhere = connect(url, "other:")
    await elsewhere.open()
    with pytest.raises(RegistryError, match="ermission"):
        await elsewhere.lookup(CAM)
    await elsewhere.close()


def certificates(directory: Path) -> None:
    """A certificate for 127.0.0.1 that signs itself."""
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=redis"
        " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem".split(),
        cwd=directory,
        check=True,
        capture_output=True,
    )


async def test_tls(group: Group, tmp_path: Path) -> None:
    certificates(tmp_path)
    plain, port = group.add("requirepass p"), free_ports(1)[0]
    for name, value in (
        ("tls-cert-file", tmp_path / "cert.pem"),
        ("tls-key-file", tmp_path / "key.pem"),
        ("tls-ca-cert-file", tmp_path / "cert.pem"),
        ("tls-port", port),
    ):
        plain.ask("CONFIG", "SET", name, str(value), password="p")
    cert = f"cert={tmp_path}/cert.pem&key={tmp_path}/key.pem"
    for host, options, works in (
        ("127.0.0.1", f"ca={tmp_path}/cert.pem&{cert}", True),
        ("localhost", f"ca={tmp_path}/cert.pem&{cert}&verify=ca", True),
        ("127.0.0.1", f"{cert}&verify=none", True),
        ("localhost", f"ca={tmp_path}/cert.pem&{cert}", False),
        ("127.0.0.1", cert, False),
        ("127.0.0.1", f"ca={tmp_path}/cert.pem", False),
        ("127.0.0.1", f"ca={tmp_path}/missing.pem&{cert}", False),
    ):
        registry = connect(f"rediss://:p@{host}:{port}?{options}")
        await registry.open()
        if works:
            await registry.put_node(record(), 10)
        else:
            with pytest.raises(RegistryError):
                await registry.put_node(record(), 10)
        await registry.close()
