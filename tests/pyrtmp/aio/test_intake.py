from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrtmp import EgressSettings, Server, Timeouts
from pyrtmp.aio import intake as module
from pyrtmp.aio.connection import Connection
from pyrtmp.aio.intake import BATCH, MANY, Intake
from pyrtmp.aio.sockets import GATHERED_BYTES
from tests.pyrtmp.aio.net import SHORT, Net, Peer, eventually, frame

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_RCVLOWAT keeps a socket from being readable")

RARE = EgressSettings(min_delay_ms=200, max_delay_ms=200)


class Source:
    def __init__(self, watched: bool = False) -> None:
        self.watched = watched
        self.calls: list[bool] = []
        self.reads = 0

    @property
    def gathers(self) -> bool:
        return self.calls[-1:] == [True]

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


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> EgressSettings:
    """So rarely that it is clear what does not wait for a round, and rounds read all the same."""
    monkeypatch.setattr(module, "_LONGEST_SECONDS", 2.0)
    return EgressSettings(min_delay_ms=2000, max_delay_ms=2000)


async def test_much_at_once_is_read_before_the_round(net: Net, seldom: EgressSettings) -> None:
    server = await net.server(egress=seldom)
    publisher, _ = await net.watched(server)
    (stream,) = server.hub.live()
    await publisher.write(*(frame(n, 60_000) for n in range(1, 30)))
    await eventually(lambda: stream.messages_in >= 20, 1.6)


async def test_the_end_of_a_publisher_is_noticed_at_once(net: Net, seldom: EgressSettings) -> None:
    server = await net.server(egress=seldom)
    publisher, _ = await net.watched(server)
    publisher.reset()
    await eventually(lambda: not server.hub.live(), 1.6)


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


# At leisure


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is left unread for long."""
    monkeypatch.setattr(module, "LEISURE_SECONDS", 0.02)


async def turn() -> None:
    """Two turns of everybody, to be sure of a whole one."""
    await asyncio.sleep(2.5 * module.LEISURE_SECONDS)


async def test_a_few_publishers_are_left_to_the_loop(brief: None) -> None:
    intake, sources = Intake(), [Source() for _ in range(MANY - 1)]
    for source in sources:
        intake.add(source)
    await turn()
    assert not any(source.calls or source.reads for source in sources)


async def test_many_that_nobody_watches_are_read_at_leisure(brief: None) -> None:
    intake, sources = Intake(), [Source() for _ in range(MANY)]
    watched = Source(watched=True)
    for source in [*sources, watched]:
        intake.add(source)
    await eventually(lambda: all(source.reads > 1 for source in sources))
    assert all(source.calls == [True] for source in sources)
    assert not watched.calls and not watched.reads
    intake.stop()
    assert all(source.calls == [True, False] for source in sources)
    reads = [source.reads for source in sources]
    await turn()
    assert [source.reads for source in sources] == reads


async def test_a_few_at_a_time_and_all_equally_often(brief: None) -> None:
    intake, sources = Intake(), [Source() for _ in range(3 * BATCH + 1)]
    for source in sources:
        intake.add(source)
    looks: list[int] = []

    def total() -> int:
        looks.append(sum(source.reads for source in sources))
        return looks[-1]

    async with asyncio.timeout(5):
        while total() < 3 * len(sources):
            await asyncio.sleep(0)
    intake.stop()
    assert max(after - before for before, after in pairwise(looks)) <= BATCH
    assert {source.reads for source in sources} <= {3, 4}


async def test_who_is_watched_is_read_by_the_loop_at_once(brief: None) -> None:
    intake, sources = Intake(), [Source() for _ in range(MANY)]
    for source in sources:
        intake.add(source)
    await eventually(lambda: all(source.gathers for source in sources))
    first, second = sources[:2]
    first.watched = True
    intake.hurry(first)
    assert first.calls == [True, False]
    intake.hurry(first)
    intake.hurry(None)
    intake.hurry(object())
    reads = first.reads
    second.watched = True
    await eventually(lambda: not second.gathers)
    assert first.calls == [True, False] and first.reads == reads
    first.watched = False
    await eventually(lambda: first.gathers)
    intake.stop()


async def test_leisure_ends_with_the_many(brief: None) -> None:
    intake, sources = Intake(), [Source() for _ in range(MANY)]
    for source in sources:
        intake.add(source)
    await eventually(lambda: all(source.gathers for source in sources))
    gone = sources.pop()
    intake.remove(gone)
    assert not gone.gathers
    await eventually(lambda: not any(source.gathers for source in sources))
    intake.add(gone)
    await eventually(lambda: gone.gathers)
    for source in [*sources, gone]:
        intake.remove(source)
    await turn()
    intake.add(gone)
    await turn()
    assert not gone.gathers


async def test_rounds_read_only_who_is_watched(brief: None) -> None:
    intake, sources = Intake(), [Source() for _ in range(MANY)]
    watched = Source(watched=True)
    for source in [*sources, watched]:
        intake.add(source)
    await eventually(lambda: all(source.gathers for source in sources))
    intake.follow(0.05)
    reads = [source.reads for source in sources]
    intake.read()
    assert [source.reads for source in sources] == reads and watched.reads == 1
    assert watched.gathers
    sources[0].watched = True
    intake.hurry(sources[0])
    assert sources[0].gathers, "rounds read it now"
    intake.read()
    assert sources[0].reads == reads[0] + 1
    await eventually(lambda: sources[1].reads > reads[1])
    intake.follow(0.0)
    assert not watched.gathers and not sources[0].gathers and sources[1].gathers
    intake.stop()


Step = tuple[str, int]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("add", "remove", "watch", "leave", "follow", "rest", "turn")), st.integers(0, 2 * MANY)
        ),
        max_size=60,
    )
)
def test_whatever_happens_somebody_reads_each_publisher(steps: list[Step]) -> None:
    asyncio.run(_check(steps))


async def _check(steps: list[Step]) -> None:
    intake = Intake()
    sources = [Source() for _ in range(2 * MANY + 1)]
    present: set[Source] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEISURE_SECONDS", 0.0)
        for what, number in [*(("add", n) for n in range(MANY)), *steps]:
            source = sources[number]
            if what == "add":
                intake.add(source)
                present.add(source)
            elif what == "remove":
                intake.remove(source)
                present.discard(source)
            elif what == "watch":
                source.watched = True
                intake.hurry(source)
                assert intake.active or not source.gathers
            elif what == "leave":
                source.watched = False
            elif what == "turn":
                for _ in range(20):
                    await asyncio.sleep(0)
                for each in present:
                    at_leisure = not each.watched and len(present) >= MANY
                    assert each.gathers is (intake.active or at_leisure)
            else:
                intake.follow(0.05 if what == "follow" else 0.0)
            assert not any(each.gathers for each in sources if each not in present)
            before = {each: each.reads for each in present}
            intake.read()
            if intake.active:
                assert all(each.gathers for each in present)
                assert all(each.reads > before[each] for each in present if each.watched)
        intake.stop()
        assert not any(each.gathers for each in sources)


Many = Callable[[Server], Awaitable[list[Peer]]]
NoReads = Callable[[], None]


@pytest.fixture
def many(net: Net, brief: None) -> Many:
    """So many publishers, cam0 and so on, that those without a viewer are read at leisure."""

    async def publish(server: Server) -> list[Peer]:
        peers = [await net.publisher(server, f"cam{n}") for n in range(MANY)]
        await eventually(lambda: len(gathering(server)) == MANY)
        return peers

    return publish


def gathering(server: Server) -> set[str]:
    """The streams whose publishers' sockets are left to gather."""
    return {
        str(client.key)
        for client in server.clients.values()
        if isinstance(client, Connection)
        and client.publishing.streams
        and lowat(client.transport.get_extra_info("socket")) == GATHERED_BYTES
    }


@pytest.fixture
def no_reads(monkeypatch: pytest.MonkeyPatch) -> NoReads:
    """From the call on nothing is read at leisure or by rounds."""
    return lambda: monkeypatch.setattr(Connection, "read", lambda connection: None)


async def test_what_nobody_watches_is_taken(net: Net, many: Many) -> None:
    server = await net.server()
    publishers = await many(server)
    for n, publisher in enumerate(publishers):
        await publisher.write(*(frame(k, key=k == 0) for k in range(n + 1)))
    await eventually(lambda: sorted(s.messages_in for s in server.hub.live()) == list(range(2, MANY + 2)))
    assert len(gathering(server)) == MANY


async def test_a_viewer_has_its_publisher_read_at_once(net: Net, many: Many, no_reads: NoReads) -> None:
    server = await net.server()
    first, second, *_ = await many(server)
    no_reads()
    await first.write(frame(0, key=True), frame(1))
    await second.write(frame(0, key=True), frame(1))
    player = await net.player(server, "cam0")
    await player.until(lambda: player.numbers() == [0, 1])
    await first.write(frame(2))
    await player.until(lambda: player.numbers() == [0, 1, 2])
    assert "live/cam0" not in gathering(server) and "live/cam1" in gathering(server)


async def test_when_the_viewer_leaves_it_is_read_at_leisure_again(net: Net, many: Many) -> None:
    server = await net.server()
    await many(server)
    player = await net.player(server, "cam3")
    await eventually(lambda: "live/cam3" not in gathering(server))
    player.sock.close()
    await eventually(lambda: "live/cam3" in gathering(server))


async def test_the_end_of_one_that_nobody_watches_is_noticed_at_once(net: Net, many: Many, no_reads: NoReads) -> None:
    server = await net.server()
    first, second, *_ = await many(server)
    no_reads()
    await first.write(frame(0, key=True))
    first.sock.close()
    second.reset()
    await eventually(lambda: len(server.hub.live()) == MANY - 2)


async def test_one_that_sends_much_does_not_wait_for_its_turn(net: Net, many: Many, no_reads: NoReads) -> None:
    server = await net.server()
    first, *_ = await many(server)
    no_reads()
    await first.write(*(frame(n, 60_000, key=not n) for n in range(100)))
    stream = server.hub.find("live", "cam0")
    await eventually(lambda: stream is not None and stream.messages_in > 90)


async def test_silence_is_noticed_at_leisure_too(net: Net, many: Many) -> None:
    server = await net.server(timeouts=Timeouts(media_idle=1.0), tick=0.05)
    loud, *silent = await many(server)
    for peer in silent:
        await peer.write(frame(0, key=True))
    talking = asyncio.create_task(talk(loud))
    for peer in silent:
        await peer.until_closed()
    assert [str(stream.key) for stream in server.hub.live()] == ["live/cam0"]
    talking.cancel()


async def talk(publisher: Peer) -> None:
    """A picture every now and then, for as long as anybody may want one."""
    for n in range(1000):
        await publisher.write(frame(n, key=not n))
        await asyncio.sleep(0.01)
