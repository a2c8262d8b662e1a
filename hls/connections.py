"""HTTP connections: what becomes of a failure; and those of viewers, which are counted and may not stay silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from pyrtmp.aio.server import Server
from pyrtmp.aio.sockets import set_keepalive
from pyrtmp.counters import Counters
from pyrtmp.journal import Journal

KEEPALIVE_SECONDS: Final = 75.0
"""From one answer to the next whole request head (nginx: 75)."""

_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: pyrtmp\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 37\r\n\r\nthe server takes no more connections\n"
)
"""For one connection too many, whatever it would have asked."""


class HttpConnection(RequestHandler):
    """A connection whose failures are one line of the journal each, without a traceback, and tell a stranger nothing.

    ``keepalive_seconds``: a connection that asks nothing for so long after an answer is closed.  ``tcp_keepalive``:
    whether the kernel is to look for peers that are gone, as it does by itself; otherwise the owner sees to that.
    """

    __slots__ = ("_counters", "_journal")

    def __init__(
        self, manager: web.Server, counters: Counters, journal: Journal, *, keepalive_seconds: float,
        tcp_keepalive: bool = True,
    ) -> None:
        super().__init__(
            manager, loop=asyncio.get_running_loop(), keepalive_timeout=keepalive_seconds, tcp_keepalive=tcp_keepalive,
            access_log=None,  # type: ignore[arg-type]  # None turns it off
        )
        self._counters = counters
        self._journal = journal

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is not HTTP, and what failed here; always the connection's last answer."""
        address = request.remote or "unix"
        if status < 500:
            self._counters.refused["http_malformed"] += 1
            self._journal.warning("http_malformed", address=address, error=type(exc).__name__)
            why = "the request is not valid HTTP"
        else:
            self._counters.refused["internal"] += 1
            self._journal.error("internal_error", address=address, error=repr(exc))
            why = "the server failed to answer"
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer had begun")
        response = self.failure(status, why)
        response.force_close()
        return response

    def failure(self, status: int, why: str) -> web.Response:
        """The answer to what went wrong."""
        return web.Response(status=status, text=f"{why}\n", headers={"Server": "pyrtmp"})


class ViewerConnections(web.Server):
    """Keeps those of viewers, and the deadline of those that have not asked for anything yet.

    After the first request aiohttp's own keep-alive timer counts.
    """

    def __init__(
        self, answer: Callable[[web.BaseRequest], Any], server: Server, is_proxy: Callable[[str], bool]
    ) -> None:
        super().__init__(answer, handler_cancellation=True)
        self._rtmp = server
        self._is_proxy = is_proxy
        self._silent: dict[RequestHandler, float] = {}
        self._held: dict[RequestHandler, str | None] = {}
        """Those that count against the server's limits: whose they are; None: a proxy's."""

    def __call__(self) -> RequestHandler:
        return HttpConnection(
            self, self._rtmp.counters, self._rtmp.journal, keepalive_seconds=KEEPALIVE_SECONDS, tcp_keepalive=False
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if not self._rtmp.has_room_for_connection(self._whose(handler)):
            self._rtmp.journal.warning("refused", address=self._whose(handler) or "proxy", what="connection")
            transport.write(_FULL)
            transport.close()
            return
        self.hold(handler)
        self._silent[handler] = monotonic()
        # Also bounds how long a player may leave an answer unread.
        set_keepalive(transport.get_extra_info("socket"), self._rtmp.timeouts.write_stall)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._silent.pop(handler, None)
        self.let_go(handler)

    def hold(self, handler: RequestHandler) -> None:
        """Count a connection, if it is still there."""
        if handler.transport is not None:
            self._held[handler] = self._whose(handler)
            self._rtmp.hold(self._held[handler])

    def let_go(self, handler: RequestHandler) -> None:
        """It is gone, or counted as something else."""
        if handler in self._held:
            self._rtmp.let_go(self._held.pop(handler))

    def _whose(self, handler: RequestHandler) -> str | None:
        peer = None if handler.transport is None else handler.transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else "unix"
        return None if self._is_proxy(address) else address

    def asked(self, handler: RequestHandler) -> None:
        """A whole request head came."""
        self._silent.pop(handler, None)

    def expire(self, before: float) -> None:
        """Close connections made before that time that have not asked for anything."""
        for handler, since in list(self._silent.items()):
            if since > before:
                return  # in order of age
            del self._silent[handler]
            self._rtmp.counters.refused["http_timeout"] += 1
            handler.force_close()
