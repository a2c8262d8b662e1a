"""Packages one stream: a tap on its source, drafts that wait, and a muxer that runs in a thread.

::

    Source --messages--> Segmenter --drafts--> Muxer (executor thread) --segments--> owner
             event loop                          one draft at a time                 event loop

The event loop never waits for a muxer: messages are collected until a draft is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol

from hls.content import Content
from hls.muxer import Muxed, Muxer
from hls.segmenter import Draft, Segmenter
from hls.settings import Container, HlsSettings
from pyrtmp.birth import UNSEEN, Birth
from pyrtmp.message import Message
from pyrtmp.stream import Tap

__all__ = ["Packager", "Source"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHORT_BURST: Final = 8
"""Short segments (below half a fragment) a stream may make at once; after that one a second.  They come from broken
timelines, each costs a muxer, and numbers must not run ahead of the wall clock they restart from."""
_MAX_BACKLOG_MS: Final = 60_000
"""More than a group of pictures that a joiner is handed; what is further behind belongs to another timeline."""


class Source(Protocol):
    """A live stream; ``pyrtmp.stream.Stream`` is one."""

    def attach(self, tap: Tap) -> None:
        """Hand ``tap`` at once what a joiner needs, then every message."""

    def detach(self, tap: Tap) -> None:
        """Stop that; taps that are not attached are ignored."""

    @property
    def live(self) -> bool:
        """Whether it has a publisher now."""

    @property
    def birth(self) -> Birth | None:
        """When it began, if that is known: then it is packaged the same everywhere."""

    @property
    def shift(self) -> int:
        """How much later its times are than in its birth, milliseconds."""

    @property
    def key_before(self) -> int | None:
        """The key frame before those that a joiner is handed; see ``pyrtmp.stream.Stream``."""

    @property
    def relayed(self) -> bool:
        """Whether that is in another process; no messages come through a tap then."""


class Owner(Protocol):
    """Who gets the segments."""

    def packaged(self, packager: Packager, content: Content, muxed: Muxed, draft: Draft, began: datetime) -> None:
        """The next segment, the owner's from here on; its first sample came at ``began``."""

    def package_over(self, packager: Packager) -> None:
        """All segments are made of a source that has ended."""


class Packager:
    """Belongs to the event loop it was made on.  ``clock`` gives monotonic seconds, ``now`` Unix time in seconds;
    ``after``: nothing happened before that time."""

    def __init__(
        self,
        owner: Owner,
        settings: HlsSettings,
        executor: Executor,
        *,
        container: Container,
        after: datetime | None,
        clock: Callable[[], float],
        now: Callable[[], float],
        log: Any,
    ) -> None:
        self._owner = owner
        self._settings = settings
        self._executor = executor
        self._clock = clock
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._log = log
        # Memory: a quarter for the open draft, a quarter for drafts that wait; half is left for segments.
        self._segmenter = Segmenter(
            fragment=settings.fragment, max_fragment=settings.max_fragment, max_bytes=settings.max_bytes // 4
        )
        self._muxer = Muxer(container)
        self._drafts: deque[tuple[Draft, datetime]] = deque()
        self._drafts_bytes = 0
        self._muxing = False
        self._broken = False
        self._follows = after is not None
        """Whether there is something that its first segment does not follow from."""
        self._wall = _WallClock(0.0 if after is None else after.timestamp())
        self._short = _Allowance(clock())
        self._over = False
        self._told = False
        self._closed = False
        self.source: Source | None = None
        """What is packaged, or was until it ended."""
        self.heard = False
        """Whether a source ever sent anything."""
        self.produced = False
        """Whether there was a segment."""
        self.sealed = False
        """Whether segments are made as memory files, because other processes get them."""

    @property
    def memory(self) -> int:
        """Bytes of drafts that wait to become segments."""
        return self._drafts_bytes

    def follow(self, source: Source) -> None:
        """Package ``source`` from now on, behind a discontinuity if there was another one."""
        if self.source is not None:
            self.source.detach(self)
        self._stop()
        self._over = self._told = False
        self.source = source
        source.attach(self)

    def retire(self) -> None:
        """Let the source go, and make segments of what it has sent."""
        if self.source is not None:
            self.source.detach(self)
        self.on_end()

    def close(self) -> None:
        """Stop at once.  May be called again."""
        if self._closed:
            return
        self._closed = True
        if self.source is not None:
            self.source.detach(self)
        self._drafts.clear()
        if not self._muxing:
            self._release_muxer()

    # The tap

    def on_messages(self, messages: Sequence[Message]) -> None:
        """Collect messages; the drafts they close go to the muxer."""
        if not messages:
            return
        self.heard = True
        self._be_born()
        drafts = self._segmenter.feed(messages)
        self._wall.observe(messages[-1].timestamp, self._now())
        if drafts:
            self._take(drafts)

    def on_restart(self) -> None:
        """Another publisher goes on."""
        self._stop()

    def on_end(self) -> None:
        """The stream is over: what is left becomes the last segment."""
        self._over = True
        self._stop()

    def _stop(self) -> None:
        """What there is makes the last segment."""
        last = self._segmenter.restart()
        self._take([*self._segmenter.drain(), last])

    def _be_born(self) -> None:
        """Say where cuts are counted from, as far as it is known by now."""
        source, segmenter = self.source, self._segmenter
        birth = None if source is None else source.birth
        if source is None or birth is None:
            return
        if segmenter.birth is None or segmenter.birth.wall != birth.wall or segmenter.fresh:
            segmenter.born(birth, source.shift, source.key_before)
        else:
            segmenter.birth, segmenter.shift = birth, source.shift

    # From drafts to segments

    def _take(self, drafts: Sequence[Draft | None]) -> None:
        for draft in drafts:
            if draft is None or self._closed:
                continue
            if draft.slot is not None and not draft.whole:
                self._broken = self._broken or (draft.discontinuity and not draft.first)
                continue
            if draft.slot is not None:
                self._join(draft)
            reason = self._why_not(draft)
            if reason:
                if not self._broken:
                    self._log.warning("hls_segment_dropped", reason=reason, frames=len(draft.messages))
                self._broken = True
                continue
            if self._broken:
                draft.discontinuity = True
                self._broken = False
            self._follows = True
            self._drafts.append((draft, self._began(draft)))
            self._drafts_bytes += draft.size
        self._mux_next()

    def _join(self, draft: Draft) -> None:
        """A joiner's first draft follows from what others have, if it is not the stream's first."""
        if not self._follows and draft.slot != 0:
            draft.discontinuity = False

    def _began(self, draft: Draft) -> datetime:
        birth = self._segmenter.birth
        if draft.slot is None or birth is None or birth.pace == UNSEEN:
            return self._wall.time_of(draft)
        return _EPOCH + timedelta(milliseconds=birth.wall + draft.start - draft.shift - birth.time)

    def number(self, draft: Draft) -> int | None:
        """The media sequence number of ``draft``, where all who package the stream give it the same."""
        return None if draft.slot is None else draft.born + draft.slot

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
            job = self._loop.run_in_executor(self._executor, _mux, self._muxer, draft, self.sealed)
            job.add_done_callback(partial(self._muxed, draft, began))
        elif self._over and not self._told:
            self._told = True
            self._owner.package_over(self)

    def _muxed(self, draft: Draft, began: datetime, job: asyncio.Future[tuple[Muxed, Content]]) -> None:
        self._muxing = False
        self._drafts_bytes -= draft.size
        if self._closed or job.cancelled():
            self._release_muxer()
            return
        try:
            muxed, content = job.result()
        except Exception as error:  # whatever a publisher sent costs a segment, never the stream
            self._failed(draft, error)
        else:
            if muxed.lost:
                self._log.warning("hls_frames_lost", lost=muxed.lost, frames=len(draft.messages))
            self.produced = True
            self._owner.packaged(self, content, muxed, draft, began)
        self._mux_next()

    def _failed(self, draft: Draft, error: Exception) -> None:
        self._log.warning("hls_segment_failed", error=repr(error), frames=len(draft.messages))
        if self._drafts:
            self._drafts[0][0].discontinuity = True
        else:
            self._broken = True

    def _release_muxer(self) -> None:
        try:
            self._loop.run_in_executor(self._executor, self._muxer.close)
        except RuntimeError:  # the executor is shut down, so nobody uses the muxer
            self._muxer.close()


def _mux(muxer: Muxer, draft: Draft, sealed: bool) -> tuple[Muxed, Content]:
    muxed = muxer.mux(draft)
    content = Content(muxed.data)
    if sealed:
        with contextlib.suppress(OSError):  # it stays in ordinary memory; whoever shares it will say so
            content.seal()
    return muxed, content


class _WallClock:
    """Wall-clock time of the stream's timeline, anchored where the timeline breaks and running with it otherwise."""

    def __init__(self, end: float) -> None:
        self._timestamp = 0
        self._time = 0.0
        self._offset = 0.0
        self._end = end

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
