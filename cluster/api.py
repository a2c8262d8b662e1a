"""The HTTP API for operators: health, metrics, streams, clients, workers, other nodes; reload, restart and drain; and
the console that asks it.

Field names follow the HTTP API of SRS where it has them (``recv_30s``, ``live_ms``); what SRS does not have is added.
Every answer but the metrics is JSON, errors too: ``{"code": 404, "error": "...", "server": ...}``; ``code`` is 0 when
all is well.  Who may not ask is told ``code`` and ``error`` only.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from http import HTTPStatus
from time import monotonic
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from cluster.access.gate import Gate
from cluster.api_admission import ADMITTED, ApiAdmission
from cluster.api_cluster import ClusterApi
from cluster.api_connection import HEADERS, ApiConnection
from cluster.api_console import Console
from cluster.api_explain import ExplainApi
from cluster.api_fields import client_fields, stream_details, stream_fields, worker_fields
from cluster.api_recordings import RecordingsApi
from cluster.config import AccessSettings
from cluster.doctoring import Finding
from cluster.facts import PROTOCOLS
from cluster.fleet import Fleet
from cluster.metrics import CONTENT_TYPE, Metrics
from cluster.neighbours import Neighbours
from cluster.openapi import PATH as OPENAPI_PATH
from cluster.openapi import answers, document
from cluster.reports import merge, resident_bytes
from cluster.tls.identity import Identity
from pyrtmp.aio.handshakes import Handshakes
from pyrtmp.aio.listener import Listener, bind
from pyrtmp.counters import Counters
from pyrtmp.stream import State

_HANDSHAKE_SECONDS: Final = 5.0
"""Longest time for a TLS handshake."""
_MAX_BODY_BYTES: Final = 1024
"""No request here has a body."""
_MAX_CONNECTIONS: Final = 256
"""Operators, scrapers and balancers need few; any more are closed when they are accepted."""

_log = structlog.get_logger(__name__)

_KEPT: Final = ("Allow", "Retry-After", "WWW-Authenticate")
"""Header fields of an error that stay with it."""


class Api:
    """The API of one node.  Whoever has the ``token`` may do everything; of others ``gate`` decides where a rule is
    about the API, and where none is, they may do everything if ``token`` is "".  Without ``neighbours`` it knows of no
    other nodes.  Refusals are counted in ``counters``.  ``hosts`` are the names that it answers to, none: see
    ``ApiSettings.hosts``; ``local``: only this machine can reach it.  ``requests_per_minute`` are taken from one
    address (0: any number).  ``https_port``: where viewers come in with TLS, or 0.  ``recordable``: whether there is a
    place for recordings."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        node: str,
        version: str,
        token: str = "",
        neighbours: Neighbours | None = None,
        gate: Gate | None = None,
        counters: Counters | None = None,
        certificate: Callable[[], Identity | None] = lambda: None,
        https_port: Callable[[], int] = lambda: 0,
        hosts: Collection[str] = (),
        requests_per_minute: int = 0,
        local: bool = False,
        recordable: Callable[[], bool] = lambda: True,
    ) -> None:
        self._fleet = fleet
        self._metrics = Metrics(version=version, node=node)
        self._version = version
        self._gate = gate or Gate(AccessSettings())
        self._counters = counters or Counters()
        self._admission = ApiAdmission(
            self._gate, self._counters, token=token, hosts=hosts, requests_per_minute=requests_per_minute, local=local
        )
        self._common = {"server": node, "service": f"pyrtmp-{os.getpid()}", "pid": str(os.getpid())}
        self._started = monotonic()
        self._neighbours = neighbours
        self._certificate = certificate
        self._https_port = https_port
        self._recordable = recordable
        self._cluster = None if neighbours is None else ClusterApi(fleet, neighbours, self._json)
        recordings = RecordingsApi(fleet, recordable, self._json)
        explain = ExplainApi(fleet, neighbours, self._json)
        middlewares = [self._answer_errors, self._admission.admit]
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=middlewares)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._get_metrics),
                web.get(OPENAPI_PATH, self._get_openapi),
                web.get("/api/v1/version", self._get_version),
                web.get("/api/v1/versions", self._get_version),
                web.get("/api/v1/summaries", self._get_summaries),
                web.get("/api/v1/streams", self._get_streams),
                web.get("/api/v1/streams/", self._get_streams),
                web.get("/api/v1/streams/{key:.+}", self._get_stream),
                web.delete("/api/v1/streams/{key:.+}", self._delete_stream),
                web.get("/api/v1/clients", self._get_clients),
                web.get("/api/v1/clients/", self._get_clients),
                web.get("/api/v1/clients/{id}", self._get_client),
                web.delete("/api/v1/clients/{id}", self._delete_client),
                web.get("/api/v1/workers", self._get_workers),
                web.post("/api/v1/reload", self._post_reload),
                web.post("/api/v1/restart", self._post_restart),
                web.post("/api/v1/drain", self._post_drain),
                *explain.routes(),
                *recordings.routes(),
                *(() if self._cluster is None else self._cluster.routes()),
                *Console().routes(),
            ]
        )
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        self._listener: asyncio.Server | None = None
        self._secure: list[Listener] = []
        self._handshakes = Handshakes(lambda: _HANDSHAKE_SECONDS, self._counters, _log)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        if self._listener is None:
            return [listener.address for listener in self._secure]
        return [(str(name[0]), int(name[1])) for name in (sock.getsockname() for sock in self._listener.sockets)]

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen on ``host``:``port`` (0: any free one).  Raises ``OSError``."""
        await self._runner.setup()
        if tls is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(self._accept, host, port, backlog=_MAX_CONNECTIONS)
        else:
            accept = functools.partial(self._accept_with_tls, tls)
            self._secure = [Listener(sock, accept, self._counters, _log) for sock in bind(host, port)]

    async def close(self) -> None:
        """Stop listening; requests under way get a second to end."""
        if self._listener is not None:
            self._listener.close()
        while self._secure:
            self._secure.pop().close()
        self._handshakes.close()
        await self._runner.cleanup()
        await self._gate.close()

    def configure(self, *, token: str, hosts: Collection[str] = (), requests_per_minute: int = 0) -> None:
        """Let in by other settings from the next request on."""
        self._admission.configure(token=token, hosts=hosts, requests_per_minute=requests_per_minute)

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= _MAX_CONNECTIONS:
            return _TurnedAway()
        return ApiConnection(server, self._counters)

    def _accept_with_tls(self, tls: ssl.SSLContext, sock: socket.socket, address: str) -> None:
        if len(self._handshakes) >= _MAX_CONNECTIONS:
            sock.close()
        else:
            self._handshakes.begin(sock, tls, self._accept, address=address)

    # Around every request

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What aiohttp would say in plain text, as JSON."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            reason = error.text or error.reason
            if error.status in _REASONS and (not error.text or error.text.startswith(f"{error.status}:")):
                reason = _REASONS[error.status]
            kept = {name: error.headers[name] for name in _KEPT if name in error.headers}
            told = {"code": error.status, "error": reason}
            return self._json(told, error.status, kept, common=ADMITTED in request)

    def _json(
        self, fields: Mapping[str, object], status: int = HTTPStatus.OK, headers: dict[str, str] | None = None, *,
        common: bool = True,
    ) -> web.Response:
        about = self._common if common else {}
        return web.Response(
            body=json.dumps({"code": 0, **about, **fields}, default=_plain).encode() + b"\n",
            status=status,
            content_type="application/json",
            headers={**HEADERS, **(headers or {})},
        )

    # Health

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self._fleet.ready():
            return web.Response(text="ready\n")
        return web.Response(text="draining\n", status=HTTPStatus.SERVICE_UNAVAILABLE)

    async def _get_metrics(self, request: web.Request) -> web.Response:
        numbers = await self._fleet.numbers()
        certificate = self._certificate()
        others = self._neighbours
        registry = None if others is None else others.registry
        page = self._metrics.page(
            numbers, ready=self._fleet.ready(), stress=0.0 if others is None else others.stress,
            registry_up=None if registry is None else registry.up,
            certificate_expires=None if certificate is None else certificate.expires,
        )
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE})

    # About the API and the node

    async def _get_openapi(self, request: web.Request) -> web.Response:
        return web.json_response(document(), headers=HEADERS)

    async def _get_version(self, request: web.Request) -> web.Response:
        numbers = [int(part) if part.isdecimal() else 0 for part in (*self._version.split("."), "0", "0")][:3]
        answer: answers.VersionAnswer = {
            "data": {"major": numbers[0], "minor": numbers[1], "revision": numbers[2], "version": self._version}
        }
        return self._json(answer)

    async def _get_summaries(self, request: web.Request) -> web.Response:
        parts = await self._fleet.numbers()
        numbers = merge(parts)
        streams = numbers.streams
        others = [each for each in parts if each.pid != os.getpid()]
        answer: answers.SummaryAnswer = {
            "data": {
                "ok": True,
                "now_ms": int(time.time() * 1000),
                "ready": self._fleet.ready(),
                # All processes of the node together
                "self": {
                    "version": self._version,
                    "pid": os.getpid(),
                    "ppid": os.getppid(),
                    "uptime": round(monotonic() - self._started, 1),
                    "cpu_seconds": round(time.process_time() + sum(each.cpu_seconds for each in others), 2),
                    "mem_kbyte": (resident_bytes() + sum(each.now.resident_bytes for each in others)) // 1024,
                    "https_port": self._https_port(),
                    "recordable": self._recordable(),
                },
                "streams": {
                    "total": sum(streams.values()),
                    "live": streams[State.LIVE.value],
                    "waiting_viewers": numbers.now.waiting,
                },
                "clients": {
                    "total": numbers.connections,
                    "publishers": numbers.publishers,
                    "viewers": dict.fromkeys(PROTOCOLS, 0) | numbers.viewers,
                },
                "kbps": {"recv_30s": round(numbers.now.kbps_in), "send_30s": round(numbers.now.kbps_out)},
                "workers": worker_fields(parts),
            }
        }
        if self._cluster is not None:
            answer["data"]["cluster"] = self._cluster.summary(numbers)
        return self._json(answer)

    async def _get_workers(self, request: web.Request) -> web.Response:
        answer: answers.WorkersAnswer = {"workers": worker_fields(await self._fleet.numbers())}
        return self._json(answer)

    # Orders to the node

    async def _post_reload(self, request: web.Request) -> web.Response:
        done = await self._fleet.reload()
        if done.problems:
            fields = {"code": 409, "error": "the settings stay as they are; problems says why"}
            return self._json({**fields, "problems": done.problems}, HTTPStatus.CONFLICT)
        answer: answers.ReloadAnswer = {"changed": list(done.changed), "needs_restart": list(done.needs_restart)}
        return self._json(answer)

    async def _post_restart(self, request: web.Request) -> web.Response:
        if not await self._fleet.restart_workers():
            workers = worker_fields(await self._fleet.numbers())
            raise web.HTTPConflict(
                text="the workers are being restarted already" if workers else "this node has no workers to restart"
            )
        return self._json({})

    async def _post_drain(self, request: web.Request) -> web.Response:
        if not await self._fleet.drain():
            raise web.HTTPConflict(text="the node is draining already")
        return self._json({})

    # Streams

    async def _get_streams(self, request: web.Request) -> web.Response:
        start, count = _page(request)
        answer: answers.StreamsAnswer = {
            "streams": [stream_fields(each) for each in await self._fleet.streams(start, count)]
        }
        return self._json(answer)

    async def _get_stream(self, request: web.Request) -> web.Response:
        app, _, name = request.match_info["key"].rpartition("/")
        stream = await self._fleet.stream(app, name)
        if stream is None:
            raise _no_stream()
        return self._json({"stream": stream_details(stream)})

    async def _delete_stream(self, request: web.Request) -> web.Response:
        app, _, name = request.match_info["key"].rpartition("/")
        if not await self._fleet.end_stream(app, name):
            raise _no_stream()
        return self._json({})

    # Clients

    async def _get_clients(self, request: web.Request) -> web.Response:
        start, count = _page(request)
        answer: answers.ClientsAnswer = {
            "clients": [client_fields(each) for each in await self._fleet.clients(start, count)]
        }
        return self._json(answer)

    async def _get_client(self, request: web.Request) -> web.Response:
        client = await self._fleet.client(request.match_info["id"])
        if client is None:
            raise _no_client()
        answer: answers.ClientAnswer = {"client": client_fields(client)}
        return self._json(answer)

    async def _delete_client(self, request: web.Request) -> web.Response:
        if not await self._fleet.kick_client(request.match_info["id"]):
            raise _no_client()
        return self._json({})


class _TurnedAway(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


_REASONS: Final = {
    404: "there is nothing at this path; see /api/v1/streams, /api/v1/clients, /api/v1/nodes, /api/v1/summaries",
    405: "this path does not take this method; the header Allow names those that it takes",
    413: "no request here needs a body",
}


def _no_stream() -> web.HTTPNotFound:
    return web.HTTPNotFound(text="there is no such stream; /api/v1/streams has them all, as app/name")


def _no_client() -> web.HTTPNotFound:
    return web.HTTPNotFound(text="there is no such client; /api/v1/clients has them all")


def _page(request: web.Request) -> tuple[int, int]:
    """``start`` and ``count`` of the query, as SRS has them."""
    numbers = []
    for name, default, highest in (("start", 0, 10**9), ("count", answers.DEFAULT_COUNT, answers.MAX_COUNT)):
        text = request.query.get(name, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= highest):
            raise web.HTTPBadRequest(text=f"{name} should be a number from 0 to {highest}")
        numbers.append(int(text))
    return numbers[0], numbers[1]


def _plain(value: object) -> object:
    return asdict(value) if isinstance(value, Finding) else str(value)
