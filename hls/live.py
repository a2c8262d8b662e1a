"""Live HLS: a stream is packaged from the first request for its playlist until nobody asks any more.

::

    Source --messages--> Segmenter --drafts--> Muxer (executor thread) --segments--> SegmentWindow --> requests
             event loop                          one draft at a time                   event loop

The event loop never waits for a muxer: messages are collected until a draft is closed, and what is served is what
has been completed.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import structlog

from hls.muxer import Muxed, Muxer
from hls.segmenter import Draft, Segmenter
from hls.settings import HlsSettings
from hls.window import Numbers, SegmentWindow
from pyrtmp.message import Message
from pyrtmp.stream import Tap

__all__ = ["HlsService", "HlsStream", "Hub", "Reply", "Source"]

_SWEEP_SECONDS: Final = 1.0
_SHORT_BURST: Final = 8
"""Short segments (below half a fragment) a stream may make at once; after that one a second.  They come from broken
timelines, each costs a muxer, and numbers must not run ahead of the wall clock they restart from."""
_MAX_BACKLOG_MS: Final = 60_000
"""More than a group of pictures that a joiner is handed; what is further behind belongs to another timeline."""
_DISCONTINUITY_EPOCH: Final = 1_767_225_600
"""1 January 2026, Unix time."""
_DISCONTINUITY_SECONDS: Final = 600
"""Discontinuity numbers begin at the time in this unit: they go up over restarts of the process as long as a stream has
no more than one discontinuity in so many seconds, and stay small."""
_MAX_REPLIES: Final = 64
"""Playlists kept ready for one stream: queries may be tokens, one for every player."""
_SEGMENT_CACHE: Final = "public, max-age=86400, immutable"
_NO_CACHE: Final = "no-store"

_log = structlog.get_logger(__name__)


class Source(Protocol):
    """A live stream; ``pyrtmp.stream.Stream`` is one."""

    def attach(self, tap: Tap) -> None:
        """Hand ``tap`` at once what a joiner needs, then every message."""

    def detach(self, tap: Tap) -> None:
        """Stop that; taps that are not attached are ignored."""


class Hub(Protocol):
    """Where streams are found; ``pyrtmp.hub.Hub`` is one."""

    def find(self, app: str, name: str) -> Source | None:
        """The stream of that name, if there is one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer an HTTP request with."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    cache_control: str = _NO_CACHE
    """Value of Cache-Control."""
    etag: str = ""
    """Value of ETag, with its quotes; "" for none."""


class HlsStream:
    """One stream being packaged: a tap on its source, its segments and its playlist.

    Belongs to the event loop it was made on.  ``clock`` gives monotonic seconds, ``now`` Unix time in seconds.
    """

    def __init__(
        self,
        label: str,
        settings: HlsSettings,
        executor: Executor,
        *,
        first: Numbers,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._executor = executor
        self._clock = clock
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._log = _log.bind(stream=label)
        # Memory: a quarter for the open draft, a quarter for drafts that wait, half for segments.
        self._segmenter = Segmenter(
            fragment=settings.fragment, max_fragment=settings.max_fragment, max_bytes=settings.max_bytes // 4
        )
        self._muxer = Muxer(settings.container)
        self._window = SegmentWindow(
            window=settings.window, max_bytes=settings.max_bytes // 2, first=first
        )
        self._drafts: deque[tuple[Draft, datetime]] = deque()
        self._drafts_bytes = 0
        self._muxing = False
        self._broken = False
        self._wall = _WallClock()
        self._short = _Allowance(clock())
        self._replies: dict[tuple[str, str], Reply] = {}
        """Playlists as last answered, by prefix and query; until the next segment."""
        self._over = False
        self._closed = False
        self._settled = asyncio.Event()
        self.source: Source | None = None
        """What is packaged, or was until it ended."""
        self.heard = False
        """Whether a source ever sent anything."""
        self.ended_at: float | None = None
        """When the last segment was complete, by ``clock``; None while there may be more."""
        self.last_request = clock()
        """When a playlist or segment was asked for last, by ``clock``; kept by whoever answers."""

    @property
    def numbers(self) -> Numbers:
        """Where the numbers of this stream's segments and discontinuities have got to."""
        return self._window.numbers

    @property
    def memory(self) -> int:
        """Bytes of segments, and of drafts that wait to become segments."""
        return self._window.size + self._drafts_bytes

    def follow(self, source: Source) -> None:
        """Package ``source`` from now on.  What is there of another one stays, followed by a discontinuity."""
        if self.source is not None:
            self.source.detach(self)
        self._take([self._segmenter.restart()])
        self._over = False
        self.ended_at = None
        self._replies.clear()
        if not len(self._window):
            self._settled.clear()
        self.source = source
        source.attach(self)

    async def ready(self, seconds: float) -> bool:
        """Wait ``seconds`` at most until there is a playlist; whether there is one."""
        if not len(self._window):
            try:
                async with asyncio.timeout(seconds):
                    await self._settled.wait()
            except TimeoutError:
                pass
        return len(self._window) > 0

    def playlist(self, *, prefix: str = "", query: str = "") -> bytes:
        """The playlist as text; only after ``ready`` said that there is one."""
        return self._window.playlist(ended=self.ended_at is not None).encode(prefix=prefix, query=query)

    def reply(self, *, prefix: str, query: str) -> Reply:
        """What to answer a request for the playlist with; made once for all who ask alike."""
        reply = self._replies.get((prefix, query))
        if reply is None:
            body = self.playlist(prefix=prefix, query=query)
            # A CDN may answer from its cache for less than the time in which a segment is made.
            cache_control = f"public, max-age={int(self._settings.fragment / 2)}"
            reply = Reply(200, body, "application/vnd.apple.mpegurl", cache_control, f'"{zlib.crc32(body):08x}"')
            if len(self._replies) >= _MAX_REPLIES:
                self._replies.clear()
            self._replies[prefix, query] = reply
        return reply

    def file(self, name: str) -> bytes | None:
        """A segment or initialization section by its name."""
        return self._window.get(name)

    def close(self) -> None:
        """Stop packaging and let those go who wait in ``ready``."""
        if self._closed:
            return
        self._closed = True
        if self.source is not None:
            self.source.detach(self)
        self._drafts.clear()
        self._settled.set()
        if not self._muxing:
            self._release_muxer()

    # The tap

    def on_messages(self, messages: Sequence[Message]) -> None:
        """Collect messages; the drafts they close go to the muxer."""
        if not messages:
            return
        self.heard = True
        push = self._segmenter.push
        drafts = [draft for message in messages if (draft := push(message)) is not None]
        self._wall.observe(messages[-1].timestamp, self._now())
        if drafts:
            self._take(drafts)

    def on_restart(self) -> None:
        """Another publisher goes on."""
        self._take([self._segmenter.restart()])

    def on_end(self) -> None:
        """The stream is over: what is left becomes the last segment."""
        self._over = True
        self._take([self._segmenter.finish()])

    # From drafts to segments

    def _take(self, drafts: Sequence[Draft | None]) -> None:
        for draft in drafts:
            if draft is None or self._closed:
                continue
            reason = self._why_not(draft)
            if reason:
                if not self._broken:
                    self._log.warning("hls_segment_dropped", reason=reason, frames=len(draft.messages))
                self._broken = True
                continue
            if self._broken:
                draft.discontinuity = True
                self._broken = False
            self._drafts.append((draft, self._wall.time_of(draft)))
            self._drafts_bytes += draft.size
        self._mux_next()

    def _why_not(self, draft: Draft) -> str:
        """Why a draft is not worth muxing, or ""."""
        if self._drafts and self._drafts_bytes + draft.size > self._settings.max_bytes // 4:
            return "muxing does not keep up"
        if draft.duration < self._settings.fragment * 500 and not self._short.take(self._clock()):
            return "too many short segments"
        return ""

    def _mux_next(self) -> None:
        if self._muxing or self._closed:
            return
        if self._drafts:
            draft, began = self._drafts.popleft()
            self._muxing = True
            job = self._loop.run_in_executor(self._executor, self._muxer.mux, draft)
            job.add_done_callback(partial(self._muxed, draft, began))
        elif self._over and self.ended_at is None:
            self.ended_at = self._clock()
            self._replies.clear()
            self._settled.set()

    def _muxed(self, draft: Draft, began: datetime, job: asyncio.Future[Muxed]) -> None:
        self._muxing = False
        self._drafts_bytes -= draft.size
        if self._closed or job.cancelled():
            self._release_muxer()
            return
        try:
            muxed = job.result()
        except Exception as error:  # whatever a publisher sent costs a segment, never the stream
            self._failed(draft, error)
        else:
            self._add(draft, began, muxed)
        self._mux_next()

    def _failed(self, draft: Draft, error: Exception) -> None:
        self._log.warning("hls_segment_failed", error=repr(error), frames=len(draft.messages))
        if self._drafts:
            self._drafts[0][0].discontinuity = True
        else:
            self._broken = True

    def _add(self, draft: Draft, began: datetime, muxed: Muxed) -> None:
        if muxed.lost:
            self._log.warning("hls_frames_lost", lost=muxed.lost, frames=len(draft.messages))
        self._window.add(
            muxed.data,
            muxed.init,
            duration=draft.duration / 1000,
            target_duration=draft.target_duration,
            discontinuity=muxed.discontinuity,
            independent=draft.independent,
            time=began,
        )
        self._replies.clear()
        self._settled.set()

    def _release_muxer(self) -> None:
        try:
            self._loop.run_in_executor(self._executor, self._muxer.close)
        except RuntimeError:  # the executor is shut down, so nobody uses the muxer
            self._muxer.close()


class _WallClock:
    """Wall-clock time of the stream's timeline, anchored where the timeline breaks and running with it otherwise."""

    def __init__(self) -> None:
        self._timestamp = 0
        self._time = 0.0
        self._offset = 0.0
        self._end = 0.0

    def observe(self, timestamp: int, time: float) -> None:
        """The newest message's timestamp, and when it came."""
        self._timestamp = timestamp
        self._time = time

    def time_of(self, draft: Draft) -> datetime:
        """When ``draft`` began; drafts are asked for in order."""
        if draft.discontinuity:
            end = draft.start + draft.duration
            # A joiner gets the last seconds at once: they happened that much earlier.
            behind = self._timestamp - end
            if not 0 <= behind <= _MAX_BACKLOG_MS:
                behind = 0
            self._offset = self._time - (end + behind) / 1000
            # The wall clock may be set back; what is played later happened later all the same.
            self._offset = max(self._offset, self._end - draft.start / 1000)
        start = self._offset + draft.start / 1000
        self._end = start + draft.duration / 1000
        return datetime.fromtimestamp(start, UTC)


class _Allowance:
    """Short segments a stream may make: a burst, then one a second."""

    def __init__(self, clock: float) -> None:
        self._left = float(_SHORT_BURST)
        self._since = clock

    def take(self, clock: float) -> bool:
        self._left = min(self._left + clock - self._since, float(_SHORT_BURST))
        self._since = clock
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class HlsService:
    """Answers requests for playlists and segments.

    ``executor`` runs the muxers and stays the caller's; one thread is enough.  Whoever asks has checked the names
    (``pyrtmp.names``).
    """

    def __init__(
        self,
        hub: Hub,
        settings: HlsSettings,
        executor: Executor,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._executor = executor
        self._clock = clock
        self._now = now
        self._streams: dict[tuple[str, str], HlsStream] = {}
        self._used = Numbers(0, 0)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Streams that are packaged or kept."""
        return len(self._streams)

    def memory(self) -> int:
        """Bytes held by all streams' segments."""
        return sum(stream.memory for stream in self._streams.values())

    async def playlist(self, app: str, name: str, *, query: str = "", prefix: str = "") -> Reply:
        """The media playlist of a stream; starts packaging it and waits for its first segment if need be.

        ``query`` is the request's query string, undecoded; it goes on every URI.  ``prefix`` is put before every URI:
        ``name + "/"`` when the playlist was asked for as ``/app/name.m3u8``.  404: no such stream; 503: nothing to
        play yet, ask again.
        """
        stream = self._stream(app, name)
        if stream is None:
            return Reply(404, b"no such stream\n")
        stream.last_request = self._clock()
        if not await stream.ready(self._settings.wait_seconds):
            if stream.heard and stream.ended_at is None:
                return Reply(503, b"no segment is complete yet\n")
            return Reply(404, b"no such stream\n")
        return stream.reply(prefix=prefix, query=query)

    async def segment(self, app: str, name: str, filename: str) -> Reply:
        """A segment or initialization section that a playlist names, or named a window ago; 404 after that."""
        stream = self._streams.get((app, name))
        data = None if stream is None else stream.file(filename)
        if stream is None or data is None:
            return Reply(404, b"no such segment\n")
        stream.last_request = self._clock()
        content_type = "video/mp2t" if filename.endswith(".ts") else "video/mp4"
        return Reply(200, data, content_type, _SEGMENT_CACHE, f'"{filename}"')

    def sweep(self) -> None:
        """Forget streams nobody asked for, and those over for a window.  Runs once a second by itself."""
        clock = self._clock()
        for key, stream in list(self._streams.items()):
            over = stream.ended_at is not None and clock - stream.ended_at >= self._settings.window
            if over or clock - stream.last_request >= self._settings.linger:
                self._forget(key, stream)

    def close(self) -> None:
        """Stop packaging; requests that wait are answered."""
        for key, stream in list(self._streams.items()):
            self._forget(key, stream)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stream(self, app: str, name: str) -> HlsStream | None:
        """The stream's packager, following whatever the hub has under that name now."""
        key = (app, name)
        stream = self._streams.get(key)
        source = self._hub.find(app, name)
        if source is None:
            return stream
        if stream is None:
            stream = self._streams[key] = HlsStream(
                f"{app}/{name}",
                self._settings,
                self._executor,
                first=self._first_numbers(),
                clock=self._clock,
                now=self._now,
            )
            stream.follow(source)
            self._arm()
        elif stream.source is not source:
            stream.follow(source)
        return stream

    def _forget(self, key: tuple[str, str], stream: HlsStream) -> None:
        del self._streams[key]
        stream.close()
        sequence, discontinuity = stream.numbers
        self._used = Numbers(max(sequence, self._used.sequence), max(discontinuity, self._used.discontinuity))

    def _first_numbers(self) -> Numbers:
        """Where a stream's numbers begin: above all that any stream here had, and, as nothing is kept over a restart
        of the process, above what it had in an earlier life.  Time does that: it counts faster than segments do.
        """
        now = self._now()
        # Discontinuities count slowly, and hls.js walks through arrays as long as their number.
        discontinuity = max(int((now - _DISCONTINUITY_EPOCH) / _DISCONTINUITY_SECONDS), 0)
        return Numbers(max(int(now), self._used.sequence), max(discontinuity, self._used.discontinuity))

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.sweep()
        if self._streams:
            self._arm()
