"""The RTMP server: listens, keeps its connections and their deadlines, owns the hub and the rounds."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import ssl
from collections import Counter
from time import monotonic
from typing import Final, Protocol

from pyrtmp.aio.connection import Connection
from pyrtmp.aio.rounds import Rounds
from pyrtmp.counters import Counters
from pyrtmp.hooks import Hooks
from pyrtmp.hub import Hub
from pyrtmp.journal import Journal, LoggingJournal
from pyrtmp.names import StreamKey
from pyrtmp.session import ServerSession
from pyrtmp.settings import EgressSettings, Limits, StreamSettings, Timeouts

TICK_SECONDS: Final = 1.0
"""Deadlines are looked at so often; a peer may overstay one by as much."""

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
        """Enforce deadlines; called once a second."""


class Server:
    """An RTMP server to run or to embed.

    ``start`` may be called for several addresses.  All parts share the event loop it was started in; nothing here
    may be called from another thread.
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
    ) -> None:
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.hooks = hooks or Hooks()
        self.counters = counters or Counters()
        self.journal: Journal = journal or LoggingJournal()
        self.rounds = Rounds(egress or EgressSettings(), self.counters)
        self.hub = Hub(stream or StreamSettings(), self.rounds.wake)
        self.clients: dict[str, Client] = {}
        self.started = monotonic()
        self._max_connections = max_connections
        self._max_per_address = max_connections_per_address
        self._per_address: Counter[str] = Counter()
        self._listeners: list[_Listener] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._closing = False

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen on ``host``:``port`` (0: any free one, see ``addresses``).  Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        for sock in bind(host, port):
            listener = _Listener(self, loop, sock, tls)
            self._listeners.append(listener)
        if self._ticker is None:
            self._ticker = loop.call_later(TICK_SECONDS, self._tick)

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
        self.hub.close(monotonic())
        deadline = monotonic() + 1.0
        while any(client.role == "play" for client in self.clients.values()) and monotonic() < deadline:
            await asyncio.sleep(0.01)
        for client in list(self.clients.values()):
            client.kick()
        for _ in range(100):
            if not self.clients:
                break
            await asyncio.sleep(0.01)
        if self._ticker is not None:
            self._ticker.cancel()
        self.rounds.close()

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

    # Connections report here

    def connection_made(self, connection: Connection) -> None:
        """A connection was accepted."""
        self.counters.connections += 1
        if self.may_accept(connection.address):
            self.add_client(connection)
        else:
            self.journal.warning("refused", conn=connection.id, address=connection.address, what="connection")
            connection.kick()

    def connection_lost(self, connection: Connection, session: ServerSession) -> None:
        """A connection is gone."""
        self.counters.bytes_in += session.received
        self.counters.dropped_messages += session.dropped_media
        self.remove_client(connection)

    def _tick(self) -> None:
        now = monotonic()
        for client in list(self.clients.values()):
            client.check(now)
        self.hub.tick(now)
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)


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
        self._reserve = os.open(os.devnull, os.O_RDONLY)
        self._tasks: set[asyncio.Task[object]] = set()
        name = sock.getsockname()
        self.address: tuple[str, int] = (str(name[0]), int(name[1]))
        loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(self._MAX_ACCEPTS):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away()
                    continue
                self._server.journal.error("accept_failed", error=str(error))
                return
            sock.setblocking(False)
            server = self._server
            task = self._loop.create_task(self._connect(sock, Connection(server, server.new_id())))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, sock: socket.socket, connection: Connection) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, sock, ssl=self._tls,
                ssl_handshake_timeout=self._server.timeouts.handshake if self._tls else None,
            )
        except (OSError, ssl.SSLError) as error:
            self._server.counters.refused["tls"] += 1
            self._server.journal.warning("connection_failed", conn=connection.id, error=str(error))
            sock.close()

    def _turn_away(self) -> None:
        """Out of descriptors: spend the reserve on telling one client at once."""
        os.close(self._reserve)
        try:
            self._socket.accept()[0].close()
        except OSError:
            pass
        finally:
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        self._server.counters.refused["descriptors"] += 1

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
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
