from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from typing import Any

import av
import m3u8
import pytest
from aiohttp import web

from hls.live import HlsService, HlsStream, Reply
from hls.settings import HlsSettings
from hls.window import Numbers
from pyrtmp.birth import Birth
from pyrtmp.media import FRAME, KEY, parse_audio, parse_video
from pyrtmp.message import VIDEO, Message
from tests.hls.sources import FakeSource, later

MakeFeed = Callable[..., list[Message]]
START = 1_800_000_000.0


class FakeHub:
    def __init__(self) -> None:
        self.streams: dict[tuple[str, str], FakeSource] = {}

    def find(self, app: str, name: str) -> FakeSource | None:
        return self.streams.get((app, name))


class Clock:
    """Monotonic and wall-clock time, moved by hand."""

    def __init__(self) -> None:
        self.monotonic = 50.0
        self.wall = START

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


class Bench:
    """A service over one stream, ``live/cam``."""

    def __init__(self, executor: Executor, **settings: Any) -> None:
        self.clock = Clock()
        self.hub = FakeHub()
        self.source = self.hub.streams["live", "cam"] = FakeSource()
        defaults = {"fragment": 1.0, "window": 6.0, "wait_seconds": 5.0}
        self.service = HlsService(
            self.hub,
            HlsSettings(**{**defaults, **settings}),
            executor,
            clock=lambda: self.clock.monotonic,
            now=lambda: self.clock.wall,
        )

    async def playlist(self, **kwargs: str) -> Any:
        reply = await self.service.playlist("live", "cam", **kwargs)
        assert reply.status == 200, reply
        return m3u8.loads(reply.body.decode())

    async def playlist_of(self, count: int) -> Any:
        """The playlist, when it names ``count`` segments or more, or has ended."""
        async with asyncio.timeout(5):
            while True:
                playlist = await self.playlist()
                if len(playlist.segments) >= count or playlist.is_endlist:
                    return playlist
                await asyncio.sleep(0.005)

    async def fetch(self, name: str) -> bytes:
        reply = await self.service.segment("live", "cam", name.partition("?")[0])
        assert reply.status == 200, (name, reply)
        return reply.body

    async def download(self, playlist: Any) -> bytes:
        """All segments in a row, the first behind its initialization section."""
        parts = []
        if playlist.segments[0].init_section is not None:
            parts.append(await self.fetch(playlist.segments[0].init_section.uri))
        return b"".join(parts + [await self.fetch(segment.uri) for segment in playlist.segments])


@asynccontextmanager
async def bench(executor: Executor, **settings: Any) -> AsyncIterator[Bench]:
    subject = Bench(executor, **settings)
    try:
        yield subject
    finally:
        subject.service.close()
        assert not subject.source.taps


def split(messages: list[Message], *, at: int) -> tuple[list[Message], list[Message]]:
    """Before, and from the first message on whose timestamp is ``at`` or more."""
    index = next(n for n, message in enumerate(messages) if message.timestamp >= at)
    return messages[:index], messages[index:]


def frames(messages: list[Message]) -> int:
    count = 0
    for message in messages:
        tags = parse_video(message.payload) if message.type == VIDEO else (
            parse_audio(message.payload) if message.type == 8 else [])
        count += sum(tag.kind in (FRAME, KEY) and bool(tag.data) for tag in tags)
    return count


def demuxed(data: bytes) -> list[tuple[str, float]]:
    with av.open(io.BytesIO(data)) as source:
        return [(packet.stream.type, float((packet.dts or 0) * packet.time_base))
                for packet in source.demux() if packet.size]  # fmt: skip


async def test_an_unknown_stream_is_not_found(executor: Executor) -> None:
    async with bench(executor) as subject:
        assert (await subject.service.playlist("live", "nobody")).status == 404
        assert (await subject.service.segment("live", "cam", "1.ts")).status == 404
        assert len(subject.service) == 0 and subject.source.attached == 0


async def test_the_first_request_starts_packaging_and_waits(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor) as subject:
        head, rest = split(make_feed("libx264", "aac"), at=900)
        subject.source.backlog = head
        request = asyncio.create_task(subject.service.playlist("live", "cam"))
        await asyncio.sleep(0.01)
        assert not request.done() and subject.source.attached == 1
        subject.source.send(rest)
        reply = await request
        assert (reply.status, reply.content_type) == (200, "application/vnd.apple.mpegurl")
        assert reply.cache_control == "public, max-age=0" and reply.etag.startswith('"')
        assert b".ts" in reply.body


async def test_many_first_requests_are_one_packager(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor) as subject:
        requests = [asyncio.create_task(subject.service.playlist("live", "cam")) for _ in range(50)]
        await asyncio.sleep(0)
        subject.source.send(make_feed("libx264", "aac"))
        replies = await asyncio.gather(*requests)
        assert {reply.status for reply in replies} == {200}
        assert subject.source.attached == 1 and len(subject.service) == 1


async def test_a_wait_is_bounded(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor, wait_seconds=0.05) as subject:
        assert (await subject.service.playlist("live", "cam")).status == 404  # nothing was ever sent
        subject.source.send(make_feed("libx264", "aac", seconds=1)[:20])
        assert (await subject.service.playlist("live", "cam")).status == 503


@pytest.mark.parametrize(
    ("video", "audio", "bframes", "suffix"),
    [("libx264", "aac", 0, ".ts"), ("libx264", "aac", 2, ".ts"), ("libx265", "libopus", 2, ".m4s"),
     ("libsvtav1", "aac", 0, ".m4s"), ("", "aac", 0, ".ts")],
)  # fmt: skip
async def test_nothing_lost_and_nothing_doubled(
    executor: Executor, make_feed: MakeFeed, video: str, audio: str, bframes: int, suffix: str
) -> None:
    messages = make_feed(video, audio, seconds=5, bframes=bframes)
    async with bench(executor, window=60.0) as subject:
        head, rest = split(messages, at=300)
        subject.source.backlog = head
        waiting = asyncio.create_task(subject.playlist())
        await asyncio.sleep(0)
        for message in rest:
            subject.source.send([message])
        await waiting
        subject.source.end()
        playlist = await subject.playlist_of(100)
        assert playlist.is_endlist
        assert all(segment.uri.endswith(suffix) for segment in playlist.segments)
        got = demuxed(await subject.download(playlist))
        assert len(got) == frames(messages)
        for kind in ("video", "audio"):
            times = [time for type, time in got if type == kind]
            assert times == sorted(set(times))


async def test_durations_and_dates_follow_the_timeline(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor) as subject:
        head, rest = split(make_feed("libx264", "aac", seconds=5, start=7_000_000), at=7_000_500)
        newest = head[-1].timestamp
        subject.source.backlog = head
        waiting = asyncio.create_task(subject.playlist())
        await asyncio.sleep(0)
        for message in rest:
            subject.clock.advance((message.timestamp - newest) / 1000)
            newest = message.timestamp
            subject.source.send([message])
        await waiting
        playlist = await subject.playlist_of(4)
        assert playlist.target_duration == 1 and playlist.is_independent_segments
        assert [segment.duration for segment in playlist.segments] == pytest.approx([1.0] * 4, abs=0.05)
        dates = [segment.program_date_time.timestamp() for segment in playlist.segments]
        assert dates == pytest.approx([START - 0.5 + n for n in range(4)], abs=0.1)


async def test_both_url_forms_and_the_query(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor) as subject:
        subject.source.backlog = make_feed("libx265", "libopus")
        playlist = await subject.playlist(prefix="cam/", query="token=a%2Fb&x=1")
        assert playlist.segments[0].uri.startswith("cam/18") and playlist.segments[0].uri.endswith("?token=a%2Fb&x=1")
        assert playlist.segments[0].init_section.uri.startswith("cam/init-")
        plain = await subject.playlist()
        assert "?" not in plain.segments[0].uri and "/" not in plain.segments[0].uri


async def test_segments_are_cached_for_long(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor) as subject:
        subject.source.backlog = make_feed("libx264", "aac")
        name = (await subject.playlist()).segments[0].uri
        reply = await subject.service.segment("live", "cam", name)
        assert reply == Reply(200, reply.body, "video/mp2t", "public, max-age=86400, immutable", f'"{name}"')
        for wrong in ("../" + name, name + "x", "", "index.m3u8"):
            assert (await subject.service.segment("live", "cam", wrong)).status == 404


async def test_a_restart_is_a_discontinuity(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor, window=60.0) as subject:
        messages = make_feed("libx264", "aac", seconds=2)
        subject.source.backlog = messages
        await subject.playlist()
        subject.source.restart()
        subject.source.send(later(make_feed("libx264", "aac", seconds=2, width=320), 9000))
        subject.source.end()
        playlist = await subject.playlist_of(100)
        assert [segment.discontinuity for segment in playlist.segments] == [True, False, True, False]
        sizes = []
        for segment in playlist.segments:
            with av.open(io.BytesIO(await subject.fetch(segment.uri))) as source:
                sizes.append(source.streams.video[0].codec_context.width)
        assert sizes == [160, 160, 320, 320]


async def test_the_end_and_what_follows(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor) as subject:
        subject.source.backlog = make_feed("libx264", "aac", seconds=3)
        await subject.playlist()
        subject.source.end()
        ended = await subject.playlist_of(100)
        assert ended.is_endlist and len(ended.segments) == 3
        del subject.hub.streams["live", "cam"]
        subject.clock.advance(5.9)
        subject.service.sweep()
        assert (await subject.playlist()).is_endlist
        subject.clock.advance(0.2)
        subject.service.sweep()
        assert (await subject.service.playlist("live", "cam")).status == 404
        assert (await subject.service.segment("live", "cam", ended.segments[0].uri)).status == 404
        assert len(subject.service) == 0


async def test_a_stream_that_comes_back_goes_on(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor, window=60.0) as subject:
        messages = make_feed("libx264", "aac", seconds=3)
        subject.source.backlog = messages
        await subject.playlist()
        subject.source.end()
        before = await subject.playlist_of(100)
        again = subject.hub.streams["live", "cam"] = FakeSource(messages)
        after = await subject.playlist()
        assert not after.is_endlist
        again.end()
        after = await subject.playlist_of(100)
        assert after.media_sequence == before.media_sequence
        assert after.target_duration == before.target_duration
        assert [s.uri for s in after.segments][:3] == [s.uri for s in before.segments]
        assert [s.discontinuity for s in after.segments] == [True, False, False] * 2


async def test_another_stream_object_under_the_same_name_is_followed(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor) as subject:
        subject.source.backlog = make_feed("libx264", "aac", seconds=2)
        await subject.playlist()
        other = subject.hub.streams["live", "cam"] = FakeSource()
        await subject.playlist()
        assert (subject.source.taps, len(other.taps)) == ([], 1)


async def test_packaging_stops_when_nobody_asks(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor, linger=10.0) as subject:
        subject.source.backlog = make_feed("libx264", "aac", seconds=3)
        before = await subject.playlist_of(2)
        subject.clock.advance(9)
        subject.service.sweep()
        await subject.fetch(before.segments[0].uri)
        subject.clock.advance(9)
        subject.service.sweep()
        assert len(subject.source.taps) == 1
        subject.clock.advance(1.5)
        subject.service.sweep()
        assert subject.source.taps == [] and len(subject.service) == 0
        subject.clock.wall = START - 3600  # set back an hour
        after = await subject.playlist()
        assert after.media_sequence >= before.media_sequence + len(before.segments)
        assert after.discontinuity_sequence >= before.discontinuity_sequence
        assert after.segments[0].discontinuity


async def test_numbers_go_on_in_another_process(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor) as first, bench(executor) as second:
        first.source.backlog = second.source.backlog = make_feed("libx264", "aac", seconds=3)
        before = await first.playlist_of(2)
        second.clock.advance(601)
        after = await second.playlist()
        assert after.media_sequence >= before.media_sequence + len(before.segments)
        assert after.discontinuity_sequence >= before.discontinuity_sequence + 1
        assert after.segments[0].discontinuity


async def test_discontinuity_numbers_stay_small(executor: Executor, make_feed: MakeFeed) -> None:
    # hls.js 1.7 keeps an array indexed by them and walks through it: seconds since 1970 bring a browser to a stop.
    async with bench(executor) as subject:
        subject.source.backlog = make_feed("libx264", "aac", seconds=3)
        assert 0 <= (await subject.playlist()).discontinuity_sequence < 1_000_000
        subject.service.close()
        subject.clock.wall = START + 20 * 365 * 86400
        playlist = await subject.playlist()
        assert 100_000 < playlist.discontinuity_sequence < 2_000_000


async def test_sweeping_happens_by_itself(
    executor: Executor, make_feed: MakeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hls.live._SWEEP_SECONDS", 0.01)
    async with bench(executor, linger=1.0) as subject:
        subject.source.backlog = make_feed("libx264", "aac", seconds=3)
        await subject.playlist()
        subject.clock.advance(2)
        async with asyncio.timeout(10):
            while len(subject.service):
                await asyncio.sleep(0.005)


async def test_closing_answers_those_who_wait(executor: Executor) -> None:
    async with bench(executor, wait_seconds=60.0) as subject:
        request = asyncio.create_task(subject.service.playlist("live", "cam"))
        await asyncio.sleep(0.01)
        subject.service.close()
        async with asyncio.timeout(10):
            assert (await request).status == 404


async def test_memory_stays_bounded(executor: Executor, make_feed: MakeFeed) -> None:
    limit = 2 * 1024 * 1024
    messages = make_feed("libx264", "aac", seconds=2)
    padding = b"\0\0\x40\x00\x0c" + bytes(16 * 1024 - 1)  # a filler NAL unit of 16 KiB
    async with bench(executor, max_bytes=limit, window=60.0) as subject:
        request = asyncio.create_task(subject.playlist())
        await asyncio.sleep(0)
        for second in range(0, 40, 2):
            big = [Message(m.type, m.timestamp, 1, m.payload + padding if m.type == VIDEO and m.payload[1] == 1
                           else m.payload) for m in messages]  # fmt: skip
            subject.source.send(later(big, second * 1000))
            await asyncio.sleep(0.02)
            assert subject.service.memory() <= limit
        await request
        playlist = await subject.playlist()
        assert all([await subject.fetch(segment.uri) for segment in playlist.segments])


class StuckExecutor(Executor):
    """Takes jobs and runs them when told."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for future, call in jobs:
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)


async def test_a_muxer_that_does_not_keep_up_costs_segments_not_memory(make_feed: MakeFeed) -> None:
    executor = StuckExecutor()
    limit = 1024 * 1024
    messages = make_feed("libx264", "aac", seconds=4)
    async with bench(executor, max_bytes=limit, window=60.0) as subject:
        request = asyncio.create_task(subject.playlist())
        await asyncio.sleep(0)
        for turn in range(30):
            subject.source.send(later(messages, turn * 4000))
        assert len(executor.jobs) == 1
        assert subject.service.memory() <= limit // 2
        subject.source.send(later(messages, 120_000))
        for _ in range(60):
            executor.run()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        subject.source.send(later(messages, 124_000))
        for _ in range(10):
            executor.run()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        playlist = await request
        playlist = await subject.playlist()
        assert sum(segment.discontinuity for segment in playlist.segments[1:]) == 1
    executor.run()


async def test_a_timeline_in_ruins_does_not_keep_the_muxer_busy(make_feed: MakeFeed) -> None:
    executor = StuckExecutor()
    messages = [m for m in make_feed("libx264", "", seconds=2) if m.type == VIDEO]
    async with bench(executor) as subject:
        request = asyncio.create_task(subject.service.playlist("live", "cam"))
        await asyncio.sleep(0)
        jobs = 0
        for turn in range(100):
            subject.source.send(messages[:1])
            subject.source.send(later(messages[1:3], 5000 * (turn % 2)))
            jobs += len(executor.jobs)
            executor.run()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert 0 < jobs <= 10
        request.cancel()
    executor.run()


async def test_a_segment_that_fails_leaves_a_discontinuity(
    executor: Executor, make_feed: MakeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hls.muxer import Muxer

    original = Muxer.mux

    def mux(self: Muxer, draft: Any) -> Any:
        if 900 < draft.start < 1500:
            raise av.FFmpegError(1, "refused")
        return original(self, draft)

    monkeypatch.setattr(Muxer, "mux", mux)
    async with bench(executor) as subject:
        subject.source.backlog = make_feed("libx264", "aac", seconds=4)
        await subject.playlist()
        subject.source.end()
        playlist = await subject.playlist_of(100)
        assert [segment.discontinuity for segment in playlist.segments] == [True, True, False]


async def test_the_loop_is_not_held_up(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with bench(executor) as subject:
        request = asyncio.create_task(subject.playlist())
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        spent = 0.0
        for turn in range(5):
            for message in later(messages, turn * 4000):
                began = loop.time()
                subject.source.send([message])
                spent += loop.time() - began
            await asyncio.sleep(0)
        await request
        assert spent / 20 < 0.010  # for a segment of one second; about 1 ms is usual


async def test_a_stream_can_be_packaged_without_the_service(executor: Executor, make_feed: MakeFeed) -> None:
    settings = HlsSettings(fragment=1.0)
    stream = HlsStream("live/cam", settings, executor, clock=lambda: 0.0, now=lambda: START)
    assert not await stream.ready(0.01)
    stream.package(FakeSource(make_feed("libx264", "aac")), settings, Numbers(1, 0))
    assert await stream.ready(5)
    assert b"#EXT-X-MEDIA-SEQUENCE:1\n" in stream.playlist()
    stream.close()
    stream.close()


async def test_other_settings_count_for_streams_from_then_on(executor: Executor, make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    async with bench(executor, linger=10.0, window=60.0) as subject:
        subject.source.backlog = messages
        before = await subject.playlist_of(3)
        assert before.segments[0].uri.endswith(".ts")
        subject.service.configure(HlsSettings(fragment=2.0, container="fmp4", linger=5.0))
        subject.source.send(later(messages, 4000))
        after = await subject.playlist_of(5)
        assert [segment.uri for segment in after.segments[:3]] == [segment.uri for segment in before.segments]
        assert {segment.uri[-3:] for segment in after.segments} == {".ts"} and after.target_duration == 1
        subject.clock.advance(6)
        subject.service.sweep()
        assert len(subject.service) == 0
        again = await subject.playlist()
        assert again.segments[0].uri.endswith(".m4s") and again.target_duration >= 2


@asynccontextmanager
async def serving(service: HlsService) -> AsyncIterator[str]:
    """The service over HTTP on loopback; its base URL."""

    async def answer(request: web.Request) -> web.Response:
        path = request.match_info["path"]
        if path.endswith(".m3u8"):
            reply = await service.playlist("live", "cam", query=request.query_string, prefix="cam/")
        else:
            reply = await service.segment("live", "cam", path.removeprefix("cam/"))
        return web.Response(status=reply.status, body=reply.body, content_type=reply.content_type)

    app = web.Application()
    app.router.add_get("/live/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/live/"
    finally:
        await runner.cleanup()


async def run(*command: str) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return out.decode(), err.decode()


# Debian's ffmpeg reads the initialization section again with every playlist, and says so.
FFMPEG_HABIT = "Found duplicated MOOV Atom. Skipped it"


def complaints(err: str) -> list[str]:
    return [line for line in err.splitlines() if FFMPEG_HABIT not in line]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("video", "audio", "start"),
    [("libx264", "aac", (1 << 33) // 90 - 1500), ("libx265", "libopus", 0)],
)
async def test_ffmpeg_plays_it_live(
    executor: Executor, make_feed: MakeFeed, video: str, audio: str, start: int
) -> None:
    messages = make_feed(video, audio, seconds=3, bframes=2, start=start)
    async with bench(executor) as subject, serving(subject.service) as base:
        head, rest = split(messages, at=start + 1500)
        subject.source.backlog = head

        async def publish() -> None:
            newest = head[-1].timestamp
            for message in rest:
                await asyncio.sleep(max(message.timestamp - newest, 0) / 1000)
                newest = max(newest, message.timestamp)
                subject.source.send([message])
            subject.source.end()

        await subject.playlist()
        publisher = asyncio.create_task(publish())
        out, err = await run(
            "ffprobe", "-v", "warning", "-live_start_index", "0", "-of", "json",
            "-show_entries", "packet=codec_type,dts_time,pts_time", base + "cam.m3u8?token=1")  # fmt: skip
        await publisher
        assert complaints(err) == []
        packets = json.loads(out)["packets"]
        for kind in ("video", "audio"):
            sent = frames([m for m in messages if (m.type == VIDEO) == (kind == "video")])
            got = [packet for packet in packets if packet["codec_type"] == kind]
            assert len(got) == sent
            assert all(float(packet["pts_time"]) >= float(packet["dts_time"]) for packet in got)
            times = [float(packet["dts_time"]) for packet in got]
            assert times == sorted(times)
        _, err = await run("ffmpeg", "-v", "warning", "-i", base + "cam.m3u8", "-f", "null", "-")
        assert complaints(err) == []


async def test_who_asks_for_a_segment_begins_the_stream(executor: Executor, make_feed: MakeFeed) -> None:
    """A balancer asked somebody else for the playlist."""
    async with bench(executor) as subject:
        head, rest = split(make_feed("libx264", "aac"), at=900)
        subject.source.backlog = head
        assert (await subject.service.segment("live", "nobody", "7.ts")).status == 404
        assert (await subject.service.segment("live", "cam", "wrong.ts")).status == 404
        await asyncio.sleep(0)
        assert subject.source.attached == 0
        assert (await subject.service.segment("live", "cam", "7.ts")).status == 404
        await asyncio.sleep(0)
        assert subject.source.attached == 1
        subject.source.send(rest)
        assert len((await subject.playlist_of(2)).segments) >= 2
        assert not subject.service._warming


async def test_the_next_segment_is_waited_for(executor: Executor, make_feed: MakeFeed) -> None:
    """Another node may have made it a moment earlier."""
    async with bench(executor) as subject:
        first, rest = split(make_feed("libx264", "aac"), at=2000)
        subject.source.backlog = first[:10]
        request = asyncio.create_task(subject.playlist_of(1))
        await asyncio.sleep(0)
        subject.source.send(first[10:])
        number = int((await request).segments[-1].uri.partition(".")[0])
        soon = asyncio.create_task(subject.service.segment("live", "cam", f"{number + 1}.ts"))
        assert (await subject.service.segment("live", "cam", f"{number + 9}.ts")).status == 404
        assert (await subject.service.segment("live", "cam", f"{number - 1}.ts")).status == 404
        assert not soon.done()
        subject.source.send(rest)
        assert (await soon).status == 200


async def test_a_playlist_that_lacks_what_others_have(executor: Executor, make_feed: MakeFeed) -> None:
    async with bench(executor, window=3.0) as subject:
        subject.source.birth = Birth(int(START) * 1000 - 60_000, 0, 1000)
        subject.source.key_before = 58_000
        feed = make_feed("libx264", "aac", seconds=12, gop=1)
        for message in feed:
            message.timestamp += 59_000
        first, rest = split(feed, at=61_500)
        subject.source.backlog = first[:10]
        assert (await subject.service.playlist("live", "cam", whole=True)).status == 404
        await asyncio.sleep(0)
        assert subject.source.attached == 1  # it was begun
        subject.source.send(first[10:])
        assert len((await subject.playlist_of(1)).segments) < 3
        assert (await subject.service.playlist("live", "cam", whole=True)).status == 404
        subject.source.send(rest)
        await subject.playlist_of(3)
        async with asyncio.timeout(5):
            while (reply := await subject.service.playlist("live", "cam", whole=True)).status == 404:
                await asyncio.sleep(0.005)
        assert reply.body == (await subject.service.playlist("live", "cam")).body
