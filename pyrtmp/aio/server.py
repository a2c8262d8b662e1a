"""The RTMP server: listens, keeps its connections and their deadlines, owns the hub and the rounds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from pyrtmp.aio.connection import Connection
from pyrtmp.aio.rounds import Rounds
from pyrtmp.counters import Counters
from pyrtmp.hooks import Hooks
from pyrtmp.hub import Hub
from pyrtmp.journal import Journal, LoggingJournal
from pyrtmp.names import StreamKey
from pyrtmp.settings import EgressSettings, Limits, StreamSettings, Timeouts

_CLOSE_SECONDS: Final = 1.0
"""How long ``close`` waits for viewers to get the rest, and again for connections to close."""

_POLL_SECONDS: Final = 0.01

_BACKLOG: Final = 1024


class Client(Protocol):
    """A connection as operators see it: RTMP publishers and players, HTTP viewers."""

    id: str
    address: str
    protocol: str
    """``rtmp``, ``flv`` or ``hls``."""
    agent: str
    since: float
    """Monotonic seconds of its beginning."""

    @property
    def role(self) -> str:
        """``publish``, ``play``, ``wait`` (for a publisher) or ``idle``."""

    @property
    def key(self) -> StreamKey | None:
        """The stream it publishes or plays."""

    @property
    def bytes_in(self) -> int:
        """Bytes received."""

    @property
    def bytes_out(self) -> int:
        """Media bytes sent."""

    def kick(self) -> None:
        """Close the connection now."""

    def check(self, now: float) -> None:
        """Enforce deadlines; called at every tick."""


class Server:
    """An RTMP server to run or to embed.

    ``start`` may be called for several addresses.  All parts share the event loop it was started in; nothing here
    may be called from another thread.

    ``max_connections`` and ``max_connections_per_address`` (0: no limit) count RTMP connections and HTTP viewers.
    Deadlines are looked at every ``tick`` seconds, so a peer may overstay one by as much.
    """

    def __init__(
        self,
        *,
        stream: StreamSettings | None = None,
        egress: EgressSettings | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        hooks: Hooks | None = None,
        counters: Counters | None = None,
        journal: Journal | None = None,
        max_connections: int = 10000,
        max_connections_per_address: int = 0,
        tick: float = 1.0,
    ) -> None:
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.hooks = hooks or Hooks()
        self.counters = counters or Counters()
        self.journal: Journal = journal or LoggingJournal()
        self.rounds = Rounds(egress or EgressSettings(), self.counters)
        self.hub = Hub(stream or StreamSettings(), self.rounds.wake, journal=self.journal)
        self.clients: dict[str, Client] = {}
        self.started = monotonic()
        self._max_connections = max_connections
        self._max_per_address = max_connections_per_address
        self._per_address: Counter[str] = Counter()
        self._listeners: list[_Listener] = []
        self._accepting: set[asyncio.Task[None]] = set()
        self._tick_seconds = tick
        self._ticker: asyncio.TimerHandle | None = None
        self._closing = False

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen on ``host``:``port`` (0: any free one, see ``addresses``).  Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        self._listeners += [_Listener(self, loop, sock, tls) for sock in bind(host, port)]
        if self._ticker is None:
            self._ticker = loop.call_later(self._tick_seconds, self._tick)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return [listener.address for listener in self._listeners]

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections go on."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def close(self) -> None:
        """Stop accepting, end every stream, let viewers have the rest, close every connection."""
        self._closing = True
        self.stop_accepting()
        for task in self._accepting:
            task.cancel()
        self.hub.close(monotonic())
        await self._until(lambda: not any(client.role == "play" for client in self.clients.values()))
        for client in list(self.clients.values()):
            client.kick()
        await self._until(lambda: not self.clients)
        for client in list(self.clients.values()):
            if isinstance(client, Connection):
                client.abort()
        await self._until(lambda: not self.clients and not self._accepting)
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        self.rounds.close()

    async def _until(self, done: Callable[[], bool]) -> None:
        deadline = monotonic() + _CLOSE_SECONDS
        while not done() and monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)

    def new_id(self) -> str:
        """An id for a connection, unique while it lives."""
        return secrets.token_hex(5)

    def may_accept(self, address: str) -> bool:
        """Whether one more connection, RTMP or HTTP viewer, is within the limits."""
        if len(self.clients) >= self._max_connections:
            self.counters.refused["connections"] += 1
            return False
        if self._max_per_address and self._per_address[address] >= self._max_per_address:
            self.counters.refused["connections_per_address"] += 1
            return False
        return not self._closing

    def add_client(self, client: Client) -> None:
        """Count a connection among the clients."""
        self.clients[client.id] = client
        self._per_address[client.address] += 1

    def remove_client(self, client: Client) -> None:
        """Its connection is gone."""
        if self.clients.pop(client.id, None) is not None:
            self._per_address[client.address] -= 1
            if not self._per_address[client.address]:
                del self._per_address[client.address]

    # Connections

    def accept(self, sock: socket.socket, address: str, tls: ssl.SSLContext | None) -> None:
        """Serve a client's socket, which the server owns from here on."""
        connection = Connection(self, self.new_id(), address)
        if not self.may_accept(address):
            self.journal.warning("refused", conn=connection.id, address=address, what="connection")
            sock.close()
            return
        self.add_client(connection)
        task = asyncio.get_running_loop().create_task(self._connect(sock, connection, tls))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _connect(self, sock: socket.socket, connection: Connection, tls: ssl.SSLContext | None) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, sock, ssl=tls,
                ssl_handshake_timeout=self.timeouts.handshake if tls else None,
                ssl_shutdown_timeout=_CLOSE_SECONDS if tls else None,
            )
        except BaseException as error:
            self.remove_client(connection)
            sock.close()
            if not isinstance(error, OSError):  # ssl.SSLError and TimeoutError are
                raise
            self.counters.refused["tls"] += 1
            self.journal.warning(
                "connection_failed", conn=connection.id, address=connection.address, error=str(error)
            )

    def connection_lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self.counters.bytes_in += connection.session.received
        self.counters.dropped_messages += connection.session.dropped_media
        self.remove_client(connection)

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(self._tick_seconds, self._tick)
        now = monotonic()
        for client in list(self.clients.values()):
            client.check(now)
        self.hub.tick(now)


class _Listener:
    """Accepts on one socket.

    Not ``loop.create_server``: when descriptors run out that either stops accepting for good or spins.  Here one
    descriptor is kept in reserve, so that a connection too many is accepted and closed at once instead of keeping
    the socket readable.
    """

    _MAX_ACCEPTS: Final = 64

    def __init__(
        self, server: Server, loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ssl.SSLContext | None
    ) -> None:
        self._server = server
        self._loop = loop
        self._socket = sock
        self._tls = tls
        self._reserve: int | None = os.open(os.devnull, os.O_RDONLY)
        self._exhausted = False
        name = sock.getsockname()
        self.address: tuple[str, int] = (str(name[0]), int(name[1]))
        loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(self._MAX_ACCEPTS):
            try:
                sock, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    self._server.journal.error("accept_failed", error=str(error))
                    return
                if not self._turn_away(error):
                    return
            else:
                self._exhausted = False
                sock.setblocking(False)
                self._server.accept(sock, str(peer[0]), self._tls)

    def _turn_away(self, error: OSError) -> bool:
        """Out of descriptors: spend the reserve on telling one client at once; whether there was one."""
        if not self._exhausted:
            self._exhausted = True
            self._server.journal.error("out_of_descriptors", error=str(error))
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        try:
            self._socket.accept()[0].close()
            self._server.counters.refused["descriptors"] += 1
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY)
        return True

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._reserve is not None:
            os.close(self._reserve)


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of ``host``; an empty host is all IPv4 and IPv6 addresses."""
    sockets: list[socket.socket] = []
    try:
        for family, type, proto, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sock = socket.socket(family, type, proto)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(_BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
