"""Rounds: when viewers are served.

A message does not go out by itself; it asks for a round, and a round serves every viewer of every stream that has
something new.  While the process has time to spare a round follows at once.  What a round costs sets the pause
before the next one, so that sending takes no more than ``share`` of a core: with many viewers rounds get rarer and
carry more bytes each, which costs a viewer fewer system calls.
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic, thread_time
from typing import Final

from pyrtmp.counters import Counters
from pyrtmp.lane import Lane
from pyrtmp.settings import EgressSettings
from pyrtmp.stream import Stream

RETRY_SECONDS: Final = 0.02
"""Pause before viewers whose socket was full are tried again when no new message asks for a round."""

_SMOOTHING: Final = 0.2

_SURPRISE: Final = 1.5
"""A round counts for at most so many times the usual one: joiners make single rounds long, which is no reason to
serve everybody later."""

_LEAST_COST: Final = 0.0002
"""Seconds; what a round may cost without being a surprise."""


class Rounds:
    """Serves the viewers of one process."""

    def __init__(self, settings: EgressSettings, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._streams: list[Stream] = []
        self._handle: asyncio.Handle | None = None
        self._handle_due = 0.0
        self._cost = 0.0
        self._next = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def delay(self) -> float:
        """The present pause between the starts of two rounds, seconds."""
        settings = self._settings
        return min(max(self._cost / settings.share, settings.min_delay_ms / 1000), settings.max_delay_ms / 1000)

    def charge(self, cost: float) -> None:
        """A round took ``cost`` seconds of the processor."""
        usual = self._cost
        self._cost = usual + (min(cost, max(usual * _SURPRISE, _LEAST_COST)) - usual) * _SMOOTHING

    def configure(self, settings: EgressSettings) -> None:
        """Use other settings from the next round on."""
        self._settings = settings

    def wake(self, stream: Stream) -> None:
        """``stream`` has something for its viewers."""
        stream.queued = True
        self._streams.append(stream)
        self._schedule(self._next)

    def wake_once(self, stream: Stream) -> None:
        """Like ``wake``, for callers that do not know whether the stream is queued already."""
        if not stream.queued:
            self.wake(stream)

    def _schedule(self, due: float) -> None:
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
        started = thread_time()
        now = monotonic()
        streams, self._streams = self._streams, []
        behind: list[Stream] = []
        for stream in streams:
            stream.queued = False
            try:
                stream.flush()
            except OSError:
                self._counters.log_failures += 1
            left = False
            for lane in list(stream.lanes.values()):
                if serve(lane, now):
                    left = True
            if left:
                behind.append(stream)
        cost = thread_time() - started
        self._counters.rounds += 1
        self._counters.round_seconds += cost
        self.charge(cost)
        self._next = now + self.delay
        for stream in behind:
            if not stream.queued:
                stream.queued = True
                self._streams.append(stream)
        if self._streams:
            # A stream that only has full sockets left does not make the loop spin.
            due = self._next if len(self._streams) > len(behind) else max(self._next, now + RETRY_SECONDS)
            self._schedule(due)

    def close(self) -> None:
        """Serve nobody any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._streams.clear()


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
        if viewer.ready and viewer.segment is tail:
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
