"""What one connection publishes, and what happens when two want to publish the same stream."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from pyrtmp.bucket import Bucket
from pyrtmp.counters import Counters
from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Request
from pyrtmp.hub import Hub
from pyrtmp.names import StreamKey
from pyrtmp.session.events import PublishAsked
from pyrtmp.stream import Stream

if TYPE_CHECKING:
    from pyrtmp.aio.connection import Connection

CHALLENGE_STEP: Final = 0.1
"""Seconds between two looks at whether a challenged publisher still sends."""

BURST_SECONDS: Final = 10.0
"""What a publisher may send above ``Limits.max_publish_kbps``, in seconds of that: encoders catch up after a
standstill, and a scene change costs more than what is between two."""

FULL: Final = "NetStream.Publish.Denied"
"""Code for who is refused because of a limit."""


class Claims(Protocol):
    """Who may publish a stream, where several processes take publishers."""

    async def claim(self, key: StreamKey, *, copy: bool = False) -> tuple[int, float] | None:
        """Make this process the one that publishes ``key``; ``copy``: for another node, which owns the stream.

        How far (milliseconds) another one had got with it and when (monotonic seconds), if that is known.  Raises
        ``RefusedError`` (``NetStream.Publish.BadName``).  Cancelled, it claims nothing.
        """

    def release(self, key: StreamKey, time: int) -> None:
        """It does not any more; ``time`` is how far the stream has got."""


class Publishing:
    """The message streams of one connection that publish.

    A name has one publisher.  Whoever asks for a taken one *challenges* its holder: if the holder sends anything the
    challenger is refused, and if it stays silent for ``takeover_seconds`` it loses the stream (Flash Media Server
    does the same).  So an encoder that reconnects is not locked out by its own half-open connection.
    """

    __slots__ = ("_connection", "_flow", "_received", "_requests", "_task", "streams")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._requests: dict[int, Request] = {}
        self._task: asyncio.Task[None] | None = None
        self._flow: Bucket | None = None
        self._received = 0
        """Bytes that have gone through ``_flow``."""
        self.streams: dict[int, Stream] = {}
        """Message stream id -> what it publishes."""

    def start(self, event: PublishAsked, request: Request, key: StreamKey, refusal: RefusedError | None) -> None:
        """Answer publish, at once or after a challenge; ``refusal`` is what the hook said."""
        if refusal is not None:
            self._refuse(event, refusal)
            return
        connection = self._connection
        if connection.kin.came_through(connection.server.node):
            self._refuse(event, RefusedError("NetStream.Publish.Loop", f"{event.name} came through here before."))
            return
        holder = _holder(connection.server.hub, key)
        if holder is not None and holder.publisher is connection:
            self._refuse(event, _taken(event.name))
        elif holder is None and not connection.server.has_room_for_stream():
            self._refuse(event, too_many_streams())
        elif holder is None and connection.server.claims is None:
            self._begin(event, request, key, None)
        else:
            connection.hold()
            self._task = asyncio.get_running_loop().create_task(self._acquire(event, request, key))

    async def _acquire(self, event: PublishAsked, request: Request, key: StreamKey) -> None:
        """Get the name from whoever has it, then begin."""
        connection = self._connection
        server = connection.server
        seen: tuple[int, float] | None = None
        try:
            holder = _holder(server.hub, key)
            if holder is not None and not await yields(holder, server.hub, server.counters):
                raise _taken(event.name)
            if server.claims is not None:
                seen = await server.claims.claim(key, copy=connection.kin.copy)
        except RefusedError as error:
            refusal = error
            self._task = None
            connection.guard(lambda: self._refuse(event, refusal))
            return
        self._task = None
        if connection.closing:
            self._release(key, 0)
        else:
            connection.guard(lambda: self._acquired(event, request, key, seen))

    def _acquired(
        self, event: PublishAsked, request: Request, key: StreamKey, seen: tuple[int, float] | None
    ) -> None:
        self._begin(event, request, key, seen)
        self._connection.go_on()

    def _begin(
        self, event: PublishAsked, request: Request, key: StreamKey, seen: tuple[int, float] | None
    ) -> None:
        connection = self._connection
        server = connection.server
        try:
            if _holder(server.hub, key) is None and not server.has_room_for_stream():
                self._release(key, 0)
                raise too_many_streams()  # others have come while this one waited
            stream = server.hub.publish(
                key, connection, monotonic(), seen=seen, lineage=connection.kin.lineage,
                birth=connection.kin.birth, hops=connection.kin.hops,
            )
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
            "publish", conn=connection.id, address=connection.address, stream=str(key), agent=connection.agent,
            **connection.kin.log_fields,
        )

    def _refuse(self, event: PublishAsked, refusal: RefusedError) -> None:
        connection = self._connection
        connection.session.refuse_publish(event.msid, refusal.code, str(refusal))
        connection.refused("publish", event.name, refusal)
        connection.flush()
        connection.close()

    def request(self, stream: Stream) -> Request | None:
        """What the client asked for when it began to publish ``stream``; None if it does not."""
        return next((self._requests.get(msid) for msid, mine in self.streams.items() if mine is stream), None)

    def stop(self, msid: int, reason: str) -> None:
        """The client ended its publishing on ``msid``, or is gone; viewers stay for the grace time.

        ``reason`` is for the log.
        """
        stream = self.streams.get(msid)
        if stream is None:
            return
        connection = self._connection
        now = monotonic()
        connection.server.journal.info(
            "unpublish", conn=connection.id, stream=str(stream.key), seconds=round(now - stream.started, 1),
            bytes=stream.bytes_in, frames=stream.video_frames, reason=reason, **connection.kin.log_fields,
        )
        self._forget(msid)
        connection.server.hub.unpublish(stream, connection, now)
        self._release(stream.key, stream.time)

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        """Another publisher or an operator took ``stream`` away, and the client is told."""
        connection = self._connection
        connection.server.journal.info(
            "displaced", conn=connection.id, stream=str(stream.key), seconds=round(monotonic() - stream.started, 1),
            bytes=stream.bytes_in, frames=stream.video_frames, code=code, **connection.kin.log_fields,
        )
        connection.server.remember_refusal("publish", connection.address, str(stream.key), code, description)
        for msid in [msid for msid, mine in self.streams.items() if mine is stream]:
            self._forget(msid)
            self._release(stream.key, stream.time)
            connection.session.end_publish(msid, code, description)

    def _forget(self, msid: int) -> None:
        del self.streams[msid]
        if not self.streams:
            self._connection.server.rounds.intake.remove(self._connection)
        self._connection.done(self._connection.server.hooks.on_publish_done, self._requests.pop(msid))

    def _release(self, key: StreamKey, time: int) -> None:
        claims = self._connection.server.claims
        if claims is not None:
            claims.release(key, time)

    def close(self) -> None:
        """The connection ends."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for msid in list(self.streams):
            self.stop(msid, self._connection.reason)

    def obey_rate(self, now: float) -> None:
        """Refuse a publisher that sends too much; to be called about once a second."""
        connection = self._connection
        kbps = connection.server.limits.max_publish_kbps
        if not kbps:
            self._flow = None
            return
        if self._flow is None:
            self._flow, self._received = Bucket(now), connection.session.received
            return
        came, self._received = connection.session.received - self._received, connection.session.received
        per_second = kbps * 1000 / 8
        if self._flow.add(came, now, per_second) > per_second * BURST_SECONDS:
            refusal = RefusedError(FULL, f"The bit rate is higher than {kbps} kbit/s.", reason="bit_rate")
            connection.reason = "bit_rate"
            for stream in list(self.streams.values()):
                connection.refused("publish", str(stream.key), refusal)
                connection.server.hub.displace(stream, now, refusal.code, str(refusal))

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


async def yields(stream: Stream, hub: Hub, counters: Counters) -> bool:
    """Challenge the publisher of ``stream``: whether it is gone or, having sent nothing, has lost the stream now."""
    publisher, seen = stream.publisher, stream.last_message
    if publisher is not None and stream.pulled:
        hub.displace(stream, monotonic(), "NetStream.Publish.BadName", "Somebody publishes it here now.")
        return True
    while stream.publisher is publisher and publisher is not None:
        now = monotonic()
        if stream.last_message > seen:
            return False
        if now - seen >= hub.settings.takeover_seconds:
            counters.takeovers += 1
            hub.displace(stream, now, "NetStream.Publish.BadName", "Another publisher took over a silent stream.")
            return True
        await asyncio.sleep(CHALLENGE_STEP)
    return stream.publisher is None


def _holder(hub: Hub, key: StreamKey) -> Stream | None:
    """The stream, if a connection of this process publishes it."""
    stream = hub.find(*key)
    return stream if stream is not None and stream.held else None


def too_many_streams() -> RefusedError:
    """For who would publish one too many."""
    return RefusedError(FULL, "The server takes no more streams.", reason="streams")


def _taken(name: str) -> RefusedError:
    return RefusedError("NetStream.Publish.BadName", f"{name} is already being published.")
