"""TLS handshakes with clients that have just been accepted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from time import monotonic

from pyrtmp.aio.tls import TlsTransport
from pyrtmp.counters import Counters
from pyrtmp.journal import Journal


class Handshakes:
    """Those under way.  One that fails or takes longer than ``seconds`` is counted (``refused["tls"]``), told, and its
    connection closed."""

    def __init__(self, seconds: Callable[[], float], counters: Counters, journal: Journal) -> None:
        self._seconds = seconds
        self._counters = counters
        self._journal = journal
        self._under_way: dict[TlsTransport, tuple[float, Callable[[], None]]] = {}
        """Since when, oldest first; what to call should it fail."""
        self._connecting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(
        self, sock: socket.socket, tls: ssl.SSLContext, protocol: Callable[[], asyncio.BaseProtocol],
        *, failed: Callable[[], None] = lambda: None, **whose: str,
    ) -> None:
        """Shake hands, then let ``protocol`` have the connection, or call ``failed``.

        The socket, non-blocking, is not the caller's any more.  ``whose``: for the journal.
        """
        def shaken(error: OSError | None) -> asyncio.BaseProtocol | None:
            self._under_way.pop(transport, None)
            if error is None:
                return protocol()
            self._tell(error, whose)
            failed()
            return None

        transport = TlsTransport(tls, shaken)
        self._under_way[transport] = (monotonic(), failed)
        if self._timer is None:
            self._wait(self._seconds())
        task = asyncio.get_running_loop().create_task(self._connect(sock, transport))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, sock: socket.socket, transport: TlsTransport) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: transport, sock)
        except OSError as error:
            sock.close()
            transport.expire(error)

    def _tell(self, error: OSError, whose: dict[str, str]) -> None:
        self._counters.refused["tls"] += 1
        self._journal.warning("connection_failed", **whose, error=str(error))

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """One timer for all: nearly every handshake is over long before it."""
        self._timer = None
        seconds, now = self._seconds(), monotonic()
        for transport, (since, _) in list(self._under_way.items()):
            if since + seconds > now:
                self._wait(since + seconds - now)
                return
            transport.expire(TimeoutError(f"no TLS handshake within {seconds:g} s"))

    def close(self) -> None:
        """Break off; that is nobody's failure."""
        if self._timer is not None:
            self._timer.cancel()
        while self._under_way:
            transport, (_, failed) = self._under_way.popitem()
            transport.abort()
            failed()
