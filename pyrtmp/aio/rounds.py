"""Rounds: when viewers are served.

A message does not go out by itself; it asks for a round, and a round serves every viewer of every stream that has
something new.  While the process has time to spare a round follows at once.  What a round costs sets the pause
before the next one: with many viewers rounds get rarer and carry more bytes each, which costs a viewer fewer system
calls.

::

    pause                                          .---- max_delay_ms
                                             .----'
    soft_delay_ms    .----------------------'  sending takes busy_share of a core
                 .--'  picture as live as can be
    min_delay  -'  sending, and reading if rounds do that, take share of a core
                cost of a round -->
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic, thread_time
from typing import Final

from pyrtmp.aio.intake import Intake
from pyrtmp.aio.standstill import Standstill
from pyrtmp.counters import Counters
from pyrtmp.journal import Journal, LoggingJournal
from pyrtmp.lane import Lane
from pyrtmp.settings import EgressSettings
from pyrtmp.stream import Stream

RETRY_SECONDS: Final = 0.02
"""Pause before viewers whose socket was full are tried again when no new message asks for a round."""

TELL_SECONDS: Final = 10.0
"""Between two lines that say that media could not be kept: it may be so in every round, of every stream."""

_SMOOTHING: Final = 0.2

_SURPRISE: Final = 1.5
"""A round counts for at most so many times the usual one: joiners make single rounds long, which is no reason to
serve everybody later."""

_EARLY: Final = 0.5
"""What part of its pause a round may come early to be in step with another process."""

_LEAST_COST: Final = 0.0002
"""Seconds; what a round may cost without being a surprise."""


class Rounds:
    """Serves the viewers of one process."""

    def __init__(self, settings: EgressSettings, counters: Counters, journal: Journal | None = None) -> None:
        self.standstill = Standstill()
        """Looked at before anything is sent."""
        self.intake = Intake()
        """The publishers, whose sockets rounds read while these are rare."""
        self._settings = settings
        self._counters = counters
        self._journal: Journal = journal or LoggingJournal()
        self._tell_at = 0.0
        self._streams: list[Stream] = []
        self._running = False
        self._handle: asyncio.Handle | None = None
        self._handle_due = 0.0
        self._cost = 0.0
        """Of serving the viewers once, seconds of the processor."""
        self._reading = 0.0
        """Of reading the publishers before that."""
        self._next = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def delay(self) -> float:
        """The present pause between the starts of two rounds, seconds."""
        settings = self._settings
        eager = min((self._cost + self._reading) / settings.share, settings.soft_delay_ms / 1000)
        # What reading takes grows with the pause, so that it is no reason for a long one.
        pause = max(eager, self._cost / settings.busy_share, settings.min_delay_ms / 1000)
        return min(pause, settings.max_delay_ms / 1000)

    def charge(self, cost: float, reading: float = 0.0) -> None:
        """A round took ``cost`` seconds of the processor for its viewers, after ``reading`` for publishers."""
        self._cost = _smooth(self._cost, cost)
        self._reading = _smooth(self._reading, reading)

    def configure(self, settings: EgressSettings) -> None:
        """Use other settings from the next round on."""
        self._settings = settings

    def wake(self, stream: Stream) -> None:
        """``stream`` has something for its viewers."""
        stream.queued = True
        self._streams.append(stream)
        self._schedule(self._next)

    def wake_once(self, stream: Stream) -> None:
        """Like ``wake``, for a viewer that begins, or goes on, and does not know whether the stream is queued."""
        self.intake.hurry(stream.publisher)
        if not stream.queued:
            self.wake(stream)

    def wake_relayed(self, stream: Stream) -> None:
        """``stream`` has records that waited for a round of another process: they do not wait for a whole one here.

        So rounds fall into step with those of the process that holds the stream, and delays do not add up.
        """
        if not stream.queued:
            stream.queued = True
            self._streams.append(stream)
        self._schedule(self._next - _EARLY * self.delay)

    def _schedule(self, due: float) -> None:
        if self._running:
            return  # the round at hand serves it, or schedules the next one when it is done
        if self._handle is not None:
            if due >= self._handle_due:
                return
            self._handle.cancel()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._handle_due = due
        pause = due - monotonic()
        self._handle = self._loop.call_later(pause, self._run) if pause > 0 else self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._handle = None
        # The thread's own time: waiting for a busy core does not make rounds cost more.
        started = serving = thread_time()
        now = monotonic()
        self.standstill.look(now)
        self._running = True
        try:
            if self.intake.active:
                self.intake.read()
                serving = thread_time()
            streams, self._streams = self._streams, []
            behind = [stream for stream in streams if self._serve(stream, now)]
        finally:
            self._running = False
        ended = thread_time()
        self._counters.rounds += 1
        self._counters.round_seconds += ended - started
        self.charge(ended - serving, serving - started)
        delay = self.delay
        self._next = now + delay
        self.intake.follow(delay)
        woken = bool(self._streams)
        for stream in behind:
            if not stream.queued:
                stream.queued = True
                self._streams.append(stream)
        if woken or self.intake.active:
            self._schedule(self._next)
        elif self._streams:
            # Streams that only have full sockets left do not make the loop spin.
            self._schedule(max(self._next, now + RETRY_SECONDS))

    def _serve(self, stream: Stream, now: float) -> bool:
        """Send what is new of one stream; whether a socket did not take all of it."""
        stream.queued = False
        try:
            stream.flush()
        except OSError as error:
            self._not_kept(stream, error, now)
        # First: other processes send while this one does.
        for outlet in tuple(stream.outlets):
            try:
                outlet.serve()
            except Exception as error:
                # No descriptor for a segment, say.  What it tells is cumulative: the next round tells it all.
                self._not_kept(stream, error, now)
        left = False
        for lane in list(stream.lanes.values()):
            left |= serve(lane, now)
        return left

    def _not_kept(self, stream: Stream, error: Exception, now: float) -> None:
        self._counters.log_failures += 1
        if now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            self._journal.error("log_failed", stream=str(stream.key), error=repr(error))

    def close(self) -> None:
        """Serve nobody any more."""
        self.intake.stop()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._streams.clear()


def _smooth(usual: float, cost: float) -> float:
    """What to expect of the next round, when ``usual`` was expected of one that took ``cost``."""
    return usual + (min(cost, max(usual * _SURPRISE, _LEAST_COST)) - usual) * _SMOOTHING


def serve(lane: Lane, now: float) -> bool:
    """Send what is new to every viewer of a lane; whether a socket did not take all of it.

    The loop is the server's hottest: one ``sendfile`` for a viewer that keeps up, and nothing else.
    """
    tail = lane.log.tail
    source = tail.fd
    end = tail.size
    sendfile = os.sendfile
    left = False
    for viewer in list(lane.viewers):
        if viewer.ready and (viewer.segment is tail or viewer.roll(tail)):
            offset = viewer.offset
            wanted = end - offset
            if not wanted:
                continue
            try:
                sent = sendfile(viewer.fd, source, offset, wanted)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                viewer.failed(error)
                continue
            viewer.offset = offset + sent
            if sent != wanted:
                viewer.fell_short(end, now)
                left = True
        else:
            try:
                left |= viewer.serve(now)
            except Exception as error:
                # A bug in this package; it ends this viewer, and the round of the others goes on.
                viewer.failed(OSError(f"{error!r}"))
    return left
