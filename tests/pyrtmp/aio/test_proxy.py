"""Clients behind a balancer that speaks the PROXY protocol."""

from __future__ import annotations

import asyncio
import random

import pytest

from pyrtmp import EgressSettings, Hooks, Limits, StreamSettings, Timeouts
from pyrtmp.networks import subscriber
from tests.pyrtmp.aio.net import HELLO, SHORT, Net, Peer, eventually, frame, journal
from tests.pyrtmp.test_proxy import HEADERS, binary

HERE = ("127.0.0.0/8",)
CLIENT = "192.0.2.7"


class Proxied(Peer):
    """A client whose first bytes are a balancer's."""

    header = binary(CLIENT)

    async def send(self, data: bytes) -> None:
        header, self.header = self.header, b""
        await super().send(header + data)


async def behind(net: Net, server: object, header: bytes = binary(CLIENT)) -> Proxied:
    peer = await net.peer(server)  # type: ignore[arg-type]
    peer.__class__ = Proxied
    assert isinstance(peer, Proxied)
    peer.header = header
    return peer


@pytest.mark.parametrize("name", HEADERS)
async def test_the_client_is_known_by_its_own_address(net: Net, name: str) -> None:
    asked: list[str] = []
    server = await net.server(proxy_from=HERE, hooks=Hooks(on_publish=lambda request: asked.append(request.address)))
    header, address = HEADERS[name]
    publisher = await behind(net, server, header)
    await publisher.publish()
    (client,) = server.clients.values()
    assert client.address == asked[0] == (address or "127.0.0.1")
    assert server._per_address == {subscriber(client.address): 1}
    assert {facts["address"] for facts in journal(server).of("publish", "publish_started")} <= {client.address}
    assert not journal(server).bad()
    publisher.reset()
    await eventually(lambda: not server.clients)
    assert not server._per_address


async def test_byte_by_byte_and_split_everywhere(net: Net) -> None:
    server = await net.server(proxy_from=HERE)
    for header in (binary(CLIENT), HEADERS["v1 TCP4"][0]):
        whole = header + HELLO
        for cut in range(1, len(header) + 2):
            peer = await net.peer(server)
            peer.sock.setsockopt(6, 1, 1)  # TCP_NODELAY
            await peer.send(whole[:cut])
            await asyncio.sleep(0.001)
            await peer.send(whole[cut:])
            await peer.until(lambda peer=peer: peer._skip == 0)
            assert [client.address for client in server.clients.values()] == [CLIENT]
            peer.reset()
            await eventually(lambda: not server.clients)
        peer = await net.peer(server)
        peer.sock.setsockopt(6, 1, 1)
        for byte in whole[: len(header) + 3]:
            await peer.send(bytes((byte,)))
            await asyncio.sleep(0.0005)
        await peer.send(whole[len(header) + 3 :])
        await peer.until(lambda peer=peer: peer._skip == 0)
        assert [client.address for client in server.clients.values()] == [CLIENT]
        peer.reset()
        await eventually(lambda: not server.clients)
    assert not journal(server).bad()


async def test_pictures_come_through(net: Net) -> None:
    server = await net.server(proxy_from=HERE)
    publisher, player = await behind(net, server), await behind(net, server, binary("2001:db8::9"))
    await publisher.publish()
    await player.play()
    await player.until_code("NetStream.Play.Start")
    for number in range(20):
        await publisher.write(frame(number, key=not number))
    await player.until(lambda: player.numbers() == list(range(20)))
    assert sorted(client.address for client in server.clients.values()) == [CLIENT, "2001:db8::9"]


async def test_a_health_check_leaves_no_trace(net: Net) -> None:
    server = await net.server(proxy_from=HERE)
    for said in (b"", HEADERS["v2 LOCAL"][0], HEADERS["v1 UNKNOWN"][0], binary(CLIENT), binary(CLIENT)[:20]):
        for leave in (Peer.reset, lambda peer: peer.sock.close()):
            peer = await net.peer(server)
            await peer.send(said)
            await eventually(lambda: len(server.clients) == 1)
            await asyncio.sleep(0.005)
            leave(peer)
            await eventually(lambda: not server.clients)
    assert not journal(server).lines
    assert not server.counters.refused and not server._per_address


async def test_a_balancer_must_say_whose_connection_it_is(net: Net) -> None:
    server = await net.server(proxy_from=HERE)
    peer = await net.peer(server)
    await peer.send(HELLO)
    await peer.until_closed()
    assert server.counters.refused == {"proxy": 1}
    ((_, event, facts),) = journal(server).bad()
    assert (event, facts["reason"], facts["address"]) == ("protocol_error", "proxy", "127.0.0.1")


@pytest.mark.parametrize("trusted", [(), ("192.0.2.0/24", "::1")])
async def test_nobody_else_may(net: Net, trusted: tuple[str, ...]) -> None:
    server = await net.server(proxy_from=trusted)
    for header, _ in HEADERS.values():
        peer = await net.peer(server)
        await peer.send(header + HELLO)
        await peer.until_closed()
    assert server.counters.refused == {"handshake": len(HEADERS)}
    assert {facts["address"] for _, _, facts in journal(server).bad()} == {"127.0.0.1"}


async def test_a_header_that_does_not_come_has_a_deadline(net: Net) -> None:
    server = await net.server(proxy_from=HERE, timeouts=SHORT)
    silent, half = await net.peer(server), await net.peer(server)
    await half.send(binary(CLIENT)[:-1])
    await silent.until_closed()
    await half.until_closed()
    assert server.counters.refused == {"handshake_timeout": 2}


async def test_limits_are_the_clients_own(net: Net) -> None:
    server = await net.server(proxy_from=HERE, max_connections_per_address=1, max_connections=5)
    first = await behind(net, server)
    await first.connect()
    second = await behind(net, server)
    await second.send(HELLO)
    await second.until_closed()
    assert server.counters.refused == {"connections_per_address": 1}
    ((_, event, facts),) = journal(server).bad()
    assert (event, facts["address"], facts["what"]) == ("refused", CLIENT, "connection")
    for last in range(4):
        other = await behind(net, server, binary(f"192.0.2.{last + 20}"))
        await other.connect()
    await (await net.peer(server)).until_closed()
    assert server.counters.refused == {"connections_per_address": 1, "connections": 1}
    first.reset()
    await eventually(lambda: len(server.clients) == 4)
    await (await behind(net, server)).connect()


async def test_balancers_can_change(net: Net) -> None:
    server = await net.server()

    def trust(*addresses: str) -> None:
        server.configure(
            stream=StreamSettings(), egress=EgressSettings(), limits=Limits(), timeouts=Timeouts(), max_connections=9,
            max_connections_per_address=0, proxy_from=addresses,
        )

    plain = await net.peer(server)
    trust("127.0.0.1")
    await plain.connect()
    proxied = await behind(net, server)
    await eventually(lambda: len(server.clients) == 2)
    trust()
    await proxied.connect()
    assert [client.address for client in server.clients.values()] == ["127.0.0.1", CLIENT]


async def test_garbage_costs_one_line_each(net: Net) -> None:
    server = await net.server(proxy_from=HERE)
    chance = random.Random(7)
    for number in range(60):
        header = bytearray(chance.choice(list(HEADERS.values()))[0])
        for _ in range(chance.randrange(1, 4)):
            header[chance.randrange(len(header))] = chance.randrange(256)
        peer = await net.peer(server)
        await peer.send(bytes(header) + chance.randbytes(4000))
        await asyncio.sleep(0.003)
        peer.reset()
        await eventually(lambda: not server.clients)
        assert len(journal(server).bad()) <= number + 1
    assert not journal(server).of("internal_error") and not server._per_address
    await (await behind(net, server)).connect()
