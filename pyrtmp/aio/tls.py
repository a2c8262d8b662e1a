"""Connections with TLS, over a transport of the loop's.

uvloop's and asyncio's own hand a whole write to OpenSSL, whose buffer for what it encrypts grows to that and stays,
beside one to read into: a quarter of a megabyte for each viewer.  In pieces, which then go out together, it is 70 KiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

_RECORD: Final = 16 * 1024
"""Plaintext of the longest record (RFC 8446, 5.1): no read yields more."""

_PIECE: Final = 2 * _RECORD
"""Bytes encrypted at once.  More costs memory for every connection, less costs time for every byte."""


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The server's end of a connection: the protocol of the transport below, the transport of the protocol above.

    ``shaken`` is told once how the handshake ended: with None, and gives the protocol that has the connection from then
    on; or with the error, when the connection is closed already (``ssl.SSLError``, what ``expire`` was given, any other
    ``OSError``).  After ``abort`` it is told nothing.

    Closing says so to the peer (``close_notify``; RFC 8446, 6.1) and does not wait for its answer.
    """

    __slots__ = ("_above", "_below", "_closing", "_context", "_error", "_incoming", "_outgoing", "_shaken", "_tls")

    def __init__(
        self, context: ssl.SSLContext, shaken: Callable[[OSError | None], asyncio.BaseProtocol | None]
    ) -> None:
        super().__init__()
        self._context = context
        self._shaken: Callable[[OSError | None], asyncio.BaseProtocol | None] | None = shaken
        """Who is to be told how the handshake ended, until that is so."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._below: asyncio.Transport | None = None
        self._above: asyncio.Protocol | None = None
        self._closing = False
        self._error: ssl.SSLError | None = None
        """Why it is closed, where the peer broke the rules."""

    # The protocol of the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = cast(asyncio.Transport, transport)
        if self._closing:
            self._below.abort()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._incoming.write(data)
        if self._above is None:
            self._shake()
        if self._above is not None and not self._closing:
            self._read(self._above)

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._fail(error)
        else:
            self._flush()
            shaken, self._shaken = self._shaken, None
            assert shaken is not None
            self._tell(self._begin, shaken)

    def _begin(self, shaken: Callable[[None], asyncio.BaseProtocol | None]) -> None:
        self._above = cast(asyncio.Protocol, shaken(None))
        self._above.connection_made(self)

    def _read(self, above: asyncio.Protocol) -> None:
        records: list[bytes] = []
        ended = False
        try:
            while record := self._tls.read(_RECORD):
                records.append(record)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._error = error
        self._flush()  # an alert, other keys
        if records:
            self._tell(above.data_received, records[0] if len(records) == 1 else b"".join(records))
        if self._error is not None:
            self._end()
        elif ended and not self._closing:
            self._tell(above.eof_received)
            self.close()

    def eof_received(self) -> None:
        """Without a goodbye, as many clients leave."""
        if self._above is not None and not self._closing:
            self._tell(self._above.eof_received)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._below = None
        if self._above is not None:
            self._above.connection_lost(exc or self._error)
        else:
            self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("it left in the middle of it"))

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()

    def expire(self, error: OSError) -> None:
        """Break off the handshake, if it still goes on."""
        self._fail(error)

    def _fail(self, error: OSError) -> None:
        shaken, self._shaken = self._shaken, None
        if shaken is not None:
            self._end()
            shaken(error)

    def _end(self) -> None:
        """Close, saying nothing more than has been said."""
        self._closing = True
        if self._below is not None:
            self._below.close()

    def _flush(self) -> None:
        if self._outgoing.pending and self._below is not None:
            self._below.write(self._outgoing.read())

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        """Have the protocol know; if it fails at that, its connection is over and the loop is told."""
        try:
            what(*arguments)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler({
                "message": f"{what.__qualname__} failed", "exception": error, "transport": self,
                "protocol": self._above,
            })
            self.abort()

    # The transport of the protocol above

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data or self._below is None:
            return
        encrypt, encrypted = self._tls.write, self._outgoing.read
        if len(data) <= _PIECE:
            encrypt(data)
            self._below.write(encrypted())
            return
        view = memoryview(data)
        pieces = []
        for start in range(0, len(view), _PIECE):
            encrypt(view[start : start + _PIECE])
            pieces.append(encrypted())
        self._below.writelines(pieces)

    def close(self) -> None:
        """Send what waits, say goodbye, close."""
        if self._closing:
            return
        with contextlib.suppress(ssl.SSLError):  # it wants an answer
            self._tls.unwrap()
        self._flush()
        self._end()

    def abort(self) -> None:
        """Close without another byte."""
        self._closing = True
        self._shaken = None
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._context
        return default if self._below is None else self._below.get_extra_info(name, default)

    def is_reading(self) -> bool:
        return self._below is not None and self._below.is_reading()

    def pause_reading(self) -> None:
        if self._below is not None and not self._closing:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if self._below is not None and not self._closing:
            self._below.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the socket."""
        return 0 if self._below is None else self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (0, 0) if self._below is None else self._below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._below is not None:
            self._below.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._above = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._above is not None
        return self._above
