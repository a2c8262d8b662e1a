from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from pyrtmp import Client, Hooks, RedirectedError, RefusedError, Request, StreamKey, StreamSettings, amf, control
from pyrtmp.kin import Kin
from pyrtmp.message import COMMAND_AMF0, Message
from tests.pyrtmp.aio.net import Net, eventually, frame, journal

NOT_FOUND = "NetStream.Play.StreamNotFound"


async def test_play_before_publish_waits(net: Net) -> None:
    server = await net.server()
    player = await net.peer(server)
    await player.play()
    await eventually(lambda: server.hub.find("live", "cam"))
    assert [client.role for client in server.clients.values()] == ["wait"]
    await asyncio.sleep(0.1)
    publisher = await net.publisher(server)
    await publisher.write(frame(0, key=True))
    await player.until(player.numbers)
    assert "NetStream.Play.Start" in player.codes()
    times = server.counters.first_frames["rtmp"]
    assert times.total == 1 and 0.1 <= times.sum < 5  # from its request on


async def test_play_of_what_nobody_publishes_ends(net: Net) -> None:
    server = await net.server(stream=StreamSettings(play_wait_seconds=0.2))
    player = await net.peer(server)
    await player.play()
    await player.until_code(NOT_FOUND, 1)
    assert server.counters.refused["play_timeout"] == 1
    assert server.counters.viewers_failed == {"not_found": 1} and not server.counters.first_frames
    await eventually(lambda: not len(server.hub))


async def test_there_are_no_recordings(net: Net) -> None:
    server = await net.server()
    player = await net.peer(server)
    await player.connect()
    await player.command("createStream", transaction=2)
    await player.command("play", "cam", 0.0, msid=1)
    await player.until_code(NOT_FOUND, 1)


async def test_a_node_that_asks_in_vain_is_no_viewer(net: Net) -> None:
    server = await net.server()
    host, port = server.addresses[0]
    node = Kin(node="e1", wait=False).entry()
    with pytest.raises(RefusedError):
        async with await Client.connect(f"rtmp://{host}:{port}/live/cam", **node) as client:
            await anext(client.play())
    assert server.counters.refused["play"] == 1 and not server.counters.viewers_failed


@pytest.mark.parametrize(
    ("end", "reason"), [("deleteStream", "stopped"), ("reset", "gone"), ("kick", "kicked"), ("hub", "ended")]
)
async def test_the_line_at_the_end_says_why(net: Net, end: str, reason: str) -> None:
    server = await net.server()
    publisher, player = await net.watched(server)
    (stream,) = server.hub.live()
    match end:
        case "deleteStream":
            await player.command("deleteStream", 1.0)
            await publisher.command("deleteStream", 1.0)
        case "reset":
            player.reset()
            publisher.reset()
        case "kick":
            for client in list(server.clients.values()):
                client.kick()
        case _:
            server.hub.end(stream, monotonic())
    # What reset a socket may be found by whoever sends to it.
    reasons = {reason, "reset"} if end == "reset" else {reason}
    await eventually(lambda: journal(server).of("stop") and journal(server).of("unpublish", "displaced"))
    [stop], [over] = journal(server).of("stop"), journal(server).of("unpublish", "displaced")
    assert stop["reason"] in reasons and stop["bytes"] > 0 and stop["skips"] == 0 and stop["seconds"] >= 0
    assert over.get("reason", "ended") in reasons and over["bytes"] > 0 and over["frames"] == 1


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
    assert server.counters.viewers_failed == {"refused": 1}


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
