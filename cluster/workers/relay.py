"""Streams between two workers: the one that holds a stream shows its logs to one that has viewers of it.

::

    worker with viewers                                     worker that holds the stream
      Inlet (a Relay)  --WATCH, OPEN form, SHUT form, UNWATCH-->  Feeder (an Outlet)
                       <--SEGMENT and its descriptor--------
                       <--HEAD, TRACKS, BIRTH---------------      once per change
                       <--END "the log now ends here"-------      once per round and lane
                       <--GONE------------------------------      the publisher left

What passes is at most some 50 bytes per lane and round, the head before a join point, and descriptors.  The media are
in the segments, which both processes have mapped to the same pages.

Every message begins with its kind (8 bits) and the subscription's id (32), which the watching side chose; numbers are
little-endian:

    WATCH      app/name, UTF-8
    OPEN SHUT  form (8)
    SEGMENT    form (8) number (64) begun (64, signed, milliseconds) whether it goes on where the one before was told
               to end (8); one descriptor
    HEAD       form (8) generation (32), then the head, in shared memory when it is long (one descriptor)
    TRACKS     audio (8) video (8)
    BIRTH      what other nodes are told of the stream (pyrtmp.birth.Told), ASCII
    END        form (8) number (64) size (64) number and offset of the join point (64, 64; number 0: none)
               media time (64, signed, milliseconds)
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from struct import error as StructError
from time import monotonic
from typing import Final

import structlog

from cluster.workers.channel import MAX_MESSAGE, Channel, attach, close_all, detach
from cluster.workers.hlslink import MAX_NAME, HlsKind, HlsLink
from hls.flv import FlvForm
from hls.live import HlsService
from pyrtmp.aio.server import Server
from pyrtmp.delay import Standing
from pyrtmp.forms import RtmpForm, WireForm
from pyrtmp.hub import UNKNOWN
from pyrtmp.kin import Descent
from pyrtmp.lane import Lane
from pyrtmp.names import StreamKey, make_key, problem
from pyrtmp.stream import Stream
from pyrtmp.wirelog import Segment

FORMS: Final[tuple[WireForm, ...]] = (RtmpForm(), FlvForm())
"""The lanes that can be relayed, by the number that stands for them."""

MAX_SUBSCRIPTIONS: Final = 65536
"""Streams that one worker may watch at another."""

_LONGEST: Final = MAX_MESSAGE - 64
_MAX_LOG: Final = 1 << 40

_log = structlog.get_logger(__name__)


class Kind(IntEnum):
    """What a message is."""

    WATCH = 1
    UNWATCH = 2
    OPEN = 3
    SHUT = 4
    SEGMENT = 5
    HEAD = 6
    TRACKS = 7
    END = 8
    GONE = 9
    BIRTH = 10
    STANDING = 11
    SOURCE = 12


_ID: Final = Struct("<BI")
_FORM: Final = Struct("<BIB")
_SEGMENT: Final = Struct("<BIBQq?")
_HEAD: Final = Struct("<BIBI")
_TRACKS: Final = Struct("<BI??")
_END: Final = Struct("<BIBQQQQq")
_STANDING: Final = Struct("<BIqdd")


class Inlet:
    """A stream that another worker holds, for viewers here.  See ``pyrtmp.stream.Relay``."""

    def __init__(self, link: Link, sid: int, stream: Stream) -> None:
        self.id = f"worker-{link.worker}"
        self.tracks: tuple[bool, bool] | None = None
        self.told = ""
        self.standing: Standing | None = None
        self.stream = stream
        self._link = link
        self._sid = sid
        self._lanes: dict[int, Lane] = {}
        self._segments: dict[int, dict[int, Segment]] = {}
        """By form and number: those of the log that may still become join points."""
        self._heads: dict[int, tuple[int, bytes]] = {}
        """By form: generation and bytes of the head that belongs to the join point told next."""
        self._missing: set[int] = set()
        """Forms whose newest segment came without its descriptor."""

    def open(self, lane: Lane) -> None:
        form = _number(lane)
        self._lanes[form] = lane
        self._segments[form] = {}
        self._link.send(_FORM.pack(Kind.OPEN, self._sid, form))

    def close(self, lane: Lane) -> None:
        form = _number(lane)
        del self._lanes[form]
        del self._segments[form]
        self._link.send(_FORM.pack(Kind.SHUT, self._sid, form))

    def end(self) -> None:
        self._link.forget(self._sid)

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        """See ``pyrtmp.stream.Publisher``; ``end`` has said it already."""

    # What the holder says

    def segment(self, form: int, number: int, begun: int, follows: bool, fds: list[int]) -> None:
        """The log goes on in a new segment; ``follows``: where the one before was told to end."""
        lane = self._lanes.get(form)
        if lane is None:
            close_all(fds)
            return
        known = self._segments[form]
        if not fds:
            # Descriptors ran out on the way.  Viewers wait until there are some again, with a later segment.
            if form not in self._missing:
                self._missing.add(form)
                self._link.server.counters.log_failures += 1
                _log.error("out_of_descriptors", stream=str(self.stream.key), what="a segment of another worker")
            known.clear()
            lane.restart()
            return
        self._missing.discard(form)
        if not follows or number - 1 not in known:
            known.clear()
            lane.restart()
        known[number] = lane.log.adopt(fds.pop(0), begun)
        close_all(fds)
        for each in [each for each, segment in known.items() if segment.evicted]:
            del known[each]

    def born(self, told: str) -> None:
        """What other nodes are told, until the next join point."""
        self.told, first = told, not self.told
        if first:
            self.stream.release()

    def head(self, form: int, generation: int, head: bytes) -> None:
        """What stands before the join point that follows."""
        if form in self._lanes:
            self._heads[form] = (generation, head)

    def advance(self, form: int, number: int, size: int, join: int, offset: int, time: int) -> None:
        """The log now ends at ``size`` in the segment of that number.  Raises ``ValueError``."""
        lane = self._lanes.get(form)
        known = self._segments.get(form)
        if lane is None or not known:
            return
        segment = known.get(number)
        log = lane.log
        if segment is None or segment is not log.tail:
            return
        if not segment.size <= size <= _MAX_LOG:
            raise ValueError(f"a log of {segment.size} bytes should end at {size}")
        log.extend(size)
        if form in self._heads:
            generation, head = self._heads.pop(form)
            lane.set_head(head, generation)
        log.join_at(known.get(join), offset)
        self.stream.follow(time, monotonic())
        self._link.server.rounds.wake_relayed(self.stream)


class Feeder:
    """A stream that this worker holds, for viewers of another.  See ``pyrtmp.stream.Outlet``."""

    def __init__(self, link: Link, sid: int, stream: Stream) -> None:
        self._link = link
        self._sid = sid
        self._stream = stream
        self._ends: dict[int, _End] = {}
        self._tracks: tuple[bool, bool] | None = None
        """What was told of them."""
        self._marks = -1
        self._standing: Standing | None = None
        self._source = ""
        stream.outlets[self] = None
        self.serve()

    def open(self, form: int) -> None:
        """The other worker has viewers of that form.  Raises ``OSError`` when there is no memory for a lane."""
        if form not in self._ends:
            self._ends[form] = _End(self._stream.lane(FORMS[form]))
            self.serve()

    def shut(self, form: int) -> None:
        """It has none any more."""
        end = self._ends.pop(form, None)
        if end is not None:
            end.close()

    def serve(self) -> None:
        if self._link.channel.backlog:
            # The other worker is busy; what is told is where the logs end then, so nothing is missed.
            self._link.late[self._stream] = None
        else:
            self._tell()

    def _tell(self) -> None:
        if self._stream.tracks_known and self._tracks != self._stream.tracks:
            self._tracks = self._stream.tracks
            self._link.send(_TRACKS.pack(Kind.TRACKS, self._sid, *self._tracks))
        if self._marks != self._stream.marks:
            self._marks = self._stream.marks
            self._link.send(_ID.pack(Kind.BIRTH, self._sid) + self._stream.told.encode())
        standing, source = self._stream.standing, self._stream.source_id
        if standing is not None and standing is not self._standing:
            self._standing = standing
            self._link.send(_STANDING.pack(Kind.STANDING, self._sid, *standing))
        if source != self._source:
            self._source = source
            self._link.send(_ID.pack(Kind.SOURCE, self._sid) + source.encode())
        for form, end in self._ends.items():
            end.tell(self._link, self._sid, form, self._stream.time)

    def gone(self) -> None:
        try:
            self._tell()
        except OSError as error:
            # Out of descriptors: the other worker's viewers miss the end, and have to know that it is one.
            self._link.server.counters.log_failures += 1
            _log.error("log_failed", peer=self._link.worker, error=str(error))
        self._link.send(_ID.pack(Kind.GONE, self._sid))
        self.close()

    def close(self) -> None:
        """Show nothing any more."""
        self._stream.outlets.pop(self, None)
        for end in self._ends.values():
            end.close()
        self._ends.clear()
        self._link.feeders.pop(self._sid, None)


class _End:
    """How much of one lane's log the other worker knows: a cursor at its end."""

    __slots__ = ("_join", "_lane", "_segment", "_size")

    def __init__(self, lane: Lane) -> None:
        lane.pins += 1
        self._lane = lane
        self._segment: Segment | None = None
        self._size = -1
        self._join = (0, 0)

    def tell(self, link: Link, sid: int, form: int, time: int) -> None:
        lane = self._lane
        log = lane.log
        join = (log.join.number, log.join_offset) if log.join is not None else (0, 0)
        if join != self._join and join[0]:
            self._show_head(link, sid, form)
        segment = self._segment
        if segment is None or segment.evicted:
            first = log.join or log.tail
            if first.fd < 0:
                return  # the stream has just come over from another worker: nothing is written here yet
            segment = self._move(first, link, sid, form, False)
        while True:
            if segment.size != self._size or join != self._join:
                link.send(_END.pack(Kind.END, sid, form, segment.number, segment.size, *join, time))
                self._size = segment.size
            if segment.next is None:
                break
            segment = self._move(segment.next, link, sid, form, True)
        self._join = join

    def _show_head(self, link: Link, sid: int, form: int) -> None:
        head = self._lane.head()
        message = _HEAD.pack(Kind.HEAD, sid, form, self._lane.generation)
        if len(head) <= _LONGEST:
            link.send(message + head)
        else:
            link.send(message, [attach(head)])

    def _move(self, segment: Segment, link: Link, sid: int, form: int, follows: bool) -> Segment:
        # A copy: it stays good when this side gives the segment up while the message waits.
        fd = os.dup(segment.fd)
        segment.readers += 1
        if self._segment is not None:
            self._segment.leave()
        self._segment = segment
        self._size = -1
        link.send(_SEGMENT.pack(Kind.SEGMENT, sid, form, segment.number, segment.begun, follows), [fd])
        return segment

    def close(self) -> None:
        self._lane.pins -= 1
        if self._segment is not None:
            self._segment.leave()
            self._segment = None


class Link:
    """The channel to another worker, and what is shown over it in both directions."""

    def __init__(
        self,
        sock: socket.socket,
        worker: int,
        server: Server,
        hls: HlsService,
        on_lost: Callable[[Link], None],
    ) -> None:
        self.worker = worker
        self.server = server
        self.inlets: dict[int, Inlet] = {}
        self.feeders: dict[int, Feeder] = {}
        self.late: dict[Stream, None] = {}
        """Streams whose logs have grown while the other worker did not read."""
        self._next = 1
        self._on_lost = on_lost
        self.channel = Channel(sock, self._received, self._lost, self._taken)
        self.hls = HlsLink(self.send, hls)

    def watch(self, stream: Stream, descent: Descent = UNKNOWN) -> Inlet:
        """Show the viewers here a stream that the other worker holds."""
        sid, self._next = self._next, self._next + 1
        inlet = self.inlets[sid] = Inlet(self, sid, stream)
        self.send(_ID.pack(Kind.WATCH, sid) + str(stream.key).encode())
        self.server.hub.relay(stream, inlet, monotonic(), descent)
        return inlet

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        """Send one message; descriptors are the link's from here on."""
        self.channel.send(data, fds or (), own=True)

    def forget(self, sid: int) -> None:
        """Nobody here watches any more."""
        if self.inlets.pop(sid, None) is not None:
            self.send(_ID.pack(Kind.UNWATCH, sid))

    def close(self) -> None:
        """Hang up: what came over this link stops."""
        self.channel.close()
        self._let_go()

    def _taken(self) -> None:
        """The other worker reads again."""
        late, self.late = self.late, {}
        for stream in late:
            self.server.rounds.wake_once(stream)

    def _lost(self, reason: str) -> None:
        if reason != "gone":
            _log.error("link_lost", peer=self.worker, reason=reason)
        self._on_lost(self)
        self._let_go()

    def _let_go(self) -> None:
        for feeder in list(self.feeders.values()):
            feeder.close()
        inlets, self.inlets = self.inlets, {}
        for inlet in inlets.values():
            self.server.hub.unpublish(inlet.stream, inlet, monotonic())
        self.hls.close()

    # Messages

    def _received(self, data: memoryview, fds: list[int]) -> None:
        try:
            self._handle(data, fds)
        except (StructError, IndexError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"a message of {len(data)} bytes: {error}") from None
        finally:
            close_all(fds)

    def _handle(self, data: memoryview, fds: list[int]) -> None:
        kind = data[0]
        if kind == Kind.END:
            _, sid, form, number, size, join, offset, time = _END.unpack(data)
            inlet = self.inlets.get(sid)
            if inlet is not None:
                inlet.advance(form, number, size, join, offset, time)
        elif kind == Kind.SEGMENT:
            _, sid, form, number, begun, follows = _SEGMENT.unpack(data)
            inlet = self.inlets.get(sid)
            if inlet is not None:
                inlet.segment(form, number, begun, follows, fds)
        elif kind == Kind.HEAD:
            _, sid, form, generation = _HEAD.unpack_from(data)
            inlet = self.inlets.get(sid)
            if inlet is not None:
                inlet.head(form, generation, detach(fds) if fds else bytes(data[_HEAD.size :]))
        elif kind == Kind.TRACKS:
            _, sid, audio, video = _TRACKS.unpack(data)
            inlet = self.inlets.get(sid)
            if inlet is not None:
                inlet.tracks = (audio, video)
                self.server.rounds.wake_once(inlet.stream)
        elif kind == Kind.BIRTH:
            inlet = self.inlets.get(_ID.unpack_from(data)[1])
            if inlet is not None:
                inlet.born(bytes(data[_ID.size :]).decode())
        elif kind == Kind.STANDING:
            _, sid, *standing = _STANDING.unpack(data)
            inlet = self.inlets.get(sid)
            if inlet is not None:
                inlet.standing = Standing(*standing)
        elif kind == Kind.SOURCE:
            inlet = self.inlets.get(_ID.unpack_from(data)[1])
            if inlet is not None:
                inlet.stream.source_id = bytes(data[_ID.size :]).decode()
        elif kind == Kind.GONE:
            inlet = self.inlets.pop(_ID.unpack(data)[1], None)
            if inlet is not None:
                self.server.hub.unpublish(inlet.stream, inlet, monotonic())
        elif kind >= HlsKind.OPEN:
            self.hls.handle(data, fds)
        else:
            self._handle_watcher(kind, data)

    def _handle_watcher(self, kind: int, data: memoryview) -> None:
        """What the other worker asks of streams held here."""
        if kind == Kind.WATCH:
            self._watched(_ID.unpack_from(data)[1], bytes(data[_ID.size :]).decode())
        elif kind == Kind.UNWATCH:
            feeder = self.feeders.get(_ID.unpack(data)[1])
            if feeder is not None:
                feeder.close()
        elif kind in (Kind.OPEN, Kind.SHUT):
            _, sid, form = _FORM.unpack(data)
            if form >= len(FORMS):
                raise ValueError(f"there is no form {form}")
            feeder = self.feeders.get(sid)
            if feeder is None:
                return
            if kind == Kind.SHUT:
                feeder.shut(form)
            else:
                self._open(feeder, form)
        else:
            raise ValueError(f"there is no kind {kind}")

    def _open(self, feeder: Feeder, form: int) -> None:
        try:
            feeder.open(form)
        except OSError as error:
            # No memory or descriptor for another log: the other worker's viewers wait, the stream goes on.
            self.server.counters.log_failures += 1
            _log.error("log_failed", peer=self.worker, error=str(error))

    def _watched(self, sid: int, name: str) -> None:
        if sid in self.feeders or len(self.feeders) >= MAX_SUBSCRIPTIONS:
            raise ValueError(f"there is a subscription {sid}, or too many")
        key = _key(name)
        stream = self.server.hub.find(*key)
        if stream is None or not stream.held:
            self.send(_ID.pack(Kind.GONE, sid))
        else:
            self.feeders[sid] = Feeder(self, sid, stream)
            # A publisher that was read at leisure has somebody who watches now.
            self.server.rounds.wake_once(stream)


def _number(lane: Lane) -> int:
    return next(number for number, form in enumerate(FORMS) if form.name == lane.form.name)


def _key(name: str) -> StreamKey:
    app, _, stream = name.rpartition("/")
    wrong = problem(name, MAX_NAME)
    if wrong:
        raise ValueError(wrong)
    return make_key(app, stream)
