"""An RTMP client on asyncio: publish to a server, or play from one."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

from pyrtmp.aio.sockets import bound_unsent, set_keepalive
from pyrtmp.errors import LocalError, RefusedError
from pyrtmp.message import Message
from pyrtmp.session import ClientSession
from pyrtmp.session.events import Event, HandshakeDone, ResultReceived, StatusReceived
from pyrtmp.settings import Limits

_HIGH_WATER: Final = 1024 * 1024

_MAX_EVENTS: Final = 512
"""Events that wait for the caller; beyond it no more is read from the server."""

_STALL_SECONDS: Final = 10.0
"""A server that acknowledges nothing for so long (and a little longer) is gone."""

_CLOSE_SECONDS: Final = 2.0
"""How long the last bytes may take to get out."""


@dataclass(frozen=True, slots=True)
class RtmpUrl:
    """``rtmp[s]://host[:port]/app/name[?query]``; the last part of the path is the stream."""

    host: str
    port: int
    app: str
    name: str
    """With its query."""
    secure: bool

    @classmethod
    def parse(cls, url: str) -> RtmpUrl:
        """Raises ``LocalError`` for anything else."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise LocalError(f"{url!r}: {error}") from None
        if parts.scheme not in ("rtmp", "rtmps") or not parts.hostname:
            raise LocalError(f"{url!r} is not an rtmp:// or rtmps:// URL")
        app, _, name = parts.path.strip("/").rpartition("/")
        if not app or not name:
            raise LocalError(f"{url!r} does not name an application and a stream (rtmp://host/app/stream)")
        secure = parts.scheme == "rtmps"
        query = f"?{parts.query}" if parts.query else ""
        return cls(parts.hostname, port or (443 if secure else 1935), app, name + query, secure)

    @property
    def tc_url(self) -> str:
        """The URL of the application."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rtmps' if self.secure else 'rtmp'}://{host}:{self.port}/{self.app}"


class Client(asyncio.Protocol):
    """One connection to a server.  Make it with ``connect``; use it as an async context manager.

    ``RefusedError`` is the server's refusal with its status code, ``PeerError`` a broken protocol,
    ``ConnectionError`` a lost connection.
    """

    def __init__(self, url: RtmpUrl, limits: Limits | None = None) -> None:
        self.url = url
        self.information: Mapping[str, Any] = {}
        """What the server answered to connect."""
        self._session = ClientSession(limits or Limits())
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: Exception | None = None
        self._lost = asyncio.get_running_loop().create_future()
        self._holding = False
        self._msid = 0
        self._publishing = False
        self._sink: Callable[[Sequence[Event]], None] | None = None

    @classmethod
    async def connect(
        cls, url: str, *, timeout: float = 10.0, limits: Limits | None = None, tls: ssl.SSLContext | None = None,
        introduce: Callable[[bytes], Mapping[str, Any]] | None = None, **parameters: Any,
    ) -> Client:
        """Connect, shake hands, ``connect`` to the application and create a message stream.

        ``parameters`` join the command object, and those that ``introduce`` gives for ``Session.binding``.
        """
        target = RtmpUrl.parse(url)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            context = (tls or ssl.create_default_context()) if target.secure else None
            _, client = await loop.create_connection(lambda: cls(target, limits), target.host, target.port, ssl=context)
            try:
                await client._until(HandshakeDone)
                if introduce is not None:
                    parameters |= introduce(client._session.binding)
                client._session.connect(target.app, target.tc_url, **parameters)
                client.information = _information(await client._result())
                client._session.create_stream()
                result = await client._result()
                client._msid = int(result.values[1]) if len(result.values) > 1 else 1
            except BaseException:
                client.abort()
                await asyncio.shield(client._lost)
                raise
        return client

    async def publish(self, *, timeout: float = 10.0) -> None:
        """Ask to publish the URL's stream; returns when the server agreed."""
        self._session.publish(self._msid, self.url.name)
        await self._started("NetStream.Publish.Start", timeout)
        self._publishing = True

    async def send(self, message: Message) -> None:
        """Publish one message; waits while the server does not keep up."""
        if self._error is not None:
            raise self._error
        self._session.send_message(self._msid, message)
        self._flush()
        if not self._writable.is_set():
            await self._writable.wait()
            if self._error is not None:
                raise self._error

    def send_many(self, messages: Iterable[Message]) -> int:
        """Publish messages in one write, without waiting: the bytes written, 0 once the connection is over.

        Whoever calls bounds ``unsent``, and learns from ``wait_closed`` what ended the connection.
        """
        if self._error is not None or self._transport.is_closing():
            return 0
        session, msid = self._session, self._msid
        for message in messages:
            session.send_message(msid, message)
        data = session.take_output()
        if data:
            self._transport.write(data)
        return len(data)

    @property
    def unsent(self) -> int:
        """Bytes that wait here because the server does not take them."""
        return self._transport.get_write_buffer_size()

    async def wait_closed(self) -> Exception:
        """What ended publishing or playing, once it did: a refusal, a broken protocol, a lost connection."""
        while self._error is None:
            self._arrived.clear()
            await self._arrived.wait()
        return self._error

    async def play(self, *, timeout: float = 40.0) -> AsyncIterator[Message]:
        """Play the URL's stream: its messages until it ends."""
        self._session.play(self._msid, self.url.name)
        await self._started("NetStream.Play.Start", timeout)
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, Message):
                    yield event
                elif isinstance(event, StatusReceived):
                    if event.code in ("NetStream.Play.Stop", "NetStream.Play.UnpublishNotify"):
                        return
                    if event.level == "error":
                        raise RefusedError(event.code, event.description)
            await self._wait()

    async def play_into(self, sink: Callable[[Sequence[Event]], None], *, timeout: float = 10.0) -> StatusReceived:
        """Play the URL's stream: ``sink`` is called with whatever comes, as soon as it comes.

        The server's answer.  After it ``wait_closed`` tells of the end of the connection; what ``sink`` raises ends it.
        """
        self._session.play(self._msid, self.url.name)
        started = await self._started("NetStream.Play.Start", timeout)
        if self._events:
            sink(list(self._events))
            self._events.clear()
        self._sink = sink
        if self._holding:
            self._holding = False
            self._transport.resume_reading()
        return started

    def call(self, name: str) -> int:
        """Send a command; the ``ResultReceived`` of the number returned goes to the sink of ``play_into``."""
        transaction = self._session.call(name)
        self._flush()
        return transaction

    async def close(self, *, timeout: float = _CLOSE_SECONDS) -> None:
        """End the stream cleanly and close; what is not sent after ``timeout`` seconds is given up."""
        if self._error is None:
            if self._publishing:
                self._session.unpublish(self._msid, self.url.name)
            elif self._msid:
                self._session.delete_stream(self._msid)
            self._flush()
        self._transport.close()
        await asyncio.wait((self._lost,), timeout=timeout)
        if not self._lost.done():
            self._transport.abort()
            await asyncio.shield(self._lost)

    @property
    def binding(self) -> bytes:
        """See ``Session.binding``."""
        return self._session.binding

    def abort(self) -> None:
        """Close without another byte."""
        self._transport.abort()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_HIGH_WATER)
        sock = transport.get_extra_info("socket")
        set_keepalive(sock, _STALL_SECONDS)
        bound_unsent(sock)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._session.receive(data)
            if self._sink is not None:
                self._sink(events)
            else:
                self._events.extend(events)
        except Exception as error:
            # What a peer can cause is a PeerError; anything else is a bug of this package or of a sink.
            self._error = error
            self._transport.abort()
        self._flush()
        if self._sink is not None and self._error is None:
            return
        if self._publishing:
            self._watch_publish()
        elif len(self._events) > _MAX_EVENTS and not self._holding:
            self._holding = True
            self._transport.pause_reading()
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._error is None:
            self._error = ConnectionError("the server closed the connection" if exc is None else str(exc))
        self._arrived.set()
        self._writable.set()
        self._lost.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # Inside

    def _watch_publish(self) -> None:
        """While publishing nobody reads the events: keep none, but see an error status."""
        for event in self._events:
            if isinstance(event, StatusReceived) and event.level == "error":
                self._error = RefusedError(event.code, event.description)
        self._events.clear()

    def _flush(self) -> None:
        data = self._session.take_output()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._flush()
        if self._holding:
            self._holding = False
            self._transport.resume_reading()
        self._arrived.clear()
        await self._arrived.wait()
        if self._error is not None and not self._events:
            raise self._error

    async def _next(self) -> Event:
        while not self._events:
            await self._wait()
        return self._events.popleft()

    async def _until(self, kind: type[Event]) -> None:
        while not isinstance(await self._next(), kind):
            pass

    async def _result(self) -> ResultReceived:
        while True:
            event = await self._next()
            if isinstance(event, ResultReceived):
                if event.ok:
                    return event
                info = _information(event)
                raise RefusedError(str(info.get("code", "NetConnection.Call.Failed")), str(info.get("description", "")))

    async def _started(self, code: str, timeout: float) -> StatusReceived:
        async with asyncio.timeout(timeout):
            while True:
                event = await self._next()
                if isinstance(event, StatusReceived):
                    if event.code == code:
                        return event
                    if event.level == "error":
                        raise RefusedError(event.code, event.description)


def _information(result: ResultReceived) -> dict[str, Any]:
    values = result.values
    return values[1] if len(values) > 1 and isinstance(values[1], dict) else {}
