"""One live stream: what its publisher sends, what joiners need, and who gets it.

::

    publisher --push--> timeline (unwrapped, continued over publishers)
                          |-> head: metadata and sequence headers
                          |-> group of pictures since the newest join point
                          '-> fresh: not yet handed on --flush, once per round--> lanes (RTMP, FLV): logs
                                                                             '--> taps (HLS, ...)

Whatever nobody wants is not encoded: without lanes and taps a message costs its parsing and a place in the group of
pictures.  A lane made later begins with that group.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from pyrtmp import amf, media
from pyrtmp.errors import AmfError
from pyrtmp.forms import WireForm
from pyrtmp.lane import Lane
from pyrtmp.message import AUDIO, VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.wirelog import Storage, default_storage

_HALF: Final = 1 << 31
_MASK: Final = (1 << 32) - 1


class State(enum.Enum):
    """Where a stream stands."""

    AWAITED = "awaited"
    """Somebody wants to play it, nobody publishes it yet."""
    LIVE = "live"
    GONE = "gone"
    """The publisher left; viewers stay for the grace time."""
    ENDED = "ended"


class Publisher(Protocol):
    """Who sends a stream."""

    id: str

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        """Another publisher or an operator took the stream away; close."""


class Tap(Protocol):
    """Gets every message of a stream in order: a packager, a recorder, a forwarder.

    Messages are shared with all other readers and never modified; their timestamps never wrap.
    """

    def on_messages(self, messages: Sequence[Message]) -> None:
        """The next messages, once per round."""

    def on_restart(self) -> None:
        """Another publisher goes on: sequence headers follow, the timeline is continued."""

    def on_end(self) -> None:
        """The stream is over; the tap is detached."""


class Stream:
    """A live stream and its viewers.  Times given as ``now`` are monotonic seconds."""

    def __init__(
        self,
        key: StreamKey,
        settings: StreamSettings,
        wake: Callable[[Stream], None],
        now: float,
        storage: Callable[[], Storage] = default_storage,
    ) -> None:
        self.key = key
        self.state = State.AWAITED
        self.since = now
        """When it entered its present state."""
        self.publisher: Publisher | None = None
        self.started = now
        """When the present (or last) publisher began."""
        self.queued = False
        """In the set of streams that the next round serves; kept by the rounds."""
        self.lanes: dict[str, Lane] = {}
        self.sessions = 0
        """Publishers so far."""
        self.last_message = now
        """When the latest audio or video message came."""
        # Facts, counted as messages pass
        self.bytes_in = 0
        self.messages_in = 0
        self.video_frames = 0
        self.key_frames = 0
        self.gop_ms = 0
        """Media time between the last two key frames, milliseconds."""
        self.metadata: dict[str, Any] = {}
        self._settings = settings
        self._wake = wake
        self._storage = storage
        self._taps: list[Tap] = []
        self._waiters: dict[Callable[[], None], None] = {}
        self._consumed = False
        self._fresh: list[Message] = []
        self._head: dict[object, Message] = {}
        self._generation = 0
        self._join_head: tuple[Message, ...] = ()
        self._join_generation = 0
        self._gop: list[Message] = []
        self._gop_bytes = 0
        self._gop_start = 0
        self._gop_valid = False
        # Timeline
        self._raw = 0
        self._time = 0
        self._first = True
        self._continue_at: int | None = None
        self._has_video = False
        self._has_audio = False

    # Publishing

    def begin(self, publisher: Publisher, now: float) -> None:
        """A publisher starts, or takes over from one that has been taken off with ``leave``."""
        returning = self.sessions > 0
        if returning:
            # What viewers see goes on where it stopped, later by the time that passed.
            self._continue_at = self._time + max(1, int((now - self.last_message) * 1000))
            for tap in self._taps:
                tap.on_restart()
        self.publisher = publisher
        self.sessions += 1
        self.state = State.LIVE
        self.since = self.started = self.last_message = now
        self._first = True
        self._head.clear()
        self._generation += 1
        self._forget_gop()
        self._has_audio = self._has_video = False
        self.metadata = {}
        if returning:
            self._signal(True)
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter()

    def leave(self, now: float) -> None:
        """The publisher is gone; viewers stay until the grace time is over."""
        self.publisher = None
        self.state = State.GONE
        self.since = now
        self._forget_gop()
        self._signal(False)

    def end(self, now: float) -> None:
        """The stream is over: hand on what is left, tell viewers and taps."""
        self.flush()
        self.state = State.ENDED
        self.since = now
        self._forget_gop()
        taps, self._taps = self._taps, []
        for tap in taps:
            tap.on_end()
        for lane in self.lanes.values():
            for viewer in list(lane.viewers):
                viewer.end()
        if self.lanes:
            self._wake(self)
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter()
        self._consumed = bool(self.lanes)

    def push(self, message: Message) -> None:
        """Take the publisher's next message; the stream owns it from here on."""
        type = message.type
        payload = message.payload
        raw = message.timestamp
        if self._first:
            self._start_timeline(message)
        else:
            # Timestamps are unsigned 32 bits (5.3.1.2.1 via 49.7 days); the nearest reading of the difference
            # unwraps them, and lets a stream step back a little.
            self._time += (raw - self._raw + _HALF & _MASK) - _HALF
        self._raw = raw
        message.timestamp = self._time
        if type == VIDEO:
            kind = media.classify_video(payload)
            if kind <= media.KEY:
                self.video_frames += 1
                if kind == media.KEY:
                    self._begin_gop(message)
                    self.key_frames += 1
                self._has_video = True
            elif kind == media.SEQUENCE_HEADER:
                self._has_video = True
                self._take_header(message)
        elif type == AUDIO:
            if media.classify_audio(payload) == media.SEQUENCE_HEADER:
                self._has_audio = True
                self._take_header(message)
            else:
                self._has_audio = True
                if not self._has_video:
                    # Without video every audio record is a join point.
                    self._begin_gop(message)
        else:
            self._take_data(message)
        size = len(payload)
        self.bytes_in += size
        self.messages_in += 1
        if self._gop_valid:
            self._gop.append(message)
            self._gop_bytes += size
            if (
                self._gop_bytes > self._settings.gop_bytes
                or self._time - self._gop_start > self._settings.gop_seconds * 1000
            ):
                self._forget_gop()
        if self._consumed:
            self._fresh.append(message)
            if not self.queued:
                self._wake(self)

    # Viewers and taps

    def lane(self, form: WireForm) -> Lane:
        """The lane of that form, made on first use from the group of pictures at hand."""
        lane = self.lanes.get(form.name)
        if lane is None:
            self.flush()
            lane = Lane(form, self._settings, self._storage)
            if self._gop:
                lane.publish(self._gop, self._join_head, self._join_generation)
            self.lanes[form.name] = lane
            self._consumed = True
        return lane

    def drop_idle_lanes(self) -> None:
        """Give back the logs that nobody reads."""
        for name, lane in list(self.lanes.items()):
            if not lane.viewers:
                lane.close()
                del self.lanes[name]
        self._consumed = bool(self.lanes or self._taps)

    def attach(self, tap: Tap) -> None:
        """Hand ``tap`` the head and the group of pictures at hand, then every message."""
        self.flush()
        head = self._join_head if self._gop else tuple(self._head.values())
        tap.on_messages([*head, *self._gop])
        self._taps.append(tap)
        self._consumed = True

    def detach(self, tap: Tap) -> None:
        """Stop handing messages to ``tap``; unknown taps are ignored."""
        if tap in self._taps:
            self._taps.remove(tap)
        self._consumed = bool(self.lanes or self._taps)

    def wait(self, waiter: Callable[[], None]) -> None:
        """Call ``waiter`` once when a publisher starts or the stream ends."""
        self._waiters[waiter] = None

    def stop_waiting(self, waiter: Callable[[], None]) -> None:
        """Take a waiter back."""
        self._waiters.pop(waiter, None)

    @property
    def live(self) -> bool:
        """Whether somebody publishes it now."""
        return self.state is State.LIVE

    @property
    def waiting(self) -> int:
        """How many wait for a publisher."""
        return len(self._waiters)

    @property
    def viewers(self) -> int:
        """Viewers of all lanes."""
        return sum(len(lane.viewers) for lane in self.lanes.values())

    @property
    def wanted(self) -> bool:
        """Whether anybody reads it or waits for it."""
        return bool(self._taps or self._waiters) or any(lane.viewers for lane in self.lanes.values())

    def flush(self) -> None:
        """Hand on what came since the last flush.  Raises ``OSError`` when a log cannot take it."""
        fresh = self._fresh
        if not fresh:
            return
        self._fresh = []
        failure: OSError | None = None
        for lane in self.lanes.values():
            try:
                lane.publish(fresh, self._join_head, self._join_generation)
            except OSError as error:
                failure = error
        for tap in self._taps:
            tap.on_messages(fresh)
        if failure is not None:
            raise failure

    # Facts

    @property
    def tracks_known(self) -> bool:
        """Whether it is known which of audio and video the stream has: both seen, announced, or time enough."""
        if self._has_audio and self._has_video:
            return True
        if self.metadata:
            return (
                ("videocodecid" not in self.metadata or self._has_video)
                and ("audiocodecid" not in self.metadata or self._has_audio)
                and (self._has_audio or self._has_video)
            )
        return (self._has_audio or self._has_video) and self.last_message - self.started > 0.5

    @property
    def tracks(self) -> tuple[bool, bool]:
        """Whether the stream has audio, and video."""
        return self._has_audio, self._has_video

    @property
    def time(self) -> int:
        """Media time of the newest message, milliseconds."""
        return self._time

    @property
    def gop_size(self) -> tuple[int, int]:
        """Messages and payload bytes kept for joiners."""
        return len(self._gop), self._gop_bytes

    def head_payload(self, type: int) -> bytes:
        """The newest sequence header (or, without one, legacy frame) of audio or video, or ``b""``."""
        for message in self._head.values():
            if message.type == type:
                return message.payload
        for message in self._gop:
            if message.type == type:
                return message.payload
        return b""

    # Inside

    def _signal(self, live: bool) -> None:
        for lane in self.lanes.values():
            for viewer in list(lane.viewers):
                viewer.signal(live)

    def _start_timeline(self, message: Message) -> None:
        """The first *frame* fixes the timeline: encoders stamp the headers before it with 0 whatever follows."""
        if self._continue_at is None:
            self._time = message.timestamp
        else:
            self._time = self._continue_at
        payload = message.payload
        if message.type == VIDEO:
            self._first = media.classify_video(payload) > media.KEY
        elif message.type == AUDIO:
            self._first = media.classify_audio(payload) != media.FRAME
        if not self._first:
            self._continue_at = None

    def _begin_gop(self, message: Message) -> None:
        if self._has_video and self._gop_valid:
            self.gop_ms = self._time - self._gop_start
        message.join = True
        self._gop = []
        self._gop_bytes = 0
        self._gop_start = self._time
        self._gop_valid = True
        if self._join_generation != self._generation or not self._join_head:
            self._join_head = tuple(self._head.values())
            self._join_generation = self._generation

    def _forget_gop(self) -> None:
        self._gop = []
        self._gop_bytes = 0
        self._gop_valid = False
        self._drop_joins()

    def _drop_joins(self) -> None:
        """Joiners of every lane wait for the next join point."""
        for message in self._fresh:
            message.join = False
        for lane in self.lanes.values():
            lane.log.drop_join()

    def _take_header(self, message: Message) -> None:
        key = (message.type, _track(message))
        known = self._head.get(key)
        if known is None or known.payload != message.payload:
            self._head[key] = message
            self._generation += 1

    def _take_data(self, message: Message) -> None:
        try:
            values = amf.decode0(message.payload)
        except AmfError:
            return
        if values and values[0] == "onMetaData":
            key = (message.type, 0)
            known = self._head.get(key)
            if known is None or known.payload != message.payload:
                # Metadata goes first in the head, whenever it came.
                self._head = {key: message, **{k: m for k, m in self._head.items() if k != key}}
                self._generation += 1
            self.metadata = dict(values[1]) if len(values) > 1 and isinstance(values[1], dict) else {}


def _track(message: Message) -> int | tuple[int, ...]:
    """Which track's configuration a sequence header is."""
    try:
        tags: Sequence[media.VideoTag | media.AudioTag]
        tags = media.parse_video(message.payload) if message.type == VIDEO else media.parse_audio(message.payload)
    except media.MediaError:
        return 0
    return tags[0].track if len(tags) == 1 else tuple(tag.track for tag in tags)
