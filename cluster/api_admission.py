"""Who may ask the API: by which name, how often, and with what permission."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from cluster.access.asking import Action, Credentials
from cluster.access.gate import Gate
from cluster.access.throttle import Throttle
from cluster.api_console import Console
from hls.hosts import Hosts, is_address
from pyrtmp.counters import Counters

ADMITTED: Final = web.RequestKey("admitted", bool)
"""Of a request that may be answered."""

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

_UNSEEN: Final = frozenset(("not_asked_for", "denied", "denied_address", "callback"))
"""Refusals by who does not know what was shown: it may have been a guess at the token."""

_log = structlog.get_logger(__name__)


class ApiAdmission:
    """Lets requests in or refuses them, for one API; for what the parameters mean see ``cluster.api.Api``."""

    def __init__(
        self, gate: Gate, counters: Counters, *, token: str, hosts: Collection[str], requests_per_minute: int,
        local: bool,
    ) -> None:
        self._gate = gate
        self._counters = counters
        self._local = local
        self._token = token.encode()
        self._hosts = Hosts(hosts)
        self._rate = Throttle(requests_per_minute)

    def configure(self, *, token: str, hosts: Collection[str], requests_per_minute: int) -> None:
        """Ask for something else from the next request on."""
        self._token = token.encode()
        self._hosts = Hosts(hosts)
        self._rate.per_minute = requests_per_minute

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Around every request.  Raises ``HTTPException``."""
        if request.path in _OPEN_PATHS:
            return await handler(request)
        if not self._rate.admits(request.remote or "unix"):
            self._counters.refused["api_rate"] += 1
            raise web.HTTPTooManyRequests(text="too many requests from this address", headers={"Retry-After": "1"})
        self._check_host(request)
        if Console.covers(request):
            return await handler(request)
        await self._check_permission(request)
        request[ADMITTED] = True
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
                if shown and self._token and verdict.reason in _UNSEEN:
                    self._gate.throttle.failed(address)
                kind = web.HTTPForbidden if shown else web.HTTPUnauthorized
                raise self._refusal(request, verdict.reason, verdict.detail, kind)
            if verdict.credential:
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
