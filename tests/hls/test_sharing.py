from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import m3u8
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hls.live import HlsService, HlsStream, Reply
from hls.settings import HlsSettings
from hls.sharing import Feed, Mirror, SharedSegment, Sharing, parse_numbers
from hls.window import ZERO, Numbers
from pyrtmp.message import Message
from tests.hls.sources import FakeSource, later

MakeFeed = Callable[..., list[Message]]
START = 1_800_000_000.0
KEY = ("live", "cam")


class FakeHub:
    def __init__(self) -> None:
        self.source: FakeSource | None = None

    def find(self, app: str, name: str) -> FakeSource | None:
        return self.source if (app, name) == KEY else None


class Link:
    """One subscription: JSON and descriptors over a socket, as between two processes."""

    def __init__(self, holder: Worker, mirror: Mirror) -> None:
        self.mirror = mirror
        self.loop = asyncio.get_running_loop()
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.loop.add_reader(self.near, self._receive)
        self.holder = holder
        holder.links.append(self)
        numbers = parse_numbers(json.loads(json.dumps(mirror.numbers)))
        self.sharing: Sharing | None = holder.service.share(*KEY, self, numbers=numbers)
        if self.sharing is None:
            self.on_lost()

    # The holder's side: a Follower

    def on_window(self, numbers: Numbers) -> None:
        self._send("on_window", numbers)

    def on_segment(self, segment: SharedSegment) -> None:
        self._send("on_segment", segment.to_dict(), segment.fds)
        segment.close()

    def on_end(self) -> None:
        self._send("on_end")

    def on_restart(self) -> None:
        self._send("on_restart")

    def on_lost(self) -> None:
        self._send("on_lost")

    def _send(self, call: str, values: object = None, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.far, [json.dumps([call, values]).encode()], fds)

    # The reader's side

    def _receive(self) -> None:
        data, fds, _, _ = socket.recv_fds(self.near, 1 << 16, 2, socket.MSG_CMSG_CLOEXEC)
        if not data:
            self.shut()
            self.mirror.on_lost()
            return
        call, values = json.loads(data)
        if call == "on_window":
            self.mirror.on_window(parse_numbers(values))
        elif call == "on_segment":
            self.mirror.on_segment(SharedSegment.from_dict(values, fds))
        else:
            if call == "on_lost":
                self.shut()
            getattr(self.mirror, call)()

    def shut(self) -> None:
        if self in self.holder.links:
            self.holder.links.remove(self)
            self.loop.remove_reader(self.near)
            self.near.close()
            self.far.close()
            if self.sharing is not None:
                self.sharing.close()


class Node:
    """Some workers, and who holds ``live/cam``."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.holder: Worker | None = None
        self.monotonic = 50.0
        self.wall = START
        self.workers: list[Worker] = []

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds

    def worker(self, **settings: Any) -> Worker:
        worker = Worker(self, settings)
        self.workers.append(worker)
        return worker

    def sweep(self) -> None:
        for worker in self.workers:
            worker.service.sweep()


class FakeFeed:
    def __init__(self, node: Node, holder: Worker) -> None:
        self.node = node
        self.holder = holder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeFeed) and self.holder is other.holder

    def open(self, mirror: Mirror) -> None:
        self.holder.opened += 1
        Link(self.holder, mirror)

    def close(self, mirror: Mirror) -> None:
        for link in list(self.holder.links):
            if link.mirror is mirror:
                link.shut()


class Worker:
    """One worker, which may hold ``live/cam``.  Also its ``Feeds``."""

    def __init__(self, node: Node, settings: dict[str, Any]) -> None:
        self.node = node
        self.hub = FakeHub()
        self.links: list[Link] = []
        """To those who follow."""
        self.opened = 0
        self.begun = (0, 0)
        defaults = {"fragment": 1.0, "window": 4.0, "wait_seconds": 5.0, "linger": 10.0}
        self.service = HlsService(
            self.hub, HlsSettings(**{**defaults, **settings}), node.executor,
            feeds=self, clock=lambda: node.monotonic, now=lambda: node.wall,
        )  # fmt: skip

    def find(self, app: str, name: str) -> Feed | None:
        holder = self.node.holder
        return None if (app, name) != KEY or holder in (None, self) else FakeFeed(self.node, holder)

    def hold(self, backlog: Sequence[Message] = ()) -> FakeSource:
        """Publish here from now on; whoever held the stream has it by relay."""
        if self.node.holder is not None and self.node.holder.hub.source is not None:
            self.node.holder.hub.source.relayed = True
            self.node.holder.hub.source.restart()
        self.node.holder = self
        self.hub.source = FakeSource(backlog)
        return self.hub.source

    def crash(self) -> None:
        """What the others see of a worker that is killed."""
        for link in list(self.links):
            link.far.shutdown(socket.SHUT_WR)
            assert link.sharing is not None
            link.sharing.close()
        self.service.close()
        self.hub.source = None
        self.node.workers.remove(self)
        if self.node.holder is self:
            self.node.holder = None

    @property
    def stream(self) -> HlsStream:
        return self.service._streams[KEY]

    async def reply(self) -> Reply:
        reply = await self.service.playlist(*KEY)
        assert reply.status == 200, reply
        self._check(m3u8.loads(bytes(reply.body).decode()))
        return reply

    def _check(self, playlist: Any) -> None:
        """What a player would see: numbers that never go back, names that can be fetched."""
        begins = (playlist.media_sequence, playlist.discontinuity_sequence or 0)
        assert begins[0] >= self.begun[0] and begins[1] >= self.begun[1], (self.begun, begins)
        self.begun = begins
        for number, segment in enumerate(playlist.segments, playlist.media_sequence):
            assert segment.uri.partition(".")[0] == str(number)
            assert self.stream.file(segment.uri), segment.uri
            assert segment.init_section is None or self.stream.file(segment.init_section.uri)

    async def playlist(self) -> Any:
        return m3u8.loads(bytes((await self.reply()).body).decode())

    async def until(self, condition: Callable[[Any], object]) -> Any:
        """The playlist when it is so; looks with every news."""
        async with asyncio.timeout(10):
            while not condition(playlist := await self.playlist()):
                await self.stream.news(10)
        return playlist

    async def has(self, number: int) -> Any:
        """The playlist when it names that segment."""
        return await self.until(lambda playlist: newest(playlist) >= number)

    async def fetch(self, name: str) -> bytes:
        reply = await self.service.segment(*KEY, name)
        assert reply.status == 200, (name, reply)
        return bytes(reply.body)


def newest(playlist: Any) -> int:
    return int(playlist.media_sequence + len(playlist.segments) - 1)


def open_files() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return found


def memory_files() -> int:
    return sum("pyrtmp-hls" in name for name in open_files())


@asynccontextmanager
async def node(executor: Executor) -> AsyncIterator[Node]:
    before = len(open_files())
    subject = Node(executor)
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    try:
        yield subject
    finally:
        for worker in subject.workers:
            worker.service.close()
        for worker in subject.workers:
            for link in list(worker.links):
                link.shut()
        await asyncio.get_running_loop().run_in_executor(executor, int)
        await asyncio.sleep(0)
        assert failures == []
        assert memory_files() == 0
        assert len(open_files()) == before


async def same(*workers: Worker) -> Any:
    """The one playlist that all have, with ETag and files, once all have got equally far."""
    for worker in workers:
        await worker.reply()
    async with asyncio.timeout(10):
        while len({(w.stream.window.reached, w.stream.ended_at is None) for w in workers}) > 1:
            await min(workers, key=lambda w: w.stream.window.reached).stream.news(10)
            for worker in workers:
                await worker.reply()
    replies = [await worker.reply() for worker in workers]
    assert len({bytes(reply.body) for reply in replies}) == 1, [bytes(reply.body).decode() for reply in replies]
    assert len(set((reply.etag, reply.cache_control, reply.content_type) for reply in replies)) == 1
    playlist = m3u8.loads(bytes(replies[0].body).decode())
    for segment in playlist.segments:
        for name in filter(None, (segment.uri, segment.init_section and segment.init_section.uri)):
            files = [await worker.service.segment(*KEY, name) for worker in workers]
            assert len({(f.status, bytes(f.body), f.etag, f.content_type) for f in files}) == 1
    return playlist


@pytest.mark.parametrize(("video", "audio"), [("libx264", "aac"), ("libx265", "libopus")])
async def test_both_workers_serve_the_same(executor: Executor, make_feed: MakeFeed, video: str, audio: str) -> None:
    messages = make_feed(video, audio, seconds=4)
    async with node(executor) as subject:
        holder, reader = subject.worker(), subject.worker()
        source = holder.hold(messages)
        number = newest(await reader.has(int(START) + 2))  # only the reader was asked
        for turn in range(1, 5):
            source.send(later(messages, 4000 * turn))
            number += 4
            await reader.has(number)
            playlist = await same(holder, reader)
        source.end()
        await reader.until(lambda playlist: playlist.is_endlist)
        playlist = await same(holder, reader)
        assert playlist.media_sequence > START + 4


async def test_whoever_comes_late_gets_what_can_still_be_fetched(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        holder, reader = subject.worker(), subject.worker()
        source = holder.hold(messages)
        first = (await holder.playlist()).media_sequence
        for turn in range(1, 3):
            source.send(later(messages, 4000 * turn))
        await holder.has(first + 10)
        assert memory_files() == 0  # nobody needed it
        named = await same(holder, reader)
        assert named.media_sequence > first + 2
        fetchable = [n for n in range(first, first + 11) if holder.stream.file(f"{n}.ts") is not None]
        assert fetchable[0] < named.media_sequence
        for number in fetchable:
            assert await reader.fetch(f"{number}.ts") == await holder.fetch(f"{number}.ts")


async def test_memory_files_are_made_for_followers_only(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4, width=640)
    async with node(executor) as subject:
        holder, reader = subject.worker(), subject.worker()
        source = holder.hold(messages)
        await holder.playlist()
        source.send(later(messages, 4000))
        number = newest(await holder.has(int(START) + 6))
        assert memory_files() == 0
        segments = len(holder.stream.window.entries)
        await same(holder, reader)
        # One descriptor each at both, and one more for every mapping.
        named = len(holder.stream.window)
        big = sum(entry.content.size > 16 * 1024 for entry in list(holder.stream.window.entries)[-named:])
        assert big > 0 and memory_files() == 2 * (segments + big)
        assert isinstance((await reader.service.segment(*KEY, f"{number}.ts")).body, memoryview)
        subject.advance(11)
        holder.stream.last_request = subject.monotonic
        subject.sweep()
        assert len(reader.service) == 0 and holder.links == []
        source.send(later(messages, 8000))
        await holder.has(number + 4)
        entries = holder.stream.window.entries
        assert not isinstance(holder.stream.file(entries[-1].name), memoryview)


async def test_a_view_outlives_its_segment(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4, width=640)
    async with node(executor) as subject:
        holder, reader = subject.worker(), subject.worker()
        holder.hold(messages)
        name = (await reader.has(int(START) + 2)).segments[0].uri
        views = [(await worker.service.segment(*KEY, name)).body for worker in (holder, reader)]
        assert all(isinstance(view, memoryview) and view.readonly for view in views)
        copies = [bytes(view) for view in views]
        for worker in (reader, holder):
            worker.service.close()
        assert [bytes(view) for view in views] == copies
        assert memory_files() > 0
        views.clear()
        assert memory_files() == 0


async def test_a_reader_lets_go_when_nobody_asks(executor: Executor, make_feed: MakeFeed) -> None:
    async with node(executor) as subject:
        holder, reader = subject.worker(), subject.worker()
        source = holder.hold(make_feed("libx264", "aac", seconds=4))
        await reader.playlist()
        for _ in range(3):  # the holder is asked for nothing itself
            subject.advance(9)
            await reader.playlist()
            subject.sweep()
        assert len(holder.links) == 1 and len(source.taps) == 1
        subject.advance(11)
        subject.sweep()
        assert len(reader.service) == 0 and holder.links == [] and len(holder.service) == 1
        subject.advance(9)
        subject.sweep()
        assert len(source.taps) == 1
        subject.advance(2)
        subject.sweep()
        assert source.taps == [] and len(holder.service) == 0


async def test_the_end_and_what_follows(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        holder, reader, late = subject.worker(window=30.0), subject.worker(window=30.0), subject.worker(window=30.0)
        source = holder.hold(messages)
        await reader.playlist()
        source.end()
        await reader.until(lambda playlist: playlist.is_endlist)
        assert (await late.until(lambda playlist: playlist.is_endlist)).is_endlist
        ended = await same(holder, reader, late)
        again = holder.hold(later(messages, 9000))
        await holder.playlist()
        playlist = await reader.until(lambda playlist: not playlist.is_endlist)
        assert playlist.media_sequence == ended.media_sequence
        again.end()
        await reader.until(lambda playlist: playlist.is_endlist)
        await late.until(lambda playlist: playlist.is_endlist and len(playlist.segments) > len(ended.segments))
        playlist = await same(holder, reader, late)
        assert [s.discontinuity for s in playlist.segments] == [True, *[False] * 3] * 2
        holder.hub.source = None
        subject.holder = None
        subject.advance(31)
        for worker in (holder, reader, late):
            worker.stream.last_request = subject.monotonic
        subject.sweep()
        assert [len(worker.service) for worker in (holder, reader, late)] == [0, 0, 0]
        await asyncio.sleep(0)


async def test_a_segment_is_found_by_whoever_has_the_name(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx265", "libopus", seconds=4)
    async with node(executor) as subject:
        holder, first, second = (subject.worker() for _ in range(3))
        source = holder.hold(messages)
        playlist = await first.playlist()
        segment = playlist.segments[0]
        # Nobody has asked the second for a playlist yet.
        assert await second.fetch(segment.uri) == await holder.fetch(segment.uri)
        assert await second.fetch(segment.init_section.uri) == await holder.fetch(segment.init_section.uri)
        # The next one is named elsewhere before it is here.
        request = asyncio.create_task(second.fetch(f"{newest(playlist) + 1}.m4s"))
        await asyncio.sleep(0)
        source.send(later(messages, 4000))
        await request
        for name in ("1.m4s", f"{newest(playlist) + 500}.m4s", "nonsense.ts", "٣.ts", "init-1.mp4"):
            async with asyncio.timeout(5):
                assert (await second.service.segment(*KEY, name)).status == 404
        assert (await second.service.segment("live", "other", "1.ts")).status == 404
        assert (await second.service.playlist("live", "other")).status == 404
        assert len(second.service) == 1


async def test_a_wait_is_bounded(
    executor: Executor, make_feed: MakeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hls.live._LATE_SECONDS", 0.05)
    async with node(executor) as subject:
        holder, reader = subject.worker(), subject.worker(wait_seconds=0.05)
        holder.hold(make_feed("libx264", "aac", seconds=1)[:20])
        assert (await reader.service.segment(*KEY, "1.ts")).status == 404
        assert (await reader.service.playlist(*KEY)).status == 503


# Moves


async def test_a_reader_takes_over(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        first, second, third = (subject.worker(window=8.0) for _ in range(3))
        first.hold(messages)
        await second.has(int(START) + 2)
        before = await same(second, first, third)
        first.crash()
        await asyncio.gather(*(lost(worker) for worker in (second, third)))
        assert (await same(second, third)).dumps() == before.dumps()
        source = second.hold()
        assert (await same(second, third)).dumps() == before.dumps()
        source.send(later(messages, 60_000))
        playlist = await third.has(newest(before) + 3)
        await same(second, third)
        # It goes on where it stopped.
        assert playlist.segments[0].uri == before.segments[0].uri
        assert playlist.discontinuity_sequence == before.discontinuity_sequence
        assert [segment.discontinuity for segment in playlist.segments] == [True, False, False] * 2
        times = [segment.program_date_time for segment in playlist.segments]
        assert times == sorted(times)


async def lost(worker: Worker) -> None:
    """Wait until the worker knows that its feed broke."""
    async with asyncio.timeout(5):
        while worker.stream.lost_at is None:
            await asyncio.sleep(0)


async def test_a_stranger_takes_over(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        first, second, third = (subject.worker() for _ in range(3))
        first.hold(messages)
        before = await third.has(int(START) + 2)
        first.crash()
        await lost(third)
        subject.advance(10)
        source = second.hold()
        assert (await third.playlist()).dumps() == before.dumps()
        source.send(later(messages, 60_000))
        playlist = await third.until(lambda playlist: playlist.media_sequence > newest(before))
        await same(second, third)
        assert playlist.segments[0].discontinuity
        assert playlist.discontinuity_sequence > before.discontinuity_sequence
        for segment in before.segments:  # just named
            await third.fetch(segment.uri)


async def test_a_stream_moves_while_its_holder_lives(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        first, second, third = (subject.worker(window=8.0) for _ in range(3))
        first.hold(messages)
        await first.has(int(START) + 2)
        before = await same(first, second, third)
        source = second.hold()
        for worker in (second, first, third):
            await worker.playlist()
        # What the old holder had begun becomes its last segment, and everybody gets it.
        await asyncio.gather(*(worker.has(newest(before) + 1) for worker in (first, second, third)))
        source.send(later(messages, 60_000))
        await asyncio.gather(*(worker.has(newest(before) + 4) for worker in (first, second, third)))
        playlist = await same(first, second, third)
        assert [s.discontinuity for s in playlist.segments] == [True, False, False, False, True, False, False]
        assert playlist.segments[0].uri == before.segments[0].uri
        assert first.hub.source is not None and first.hub.source.taps == []
        # And back.
        source = first.hold()
        for worker in (first, second, third):
            await worker.playlist()
        await asyncio.gather(*(worker.has(newest(before) + 5) for worker in (first, second, third)))
        source.send(later(messages, 120_000))
        await asyncio.gather(*(worker.has(newest(before) + 8) for worker in (first, second, third)))
        await same(first, second, third)
        assert len(first.links) == 2 and second.links == []


class GatedExecutor(Executor):
    """Hands jobs on while it is open."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if not self.closed:
            return self.executor.submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        self.jobs.append((future, partial(fn, *args, **kwargs)))
        return future

    def open(self) -> None:
        self.closed = False
        jobs, self.jobs = self.jobs, []
        for future, call in jobs:
            future.set_result(call())


@pytest.mark.parametrize("slow", [False, True])
async def test_the_last_segment_of_the_old_holder_is_late(
    executor: Executor, make_feed: MakeFeed, slow: bool
) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        second, third = (subject.worker(window=20.0) for _ in range(2))
        subject.executor = gate = GatedExecutor(executor)
        first = subject.worker(window=20.0)
        first.hold(messages)
        await first.has(int(START) + 2)
        before = await same(first, second, third)
        gate.closed = True
        source = second.hold()
        for worker in (second, first) if slow else (second, first, third):
            await worker.playlist()
        for _ in range(50):  # everybody has the new holder's window, which is all the old one's segments
            await asyncio.sleep(0)
        assert gate.jobs
        if not slow:
            gate.open()
            await asyncio.gather(*(worker.has(newest(before) + 1) for worker in (first, second, third)))
        source.send(later(messages, 60_000))
        await asyncio.gather(*(worker.has(newest(before) + 4 - slow) for worker in (first, second)))
        await third.has(newest(before) + 4 - slow)  # when it was slow, its feed was lost just now
        gate.open()
        playlist = await same(first, second, third)
        assert len(playlist.segments) == 7 - slow and sum(s.discontinuity for s in playlist.segments) == 2
        assert first.links == []


@pytest.mark.parametrize("seconds", [1, 4])
async def test_two_holders_made_segments_of_one_number(
    executor: Executor, make_feed: MakeFeed, seconds: int
) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        first, second, third = (subject.worker(window=20.0) for _ in range(3))
        source = first.hold(messages)
        await first.has(int(START) + 2)
        before = await same(first, second, third)
        (link,) = (link for link in first.links if link.mirror is second.stream._producer)
        link.shut()  # it hangs, as seen from the second
        link.mirror.on_lost()
        ahead = newest(before) + seconds
        source.send([message for message in later(messages, 4000) if message.timestamp < 4200 + 1000 * (seconds - 1)])
        await third.has(ahead)
        other = await first.fetch(f"{newest(before) + 1}.ts")
        source = second.hold(later(messages, 60_000))
        await second.has(newest(before) + 3)
        assert await second.fetch(f"{newest(before) + 1}.ts") != other
        await third.has(ahead + 1)  # what the first had begun
        await third.playlist()
        source.send(later(messages, 64_000))
        await third.has(newest(before) + 7)
        playlist = await same(second, third)
        # Those who have seen more numbers than the new holder has given are not shown them again.
        assert playlist.media_sequence == (before.media_sequence if seconds == 1 else ahead + 2)


@pytest.mark.parametrize("seconds", [-3600, 5])
async def test_numbers_go_up_whoever_came_first(executor: Executor, make_feed: MakeFeed, seconds: int) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        first, second, third = (subject.worker() for _ in range(3))
        first.hold(messages)
        before = await third.has(int(START) + 2)
        first.crash()
        await lost(third)
        subject.wall += seconds
        source = second.hold(messages)
        # Its own viewers came before anybody could tell it what was seen: numbers, or discontinuities, are too low.
        low = await second.has(int(START) + seconds + 2)
        assert low.discontinuity_sequence <= before.discontinuity_sequence
        assert (await third.playlist()).dumps() == before.dumps()
        source.send(later(messages, 4000))
        playlist = await third.until(lambda playlist: playlist.media_sequence > newest(before))
        await second.until(lambda playlist: playlist.media_sequence > newest(before) and newest(playlist) > newest(low))
        await same(second, third)
        assert playlist.segments[0].discontinuity
        for segment in (*before.segments, *playlist.segments):
            await third.fetch(segment.uri)


async def test_a_reader_that_comes_first_says_where_numbers_are(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        first, second, third = (subject.worker() for _ in range(3))
        first.hold(messages)
        before = await third.has(int(START) + 2)
        first.crash()
        await lost(third)
        subject.wall -= 3600
        second.hold(messages)
        playlist = await third.until(lambda playlist: playlist.media_sequence > newest(before))
        assert playlist.media_sequence == newest(before) + 1
        assert (await same(second, third)).discontinuity_sequence > before.discontinuity_sequence


async def test_numbers_learned_from_another_worker(executor: Executor, make_feed: MakeFeed) -> None:
    async with node(executor) as subject:
        worker = subject.worker()
        worker.service.skip(Numbers(int(START) + 1000, 999_999))
        worker.hold(make_feed("libx264", "aac", seconds=4))
        playlist = await worker.playlist()
        assert playlist.media_sequence == START + 1000 and playlist.discontinuity_sequence == 999_999
        assert worker.service.numbers == (newest(playlist) + 1, 1_000_000)


async def test_fmp4_stays_fmp4(executor: Executor, make_feed: MakeFeed) -> None:
    async with node(executor) as subject:
        first, second = subject.worker(window=20.0), subject.worker(window=20.0)
        source = first.hold(make_feed("libx265", "libopus", seconds=3))
        await second.playlist()
        source.restart()
        source.send(make_feed("libx265", "libopus", seconds=3, width=320))
        await second.until(lambda playlist: len(playlist.segments) >= 5)
        playlist = await same(first, second)
        assert len({segment.init_section.uri for segment in playlist.segments}) == 2
        first.crash()
        await lost(second)
        second.hold(make_feed("libx264", "aac", seconds=3))
        playlist = await second.until(lambda playlist: len(playlist.segments) >= 7)
        assert len({segment.init_section.uri for segment in playlist.segments}) == 3
        assert all(segment.uri.endswith(".m4s") for segment in playlist.segments)


async def test_a_request_waits_through_a_move(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with node(executor) as subject:
        first, second, third = (subject.worker() for _ in range(3))
        first.hold()
        request = asyncio.create_task(third.reply())
        await asyncio.sleep(0)
        assert len(first.links) == 1
        first.crash()
        second.hold(messages)
        await request
        assert len(second.links) == 1


async def test_a_stream_nobody_holds_any_more_is_kept_for_a_while(executor: Executor, make_feed: MakeFeed) -> None:
    async with node(executor) as subject:
        first, second = subject.worker(), subject.worker()
        first.hold(make_feed("libx264", "aac", seconds=4))
        before = await second.has(int(START) + 2)
        first.crash()
        await lost(second)
        for _ in range(3):
            subject.advance(3)
            subject.sweep()
            assert (await second.playlist()).dumps() == before.dumps()
        subject.advance(2)
        subject.sweep()
        assert (await second.service.playlist(*KEY)).status == 404


async def test_a_publisher_that_is_gone_is_not_packaged(executor: Executor, make_feed: MakeFeed) -> None:
    async with node(executor) as subject:
        first, second = subject.worker(), subject.worker()
        first.hold(make_feed("libx264", "aac", seconds=4))
        await second.playlist()
        # It left: for the time being nobody has it, but here are viewers who wait for it.
        subject.holder = None
        second.hub.source = FakeSource()
        second.hub.source.live = False
        await second.playlist()
        assert second.hub.source.taps == [] and len(first.links) == 1
        for relayed, live in ((True, True), (False, False)):
            second.hub.source.relayed, second.hub.source.live = relayed, live
            assert second.service.share(*KEY, Recorder()) is None
        stranger = subject.worker()
        stranger.hub.source = FakeSource()
        stranger.hub.source.relayed = True
        assert (await stranger.service.playlist(*KEY)).status == 404
        assert stranger.service.share(*KEY, Recorder()) is None and len(stranger.service) == 0
        assert second.service.share("live", "other", Recorder()) is None


async def test_a_feed_that_fails_is_not_opened_for_every_request(executor: Executor, make_feed: MakeFeed) -> None:
    async with node(executor) as subject:
        first, second = subject.worker(), subject.worker(wait_seconds=0.0)
        subject.holder = first  # which knows nothing of it
        for _ in range(20):
            assert (await second.service.playlist(*KEY)).status == 503
            await asyncio.sleep(0)
        assert first.opened == 1
        subject.advance(1)
        await second.service.playlist(*KEY)
        assert first.opened == 2


# What goes wrong


class Recorder:
    """A follower that takes notes."""

    def __init__(self, fails: str = "") -> None:
        self.calls: list[str] = []
        self.segments: list[SharedSegment] = []
        self.fails = fails
        self.over = asyncio.Event()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fails:
            raise BrokenPipeError

    def on_window(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self._note("window")

    def on_segment(self, segment: SharedSegment) -> None:
        self.segments.append(segment)
        self._note("segment")

    def on_end(self) -> None:
        self._note("end")

    def on_restart(self) -> None:
        self._note("restart")

    def on_lost(self) -> None:
        self.over.set()
        self._note("lost")

    def close(self) -> None:
        for segment in self.segments:
            segment.close()


async def test_a_follower_is_told_in_order(executor: Executor, make_feed: MakeFeed) -> None:
    async with node(executor) as subject:
        worker = subject.worker()
        source = worker.hold(make_feed("libx264", "aac", seconds=4))
        playlist = await worker.has(int(START) + 2)
        follower = Recorder()
        sharing = worker.service.share(*KEY, follower)
        assert sharing is not None and follower.calls == []  # not from within
        source.end()
        await worker.until(lambda playlist: playlist.is_endlist)
        worker.service.close()
        await follower.over.wait()
        assert follower.calls[:2] == ["window", "segment"] and follower.calls[-1] == "lost"
        assert follower.numbers == (newest(playlist) + 1, playlist.discontinuity_sequence + 1)
        sharing.close()
        follower.close()
        follower.close()


@pytest.mark.parametrize("fails", ["window", "segment", "lost"])
async def test_a_follower_that_fails_is_let_go(executor: Executor, make_feed: MakeFeed, fails: str) -> None:
    async with node(executor) as subject:
        worker = subject.worker()
        worker.hold(make_feed("libx264", "aac", seconds=4))
        await worker.playlist()
        follower = Recorder(fails)
        assert worker.service.share(*KEY, follower) is not None
        if fails == "lost":
            worker.service.close()
        await follower.over.wait()
        await asyncio.sleep(0)
        assert follower.calls.count("lost") == 1
        if fails != "lost":
            assert not worker.stream.followed
            await worker.playlist()
        follower.close()


async def test_no_memory_for_another_segment(
    executor: Executor, make_feed: MakeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = make_feed("libx264", "aac", seconds=4)

    def refuse(name: str, flags: int = 0) -> int:
        raise OSError(24, "too many open files")

    async with node(executor) as subject:
        holder, reader = subject.worker(), subject.worker()
        source = holder.hold(messages)
        before = await reader.has(int(START) + 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "memfd_create", refuse)
            source.send(later(messages, 4000))
            await holder.has(newest(before) + 4)
            await lost(reader)
            assert (await reader.playlist()).dumps() == before.dumps()
        subject.advance(1)
        await reader.has(newest(before) + 4)
        await same(holder, reader)


async def test_what_is_no_segment_breaks_the_feed(executor: Executor, make_feed: MakeFeed) -> None:
    async with node(executor) as subject:
        holder, reader = subject.worker(), subject.worker()
        holder.hold(make_feed("libx265", "libopus", seconds=4))
        before = await reader.has(int(START) + 2)
        follower = Recorder()
        sharing = holder.service.share(*KEY, follower)
        assert sharing is not None
        async with asyncio.timeout(5):
            while len(follower.segments) < len(before.segments):
                await asyncio.sleep(0)
        sharing.close()
        good = follower.segments[-1]
        values = good.to_dict() | {"sequence": good.sequence + 1, "init_size": 0}
        plain = os.memfd_create("plain")
        os.write(plain, bytes(good.size))
        read, write = os.pipe()
        sealed, section = follower.segments[0].fds
        sizes = {"size": follower.segments[0].size, "init_size": follower.segments[0].init_size}
        for wrong, files in (
            ({}, [plain]),
            ({}, [read]),
            ({"size": good.size + 1}, good.fds),
            ({"sequence": 5, "init": 5}, good.fds),
            ({"discontinuities": 1}, good.fds),
            ({"init": good.sequence + 1}, good.fds),
            (sizes | {"init": good.sequence + 1}, [sealed, plain]),
            (sizes | {"init_size": 1}, [sealed, section]),
        ):
            (link,) = holder.links
            link.mirror.on_segment(SharedSegment.from_dict(values | wrong, [os.dup(file) for file in files]))
            assert holder.links == []
            assert (await reader.playlist()).dumps() == before.dumps()
            subject.advance(1)
            await reader.playlist()
        for file in (plain, read, write):
            os.close(file)
        follower.close()


def sample() -> SharedSegment:
    return SharedSegment.from_dict(
        {
            "sequence": 100, "discontinuities": 7, "discontinuity": True, "duration": 2.0, "independent": True,
            "time": 1_800_000_000_000_001, "target_duration": 3, "first": 98, "size": 1000, "init": 90, "init_size": 0,
        },
        [99],
    )  # fmt: skip


def test_metadata_survive_json() -> None:
    segment = sample()
    assert SharedSegment.from_dict(json.loads(json.dumps(segment.to_dict())), [99]) == segment
    assert segment.time.isoformat() == "2027-01-15T08:00:00.000001+00:00"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sequence", [-1, 2**53, True, 1.0, "1", None]),
        ("discontinuities", [-1, 0, 2**53, "7", None]),
        ("discontinuity", [1, 0, None, "true"]),
        ("duration", [-1.0, 1, float("nan"), float("inf"), 1e9, None, "2.0"]),
        ("time", [-1, 1e15, 2**60, None, "2026-01-01T00:00:00Z"]),
        ("independent", [1, None]),
        ("target_duration", [0, -1, 3.0, 10**9, None]),
        ("first", [-1, None, 2**60, "98"]),
        ("size", [0, -1, 1.5, 2**60, None]),
        ("init", [-1, 101, "init-90.mp4", "../x", False]),
        ("init_size", [-1, 1, None, 2**60]),
    ],
)
def test_metadata_are_checked(name: str, values: list[object]) -> None:
    good = sample().to_dict()
    for value in values:
        with pytest.raises(ValueError):
            SharedSegment.from_dict(good | {name: value}, [99])
    with pytest.raises(ValueError):
        SharedSegment.from_dict({key: value for key, value in good.items() if key != name}, [99])


def test_descriptors_are_checked() -> None:
    good = sample().to_dict()
    for fds in ([], [1, 2], [-1], [True]):
        with pytest.raises(ValueError):
            SharedSegment.from_dict(good, fds)
    assert SharedSegment.from_dict(good | {"init_size": 5}, [98, 99]).fds == [98, 99]
    with pytest.raises(ValueError):
        SharedSegment.from_dict(good | {"init_size": 5, "init": None}, [98, 99])
    with pytest.raises(ValueError):
        SharedSegment.from_dict(good | {"name": "x"}, [99])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(sample().to_dict())), JSON), JSON)
def test_hostile_metadata(changes: dict[str, Any], other: Any) -> None:
    for values in (sample().to_dict() | changes, other):
        try:
            segment = SharedSegment.from_dict(values, [99])
        except ValueError:
            continue
        assert SharedSegment.from_dict(json.loads(json.dumps(segment.to_dict())), [99]) == segment
    try:
        assert isinstance(parse_numbers(other), Numbers)
    except ValueError:
        pass


def test_numbers_survive_json() -> None:
    assert parse_numbers(json.loads(json.dumps(Numbers(3, 4)))) == (3, 4) and parse_numbers([0, 0]) == ZERO
    for wrong in (None, 3, [1], [1, 2, 3], [1, -1], [1, True], ["1", 2], [2**60, 0], {"sequence": 1}):
        with pytest.raises(ValueError):
            parse_numbers(wrong)
