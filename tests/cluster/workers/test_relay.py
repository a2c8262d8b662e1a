"""``cluster.workers.relay``: viewers of one worker get what viewers of the worker that holds the stream get."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from struct import Struct
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cluster.workers.channel import MAX_MESSAGE, MAX_QUEUED, attach, pair
from cluster.workers.hlslink import HlsKind
from cluster.workers.relay import FORMS, Feeder, Kind, Link
from hls.http import ViewerSite
from hls.live import HlsService
from hls.settings import HlsSettings
from pyrtmp import StreamSettings, Timeouts, amf, control
from pyrtmp.aio.client import Client
from pyrtmp.aio.server import Server
from pyrtmp.birth import NEVER, Birth, Told
from pyrtmp.forms import RtmpForm
from pyrtmp.kin import Kin
from pyrtmp.lane import Lane
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.stream import State, Stream
from pyrtmp.wirelog import Segment
from tests.cluster.workers.members import (
    CAM,
    FlvTape,
    Machine,
    Member,
    RtmpTape,
    Tape,
    gop,
    holders,
    jumps,
    no_step_back,
    numbers_reach,
)
from tests.descriptors import descriptors, no_descriptors
from tests.pyrtmp.aio.net import AUDIO_SEQUENCE, SEQUENCE, Journal, eventually, frame, sound

SMALL = StreamSettings(segment_bytes=20_000)
"""Some twenty pictures of 1000 bytes in a segment."""

TIGHT = StreamSettings(segment_bytes=50_000, log_bytes=400_000, log_seconds=4)

WRONG_CONFIG = b"\x17\0\0\0\0another configuration"


async def viewers(machine: Machine, *members: Member) -> list[Tape]:
    """One of each kind at each member."""
    return [await view(member) for member in members for view in (machine.player, machine.flv)]


def same(*tapes: Tape) -> None:
    """What the tapes of each kind hold is the same to the last byte, from the first record that all of them have."""
    for kind in (RtmpTape, FlvTape):
        group = [tape for tape in tapes if isinstance(tape, kind)]
        for tape in group[1:]:
            first = next(m for m in tape.media() if m in group[0].media() and m.payload[1] == 1)
            assert tape.since(first) == group[0].since(first)


def same_frames(*tapes: Tape) -> None:
    """What is there is the same as on the first tape, for those who had to join again and got the head once more."""
    times = {m.payload: m.timestamp for m in coded(tapes[0])}
    for tape in tapes[1:]:
        assert all(times[m.payload] == m.timestamp for m in coded(tape))


def coded(tape: Tape) -> list[Message]:
    return [m for m in tape.media() if m.payload[1] == 1]


def silence(link: Link) -> Callable[[], None]:
    """The process at this end does not read its channel until what is returned is called."""
    loop = asyncio.get_running_loop()
    descriptor = link.channel._socket.fileno()
    loop.remove_reader(descriptor)
    return lambda: loop.add_reader(descriptor, link.channel._readable)


def busy(holder: Member, relay: Member) -> Callable[[], None]:
    """The relaying worker does not read, and its channel is full, until what is returned is called."""
    wake_up = silence(relay.link(holder))
    channel = holder.link(relay).channel
    while not channel.backlog:
        channel.send(ID.pack(Kind.GONE, 0))
    return wake_up


# Joining and going on


@pytest.mark.parametrize("kind", ["rtmp", "rtmp on stream 2", "flv"])
async def test_a_viewer_that_joins_in_the_middle_of_a_group(machine: Machine, kind: str) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    sent = await gop(publisher, 10, 5)
    await eventually(lambda: holder.stream().messages_in == 17)

    async def view(member: Member) -> Tape:
        if kind == "flv":
            return await machine.flv(member)
        return await machine.player(member, msid=2 if "2" in kind else 1)

    tapes = [await view(holder), await view(relay)]
    await numbers_reach(tapes, 14)
    sent += await gop(publisher, 15, 20)
    await numbers_reach(tapes, 34)
    for tape in tapes:
        assert tape.numbers() == list(range(10, 35))
        assert [m.payload for m in tape.media()] == [SEQUENCE, *(m.payload for m in sent)]
    assert tapes[0].media() == tapes[1].media()
    if kind != "rtmp on stream 2":
        assert tapes[0].since(sent[0]) == tapes[1].since(sent[0])
    if kind == "flv":
        # No command is among it: all there is, from the file header on.
        assert tapes[0].raw.partition(b"\r\n\r\n")[2] == tapes[1].raw.partition(b"\r\n\r\n")[2]
    # The worker with the publisher and the one without: one stream, once published.
    assert relay.stream().relayed and not holder.stream().relayed
    assert relay.server.counters.publishes == 0


async def test_many_segments_many_viewers(machine: Machine) -> None:
    machine.options = {"stream": SMALL}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    tapes = [tape for _ in range(3) for tape in await viewers(machine, holder, relay)]
    await numbers_reach(tapes, 9)
    for first in range(10, 200, 10):
        await gop(publisher, first)
        if first % 50 == 0:
            tapes += await viewers(machine, holder, relay)
            await numbers_reach(tapes, first + 9)
    await numbers_reach(tapes, 199)
    assert holder.lane().log.tail.number > 8
    same(*tapes)
    for tape in tapes:
        assert jumps(tape.numbers()) == [] and tape.numbers()[0] % 10 == 0
    assert holder.server.counters.skips == relay.server.counters.skips == 0


async def test_records_of_any_size_and_sound(machine: Machine) -> None:
    machine.options = {"stream": SMALL}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await publisher.write(Message(AUDIO, 0, 1, AUDIO_SEQUENCE), frame(0, key=True), sound(0))
    tapes = await viewers(machine, holder, relay)
    await numbers_reach(tapes, 0)
    chance = random.Random(1)
    for number in range(1, 60):
        size = chance.choice([0, 10, 1000, 70_000, 200_000])
        await publisher.write(frame(number, size, key=number % 7 == 0), sound(number))
    await publisher.write(frame(60))
    await numbers_reach(tapes, 60)
    same(*tapes)
    for tape in tapes:
        assert len(tape.media()) == 2 + 60 * 2 + 1


async def test_sound_alone(machine: Machine) -> None:
    """Every record is a join point."""
    holder, relay = await machine.two()
    publisher = await machine.rtmp(holder)
    await publisher.connect()
    await publisher.command("createStream", transaction=2)
    await publisher.command("publish", "cam", "live", msid=1)
    await publisher.until_code("NetStream.Publish.Start")
    head = Message(DATA_AMF0, 0, 1, amf.encode0("onMetaData", {"audiocodecid": 10.0}))
    await publisher.write(head, Message(AUDIO, 0, 1, AUDIO_SEQUENCE), sound(0))
    tapes = await viewers(machine, holder, relay)
    for number in range(1, 50):
        await publisher.write(sound(number))
        if number == 20:
            tapes += await viewers(machine, holder, relay)
    for tape in tapes:
        await tape.until(lambda tape=tape: tape.media()[-1:] == [sound(49)])  # type: ignore[misc]
        assert tape.media()[0].payload == AUDIO_SEQUENCE
    same(*tapes)
    assert [tape.tracks for tape in tapes if isinstance(tape, FlvTape)] == [(True, False)] * 4


async def test_a_head_that_changes(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    early = await viewers(machine, holder, relay)
    await numbers_reach(early, 9)
    await publisher.write(Message(VIDEO, 400, 1, WRONG_CONFIG))
    await gop(publisher, 10)
    await numbers_reach(early, 19)
    late = await viewers(machine, holder, relay)
    await numbers_reach(late, 19)
    await gop(publisher, 20)
    await numbers_reach([*early, *late], 29)
    same(*early)
    same(*late)
    for tape in early:
        assert [m.payload for m in tape.media() if m.payload[1] == 0] == [SEQUENCE, WRONG_CONFIG]
    for tape in late:
        assert tape.media()[0].payload == WRONG_CONFIG
        assert tape.numbers() == list(range(10, 30))


async def test_a_long_head_goes_in_shared_memory(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    config = b"\x17\0\0\0\0" + bytes(range(256)) * 400
    assert MAX_MESSAGE < len(config)
    await publisher.write(Message(VIDEO, 0, 1, config))
    await gop(publisher, 0)
    tapes = await viewers(machine, holder, relay)
    await numbers_reach(tapes, 9)
    same(*tapes)
    for tape in tapes:
        assert tape.media()[0].payload == config


async def test_an_flv_viewer_waits_until_the_tracks_are_known(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    both = Message(DATA_AMF0, 0, 1, amf.encode0("onMetaData", {"videocodecid": 7.0, "audiocodecid": 10.0}))
    await publisher.write(both)
    player = await machine.player(relay)
    tapes = [await machine.flv(holder), await machine.flv(relay)]
    await gop(publisher, 0, 3)
    await player.until_number(2)
    assert all(tape.tracks is None and not tape.messages for tape in tapes)
    await publisher.write(Message(AUDIO, 0, 1, AUDIO_SEQUENCE))
    await numbers_reach(tapes, 2)
    assert [tape.tracks for tape in tapes] == [(True, True)] * 2
    same(*tapes)


async def test_a_track_that_comes_late_is_named_to_those_who_come_later(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0, 3)
    early = [await machine.flv(holder), await machine.flv(relay)]
    await numbers_reach(early, 2)
    await publisher.write(Message(AUDIO, 120, 1, AUDIO_SEQUENCE), sound(3), frame(4))
    await numbers_reach(early, 4)
    late = [await machine.flv(holder), await machine.flv(relay)]
    await numbers_reach(late, 4)
    assert [tape.tracks for tape in (*early, *late)] == [(False, True)] * 2 + [(True, True)] * 2


async def test_viewers_who_came_first(machine: Machine) -> None:
    """They wait where they are, and are shown what another worker comes to hold."""
    holder, relay = await machine.two()
    player = await machine.rtmp(relay)
    await player.play()
    flv = await machine.flv(relay)
    await eventually(lambda: len(relay.server.hub) == 1)
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    await numbers_reach([player, flv], 9)
    assert player.numbers() == flv.numbers() == list(range(10))


# The publisher goes and comes


async def test_other_nodes_are_told_the_same_by_every_worker(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    await eventually(lambda: holder.stream().key_frames == 1)

    async def ask(member: Member) -> Kin:
        client = await Client.connect(
            f"rtmp://127.0.0.1:{member.server.addresses[0][1]}/live/cam", **Kin(node="edge").entry()
        )
        async with client:
            return Kin.read((await client.play_into(lambda events: None)).info)

    said = await asyncio.gather(ask(relay), ask(holder), ask(relay))
    assert {each.birth for each in said} == {holder.stream().told}
    assert Told.read(said[0].birth) == Told(Birth(Told.read(said[0].birth).birth.wall, 0, 0), 0, 0, NEVER)  # type: ignore
    watcher = await machine.player(relay)
    await gop(publisher, 10)
    await numbers_reach([watcher], 19)
    assert relay.stream().told == holder.stream().told != said[0].birth
    assert (await ask(relay)).birth == holder.stream().told


async def test_a_publisher_that_returns(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    tapes = await viewers(machine, holder, relay)
    players = [tape for tape in tapes if isinstance(tape, RtmpTape)]
    for turn in range(1, 4):
        first = turn * 10
        await numbers_reach(tapes, first - 1)
        publisher.reset()
        for player in players:
            await player.until(lambda player=player, turn=turn: player.signals().count(control.STREAM_EOF) == turn)
        assert relay.stream().state is State.GONE
        publisher = await machine.publisher(holder)
        await gop(publisher, first)
    await numbers_reach(tapes, 39)
    same_frames(*tapes)
    for tape in tapes:
        assert tape.numbers() == list(range(40))
        no_step_back(tape)
    for player in players:
        assert player.signals().count(control.STREAM_BEGIN) == 4
    assert relay.stream().sessions == 4


@pytest.mark.parametrize("announced_first", [False, True], ids=["goes, then comes", "is challenged"])
async def test_a_publisher_that_moves_to_the_worker_that_relays(machine: Machine, announced_first: bool) -> None:
    """All viewers go on where they are, on a timeline that goes on, there and back."""
    machine.options = {"stream": StreamSettings(takeover_seconds=0.1, segment_bytes=20_000)}
    members = await machine.two()
    publisher = await machine.publisher(members[0])
    await gop(publisher, 0)
    tapes = await viewers(machine, *members)
    old = []
    for turn in range(1, 5):
        await numbers_reach(tapes, turn * 10 - 1)
        if not announced_first:
            publisher.reset()
            await eventually(lambda: not holders(machine.registry))
        old.append(publisher)
        publisher = await machine.publisher(members[turn % 2])
        await gop(publisher, turn * 10)
    await numbers_reach(tapes, 49)
    same(*tapes)
    for tape in tapes:
        assert tape.numbers() == list(range(50))
        no_step_back(tape)
        assert tape.times()[-1] < 30_000  # nor does it jump ahead
    assert [member.server.counters.takeovers for member in members] == ([2, 2] if announced_first else [0, 0])
    assert holders(machine.registry) == {CAM: 1}


async def test_sound_that_is_ahead_when_the_publisher_moves(machine: Machine) -> None:
    first, second = await machine.two()
    publisher = await machine.publisher(first)
    await publisher.write(frame(0, key=True), sound(22), frame(1))
    tapes = [await machine.player(first), await machine.player(second)]
    await numbers_reach(tapes, 1)
    publisher.reset()
    await eventually(lambda: not holders(machine.registry))
    publisher = await machine.publisher(second)
    await publisher.write(frame(2, key=True), sound(3))
    for tape in tapes:
        await tape.until(lambda tape=tape: len(tape.media()) == 7)  # type: ignore[misc]
        audio = [m.timestamp for m in tape.media() if m.type == AUDIO]
        assert audio == sorted(audio) and tape.media()[-2].timestamp > 22 * 40


async def test_the_worker_that_holds_the_stream_is_lost(machine: Machine) -> None:
    first, second = await machine.two()
    third = await machine.member()
    publisher = await machine.publisher(first)
    await gop(publisher, 0, 100)
    tapes = await viewers(machine, second, third)
    await numbers_reach(tapes, 99)
    await machine.lose(first)
    for member in (second, third):
        await eventually(lambda member=member: member.stream().state is State.GONE)
    await eventually(lambda: sum(type(message).__name__ == "Seen" for message in machine.said) == 2)
    publisher = await machine.publisher(third)
    await gop(publisher, 100)
    await numbers_reach(tapes, 109)
    for tape in tapes:
        assert tape.numbers() == list(range(110))
        no_step_back(tape)
        assert 99 * 40 < tape.times()[-1] < 99 * 40 + 10_000
    assert "gone" not in [line[1] for line in second.journal.bad()]


# A link that breaks


async def test_a_link_lost_in_the_middle_of_a_record(machine: Machine) -> None:
    """What was begun is finished: the chunks stay whole.  Then the viewer goes on with the next link."""
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    slow = await machine.player(relay, receive_buffer=4096)
    big = frame(0, 3_000_000, key=True)
    await publisher.write(big)
    lane = relay.lane()
    await eventually(lambda: any(v.segment is not None and v.offset for v in lane.viewers))
    (viewer,) = lane.viewers
    await eventually(lambda: not viewer.ready)
    assert viewer.segment is not None and 0 < viewer.offset < viewer.segment.size
    relay.link(holder).channel._lose("gone")
    await eventually(lambda: relay.stream().state is State.GONE)
    await eventually(lambda: not holder.stream().outlets)
    machine.link(holder, relay)
    await eventually(lambda: relay.stream().live)
    await gop(publisher, 1)
    await slow.until_number(10)
    assert slow.media()[1].payload == big.payload
    assert slow.numbers() == list(range(11))
    assert sum(type(message).__name__ == "LinkLost" for message in machine.said) == 2


async def test_a_link_that_is_replaced(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    tapes = await viewers(machine, relay)
    await numbers_reach(tapes, 9)
    traffic = relay.directory.traffic
    machine.link(holder, relay)
    await eventually(lambda: len(holder.stream().outlets) == 1 and holder.link(relay).feeders)
    await gop(publisher, 10)
    await numbers_reach(tapes, 19)
    assert relay.directory.traffic[0] > traffic[0] > 0  # those of links that are gone count
    for tape in tapes:
        assert jumps(tape.numbers()) in ([], [0])  # the new log begins with its join point


# A worker that does not read its channel for a while


@pytest.mark.parametrize("then", ["goes on", "pauses", "leaves"])
async def test_a_worker_that_was_busy_catches_up(machine: Machine, then: str) -> None:
    """Nothing is lost, though many rounds were not told, and though nothing comes after them."""
    machine.options = {"stream": SMALL}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    tapes = await viewers(machine, holder, relay)
    await numbers_reach(tapes, 9)
    wake_up = busy(holder, relay)
    channel = holder.link(relay).channel
    backlog = channel.backlog
    for number in range(10, 100):
        await publisher.write(frame(number, key=number % 10 == 0))
        await numbers_reach(tapes[:2], number)
    assert holder.lane().log.tail.number > 3
    assert channel.backlog == backlog  # nothing piles up: what is told is where the logs end
    if then == "leaves":
        publisher.reset()
        await eventually(lambda: not holder.server.hub.live())
    wake_up()
    if then == "goes on":
        await publisher.write(frame(100, key=True))
    await numbers_reach(tapes, 100 if then == "goes on" else 99)
    same_frames(*tapes)
    for tape in tapes:
        assert tape.numbers() == list(range(101 if then == "goes on" else 100))
    if then == "leaves":
        await eventually(lambda: relay.stream().state is State.GONE)


async def test_a_worker_that_was_busy_for_too_long_goes_on_at_a_join_point(machine: Machine) -> None:
    """The holder's bounds hold: what it has evicted meanwhile is gone.  No group is shown with a hole in it."""
    machine.options = {"stream": StreamSettings(segment_bytes=20_000, log_bytes=100_000)}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    tapes = await viewers(machine, holder, relay)
    await numbers_reach(tapes, 9)
    wake_up = busy(holder, relay)
    for first in range(10, 300, 10):
        await gop(publisher, first)
        await numbers_reach(tapes[:2], first + 9)
    assert holder.lane().log.bytes < 130_000
    wake_up()
    await numbers_reach(tapes, 299)
    same_frames(*tapes)
    for tape in tapes[:2]:
        assert jumps(tape.numbers()) == []
    for tape in tapes[2:]:
        (jump,) = jumps(tape.numbers())
        assert jump == 290
    assert relay.server.counters.skips == 2


async def test_no_hole_where_a_segment_was_evicted_before_its_end_was_told(machine: Machine) -> None:
    """The next segment follows by its number, but not from where the viewers are."""
    holder = await machine.member(stream=StreamSettings(segment_bytes=20_000, log_bytes=30_000))
    relay = await machine.member()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    tapes = [await machine.player(holder), await machine.player(relay)]
    await numbers_reach(tapes, 9)
    wake_up = busy(holder, relay)
    log = holder.lane().log
    first = log.tail
    await gop(publisher, 10, 5, 3000)
    await tapes[0].until_number(14)
    assert log.tail is first
    for number in range(15, 40):
        await publisher.write(frame(number, key=number == 20))
        await tapes[0].until_number(number)
    assert first.evicted and log.join is not None and log.join.number == first.number + 1
    wake_up()
    await tapes[1].until_number(39)
    assert tapes[0].numbers() == list(range(40))
    assert tapes[1].numbers() == [*range(10), *range(20, 40)]


# Descriptors


async def deaf_while_published(
    machine: Machine, holder: Member, relay: Member, publish: Callable[[], Awaitable[None]]
) -> None:
    """What is told meanwhile reaches the relaying worker when it can open nothing."""
    link = relay.link(holder)
    wake_up = silence(link)
    sent = holder.link(relay).channel.bytes_out
    await publish()
    await eventually(lambda: holder.link(relay).channel.bytes_out > sent)
    with no_descriptors():
        link.channel._readable()
    wake_up()


async def test_a_segment_without_its_descriptor_is_one_error_and_the_next_one_recovers(machine: Machine) -> None:
    machine.options = {"stream": SMALL}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    tapes = await viewers(machine, holder, relay)
    await numbers_reach(tapes, 9)
    number = 10

    async def next_segment() -> None:
        nonlocal number
        tails = [holder.lane(form).log.tail for form in ("rtmp", "flv")]
        while any(holder.lane(form).log.tail in tails for form in ("rtmp", "flv")):
            await publisher.write(frame(number, key=number % 10 == 0))
            await numbers_reach(tapes[:2], number)
            number += 1

    with capture_logs() as logs:
        for _ in range(3):
            await deaf_while_published(machine, holder, relay, next_segment)
    # Each lane tells it once, however long it lasts.
    errors = [line for line in logs if line["event"] == "out_of_descriptors"]
    assert len(errors) == relay.server.counters.log_failures == 2
    await next_segment()
    number = (number + 9) // 10 * 10
    await gop(publisher, number, 30)
    await numbers_reach(tapes, number + 29)
    same_frames(*tapes)
    for tape in tapes[2:]:
        assert all(each % 10 == 0 for each in jumps(tape.numbers()))
    assert relay.server.counters.log_failures == 2


async def test_the_first_segment_without_its_descriptor_is_told_as_well(machine: Machine) -> None:
    machine.options = {"stream": SMALL}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    await eventually(lambda: holder.server.hub.live() and holder.stream().messages_in == 12)
    wake_up = silence(relay.link(holder))
    player = await machine.player(relay)
    await eventually(lambda: holder.stream().lanes)
    with no_descriptors(), capture_logs() as logs:
        relay.link(holder).channel._readable()
    assert [line["event"] for line in logs] == ["out_of_descriptors"]
    wake_up()
    for first in range(10, 50, 10):
        await gop(publisher, first)
    await player.until_number(49)
    assert player.numbers()[0] % 10 == 0 and jumps(player.numbers()) == []


async def test_the_holder_without_descriptors_tells_later(machine: Machine) -> None:
    machine.options = {"stream": SMALL}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    tapes = [await machine.player(holder), await machine.player(relay)]
    await numbers_reach(tapes, 9)
    stream = holder.stream()
    lane = holder.lane()
    first = lane.log.tail
    # A segment that is there, and cannot be shown: the round goes on without.
    with no_descriptors(left=1):
        for number in range(10, 40):
            stream.push(frame(number, key=number % 10 == 0))
            await tapes[0].until_number(number)
        assert lane.log.tail is not first
    failures = holder.server.counters.log_failures
    assert failures > 0
    await gop(publisher, 40)
    await numbers_reach(tapes, 49)
    assert holder.server.counters.log_failures == failures
    same(*tapes)
    assert jumps(tapes[1].numbers()) == []


async def test_a_holder_without_descriptors_still_says_that_it_is_over(machine: Machine) -> None:
    machine.options = {"stream": SMALL}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    player = await machine.player(relay)
    await player.until_number(9)
    stream = holder.stream()
    with no_descriptors(left=1), capture_logs() as logs:
        for number in range(10, 60):
            stream.push(frame(number, key=number % 10 == 0))
        holder.server.hub.displace(stream, 0.0, "NetStream.Unpublish.Success", "test")
    assert [line["event"] for line in logs] == ["log_failed"]
    assert not stream.outlets
    await player.until(lambda: control.STREAM_EOF in player.signals())
    assert relay.stream().state is State.GONE


async def test_no_memory_for_a_lane_at_the_holder(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    await eventually(lambda: holder.server.hub.live())
    with capture_logs() as logs:
        player = await machine.rtmp(relay)
        await player.play()
        link = holder.link(relay)
        wake_up = silence(link)
        await player.until_code("NetStream.Play.Start")
        await eventually(lambda: relay.stream().lanes)
        with no_descriptors():
            link.channel._readable()
        wake_up()
    assert [line["event"] for line in logs] == ["log_failed"]
    assert holder.server.counters.log_failures == 1
    # The stream goes on, and so do those who come again.
    player.reset()
    await eventually(lambda: not relay.server.clients)
    await eventually(lambda: not relay.stream().lanes)
    again = await machine.player(relay)
    await again.until_number(9)


# Slow viewers, and nobody


async def test_a_slow_viewer_of_the_relay_skips_to_a_key_frame(machine: Machine) -> None:
    machine.options = {"stream": TIGHT}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    slow = await machine.player(relay, receive_buffer=4096)
    quick = await machine.player(relay)
    number = 0
    async with asyncio.timeout(20):
        while not relay.server.counters.skips:
            await gop(publisher, number, 10, 20_000)
            number += 10
            await slow.read(2000)
            await quick.until_number(number - 1)
        while slow.numbers()[-1:] != [number - 1]:
            await slow.read()
    assert jumps(slow.numbers()) and all(each % 10 == 0 for each in jumps(slow.numbers()))
    assert quick.numbers() == list(range(number))
    assert relay.lane().log.bytes < 400_000 + 50_000 + 250_000
    assert holder.server.counters.skips == 0


async def test_a_viewer_of_the_relay_that_never_reads_is_let_go(machine: Machine) -> None:
    machine.options = {"stream": TIGHT, "timeouts": Timeouts(write_stall=0.2)}
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    quick = await machine.player(holder)
    await machine.player(relay, receive_buffer=4096)
    number = 0
    async with asyncio.timeout(20):
        while relay.server.clients:
            await gop(publisher, number, 10, 20_000)
            number += 10
            await quick.until_number(number - 1)
    assert relay.server.counters.stalls == 1
    # Nobody there reads the log any more: it is given back at both ends.
    await eventually(lambda: not relay.stream().lanes and holder.lane().pins == 0)


async def test_a_lane_is_kept_for_viewers_elsewhere_and_only_as_long(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    mine, theirs = await machine.player(holder), await machine.player(relay)
    await numbers_reach([mine, theirs], 9)
    lane = holder.lane()
    assert lane.pins == 1
    mine.reset()
    await eventually(lambda: not lane.viewers)
    holder.server.hub.tick(monotonic())
    await gop(publisher, 10)
    await theirs.until_number(19)
    assert holder.lane() is lane and theirs.numbers() == list(range(20))
    theirs.reset()
    await eventually(lambda: not holder.stream().lanes)
    assert lane.pins == 0 and lane.log.segments == 0
    # Somebody comes back before the stream is forgotten there: the same subscription, another lane.
    inlet = relay.inlet()
    back = await machine.player(relay)
    await back.until_number(19)
    assert relay.inlet() is inlet and back.numbers() == list(range(10, 20))


async def test_a_stream_that_nobody_watches_any_more_is_not_shown_any_more(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    player = await machine.player(relay)
    await player.until_number(9)
    assert holder.stream().wanted
    player.reset()
    await eventually(lambda: not relay.server.clients)
    relay.server.hub.tick(monotonic() + 100)
    relay.server.hub.tick(monotonic() + 200)
    assert len(relay.server.hub) == 0 and not relay.link(holder).inlets
    await eventually(lambda: not holder.stream().wanted)
    assert not holder.link(relay).feeders
    again = await machine.player(relay)
    await again.until_number(9)


async def test_a_stream_that_the_other_worker_does_not_hold_after_all(machine: Machine) -> None:
    first, second = await machine.two()
    await eventually(lambda: first.directory._links and second.directory._links)
    first.directory.add_holder(CAM, 2)
    player = await machine.rtmp(first)
    await player.play()
    # It is told at once, and waits as for any other that is gone.
    await player.until(lambda: control.STREAM_EOF in player.signals())
    assert first.stream().state is State.GONE
    publisher = await machine.publisher(second)
    await gop(publisher, 0)
    await player.until_number(9)


async def test_two_workers_relay_from_each_other(machine: Machine) -> None:
    one, other = await machine.two()
    publishers = [await machine.publisher(one, "a"), await machine.publisher(other, "b")]
    for publisher in publishers:
        await gop(publisher, 0)
    tapes = [await machine.player(one, "b"), await machine.player(other, "a")]
    await numbers_reach(tapes, 9)
    same(*tapes)
    assert one.stream(StreamKey("live", "b")).relayed and other.stream(StreamKey("live", "a")).relayed


async def test_an_operator_ends_a_stream_everywhere(machine: Machine) -> None:
    holder, relay = await machine.two()
    publisher = await machine.publisher(holder)
    await gop(publisher, 0)
    player = await machine.player(relay)
    await player.until_number(9)
    holder.server.hub.end(holder.stream(), monotonic())
    relay.server.hub.end(relay.stream(), monotonic())
    await player.until_code("NetStream.Play.Stop")
    await publisher.until_closed()
    await eventually(lambda: not machine.registry.held())
    assert not holder.link(relay).feeders and not relay.link(holder).inlets


# Whatever comes over the channel

ID, FORM, SEGMENT = Struct("<BI"), Struct("<BIB"), Struct("<BIBQq?")
HEAD, TRACKS, END = Struct("<BIBI"), Struct("<BI??"), Struct("<BIBQQQQq")
STANDING = Struct("<BIqdd")


class Alone:
    """One server with one link, whose other end is the test's; it holds ``live/cam`` and watches ``live/far``."""

    def __init__(self) -> None:
        self.server = Server(journal=Journal())
        self.site = ViewerSite(self.server)
        self.lost: list[Link] = []
        ours, self.sock = pair()
        self.sock.setblocking(False)
        self.link = Link(ours, 7, self.server, self.site.hls, self.lost.append)
        self.held = self.server.hub.publish(CAM, FakePublisher(), 0.0)
        self.held.push(Message(VIDEO, 0, 1, SEQUENCE))
        self.held.push(frame(0, key=True))
        self.far = self.server.hub.open(StreamKey("live", "far"), 0.0)
        self.inlet = self.link.watch(self.far)
        self.lane = self.far.lane(FORMS[0])
        self.viewer = FakeViewer(self.lane)
        self.faults: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.faults.append(context))

    def say(self, data: bytes, *fds: int) -> None:
        try:
            socket.send_fds(self.sock, [data], list(fds))
        except (BrokenPipeError, ConnectionResetError):
            assert self.lost
        for fd in fds:
            os.close(fd)

    def heard(self) -> list[bytes]:
        heard = []
        while True:
            try:
                data = self.sock.recv(MAX_MESSAGE)
            except (BlockingIOError, ConnectionResetError):
                return heard
            if not data:
                return heard
            heard.append(data)

    async def settle(self) -> None:
        """All that was said has been taken."""
        await eventually(lambda: self.link.channel.closed or not readable(self.link))
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.link.close()
        self.sock.close()
        await self.server.close()
        await self.site.close()
        self.server.hub.tick(0.0)  # for viewers that are none
        assert not self.faults, self.faults

    def segment(self, number: int, data: bytes, *, follows: bool = True) -> None:
        self.say(SEGMENT.pack(Kind.SEGMENT, 1, 0, number, 0, follows), attach(data))

    def end(self, number: int, size: int, join: tuple[int, int] = (0, 0), time: int = 0) -> None:
        self.say(END.pack(Kind.END, 1, 0, number, size, *join, time))


def readable(link: Link) -> bool:
    return bool(select.select([link.channel._socket], [], [], 0)[0])


class FakePublisher:
    id = "x"

    def displaced(self, *arguments: Any) -> None: ...


class FakeViewer:
    """One that is there, and leaves at the end."""

    fd = -1
    segment = None
    offset = 0
    ready = False

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        lane.viewers[self] = None  # type: ignore[index]

    def serve(self, now: float) -> bool:
        return False

    def signal(self, live: bool) -> None: ...

    def end(self) -> None:
        self._lane.viewers.pop(self, None)  # type: ignore[call-overload]


@pytest.fixture
async def alone() -> AsyncIterator[Alone]:
    (await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)).close()
    before = descriptors()
    alone = Alone()
    yield alone
    await alone.close()
    assert descriptors() == before


async def test_what_is_said_to_the_holder_of_a_stream(alone: Alone) -> None:
    assert alone.heard() == [ID.pack(Kind.WATCH, 1) + b"live/far", FORM.pack(Kind.OPEN, 1, 0)]
    alone.far.drop_idle_lanes()
    alone.viewer.end()
    alone.far.drop_idle_lanes()
    alone.server.hub.unpublish(alone.far, alone.inlet, 0.0)
    assert alone.heard() == [FORM.pack(Kind.SHUT, 1, 0), ID.pack(Kind.UNWATCH, 1)]


async def test_what_is_said_to_those_who_watch(alone: Alone) -> None:
    alone.heard()
    alone.say(ID.pack(Kind.WATCH, 5) + b"live/cam")
    alone.say(FORM.pack(Kind.OPEN, 5, 0))
    await alone.settle()
    heard = alone.heard()
    assert heard.pop(0) == ID.pack(Kind.BIRTH, 5) + alone.held.told.encode()
    assert heard.pop(0) == STANDING.pack(Kind.STANDING, 5, *alone.held.standing)
    assert heard.pop(0) == ID.pack(Kind.SOURCE, 5) + alone.held.source_id.encode()
    assert [each[0] for each in heard] == [Kind.HEAD, Kind.SEGMENT, Kind.END]
    log = alone.held.lanes["rtmp"].log
    assert END.unpack(heard[2]) == (Kind.END, 5, 0, 1, log.tail.size, 1, 0, 0)
    assert HEAD.unpack_from(heard[0])[:3] == (Kind.HEAD, 5, 0)
    # Nothing new, nothing said; then where it ends now, in one message.
    alone.held.outlets.copy().popitem()[0].serve()
    assert alone.heard() == []
    for number in range(1, 5):
        alone.held.push(frame(number))
    await eventually(lambda: not alone.held.queued)
    (end,) = alone.heard()
    assert END.unpack(end) == (Kind.END, 5, 0, 1, log.tail.size, 1, 0, 160)
    alone.say(FORM.pack(Kind.OPEN, 5, 0))  # once more says nothing
    alone.say(FORM.pack(Kind.SHUT, 5, 0))
    alone.say(FORM.pack(Kind.SHUT, 5, 0))
    await alone.settle()
    assert alone.heard() == [] and alone.held.lanes["rtmp"].pins == 0
    alone.say(ID.pack(Kind.UNWATCH, 5))
    await alone.settle()
    assert not alone.held.outlets and not alone.link.feeders


async def test_two_subscriptions_to_one_stream_are_two(alone: Alone) -> None:
    """As when a worker watches anew before its goodbye to the old one has come."""
    alone.say(ID.pack(Kind.WATCH, 1) + b"live/cam")
    alone.say(ID.pack(Kind.WATCH, 2) + b"live/cam")
    alone.say(FORM.pack(Kind.OPEN, 2, 0))
    alone.say(ID.pack(Kind.UNWATCH, 1))
    await alone.settle()
    assert list(alone.link.feeders) == [2] and len(alone.held.outlets) == 1
    assert alone.held.lanes["rtmp"].pins == 1


@pytest.mark.parametrize("name", ["live/far", "live/nobody", "nobody"])
async def test_only_what_is_published_here_is_shown(alone: Alone, name: str) -> None:
    """Not what is relayed itself: records go one step, never in a circle."""
    alone.heard()
    alone.say(ID.pack(Kind.WATCH, 9) + name.encode())
    await alone.settle()
    assert alone.heard() == [ID.pack(Kind.GONE, 9)] and not alone.link.feeders


async def test_a_log_is_followed_word_by_word(alone: Alone) -> None:
    log = alone.lane.log
    alone.segment(4, b"0123456789")
    await alone.settle()
    assert log.tail.size == 0 and log.join is None
    alone.say(HEAD.pack(Kind.HEAD, 1, 0, 3) + b"head")
    alone.end(4, 5, (4, 2), 1000)
    await alone.settle()
    assert (log.tail.size, log.join is log.tail, log.join_offset) == (5, True, 2)
    assert (alone.lane.head(), alone.lane.generation, alone.far.time) == (b"head", 1, 1000)
    # The join point of the next segment may be told before it is there.
    alone.say(HEAD.pack(Kind.HEAD, 1, 0, 3) + b"head")
    alone.end(4, 10, (5, 0), 1040)
    await alone.settle()
    assert log.join is None and log.tail.size == 10
    first = log.tail
    first.readers += 1
    alone.segment(5, b"abcdef")
    alone.end(5, 3, (5, 0), 1080)
    await alone.settle()
    assert log.join is log.tail is first.next and alone.lane.generation == 1
    alone.end(5, 6)
    await alone.settle()
    assert log.join is None
    first.leave()


@pytest.mark.parametrize("gap", ["a number left out", "said to be new"])
async def test_a_segment_that_does_not_follow_makes_viewers_skip(alone: Alone, gap: str) -> None:
    alone.segment(4, b"0123456789")
    alone.end(4, 10, (4, 0))
    await alone.settle()
    first = alone.lane.log.tail
    first.readers += 1
    if gap == "a number left out":
        alone.segment(6, b"abc")
        alone.end(6, 3, (4, 0))
    else:
        alone.segment(5, b"abc", follows=False)
        alone.end(5, 3, (4, 0))
    await alone.settle()
    assert first.evicted and first.next is None and alone.lane.log.join is None
    assert alone.lane.log.tail.read(0, 3) == b"abc"
    first.leave()


async def test_words_about_what_is_not_known_are_passed_over(alone: Alone) -> None:
    alone.heard()
    for sid, form, number in ((1, 0, 9), (1, 1, 1), (2, 0, 1), (1, 77, 1)):
        alone.say(END.pack(Kind.END, sid, form, number, 5, 0, 0, 0))
        alone.say(HEAD.pack(Kind.HEAD, sid + 1, form, 1) + b"x")
        alone.say(HEAD.pack(Kind.HEAD, sid + 1, form, 1), attach(b"x"))
        alone.say(SEGMENT.pack(Kind.SEGMENT, sid + 1, form, number, 0, True), attach(b"x"))
        alone.say(SEGMENT.pack(Kind.SEGMENT, 1, 33, number, 0, True), attach(b"x"))
        alone.say(TRACKS.pack(Kind.TRACKS, sid + 1, True, True))
        alone.say(ID.pack(Kind.GONE, sid + 100))
        alone.say(ID.pack(Kind.UNWATCH, sid))
        alone.say(FORM.pack(Kind.OPEN, sid, form % len(FORMS)))
    await alone.settle()
    assert not alone.lost and alone.heard() == []
    assert alone.far.live and alone.lane.log.tail.size == 0


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff" * 5, id="no such kind"),
        pytest.param(bytes(5), id="kind 0"),
        pytest.param(b"\x08", id="an end of one byte"),
        pytest.param(END.pack(Kind.END, 1, 0, 4, 5, 0, 0, 0) + b"x", id="an end with more behind it"),
        pytest.param(END.pack(Kind.END, 1, 0, 4, 2, 0, 0, 0), id="a size that goes back"),
        pytest.param(END.pack(Kind.END, 1, 0, 4, 1 << 50, 0, 0, 0), id="a size beyond all bounds"),
        pytest.param(SEGMENT.pack(Kind.SEGMENT, 1, 0, 5, 0, True)[:-1], id="half a segment"),
        pytest.param(ID.pack(Kind.WATCH, 3) + b"live/../etc", id="a name that is none"),
        pytest.param(ID.pack(Kind.WATCH, 3) + b"live/\xff", id="a name that is no text"),
        pytest.param(ID.pack(Kind.WATCH, 3), id="no name"),
        pytest.param(ID.pack(Kind.WATCH, 3) + b"x" * 10_000, id="a long name"),
        pytest.param(FORM.pack(Kind.OPEN, 3, len(FORMS)), id="a form that is none"),
        pytest.param(ID.pack(Kind.GONE, 1) + b"x", id="a goodbye with more behind it"),
        pytest.param(ID.pack(HlsKind.OPEN, 1) + b"[" * 30_000, id="deep JSON"),
        pytest.param(ID.pack(HlsKind.OPEN, 1) + b"{", id="broken JSON"),
        pytest.param(ID.pack(HlsKind.OPEN, 1) + b'["live"]', id="JSON that says nothing"),
        pytest.param(ID.pack(HlsKind.OPEN, 1) + b'["live", "\\ud800", [0, 0]]', id="JSON that is no text"),
        pytest.param(ID.pack(HlsKind.WINDOW, 1) + b"[-1, 0]", id="numbers below 0"),
        pytest.param(ID.pack(255, 1) + b"null", id="no such kind of HLS"),
        pytest.param(bytes((HlsKind.CLOSE,)), id="HLS of one byte"),
        pytest.param(b"x" * (MAX_MESSAGE + 1), id="too long"),
    ],
)
async def test_what_is_wrong_ends_the_link_and_nothing_else(alone: Alone, data: bytes) -> None:
    alone.segment(4, b"0123456789")
    alone.end(4, 3, (4, 0))
    alone.say(ID.pack(Kind.WATCH, 4) + b"live/cam")
    alone.say(FORM.pack(Kind.OPEN, 4, 1))
    await alone.settle()
    assert alone.link.feeders and not alone.lost
    with capture_logs() as logs:
        alone.say(data, attach(b"x"))
        await eventually(lambda: alone.lost)
    assert [line["event"] for line in logs] == ["link_lost"]
    assert alone.lost == [alone.link] and not alone.link.feeders
    assert alone.far.state is State.GONE and alone.held.live and not alone.held.outlets
    assert alone.held.lanes["flv"].idle


async def test_a_link_that_is_lost_is_not_written_to(alone: Alone) -> None:
    alone.sock.close()
    await eventually(lambda: alone.lost)
    inlet = alone.link.watch(alone.far)
    alone.far.lane(FORMS[1])
    alone.server.hub.unpublish(alone.far, inlet, 0.0)
    alone.link.close()


async def test_a_link_that_is_stuck_ends_outside_of_what_was_done(alone: Alone) -> None:
    """Whoever sends finds streams as they were; the news comes with the next turn of the loop."""
    alone.say(ID.pack(Kind.WATCH, 4) + b"live/cam")
    alone.say(FORM.pack(Kind.OPEN, 4, 0))
    await eventually(lambda: alone.held.lanes)
    (feeder,) = alone.held.outlets
    assert isinstance(feeder, Feeder)
    with capture_logs() as logs:
        while not alone.lost:
            alone.link.send(b"\x02\0\0\0\0")
            if alone.link.channel.backlog >= MAX_QUEUED:
                feeder._tell()
                feeder.gone()
                assert not alone.lost
                break
        await eventually(lambda: alone.lost)
    assert alone.lost == [alone.link]
    assert [line["reason"] for line in logs if line["event"] == "link_lost"] == ["stuck"]
    assert alone.far.state is State.GONE


names = st.sampled_from([b"live/cam", b"live/far", b"x", b"", b"a/b/c", b"../x"])
sids = st.integers(0, 4)
forms = st.sampled_from([0, 0, 0, 1, 1, 2, 255])
counts = st.one_of(st.integers(0, 12), st.just((1 << 64) - 1), st.integers(0, (1 << 64) - 1))
times = st.one_of(st.integers(-5, 5000), st.integers(-(1 << 63), (1 << 63) - 1))
words = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda kind, data: bytes((kind,)) + data, st.integers(0, 40), st.binary(max_size=60)),
    st.builds(lambda sid, name: ID.pack(Kind.WATCH, sid) + name, sids, names),
    st.builds(ID.pack, st.sampled_from([Kind.UNWATCH, Kind.GONE, HlsKind.CLOSE, HlsKind.LOST, HlsKind.END]), sids),
    st.builds(FORM.pack, st.sampled_from([Kind.OPEN, Kind.SHUT]), sids, forms),
    st.builds(SEGMENT.pack, st.just(Kind.SEGMENT), sids, forms, counts, times, st.booleans()),
    st.builds(lambda *f: HEAD.pack(Kind.HEAD, *f) + b"head", sids, forms, st.integers(0, 5)),
    st.builds(TRACKS.pack, st.just(Kind.TRACKS), sids, st.booleans(), st.booleans()),
    st.builds(STANDING.pack, st.just(Kind.STANDING), sids, times, st.floats(), st.floats()),
    st.builds(lambda sid, id: ID.pack(Kind.SOURCE, sid) + id, sids, st.binary(max_size=80)),
    st.builds(END.pack, st.just(Kind.END), sids, forms, counts, counts, counts, counts, times),
    st.builds(
        lambda kind, sid, text: ID.pack(kind, sid) + text.encode(),
        st.sampled_from(list(HlsKind)), sids,
        st.sampled_from(['["live","cam",[0,0]]', '["live","x",[0,1]]', "[1,2]", "[]", "{}", "null", "1e999", '"x"']),
    ),
)


@settings(max_examples=120, deadline=None)
@given(said=st.lists(st.tuples(words, st.integers(0, 2)), max_size=40))
def test_any_words_leave_the_server_whole(said: list[tuple[bytes, int]]) -> None:
    """They are followed, or the link ends, once; nothing else raises and nothing stays open."""

    async def check() -> None:
        before = descriptors()
        alone = Alone()
        with capture_logs() as logs:
            for data, fds in said:
                if data and not alone.link.channel.closed:
                    alone.say(data, *(attach(b"0123456789") for _ in range(fds)))
                    await alone.settle()
                    alone.held.push(frame(1, key=True))
                    check_log(alone.lane.log._segments)
        assert len(alone.lost) <= 1
        assert sum(line["event"] == "link_lost" for line in logs) == len(alone.lost)
        assert alone.link.channel.closed == bool(alone.lost)
        assert alone.held.live
        await alone.close()
        assert descriptors() == before

    def check_log(segments: Any) -> None:
        each: Segment
        for each in segments:
            assert not each.evicted and each.readers == 0 and each.size >= 0

    asyncio.run(check())


async def test_a_stream_that_just_came_over_has_nothing_to_show_yet() -> None:
    """A lane that followed another worker until now has no segment of its own before the first message."""
    server = Server()
    stream = server.hub.publish(StreamKey("live", "moved"), Somebody(), 0.0)
    ours, theirs = pair()
    link = Link(ours, 2, server, HlsService(server.hub, HlsSettings(), ThreadPoolExecutor(1)), lambda link: None)
    try:
        stream.lane(RtmpForm()).restart()
        feeder = Feeder(link, 1, stream)
        feeder.open(0)
        stream.push(Message(9, 0, 1, b"\x17\x01" + bytes(8)))
        stream.flush()
        feeder.serve()
        kinds = set()
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(theirs, 65536, 4)
                kinds.add(data[0])
                for fd in fds:
                    os.close(fd)
        assert {Kind.SEGMENT, Kind.END} <= kinds
    finally:
        link.close()
        theirs.close()
        server.rounds.close()


class Somebody:
    """A publisher."""

    id = "somebody"

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        """Never called here."""
