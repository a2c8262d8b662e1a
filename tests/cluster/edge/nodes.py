"""Origins and edges in one event loop, sources whose copies go to several of them, and upstreams that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

from cluster.edge.pull import Claims
from cluster.edge.pulls import Pulls
from cluster.edge.upstreams import Upstream, Upstreams
from hls.flv import FlvForm, header
from hls.http import ViewerSite
from pyrtmp import Client, Message, Server, amf
from pyrtmp.chunk import encode
from pyrtmp.errors import PeerError
from pyrtmp.kin import Kin
from pyrtmp.message import AUDIO, COMMAND_AMF0, VIDEO
from pyrtmp.names import StreamKey
from pyrtmp.session import ServerSession
from pyrtmp.session.events import ConnectAsked, PlayAsked
from pyrtmp.settings import Limits
from tests.pyrtmp.aio.net import AUDIO_SEQUENCE, SEQUENCE, Net, Peer, eventually, frame, sound

CAM = StreamKey("live", "cam")
GOP = 10


class Edge:
    """A server that pulls."""

    def __init__(self, server: Server, pulls: Pulls, upstreams: Upstreams) -> None:
        self.server = server
        self.pulls = pulls
        self.upstreams = upstreams


class Source:
    """Publishes the same to several servers, as nodes that pass on one stream do."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = list(clients)
        self.sent: list[Message] = []
        self.number = 0
        self.gop = GOP

    async def send(self, *messages: Message) -> None:
        for message in messages:
            self.sent.append(message)
            for client in self.clients:
                await client.send(Message(message.type, message.timestamp, 1, message.payload))

    async def pictures(self, count: int, pause: float = 0.0) -> None:
        """The next pictures, each with a sound of the same time; a key frame every ``gop``."""
        for _ in range(count):
            number, self.number = self.number, self.number + 1
            await self.send(frame(number, 300, key=number % self.gop == 0), sound(number))
            if pause:
                await asyncio.sleep(pause)

    async def leave(self, client: Client) -> None:
        self.clients.remove(client)
        await client.close()

    async def close(self) -> None:
        for client in self.clients:
            with contextlib.suppress(ConnectionError):
                await client.close()

    def since(self, player: Peer) -> list[tuple[int, int, bytes]]:
        """What was sent from the first frame on that the player has."""
        sent = brief(coded(self.sent))
        return sent[sent.index(brief(coded(player.media()))[0]) :]


def coded(messages: Sequence[Message]) -> list[Message]:
    return [m for m in messages if m.type in (AUDIO, VIDEO) and m.payload[1] == 1]


def brief(messages: Sequence[Message]) -> list[tuple[int, int, bytes]]:
    return [(m.type, m.timestamp, m.payload) for m in messages]


def time_goes_on(player: Peer) -> bool:
    times = [m.timestamp for m in coded(player.media())]
    return all(before <= after for before, after in pairwise(times))


def plays(server: Server) -> int:
    """Connections that play, or wait for a stream."""
    return sum(client.role == "play" for client in server.clients.values())


class Nodes(Net):
    """Everything of one test, closed at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.edges: list[Edge] = []
        self.sources: list[Source] = []
        self.fakes: list[Fake] = []
        self.sites: list[ViewerSite] = []
        self._sockets: list[socket.socket] = []

    async def origin(self, node: str = "origin", **options: Any) -> Server:
        return await self.server(node=node, **options)

    async def http(self, server: Server, tls: ssl.SSLContext | None = None) -> Upstream:
        """Where the server's streams are to be had by HTTP-FLV."""
        site = ViewerSite(server)
        await site.start("127.0.0.1", 0, tls=tls)
        self.sites.append(site)
        return Upstream(*site.addresses[0], scheme="https" if tls else "http")

    async def edge(
        self, *upstreams: Upstream | Server | Fake, linger: float = 0.3, node: str = "edge",
        claims: Claims | None = None, **options: Any,
    ) -> Edge:
        """Asks ``upstreams`` in that order."""
        server = await self.server(node=node, **options)
        known = [each if isinstance(each, Upstream) else address(each) for each in upstreams]

        async def resolve(key: StreamKey) -> Sequence[Upstream]:
            return known

        found = Upstreams((), resolve)
        pulls = Pulls(server, found, linger=lambda: linger, claims=claims)
        server.hub.source = pulls
        edge = Edge(server, pulls, found)
        self.edges.append(edge)
        return edge

    async def source(self, *servers: Server, lineage: str = "", name: str = "cam") -> Source:
        """Publishes to all of them."""
        kin = Kin(node="encoder", hops=("encoder",), lineage=lineage).entry() if lineage else {}
        clients = []
        for server in servers:
            client = await Client.connect(f"rtmp://127.0.0.1:{server.addresses[0][1]}/live/{name}", **kin)
            await client.publish()
            clients.append(client)
        source = Source(clients)
        self.sources.append(source)
        await source.send(Message(VIDEO, 0, 1, SEQUENCE), Message(AUDIO, 0, 1, AUDIO_SEQUENCE))
        return source

    async def fake(self, stage: str = "", then: Callable[[Fake, Session], Awaitable[None]] | None = None) -> Fake:
        fake = Fake(stage, then)
        await fake.start()
        self.fakes.append(fake)
        return fake

    def unreachable(self) -> Upstream:
        """Nobody listens there."""
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            return Upstream(*sock.getsockname())

    def blackhole(self) -> Upstream:
        """The kernel takes connections there, and nobody else does."""
        sock = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(sock)
        return Upstream(*sock.getsockname())

    async def watch(self, edge: Edge, name: str = "cam") -> Peer:
        """A player that has its first key frame."""
        player = await self.player(edge.server, name)
        await player.until(player.numbers)
        return player

    async def close(self) -> None:
        for edge in self.edges:
            await edge.pulls.close()
            assert not len(edge.pulls)
        for source in self.sources:
            await source.close()
        await super().close()
        for site in self.sites:
            await site.close()
        for fake in self.fakes:
            await fake.close()
        for sock in self._sockets:
            sock.close()


def address(server: Server | Fake) -> Upstream:
    return Upstream("127.0.0.1", server.addresses[0][1])


async def ended(edge: Edge, timeout: float = 5.0) -> None:
    """Wait until nothing is pulled."""
    await eventually(lambda: not len(edge.pulls), timeout)


class Session:
    """One connection to a fake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.rtmp = ServerSession(Limits())
        self.msid = 1

    def flush(self) -> None:
        self.writer.write(self.rtmp.take_output())

    def send(self, *messages: Message, csid: int = 6) -> None:
        chunks = (chunk for m in messages for chunk in encode(m, csid, chunk_size=self.chunk_size))
        self.writer.write(b"".join(chunks))

    @property
    def chunk_size(self) -> int:
        return self.rtmp._chunk_size

    async def request(self) -> str:
        """The head of the request, of one that speaks HTTP."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def gone(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


class Fake:
    """An upstream that does right until ``stage``, and then something else (by default, it hangs up)."""

    def __init__(self, stage: str, then: Callable[[Fake, Session], Awaitable[None]] | None) -> None:
        self.connections = 0
        self.open = 0
        self._stage = stage
        self._then = then
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [sock.getsockname()[:2] for sock in self._server.sockets]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._talk(Session(reader, writer))
        except (ConnectionError, PeerError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _talk(self, session: Session) -> None:
        if self._stage == "accept":
            return await self._misbehave(session)
        while data := await session.reader.read(65536):
            if self._stage == "hello":
                return await self._misbehave(session)
            events = session.rtmp.receive(data)
            while events:
                for event in events:
                    if isinstance(event, ConnectAsked):
                        if self._stage == "connect":
                            return await self._misbehave(session)
                        session.rtmp.accept_connect()
                    elif isinstance(event, PlayAsked):
                        session.msid = event.msid
                        if self._stage == "play":
                            return await self._misbehave(session)
                        session.rtmp.accept_play(event.msid)
                        session.flush()
                        if self._stage == "start":
                            return await self._misbehave(session)
                events = session.rtmp.resume()
            session.flush()
        return None

    async def _misbehave(self, session: Session) -> None:
        if self._then is not None:
            await self._then(self, session)

    async def close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def over_http(fake: Fake) -> Upstream:
    """One that misbehaves at ``accept``, and is asked by HTTP."""
    return Upstream(*fake.addresses[0], scheme="http")


def tags(*messages: Message) -> bytes:
    """As they are in an FLV file."""
    buffers: list[bytes] = []
    FlvForm().encode(messages, buffers)
    return b"".join(buffers)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nConnection: close\r\n\r\n"
FLV = header(True, True) + tags(Message(VIDEO, 0, 0, SEQUENCE), Message(AUDIO, 0, 0, AUDIO_SEQUENCE))
"""All that comes before the frames."""


def refusal(**more: Any) -> Message:
    """The answer to connect that says no."""
    info = {"level": "error", "code": "NetConnection.Connect.Rejected", "description": "no", **more}
    return Message(COMMAND_AMF0, 0, 0, amf.encode0("_error", 1.0, None, info))


async def hang(fake: Fake, session: Session) -> None:
    """Say nothing more."""
    await session.gone()
