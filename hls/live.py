"""Live HLS: a stream is packaged, or mirrored from the worker that packages it, from the first request for its
playlist until nobody asks any more.

::

    Source --messages--> Packager --.                                .--> requests
                                    |--segments--> SegmentWindow ----|
    Feed ---descriptors--> Mirror --'                                '--> Sharing --> Follower (another worker)

What is served is what has been completed.  Where a stream comes from may change: its publisher comes back on another
worker, or on this one.  What has been served before stays until the first segment from there, which goes on above all
numbers so far.
"""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import structlog

from hls.content import Content
from hls.mirror import HlsMirror
from hls.muxer import Muxed
from hls.packager import Packager, Source
from hls.segmenter import Draft
from hls.settings import HlsSettings
from hls.sharing import Feed, Feeds, Follower, Sharing
from hls.window import ZERO, Entry, Numbers, SegmentWindow
from pyrtmp.names import StreamKey

__all__ = ["HlsService", "HlsStream", "Hub", "Reply", "Source"]

_SWEEP_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 1.0
"""How often those who wait for a playlist look where the stream is, and a feed that was lost is opened again."""
_LATE_SECONDS: Final = 2.0
"""How long a segment is waited for that another worker's or node's playlist may name already."""
_AHEAD: Final = 3
"""How many segments another worker or node may be ahead."""
_MAX_WARMING: Final = 64
"""Streams that are begun at once because somebody asked for a segment."""
_DISCONTINUITY_EPOCH: Final = 1_767_225_600
"""1 January 2026, Unix time."""
_DISCONTINUITY_SECONDS: Final = 600
"""Discontinuity numbers begin at the time in this unit: they go up over restarts of the process as long as a stream has
no more than one discontinuity in so many seconds, and stay small."""
_MAX_REPLIES: Final = 64
"""Playlists kept ready for one stream: queries may be tokens, one for every player."""
_MAX_LEFT: Final = 1024
"""Streams whose numbers are remembered."""
_SEGMENT_CACHE: Final = "public, max-age=86400, immutable"
_NO_CACHE: Final = "no-store"
_FILE: Final = re.compile(r"([0-9]{1,16})\.(?:ts|m4s)|init-([0-9]{1,16})\.mp4")

_log = structlog.get_logger(__name__)


class Hub(Protocol):
    """Where streams are found; ``pyrtmp.hub.Hub`` is one."""

    def find(self, app: str, name: str) -> Source | None:
        """The stream of that name, if there is one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer an HTTP request with."""

    status: int
    body: bytes | memoryview = b""
    """Read-only.  Small ones, and all that are no segments, are bytes."""
    content_type: str = "text/plain"
    cache_control: str = _NO_CACHE
    """Value of Cache-Control."""
    etag: str = ""
    """Value of ETag, with its quotes; "" for none."""


class HlsStream:
    """One stream: where its segments come from, its window and its playlist, and who else gets them.

    Belongs to the event loop it was made on.  ``clock`` gives monotonic seconds, ``now`` Unix time in seconds.
    ``made`` is told of every segment that is made here.
    """

    def __init__(
        self,
        label: str,
        settings: HlsSettings,
        executor: Executor,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        made: Callable[[Entry], None] = lambda entry: None,
    ) -> None:
        self._settings = settings
        self._executor = executor
        self._clock = clock
        self._now = now
        self._log = _log.bind(stream=label)
        self._producer: Packager | HlsMirror | None = None
        """Where segments come from."""
        self._outgoing: Packager | HlsMirror | None = None
        """Where they came from before; until the first one of the producer."""
        self._made = made
        self._sharings: set[Sharing] = set()
        self._replies: dict[tuple[str, str], Reply] = {}
        """Playlists as last answered, by prefix and query; until the next segment."""
        self._settled = asyncio.Event()
        """Set when there is a playlist, or there will be none."""
        self._news = asyncio.Event()
        """Set, and replaced, with every segment."""
        self.window = self._new_window()
        self.closed = False
        self.ended_at: float | None = None
        """When the last segment was complete, by ``clock``; None while there may be more."""
        self.lost_at: float | None = None
        """Since when it is unknown where the stream is, by ``clock``; None while it is known."""
        self.last_request = clock()
        """When a playlist or segment was asked for last, by ``clock``; kept by whoever answers."""

    @property
    def numbers(self) -> Numbers:
        """Where the numbers of this stream's segments and discontinuities have got to."""
        return self.window.numbers

    @property
    def memory(self) -> int:
        """Bytes of segments, and of drafts that wait to become segments."""
        drafts = sum(each.memory for each in (self._producer, self._outgoing) if isinstance(each, Packager))
        return self.window.size + drafts

    @property
    def heard(self) -> bool:
        """Whether there may be a playlist soon."""
        return isinstance(self._producer, HlsMirror) or (self._producer is not None and self._producer.heard)

    @property
    def packages(self) -> bool:
        """Whether its segments are made here."""
        return isinstance(self._producer, Packager)

    @property
    def followed(self) -> bool:
        """Whether other workers are handed its segments."""
        return bool(self._sharings)

    # Where segments come from

    def package(self, source: Source, settings: HlsSettings, first: Numbers) -> None:
        """Package ``source`` from now on.  What there is of another one, or of another worker's, stays, followed by a
        discontinuity; where there is nothing, numbers begin at ``first``.
        """
        producer = self._producer
        if isinstance(producer, Packager):
            if producer.source is not source:
                self._resume()
                producer.follow(source)
            return
        self._settings = settings
        self.window.limit(window=settings.window, max_bytes=settings.max_bytes // 2)
        container = settings.container
        if not len(self.window):
            self.window.skip(first)
        elif self.window.newest.init is not None:
            container = "fmp4"  # a playlist cannot take an EXT-X-MAP back
        packager = Packager(
            self, settings, self._executor, container=container, after=self.window.end,
            clock=self._clock, now=self._now, log=self._log,
        )
        packager.sealed = self.followed
        self._replace(packager)
        self.lost_at = None
        packager.follow(source)

    def mirror(self, feed: Feed, settings: HlsSettings) -> None:
        """Show what ``feed`` tells from now on; until it does, what there is stays."""
        producer = self._producer
        if isinstance(producer, HlsMirror) and producer.feed == feed:
            if producer.lost_at is None or self._clock() - producer.lost_at < _RETRY_SECONDS:
                return
        self._settings = settings
        mirror = HlsMirror(self, feed, self._new_window(), clock=self._clock, log=self._log)
        self._replace(mirror)
        mirror.open()

    def _new_window(self) -> SegmentWindow:
        # Half of the memory is for what is not a segment yet.
        return SegmentWindow(window=self._settings.window, max_bytes=self._settings.max_bytes // 2)

    def _replace(self, producer: Packager | HlsMirror) -> None:
        before, self._producer = self._producer, producer
        if before is not None and before.produced:
            self._drop_outgoing()
            self._outgoing = before
            before.retire()
        elif before is not None:
            self._drop(before)
        self._resume()

    def _drop_outgoing(self) -> None:
        outgoing, self._outgoing = self._outgoing, None
        if outgoing is not None:
            self._drop(outgoing)

    def _drop(self, producer: Packager | HlsMirror) -> None:
        producer.close()
        if isinstance(producer, Packager):
            self._lose_followers()

    def _resume(self) -> None:
        """It may be over, but it goes on."""
        if self.ended_at is not None:
            self.ended_at = None
            for sharing in self._sharings:
                sharing.restart()
        self._replies.clear()
        if not len(self.window):
            self._settled.clear()

    # What producers say

    def packaged(self, packager: Packager, content: Content, muxed: Muxed, draft: Draft, began: datetime) -> None:
        """The next segment was made."""
        self.window.add(
            content,
            muxed.init,
            duration=draft.duration / 1000,
            target_duration=draft.target_duration,
            discontinuity=muxed.discontinuity,
            independent=draft.independent,
            time=began,
            sequence=packager.number(draft),
        )
        if draft.slot in (None, 0):
            self.window.whole = True  # nobody has, or will have, what was before
        self._arrived(packager)
        self._made(self.window.newest)

    def package_over(self, packager: Packager) -> None:
        """All segments of a source that has ended were made."""
        if packager is not self._producer:
            self._drop_outgoing()
            return
        self._end()
        for sharing in self._sharings:
            sharing.end()

    def may_show(self, mirror: HlsMirror) -> bool:
        """Whether the mirror's window may be shown instead of the present one."""
        if not mirror.window.may_follow(self.window):
            return False
        # It may be what was made here, and the last of that may not be complete yet.
        draining = isinstance(self._outgoing, Packager)
        return not draining or mirror.window.reached.sequence > self.window.reached.sequence

    def mirrored(self, mirror: HlsMirror) -> None:
        """The mirror's window has come to be the one to show, or has one more segment."""
        if mirror.window is not self.window:
            self._drop_outgoing()
            before, self.window = self.window, mirror.window
            self.window.inherit(before)
        self._arrived(mirror)

    def mirror_over(self, mirror: HlsMirror, over: bool) -> None:
        """The stream is over elsewhere, or is not after all."""
        if mirror is self._producer and over:
            self._end()
        elif mirror is self._producer:
            self._resume()

    def mirror_lost(self, mirror: HlsMirror) -> None:
        """Nothing more comes from there."""
        if mirror is self._producer and self.lost_at is None:
            self.lost_at = self._clock()

    def _arrived(self, producer: Packager | HlsMirror) -> None:
        if producer is self._producer:
            self._drop_outgoing()
            self.lost_at = None
        for sharing in self._sharings:
            sharing.add(self.window.newest)
        self._changed()

    def _end(self) -> None:
        if self.ended_at is None:
            self.ended_at = self._clock()
            self._changed()

    def _changed(self) -> None:
        self._replies.clear()
        self._settled.set()
        news, self._news = self._news, asyncio.Event()
        news.set()

    # What is served

    async def ready(self, seconds: float) -> bool:
        """Wait ``seconds`` at most until there is a playlist; whether there is one."""
        if not len(self.window):
            await _wait(self._settled, seconds)
        return len(self.window) > 0

    @property
    def settled(self) -> bool:
        """Whether there is a playlist, or will be none: waiting is of no use."""
        return self._settled.is_set()

    def playlist(self, *, prefix: str = "", query: str = "") -> bytes:
        """The playlist as text; only after ``ready`` said that there is one."""
        return self.window.playlist(ended=self.ended_at is not None).encode(prefix=prefix, query=query)

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

    def file(self, name: str) -> bytes | memoryview | None:
        """A segment or initialization section by its name."""
        return self.window.get(name)

    def expects(self, number: int | None) -> bool:
        """Whether another worker or node may have a segment of that number (an initialization section: None), which
        will be here soon."""
        soon = number is not None and 0 <= number - self.window.reached.sequence < _AHEAD
        if soon and self.packages and len(self.window) and self.ended_at is None:
            return True
        return any(
            isinstance(each, HlsMirror) and (soon or not each.produced) for each in (self._producer, self._outgoing)
        )

    async def news(self, seconds: float) -> bool:
        """Wait ``seconds`` at most for the next segment or the end; whether it came."""
        return await _wait(self._news, seconds)

    # Other workers

    def share(self, follower: Follower, numbers: Numbers) -> Sharing:
        """Hand ``follower`` all segments that can be fetched, then every other one, from now on above ``numbers``."""
        assert isinstance(self._producer, Packager)
        self.window.skip(numbers)
        self._producer.sealed = True
        sharing = Sharing(self.window, follower, self._unshared, self._log)
        self._sharings.add(sharing)
        if self.ended_at is not None:
            sharing.end()
        return sharing

    def _unshared(self, sharing: Sharing) -> None:
        self._sharings.discard(sharing)
        self.last_request = self._clock()
        if isinstance(self._producer, Packager):
            self._producer.sealed = self.followed

    def _lose_followers(self) -> None:
        sharings, self._sharings = self._sharings, set()
        for sharing in sharings:
            sharing.lose()

    def close(self) -> None:
        """Stop, forget everything and let those go who wait."""
        if self.closed:
            return
        self.closed = True
        for producer in (self._producer, self._outgoing):
            if producer is not None:
                producer.close()
        self._lose_followers()
        self.window.close()
        self._changed()


def _discontinuity(time: float) -> int:
    # Discontinuities count slowly, and hls.js walks through arrays as long as their number.
    return max(int((time - _DISCONTINUITY_EPOCH) / _DISCONTINUITY_SECONDS), 0)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


Fetch = Callable[[str, str, str, float], Awaitable[bool]]
"""``fetch(app, name, query, seconds)``: have a stream of another node fetched, if it is not here; at most ``seconds``.
``query``: what the request had, for that node.  Whether it is worth to look for it here then."""


class HlsService:
    """Answers requests for playlists and segments.

    ``feeds`` finds the streams that other workers hold; their segments come from there.  ``fetch`` is called for
    streams that nobody has asked for yet.  ``executor`` runs the muxers and stays the caller's; one thread is enough.
    Whoever asks has checked the names (``pyrtmp.names``).
    """

    def __init__(
        self,
        hub: Hub,
        settings: HlsSettings,
        executor: Executor,
        *,
        feeds: Feeds | None = None,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._hub = hub
        self._fetch = fetch
        self._settings = settings
        self._executor = executor
        self._feeds = feeds
        self._clock = clock
        self._now = now
        self._streams: dict[tuple[str, str], HlsStream] = {}
        self._warming: dict[tuple[str, str], asyncio.Task[object]] = {}
        self._used = ZERO
        self._left: dict[tuple[str, str], Numbers] = {}
        """Numbers of streams that are not packaged any more."""
        self.made: Callable[[StreamKey, Entry], None] | None = None
        """Told of every segment that is made here."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Streams that are packaged, mirrored or kept."""
        return len(self._streams)

    @property
    def packaged(self) -> int:
        """Streams whose segments are made here."""
        return sum(stream.packages for stream in self._streams.values())

    def memory(self) -> int:
        """Bytes held by the segments that were made here; those of mirrors are the same memory once more."""
        return sum(stream.memory for stream in self._streams.values() if stream.packages)

    async def playlist(
        self, app: str, name: str, *, query: str = "", prefix: str = "", whole: bool = False
    ) -> Reply:
        """The media playlist of a stream; starts packaging or mirroring it and waits for its first segment if need be.

        ``query`` is the request's query string, undecoded; it goes on every URI, and to ``fetch``.  ``prefix`` is put
        before every URI: ``name + "/"`` when the playlist was asked for as ``/app/name.m3u8``.  404: no such stream;
        503: nothing to play yet, ask again.  ``whole``: somebody else may have it, so one that has just been begun
        here, and lacks what is older, is no better than none; 404 comes at once then.
        """
        if whole:
            known = self._streams.get((app, name))
            if known is None or not known.window.whole or not len(known.window):
                self._warm(app, name, query)
                return Reply(404, b"not the whole playlist yet\n")
        stream = await self._ready(app, name, query)
        if stream is None:
            return Reply(404, b"no such stream\n")
        if not len(stream.window):
            if stream.heard and stream.ended_at is None:
                return Reply(503, b"no segment is complete yet\n")
            return Reply(404, b"no such stream\n")
        return stream.reply(prefix=prefix, query=query)

    async def segment(self, app: str, name: str, filename: str, *, query: str = "") -> Reply:
        """A segment or initialization section that a playlist names, or named a window ago; 404 after that.

        Other workers' and nodes' playlists may name it too: where it may still come it is waited for.  Whoever asks for
        what is not here asks for the rest soon, so the stream is begun.  ``query``: see ``playlist``.
        """
        stream = self._streams.get((app, name))
        body = None if stream is None else stream.file(filename)
        if body is None:
            stream = await self._late(app, name, filename, query)
            body = None if stream is None else stream.file(filename)
        if stream is None or body is None:
            return Reply(404, b"no such segment\n")
        stream.last_request = self._clock()
        content_type = "video/mp2t" if filename.endswith(".ts") else "video/mp4"
        return Reply(200, body, content_type, _SEGMENT_CACHE, f'"{filename}"')

    def share(self, app: str, name: str, follower: Follower, *, numbers: Numbers = ZERO) -> Sharing | None:
        """Hand ``follower`` the segments of a stream that is here, packaging it from now on if nobody asked for it yet.

        ``numbers``: those that the other side's viewers have seen (``Mirror.numbers``); what comes has higher ones.
        The follower is told nothing before this has returned.  None: no such stream here.
        """
        stream = self._streams.get((app, name))
        source = self._hub.find(app, name)
        if source is not None and not source.relayed and (source.live or (stream is not None and stream.packages)):
            stream = self._package((app, name), source)
        if stream is None or not stream.packages:
            return None
        return stream.share(follower, numbers)

    def configure(self, settings: HlsSettings) -> None:
        """Other settings, for streams that are packaged or mirrored from now on; how long to wait, and for how long
        streams are kept, changes at once."""
        self._settings = settings

    @property
    def numbers(self) -> Numbers:
        """Above all that any stream here has had."""
        numbers = self._used
        for stream in self._streams.values():
            numbers = numbers.above(stream.numbers)
        return numbers

    def skip(self, numbers: Numbers) -> None:
        """Another worker's ``numbers``: streams that are new here begin at these or above."""
        self._used = self._used.above(numbers)

    def sweep(self) -> None:
        """Forget streams nobody asked for, those over for a window, and those lost for good.  Runs once a second by
        itself."""
        clock = self._clock()
        linger = self._settings.linger
        for key, stream in list(self._streams.items()):
            over = stream.ended_at is not None and clock - stream.ended_at >= self._settings.window
            unasked = not stream.followed and clock - stream.last_request >= linger
            lost = stream.lost_at is not None and clock - stream.lost_at >= linger
            if over or unasked or lost:
                self._forget(key, stream)

    def close(self) -> None:
        """Stop; requests that wait are answered, followers lose their streams."""
        for task in list(self._warming.values()):
            task.cancel()
        for key, stream in list(self._streams.items()):
            self._forget(key, stream)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _ready(self, app: str, name: str, query: str) -> HlsStream | None:
        """The stream when it has a playlist, or has none for all the waiting; it may move meanwhile."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.wait_seconds
        if self._fetch is not None and (app, name) not in self._streams:
            if not await self._fetch(app, name, query, self._settings.wait_seconds):
                return None
        while True:
            stream = self._stream(app, name)
            if stream is None:
                return None
            stream.last_request = self._clock()
            left = until - loop.time()
            turn = left if self._feeds is None else min(left, _RETRY_SECONDS)
            if await stream.ready(turn) or stream.settled or turn == left:
                return stream

    async def _late(self, app: str, name: str, filename: str, query: str) -> HlsStream | None:
        """The stream when it has got that file; None if it gets none."""
        match = _FILE.fullmatch(filename)
        if match is None:
            return None
        if (app, name) not in self._streams and (self._feeds is None or self._feeds.find(app, name) is None):
            self._warm(app, name, query)
            return None
        number = int(match[1]) if match[1] else None
        loop = asyncio.get_running_loop()
        until = loop.time() + _LATE_SECONDS
        while True:
            stream = self._stream(app, name)
            if stream is None or stream.closed or stream.file(filename) is not None:
                return stream
            if not stream.expects(number) or not await stream.news(until - loop.time()):
                return None

    def _warm(self, app: str, name: str, query: str) -> None:
        """Begin a stream, if there is one."""
        key = (app, name)
        if key not in self._warming and len(self._warming) < _MAX_WARMING:
            task = self._warming[key] = asyncio.get_running_loop().create_task(self._ready(app, name, query))
            task.add_done_callback(lambda _: self._warming.pop(key, None))

    def _stream(self, app: str, name: str) -> HlsStream | None:
        """The stream, mirrored from whoever holds it now, or packaged if that is this worker."""
        key = (app, name)
        stream = self._streams.get(key)
        feed = None if self._feeds is None else self._feeds.find(app, name)
        if feed is not None:
            stream = stream or self._new(key)
            stream.mirror(feed, self._settings)
            return stream
        source = self._hub.find(app, name)
        # One that was mirrored and has no publisher here may go on anywhere.
        if source is None or source.relayed or (stream is not None and not stream.packages and not source.live):
            return stream
        return self._package(key, source)

    def _package(self, key: tuple[str, str], source: Source) -> HlsStream:
        stream = self._streams.get(key) or self._new(key)
        first = ZERO if stream.packages else self._first_numbers(key, source)
        stream.package(source, self._settings, first)
        return stream

    def _new(self, key: tuple[str, str]) -> HlsStream:
        app, name = key
        stream = self._streams[key] = HlsStream(
            f"{app}/{name}", self._settings, self._executor, clock=self._clock, now=self._now,
            made=lambda entry: self._tell(StreamKey(app, name), entry),
        )
        self._arm()
        return stream

    def _tell(self, key: StreamKey, entry: Entry) -> None:
        if self.made is not None:
            self.made(key, entry)

    def _forget(self, key: tuple[str, str], stream: HlsStream) -> None:
        del self._streams[key]
        stream.close()
        self._used = self._used.above(stream.numbers)
        self._left.pop(key, None)
        self._left[key] = stream.numbers
        if len(self._left) > _MAX_LEFT:
            del self._left[next(iter(self._left))]

    def _first_numbers(self, key: tuple[str, str], source: Source) -> Numbers:
        """Where a stream's numbers begin, at least.

        One that says when it was born has its own, the same on all nodes, and the time of its birth for those of its
        discontinuities.  Those of others are above all that any stream here had, and, as nothing is kept over a restart
        of the process, above what it had in an earlier life.  Time does that: it counts faster than segments do.
        """
        birth = source.birth
        if birth is not None:
            return Numbers(0, _discontinuity(birth.wall / 1000)).above(self._left.get(key, ZERO))
        now = self._now()
        return Numbers(int(now), _discontinuity(now)).above(self._used)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.sweep()
        if self._streams:
            self._arm()
