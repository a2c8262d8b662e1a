from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from pyrtmp import StreamSettings, Timeouts, control
from pyrtmp.message import Message
from tests.pyrtmp.aio.net import SHORT, Net, Peer, eventually, frame, journal, sound


async def gop(publisher: Peer, first: int, count: int, size: int = 1000) -> list[Message]:
    messages = [frame(n, size, key=n == first) for n in range(first, first + count)]
    await publisher.write(*messages)
    return messages


async def test_a_joiner_gets_the_head_and_the_newest_key_frame_then_live(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    await gop(publisher, 0, 5)
    sent = await gop(publisher, 5, 5)
    await eventually(lambda: server.hub.live()[0].messages_in == 11)
    player = await net.player(server)
    await player.until(lambda: len(player.numbers()) == 5)
    sent += await gop(publisher, 10, 5)
    await player.until(lambda: len(player.numbers()) == 10)
    head, *rest = player.media()
    assert head.payload[1] == 0  # the sequence header
    assert [m.payload for m in rest] == [m.payload for m in sent]
    assert [m.timestamp for m in rest] == [m.timestamp for m in sent]


async def test_answers_go_between_the_records_of_a_slow_reader(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    player = await net.player(server, receive_buffer=4096)
    sent: list[Message] = []
    for n in range(0, 60, 10):
        sent += await gop(publisher, n, 10, 60000)
        await player.write(Message(4, 0, 0, b"\0\6" + n.to_bytes(4, "big")), csid=2)
        await player.read(3000)
    async with asyncio.timeout(5):
        while len(player.numbers()) < 60 or player.signals().count(control.PING_RESPONSE) < 6:
            await player.read(3000)
    assert [m.payload for m in player.media()][1:] == [m.payload for m in sent]
    assert server.counters.skips == 0


@pytest.mark.parametrize("msid", [1, 2])
async def test_many_viewers_get_the_same(net: Net, msid: int) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    players = [await net.player(server, msid=msid) for _ in range(30)]
    sent = await gop(publisher, 0, 50, 3000)
    for player in players:
        await player.until(lambda player=player: len(player.numbers()) == 50)
        assert [m.payload for m in player.media(msid)][1:] == [m.payload for m in sent]


async def test_those_who_never_read_are_let_go_and_hurt_nobody(net: Net) -> None:
    server = await net.server(timeouts=Timeouts(write_stall=0.3))
    publisher = await net.publisher(server)
    player = await net.player(server)
    for _ in range(20):
        await net.player(server, receive_buffer=4096)
    assert len(server.clients) == 22
    number = 0
    async with asyncio.timeout(20):
        while len(server.clients) > 2:
            await gop(publisher, number, 10, 50000)
            number += 10
            await player.until(lambda last=number - 1: player.numbers()[-1:] == [last])
    assert server.counters.stalls == 20 and server.counters.viewers_failed == {"stall": 20}
    assert [line["reason"] for line in journal(server).of("stop")] == ["stall"] * 20
    assert player.numbers() == list(range(number))
    assert not journal(server).bad()


@pytest.mark.parametrize("msid", [1, 2])
async def test_a_slow_viewer_is_moved_to_the_newest_join_point(net: Net, msid: int) -> None:
    settings = StreamSettings(log_bytes=400_000, segment_bytes=100_000, log_seconds=4)
    server = await net.server(stream=settings)
    publisher = await net.publisher(server)
    player = await net.player(server, receive_buffer=4096, msid=msid)
    number = 0
    async with asyncio.timeout(10):
        while not server.counters.skips:
            await gop(publisher, number, 10, 20000)
            number += 10
            await player.read(2000)
    last = number - 1
    async with asyncio.timeout(5):
        while player.numbers()[-1:] != [last]:
            await player.read()
    numbers = player.numbers()
    jumps = [after for before, after in pairwise(numbers) if after != before + 1]
    assert jumps and all(number % 10 == 0 for number in jumps)  # only to key frames
    assert not server.counters.skipped_viewers
    player.sock.close()
    await eventually(lambda: server.counters.skipped_viewers == 1)


async def test_pause_stops_and_unpause_goes_on_at_the_newest_key_frame(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    player = await net.player(server)
    await gop(publisher, 0, 5)
    await player.until(lambda: len(player.numbers()) == 5)
    await player.command("pause", True, 0.0, msid=1)
    await player.until_code("NetStream.Pause.Notify")
    await gop(publisher, 5, 5)
    await gop(publisher, 10, 5)
    await eventually(lambda: server.hub.live()[0].messages_in == 16)
    # An answer is the fence: everything sent before it has been read.
    await player.write(Message(4, 0, 0, b"\0\6\0\0\0\7"), csid=2)
    await player.until(lambda: control.PING_RESPONSE in player.signals())
    assert player.numbers() == [0, 1, 2, 3, 4]
    await player.command("pause", False, 0.0, msid=1)
    await player.until(lambda: len(player.numbers()) == 10)
    assert player.numbers()[5:] == [10, 11, 12, 13, 14]


async def test_a_paused_viewer_holds_no_memory(net: Net) -> None:
    server = await net.server(stream=StreamSettings(segment_bytes=50_000, log_seconds=0.1))
    publisher = await net.publisher(server)
    player = await net.player(server)
    await gop(publisher, 0, 5)
    await player.until(lambda: len(player.numbers()) == 5)
    await player.command("pause", True, 0.0, msid=1)
    await player.until_code("NetStream.Pause.Notify")
    (lane,) = server.hub.live()[0].lanes.values()
    (viewer,) = lane.viewers
    await eventually(lambda: viewer.segment is None)


async def test_seek_goes_to_the_newest_key_frame(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    player = await net.player(server)
    await gop(publisher, 0, 5)
    await player.until(lambda: len(player.numbers()) == 5)
    await player.command("seek", 0.0, msid=1)
    await player.until(lambda: len(player.numbers()) == 10)
    assert player.numbers() == [0, 1, 2, 3, 4] * 2
    assert "NetStream.Seek.Notify" in player.codes()


async def test_sound_only_and_picture_only_in_the_middle_of_a_stream(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    player = await net.player(server, receive_buffer=4096)
    number = 0

    async def some() -> None:
        nonlocal number
        for _ in range(10):
            await publisher.write(frame(number, 20000, key=number % 10 == 0), sound(number))
            number += 1
        await player.until(lambda: player.media() and player.media()[-1].payload == sound(number - 1).payload)

    await some()
    await player.command("receiveVideo", False, msid=1)
    await some()
    await some()
    assert max(player.numbers()) < 20
    await player.command("receiveVideo", True, msid=1)
    await player.until_code("NetStream.Seek.Notify")
    await some()
    assert player.numbers()[-10:] == list(range(30, 40))
    before = len(player.media())
    await player.command("receiveAudio", False, msid=1)
    await player.command("createStream", transaction=9)
    await player.until(lambda: player.messages[-1].type == 20)
    await publisher.write(*(frame(n, key=n == 40) for n in range(40, 50)), sound(50), frame(51))
    await player.until(lambda: player.numbers()[-1] == 51)
    assert sound(50).payload not in [m.payload for m in player.media()[before:]]


@pytest.mark.parametrize("wanted", [False, True])
async def test_what_was_asked_before_play_counts(net: Net, wanted: bool) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    player = await net.peer(server)
    await player.connect()
    await player.command("createStream", transaction=2)
    await player.command("receiveAudio", wanted, msid=1)
    await player.command("play", "cam", -2.0, msid=1)
    await player.until_code("NetStream.Play.Start")
    await publisher.write(frame(0, key=True), sound(1), frame(2))
    await player.until(lambda: player.numbers() == [0, 2])
    assert (sound(1).payload in [m.payload for m in player.media()]) == wanted


async def test_answers_reach_a_viewer_that_a_round_took_into_the_next_segment(net: Net) -> None:
    server = await net.server(stream=StreamSettings(segment_bytes=20_000))
    publisher = await net.publisher(server)
    player = await net.player(server)
    for n, size in enumerate((15_000, 10_000, 1000)):
        await publisher.write(frame(n, size, key=n == 0))
        await player.until(lambda n=n: player.numbers() == list(range(n + 1)))  # type: ignore[misc]
    await player.write(Message(4, 0, 0, b"\0\6\0\0\0\7"), csid=2)
    await player.until(lambda: control.PING_RESPONSE in player.signals())
    await publisher.write(*(frame(n, 6000) for n in range(3, 9)))
    await player.until(lambda: player.numbers() == list(range(9)))


async def test_a_connection_lost_while_its_viewer_gives_way_leaves_nothing(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    player = await net.player(server, receive_buffer=4096)
    await gop(publisher, 0, 150, 60000)
    (lane,) = server.hub.live()[0].lanes.values()
    (viewer,) = lane.viewers
    await eventually(lambda: viewer.segment is not None and not viewer.ready)
    await player.command("receiveAudio", False, msid=1)
    await eventually(lambda: getattr(viewer, "_giving_way", False))
    player.reset()
    await eventually(lambda: not lane.viewers)
    assert all(not segment.readers for segment in lane.log._segments)


async def test_closing_a_stream_in_the_middle_of_a_record_leaves_the_chunks_whole(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    player = await net.player(server, receive_buffer=4096)
    await gop(publisher, 0, 150, 60000)
    (lane,) = server.hub.live()[0].lanes.values()
    (viewer,) = lane.viewers
    await eventually(lambda: viewer.segment is not None and not viewer.ready)
    await player.command("closeStream", msid=1)
    await eventually(lambda: not lane.viewers)
    await player.write(Message(4, 0, 0, b"\0\6\0\0\0\7"), csid=2)
    await player.until(lambda: control.PING_RESPONSE in player.signals())
    numbers = player.numbers()
    assert numbers == list(range(len(numbers))) and len(numbers) < 150


async def test_the_log_of_an_ended_stream_is_given_back_by_its_last_viewer(net: Net) -> None:
    server = await net.server(stream=StreamSettings(grace_seconds=0))
    publisher = await net.publisher(server)
    player = await net.player(server, receive_buffer=4096)
    await gop(publisher, 0, 150, 60000)
    stream = server.hub.live()[0]
    (lane,) = stream.lanes.values()
    await eventually(lambda: stream.messages_in == 151)
    tail = lane.log.tail
    server.hub.end(stream, 0.0)
    await player.until_code("NetStream.Play.Stop")
    assert player.numbers() == list(range(150))
    await eventually(lambda: tail.fd == -1)


async def test_a_stalled_player_is_let_go_even_when_it_waits_for_its_head(net: Net) -> None:
    server = await net.server(timeouts=SHORT)
    publisher = await net.publisher(server)
    await net.player(server, receive_buffer=4096)
    number = 0
    async with asyncio.timeout(5):
        while len(server.clients) > 1:
            await gop(publisher, number, 5, 100_000)
            number += 5
            await asyncio.sleep(0.02)
    assert server.counters.stalls == 1
