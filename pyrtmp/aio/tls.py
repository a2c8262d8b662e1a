"""Connections with TLS: OpenSSL reads and writes the socket itself.

asyncio and uvloop have it work on memory in between: two copies more of every byte, and buffers that grow to the
longest write and stay.  Viewers are many, so here the socket is OpenSSL's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from socket import socket
from typing import Any, Final, cast

from pyrtmp.aio.sockets import send_at_once

_RECORD: Final = 16 * 1024
"""Plaintext of the longest record (RFC 8446, 5.1): no read yields more."""

_MAX_RECORDS: Final = 16
"""After so many in one go others have their turn."""

_PIECE: Final = 64 * 1024
"""OpenSSL takes a piece as a whole or, as far as anybody can see, not at all; in these, progress shows."""

_HIGH_WATER: Final = 64 * 1024
"""asyncio's own: ``pause_writing`` beyond it, ``resume_writing`` at a quarter of it."""


class TlsTransport(asyncio.Transport):
    """The server's end of a connection, from the handshake on.

    ``sock``, non-blocking, belongs to it from here on.  ``shaken`` is told once how the handshake ended: with None, and
    gives the protocol that has the connection from then on; or with the error, when the socket is closed already
    (``ssl.SSLError``, what ``expire`` was given, any other ``OSError``).  After ``abort`` it is told nothing.

    Bytes given to ``write`` are kept, not copied, until they are sent.  Closing says so to the peer
    (``close_notify``; RFC 8446, 6.1) and does not wait for its answer.
    """

    __slots__ = (
        "_closed", "_closing", "_context", "_high", "_loop", "_low", "_paused", "_peername", "_protocol", "_queue",
        "_queued", "_reading", "_shaken", "_sock", "_sockname", "_writing",
    )  # fmt: skip

    def __init__(
        self, sock: socket, context: ssl.SSLContext, shaken: Callable[[OSError | None], asyncio.BaseProtocol | None]
    ) -> None:
        """Raises ``OSError``: the peer has gone already."""
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._shaken = shaken
        self._protocol: asyncio.Protocol | None = None
        self._peername = sock.getpeername()
        self._sockname = sock.getsockname()
        send_at_once(sock)
        self._sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0
        self._low, self._high = _HIGH_WATER // 4, _HIGH_WATER
        self._paused = False
        """The protocol has been asked to write no more."""
        self._closing = False
        self._closed = False
        self._reading = True
        self._writing = False
        """The loop reports when the socket takes more."""
        self._loop.add_reader(self._sock.fileno(), self._readable)

    # The handshake

    def _shake(self) -> None:
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._watch(True)
            return
        except OSError as error:
            self._fail(error)
            return
        self._watch(False)
        self._tell(self._begin)

    def _begin(self) -> None:
        self._protocol = cast(asyncio.Protocol, self._shaken(None))
        self._protocol.connection_made(self)

    def expire(self, error: OSError) -> None:
        """Break off the handshake, if it still goes on."""
        if self._protocol is None and not self._closed:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._discard()
        self._end(None)
        self._shaken(error)

    # Reading

    def _readable(self) -> None:
        if self._protocol is None:
            self._shake()
            if self._protocol is None:
                return
        for _ in range(_MAX_RECORDS):
            if not self._reading or self._closing:
                return
            try:
                data = self._sock.recv(_RECORD)
            except ssl.SSLWantReadError:
                return
            except OSError as error:
                self._end(error)
                return
            if not data:
                self._tell(self._protocol.eof_received)
                self.close()
                return
            self._tell(self._protocol.data_received, data)
            # OpenSSL has taken no more from the socket than this record: the loop tells of what is behind it.
            if len(data) < _RECORD:
                return

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        if self.is_reading():
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        whole = data if isinstance(data, bytes) else bytes(data)
        if len(whole) <= _PIECE:
            self._queue.append(whole)
        else:
            view = memoryview(whole)
            self._queue.extend(view[start : start + _PIECE] for start in range(0, len(whole), _PIECE))
        self._queued += len(whole)
        if not self._writing:
            self._send()
        if self._queued > self._high and not self._paused and self._protocol is not None:
            self._paused = True
            self._tell(self._protocol.pause_writing)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        parts = list(list_of_data)
        if sum(map(len, parts)) <= _RECORD:
            self.write(b"".join(parts))
        else:
            for part in parts:
                self.write(part)

    def _send(self) -> None:
        queue = self._queue
        try:
            while queue:
                self._sock.send(queue[0])
                self._queued -= len(queue.popleft())
        except ssl.SSLWantWriteError:
            self._watch(True)  # the same piece has to be offered again
        except OSError as error:
            self._end(error)
        else:
            self._watch(False)

    def _writable(self) -> None:
        if self._protocol is None:
            self._shake()
            return
        self._send()
        if self._closed:
            return
        if self._paused and self._queued <= self._low:
            self._paused = False
            self._tell(self._protocol.resume_writing)
        if self._closing and not self._queue:
            self._goodbye()

    def _watch(self, on: bool) -> None:
        if on != self._writing:
            self._writing = on
            if on:
                self._loop.add_writer(self._sock.fileno(), self._writable)
            else:
                self._loop.remove_writer(self._sock.fileno())

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the socket; a piece that is under way counts whole."""
        return self._queued

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        self._high = high
        self._low = high // 4 if low is None else low

    def can_write_eof(self) -> bool:
        return False

    # The end

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Send what waits, say goodbye, close."""
        if self._closing:
            return
        self.pause_reading()
        self._closing = True
        if not self._queue:
            self._goodbye()

    def _goodbye(self) -> None:
        try:
            self._sock.unwrap()
        except ssl.SSLWantReadError:
            pass  # for the answer
        except (OSError, ValueError):
            self._discard()
        self._end(None)

    def _discard(self) -> None:
        """Take what has come: closed on top of it, the kernel sends a reset in place of what was said last."""
        with contextlib.suppress(OSError):
            socket.recv(self._sock, _PIECE)

    def abort(self) -> None:
        """Close without another byte."""
        self._end(None)

    def _end(self, error: OSError | None) -> None:
        if self._closed:
            return
        self.pause_reading()
        self._watch(False)
        self._closed = self._closing = True
        self._queue.clear()
        self._queued = 0
        self._sock.close()
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, error)

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        """Have the protocol know; if it fails at that, its connection is over and the loop is told."""
        try:
            what(*arguments)
        except Exception as error:
            self._loop.call_exception_handler({
                "message": f"{what.__qualname__} failed", "exception": error, "transport": self,
                "protocol": self._protocol,
            })
            self.abort()

    # What there is to know

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "socket" | "ssl_object":
                return self._sock
            case "sslcontext":
                return self._context
            case "peername":
                return self._peername
            case "sockname":
                return self._sockname
            case _:
                return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol
