"""One connection to the API, whose failures are one line of the log each and tell a stranger nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from pyrtmp.counters import Counters

KEEPALIVE_SECONDS: Final = 15.0
"""A connection that asks nothing for so long is closed; also one that never asked."""

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "pyrtmp"}
"""Of every answer."""

_log = structlog.get_logger(__name__)


class ApiConnection(RequestHandler):
    """Refusals are counted in ``counters``."""

    __slots__ = ("_counters",)

    def __init__(self, manager: web.Server, counters: Counters) -> None:
        super().__init__(
            manager, loop=asyncio.get_running_loop(), keepalive_timeout=KEEPALIVE_SECONDS,
            access_log=None,  # type: ignore[arg-type]  # None turns it off
        )
        self._counters = counters

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is not HTTP, and what failed here; always the connection's last answer."""
        address = request.remote or "unix"
        if status < 500:
            self._counters.refused["http_malformed"] += 1
            _log.warning("http_malformed", address=address, error=type(exc).__name__)
            why = "the request is not valid HTTP"
        else:
            self._counters.refused["internal"] += 1
            _log.error("internal_error", address=address, error=repr(exc))
            why = "the server failed to answer"
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer had begun")
        response = web.Response(
            status=status, body=json.dumps({"code": status, "error": why}).encode() + b"\n",
            content_type="application/json", headers=HEADERS,
        )
        response.force_close()
        return response
