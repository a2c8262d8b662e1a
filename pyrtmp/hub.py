"""All live streams of a process: stream key -> stream, one publisher each, and when they come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from pyrtmp.errors import RefusedError
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Publisher, State, Stream
from pyrtmp.wirelog import Storage, default_storage


class HubListener(Protocol):
    """Told when streams start and end."""

    def stream_started(self, stream: Stream) -> None:
        """A publisher started or took over."""

    def stream_ended(self, stream: Stream) -> None:
        """The stream is over."""


class Hub:
    """The registry of streams.  ``wake`` is called when a stream has messages for somebody; see ``aio.rounds``."""

    def __init__(
        self,
        settings: StreamSettings,
        wake: Callable[[Stream], None],
        storage: Callable[[], Storage] = default_storage,
    ) -> None:
        self.settings = settings
        self._wake = wake
        self._storage = storage
        self._streams: dict[StreamKey, Stream] = {}
        self.listeners: list[HubListener] = []

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

    def publish(self, key: StreamKey, publisher: Publisher, now: float) -> Stream:
        """Make ``publisher`` the one publisher of ``key``.

        Raises ``RefusedError`` (``NetStream.Publish.BadName``) when it has one; whoever knows that one to be dead
        calls ``displace`` first.
        """
        stream = self._streams.get(key)
        if stream is None or stream.state is State.ENDED:
            stream = self._new(key, now)
        elif stream.publisher is not None:
            raise RefusedError("NetStream.Publish.BadName", f"{key} is already being published.")
        stream.begin(publisher, now)
        for listener in self.listeners:
            listener.stream_started(stream)
        return stream

    def displace(self, stream: Stream, now: float, code: str, description: str) -> None:
        """Take a stream from its publisher; viewers stay."""
        publisher = stream.publisher
        if publisher is not None:
            stream.leave(now)
            publisher.displaced(stream, code, description)

    def unpublish(self, stream: Stream, publisher: Publisher, now: float) -> None:
        """``publisher`` ended or lost its connection; ignored when the stream is not its own any more."""
        if stream.publisher is not publisher:
            return
        stream.leave(now)
        if not stream.wanted:
            self._end(stream, now)

    def open(self, key: StreamKey, now: float) -> Stream:
        """The stream to play, made if nobody publishes it yet.

        Raises ``RefusedError`` (``NetStream.Play.StreamNotFound``) when too many wait already.
        """
        stream = self._streams.get(key)
        if stream is None or stream.state is State.ENDED:
            if sum(s.waiting for s in self._streams.values() if s.state is State.AWAITED) >= self.settings.max_waiting:
                raise RefusedError("NetStream.Play.StreamNotFound", f"{key} is not published.")
            stream = self._new(key, now)
        return stream

    def tick(self, now: float) -> None:
        """Once a second: end what is over its grace time, forget what nobody wants."""
        for stream in list(self._streams.values()):
            if stream.state is State.LIVE:
                stream.drop_idle_lanes()
            elif stream.state is State.GONE:
                if now - stream.since >= self.settings.grace_seconds or not stream.wanted:
                    self._end(stream, now)
            elif not stream.wanted:
                self._forget(stream)

    def end(self, stream: Stream, now: float) -> None:
        """End a stream at once, publisher or not."""
        self.displace(stream, now, "NetStream.Unpublish.Success", "The stream was ended by the server.")
        self._end(stream, now)

    def close(self, now: float) -> None:
        """End every stream."""
        for stream in list(self._streams.values()):
            self.end(stream, now)
            self._forget(stream)

    def _new(self, key: StreamKey, now: float) -> Stream:
        stream = self._streams[key] = Stream(key, self.settings, self._wake, now, self._storage)
        return stream

    def _end(self, stream: Stream, now: float) -> None:
        was_published = stream.sessions > 0
        stream.end(now)
        if was_published:
            for listener in self.listeners:
                listener.stream_ended(stream)
        if not stream.wanted:
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.drop_idle_lanes()
        if self._streams.get(stream.key) is stream:
            del self._streams[stream.key]
