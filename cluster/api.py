"""The HTTP API for operators: health, metrics, streams, clients, workers, other nodes; reload, restart and drain; and
the console that asks it.

Field names follow the HTTP API of SRS where it has them (``recv_30s``, ``live_ms``); what SRS does not have is added.
Every answer but the metrics is JSON, errors too: ``{"code": 404, "error": "...", "server": ...}``; ``code`` is 0 when
all is well.  Who may not ask is told ``code`` and ``error`` only.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from time import monotonic
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from cluster.access.asking import Action, Credentials
from cluster.access.gate import Gate
from cluster.access.throttle import Throttle
from cluster.api_cluster import ClusterApi
from cluster.api_connection import HEADERS, ApiConnection
from cluster.api_console import Console
from cluster.api_explain import ExplainApi
from cluster.config import AccessSettings
from cluster.doctoring import Finding, diagnose, health
from cluster.facts import ALONE, PROTOCOLS, ClientFacts, StreamFacts
from cluster.fleet import Fleet
from cluster.metrics import CONTENT_TYPE, Metrics
from cluster.neighbours import Neighbours
from cluster.openapi import PATH as OPENAPI_PATH
from cluster.openapi import answers, document
from cluster.reports import Numbers, merge, resident_bytes
from cluster.tls.identity import Identity
from hls.hosts import Hosts, is_address
from pyrtmp.aio.handshakes import Handshakes
from pyrtmp.aio.listener import Listener, bind
from pyrtmp.codecs import AudioInfo, VideoInfo
from pyrtmp.counters import Counters
from pyrtmp.stream import State

_HANDSHAKE_SECONDS: Final = 5.0
"""Longest time for a TLS handshake."""
_MAX_BODY_BYTES: Final = 1024
"""No request here has a body."""
_MAX_CONNECTIONS: Final = 256
"""Operators, scrapers and balancers need few; any more are closed when they are accepted."""

_OPEN_PATHS: Final = ("/healthz", "/readyz")
"""Asked by balancers and container runtimes, which carry no token and may call this host by any name."""

_PERMISSION: Final = (
    'this needs the header "Authorization: Bearer TOKEN" with the token of api.token, or what access.rules ask for'
)
_NOT_CALLED_SO: Final = "this server is not called by that name (api.hosts)"
_BY_ADDRESS: Final = "ask by address or as localhost, not by name, unless api.hosts has it"
_CHALLENGES: Final[dict[type[web.HTTPException], dict[str, str]]] = {
    web.HTTPUnauthorized: {"WWW-Authenticate": 'Bearer realm="pyrtmp"'},
    web.HTTPTooManyRequests: {"Retry-After": "10"},
}

_log = structlog.get_logger(__name__)

_ADMITTED: Final = web.RequestKey("admitted", bool)
"""Of a request that may be answered."""

_KEPT: Final = ("Allow", "Retry-After", "WWW-Authenticate")
"""Header fields of an error that stay with it."""

# How SRS spells them
_CODEC_NAMES: Final = {"h264": "H264", "hevc": "HEVC", "aac": "AAC", "mp3": "MP3", "opus": "Opus", "av1": "AV1"}


class Api:
    """The API of one node.  Whoever has the ``token`` may do everything; of others ``gate`` decides where a rule is
    about the API, and where none is, they may do everything if ``token`` is "".  Without ``neighbours`` it knows of no
    other nodes.  Refusals are counted in ``counters``.  ``hosts`` are the names that it answers to, none: see
    ``ApiSettings.hosts``; ``local``: only this machine can reach it.  ``requests_per_minute`` are taken from one
    address (0: any number).  ``https_port``: where viewers come in with TLS, or 0."""

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
    ) -> None:
        self._fleet = fleet
        self._metrics = Metrics(version=version, node=node)
        self._version = version
        self._token = token.encode()
        self._hosts = Hosts(hosts)
        self._local = local
        self._rate = Throttle(requests_per_minute)
        self._gate = gate or Gate(AccessSettings())
        self._counters = counters or Counters()
        self._common = {"server": node, "service": f"pyrtmp-{os.getpid()}", "pid": str(os.getpid())}
        self._started = monotonic()
        self._neighbours = neighbours
        self._certificate = certificate
        self._https_port = https_port
        self._cluster = None if neighbours is None else ClusterApi(fleet, neighbours, self._json)
        explain = ExplainApi(fleet, neighbours, self._json, stream=_details, client=_client)
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[self._answer_errors, self._admit])
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
                *(() if self._cluster is None else self._cluster.routes()),
                *Console().routes(),
            ]
        )
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        self._listener: asyncio.Server | None = None
        self._secure: list[Listener] = []
        self._handshakes = Handshakes(_HANDSHAKE_SECONDS, self._counters, _log)

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
        await self._handshakes.close()
        await self._runner.cleanup()
        await self._gate.close()

    def configure(self, *, token: str, hosts: Collection[str] = (), requests_per_minute: int = 0) -> None:
        """Ask for another token from the next request on; "" asks for none."""
        self._token = token.encode()
        self._hosts = Hosts(hosts)
        self._rate.per_minute = requests_per_minute

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= _MAX_CONNECTIONS:
            return _TurnedAway()
        return ApiConnection(server, self._counters)

    def _accept_with_tls(self, tls: ssl.SSLContext, sock: socket.socket, address: str) -> None:
        if len(self._handshakes) >= _MAX_CONNECTIONS:
            sock.close()
        else:
            self._handshakes.begin(sock, address, tls, self._accept)

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
            return self._json(told, error.status, kept, common=_ADMITTED in request)

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in _OPEN_PATHS:
            return await handler(request)
        if not self._rate.admits(request.remote or "unix"):
            self._counters.refused["api_rate"] += 1
            raise web.HTTPTooManyRequests(text="too many requests from this address", headers={"Retry-After": "1"})
        self._check_host(request)
        if Console.covers(request):
            return await handler(request)
        await self._check_permission(request)
        request[_ADMITTED] = True
        if request.method == "POST" and request.content_type != "application/json":
            # Any web page may have a browser on this machine post a form here, but for JSON, as for DELETE, the browser
            # first asks with OPTIONS whether the page may; nothing here says yes.
            if request.match_info.http_exception is None:
                raise web.HTTPUnsupportedMediaType(text='this needs the header "Content-Type: application/json"')
        return await handler(request)

    def _check_host(self, request: web.Request) -> None:
        """Raises ``HTTPException`` for who asks by a name that is not this server's."""
        host = request.headers.get("Host", "")
        if self._hosts and host not in self._hosts:
            raise self._refusal(request, "host", "asked by another name", web.HTTPMisdirectedRequest, _NOT_CALLED_SO)
        if not self._hosts and self._local and Console.covers(request) and not is_address(host):
            raise self._refusal(request, "host", "asked by a name", web.HTTPForbidden, _BY_ADDRESS)

    async def _check_permission(self, request: web.Request) -> None:
        """Raises ``HTTPException`` for who may not ask this."""
        action = Action.API_READ if request.method in ("GET", "HEAD") else Action.API_WRITE
        ruled = self._gate.covers_api(action)
        authorization = request.headers.get("Authorization", "")
        if self._token or ruled:
            address = request.remote or "unix"
            shown = Credentials.read("", authorization)
            if shown and self._gate.throttle.blocked(address):
                raise self._refusal(request, "throttled", "", web.HTTPTooManyRequests)
            if self._token and self._is_token(authorization):
                return
            if not ruled:
                if shown:
                    self._gate.throttle.failed(address)
                raise self._refusal(request, "wrong_key" if shown else "no_credential", "", web.HTTPUnauthorized)
            verdict = await self._gate.decide_api(action, address, shown)
            if not verdict.allowed:
                kind = web.HTTPForbidden if shown else web.HTTPUnauthorized
                raise self._refusal(request, verdict.reason, verdict.detail, kind)
            if shown:
                return
        if not self._hosts and not is_address(request.headers.get("Host", "")):
            # A web page elsewhere may give this machine a name of its own (DNS rebinding) and have a browser ask.
            raise self._refusal(request, "host", "asked by a name", web.HTTPForbidden, _BY_ADDRESS)

    def _is_token(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._token)

    def _refusal(
        self, request: web.Request, reason: str, detail: str, kind: type[web.HTTPException], told: str = _PERMISSION
    ) -> web.HTTPException:
        """Counted and logged."""
        self._counters.refused[reason] += 1
        _log.warning(
            "refused", address=request.remote or "unix", what=f"api {request.method}", name=request.path,
            why=detail or reason,
        )
        return kind(text=told, headers=_CHALLENGES.get(kind, {}))

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
                "workers": _workers(parts),
            }
        }
        if self._cluster is not None:
            answer["data"]["cluster"] = self._cluster.summary(numbers)
        return self._json(answer)

    async def _get_workers(self, request: web.Request) -> web.Response:
        answer: answers.WorkersAnswer = {"workers": _workers(await self._fleet.numbers())}
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
            workers = _workers(await self._fleet.numbers())
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
            "streams": [_stream(each) for each in await self._fleet.streams(start, count)]
        }
        return self._json(answer)

    async def _get_stream(self, request: web.Request) -> web.Response:
        app, _, name = request.match_info["key"].rpartition("/")
        stream = await self._fleet.stream(app, name)
        if stream is None:
            raise _no_stream()
        return self._json({"stream": _details(stream)})

    async def _delete_stream(self, request: web.Request) -> web.Response:
        app, _, name = request.match_info["key"].rpartition("/")
        if not await self._fleet.end_stream(app, name):
            raise _no_stream()
        return self._json({})

    # Clients

    async def _get_clients(self, request: web.Request) -> web.Response:
        start, count = _page(request)
        answer: answers.ClientsAnswer = {
            "clients": [_client(each) for each in await self._fleet.clients(start, count)]
        }
        return self._json(answer)

    async def _get_client(self, request: web.Request) -> web.Response:
        client = await self._fleet.client(request.match_info["id"])
        if client is None:
            raise _no_client()
        answer: answers.ClientAnswer = {"client": _client(client)}
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


def _details(stream: StreamFacts) -> answers.StreamDetails:
    return {**_stream(stream), "metadata": dict(stream.metadata), "doctor": diagnose(stream)}


def _stream(stream: StreamFacts) -> answers.Stream:
    return {
        "id": str(stream.key),
        "name": stream.key.name,
        "vhost": "__defaultVhost__",
        "app": stream.key.app,
        "live_ms": int(time.time() * 1000),
        "clients": stream.total_viewers + stream.waiting + (1 if stream.publisher else 0),
        "frames": stream.video_frames,
        "send_bytes": stream.bytes_out,
        "recv_bytes": stream.bytes_in,
        "kbps": {"recv_30s": round(stream.kbps_in_30s), "send_30s": round(stream.kbps_out_30s)},
        "publish": {"active": bool(stream.publisher), "cid": stream.publisher},
        "video": _video(stream.video),
        "audio": _audio(stream.audio),
        # Not in SRS
        "state": stream.state,
        "uptime": round(stream.uptime, 1),
        "publishes": stream.publishes,
        "pulled": stream.pulled,
        "upstream": stream.upstream or None,
        "recv_kbps": stream.kbps_in,
        "fps": stream.fps,
        "gop_ms": stream.gop_ms,
        "behind_seconds": stream.behind,
        "viewers": {"total": stream.total_viewers, **stream.viewers},
        "waiting": stream.waiting,
        "health": health(stream),
        "worker": _worker(stream.worker),
    }


def _video(info: VideoInfo | None) -> answers.Video | None:
    if info is None:
        return None
    return {
        "codec": _codec_name(info.codec),
        "profile": info.profile,
        "level": info.level,
        "width": info.width,
        "height": info.height,
    }


def _audio(info: AudioInfo | None) -> answers.Audio | None:
    if info is None:
        return None
    return {
        "codec": _codec_name(info.codec),
        "sample_rate": info.sample_rate,
        "channel": info.channels,
        "profile": info.profile,
    }


def _codec_name(codec: str) -> str:
    return _CODEC_NAMES.get(codec, codec.upper())


def _client(client: ClientFacts) -> answers.Client:
    kinds = {"publish": "publish", "play": f"{client.protocol}-play"}
    return {
        "id": client.id,
        "vhost": "__defaultVhost__",
        "stream": str(client.key) if client.key is not None else "",
        "ip": client.address,
        "url": f"/{client.key}" if client.key is not None else "",
        "name": client.key.name if client.key is not None else "",
        "type": kinds.get(client.role, client.role),
        "publish": client.role == "publish",
        "alive": round(client.seconds, 1),
        "send_bytes": client.bytes_out,
        "recv_bytes": client.bytes_in,
        "kbps": {"recv_30s": round(client.kbps_in_30s), "send_30s": round(client.kbps_out_30s)},
        # Not in SRS
        "protocol": client.protocol,
        "role": client.role,
        "agent": client.agent,
        "node": client.node or None,
        "session": client.session or None,
        "worker": _worker(client.worker),
    }


def _worker(number: int) -> int | None:
    """None where there are no workers."""
    return None if number == ALONE else number


def _workers(parts: Iterable[Numbers]) -> list[answers.Worker]:
    """One entry for each worker process, by number."""
    return [
        {
            "worker": each.worker,
            "pid": each.pid,
            "cpu_seconds": round(each.cpu_seconds, 2),
            "cpu_share": each.now.cpu_share,
            "mem_kbyte": each.now.resident_bytes // 1024,
            "connections": each.connections,
            "publishers": each.publishers,
            "viewers": sum(each.viewers.values()),
            "streams_held": each.now.held,
            "kbps_out": round(each.now.kbps_out),
            "ipc_bytes": each.ipc_bytes_in + each.ipc_bytes_out,
            "restarts": each.restarts,
        }
        for each in sorted(parts, key=lambda each: each.worker)
        if each.worker != ALONE
    ]
