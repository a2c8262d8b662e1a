"""All live streams of a process: stream key -> stream, one publisher each, and when they come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from pyrtmp.errors import RefusedError
from pyrtmp.journal import Journal, LoggingJournal, protected
from pyrtmp.kin import Descent
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Publisher, Relay, State, Stream
from pyrtmp.wirelog import Storage, default_storage

UNKNOWN: Final = Descent()

RELAY_LINGER_SECONDS: Final = 0.25
"""How long a stream of another process is relayed without viewers: they often come back at once."""


class HubListener(Protocol):
    """Told when streams start and end.  What it raises is written to the journal."""

    def stream_started(self, stream: Stream) -> None:
        """A publisher started or took over."""

    def stream_ended(self, stream: Stream) -> None:
        """The stream is over."""


class Directory(Protocol):
    """Which streams are published in other processes."""

    def holds(self, key: StreamKey) -> bool:
        """Whether one of them has a publisher for ``key``."""

    def attach(self, stream: Stream) -> None:
        """Somebody wants to play ``stream``, which has no publisher here: if it has one elsewhere, relay that
        (``Hub.relay``), at once."""


class Source(Protocol):
    """Where streams come from that nobody publishes on this node."""

    def want(self, stream: Stream, query: str = "") -> None:
        """Somebody wants to play ``stream``, which has no publisher: fetch it while that is so.  May be called for
        every such player; ``query`` is what the player added to the name."""


class Hub:
    """The registry of streams.

    ``wake`` is called when a stream has messages for somebody; see ``aio.rounds``.  A stream that is over leaves the
    registry at once, so that its name is free, and is kept aside until its viewers have read the rest.
    """

    def __init__(
        self,
        settings: StreamSettings,
        wake: Callable[[Stream], None],
        storage: Callable[[], Storage] = default_storage,
        journal: Journal | None = None,
    ) -> None:
        self.settings = settings
        self._wake = wake
        self._storage = storage
        self._journal: Journal = journal or LoggingJournal()
        self._streams: dict[StreamKey, Stream] = {}
        self._ended: list[Stream] = []
        self.listeners: list[HubListener] = []
        self.directory: Directory | None = None
        self.source: Source | None = None

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams.values()))

    def __len__(self) -> int:
        return len(self._streams)

    def find(self, app: str, name: str) -> Stream | None:
        """The stream, if somebody publishes it, left it within the grace time, or waits for it."""
        return self._streams.get(StreamKey(app, name))

    def live(self) -> list[Stream]:
        """Streams that have a publisher."""
        return [stream for stream in self._streams.values() if stream.state is State.LIVE]

    def is_live(self, key: StreamKey) -> bool:
        """Whether somebody publishes it, here or in another process."""
        stream = self._streams.get(key)
        if stream is not None and stream.live:
            return True
        return self.directory is not None and self.directory.holds(key)

    def publish(
        self, key: StreamKey, publisher: Publisher, now: float, *, seen: tuple[int, float] | None = None,
        lineage: str = "", birth: str = "", hops: tuple[str, ...] = (), pulled: bool = False,
    ) -> Stream:
        """Make ``publisher`` the one publisher of ``key``; a relay gives way to it.

        ``seen``: how far (milliseconds) another process's publisher had got, and when.  The rest: see
        ``Stream.begin``.  Raises ``RefusedError`` (``NetStream.Publish.BadName``) when the stream has a publisher;
        whoever knows that one to be dead calls ``displace`` first.
        """
        stream = self._streams.get(key)
        if stream is None:
            stream = self._new(key, now)
        elif stream.relayed:
            stream.leave(now)
        elif stream.publisher is not None:
            raise RefusedError("NetStream.Publish.BadName", f"{key} is already being published.")
        if seen is not None and seen[0] > stream.time:
            stream.follow(*seen)
        stream.begin(publisher, now, lineage=lineage, birth=birth, hops=hops, pulled=pulled)
        self._tell_started(stream)
        return stream

    def relay(self, stream: Stream, relay: Relay, now: float, descent: Descent = UNKNOWN) -> None:
        """Make the publisher of another process that of a stream without one; an earlier relay gives way."""
        if stream.relayed:
            stream.leave(now)
        stream.begin(relay, now, relay, lineage=descent.lineage, hops=descent.hops)
        self._tell_started(stream)

    def _tell_started(self, stream: Stream) -> None:
        for listener in tuple(self.listeners):
            protected(self._journal, stream.key, listener.stream_started, stream)

    def displace(self, stream: Stream, now: float, code: str, description: str) -> None:
        """Take a stream from its publisher; viewers stay."""
        publisher = stream.publisher
        if publisher is not None:
            stream.leave(now)
            protected(self._journal, stream.key, publisher.displaced, stream, code, description)

    def unpublish(self, stream: Stream, publisher: Publisher, now: float) -> None:
        """``publisher`` ended or lost its connection; ignored when the stream is not its own any more."""
        if stream.publisher is not publisher:
            return
        stream.leave(now)
        if not stream.wanted:
            self._end(stream, now)
        else:
            self._look_elsewhere(stream)

    def open(self, key: StreamKey, now: float, query: str = "") -> Stream:
        """The stream to play, made if nobody publishes it yet.  ``query``: see ``Source.want``.

        Raises ``RefusedError`` (``NetStream.Play.StreamNotFound``) when nobody does and too many wait already.
        """
        stream = self._streams.get(key)
        if stream is not None and stream.live:
            stream.idle_since = None
            return stream
        if self.directory is not None and self.directory.holds(key):
            stream = stream or self._new(key, now)
            self.directory.attach(stream)
            return stream
        # One that nobody waits for yet counts as one, so that opening alone is bounded too.
        if sum(max(1, each.waiting) for each in self if not each.live) >= self.settings.max_waiting:
            raise RefusedError("NetStream.Play.StreamNotFound", f"{key} is not published.")
        stream = stream or self._new(key, now)
        self._look_elsewhere(stream, query)
        return stream

    def _look_elsewhere(self, stream: Stream, query: str = "") -> None:
        if self.source is not None:
            protected(self._journal, stream.key, self.source.want, stream, query)

    def tick(self, now: float) -> None:
        """Once a second: end what is over its grace time, forget what nobody wants."""
        for stream in self:
            if stream.state is State.LIVE:
                stream.drop_idle_lanes()
            elif stream.state is State.GONE:
                if now - stream.since >= self.settings.grace_seconds or not stream.wanted:
                    self._end(stream, now)
                else:
                    self._look_elsewhere(stream)
            elif not stream.wanted:
                self._remove(stream)
            else:
                self._look_elsewhere(stream)
        self.end_idle_relays(now)
        for stream in self._ended:
            stream.drop_idle_lanes()
        self._ended = [stream for stream in self._ended if stream.lanes]

    def end_idle_relays(self, now: float) -> None:
        """Streams of other processes that nobody here watches any more are forgotten here, after a moment: so that
        the other one, if it fetches the stream from elsewhere, need not much longer.  Several times a second."""
        for stream in self:
            if stream.relay is None or stream.wanted:
                stream.idle_since = None
            elif stream.idle_since is None:
                stream.idle_since = now
            elif now - stream.idle_since >= RELAY_LINGER_SECONDS:
                self.unpublish(stream, stream.relay, now)

    def end(self, stream: Stream, now: float) -> None:
        """End a stream at once, publisher or not; ignored when it is over already."""
        self.displace(stream, now, "NetStream.Unpublish.Success", "The stream was ended by the server.")
        self._end(stream, now)

    def close(self, now: float) -> None:
        """End every stream.  ``tick`` gives back the logs of those that still have viewers, once these have left."""
        for stream in self:
            self.end(stream, now)

    def _new(self, key: StreamKey, now: float) -> Stream:
        stream = self._streams[key] = Stream(key, self.settings, self._wake, now, self._storage, self._journal)
        return stream

    def _end(self, stream: Stream, now: float) -> None:
        if self._streams.get(stream.key) is not stream:
            return
        self._remove(stream)
        stream.end(now)
        if stream.sessions:
            for listener in tuple(self.listeners):
                protected(self._journal, stream.key, listener.stream_ended, stream)

    def _remove(self, stream: Stream) -> None:
        del self._streams[stream.key]
        stream.drop_idle_lanes()
        if stream.lanes:
            self._ended.append(stream)
