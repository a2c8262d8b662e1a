"""What one connection publishes, and what happens when two want to publish the same stream."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Request
from pyrtmp.names import StreamKey
from pyrtmp.session.events import PublishAsked
from pyrtmp.stream import Stream

if TYPE_CHECKING:
    from pyrtmp.aio.connection import Connection

CHALLENGE_STEP: Final = 0.1
"""Seconds between two looks at whether a challenged publisher still sends."""


class Publishing:
    """The message streams of one connection that publish.

    A name has one publisher.  Whoever asks for a taken one *challenges* its holder: if the holder sends anything the
    challenger is refused, and if it stays silent for ``takeover_seconds`` it loses the stream (Flash Media Server
    does the same).  So an encoder that reconnects is not locked out by its own half-open connection.
    """

    __slots__ = ("_connection", "_requests", "_timer", "streams")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._requests: dict[int, Request] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.streams: dict[int, Stream] = {}
        """Message stream id -> what it publishes."""

    def start(self, event: PublishAsked, request: Request, key: StreamKey, refusal: RefusedError | None) -> None:
        """Answer publish, at once or after a challenge; ``refusal`` is what the hook said."""
        if refusal is not None:
            self._refuse(event, refusal)
            return
        connection = self._connection
        holder = connection.server.hub.find(*key)
        if holder is None or holder.publisher is None:
            self._begin(event, request, key)
        elif holder.publisher is connection:
            self._refuse(event, _taken(event.name))
        else:
            connection.hold()
            self._challenge(event, request, key, holder, holder.last_message)

    def _challenge(self, event: PublishAsked, request: Request, key: StreamKey, holder: Stream, seen: float) -> None:
        self._timer = None
        connection = self._connection
        hub = connection.server.hub
        now = monotonic()
        if holder.publisher is not None:
            if holder.last_message > seen:
                self._refuse(event, _taken(event.name))
                return
            if now - holder.last_message < hub.settings.takeover_seconds:
                self._timer = asyncio.get_running_loop().call_later(
                    CHALLENGE_STEP, connection.guard, lambda: self._challenge(event, request, key, holder, seen)
                )
                return
            connection.server.counters.takeovers += 1
            hub.displace(holder, now, "NetStream.Publish.BadName", "Another publisher took over a silent stream.")
        self._begin(event, request, key)
        connection.go_on()

    def _begin(self, event: PublishAsked, request: Request, key: StreamKey) -> None:
        connection = self._connection
        server = connection.server
        try:
            stream = server.hub.publish(key, connection, monotonic())
        except RefusedError as error:
            self._refuse(event, error)
            return
        self.streams[event.msid] = stream
        if connection.readable_by_rounds:
            server.rounds.intake.add(connection)
        self._requests[event.msid] = request
        connection.session.accept_publish(event.msid)
        server.counters.publishes += 1
        server.journal.info(
            "publish", conn=connection.id, address=connection.address, stream=event.name, agent=connection.agent
        )

    def _refuse(self, event: PublishAsked, refusal: RefusedError) -> None:
        connection = self._connection
        connection.session.refuse_publish(event.msid, refusal.code, str(refusal))
        connection.refused("publish", event.name, refusal)
        connection.flush()
        connection.close()

    def stop(self, msid: int) -> None:
        """The client ended its publishing on ``msid``, or is gone; viewers stay for the grace time."""
        stream = self.streams.get(msid)
        if stream is None:
            return
        connection = self._connection
        now = monotonic()
        connection.server.journal.info(
            "unpublish", conn=connection.id, stream=str(stream.key), seconds=round(now - stream.started, 1),
            bytes=stream.bytes_in, frames=stream.video_frames,
        )
        self._forget(msid)
        connection.server.hub.unpublish(stream, connection, now)

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        """Another publisher or an operator took ``stream`` away, and the client is told."""
        connection = self._connection
        connection.server.journal.info("displaced", conn=connection.id, stream=str(stream.key), code=code)
        for msid in [msid for msid, mine in self.streams.items() if mine is stream]:
            self._forget(msid)
            connection.session.end_publish(msid, code, description)

    def _forget(self, msid: int) -> None:
        del self.streams[msid]
        if not self.streams:
            self._connection.server.rounds.intake.remove(self._connection)
        self._connection.done(self._connection.server.hooks.on_publish_done, self._requests.pop(msid))

    def close(self) -> None:
        """The connection ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for msid in list(self.streams):
            self.stop(msid)

    def overdue(self, now: float) -> str:
        """The deadline that has passed, or ``""``."""
        timeouts = self._connection.server.timeouts
        for stream in self.streams.values():
            silent = now - stream.last_message
            if stream.last_message == stream.started:
                if silent > timeouts.first_media:
                    return "first_media_timeout"
            elif silent > timeouts.media_idle:
                return "media_timeout"
        return ""


def _taken(name: str) -> RefusedError:
    return RefusedError("NetStream.Publish.BadName", f"{name} is already being published.")
