"""One connection to the API, which answers in JSON even where aiohttp or this program fails."""

from __future__ import annotations

import json
from typing import Final

import structlog
from aiohttp import web

from hls.connections import HttpConnection
from pyrtmp.counters import Counters

KEEPALIVE_SECONDS: Final = 15.0
"""A connection that asks nothing for so long is closed; also one that never asked."""

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "pyrtmp"}
"""Of every answer."""

_log = structlog.get_logger(__name__)


class ApiConnection(HttpConnection):
    """Refusals are counted in ``counters``."""

    __slots__ = ()

    def __init__(self, manager: web.Server, counters: Counters) -> None:
        super().__init__(manager, counters, _log, keepalive_seconds=KEEPALIVE_SECONDS)

    def failure(self, status: int, why: str) -> web.Response:
        return web.Response(
            status=status, body=json.dumps({"code": status, "error": why}).encode() + b"\n",
            content_type="application/json", headers=HEADERS,
        )
