"""``cluster.edge``: upstreams come and go, viewers stay."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

import pytest

from cluster.edge.pull import HUNG_SECONDS
from pyrtmp import Server
from tests.cluster.edge.nodes import GOP, Edge, Nodes, Source, address, brief, coded, ended, plays, time_goes_on
from tests.pyrtmp.aio.net import Peer, eventually


class Wire:
    """A way to a server that can be cut without either end being told."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.connections = 0

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [sock.getsockname()[:2] for sock in self._listener.sockets]

    async def start(self) -> Wire:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        other, back = await asyncio.open_connection(*self._server.addresses[0])
        gate = self._open
        try:
            await asyncio.gather(self._pass(reader, back, gate), self._pass(other, writer, gate))
        finally:
            back.transport.abort()
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await gate.wait()
                writer.write(data)
        writer.close()

    def cut(self) -> None:
        """What goes over it now never arrives; what comes next does."""
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    async def close(self) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def same(player: Peer, source: Source) -> None:
    """It has everything that was sent since it came, once and in order, with its times."""
    await player.until(lambda: player.numbers()[-1] == source.number - 1)
    await player.until(lambda: brief(coded(player.media()))[-1] == brief(source.sent)[-1])
    assert brief(coded(player.media())) == source.since(player)


async def changed(edge: Edge, times: int, timeout: float = 5.0) -> None:
    def enough() -> bool:
        return [facts.changes for facts in edge.pulls.facts(monotonic())] == [times]

    await eventually(enough, timeout)


async def test_an_upstream_dies_and_another_one_has_a_copy(nodes: Nodes) -> None:
    origins = [await nodes.origin(f"origin{number}") for number in range(3)]
    edge = await nodes.edge(*origins)
    source = await nodes.source(*origins, lineage="L")
    source.gop = 1000  # whoever joins is given all of it
    await source.pictures(GOP + 3)
    players = [await nodes.watch(edge) for _ in range(3)]
    worst = 0.0
    for change in (1, 2):
        await source.pictures(7)
        await same(players[0], source)
        (facts,) = edge.pulls.facts(0)
        victim = next(each for each in origins if each.addresses and str(address(each)) == facts.upstream)
        for client in list(source.clients):
            if client.url.port == victim.addresses[0][1]:
                source.clients.remove(client)
                client.abort()
        sending = asyncio.ensure_future(source.pictures(15, 0.01))
        lost = monotonic()
        await victim.close()
        await changed(edge, change)
        worst = max(worst, monotonic() - lost)
        await sending
        for player in players:
            await same(player, source)
    print(f"to another copy, with closing the origin: {1000 * worst:.0f} ms")
    assert worst < HUNG_SECONDS, "a connection that ends says more than one that is silent"
    assert edge.pulls.failures >= 2
    assert edge.server.hub.live()[0].lineage == "L"


async def test_the_copy_that_is_next_lags_behind(nodes: Nodes) -> None:
    origins = [await nodes.origin(f"origin{number}") for number in range(2)]
    edge = await nodes.edge(*origins)
    source = await nodes.source(*origins, lineage="L")
    await source.pictures(GOP + 3)
    player = await nodes.watch(edge)
    late, source.clients = source.clients[1], source.clients[:1]
    before = len(source.sent)
    await source.pictures(GOP)
    await player.until(lambda: player.numbers()[-1] == source.number - 1)
    await nodes.servers[0].close()
    source.clients = [late]
    missed, source.sent = source.sent[before:], source.sent[:before]
    await eventually(lambda: plays(origins[1]))
    await source.send(*missed)
    await source.pictures(5)
    await same(player, source)


@pytest.mark.parametrize("copy", [True, False], ids=["a copy", "another stream"])
async def test_an_upstream_falls_silent(nodes: Nodes, copy: bool) -> None:
    origins = [await nodes.origin(f"origin{number}") for number in range(2)]
    edge = await nodes.edge(*origins)
    source = await nodes.source(origins[0], lineage="L")
    other = await nodes.source(origins[1], lineage="L" if copy else "M")
    for each in (source, other):
        each.gop = 1000 if copy else GOP
        await each.pictures(GOP + 3)
    player = await nodes.watch(edge)
    # From now on nothing comes from the first one; its connection stays.
    silent = monotonic()
    sending = asyncio.ensure_future(other.pictures(400, 0.02))
    await changed(edge, 1, 4 * HUNG_SECONDS)
    took = monotonic() - silent
    print(f"from a silent upstream to {'a copy' if copy else 'another stream'}: {took:.2f} s")
    await player.until(lambda: player.numbers()[-1] > 2 * GOP + 130)
    sending.cancel()
    await asyncio.wait((sending,))
    assert time_goes_on(player)
    if copy:
        numbers = player.numbers()
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
    await eventually(lambda: not plays(origins[0]))


async def test_the_way_to_the_only_upstream_breaks(nodes: Nodes) -> None:
    """Nobody says so; a new connection to the same address works."""
    origin = await nodes.origin()
    wire = await Wire(origin).start()
    try:
        edge = await nodes.edge(address(wire))  # type: ignore[arg-type]
        source = await nodes.source(origin)
        await source.pictures(GOP + 3)
        player = await nodes.watch(edge)
        wire.cut()
        broken = monotonic()
        stopped = asyncio.ensure_future(source.pictures(300, 0.02))
        await changed(edge, 1)
        await player.until(lambda: player.numbers()[-1] > GOP + 3)
        assert wire.connections == 2
        print(f"over a new connection after {monotonic() - broken:.2f} s")
        stopped.cancel()
        await asyncio.wait((stopped,))
        player.sock.close()
        await ended(edge)
    finally:
        await wire.close()


async def test_a_publisher_that_pauses_is_not_shown_again(nodes: Nodes) -> None:
    """Two origins whose publishers both do nothing: what these keep for joiners is no news."""
    origins = [await nodes.origin(f"origin{number}") for number in range(2)]
    edge = await nodes.edge(*origins)
    sources = [await nodes.source(origin) for origin in origins]
    for source in sources:
        await source.pictures(GOP)
    player = await nodes.watch(edge)
    await player.until(lambda: player.numbers() == list(range(GOP)))
    await asyncio.sleep(3.2)
    assert [facts.changes for facts in edge.pulls.facts(0)] == [0]
    await sources[0].pictures(GOP)
    await player.until(lambda: player.numbers() == list(range(2 * GOP)))
    # Whoever was asked meanwhile is let go.
    await eventually(lambda: plays(origins[0]) == 1 and not plays(origins[1]))


@pytest.mark.parametrize("clean", [True, False])
async def test_the_publisher_comes_back_at_another_origin(nodes: Nodes, clean: bool) -> None:
    origins = [await nodes.origin(f"origin{number}") for number in range(2)]
    edge = await nodes.edge(*origins)
    players = []
    for turn in range(3):
        source = await nodes.source(origins[turn % 2])
        await source.pictures(GOP + 3)
        for joined, player in enumerate(players):
            # It is the same stream with its clock at 0 again.
            seen = turn - joined + 1
            await player.until(
                lambda player=player, seen=seen: player.numbers().count(GOP + 2) == seen  # type: ignore[misc]
            )
        players.append(await nodes.watch(edge))
        await players[-1].until(lambda player=players[-1]: player.numbers()[-1] == GOP + 2)  # type: ignore[misc]
        if clean:
            await source.leave(source.clients[0])
        else:
            source.clients.pop().abort()
    for player in players:
        assert time_goes_on(player)
        assert not player.closed and "NetStream.Play.UnpublishNotify" not in player.codes()


async def test_an_upstream_that_asks_to_be_left(nodes: Nodes) -> None:
    origins = [await nodes.origin(f"origin{number}") for number in range(2)]
    edge = await nodes.edge(*origins)
    source = await nodes.source(*origins, lineage="L")
    source.gop = 1000
    await source.pictures(GOP + 3)
    player = await nodes.watch(edge)
    (client,) = [client for client in origins[0].clients.values() if client.role == "play"]
    client.session.status(0, "NetConnection.Connect.ReconnectRequest", "maintenance", details=False)
    client.flush()
    sending = asyncio.ensure_future(source.pictures(100, 0.01))
    await changed(edge, 1)
    await sending
    await eventually(lambda: not plays(origins[0]))
    await source.pictures(5)
    await same(player, source)
