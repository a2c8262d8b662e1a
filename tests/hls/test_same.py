"""The same HLS on every node, whenever it joined: names, bytes and times follow from the publisher's timeline."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import m3u8
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hls.live import HlsService
from hls.settings import HlsSettings
from pyrtmp.message import AUDIO, VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Stream

MakeFeed = Callable[..., list[Message]]
KEY = StreamKey("live", "cam")


class Inline(Executor):
    """Does everything at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class Publisher:
    id = "somebody"

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        pass


class Backlog:
    """What a joiner is handed."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def on_messages(self, messages: Sequence[Message]) -> None:
        self.messages += messages

    def on_restart(self) -> None:
        pass

    def on_end(self) -> None:
        pass


class Node:
    """A node that has the stream, and what its viewers got."""

    def __init__(self, upstream: Node | None = None, **options: Any) -> None:
        self.stream = Stream(KEY, StreamSettings(), lambda stream: None, 0.0)
        self.service = HlsService(self, HlsSettings(**{"window": 20.0, **options}), Inline(), now=lambda: 2e9)
        self.segments: dict[int, tuple[Any, ...]] = {}
        self.first = self.newest = -1
        if upstream is None:
            self.stream.begin(Publisher(), 0.0)
            return
        up = upstream.stream
        self.stream.begin(Publisher(), 0.0, lineage=up.lineage, birth=up.told, pulled=True)
        backlog = Backlog()
        up.attach(backlog)
        up.detach(backlog)
        self.push(backlog.messages)

    def find(self, app: str, name: str) -> Stream:
        return self.stream

    def push(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.stream.push(Message(message.type, message.timestamp & 0xFFFFFFFF, 1, message.payload))
        self.stream.flush()

    async def look(self) -> Any:
        """The playlist, if there is one."""
        stream = self.service._stream("live", "cam")
        assert stream is not None
        await asyncio.sleep(0)
        while stream._producer._muxing:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        if not len(stream.window):
            return None
        playlist = m3u8.loads(stream.playlist().decode())
        number = playlist.media_sequence
        assert number >= self.first
        self.first = number
        assert number + len(playlist.segments) > self.newest
        self.newest = number + len(playlist.segments) - 1
        for segment in playlist.segments:
            assert int(segment.uri.partition(".")[0]) == number
            assert int(segment.duration + 0.5) <= playlist.target_duration
            data = bytes(stream.file(segment.uri) or b"")
            section = segment.init_section and segment.init_section.uri
            self.segments[number] = (
                segment.duration, segment.discontinuity, segment.program_date_time, section,
                section and bytes(stream.file(section) or b""), playlist.target_duration, data,
            )  # fmt: skip
            number += 1
        return playlist


def check(one: Node, other: Node) -> list[int]:
    both = sorted(one.segments.keys() & other.segments.keys())
    for number in both:
        assert one.segments[number][:-1] == other.segments[number][:-1], number
        assert one.segments[number][-1] == other.segments[number][-1], number
    return both


def counts_go_on(data: bytes) -> None:
    counters: dict[int, int] = {}
    for position in range(0, len(data), 188):
        packet = data[position : position + 188]
        assert packet[0] == 0x47
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if packet[3] & 0x10:
            assert pid not in counters or packet[3] & 0x0F == (counters[pid] + 1) & 0x0F
            counters[pid] = packet[3] & 0x0F


def timeline(feed: Sequence[Message], groups: Sequence[int], start: int, step: int = 80) -> list[Message]:
    """Frames of ``feed`` with key frames that far apart."""
    head = [m for m in feed if m.type == 18 or m.payload[1] == 0]
    keys = [m for m in feed if m.type == VIDEO and m.payload[0] >> 4 == 1 and m.payload[1] == 1]
    others = itertools.cycle([m for m in feed if m.type == VIDEO and m.payload[0] >> 4 == 2])
    sounds = itertools.cycle([m for m in feed if m.type == AUDIO and m.payload[1]])
    made = [Message(m.type, start, 1, m.payload) for m in head]
    time = start
    for number, length in enumerate(groups):
        for offset in range(0, length, step):
            frame = next(others) if offset else keys[number % len(keys)]
            made.append(Message(VIDEO, time + offset, 1, frame.payload))
            made.append(Message(AUDIO, time + offset + 7, 1, next(sounds).payload))
        time += length
    return made


PACES = st.sampled_from([480, 960, 1999, 2000, 2002, 2500, 4800])


@given(
    pace=PACES, odd=st.lists(st.tuples(st.integers(0, 20), st.integers(80, 7000)), max_size=4), joins=st.lists(
        st.integers(0, 600), min_size=1, max_size=2), start=st.sampled_from([0, 33, 7_000_000, (1 << 32) - 9000]),
    container=st.sampled_from(["ts", "fmp4"]), fragment=st.sampled_from([1.0, 2.0]),
)
@example(pace=2500, odd=[(0, 163)], joins=[1], start=0, container="ts", fragment=2.0)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_joiners_come_to_the_same(
    make_feed: MakeFeed, pace: int, odd: list[tuple[int, int]], joins: list[int], start: int, container: str,
    fragment: float,
) -> None:
    groups = [pace] * max(16_000 // pace, 6)
    for index, length in odd:
        groups.insert(min(index, len(groups)), length)
    messages = timeline(make_feed("libx264", "aac", seconds=4, bframes=2), groups, start)

    async def run() -> None:
        options = {"container": container, "fragment": fragment}
        nodes = [Node(**options)]
        await nodes[0].look()
        for number, message in enumerate(messages):
            for node in nodes:
                node.push([message])
            if number in joins:
                nodes.append(Node(nodes[-1], **options))
            if number % 50 == 0:
                for node in nodes:
                    await node.look()
        await nodes[0].look()
        newest = nodes[0].newest
        for node in nodes:
            await node.look()
            assert node.newest in (newest, -1)
            check(nodes[0], node)
            node.service.close()
        numbers = sorted(nodes[0].segments)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[0] == nodes[0].stream.birth.wall // 1000  # type: ignore[union-attr]
        if container == "ts":
            counts_go_on(b"".join(nodes[n % len(nodes)].segments.get(n, nodes[0].segments[n])[-1] for n in numbers))

    asyncio.run(run())


@pytest.mark.parametrize(("video", "pace", "wait"), [("libx264", 2000, 2.1), ("libx264", 500, 4.1), ("", 0, 4.1)])
def test_a_joiner_has_its_first_segment_soon(make_feed: MakeFeed, video: str, pace: int, wait: float) -> None:
    feed = make_feed("libx264", "aac", seconds=4, bframes=2)
    messages = timeline(feed, [pace or 2000] * (20_000 // (pace or 2000)), 0, 20)
    if not video:
        messages = [m for m in messages if m.type == AUDIO]

    async def run() -> None:
        for at in range(3, 15, 2):
            origin = Node()
            await origin.look()
            edge: Node | None = None
            since = 0
            for message in messages:
                if message.timestamp >= at * 1000 + 730 and edge is None:
                    edge, since = Node(origin), message.timestamp
                origin.push([message])
                if edge is not None:
                    edge.push([message])
                    if await edge.look():
                        break
            assert edge is not None and edge.segments
            assert message.timestamp - since <= wait * 1000
            await origin.look()
            assert check(origin, edge)
            edge.service.close()
            origin.service.close()

    asyncio.run(run())


def test_who_goes_on_behind_another_publisher_has_the_same(make_feed: MakeFeed) -> None:
    feed = make_feed("libx264", "aac", seconds=4, bframes=2)
    messages = timeline(feed, [2000] * 8, 0)

    async def run() -> None:
        first = Node()
        edge = Node(first)
        await edge.look()
        for message in messages[:200]:
            first.push([message])
            edge.push([message])
        await edge.look()
        before = edge.newest
        edge.stream.leave(16.0)
        again = Node()
        again.stream.birth = type(again.stream.birth)(first.stream.birth.wall + 60_000)  # type: ignore
        edge.stream.begin(Publisher(), 20.0, lineage=again.stream.lineage, birth=again.stream.told, pulled=True)
        await again.look()
        for message in messages:
            again.push([message])
            edge.push([message])
            await edge.look()
            await again.look()
        assert edge.stream.shift > 10_000 and again.newest > before
        assert len(check(again, edge)) >= 6
        for node in (first, edge, again):
            node.service.close()

    asyncio.run(run())


def test_who_joins_when_the_publisher_is_back_leaves_out_what_began_with_sound(make_feed: MakeFeed) -> None:
    feed = make_feed("libx264", "aac", seconds=4, bframes=2)
    messages = timeline(feed, [2000] * 8, 0)
    sound = next(m for m in messages if m.type == AUDIO and m.payload[1])
    heads = [m for m in messages if m.type == 18 or m.payload[1] == 0]
    lead = [Message(AUDIO, time, 1, sound.payload) for time in (0, 20, 40)]
    again = heads + lead + [Message(m.type, m.timestamp + 60, 1, m.payload) for m in messages if m not in heads]

    async def run() -> None:
        origin = Node()
        await origin.look()
        origin.push(messages)
        origin.stream.leave(0.0)
        origin.stream.begin(Publisher(), 0.0)
        joiner: Node | None = None
        for number, message in enumerate(again):
            sent = Message(message.type, message.timestamp, 1, message.payload)
            origin.stream.push(sent)
            origin.stream.flush()
            if joiner is not None:
                joiner.push([sent])
            elif number == len(heads) + len(lead) + 3:
                joiner = Node(origin)
            await origin.look()
            if joiner is not None:
                await joiner.look()
        assert joiner is not None
        assert len(check(origin, joiner)) >= 6
        for node in (origin, joiner):
            node.service.close()

    asyncio.run(run())
