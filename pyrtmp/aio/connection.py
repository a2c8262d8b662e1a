"""One RTMP client's connection: the asyncio skin around ``ServerSession``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from pyrtmp import control
from pyrtmp.aio.viewers import KernelViewer, TransportViewer
from pyrtmp.errors import PeerError, RefusedError
from pyrtmp.forms import PLAY_MSID, RtmpForm
from pyrtmp.hooks import Hook, Request
from pyrtmp.message import Message
from pyrtmp.names import StreamKey
from pyrtmp.session import ServerSession
from pyrtmp.session.events import (
    CallReceived,
    ConnectAsked,
    ConnectionClosed,
    Event,
    PauseAsked,
    PlayAsked,
    PlayStopped,
    PublishAsked,
    ReceiveChanged,
    SeekAsked,
    Unpublished,
)
from pyrtmp.session.states import Connection as Phase
from pyrtmp.stream import State, Stream

if TYPE_CHECKING:
    from pyrtmp.aio.server import Server

CHALLENGE_STEP: Final = 0.1
"""Seconds between two looks at whether a challenged publisher still sends."""

MAX_UNSENT: Final = 1024 * 1024
"""Bytes of answers that may wait for a client that does not read."""

_FORM: Final = RtmpForm()


class _Play:
    """One message stream that plays, or waits for its stream."""

    __slots__ = ("audio", "msid", "request", "since", "stream", "video", "viewer", "waiter")

    def __init__(self, msid: int, stream: Stream, request: Request, since: float) -> None:
        self.msid = msid
        self.stream = stream
        self.request = request
        self.since = since
        self.viewer: KernelViewer | TransportViewer | None = None
        self.waiter: Callable[[], None] | None = None
        self.audio = self.video = True


class Connection(asyncio.Protocol):
    """A publisher, a player, or somebody who has not said yet."""

    __slots__ = (
        "_asked_at",
        "_kernel",
        "_lost",
        "_plays",
        "_publications",
        "_server",
        "_session",
        "_since_phase",
        "_task",
        "_timer",
        "_transport",
        "address",
        "agent",
        "app",
        "id",
        "protocol",
        "query",
        "since",
    )

    def __init__(self, server: Server, id: str) -> None:
        self._server = server
        self._session = ServerSession(server.limits)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._publications: dict[int, tuple[Stream, Request]] = {}
        self._plays: dict[int, _Play] = {}
        self._kernel: KernelViewer | None = None
        """The viewer that owns the socket's sending side."""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self.id = id
        self.protocol = "rtmp"
        self.address = ""
        self.agent = ""
        self.app = ""
        self.query = ""
        self.since = self._since_phase = monotonic()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else "unix"
        set_keepalive(transport.get_extra_info("socket"), self._server.timeouts.write_stall)
        self._server.connection_made(self)

    def data_received(self, data: bytes) -> None:
        session = self._session
        if session.state is Phase.HANDSHAKE:
            acknowledge_at_once(self._transport.get_extra_info("socket"))
        try:
            events = session.receive(data)
            if events:
                self._handle(events)
            if session.has_output:
                self._flush()
        except PeerError as error:
            self._fail(error)
        except Exception as error:
            # A bug in this package; it ends this connection and no other.
            self._server.counters.refused["internal"] += 1
            self._server.journal.error("internal_error", conn=self.id, address=self.address, error=repr(error))
            self._abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        now = monotonic()
        for msid in list(self._plays):
            self._stop_play(msid)
        for msid in list(self._publications):
            self._stop_publish(msid, now)
        self._server.connection_lost(self, self._session)

    # Facts (pyrtmp.aio.server.Client)

    @property
    def role(self) -> str:
        """What it is here for."""
        if self._publications:
            return "publish"
        if self._plays:
            return "play" if any(play.viewer for play in self._plays.values()) else "wait"
        return "idle"

    @property
    def key(self) -> StreamKey | None:
        """The stream it publishes or plays."""
        for stream, _ in self._publications.values():
            return stream.key
        for play in self._plays.values():
            return play.stream.key
        return None

    @property
    def bytes_in(self) -> int:
        """Bytes received."""
        return self._session.received

    @property
    def bytes_out(self) -> int:
        """Media bytes sent to its present viewers."""
        return sum(play.viewer.bytes_sent for play in self._plays.values() if play.viewer is not None)

    def kick(self) -> None:
        """Close the connection now."""
        self._server.journal.info("kicked", conn=self.id, address=self.address)
        self._close()

    # Deadlines

    def check(self, now: float) -> None:
        """Once a second: every state has a deadline."""
        timeouts = self._server.timeouts
        phase = self._session.state
        waited = now - self._since_phase
        if phase is Phase.HANDSHAKE:
            if waited > timeouts.handshake:
                self._expire("handshake_timeout")
        elif phase is Phase.AWAIT_CONNECT:
            if waited > timeouts.connect:
                self._expire("connect_timeout")
        elif self._publications:
            for stream, _ in self._publications.values():
                first = stream.bytes_in == 0 or stream.last_message == stream.started
                limit = timeouts.first_media if first else timeouts.media_idle
                if now - stream.last_message > limit:
                    self._expire("first_media_timeout" if first else "media_timeout")
                    return
        elif self._plays:
            wait = self._server.hub.settings.play_wait_seconds
            for play in list(self._plays.values()):
                if play.waiter is not None and now - play.since > wait:
                    self._refuse_waiting(play)
        elif not self._session.asked and waited > timeouts.request:
            self._expire("request_timeout")

    def _expire(self, reason: str) -> None:
        self._server.counters.refused[reason] += 1
        self._server.journal.warning("deadline", conn=self.id, address=self.address, reason=reason)
        self._close()

    # ViewerOwner

    def writable(self) -> bool:
        return not self._transport.get_write_buffer_size()

    def viewer_lost(self, reason: str) -> None:
        if not self._lost:
            self._server.journal.info("viewer_lost", conn=self.id, address=self.address, reason=reason)
            self._abort()

    def viewer_ended(self) -> None:
        for play in list(self._plays.values()):
            if play.stream.state is State.ENDED:
                self._leave_stream(play)
                self._session.end_play(play.msid)
                self._since_phase = monotonic()
        self._flush()

    def publisher_changed(self, live: bool) -> None:
        for play in self._plays.values():
            if play.viewer is not None:
                self._session.signal(control.STREAM_BEGIN if live else control.STREAM_EOF, play.msid)
        self._flush()

    # Publisher

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        for msid, (mine, request) in list(self._publications.items()):
            if mine is stream:
                del self._publications[msid]
                self._session.end_publish(msid, code, description)
                self._publish_done(request)
        self._server.journal.info("displaced", conn=self.id, stream=str(stream.key), code=code)
        self._flush()
        self._close()

    # Events

    def _handle(self, events: list[Event]) -> None:
        publications = self._publications
        now = 0.0
        for event in events:
            if type(event) is Message:
                publication = publications.get(event.msid)
                if publication is not None:
                    stream = publication[0]
                    if not now:
                        now = monotonic()
                    stream.last_message = now
                    stream.push(event)
            else:
                self._on_event(event)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ConnectAsked):
            self.app, self.query = event.app, event.query
            self.agent = str(event.parameters.get("flashVer", ""))[:128]
            self._decide(self._server.hooks.on_connect, self._request(None, event.query, event), self._connected)
        elif isinstance(event, PublishAsked):
            request = self._request(_key(event.name), event.query)
            self._decide(self._server.hooks.on_publish, request, lambda error: self._publish(event, request, error))
        elif isinstance(event, PlayAsked):
            self._stop_play(event.msid)
            request = self._request(_key(event.name), event.query)
            self._decide(self._server.hooks.on_play, request, lambda error: self._play(event, request, error))
        elif isinstance(event, Unpublished):
            self._stop_publish(event.msid, monotonic())
        elif isinstance(event, PlayStopped):
            self._stop_play(event.msid)
        elif isinstance(event, PauseAsked):
            viewer = self._viewer(event.msid)
            if viewer is not None:
                viewer.pause(event.paused)
                self._server.rounds.wake_once(viewer.stream)
        elif isinstance(event, SeekAsked):
            viewer = self._viewer(event.msid)
            if viewer is not None:
                viewer.jump()
                self._server.rounds.wake_once(viewer.stream)
        elif isinstance(event, ReceiveChanged):
            self._receive(event)
        elif isinstance(event, CallReceived):
            self._session.fail_call(event.transaction, event.name[:64])
        elif isinstance(event, ConnectionClosed):
            self._flush()
            self._close()

    def _request(self, key: StreamKey | None, query: str, connect: ConnectAsked | None = None) -> Request:
        return Request(
            self.id, self.address, "rtmp", self.app, key, query or self.query, connect.parameters if connect else {}
        )

    # Decisions: hooks may take their time, everybody else goes on

    def _decide(self, hook: Hook | None, request: Request, then: Callable[[RefusedError | None], None]) -> None:
        if hook is None:
            then(None)
            self._resume()
            return
        try:
            answer = hook(request)
        except RefusedError as error:
            then(error)
            self._resume()
        except Exception as error:
            self._hook_failed(error)
            then(_failure())
            self._resume()
        else:
            if answer is None:
                then(None)
                self._resume()
            else:
                self._transport.pause_reading()
                self._task = asyncio.get_running_loop().create_task(self._await_hook(answer, then))

    async def _await_hook(self, answer: Awaitable[None], then: Callable[[RefusedError | None], None]) -> None:
        refusal: RefusedError | None = None
        try:
            await answer
        except RefusedError as error:
            refusal = error
        except Exception as error:
            self._hook_failed(error)
            refusal = _failure()
        self._task = None
        if self._lost or self._transport.is_closing():
            return
        then(refusal)
        self._resume_later()

    def _hook_failed(self, error: Exception) -> None:
        self._server.journal.error("hook_failed", conn=self.id, error=repr(error))

    def _resume_later(self) -> None:
        """After an answer that came later: go on with what was held back, and read again."""
        try:
            self._resume()
        except PeerError as error:
            self._fail(error)
            return
        if not self._lost and not self._transport.is_closing():
            if not self._session.asked:
                self._transport.resume_reading()
            self._flush()

    def _resume(self) -> None:
        events = self._session.resume()
        if events:
            self._handle(events)

    def _connected(self, refusal: RefusedError | None) -> None:
        self._since_phase = monotonic()
        if refusal is None:
            self._session.accept_connect()
            return
        self._session.refuse_connect(refusal.code, str(refusal))
        self._refused("connect", self.app, refusal)
        self._flush()
        self._close()

    def _refused(self, what: str, name: str, refusal: RefusedError) -> None:
        self._server.counters.refused[what] += 1
        self._server.journal.warning(
            "refused", conn=self.id, address=self.address, what=what, name=name, code=refusal.code, why=str(refusal)
        )

    # Publish

    def _publish(self, event: PublishAsked, request: Request, refusal: RefusedError | None) -> None:
        key = _key(event.name)
        if refusal is None:
            stream = self._server.hub.find(*key)
            if stream is not None and stream.publisher is not None:
                self._transport.pause_reading()
                self._challenge(event, request, stream, stream.last_message)
                return
            try:
                self._begin_publish(event, request)
                return
            except RefusedError as error:
                refusal = error
        self._refuse_publish(event, refusal)

    def _refuse_publish(self, event: PublishAsked, refusal: RefusedError) -> None:
        self._session.refuse_publish(event.msid, refusal.code, str(refusal))
        self._refused("publish", event.name, refusal)
        self._flush()
        self._close()

    def _begin_publish(self, event: PublishAsked, request: Request) -> None:
        stream = self._server.hub.publish(_key(event.name), self, monotonic())
        self._publications[event.msid] = (stream, request)
        self._session.accept_publish(event.msid)
        self._server.counters.publishes += 1
        self._server.journal.info("publish", conn=self.id, address=self.address, stream=event.name, agent=self.agent)

    def _challenge(self, event: PublishAsked, request: Request, rival: Stream, seen: float) -> None:
        """Two publishers for one stream: the present one stays if it sends, and loses if it is silent."""
        now = monotonic()
        self._timer = None
        if rival.publisher is not None and rival.live:
            if rival.last_message > seen:
                self._refuse_publish(
                    event, RefusedError("NetStream.Publish.BadName", f"{event.name} is already being published.")
                )
                return
            if now - rival.last_message < self._server.hub.settings.takeover_seconds:
                self._timer = asyncio.get_running_loop().call_later(
                    CHALLENGE_STEP, self._challenge, event, request, rival, seen
                )
                return
            self._server.counters.takeovers += 1
            self._server.hub.displace(
                rival, now, "NetStream.Publish.BadName", "Another publisher took over a silent stream."
            )
        try:
            self._begin_publish(event, request)
        except RefusedError as error:
            self._refuse_publish(event, error)
            return
        self._resume_later()

    def _stop_publish(self, msid: int, now: float) -> None:
        publication = self._publications.pop(msid, None)
        if publication is None:
            return
        stream, request = publication
        self._since_phase = now
        self._server.journal.info(
            "unpublish", conn=self.id, stream=str(stream.key), seconds=round(now - stream.started, 1),
            bytes=stream.bytes_in, frames=stream.video_frames,
        )
        self._server.hub.unpublish(stream, self, now)
        self._publish_done(request)

    def _publish_done(self, request: Request) -> None:
        if self._server.hooks.on_publish_done is not None:
            self._server.hooks.on_publish_done(request)

    # Play

    def _play(self, event: PlayAsked, request: Request, refusal: RefusedError | None) -> None:
        now = monotonic()
        key = _key(event.name)
        try:
            if refusal is not None:
                raise refusal
            stream = self._server.hub.find(*key)
            live = stream is not None and stream.live
            if not live and event.start >= 0:
                raise RefusedError("NetStream.Play.StreamNotFound", f"There is no recording of {event.name}.")
            stream = self._server.hub.open(key, now)
        except RefusedError as error:
            self._session.refuse_play(event.msid, error.code, str(error))
            self._refused("play", event.name, error)
            self._since_phase = now
            return
        play = self._plays[event.msid] = _Play(event.msid, stream, request, now)
        if stream.live:
            self._session.accept_play(event.msid, reset=event.reset)
            self._start_viewer(play)
        else:
            self._session.defer_play(event.msid)
            play.waiter = lambda: self._publisher_came(play, event.reset)
            stream.wait(play.waiter)

    def _publisher_came(self, play: _Play, reset: bool) -> None:
        play.waiter = None
        if play.stream.live:
            self._session.accept_play(play.msid, reset=reset)
            self._start_viewer(play)
        else:
            self._refuse_waiting(play)
        self._flush()

    def _refuse_waiting(self, play: _Play) -> None:
        self._leave_stream(play)
        self._session.refuse_play(play.msid, "NetStream.Play.StreamNotFound", f"{play.stream.key} is not published.")
        self._server.counters.refused["play_timeout"] += 1
        self._since_phase = monotonic()
        self._flush()

    def _start_viewer(self, play: _Play) -> None:
        server = self._server
        lane = play.stream.lane(_FORM)
        stall = server.timeouts.write_stall
        alone = self._kernel is None and len(self._plays) == 1
        viewer: KernelViewer | TransportViewer
        if alone and play.msid == PLAY_MSID and lane.log.tail.fd >= 0 and not self._secure:
            sock = self._transport.get_extra_info("socket")
            viewer = self._kernel = KernelViewer(sock.fileno(), play.stream, lane, self, server.counters, stall)
        else:
            self._give_up_kernel()
            viewer = TransportViewer(
                self._transport, play.stream, lane, self, server.counters, stall, msid=play.msid
            )
        play.viewer = viewer
        server.counters.plays["rtmp"] += 1
        server.journal.info("play", conn=self.id, address=self.address, stream=str(play.stream.key), agent=self.agent)
        self._flush()
        server.rounds.wake_once(play.stream)

    @property
    def _secure(self) -> bool:
        return self._transport.get_extra_info("ssl_object") is not None

    def _give_up_kernel(self) -> None:
        """Another viewer needs the socket, or this one needs its records picked: use the transport from now on."""
        kernel = self._kernel
        if kernel is None:
            return
        for play in self._plays.values():
            if play.viewer is kernel:
                successor = TransportViewer(
                    self._transport, play.stream, kernel.lane, self, self._server.counters,
                    self._server.timeouts.write_stall, msid=play.msid,
                )
                successor.receive(play.audio, play.video)
                play.viewer = successor
                kernel.hand_over(successor)
                self._server.rounds.wake_once(play.stream)

    def kernel_left(self) -> None:
        self._kernel = None

    def transport_free(self) -> bool:
        return self._kernel is None

    def _receive(self, event: ReceiveChanged) -> None:
        play = self._plays.get(event.msid)
        if play is None:
            return
        play.audio, play.video = event.audio, event.video
        if isinstance(play.viewer, KernelViewer) and not (event.audio and event.video):
            self._give_up_kernel()
        elif isinstance(play.viewer, TransportViewer):
            play.viewer.receive(event.audio, event.video)

    def _viewer(self, msid: int) -> KernelViewer | TransportViewer | None:
        play = self._plays.get(msid)
        return play.viewer if play is not None else None

    def _stop_play(self, msid: int) -> None:
        play = self._plays.get(msid)
        if play is not None:
            self._leave_stream(play)
            self._since_phase = monotonic()

    def _leave_stream(self, play: _Play) -> None:
        self._plays.pop(play.msid, None)
        if play.waiter is not None:
            play.stream.stop_waiting(play.waiter)
            play.waiter = None
        viewer = play.viewer
        if viewer is None:
            return
        self._server.journal.info(
            "stop", conn=self.id, stream=str(play.stream.key), seconds=round(monotonic() - play.since, 1),
            bytes=viewer.bytes_sent, skips=viewer.skips,
        )
        if isinstance(viewer, KernelViewer):
            rest = viewer.retire()
            self._kernel = None
            if rest and not self._lost:
                self._transport.write(rest)
        else:
            viewer.leave()
        if self._server.hooks.on_play_done is not None:
            self._server.hooks.on_play_done(play.request)

    # Output

    def _flush(self) -> None:
        data = self._session.take_output()
        if not data or self._lost:
            return
        kernel = self._kernel
        if kernel is not None and kernel.may_write():
            kernel.control(data, monotonic())
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self._server.counters.refused["flood"] += 1
            self._server.journal.warning("flood", conn=self.id, address=self.address)
            self._abort()

    def _fail(self, error: PeerError) -> None:
        self._server.counters.refused[error.reason] += 1
        self._server.journal.warning(
            "protocol_error", conn=self.id, address=self.address, reason=error.reason, why=str(error)
        )
        self._flush()
        self._close()

    def _close(self) -> None:
        """Let answers out, then close."""
        for msid in list(self._plays):
            self._stop_play(msid)
        if not self._lost:
            self._transport.close()

    def _abort(self) -> None:
        """Close without another byte."""
        self._transport.abort()


def _key(name: str) -> StreamKey:
    app, _, stream = name.rpartition("/")
    return StreamKey(app, stream)


def _failure() -> RefusedError:
    return RefusedError("NetStream.Failed", "The server could not decide.")


def set_keepalive(sock: socket.socket | None, stall: float) -> None:
    """Have the kernel notice peers that vanished, whether or not there is something to send."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int((stall + 5) * 1000))


def acknowledge_at_once(sock: socket.socket | None) -> None:
    """Not delay the next acknowledgement.

    Clients that leave Nagle's algorithm on send connect only when their half of the handshake is acknowledged,
    which costs their viewer 40 ms of nothing.
    """
    if sock is not None and sys.platform == "linux" and sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
