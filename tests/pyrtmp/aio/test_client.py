from __future__ import annotations

import asyncio

import pytest

from pyrtmp import Client, Hooks, Message, RefusedError, Request, Server, StreamSettings, amf
from pyrtmp.aio.client import RtmpUrl
from pyrtmp.errors import LocalError
from pyrtmp.kin import Kin
from tests.pyrtmp.aio.net import Net, eventually, frame


def url(server: Server, name: str = "cam") -> str:
    return f"rtmp://127.0.0.1:{server.addresses[0][1]}/live/{name}"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("rtmp://h/live/cam", RtmpUrl("h", 1935, "live", "cam", False)),
        ("rtmp://h:1/a/b/cam?t=1&u=2", RtmpUrl("h", 1, "a/b", "cam?t=1&u=2", False)),
        ("rtmps://h/live/cam", RtmpUrl("h", 443, "live", "cam", True)),
        ("rtmp://[::1]:5/live/cam", RtmpUrl("::1", 5, "live", "cam", False)),
    ],
)
def test_url(text: str, expected: RtmpUrl) -> None:
    assert RtmpUrl.parse(text) == expected


@pytest.mark.parametrize("text", ["", "http://h/live/cam", "rtmp:///live/cam", "rtmp://h/cam", "rtmp://h:x/live/cam"])
def test_bad_url(text: str) -> None:
    with pytest.raises(LocalError):
        RtmpUrl.parse(text)


def test_tc_url() -> None:
    assert RtmpUrl.parse("rtmp://[::1]:5/live/cam?x").tc_url == "rtmp://[::1]:5/live"


async def test_publish_and_play(net: Net) -> None:
    server = await net.server(stream=StreamSettings(grace_seconds=0.1))
    metadata = Message(18, 0, 1, amf.encode0("onMetaData", {"width": 640.0}))
    sent = [metadata, *(frame(n, key=n == 0) for n in range(50))]
    got: list[Message] = []
    async with await Client.connect(url(server)) as player:

        async def play() -> None:
            async for message in player.play():
                got.append(message)  # noqa: PERF401 (watched from outside while it grows)

        task = asyncio.create_task(play())
        async with await Client.connect(url(server)) as publisher:
            await publisher.publish()
            for message in sent:
                await publisher.send(message)
            await eventually(lambda: len(got) == len(sent))
        await asyncio.wait_for(task, 5)  # ended by UnpublishNotify
    assert [(m.type, m.payload) for m in got] == [(m.type, m.payload) for m in sent]


async def test_refusals_carry_the_code(net: Net) -> None:
    def refuse(request: Request) -> None:
        raise RefusedError("NetConnection.Connect.Rejected", "no")

    server = await net.server(hooks=Hooks(on_connect=refuse))
    with pytest.raises(RefusedError) as caught:
        await Client.connect(url(server))
    assert caught.value.code == "NetConnection.Connect.Rejected"


async def test_a_taken_name_is_refused(net: Net) -> None:
    server = await net.server(stream=StreamSettings(takeover_seconds=0.2))
    async with await Client.connect(url(server)) as first, await Client.connect(url(server)) as second:
        await first.publish()
        await second.publish()  # the first one has sent nothing
        with pytest.raises(RefusedError, match="took over"):
            async with asyncio.timeout(5):
                while True:
                    await first.send(frame(0))
                    await asyncio.sleep(0.01)


async def test_a_lost_connection_is_reported(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    await publisher.write(frame(0, key=True))
    async with await Client.connect(url(server)) as player:
        with pytest.raises(ConnectionError):
            async for _ in player.play():
                for client in list(server.clients.values()):
                    if client.role == "play":
                        client.kick()


async def test_a_caller_that_does_not_read_holds_the_server_back_not_memory(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    async with await Client.connect(url(server)) as player:
        messages = player.play()
        await publisher.write(frame(0, key=True))
        await anext(messages)
        sent = [Message(9, n, 1, frame(n, 5000).payload) for n in range(1, 3000)]
        await publisher.write(*sent)
        await eventually(lambda: server.hub.live()[0].messages_in == 3001)
        assert len(player._events) < 2000
        # The first one was the sequence header.
        got = [await anext(messages) for _ in range(3000)]
        assert [m.payload for m in got[1:]] == [m.payload for m in sent]
        await messages.aclose()  # type: ignore[attr-defined]


async def test_connect_gives_up(net: Net) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(TimeoutError):
        await Client.connect(f"rtmp://127.0.0.1:{port}/live/cam", timeout=0.2)
    listener.close()
    await listener.wait_closed()


async def test_play_into_hands_on_whatever_comes(net: Net) -> None:
    server = await net.server(node="origin", stream=StreamSettings(gop_seconds=600))
    publisher = await net.publisher(server)
    # So many at once that the client stops reading before anybody takes them.
    sent = [frame(n, 10, key=n == 0) for n in range(2000)]
    await publisher.write(*sent[:1500])
    await eventually(lambda: server.hub.live()[0].messages_in == 1501)
    got: list[Message] = []
    async with await Client.connect(url(server), **Kin(node="edge", wait=False).entry()) as player:
        started = await player.play_into(lambda events: got.extend(e for e in events if isinstance(e, Message)))
        kin = Kin.read(started.info)
        assert (kin.node, kin.hops, kin.lineage) == ("origin", ("origin",), server.hub.live()[0].lineage)
        await publisher.write(*sent[1500:])
        await eventually(lambda: len(got) == 2001)
        assert [m.payload for m in got[1:]] == [m.payload for m in sent]


async def test_play_into_tells_strangers_nothing(net: Net) -> None:
    server = await net.server(node="origin")
    await (await net.publisher(server)).write(frame(0, key=True))
    async with await Client.connect(url(server)) as player:
        assert "pyrtmp" not in (await player.play_into(lambda events: None)).info


async def test_play_into_that_stopped_reading_before_it_began_reads_on(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    await publisher.write(frame(0, key=True))
    got: list[Message] = []
    async with await Client.connect(url(server)) as player:
        # What one read of many small messages does.
        player._holding = True
        player._transport.pause_reading()
        player._arrived.set()
        asking = asyncio.ensure_future(
            player.play_into(lambda events: got.extend(e for e in events if isinstance(e, Message)))
        )
        await asking
        await publisher.write(frame(1))
        await eventually(lambda: len(got) == 3)
        assert not player._holding


async def test_wait_closed_tells_why(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    await publisher.write(frame(0, key=True))
    players = [await Client.connect(url(server)) for _ in range(2)]

    def broken(events: object) -> None:
        raise RefusedError("Test.Code", "not wanted")

    await players[0].play_into(lambda events: None)
    # What a sink raises while play_into itself hands on is its caller's, after that it ends the connection.
    try:
        await players[1].play_into(broken)
    except RefusedError:
        players[1].abort()
    else:
        await publisher.write(frame(1))
        error = await asyncio.wait_for(players[1].wait_closed(), 5)
        assert isinstance(error, RefusedError) and error.code == "Test.Code"
    for client in list(server.clients.values()):
        if client.role == "play":
            client.kick()
    assert isinstance(await asyncio.wait_for(players[0].wait_closed(), 5), ConnectionError)
    for player in players:
        await player.close()


async def test_a_node_that_asks_several_is_answered_at_once(net: Net) -> None:
    server = await net.server()
    async with await Client.connect(url(server), **Kin(node="edge", wait=False).entry()) as player:
        with pytest.raises(RefusedError) as caught:
            await player.play_into(lambda events: None, timeout=1)
    assert caught.value.code == "NetStream.Play.StreamNotFound"
    assert not len(server.hub)
