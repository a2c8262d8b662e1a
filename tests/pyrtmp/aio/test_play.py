from __future__ import annotations

import pytest

from pyrtmp import Hooks, RedirectedError, RefusedError, Request, StreamKey, StreamSettings, amf, control
from pyrtmp.message import COMMAND_AMF0, Message
from tests.pyrtmp.aio.net import Net, eventually, frame, journal

NOT_FOUND = "NetStream.Play.StreamNotFound"


async def test_play_before_publish_waits(net: Net) -> None:
    server = await net.server()
    player = await net.peer(server)
    await player.play()
    await eventually(lambda: server.hub.find("live", "cam"))
    assert [client.role for client in server.clients.values()] == ["wait"]
    publisher = await net.publisher(server)
    await publisher.write(frame(0, key=True))
    await player.until(player.numbers)
    assert "NetStream.Play.Start" in player.codes()


async def test_play_of_what_nobody_publishes_ends(net: Net) -> None:
    server = await net.server(stream=StreamSettings(play_wait_seconds=0.2))
    player = await net.peer(server)
    await player.play()
    await player.until_code(NOT_FOUND, 1)
    assert server.counters.refused["play_timeout"] == 1
    await eventually(lambda: not len(server.hub))


async def test_there_are_no_recordings(net: Net) -> None:
    server = await net.server()
    player = await net.peer(server)
    await player.connect()
    await player.command("createStream", transaction=2)
    await player.command("play", "cam", 0.0, msid=1)
    await player.until_code(NOT_FOUND, 1)


async def test_a_second_stream_on_one_connection(net: Net) -> None:
    server = await net.server()
    one, two = await net.publisher(server, "one"), await net.publisher(server, "two")
    player = await net.player(server, "one", receive_buffer=4096)
    await one.write(*(frame(n, 30000, key=n == 0) for n in range(60)))
    await player.command("createStream", transaction=2)
    await player.command("play", "two", -2.0, msid=2)
    await two.write(*(frame(n, 30000, key=n == 100) for n in range(100, 160)))
    await player.until(lambda: len(player.numbers(1)) == len(player.numbers(2)) == 60)
    assert (player.numbers(1), player.numbers(2)) == (list(range(60)), list(range(100, 160)))
    await player.command("closeStream", msid=1)
    await one.write(frame(60))
    await two.write(frame(160))
    await player.until(lambda: player.numbers(2)[-1] == 160)
    assert 60 not in player.numbers(1)


async def test_play_again_on_the_same_message_stream(net: Net) -> None:
    server = await net.server()
    one, two = await net.publisher(server, "one"), await net.publisher(server, "two")
    player = await net.player(server, "one")
    await one.write(frame(0, key=True))
    await player.until(player.numbers)
    await player.command("play", "two", -2.0, msid=1)
    await two.write(frame(5, key=True))
    await player.until(lambda: player.numbers() == [0, 5])
    assert server.counters.plays["rtmp"] == 2


async def test_two_ends_on_one_connection_are_told_apart(net: Net) -> None:
    server = await net.server(stream=StreamSettings(grace_seconds=0.1))
    one, two = await net.publisher(server, "one"), await net.publisher(server, "two")
    player = await net.player(server, "one")
    await player.command("createStream", transaction=2)
    await player.command("play", "two", -2.0, msid=2)
    await two.write(frame(0, key=True))
    await player.until(lambda: player.numbers(2))
    one.reset()
    await player.until_code("NetStream.Play.Stop")
    assert player.codes().count("NetStream.Play.Stop") == 1
    await two.write(frame(1))
    await player.until(lambda: player.numbers(2) == [0, 1])


async def test_a_ping_is_answered(net: Net) -> None:
    server = await net.server()
    await net.publisher(server)
    player = await net.player(server)
    await player.write(Message(4, 0, 0, b"\0\6\0\0\0\7"), csid=2)
    await player.until(lambda: control.PING_RESPONSE in player.signals())


async def test_many_plays_at_once_need_no_stack(net: Net) -> None:
    server = await net.server()
    await net.publisher(server)
    player = await net.peer(server)
    await player.connect()
    await player.command("createStream", transaction=2)
    from pyrtmp.chunk import encode

    play = b"".join(encode(Message(20, 0, 1, amf.encode0("play", 0, None, "cam", -2.0)), 3, chunk_size=128))
    await player.send(play * 1500)
    await player.until(lambda: player.codes().count("NetStream.Play.Start") == 1500, 10)
    assert not journal(server).of("internal_error")


@pytest.mark.parametrize("error", [RefusedError("NetStream.Play.Failed", "no"), ValueError("oops")])
async def test_a_hook_may_refuse_to_play(net: Net, error: Exception) -> None:
    def refuse(request: Request) -> None:
        raise error

    server = await net.server(hooks=Hooks(on_play=refuse))
    await net.publisher(server)
    player = await net.peer(server)
    await player.play()
    await player.until_code("NetStream.Play.Failed" if isinstance(error, RefusedError) else "NetStream.Failed")
    assert len(server.clients) == 2


async def test_a_hook_may_have_another_stream_played(net: Net) -> None:
    server = await net.server(hooks=Hooks(on_play=lambda request: StreamKey("live", "cam")))
    publisher = await net.publisher(server)
    await publisher.write(frame(0, key=True))
    player = await net.peer(server)
    await player.play("alias")
    await player.until(lambda: player.numbers() == [0])


async def test_a_hook_may_send_a_player_elsewhere(net: Net) -> None:
    """In the words of SRS: the code of a refused connection, and where to go in ``ex``."""

    def elsewhere(request: Request) -> None:
        raise RedirectedError("rtmp://192.0.2.1:1936/app/name?token=a/b")

    server = await net.server(hooks=Hooks(on_play=elsewhere))
    player = await net.peer(server)
    await player.play()
    await player.until_code("NetConnection.Connect.Rejected")
    status = [amf.decode0(each.payload) for each in player.messages if each.type == COMMAND_AMF0][-1]
    (info,) = status[3:]
    assert info["ex"] == {
        "code": 302, "redirect": "rtmp://192.0.2.1:1936/app", "redirect2": "rtmp://192.0.2.1:1936/app/name?token=a/b"
    }  # fmt: skip
    assert server.counters.refused["sent_elsewhere"] == 1
