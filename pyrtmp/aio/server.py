"""The RTMP server: listens, keeps its connections and their deadlines, owns the hub and the rounds."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Collection
from time import monotonic, time
from typing import Final, Protocol

from pyrtmp.aio.connection import Connection
from pyrtmp.aio.handshakes import Handshakes
from pyrtmp.aio.listener import Listener, bind
from pyrtmp.aio.publishing import Claims
from pyrtmp.aio.rounds import Rounds
from pyrtmp.counters import Counters
from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Hooks
from pyrtmp.hub import Hub
from pyrtmp.journal import Journal, LoggingJournal
from pyrtmp.kin import STRANGER, Kin
from pyrtmp.kinship import Kinship
from pyrtmp.names import StreamKey
from pyrtmp.networks import Networks, subscriber
from pyrtmp.refusals import Refusal, Refusals
from pyrtmp.settings import EgressSettings, Limits, StreamSettings, Timeouts
from pyrtmp.stream import Stream
from pyrtmp.tcpinfo import TcpInfo

_CLOSE_SECONDS: Final = 1.0
"""How long ``close`` waits for viewers to get the rest, and again for connections to close."""

_POLL_SECONDS: Final = 0.01


class Client(Protocol):
    """A connection as operators see it: RTMP publishers and players, HTTP viewers."""

    id: str
    address: str
    protocol: str
    """``rtmp``, ``flv`` or ``hls``."""
    agent: str
    kin: Kin
    """What it said of itself, where it is another node."""
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

    def path(self) -> TcpInfo | None:
        """What the kernel knows of the way to the client; None where it does not say."""

    def kick(self) -> None:
        """Close the connection now."""

    def check(self, now: float) -> None:
        """Enforce deadlines; called at every tick."""


class Server:
    """An RTMP server to run or to embed.

    ``start`` may be called for several addresses.  All parts share the event loop it was started in; nothing here
    may be called from another thread.

    ``max_connections`` and ``max_connections_per_address`` (0: no limit) count RTMP and HTTP connections,
    ``max_streams`` (0: no limit) streams published to this server, ``max_viewers_per_stream`` (0: no limit) those who
    play one or wait for it.
    Connections from ``proxy_from``, addresses or networks of balancers, begin with a header of the PROXY protocol,
    which says whose they are; not those with TLS.  Deadlines are looked at every ``tick`` seconds, so a peer may
    overstay one by as much.
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
        max_streams: int = 0,
        max_viewers_per_stream: int = 0,
        proxy_from: Collection[str] = (),
        tick: float = 1.0,
        node: str = "",
        kinship: Kinship | None = None,
    ) -> None:
        self.node = node
        """What it is called among servers that pass streams on to each other (``pyrtmp.kin``)."""
        self.kinship = kinship or Kinship()
        """How those know each other."""
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.hooks = hooks or Hooks()
        self.counters = counters or Counters()
        self.journal: Journal = journal or LoggingJournal()
        self.rounds = Rounds(egress or EgressSettings(), self.counters, self.journal)
        self.hub = Hub(stream or StreamSettings(), self.rounds.wake, journal=self.journal)
        self.claims: Claims | None = None
        """Asked before anybody publishes, where other processes take publishers too."""
        self.draining = False
        """Connections go on, but nobody new is welcome."""
        self.busy: Callable[[], bool] = lambda: False
        """Whether newcomers would be too much; set by whoever knows."""
        self.clients: dict[str, Client] = {}
        self.refusals = Refusals()
        """Of streams, the newest."""
        self.started = monotonic()
        self._max_connections = max_connections
        self._max_per_address = max_connections_per_address
        self._max_streams = max_streams
        self._max_viewers = max_viewers_per_stream
        self.watching: Callable[[StreamKey], int] = lambda key: 0
        """Viewers of a stream that are no connections; set by whoever serves them."""
        self.elsewhere: Callable[[StreamKey], int] = lambda key: 0
        """And those at other processes of this machine; set by whoever knows them."""
        self._proxies = Networks(proxy_from)
        self._per_address: Counter[str] = Counter()
        self._pending = 0
        """Connections of ``hold``."""
        self._listeners: list[Listener] = []
        self._handshakes = Handshakes(lambda: self.timeouts.handshake, self.counters, self.journal)
        self._accepting: set[asyncio.Task[None]] = set()
        self._tick_seconds = tick
        self._ticker: asyncio.TimerHandle | None = None
        self._closing = False

    def configure(
        self,
        *,
        stream: StreamSettings,
        egress: EgressSettings,
        limits: Limits,
        timeouts: Timeouts,
        max_connections: int,
        max_connections_per_address: int,
        max_streams: int = 0,
        max_viewers_per_stream: int = 0,
        proxy_from: Collection[str],
    ) -> None:
        """Use other settings: for streams that begin and connections that come from now on; timeouts and egress for
        all."""
        self.hub.settings = stream
        self.rounds.configure(egress)
        self.limits = limits
        self.timeouts = timeouts
        self._max_connections = max_connections
        self._max_per_address = max_connections_per_address
        self._max_streams = max_streams
        self._max_viewers = max_viewers_per_stream
        self._proxies = Networks(proxy_from)

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen on ``host``:``port`` (0: any free one, see ``addresses``).  Raises ``OSError``."""
        def accept(sock: socket.socket, address: str) -> None:
            self.accept(sock, address, tls)

        self._listeners += [Listener(sock, accept, self.counters, self.journal) for sock in bind(host, port)]
        self.open()

    def open(self) -> None:
        """Begin to look at deadlines: enough where another process listens and ``accept`` is called."""
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(self._tick_seconds, self._tick)

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
        self._handshakes.close()
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

    def may_accept(self, address: str | None) -> bool:
        """Whether one more connection, RTMP or HTTP viewer, is within the limits.  None: whose it is will be told."""
        return self.has_room_for_connection(address) and not self._closing

    def has_room_for_connection(self, address: str | None) -> bool:
        """The same, whether or not it ends just now."""
        if len(self.clients) + self._pending >= self._max_connections:
            self.counters.refused["connections"] += 1
            return False
        return address is None or self._may_come_from(address)

    def _may_come_from(self, address: str) -> bool:
        if self._max_per_address and self._per_address[subscriber(address)] >= self._max_per_address:
            self.counters.refused["connections_per_address"] += 1
            return False
        return True

    def has_room_for_stream(self) -> bool:
        """Whether one more may be published."""
        if not self._max_streams:
            return True
        return sum(stream.held and not stream.pulled for stream in self.hub) < self._max_streams

    def has_room_for_viewer(self, key: StreamKey) -> bool:
        """Whether one more may play a stream, or wait for it."""
        if not self._max_viewers:
            return True
        stream = self.hub.find(*key)
        here = 0 if stream is None else stream.viewers + stream.waiting
        return here + self.watching(key) + self.elsewhere(key) < self._max_viewers

    def hold(self, address: str | None) -> None:
        """Count a connection that is no client, as one that asks by HTTP, until ``let_go``.  None: it is a proxy's, and
        so not from one address."""
        self._pending += 1
        if address is not None:
            self._per_address[subscriber(address)] += 1

    def let_go(self, address: str | None) -> None:
        """It is gone."""
        self._pending -= 1
        if address is not None:
            self._forget_address(address)

    def readdress(self, client: Connection, address: str) -> bool:
        """A client's own address, told by a balancer; whether one more connection from there is within the limits."""
        if not self._may_come_from(address):
            self.journal.warning("refused", conn=client.id, address=address, what="connection")
            return False
        self._forget_address(client.address)
        client.address = address
        self._per_address[subscriber(address)] += 1
        return True

    def unwelcome(self, kin: Kin = STRANGER) -> str:
        """Why a newcomer is turned away, or ``""``.  Another node is not too much: it is one connection for all its
        viewers."""
        if self.draining:
            return "the server is draining"
        return "the server is busy" if not kin.node and self.busy() else ""

    def kin(self, stream: Stream) -> Kin:
        """What another node that plays ``stream`` is told."""
        hops = (*stream.hops, self.node)
        return Kin(node=self.node, hops=hops, lineage=stream.lineage, birth=stream.told)

    def is_ready(self, stream: Stream, kin: Kin) -> bool:
        """Whether it can be played now: it is there and, if another node asks, what that has to be told is known."""
        return stream.live and (not kin.node or bool(stream.told))

    def turned_down(self, id: str, address: str, what: str, name: str, refusal: RefusedError) -> None:
        """Count, log and remember a request that was refused; ``id`` is the client's."""
        self.remember_refusal(what, address, name, refusal.code, refusal.detail or str(refusal))
        self.counters.refused[refusal.reason or what] += 1
        self.journal.warning(
            "refused", conn=id, address=address, what=what, name=name, code=refusal.code,
            why=refusal.detail or refusal.reason or str(refusal),
        )

    def remember_refusal(self, what: str, address: str, name: str, code: str, why: str) -> None:
        """For whoever asks why ``name`` does not work; see ``Refusal``."""
        self.refusals.note(name, Refusal(what, address, code, why, time()))

    def doubted(self, id: str, address: str, why: str) -> None:
        """Count and log what a client said of itself as a node, and did not prove; ``id`` is the client's."""
        self.counters.refused["kin_unproven"] += 1
        self.journal.warning("kin_unproven", conn=id, address=address, why=why)

    def viewer_failed(self, cause: str, kin: Kin = STRANGER) -> None:
        """Count a viewer that did not get what it asked for, or not to its end; another node is none.

        ``refused``, ``not_found`` (nobody published the stream in time), ``busy`` (or draining), ``resources`` (no
        memory or descriptor), ``stall`` (took nothing for too long), ``flood`` (left answers unread), ``reset`` (its
        connection broke, which also is how many players leave).  Who asks again counts again.
        """
        if not kin.node:
            self.counters.viewers_failed[cause] += 1

    def add_client(self, client: Client) -> None:
        """Count a connection among the clients."""
        self.clients[client.id] = client
        self._per_address[subscriber(client.address)] += 1

    def remove_client(self, client: Client) -> None:
        """Its connection is gone."""
        if self.clients.pop(client.id, None) is not None:
            self._forget_address(client.address)

    def _forget_address(self, address: str) -> None:
        whose = subscriber(address)
        self._per_address[whose] -= 1
        if not self._per_address[whose]:
            del self._per_address[whose]

    # Connections

    def accept(self, sock: socket.socket, address: str, tls: ssl.SSLContext | None) -> None:
        """Serve a client's socket, which the server owns from here on."""
        proxied = tls is None and bool(self._proxies) and address in self._proxies
        connection = Connection(self, self.new_id(), sock, address, proxied=proxied)
        if not self.may_accept(None if proxied else address):
            self.journal.warning("refused", conn=connection.id, address=address, what="connection")
            sock.close()
            return
        self.add_client(connection)
        if tls is not None:
            self._handshakes.begin(
                sock, tls, lambda: connection,
                failed=lambda: self.remove_client(connection), conn=connection.id, address=address,
            )
            return
        task = asyncio.get_running_loop().create_task(self._connect(sock, connection))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _connect(self, sock: socket.socket, connection: Connection) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except BaseException as error:
            self.remove_client(connection)
            sock.close()
            if not isinstance(error, OSError):
                raise
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
        self.rounds.standstill.look(now)
        for client in list(self.clients.values()):
            client.check(now)
        self.hub.tick(now)
