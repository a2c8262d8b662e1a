"""TLS handshakes with clients that have just been accepted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from pyrtmp.counters import Counters
from pyrtmp.journal import Journal

_GOODBYE_SECONDS: Final = 1.0
"""How long a client may take to agree to the end of the connection."""


class Handshakes:
    """Those under way.  One that fails, or takes longer than ``seconds``, is counted (``refused["tls"]``), told, and
    its connection closed."""

    def __init__(self, seconds: float, counters: Counters, journal: Journal) -> None:
        self._seconds = seconds
        self._counters = counters
        self._journal = journal
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(
        self, sock: socket.socket, address: str, tls: ssl.SSLContext, protocol: Callable[[], asyncio.BaseProtocol],
        meanwhile: contextlib.AbstractContextManager[None] | None = None,
    ) -> None:
        """Shake hands, then let ``protocol`` have the connection; the socket, non-blocking, is not the caller's any
        more.  ``meanwhile`` is entered until the handshake is over."""
        held = meanwhile or contextlib.nullcontext()
        task = asyncio.get_running_loop().create_task(self._run(sock, address, tls, protocol, held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(
        self, sock: socket.socket, address: str, tls: ssl.SSLContext, protocol: Callable[[], asyncio.BaseProtocol],
        meanwhile: contextlib.AbstractContextManager[None],
    ) -> None:
        try:
            with meanwhile:
                await asyncio.get_running_loop().connect_accepted_socket(
                    protocol, sock, ssl=tls, ssl_handshake_timeout=self._seconds, ssl_shutdown_timeout=_GOODBYE_SECONDS
                )
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):  # ssl.SSLError and TimeoutError are
                raise
            self._counters.refused["tls"] += 1
            self._journal.warning("connection_failed", address=address, error=str(error))

    async def close(self) -> None:
        """Break off."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
