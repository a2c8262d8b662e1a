"""The viewers' HTTP server: HTTP-FLV, HLS and the player page.

``/app/stream.flv``                                  HTTP-FLV
``/app/stream.m3u8``, ``/app/stream/index.m3u8``     HLS media playlist
``/app/stream/FILE``                                 HLS segment or initialization section
``/``, ``/_page/FILE``, ``/_page/streams.json``      the page
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic, time
from typing import Any, Final, NamedTuple, TypeAlias

from aiohttp import hdrs, web

from hls.answers import REMEMBERED, Answer, Answered, answer_head, header_fields, validated
from hls.audience import Audience, Watched
from hls.connections import ViewerConnections
from hls.hosts import HOST, Hosts
from hls.live import HlsService, Reply
from hls.settings import HlsSettings
from hls.sharing import Feeds
from hls.static import read_files
from hls.viewer import FlvViewer
from pyrtmp.aio.handshakes import Handshakes
from pyrtmp.aio.listener import Listener, bind
from pyrtmp.aio.playing import IMPATIENT_SECONDS
from pyrtmp.aio.server import Server
from pyrtmp.errors import RedirectedError, RefusedError
from pyrtmp.hooks import Request
from pyrtmp.kin import HEADER, STRANGER, Kin
from pyrtmp.names import StreamKey, make_key, problem
from pyrtmp.networks import Networks, forwarded_for
from pyrtmp.stream import Stream

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'self'; media-src 'self' blob:; worker-src 'self' blob:; script-src 'self'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'self'"
)

HEADER_SECONDS: Final = 10.0
"""From accept to the first whole request head (nginx: 60, SRS: none)."""

WHOLE: Final = "X-Whole-Playlist"
"""Header of a request for a playlist, set by a balancer in front of several edges: answer 404 at once if this one has
just begun the stream, because another one may have all of it."""

_SEGMENT_SUFFIXES: Final = (".ts", ".m4s", ".mp4")
_METHODS: Final = "GET, HEAD, OPTIONS"
_PREFLIGHT: Final = (
    f"Access-Control-Allow-Methods: {_METHODS}\r\n"
    "Access-Control-Allow-Headers: Authorization, Range, Content-Type\r\n"
    "Access-Control-Max-Age: 86400\r\n"
)
_PAGE: Final = f"Content-Security-Policy: {CONTENT_SECURITY_POLICY}\r\nReferrer-Policy: no-referrer\r\n"
_FLV: Final = "X-Accel-Buffering: no\r\n"
_REFUSAL: Final = {
    401: 'WWW-Authenticate: Bearer realm="pyrtmp"\r\n',
    405: f"Allow: {_METHODS}\r\n",
    429: "Retry-After: 10\r\n",
    503: "Retry-After: 1\r\n",
}
_CAUSES: Final = {404: "not_found", 503: "busy"}
"""Why a viewer failed (``Server.viewer_failed``), by the status of its answer."""
_TICK_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 1.0
"""How long the page's list waits for a stream that another node may have."""

Elsewhere: TypeAlias = Callable[[StreamKey], Awaitable[str]]
"""Where a viewer is to go instead: the beginning of a URL, ``http://host:port``, or ""."""

Streams: TypeAlias = Callable[[], list[dict[str, Any]] | Awaitable[list[dict[str, Any]]]]


class ViewerSite:
    """Serves viewers of the streams in ``server.hub``.

    ``streams`` gives what the page lists, as plain data for JSON, at once or awaited.  ``header_seconds`` is the
    deadline for a connection's first request head.  ``feeds``: where other workers' HLS is found.  Proxies at
    ``trust_forwarded_from``, addresses or networks, are believed for whom they ask (X-Forwarded-For).  ``elsewhere`` is
    asked before somebody is served who may be new.  ``https_port``: where viewers are sent that come without TLS, but
    for those behind such a proxy; 0: nowhere.  ``prefix``, ``/part`` or "", is what all paths begin with; ``hosts`` are
    the names that it answers to, none: to any.
    """

    def __init__(
        self,
        server: Server,
        *,
        hls: HlsSettings | None = None,
        cors_origins: Collection[str] = ("*",),
        trust_forwarded_from: Collection[str] = (),
        streams: Streams = list,
        rtmp_port: int = 1935,
        rtmps_port: int = 0,
        version: str = "",
        header_seconds: float = HEADER_SECONDS,
        feeds: Feeds | None = None,
        elsewhere: Elsewhere | None = None,
        https_port: int = 0,
        prefix: str = "",
        hosts: Collection[str] = (),
    ) -> None:
        settings = hls or HlsSettings()
        self._server = server
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hls-mux")
        self.hls = HlsService(server.hub, settings, self._executor, feeds=feeds, fetch=self._fetch)
        self.audience = Audience(_watching_seconds(settings), self._left)
        server.watching = self.audience.watching
        self._origins = frozenset(cors_origins)
        self._proxies = Networks(trust_forwarded_from)
        self._prefix = prefix
        self._hosts = Hosts(hosts)
        self._streams = streams
        self._elsewhere = elsewhere
        self.https_port = https_port
        """May be set at any time."""
        self._rtmp_ports = {"rtmp_port": rtmp_port, "rtmps_port": rtmps_port}
        self._version = version
        self._page = {
            file.name: file for file in (*read_files("hls", "page"), *read_files("hls", "page", "vendor"))
        }
        self._header_seconds = header_seconds
        self._connections: ViewerConnections | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._servers: list[asyncio.Server] = []
        self._listeners: list[Listener] = []
        """With TLS."""
        self._handshakes = Handshakes(lambda: header_seconds, server.counters, server.journal)
        self._accepting: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    def configure(
        self, *, cors_origins: Collection[str], trust_forwarded_from: Collection[str], hls: HlsSettings,
        https_port: int = 0, prefix: str = "", hosts: Collection[str] = (),
    ) -> None:
        """Use other settings: for every request, ``hls`` for streams packaged from now on."""
        self.https_port = https_port
        self._origins = frozenset(cors_origins)
        self._proxies = Networks(trust_forwarded_from)
        self._prefix = prefix
        self._hosts = Hosts(hosts)
        self.hls.configure(hls)
        self.audience.seconds = _watching_seconds(hls)

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen on ``host``:``port``; may be called again for another address.  Raises ``OSError``."""
        sockets = bind(host, port)
        connections = self._open()
        if tls is not None:
            accept = functools.partial(self.accept, tls=tls)
            self._listeners += [Listener(sock, accept, self._server.counters, self._server.journal) for sock in sockets]
            return
        for sock in sockets:
            self._servers.append(
                await asyncio.get_running_loop().create_server(connections, sock=sock, backlog=1024)
            )

    def accept(self, sock: socket.socket, address: str = "", *, tls: ssl.SSLContext | None = None) -> None:
        """Serve a client's socket that somebody else has accepted: non-blocking, and the site's from here on.

        No listener is needed.  With ``tls`` the client counts as a connection from ``address`` until its handshake is
        over, for which it has as long as for a request head.
        """
        if self._closing.is_set():
            sock.close()
            return
        if tls is not None:
            self._shake_hands(sock, address, tls)
            return
        task = asyncio.get_running_loop().create_task(self._connect(sock))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._open(), sock)
        except OSError as error:
            sock.close()
            self._server.journal.error("accept_failed", error=str(error))

    def _shake_hands(self, sock: socket.socket, address: str, tls: ssl.SSLContext) -> None:
        whose = None if address in self._proxies else address
        if not self._server.may_accept(whose):
            self._server.journal.warning("refused", address=address, what="connection")
            sock.close()
            return
        connections = self._open()

        def connected() -> asyncio.BaseProtocol:
            self._server.let_go(whose)
            return connections()

        self._server.hold(whose)
        self._handshakes.begin(
            sock, tls, connected, failed=lambda: self._server.let_go(whose), address=address
        )

    def _open(self) -> ViewerConnections:
        """What is needed to serve connections, besides listening."""
        if self._connections is None:
            self._connections = ViewerConnections(self._answer, self._server, lambda address: address in self._proxies)
            self._tick()
        return self._connections

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        plain = [sock.getsockname()[:2] for server in self._servers for sock in server.sockets]
        return plain + [listener.address for listener in self._listeners]

    @property
    def connections(self) -> int:
        """HTTP connections, those in their TLS handshake, too; HTTP-FLV viewers that the kernel serves have left them
        and are clients of the server."""
        return 0 if self._connections is None else len(self._connections.connections) + len(self._handshakes)

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def close(self) -> None:
        """Stop; waiting requests are answered, viewers have been ended by ``Server.close``."""
        self._closing.set()
        self.stop_accepting()
        self._handshakes.close()
        if self._accepting:
            await asyncio.wait(self._accepting)
        if self._ticker is not None:
            self._ticker.cancel()
        self.hls.close()
        if self._connections is not None:
            self._connections.pre_shutdown()
            await self._connections.shutdown(1.0)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _tick(self) -> None:
        assert self._connections is not None
        self._connections.expire(monotonic() - self._header_seconds)
        self._ticker = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    # Requests

    async def _answer(self, request: web.BaseRequest) -> Answered:
        assert self._connections is not None
        self._connections.asked(request.protocol)
        try:
            if self._hosts and request.headers.get(hdrs.HOST, "") not in self._hosts:
                self._server.counters.refused["host"] += 1
                raise _Refused(421, "this server is not called by that name")
            if request.method in ("GET", "HEAD"):
                if self.https_port and not request.secure and (request.remote or "unix") not in self._proxies:
                    raise _Moved(self._secure_url(request), 308)
                return await self._get(request)
            if request.method == "OPTIONS":
                return self._options(request)
            raise _Refused(405, "this server answers GET, HEAD and OPTIONS")
        except _Moved as moved:
            fields = self._fields(request, "", "no-store", more=f"Location: {moved.url}\r\n")
            return Answer(request, moved.status, fields)
        except _Refused as refusal:
            fields = self._fields(
                request, "text/plain; charset=utf-8", "no-store", more=_REFUSAL.get(refusal.status, "")
            )
            return Answer(request, refusal.status, fields, f"{refusal.why}\n".encode())

    def _secure_url(self, request: web.BaseRequest) -> str:
        """The same with TLS.  Raises ``_Refused``."""
        host = HOST.fullmatch(request.headers.get(hdrs.HOST, ""))
        if host is None:
            raise _Refused(400, "this is served by HTTPS, and the request does not say how this server is called")
        port = "" if self.https_port == 443 else f":{self.https_port}"
        query = request.rel_url.raw_query_string
        return f"https://{host[1]}{port}{request.rel_url.raw_path}" + (f"?{query}" if query else "")

    async def _get(self, request: web.BaseRequest) -> Answered:
        path = self._below_prefix(request)
        media = _media(path, self._server.limits.max_name_bytes)
        if media is not None:
            kin, doubt = self._server.kinship.read_asked(request.headers.get(HEADER))
            if doubt:
                self._server.doubted("", self._address(request), doubt)
            try:
                return await self._serve(request, media, kin)
            except _Refused as refusal:
                if media.kind != "segment":  # whose player has begun
                    self._server.viewer_failed(_CAUSES.get(refusal.status, "refused"), kin)
                    if not refusal.told:
                        self._server.remember_refusal(
                            "play", self._address(request), str(media.key), str(refusal.status), refusal.why
                        )
                raise
        if path == "/":
            return self._file(request, "index.html")
        if path == "/_page/streams.json":
            return await self._list(request)
        if path.startswith("/_page/"):
            return self._file(request, path.removeprefix("/_page/").removeprefix("vendor/"))
        if path == "/favicon.ico":  # the page brings its icon along; browsers ask all the same
            return Answer(request, 204, self._fields(request, "", "max-age=86400"))
        raise self._no_page()

    def _below_prefix(self, request: web.BaseRequest) -> str:
        """The path without what all of them begin with.  Raises ``_Moved`` and ``_Refused``."""
        path, prefix = request.path, self._prefix
        if path == prefix:
            query = request.rel_url.raw_query_string
            raise _Moved(f"{prefix}/?{query}" if query else f"{prefix}/", 308)
        if not path.startswith(f"{prefix}/"):
            raise self._no_page()
        return path.removeprefix(prefix)

    def _no_page(self) -> _Refused:
        return _Refused(
            404, f"there is no such page; streams are {self._prefix}/app/stream.flv and {self._prefix}/app/stream.m3u8"
        )

    async def _serve(self, request: web.BaseRequest, media: _Media, kin: Kin) -> Answered:
        """What belongs to a stream."""
        came = monotonic()
        key, kind, file = media
        if kind == "flv":
            await self._welcome(request, key, kin)
            return await self._flv(request, key, kin, came)
        address = self._address(request)
        agent = request.headers.get(hdrs.USER_AGENT, "")[:128]
        # A segment's player has asked for a playlist first.
        known = kind == "segment" or self.audience.knows(key, address, agent)
        if kind == "playlist" and (not known or self._server.draining):
            await self._welcome(request, key, known=known)
        if self._server.hooks.on_play is not None and (instead := await self._allow(self._asked(request, key, "hls"))):
            key = instead
            known = kind == "segment" or self.audience.knows(key, address, agent)
        if not known:
            self._make_room(key)
        query = request.rel_url.raw_query_string
        if kind == "playlist":
            whole = WHOLE in request.headers
            reply = await self.hls.playlist(key.app, key.name, query=query, prefix=file, whole=whole)
        else:
            reply = await self.hls.segment(key.app, key.name, file, query=query)
        return self._reply(request, key, reply, address, agent, came)

    def _options(self, request: web.BaseRequest) -> Answered:
        return Answer(request, 204, self._fields(request, "", "", more=_PREFLIGHT))

    def _fields(
        self, request: web.BaseRequest, content_type: str, cache_control: str, *, etag: str = "", more: str = ""
    ) -> bytes:
        """An answer's header lines, except those about its end."""
        origin, vary = "*", ""
        if "*" not in self._origins:
            origin = request.headers.get(hdrs.ORIGIN, "")
            if origin not in self._origins:
                origin = ""
            vary = "Origin" if self._origins else ""
        return header_fields(content_type, cache_control, etag, origin, vary, more)

    # The page

    def _file(self, request: web.BaseRequest, name: str) -> Answered:
        file = self._page.get(name)
        if file is None:
            raise _Refused(404, "the page has no such file")
        fields = self._fields(request, file.content_type, "no-cache", etag=file.etag, more=_PAGE)
        return validated(request, fields, file.body, file.etag)

    async def _list(self, request: web.BaseRequest) -> Answered:
        """The page's list.  ``?stream=app/name``: one that its reader waits for; another node may have it."""
        wanted = request.rel_url.query.get("stream")
        hub = self._server.hub
        if wanted and hub.source is not None:
            key = _key(wanted, self._server.limits.max_name_bytes)
            if not hub.is_live(key):
                with contextlib.suppress(_Refused, _Moved):
                    asked = self._asked(request, key, "flv")
                    shown = "&".join(each for each in asked.query.split("&") if not each.startswith("stream="))
                    await self._live(await self._allow(asked) or key, shown.strip("&"), _LOOK_SECONDS)
        streams = self._streams()
        if inspect.isawaitable(streams):
            streams = await streams
        facts = {"streams": streams, **self._rtmp_ports, "version": self._version}
        fields = self._fields(request, "application/json; charset=utf-8", "no-store")
        return Answer(request, 200, fields, json.dumps(facts).encode())

    # Media

    def _asked(self, request: web.BaseRequest, key: StreamKey, protocol: str) -> Request:
        return Request(
            self._server.new_id(), self._address(request), protocol, key.app, key, request.rel_url.raw_query_string,
            dict(request.headers),
        )

    def _address(self, request: web.BaseRequest) -> str:
        """Whose request it is."""
        peer = request.remote or "unix"
        if not self._proxies:
            return peer
        return forwarded_for(peer, ",".join(request.headers.getall(hdrs.X_FORWARDED_FOR, ())), self._proxies)

    async def _welcome(
        self, request: web.BaseRequest, key: StreamKey, kin: Kin = STRANGER, *, known: bool = False
    ) -> None:
        """Turn newcomers away while this is no time for them.  Raises ``_Moved`` and ``_Refused``.

        An HLS player that watches already (``known``) is only sent away when the server will soon be gone; another node
        is not sent anywhere, since it knows where else to ask.
        """
        server = self._server
        # Other nodes are known by their plain addresses, where the page of somebody who came by HTTPS cannot go.
        if self._elsewhere is not None and not kin.node and not request.secure and (base := await self._elsewhere(key)):
            server.counters.refused["sent_elsewhere"] += 1
            query = request.rel_url.raw_query_string
            raise _Moved(f"{base}{request.path}?{query}" if query else f"{base}{request.path}")
        why = "" if known else server.unwelcome(kin)
        if why:
            server.counters.refused["draining" if server.draining else "busy"] += 1
            raise _Refused(503, why)

    def _make_room(self, key: StreamKey) -> None:
        """For one more viewer.  Raises ``_Refused``."""
        if not self._server.has_room_for_viewer(key):
            self._server.counters.refused["viewers"] += 1
            raise _Refused(503, "the stream has as many viewers as it may have")

    async def _allow(self, asked: Request) -> StreamKey | None:
        """Ask the hook; which stream it has them play instead, if it does.  Raises ``_Moved`` and ``_Refused``."""
        hook = self._server.hooks.on_play
        if hook is None:
            return None
        try:
            answer = hook(asked)
            return answer if answer is None or isinstance(answer, StreamKey) else await answer
        except RefusedError as error:
            self._server.turned_down(asked.client, asked.address, "play", str(asked.key), error)
            if isinstance(error, RedirectedError) and error.url.lower().startswith("http"):
                raise _Moved(error.url) from None
            raise _Refused(error.status, f"{error.code}: {error}", told=True) from None
        except Exception as error:
            self._server.journal.error("hook_failed", conn=asked.client, error=repr(error))
            raise _Refused(403, "the server could not decide") from None

    async def _flv(self, request: web.BaseRequest, key: StreamKey, kin: Kin, came: float) -> Answered:
        kinship = self._server.kinship
        asked = replace(
            self._asked(request, key, "flv"), admitted_by=kinship.admitted_by(kin, "play", key),
            node=kinship.proved_by(kin),
        )
        key = await self._allow(asked) or key
        self._make_room(key)
        hub = self._server.hub
        at_once = request.method == "HEAD" or (not kin.wait and hub.source is None)
        if at_once and not hub.is_live(key):
            raise _Refused(404, f"{key} is not published")
        if request.method == "HEAD":
            if request.transport is not None:
                request.transport.write(self._flv_head(request))
            return Answered()
        wait = hub.settings.play_wait_seconds
        stream = await self._live(key, asked.query, wait if kin.wait else min(wait, IMPATIENT_SECONDS), kin)
        transport = request.transport
        if transport is None or not await self._drained(request, transport):
            return Answered()
        assert self._connections is not None
        self._connections.let_go(request.protocol)  # it is to be a client, or nothing
        if not self._server.may_accept(asked.address):
            self._connections.hold(request.protocol)
            raise _Refused(503, "the server takes no more viewers")
        agent = request.headers.get("User-Agent", "")[:128]
        try:
            said = ""
            if HEADER in request.headers:
                answers = self._server.kin(stream) if kin.node else Kin(node=self._server.node)
                said = kinship.answer(answers, bool(kin.node), request.headers[HEADER])
            head = self._flv_head(request, said)
            viewer = FlvViewer(
                self._server, stream, transport, asked, agent, head, kin=kin, came=came
            )
        except OSError as error:
            # No memory or descriptor for another log or viewer: this one is refused, the stream goes on.
            self._connections.hold(request.protocol)
            self._server.counters.log_failures += 1
            self._server.journal.error("log_failed", conn=asked.client, stream=str(key), error=str(error))
            raise _Refused(503, "the server is out of resources") from None
        if viewer.done is None:
            request.protocol.force_close()  # not to wait for the rest of a body, nor to read what the viewer reads
            return Answered()
        try:
            await viewer.done
        finally:
            viewer.close("gone")
        return Answered()

    def _flv_head(self, request: web.BaseRequest, said: str = "") -> bytes:
        """All that goes before the FLV; ``said``: what another node is told."""
        more = f"{_FLV}{HEADER}: {said}\r\n" if said else _FLV
        # No length and no chunks: the body ends with the connection (RFC 9112, 6.3), which HTTP/1.0 knows as well.
        return answer_head(200, self._fields(request, "video/x-flv", "no-store", more=more), None, "close", int(time()))

    async def _drained(self, request: web.BaseRequest, transport: asyncio.Transport) -> bool:
        """Wait until the answers to the requests before have left; whether they did."""
        if not transport.get_write_buffer_size():
            return not transport.is_closing()
        transport.set_write_buffer_limits(0)
        try:
            async with asyncio.timeout(self._server.timeouts.write_stall):
                await request.writer.drain()
        except (TimeoutError, ConnectionError):
            transport.abort()
            return False
        return True

    async def _fetch(self, app: str, name: str, query: str, seconds: float) -> bool:
        """See ``hls.live.Fetch``."""
        hub, key = self._server.hub, StreamKey(app, name)
        if hub.source is not None and not hub.is_live(key):
            try:
                await self._live(key, query, seconds)
            except _Refused:
                return False
        return True

    async def _live(self, key: StreamKey, query: str, seconds: float, kin: Kin = STRANGER) -> Stream:
        """The stream once somebody publishes it; 404 when nobody does in time.  ``query``: see ``Hub.open``."""
        try:
            stream = self._server.hub.open(key, monotonic(), query)
        except RefusedError as error:
            raise _Refused(404, str(error)) from None
        if self._server.is_ready(stream, kin):
            return stream
        news = asyncio.Event()
        closing = asyncio.ensure_future(self._closing.wait())
        closing.add_done_callback(lambda _: news.set())
        try:
            async with asyncio.timeout(seconds):
                while not self._server.is_ready(stream, kin):
                    news.clear()
                    stream.wait(news.set)
                    await news.wait()
                    if not stream.live or self._closing.is_set():
                        break
        except TimeoutError:
            self._server.counters.refused["play_timeout"] += 1
        finally:
            closing.cancel()
            stream.stop_waiting(news.set)
        if not self._server.is_ready(stream, kin):
            raise _Refused(404, f"{key} is not published")
        return stream

    def _reply(
        self, request: web.BaseRequest, key: StreamKey, reply: Reply, address: str, agent: str, came: float
    ) -> Answer:
        if reply.status != 200:
            raise _Refused(reply.status, bytes(reply.body).decode().strip())
        cache = reply.cache_control
        if self._server.hooks.on_play is not None:
            # What this viewer may see is not for others that share a proxy (RFC 9111, 5.2.2.7).
            cache = cache.replace("public", "private")
        fields = self._fields(request, reply.content_type, cache, etag=reply.etag)
        answer = validated(request, fields, reply.body, reply.etag)
        server = self._server
        if self.audience.saw(key, address, agent, answer.length):
            server.counters.plays["hls"] += 1
            server.counters.first_frame("hls", monotonic() - came)
            server.journal.info(
                "play", conn=server.new_id(), address=address, stream=str(key), agent=agent, protocol="hls"
            )
        server.counters.bytes_out["hls"] += answer.length
        return answer

    def _left(self, key: StreamKey, address: str, agent: str, watched: Watched) -> None:
        """An HLS player does not ask any more."""
        self._server.journal.info(
            "stop", address=address, stream=str(key), agent=agent, protocol="hls",
            seconds=round(watched.seen - watched.since, 1), bytes=watched.bytes_out, requests=watched.requests,
        )


class _Refused(Exception):
    """A refusal with its reason as the body.  ``told``: it was logged."""

    def __init__(self, status: int, why: str, *, told: bool = False) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.told = told


class _Moved(Exception):
    """Another server serves this."""

    def __init__(self, url: str, status: int = 307) -> None:
        super().__init__(url)
        self.url = url
        self.status = status


class _Media(NamedTuple):
    """What a path asks for: ``kind`` is ``flv``, ``playlist`` (``file`` goes before its URIs) or ``segment``."""

    key: StreamKey
    kind: str
    file: str = ""


@functools.lru_cache(REMEMBERED)
def _media(path: str, max_name_bytes: int) -> _Media | None:
    """What of a stream ``path`` asks for; None: nothing of a stream.  Raises ``_Refused`` for a bad name."""
    path = path[1:]
    if path.endswith(".flv"):
        return _Media(_key(path.removesuffix(".flv"), max_name_bytes), "flv")
    if path.endswith("/index.m3u8"):
        return _Media(_key(path.removesuffix("/index.m3u8"), max_name_bytes), "playlist")
    if path.endswith(".m3u8"):
        key = _key(path.removesuffix(".m3u8"), max_name_bytes)
        return _Media(key, "playlist", f"{key.name}/")
    if path.endswith(_SEGMENT_SUFFIXES):
        folder, _, file = path.rpartition("/")
        return _Media(_key(folder, max_name_bytes), "segment", file)
    return None


def _key(path: str, max_name_bytes: int) -> StreamKey:
    wrong = problem(path, max_name_bytes)
    if wrong:
        raise _Refused(400, wrong)
    app, _, name = path.rpartition("/")
    if not app:
        raise _Refused(404, "a stream's address has an application and a name: /app/stream")
    return make_key(app, name)


def _watching_seconds(settings: HlsSettings) -> float:
    """How long after its last request an HLS player still watches."""
    return max(3 * settings.max_fragment, settings.window)
