"""One live stream: what its publisher sends, what joiners need, and who gets it.

::

    publisher --push--> timeline (unwrapped, continued over publishers)
                          |-> head: metadata and sequence headers
                          |-> group of pictures since the newest join point
                          '-> fresh: not yet handed on --flush, once per round--> lanes (RTMP, FLV): logs
                                                                             '--> taps (HLS, ...)

Whatever nobody wants is not encoded: without lanes and taps a message costs its parsing and a place in the group of
pictures.  A lane made later begins with that group.

A stream calls many others (waiters, viewers, taps).  What one of them raises is written to the journal and hurts
neither the publisher nor the rest; a tap that raises is detached.
"""

from __future__ import annotations

import enum
import secrets
import time as clocks
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, Protocol

from pyrtmp import amf, media
from pyrtmp.birth import NEVER, UNSEEN, Birth, Told
from pyrtmp.delay import Arrivals, Standing
from pyrtmp.errors import AmfError
from pyrtmp.forms import WireForm
from pyrtmp.journal import Journal, LoggingJournal, protected
from pyrtmp.lane import Lane
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.timeline import Timeline
from pyrtmp.wirelog import Storage, default_storage

MESSAGE_OVERHEAD: Final = 200
"""Bytes a kept message counts beside its payload, so that a flood of empty ones is bounded too (CPython needs 180)."""

HEAD_BYTES: Final = 128 * 1024
"""Most bytes of metadata and sequence headers kept for joiners (real heads have less than 4 KiB).  What does not fit
is relayed, not kept."""

MAX_MISSED: Final = 64
"""Most headers kept while it is decided where a copy goes on."""

_ON_META_DATA: Final = amf.encode0("onMetaData")

TRACKS_SECONDS: Final = 0.5
"""How long a stream that announces nothing has for its second track to show."""

ANNOUNCED_SECONDS: Final = 1.5
"""How long a track that the metadata announce is waited for: some encoders announce what they never send."""


MAX_AHEAD_MS: Final = 600_000
"""Clocks of nodes may be so far apart.  A copy that says it was born later is not believed: HLS counts from there."""


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


class Relay(Publisher, Protocol):
    """A publisher whose connection is in another process: its records come ready, lane by lane."""

    tracks: tuple[bool, bool] | None
    """Whether the stream has audio, and video; None while that is not known."""

    told: str
    """See ``Stream.told``; ``""`` while that is not known."""

    standing: Standing | None
    """See ``Stream.standing``."""

    def open(self, lane: Lane) -> None:
        """Keep the lane's log up to date from now on."""

    def close(self, lane: Lane) -> None:
        """Nobody reads that lane any more."""

    def end(self) -> None:
        """The stream has another publisher, or none."""


class Outlet(Protocol):
    """Another process whose viewers watch this stream."""

    def serve(self) -> None:
        """Say how far the logs go now; once per round."""

    def gone(self) -> None:
        """The publisher left: say what is left, then go."""


class Tap(Protocol):
    """Gets every message of a stream in order: a packager, a forwarder.

    Messages are shared with all other readers and never modified; their timestamps never wrap.  An exception out of
    a method detaches the tap.
    """

    def on_messages(self, messages: Sequence[Message]) -> None:
        """The next messages, once per round."""

    def on_restart(self) -> None:
        """Another publisher goes on: sequence headers follow, the timeline is continued."""

    def on_end(self) -> None:
        """The stream is over; the tap is detached."""


class Keeper(Protocol):
    """Gets every message of one publisher in order and is in no hurry, such as a recorder: it is nobody who watches."""

    def on_messages(self, messages: Sequence[Message]) -> None:
        """See ``Tap.on_messages``."""

    def on_leave(self) -> None:
        """The publisher left, and the keeper is detached."""


class Stream:
    """A live stream and its viewers.  Times given as ``now`` are monotonic seconds."""

    def __init__(
        self,
        key: StreamKey,
        settings: StreamSettings,
        wake: Callable[[Stream], None],
        now: float,
        storage: Callable[[], Storage] = default_storage,
        journal: Journal | None = None,
    ) -> None:
        self.key = key
        self.state = State.AWAITED
        self.since = now
        """When it entered its present state."""
        self.publisher: Publisher | None = None
        self.started = now
        """When the present (or last) publisher began."""
        self.lineage = secrets.token_hex(8)
        """Names the timeline of its timestamps: copies of the stream, on other nodes, share it."""
        self.source = ""
        """The lineage of what the publisher brings, where that is a copy; its times may be others than those here."""
        self.birth: Birth | None = None
        """When that timeline began."""
        self.shift = 0
        """How much later than in ``birth`` the times are here: copies may be put behind another stream."""
        self.marks = 0
        """Goes up with what ``told`` says, except for the time of sound without a picture."""
        self._told: Told | None = None
        """What came with a copy, until its first join point says where that stands."""
        self._before: int | None = NEVER
        """The key frame before the newest, see ``key_before``."""
        self._newest_key: int | None = NEVER
        self.hops: tuple[str, ...] = ()
        """Nodes it came through."""
        self.pulled = False
        """Its publisher is this node's own pull from another one, which gives way to whoever publishes it here."""
        self.source_id = ""
        """The id of the present (or last) publisher, in whatever process: log lines of viewers name it."""
        self.arrivals = Arrivals()
        """Of what the publisher sends."""
        self.measured: Standing | None = None
        """Of a stream that is pulled: a frame whose delay is known; kept by the pull."""
        self.queued = False
        """In the set of streams that the next round serves; kept by the rounds."""
        self.lanes: dict[str, Lane] = {}
        self.relay: Relay | None = None
        """The publisher, where that is a relay from another process."""
        self.outlets: dict[Outlet, None] = {}
        self.idle_since: float | None = None
        """Since when nobody watches a relayed stream; kept by the hub."""
        self.sessions = 0
        """Publishers so far."""
        self.last_message = now
        """When the publisher was last heard; kept by whoever calls ``push``, before it does."""
        # Facts, counted as messages pass
        self.bytes_in = 0
        self.messages_in = 0
        self.video_frames = 0
        self.key_frames = 0
        self.gop_ms = 0
        """Media time between the last two key frames, milliseconds."""
        self.metadata: dict[str, Any] = {}
        """What the publisher's newest onMetaData says."""
        self._settings = settings
        self._gop_max_bytes = settings.gop_bytes
        self._gop_max_ms = int(settings.gop_seconds * 1000)
        self._journal: Journal = journal or LoggingJournal()
        self._wake = wake
        self._storage = storage
        self._taps: list[Tap] = []
        self._keepers: dict[Keeper, None] = {}
        self._waiters: dict[Callable[[], None], None] = {}
        self._consumed = False
        """Whether anybody wants what comes."""
        self._fresh: list[Message] = []
        self._log_failure: OSError | None = None
        # What joiners need
        self._head: dict[tuple[int, int, frozenset[int]], Message] = {}
        """By message type and the tracks described, in the order to send."""
        self._generation = 0
        """Goes up with every change of the head."""
        self._join_head: tuple[Message, ...] = ()
        """The head as of the newest join point."""
        self._join_generation = 0
        self._gop: list[Message] | None = None
        """What came since the newest join point, or None while joiners must wait for the next."""
        self._gop_bytes = 0
        self._gop_start = 0
        self._key_time: int | None = None
        self._timeline = Timeline()
        self._tracks_since: float | None = None
        self._has_video = False
        self._has_audio = False
        self._followed = False
        """The lanes' logs are another process's."""
        self._last: Message | None = None
        """The newest message, where that is known."""
        self._overlap: Message | None = None
        """What comes up to this message was handed on before."""
        self._missed: dict[tuple[int, frozenset[int]], Message] = {}
        """Sequence headers, and metadata, that came meanwhile."""

    # Publishing

    def begin(
        self, publisher: Publisher, now: float, relay: Relay | None = None, *,
        lineage: str = "", birth: str = "", hops: tuple[str, ...] = (), pulled: bool = False,
    ) -> None:
        """A publisher starts, or takes over from one that has been taken off with ``leave``.

        ``relay`` is the publisher once more, where it is one.  ``lineage`` is that of what it brings, where it is a
        copy: a copy of what was here before goes on exactly where that stopped.  ``birth``: its ``told``.
        """
        self.hops = hops
        self.pulled = pulled
        if lineage and lineage == self.source and self._timeline.started and relay is None and not self._followed:
            self._go_on(publisher, now)
            return
        returning = self.sessions > 0
        continued = returning or self._timeline.started
        if relay is not None:
            self.lineage = lineage or secrets.token_hex(8)  # its times are those of the process that has it
            self.birth = self._told = None
        elif lineage:
            # Behind another stream it is shifted, so that its times are nobody else's.
            self.lineage = secrets.token_hex(8) if continued else lineage
            self._adopt(Told.read(birth))
        elif self.birth is None or self.source:
            if continued:
                self.lineage = secrets.token_hex(8)
            self._be_born()
        elif self._newest_key != NEVER:
            self._newest_key = None  # HLS begins anew with what comes first, be it sound: joiners cannot tell
        self.source = lineage
        self._overlap = self._last = None
        if continued:
            # What viewers see goes on where it stopped, later by the time that passed.
            self._timeline.restart(int((now - self.last_message) * 1000))
        if returning:
            for tap in tuple(self._taps):
                self._call_tap(tap, tap.on_restart)
        if relay is not None or self._followed:
            for lane in self.lanes.values():
                lane.restart()
        self._followed = relay is not None
        self.relay = relay
        self.publisher = publisher
        self.sessions += 1
        self.state = State.LIVE
        self.since = self.started = self.last_message = now
        self._head.clear()
        self._generation += 1
        self._key_time = None
        self._tracks_since = None
        self._has_audio = self._has_video = False
        self.metadata = {}
        if relay is not None:
            for lane in self.lanes.values():
                relay.open(lane)
        self.marks += 1
        self.source_id = publisher.id
        self.arrivals.clear()
        self.measured = None
        if returning:
            self._signal(True)
        self.release()

    def _be_born(self) -> None:
        """What comes is nobody's copy."""
        self._told = None
        self.birth = Birth(int(clocks.time() * 1000))
        self.shift = 0
        self._newest_key = NEVER

    def _adopt(self, told: Told | None) -> None:
        """What comes is a copy: it was born elsewhere."""
        now = int(clocks.time() * 1000)
        if told is not None and told.birth.wall > now + MAX_AHEAD_MS:
            told = None
        self._told = told
        self.birth = Birth(now) if told is None else told.birth
        self.shift = 0
        self._newest_key = self._before = None

    def _go_on(self, publisher: Publisher, now: float) -> None:
        """Another copy of the same stream: head and timeline stay."""
        self.publisher = publisher
        self.source_id = publisher.id
        self.sessions += 1
        self.state = State.LIVE
        self.since = self.started = self.last_message = now
        self.overlap()
        self._signal(True)
        self.release()

    def overlap(self) -> None:
        """What comes next is the same stream from another place and begins earlier: leave out what was here before."""
        self._overlap = self._last
        self._missed.clear()

    def follow(self, time: int, now: float) -> None:
        """In another process the stream has got to ``time`` (milliseconds) at ``now``; publishers here go on later."""
        self._timeline.follow(time)
        self.last_message = now

    def leave(self, now: float) -> None:
        """The publisher is gone; viewers stay until the grace time is over."""
        self._hand_on()
        self._drop_keepers()
        self._drop_outlets()
        self._drop_relay()
        self.publisher = None
        self.state = State.GONE
        self.since = now
        self._forget_gop()
        self._signal(False)

    def end(self, now: float) -> None:
        """The stream is over for good: hand on what is left, tell viewers and taps.

        Its lanes live until their viewers have read the rest; ``drop_idle_lanes`` then gives them back.
        """
        self._hand_on()
        self._drop_keepers()
        self._drop_outlets()
        self._drop_relay()
        self.publisher = None
        self.state = State.ENDED
        self.since = now
        self._forget_gop()
        taps, self._taps = self._taps, []
        for tap in taps:
            self._call(tap.on_end)
        for lane in self.lanes.values():
            for viewer in list(lane.viewers):
                self._call(viewer.end)
        self._consumed = False
        if self.lanes and not self.queued:
            self._wake(self)
        self.release()

    def push(self, message: Message) -> None:
        """Take the publisher's next message, audio, video or AMF0 data; the stream owns it from here on.

        This runs once per message of every publisher; ``benchmarks.micro_stream`` says what it costs.
        """
        type = message.type
        payload = message.payload
        if self._overlap is not None and self._repeats(message):
            return
        if type == VIDEO:
            kind = media.classify_video(payload)
            if kind <= media.KEY:
                message.timestamp = self._timeline.frame(message.timestamp)
                self._has_video = True
                self.video_frames += 1
                if kind == media.KEY:
                    self._on_key_frame(message)
            else:
                self._on_other(message, kind)
        elif type == AUDIO:
            kind = media.classify_audio(payload)
            if kind == media.FRAME:
                message.timestamp = self._timeline.frame(message.timestamp)
                self._has_audio = True
                if not self._has_video:
                    # Without video every audio record is a join point.
                    self._begin_gop(message)
            else:
                self._on_other(message, kind)
        else:
            self._on_other(message, media.OTHER)
        size = len(payload)
        self.bytes_in += size
        self.messages_in += 1
        self._last = message
        gop = self._gop
        if gop is not None:
            gop.append(message)
            self._gop_bytes += size + MESSAGE_OVERHEAD
            if (
                self._gop_bytes > self._gop_max_bytes
                # Either way: a clock that was set back must not stretch the group.
                or not -self._gop_max_ms <= message.timestamp - self._gop_start <= self._gop_max_ms
            ):
                self._forget_gop()
        if self._consumed:
            self._fresh.append(message)
            if not self.queued:
                self._wake(self)

    def _repeats(self, message: Message) -> bool:
        """Whether ``message`` was handed on before, by another publisher of the same stream."""
        last = self._overlap
        assert last is not None
        type, payload = message.type, message.payload
        time = self._timeline.unwrap(message.timestamp)
        if (time, type, payload) == (last.timestamp, last.type, last.payload):
            self._overlap = None
            return True
        if type == VIDEO:
            kind = media.classify_video(payload)
            fresh = kind == media.KEY and time > last.timestamp
        elif type == AUDIO:
            kind = media.classify_audio(payload)
            fresh = kind == media.FRAME and not self._has_video and time > last.timestamp
        else:
            kind, fresh = media.OTHER, False
        if fresh:
            # Some of it was missed: go on at a join point, behind what else it needs.
            self._overlap = None
            known = {(each.type, each.payload) for each in self._head.values()}
            for header in self._missed.values():
                if (header.type, header.payload) not in known:
                    self.push(header)
            self._missed.clear()
            self._newest_key = None
            return False
        about = type == DATA_AMF0 and payload.startswith(_ON_META_DATA)
        if (about or kind in (media.SEQUENCE_HEADER, media.METADATA)) and len(self._missed) < MAX_MISSED:
            self._missed[type, frozenset() if about else header_tracks(message)] = message
        return True

    # Viewers and taps

    def lane(self, form: WireForm) -> Lane:
        """The lane of that form, made on first use from the group of pictures at hand.

        Raises ``OSError`` when there is no memory or descriptor for its log.
        """
        lane = self.lanes.get(form.name)
        if lane is None:
            self._hand_on()
            relay = self.relay
            lane = Lane(form, self._settings, self._storage, follows=relay is not None)
            if self._gop:
                self._publish(lane, self._gop)
            self.lanes[form.name] = lane
            self._consumed = True
            if relay is not None:
                relay.open(lane)
        return lane

    def drop_idle_lanes(self) -> None:
        """Give back the logs that nobody reads."""
        for name, lane in list(self.lanes.items()):
            if lane.idle:
                if self.relay is not None:
                    self.relay.close(lane)
                lane.close()
                del self.lanes[name]
        self._consumed = self._is_consumed()

    def attach(self, tap: Tap) -> None:
        """Hand ``tap`` the head and the group of pictures at hand, then every message.

        What ``tap.on_messages`` raises meanwhile is the caller's, and the tap is not attached then.
        """
        self._introduce(tap)
        self._taps.append(tap)
        self._consumed = True

    def keep(self, keeper: Keeper) -> None:
        """The same for a keeper, until the publisher leaves."""
        self._introduce(keeper)
        self._keepers[keeper] = None
        self._consumed = True

    def _introduce(self, tap: Tap | Keeper) -> None:
        self._hand_on()
        gop = self._gop or []
        head = self._join_head if gop else self._head.values()
        time = self._gop_start if gop else self._timeline.time
        tap.on_messages([*(Message(m.type, time, m.msid, m.payload) for m in head), *gop])

    def detach(self, tap: Tap | Keeper) -> None:
        """Stop handing messages to ``tap``; unknown ones are ignored."""
        self._taps = [each for each in self._taps if each is not tap]
        self._keepers = {each: None for each in self._keepers if each is not tap}
        self._consumed = self._is_consumed()

    def _is_consumed(self) -> bool:
        return bool(self.lanes or self._taps or self._keepers)

    def wait(self, waiter: Callable[[], None]) -> None:
        """Call ``waiter`` once when a publisher starts or the stream ends."""
        self._waiters[waiter] = None

    def stop_waiting(self, waiter: Callable[[], None]) -> None:
        """Take a waiter back."""
        self._waiters.pop(waiter, None)

    def release(self) -> None:
        """Call those who wait: there is something new for them."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            self._call(waiter)

    @property
    def told(self) -> str:
        """What others are told of its birth and of where it stands; see ``pyrtmp.birth.Told``."""
        if self.relay is not None:
            return self.relay.told
        if self._told is not None:
            return str(self._told)
        if self.birth is None:
            return ""
        key, before, shift = self._newest_key, self._before, self.shift
        if key is None or key == NEVER:
            before, key = key, self._timeline.time if self._timeline.started else NEVER
        # Where the one before is not known, it is said to be the same: nothing is made of that.
        before = key if before is None else before
        told = Told(
            self.birth, shift, *(each if each == NEVER else each - shift for each in (key, before))
        )
        return str(told)

    @property
    def standing(self) -> Standing | None:
        """The newest frame of which it is known when it was published; see ``pyrtmp.delay``."""
        if self.relay is not None:
            return self.relay.standing
        return self.measured if self.pulled else self.arrivals.newest

    @property
    def key_before(self) -> int | None:
        """The key frame before the group of pictures at hand, or before the next one: ``NEVER`` if there was none,
        None if that is not known."""
        return self._before if self._gop else self._newest_key

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
        return bool(self._taps or self._waiters or self.outlets) or any(lane.viewers for lane in self.lanes.values())

    @property
    def held(self) -> bool:
        """Whether its publisher is a connection of this process."""
        return self.publisher is not None and self.relay is None

    @property
    def relayed(self) -> bool:
        """Whether its publisher is in another process; then no message passes here, only records."""
        return self.relay is not None

    def flush(self) -> None:
        """Hand on what came since the last flush.  Raises ``OSError`` when a log could not take it, then or before."""
        self._hand_on()
        failure, self._log_failure = self._log_failure, None
        if failure is not None:
            raise failure

    # Facts

    @property
    def tracks_known(self) -> bool:
        """Whether it is known which of audio and video the stream has: both seen, those announced seen, or time
        enough passed."""
        if self.relay is not None:
            return self.relay.tracks is not None
        if self._has_audio and self._has_video:
            return True
        if not (self._has_audio or self._has_video) or self._tracks_since is None:
            return False
        waited = self.last_message - self._tracks_since
        if waited > ANNOUNCED_SECONDS:
            return True
        video, audio = "videocodecid" in self.metadata, "audiocodecid" in self.metadata
        if not (video or audio):
            return waited > TRACKS_SECONDS
        return (self._has_video or not video) and (self._has_audio or not audio)

    @property
    def tracks(self) -> tuple[bool, bool]:
        """Whether the stream has audio, and video."""
        if self.relay is not None:
            return self.relay.tracks or (False, False)
        return self._has_audio, self._has_video

    @property
    def time(self) -> int:
        """How far it has got: media time, milliseconds."""
        return self._timeline.reached

    def ahead(self, raw: int) -> int:
        """How much later (milliseconds) a timestamp of the publisher's, as it comes, is than all that has come."""
        return self._timeline.unwrap(raw) - self._timeline.reached

    @property
    def gop_size(self) -> tuple[int, int]:
        """Messages kept for joiners, and bytes they count, ``MESSAGE_OVERHEAD`` included."""
        return len(self._gop or ()), self._gop_bytes

    @property
    def recent(self) -> Sequence[Message]:
        """What is kept for joiners: the messages since the newest join point, borrowed until the next ``push``."""
        return self._gop or ()

    def head_payload(self, type: int) -> bytes:
        """The newest sequence header (or, without one, a legacy frame) of audio or video, or ``b""``."""
        for message in chain(self._head.values(), self._gop or ()):
            if message.type == type:
                return message.payload
        return b""

    # Other processes

    def _drop_keepers(self) -> None:
        keepers, self._keepers = self._keepers, {}
        for keeper in keepers:
            self._call(keeper.on_leave)

    def _drop_outlets(self) -> None:
        outlets, self.outlets = self.outlets, {}
        for outlet in outlets:
            self._call(outlet.gone)

    def _drop_relay(self) -> None:
        relay, self.relay = self.relay, None
        if relay is not None:
            self._call(relay.end)

    # Handing on

    def _hand_on(self) -> None:
        fresh = self._fresh
        if not fresh:
            return
        self._fresh = []
        for lane in self.lanes.values():
            self._publish(lane, fresh)
        readers: tuple[Tap | Keeper, ...] = (*self._taps, *self._keepers)
        for reader in readers:
            self._call_tap(reader, reader.on_messages, fresh)

    def _publish(self, lane: Lane, messages: Sequence[Message]) -> None:
        try:
            lane.publish(messages, self._join_head, self._join_generation)
        except OSError as error:
            self._log_failure = error

    def _signal(self, live: bool) -> None:
        for lane in self.lanes.values():
            for viewer in list(lane.viewers):
                self._call(viewer.signal, live)

    def _call_tap(self, tap: Tap | Keeper, method: Callable[..., None], *arguments: object) -> None:
        if not self._call(method, *arguments):
            self.detach(tap)

    def _call(self, method: Callable[..., None], *arguments: object) -> bool:
        return protected(self._journal, self.key, method, *arguments)

    # Join points

    def _on_key_frame(self, message: Message) -> None:
        self.key_frames += 1
        if self._key_time is not None and message.timestamp >= self._key_time:
            self.gop_ms = message.timestamp - self._key_time
        self._key_time = message.timestamp
        self._begin_gop(message, key=True)

    def _mark(self, time: int, key: bool) -> None:
        """A join point at ``time``: what is said of the stream's birth and of its key frames."""
        told, birth = self._told, self.birth
        if birth is None:
            return  # nobody said that it begins
        if told is not None:
            self._told = None
            self.shift = told.shifted(time - self._timeline.moved, time)
            if told.birth.pace == UNSEEN:
                self._newest_key = NEVER
            elif time - self.shift == told.key and told.before != told.key:
                self._newest_key = told.before if told.before == NEVER else told.before + self.shift
        was = birth.pace
        if was <= 0:
            birth = self.birth = birth.seen(time - self.shift, key)
        if key or birth.pace != was or told is not None:
            self.marks += 1
        self.arrivals.note(time - self.shift, self.last_message)
        if key:
            # Behind sound that came long before it, the first one is no beginning.
            self._before = None if was < 0 < birth.pace else self._newest_key
            self._newest_key = time
        else:
            self._before = NEVER if was == UNSEEN and self._newest_key == NEVER else None

    def _begin_gop(self, message: Message, key: bool = False) -> None:
        message.join = True
        self._mark(message.timestamp, key)
        self._gop = []
        self._gop_bytes = 0
        self._gop_start = message.timestamp
        if self._tracks_since is None:
            self._tracks_since = self.last_message
        if self._join_generation != self._generation:
            self._join_head = tuple(self._head.values())
            self._join_generation = self._generation

    def _forget_gop(self) -> None:
        """Joiners of every lane wait for the next join point."""
        self._gop = None
        self._gop_bytes = 0
        for message in self._fresh:
            message.join = False
        for lane in self.lanes.values():
            lane.log.drop_join()

    # Head

    def _on_other(self, message: Message, kind: int) -> None:
        """Whatever is no coded frame."""
        message.timestamp = self._timeline.other(message.timestamp)
        if kind == media.SEQUENCE_HEADER:
            if message.type == VIDEO:
                self._has_video = True
            else:
                self._has_audio = True
            if self._tracks_since is None:
                self._tracks_since = self.last_message
            self._keep(message, kind, header_tracks(message))
        elif kind == media.METADATA:
            self._keep(message, kind, header_tracks(message))
        elif message.type == DATA_AMF0:
            self._on_data(message)

    def _on_data(self, message: Message) -> None:
        tracks: frozenset[int] = frozenset()
        known = self._head.get((message.type, media.METADATA, tracks))
        if known is not None and known.payload == message.payload:
            return
        try:
            values = amf.decode0(message.payload)
        except AmfError:
            return
        if values and values[0] == "onMetaData":
            self._keep(message, media.METADATA, tracks)
            self.metadata = dict(values[1]) if len(values) > 1 and isinstance(values[1], dict) else {}

    def _keep(self, message: Message, kind: int, tracks: frozenset[int]) -> None:
        """Put a header into the head, in the place of what it makes obsolete."""
        type = message.type
        known = self._head.get((type, kind, tracks))
        if known is not None and known.payload == message.payload:
            return
        self._generation += 1
        # A new configuration makes the metadata of the old one obsolete as well.
        kept = {
            key: m for key, m in self._head.items() if key[0] != type or key[1] < kind or not key[2] <= tracks
        }
        size = sum(len(m.payload) + MESSAGE_OVERHEAD for m in kept.values())
        if size + len(message.payload) + MESSAGE_OVERHEAD > HEAD_BYTES:
            self._head = kept
        elif type == DATA_AMF0:
            # Metadata goes first, whenever it came.
            self._head = {(type, kind, tracks): message, **kept}
        else:
            self._head = {**kept, (type, kind, tracks): message}


def header_tracks(message: Message) -> frozenset[int]:
    """Whose configuration a sequence header is; 0 is the default track, and the only one outside multitrack."""
    try:
        tags: Sequence[media.VideoTag | media.AudioTag]
        tags = media.parse_video(message.payload) if message.type == VIDEO else media.parse_audio(message.payload)
    except media.MediaError:
        return frozenset((0,))
    return frozenset(tag.track for tag in tags)
