"""One RTMP client's connection: the asyncio skin around ``ServerSession``.

::

    socket --data_received--> session --events--> connection --hooks?--> publishing --> hub, stream
                                 |                                  '--> playing ----> viewers (send by themselves)
    socket <-------flush------- answers (between the records of a viewer, see pyrtmp.aio.viewers)
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from pyrtmp import delay, proxy
from pyrtmp.aio.playing import Playing
from pyrtmp.aio.publishing import Publishing
from pyrtmp.aio.sockets import GATHERED_BYTES, acknowledge_at_once, report_from, set_keepalive, tcp_info
from pyrtmp.errors import PeerError, RefusedError
from pyrtmp.hooks import DESCRIPTION_CHARS, DESCRIPTIONS, Hook, Request
from pyrtmp.kin import ENTRY, STRANGER, Kin
from pyrtmp.kinship import ASKS
from pyrtmp.message import DATA_AMF0, Message
from pyrtmp.names import StreamKey
from pyrtmp.session import ServerSession
from pyrtmp.session.base import RECONNECT
from pyrtmp.session.events import (
    CallReceived,
    ConnectAsked,
    ConnectionClosed,
    Event,
    HandshakeDone,
    PauseAsked,
    PlayAsked,
    PlayStopped,
    PublishAsked,
    ReceiveChanged,
    SeekAsked,
    Unpublished,
)
from pyrtmp.session.states import Connection as Phase
from pyrtmp.stream import Stream
from pyrtmp.tcpinfo import TcpInfo

if TYPE_CHECKING:
    from pyrtmp.aio.server import Server

MAX_UNSENT: Final = 1024 * 1024
"""Bytes of answers that may wait for a client that does not read."""

_READ_BYTES: Final = 64 * 1024
_MAX_READS: Final = 16
_READ_SECONDS: Final = 0.02

_TURN_BYTES: Final = 128 * 1024
"""After so many bytes at once others have their turn.  libuv would go on: up to 32 times 250 kB, and parsing as many
bytes of the smallest messages takes seconds."""

CLOSE_SECONDS: Final = 2.0
"""How long the last answers of a closing connection may take to get out."""

_Then: TypeAlias = Callable[[RefusedError | None, StreamKey | None], None]
"""Goes on with what a hook said."""


class Connection(asyncio.Protocol):
    """A publisher, a player, or somebody who has not said yet."""

    __slots__ = (
        "_connected",
        "_header",
        "_held",
        "_since",
        "_socket",
        "_task",
        "_unsent",
        "address",
        "agent",
        "app",
        "closing",
        "descriptions",
        "id",
        "kin",
        "playing",
        "protocol",
        "publishing",
        "query",
        "reason",
        "reconnects",
        "sending",
        "server",
        "session",
        "since",
        "transport",
    )

    def __init__(self, server: Server, id: str, sock: socket.socket, address: str, *, proxied: bool = False) -> None:
        self.server = server
        self._socket = sock
        """The transport's, which closes it.  What uvloop's transport gives makes a socket object for every option."""
        self.session = ServerSession(server.limits)
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.publishing = Publishing(self)
        self.playing = Playing(self)
        self.closing = False
        """Nothing it sends counts any more."""
        self.sending = True
        """Whether bytes may still be written to the transport."""
        self.reason = "gone"
        """Why it ends, for the log; by itself, until this side has another one."""
        self.id = id
        self.protocol = "rtmp"
        self.address = address
        self.agent = ""
        self.kin = STRANGER
        self.reconnects = False
        """It said that it may be asked to reconnect."""
        self.app = ""
        self.query = ""
        self.descriptions: dict[str, Any] = {}
        """See ``Request.parameters``."""
        self.since = self._since = monotonic()
        self._connected = False
        self._header: bytearray | None = bytearray() if proxied else None
        """Of the PROXY protocol, as far as it came; ``address`` is the balancer's until it is there."""
        self._held = False
        self._task: asyncio.Task[None] | None = None
        self._unsent = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connected = True
        if self.closing:
            self.transport.abort()
            return
        self._since = monotonic()
        set_keepalive(self._socket, self.server.timeouts.write_stall)
        self.server.counters.connections += 1

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        session = self.session
        try:
            if self._header is not None:
                data = self._skip_header(self._header, data)
                if not data:
                    return
            shaking = session.state is Phase.HANDSHAKE
            events = session.receive(data)
            if events:
                self._handle(events)
            if session.has_output:
                self.flush()  # an answer acknowledges what it answers
            elif shaking:
                acknowledge_at_once(self._socket)
            if len(data) > _TURN_BYTES and not self.closing:
                self.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self._read_on)
        except Exception as error:
            self._fail(error)

    def _skip_header(self, header: bytearray, data: bytes) -> bytes:
        """Take the balancer's word for who the client is; what of ``data`` is the client's."""
        before = len(header)
        header += data[: proxy.MAX_BINARY - before]
        found = proxy.parse(header)
        if found is None:
            return b""
        self._header = None
        address, length = found
        if address and not self.server.readdress(self, address):
            self.abort()
            return b""
        return data[length - before :]

    def _read_on(self) -> None:
        if not self.closing and not self._held:
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.sending = False
        if self._task is not None:
            self._task.cancel()
        try:
            self.publishing.close()
            self.playing.close()
        finally:
            self.server.connection_lost(self)

    # pyrtmp.aio.intake.Source

    @property
    def readable_by_rounds(self) -> bool:
        """Whether its bytes may be taken from the socket itself: plain TCP where ``SO_RCVLOWAT`` has its meaning."""
        return sys.platform == "linux" and self.transport.get_extra_info("ssl_object") is None

    @property
    def watched(self) -> bool:
        """Whether anybody wants what it publishes."""
        return any(stream.wanted for stream in self.publishing.streams.values())

    def gather(self, on: bool) -> None:
        """Have the kernel keep what comes until much has gathered, or report everything at once again."""
        report_from(self._socket, GATHERED_BYTES if on else 1)

    def read(self) -> None:
        """Take what has come; its end and its errors are left for the loop to find."""
        descriptor = self._socket.fileno()
        # Several reads, bounded: a publisher that never stops sending must not make the round endless.
        until = monotonic() + _READ_SECONDS
        for _ in range(_MAX_READS):
            if self.closing or self._held:
                return
            try:
                data = os.read(descriptor, _READ_BYTES)
            except OSError:
                return
            if data:
                self.data_received(data)
            if len(data) < _READ_BYTES or monotonic() > until:
                return

    # Facts (pyrtmp.aio.server.Client)

    @property
    def role(self) -> str:
        """What it is here for."""
        if self.publishing.streams:
            return "publish"
        if self.playing:
            return "play" if self.playing.started else "wait"
        return "idle"

    @property
    def key(self) -> StreamKey | None:
        """The stream it publishes or plays."""
        for stream in self.publishing.streams.values():
            return stream.key
        return self.playing.key

    @property
    def bytes_in(self) -> int:
        """Bytes received."""
        return self.session.received

    @property
    def bytes_out(self) -> int:
        """Media bytes sent to its present viewers."""
        return self.playing.bytes_sent

    def path(self) -> TcpInfo | None:
        """See ``pyrtmp.aio.server.Client``."""
        return tcp_info(self._socket) if self._connected else None

    def kick(self) -> None:
        """Close the connection now."""
        if not self.closing:
            self.reason = "kicked"
            self.server.journal.info("kicked", conn=self.id, address=self.address)
            self.close()

    def ask_to_reconnect(self) -> None:
        """Have the client move to another server, if it knows how to."""
        if not self.closing and self.session.state is Phase.CONNECTED:
            self.session.ask_to_reconnect("The server is draining.")
            self.flush()

    # Deadlines

    def check(self, now: float) -> None:
        """Every state has a deadline; called at every tick of the server."""
        timeouts = self.server.timeouts
        waited = now - self._since
        phase = self.session.state
        if not self._connected:
            return  # TLS has a deadline of its own
        if self.closing:
            if waited > CLOSE_SECONDS:
                self.transport.abort()
        elif phase is Phase.HANDSHAKE:
            if waited > timeouts.handshake:
                self._expire("handshake_timeout")
        elif phase is Phase.AWAIT_CONNECT:
            if waited > timeouts.connect:
                self._expire("connect_timeout")
        elif self._task is not None:
            if waited > timeouts.request:
                self._expire("hook_timeout")
        elif self.publishing.streams or self.playing:
            overdue = self.publishing.overdue(now)
            if overdue:
                self._expire(overdue)
            else:
                self.publishing.obey_rate(now)
                self.playing.check(now)
            self._since = now
        elif not self.session.asked and waited > timeouts.request:
            self._expire("request_timeout")

    def _expire(self, reason: str) -> None:
        self.reason = reason
        self.server.counters.refused[reason] += 1
        self.server.journal.warning("deadline", conn=self.id, address=self.address, reason=reason)
        self.close()

    # pyrtmp.stream.Publisher

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        """Another publisher or an operator took the stream away."""
        self.publishing.displaced(stream, code, description)
        self.flush()
        self.close()

    # Events

    def _handle(self, events: list[Event]) -> None:
        streams = self.publishing.streams
        now = 0.0
        while events and not self.closing:
            for event in events:
                if type(event) is Message:
                    stream = streams.get(event.msid)
                    if stream is not None:
                        if event.type != DATA_AMF0:
                            if not now:
                                now = monotonic()
                            stream.last_message = now
                        stream.push(event)
                else:
                    handler = self._HANDLERS.get(type(event))
                    if handler is not None:
                        handler(self, event)
            # A question is the last event of its list; answered by now, it lets out what was held back behind it.
            events = self.session.resume()

    def _on_handshake(self, event: HandshakeDone) -> None:
        self._since = monotonic()

    def _on_connect(self, event: ConnectAsked) -> None:
        self.app, self.query = event.app, event.query
        texts = {"tcUrl": event.tc_url} | {name: event.parameters.get(name) for name in DESCRIPTIONS[1:]}
        self.descriptions = {
            name: text[:DESCRIPTION_CHARS] for name, text in texts.items() if text and isinstance(text, str)
        }
        self.agent = str(event.parameters.get("flashVer", ""))[:128]
        greeting = None
        if ENTRY in event.parameters:
            kinship = self.server.kinship
            self.kin, doubt = kinship.read(event.parameters, ASKS, self.session.binding)
            if doubt:
                self.server.doubted(self.id, self.address, doubt)
            if doubt or self.kin.node:
                greeting = kinship.greeting(Kin(node=self.server.node), not doubt, self.session.binding)
        abilities = event.parameters.get("capsEx")
        self.reconnects = isinstance(abilities, float) and 0 <= abilities < 2**32 and bool(int(abilities) & RECONNECT)
        unwelcome = self.server.unwelcome(self.kin)
        if unwelcome:
            self._connect(RefusedError("NetConnection.Connect.Rejected", unwelcome))
            return
        request = Request(self.id, self.address, self.protocol, event.app, None, event.query, event.parameters)
        self._decide(
            self.server.hooks.on_connect, request, lambda refusal, _: self._connect(refusal, greeting)
        )

    def _on_publish(self, event: PublishAsked) -> None:
        key = _key(event.name)
        request = self._request("publish", key, event.query)
        self._decide(
            self.server.hooks.on_publish, request,
            lambda refusal, instead: self.publishing.start(event, request, instead or key, refusal),
        )

    def _on_play(self, event: PlayAsked) -> None:
        key = _key(event.name)
        request = self._request("play", key, event.query)
        self._decide(
            self.server.hooks.on_play, request,
            lambda refusal, instead: self.playing.start(event, request, instead or key, refusal),
        )

    def _on_unpublished(self, event: Unpublished) -> None:
        self.publishing.stop(event.msid, "stopped")

    def _on_play_stopped(self, event: PlayStopped) -> None:
        self.playing.stop(event.msid, "stopped")

    def _on_pause(self, event: PauseAsked) -> None:
        self.playing.pause(event.msid, event.paused)

    def _on_seek(self, event: SeekAsked) -> None:
        self.playing.seek(event.msid)

    def _on_receive(self, event: ReceiveChanged) -> None:
        self.playing.receive(event)

    def _on_call(self, event: CallReceived) -> None:
        if event.name == delay.CALL and self.kin.node and self.playing:
            self.session.return_call(event.transaction, self.playing.standing())
        else:
            self.session.fail_call(event.transaction, event.name)

    def _on_closed(self, event: ConnectionClosed) -> None:
        self.flush()
        self.close()

    _HANDLERS: Final[dict[type, Callable[[Connection, Any], None]]] = {
        HandshakeDone: _on_handshake,
        ConnectAsked: _on_connect,
        PublishAsked: _on_publish,
        PlayAsked: _on_play,
        Unpublished: _on_unpublished,
        PlayStopped: _on_play_stopped,
        PauseAsked: _on_pause,
        SeekAsked: _on_seek,
        ReceiveChanged: _on_receive,
        CallReceived: _on_call,
        ConnectionClosed: _on_closed,
    }

    def _request(self, action: str, key: StreamKey, query: str) -> Request:
        kinship = self.server.kinship
        return Request(
            self.id, self.address, self.protocol, self.app, key, query or self.query, self.descriptions,
            kinship.admitted_by(self.kin, action, key), kinship.proved_by(self.kin),
        )

    # Decisions: hooks may take their time, everybody else goes on

    def _decide(self, hook: Hook | None, request: Request, then: _Then) -> None:
        refusal: RefusedError | None = None
        answer: Awaitable[StreamKey | None] | StreamKey | None = None
        if hook is not None:
            try:
                answer = hook(request)
            except Exception as error:
                refusal = self._refusal(error)
        if answer is None or isinstance(answer, StreamKey):
            then(refusal, answer)
            return
        self.hold()
        self._since = monotonic()
        self._task = asyncio.get_running_loop().create_task(self._await_hook(answer, then))

    async def _await_hook(self, answer: Awaitable[StreamKey | None], then: _Then) -> None:
        refusal: RefusedError | None = None
        instead: StreamKey | None = None
        try:
            instead = await answer
        except Exception as error:
            refusal = self._refusal(error)
        self._task = None
        if not self.closing:
            self.guard(lambda: self._decided(then, refusal, instead))

    def _decided(self, then: _Then, refusal: RefusedError | None, instead: StreamKey | None) -> None:
        then(refusal, instead)
        self.go_on()

    def _refusal(self, error: Exception) -> RefusedError:
        if isinstance(error, RefusedError):
            return error
        self.server.journal.error("hook_failed", conn=self.id, error=repr(error))
        return RefusedError("NetStream.Failed", "The server could not decide.")

    def hold(self) -> None:
        """A question takes time: read no more until ``go_on``."""
        self._held = True
        self.transport.pause_reading()

    def go_on(self) -> None:
        """A question that took time is answered: on with what was held back, and read again."""
        if self.closing:
            return
        self._since = monotonic()
        self._handle(self.session.resume())
        if not self.closing and not self.session.asked:
            self._held = False
            self.transport.resume_reading()
        self.flush()

    def _connect(self, refusal: RefusedError | None, greeting: dict[str, Any] | None = None) -> None:
        self._since = monotonic()
        if refusal is None:
            self.session.accept_connect(greeting)
            return
        self.session.refuse_connect(refusal.code, str(refusal))
        self.refused("connect", self.app, refusal)
        self.flush()
        self.close()

    def refused(self, what: str, name: str, refusal: RefusedError) -> None:
        """Count and log a request turned down."""
        self.server.turned_down(self.id, self.address, what, name, refusal)

    def done(self, hook: Callable[[Request], None] | None, request: Request) -> None:
        """Tell a hook that its client is done."""
        if hook is not None:
            try:
                hook(request)
            except Exception as error:
                self.server.journal.error("hook_failed", conn=self.id, error=repr(error))

    # Output and the end

    def flush(self) -> None:
        """Send what the session has to say."""
        data = self.session.take_output()
        if not data or self.closing:
            return
        kernel = self.playing.kernel
        if kernel is not None and kernel.may_write():
            kernel.control(data, monotonic())
            return
        if not self.transport.get_write_buffer_size():
            self._unsent = 0
        self._unsent += len(data)
        if self._unsent > MAX_UNSENT:
            self.reason = "flood"
            self.server.counters.refused["flood"] += 1
            self.server.journal.warning("flood", conn=self.id, address=self.address)
            self.abort()
            return
        self.transport.write(data)

    def guard(self, step: Callable[[], None]) -> None:
        """Do something that did not begin in ``data_received`` under the same rule: a fault ends this connection."""
        if self.closing:
            return
        try:
            step()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """The one boundary: whatever went wrong ends this connection and no other, with one line."""
        if isinstance(error, PeerError):
            self.reason = error.reason
            self.server.counters.refused[error.reason] += 1
            self.server.journal.warning(
                "protocol_error", conn=self.id, address=self.address, reason=error.reason, why=str(error)
            )
            self.flush()
            self.close()
        else:
            self.reason = "internal"
            self.server.counters.refused["internal"] += 1
            self.server.journal.error("internal_error", conn=self.id, address=self.address, error=repr(error))
            self.abort()

    def close(self) -> None:
        """End what it publishes and plays, let answers out, close."""
        if self.closing:
            return
        self.closing = True
        self._since = monotonic()
        self.publishing.close()
        self.playing.close()
        if self._connected:
            self.transport.close()

    def abort(self) -> None:
        """Close without another byte."""
        self.sending = False
        if not self.closing:
            self.closing = True
            self.publishing.close()
            self.playing.close()
        if self._connected:
            self.transport.abort()


def _key(name: str) -> StreamKey:
    app, _, stream = name.rpartition("/")
    return StreamKey(app, stream)
