"""Viewers: a socket, a lane and an offset.

``KernelViewer`` lets the kernel copy from the log to the socket and is what nearly every viewer is.
``TransportViewer`` copies whole records into a transport: for TLS, for players that were granted another message
stream id or want sound or picture only, and where there is no memfd.

Both keep one rule: bytes that are not the log's (the head, answers to commands, pings) go between records, never
into one.
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic
from typing import Final, Protocol

from pyrtmp.counters import Counters
from pyrtmp.forms import PLAY_MSID, with_msid
from pyrtmp.lane import Lane
from pyrtmp.message import AUDIO, VIDEO
from pyrtmp.stream import State, Stream
from pyrtmp.wirelog import Segment

MAX_CONTROL_BYTES: Final = 64 * 1024
"""Answers that may wait for a viewer that does not read; beyond it the viewer is let go."""

_HIGH_WATER: Final = 256 * 1024
_READ: Final = 256 * 1024


class ViewerOwner(Protocol):
    """The connection a viewer belongs to."""

    def writable(self) -> bool:
        """Whether everything written to the transport before has reached the socket."""

    def viewer_lost(self, reason: str) -> None:
        """The viewer cannot go on (``stall``, ``reset``, ``flood``): close the connection."""

    def viewer_ended(self) -> None:
        """All of the ended stream has been sent (``ended``)."""

    def publisher_changed(self, live: bool) -> None:
        """The stream's publisher is gone, or back."""

    def kernel_left(self) -> None:
        """The viewer that had the socket to itself gives way; it is at a record boundary."""

    def transport_free(self) -> bool:
        """Whether no other viewer has the socket to itself."""


class _Viewer:
    """What both kinds share: joining a lane, leaving it, being moved when too far behind.

    ``asked``: when the client asked for the stream, monotonic seconds; now, if it is not said.
    """

    __slots__ = (
        "_asked",
        "_blocked_since",
        "_counters",
        "_ending",
        "_generation",
        "_jumping",
        "_owner",
        "_stall",
        "_started",
        "ended",
        "fd",
        "lane",
        "offset",
        "paused",
        "ready",
        "segment",
        "sent",
        "skips",
        "stream",
    )

    def __init__(
        self, stream: Stream, lane: Lane, owner: ViewerOwner, counters: Counters, stall: float, asked: float | None
    ) -> None:
        self.stream = stream
        self.lane = lane
        self.fd = -1
        self.segment: Segment | None = None
        self.offset = 0
        self.ready = False
        self.paused = False
        self.ended = False
        """All of the ended stream has been sent."""
        self.sent = 0
        """Bytes sent, those of the present segment left out (see ``bytes_sent``)."""
        self.skips = 0
        """Times it was moved to a newer join point."""
        self._owner = owner
        self._counters = counters
        self._stall = stall
        self._asked = monotonic() if asked is None else asked
        """When its request came."""
        self._started = False
        self._ending = False
        self._jumping = False
        self._generation = -1
        self._blocked_since = 0.0
        lane.viewers[self] = None

    @property
    def bytes_sent(self) -> int:
        """Bytes the socket has taken."""
        return self.sent + self.offset

    def end(self) -> None:
        """The stream is over: send the rest, then tell the owner."""
        self._ending = True
        self.ready = False

    def roll(self, tail: Segment) -> bool:
        """See ``pyrtmp.lane.Viewer``.  Only rounds that send for the viewer call it."""
        raise NotImplementedError

    def serve(self, now: float) -> bool:
        """See ``pyrtmp.lane.Viewer``."""
        raise NotImplementedError

    def fell_short(self, limit: int, now: float) -> None:
        """See ``pyrtmp.lane.Viewer``.  Only rounds that sent for the viewer call it."""
        raise NotImplementedError

    def signal(self, live: bool) -> None:
        """The publisher is gone, or back."""
        self._owner.publisher_changed(live)

    def leave(self) -> None:
        """Take the viewer off its lane; it sends nothing any more."""
        if self.left:
            return
        del self.lane.viewers[self]
        self.ready = False
        self._move(None, 0)
        self._counters.bytes_out[self.lane.form.name] += self.sent
        self._counters.skipped_viewers += self.skips > 0
        if self.stream.state is State.ENDED:
            # Perhaps the hub has forgotten the stream already: the last viewer to go gives its log back.
            self.stream.drop_idle_lanes()

    @property
    def left(self) -> bool:
        """Whether it is off its lane."""
        return self not in self.lane.viewers

    def pause(self, paused: bool) -> None:
        """Stop at the next record boundary, or go on at the newest join point."""
        if paused != self.paused:
            self.paused = paused
            self.jump()

    def jump(self) -> None:
        """Go on at the newest join point from the next record boundary on."""
        self._jumping = True
        self.ready = False

    def _move(self, segment: Segment | None, offset: int) -> None:
        """Put the cursor elsewhere and keep the books."""
        left = self.segment
        if segment is not None:
            segment.readers += 1
        self.segment = segment
        self.sent += self.offset - offset
        self.offset = offset
        if left is not None:
            left.leave()

    def _join(self) -> tuple[bytes, bytes] | None:
        """Place the cursor at the newest join point; prologue and head to send first, or None while there is none."""
        lane = self.lane
        log = lane.log
        if log.join is None:
            return None
        prologue = head = b""
        if not self._started:
            if lane.form.needs_tracks and not self.stream.tracks_known:
                return None
            self._started = True
            self._counters.first_frame(lane.form.name, monotonic() - self._asked)
            prologue = lane.form.prologue(*self.stream.tracks)
        if self._generation != lane.generation:
            self._generation = lane.generation
            head = lane.head()
        self._move(log.join, log.join_offset)
        return prologue, head

    def _rest(self) -> None:
        """Paused: hold on to no segment, for it goes on at a join point anyway."""
        if self.segment is not None:
            self._move(None, 0)
        self._at_end()

    def _skip(self) -> None:
        """Too far behind: go on at the newest join point."""
        self.skips += 1
        self._counters.skips += 1
        self._move(None, 0)

    def _at_end(self) -> bool:
        """Everything there is has been sent; whether that was the end of the stream."""
        self._blocked_since = 0.0
        if self._ending:
            self.ended = True
            self._owner.viewer_ended()
        return self._ending

    def _blocked(self, now: float) -> bool:
        """The socket took nothing or not all; whether there is still patience."""
        self.ready = False
        if not self._blocked_since:
            self._blocked_since = now
        elif now - self._blocked_since > self._stall:
            self._counters.stalls += 1
            self._owner.viewer_lost("stall")
            return False
        return True

    def failed(self, error: OSError) -> None:
        """The socket refused."""
        self._owner.viewer_lost("reset")


class KernelViewer(_Viewer):
    """Sends with ``os.sendfile`` on the connection's own socket descriptor.

    While it lives nobody else writes to that socket: answers go through ``control``.  The owner keeps ``fd`` open
    until ``leave``.
    """

    __slots__ = ("_control", "_giving_way", "_limit", "_pending", "_shortened")

    def __init__(
        self, fd: int, stream: Stream, lane: Lane, owner: ViewerOwner, counters: Counters, stall: float,
        asked: float | None = None,
    ) -> None:
        super().__init__(stream, lane, owner, counters, stall, asked)
        self.fd = fd
        self._limit = 0
        """Up to here bytes must follow without a gap: the record boundary behind ``offset``."""
        self._pending = b""
        """Bytes to send before the log's: the head, or answers."""
        self._control: list[bytes] = []
        self._shortened = False
        """``_limit`` is the end of the record under way."""
        self._giving_way = False

    def may_write(self) -> bool:
        """Whether answers may go through ``control``: nothing written to the transport is still under way."""
        return self._started or self._owner.writable()

    def retire(self) -> bytes:
        """Leave; what the owner must still write so that the last record and answers are whole."""
        rest = self._pending
        self._shorten()
        segment = self.segment
        if segment is not None and self.offset < self._limit:
            rest += segment.read(self.offset, self._limit - self.offset)
        rest += b"".join(self._control)
        self.leave()
        return rest

    def control(self, data: bytes, now: float) -> None:
        """Send ``data`` at the next record boundary."""
        self._control.append(data)
        self.ready = False
        if sum(map(len, self._control)) > MAX_CONTROL_BYTES:
            self._owner.viewer_lost("flood")
        else:
            self.serve(now)

    def give_way(self) -> None:
        """Have the owner put another viewer in this one's place at the next record boundary (``kernel_left``)."""
        self._giving_way = True
        self._shorten()
        self.ready = False

    def jump(self) -> None:
        super().jump()
        self._shorten()

    def _shorten(self) -> None:
        """Stop at the end of the record under way, not at the limit set when more was to be sent."""
        segment = self.segment
        if segment is None or self._shortened or self.offset >= self._limit:
            return
        self._shortened = True
        # Records are not indexed, but a segment begins with one.
        for _, start, end in self.lane.form.records(segment.read(0, self._limit)):
            if start == self.offset:
                self._limit = start
                return
            if end >= self.offset:
                self._limit = end
                return

    def roll(self, tail: Segment) -> bool:
        segment = self.segment
        if segment is None or segment.next is not tail or self.offset != segment.size:
            return False
        self._move(tail, 0)
        # It was a place in the segment left behind.
        self._limit = 0
        return True

    def fell_short(self, limit: int, now: float) -> None:
        self._shortened = False
        self._limit = limit
        self._blocked_since = now
        self.ready = False

    def serve(self, now: float) -> bool:
        if self.left:
            return False
        try:
            return self._serve(now)
        except BlockingIOError:
            return self._blocked(now)
        except OSError as error:
            self.failed(error)
            return False

    def _serve(self, now: float) -> bool:
        if not self._started and not self._owner.writable():
            return self._blocked(now)
        while True:
            if self._pending:
                count = os.write(self.fd, self._pending)
                self.sent += count
                self._pending = self._pending[count:]
                self._blocked_since = 0.0
                if self._pending:
                    return self._blocked(now)
            segment = self.segment
            if segment is not None and self.offset < self._limit:
                if segment.evicted:
                    self._shorten()
                count = os.sendfile(self.fd, segment.fd, self.offset, self._limit - self.offset)
                self.offset += count
                if count and not segment.evicted:
                    # A viewer that takes a byte now and then does not keep an evicted segment alive for ever.
                    self._blocked_since = 0.0
                if self.offset < self._limit:
                    return self._blocked(now)
            # At a record boundary.
            if self._control:
                self._pending = b"".join(self._control)
                self._control.clear()
                continue
            if self._giving_way:
                self._owner.kernel_left()
                return False
            if self.paused:
                self._rest()
                return False
            if self._jumping:
                self._jumping = False
                self._move(None, 0)
                segment = None
            if segment is None:
                parts = self._join()
                if parts is None:
                    self._at_end()
                    return False
                self._pending = b"".join(parts)
                self._limit = self.offset
            elif segment.evicted:
                self._skip()
                self._limit = 0
            elif self.offset < segment.size:
                self._limit = segment.size
                self._shortened = False
            elif segment.next is not None:
                self._move(segment.next, 0)
                self._limit = 0
            else:
                self.ready = not self._at_end()
                return False


class TransportViewer(_Viewer):
    """Writes whole records to a transport, optionally with another message stream id or without sound or picture."""

    __slots__ = ("_audio", "_buffered", "_msid", "_transport", "_video")

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        stream: Stream,
        lane: Lane,
        owner: ViewerOwner,
        counters: Counters,
        stall: float,
        asked: float | None = None,
        *,
        msid: int = PLAY_MSID,
    ) -> None:
        super().__init__(stream, lane, owner, counters, stall, asked)
        self._transport = transport
        self._msid = msid
        self._audio = True
        self._video = True
        self._buffered = 0
        """Bytes that waited in the transport at the last look."""

    def receive(self, audio: bool, video: bool) -> None:
        """7.2.2.4, 7.2.2.5: leave out what the player does not want; a picture comes back at a join point."""
        if video and not self._video:
            self.jump()
        self._audio, self._video = audio, video
        self.ready = False

    def take_over(self, viewer: KernelViewer) -> None:
        """Go on where ``viewer`` is, which leaves."""
        self._started = viewer._started
        self._generation = viewer._generation
        self._jumping = viewer._jumping
        self.paused = viewer.paused
        self._ending = viewer._ending
        self._move(viewer.segment, viewer.offset)
        viewer.leave()

    def serve(self, now: float) -> bool:
        if self.left:
            return False
        if not self._owner.transport_free() or (not self._started and not self._owner.writable()):
            return self._blocked(now)
        while True:
            buffered = self._transport.get_write_buffer_size()
            if buffered < self._buffered:
                self._blocked_since = 0.0
            self._buffered = buffered
            if buffered > _HIGH_WATER:
                return self._blocked(now)
            self._blocked_since = 0.0
            if self.paused:
                self._rest()
                return False
            if self._jumping:
                self._jumping = False
                self._move(None, 0)
            segment = self.segment
            if segment is None:
                parts = self._join()
                if parts is None:
                    self._at_end()
                    return False
                self._transport.write(parts[0])
                self._write(parts[1])
            elif segment.evicted:
                self._skip()
            elif self.offset < segment.size:
                self._send(segment)
            elif segment.next is not None:
                self._move(segment.next, 0)
            else:
                self._at_end()
                return False

    def _send(self, segment: Segment) -> None:
        if self._audio and self._video and self._msid == PLAY_MSID and segment.size - self.offset <= _READ:
            # What is published are whole records, and this player takes them as they are.
            end = segment.size
            self._transport.write(self.lane.read(segment, self.offset, end))
            self.offset = end
            return
        count = min(segment.size - self.offset, _READ)
        data = segment.read(self.offset, count)
        used = self._write(data)
        if not used:  # one record longer than a read
            data = segment.read(self.offset, segment.size - self.offset)
            used = self._write(data)
        self.offset += used

    def _write(self, data: bytes) -> int:
        """Write the whole records in ``data`` that the player wants; how many bytes of ``data`` they took."""
        out: list[bytes] = []
        used = 0
        for type, start, end in self.lane.form.records(data):
            used = end
            if (type == AUDIO and not self._audio) or (type == VIDEO and not self._video):
                continue
            record = data[start:end]
            out.append(with_msid(record, self._msid) if self._msid != PLAY_MSID else record)
        if out:
            self._transport.write(b"".join(out))
        return used
