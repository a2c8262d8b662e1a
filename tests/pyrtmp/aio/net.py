"""A server with small deadlines, raw clients that read every byte strictly, and a publisher's messages."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from pyrtmp import Limits, Server, Timeouts, amf, control
from pyrtmp.chunk import ChunkReader, encode
from pyrtmp.message import AUDIO, COMMAND_AMF0, USER_CONTROL, VIDEO, Message

HELLO = b"\3" + bytes(1536) + bytes(1536)
SEQUENCE = bytes.fromhex(
    "17000000000164001fffe100186764001facb402802dd80880000003008000001e078c195001000468ef3cb0fdf8f800"
)
AUDIO_SEQUENCE = bytes.fromhex("af001210")
SHORT = Timeouts(handshake=0.2, connect=0.2, request=0.2, first_media=0.2, media_idle=0.3, write_stall=0.3)
LONG_READS = Limits(max_chunk_streams=1000)


def frame(number: int, size: int = 1000, *, key: bool = False) -> Message:
    """A coded picture that says which one it is."""
    body = (b"\x17" if key else b"\x27") + b"\1\0\0\0" + struct.pack(">I", number)
    return Message(VIDEO, number * 40, 1, body + bytes((number % 251,)) * size)


def number_of(message: Message) -> int:
    return int.from_bytes(message.payload[5:9], "big")


def sound(number: int) -> Message:
    return Message(AUDIO, number * 40, 1, b"\xaf\1" + struct.pack(">I", number) * 20)


class Peer:
    """A client on a bare socket; ``messages`` is everything it received, in order."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.messages: list[Message] = []
        self.closed = False
        self._skip = 3073
        self._reader = ChunkReader(LONG_READS)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def write(self, *messages: Message, csid: int = 4) -> None:
        await self.send(b"".join(b"".join(encode(m, csid, chunk_size=128)) for m in messages))

    async def command(
        self, name: str, *arguments: Any, msid: int = 0, transaction: float = 0, object: Any = None
    ) -> None:
        await self.write(Message(COMMAND_AMF0, 0, msid, amf.encode0(name, transaction, object, *arguments)), csid=3)

    async def read(self, count: int = 65536) -> None:
        """Take what is there; sets ``closed`` at the end."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, count)
        except ConnectionError:
            data = b""
        self.closed = not data
        skip = min(self._skip, len(data))
        self._skip -= skip
        self.messages += self._reader.feed(data[skip:])

    async def until(self, enough: Callable[[], object], timeout: float = 5.0) -> None:
        async with asyncio.timeout(timeout):
            while not enough():
                assert not self.closed, f"closed after {self.codes()}"
                await self.read()

    async def until_closed(self, timeout: float = 5.0) -> None:
        async with asyncio.timeout(timeout):
            while not self.closed:
                await self.read()

    async def until_code(self, code: str, timeout: float = 5.0) -> None:
        await self.until(lambda: code in self.codes(), timeout)

    def codes(self) -> list[str]:
        """Status codes received so far, in order."""
        found = []
        for message in self.messages:
            if message.type == COMMAND_AMF0:
                info = amf.decode0(message.payload)[3:4]
                if info and isinstance(info[0], dict):
                    found.append(str(info[0]["code"]))
        return found

    def signals(self) -> list[int]:
        """User control events received so far."""
        return [control.parse_user_control(m)[0] for m in self.messages if m.type == USER_CONTROL]

    def media(self, msid: int | None = None) -> list[Message]:
        return [m for m in self.messages if m.type in (AUDIO, VIDEO) and msid in (None, m.msid)]

    def numbers(self, msid: int | None = None) -> list[int]:
        """Numbers of the pictures received so far, sequence headers left out."""
        return [number_of(m) for m in self.media(msid) if m.type == VIDEO and m.payload[1] == 1]

    async def connect(self, app: str = "live") -> None:
        await self.send(HELLO)
        await self.command("connect", transaction=1, object={"app": app, "tcUrl": f"rtmp://h/{app}"})
        await self.until_code("NetConnection.Connect.Success")
        await self.write(control.set_chunk_size(128), csid=2)

    async def publish(self, name: str = "cam") -> None:
        await self.connect()
        await self.command("createStream", transaction=2)
        await self.command("publish", name, "live", msid=1)
        await self.until_code("NetStream.Publish.Start")
        await self.write(Message(VIDEO, 0, 1, SEQUENCE))

    async def play(self, name: str = "cam", *, msid: int = 1) -> None:
        """Connect, and ask to play; does not wait for the answer."""
        await self.connect()
        for _ in range(msid):
            await self.command("createStream", transaction=2)
        await self.command("play", name, -2.0, msid=msid)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Journal:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def of(self, *events: str) -> list[dict[str, Any]]:
        return [facts for _, event, facts in self.lines if event in events]

    def bad(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [line for line in self.lines if line[0] in ("warning", "error")]

    def debug(self, event: str, **facts: Any) -> None:
        self.lines.append(("debug", event, facts))

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append(("info", event, facts))

    def warning(self, event: str, **facts: Any) -> None:
        self.lines.append(("warning", event, facts))

    def error(self, event: str, **facts: Any) -> None:
        self.lines.append(("error", event, facts))


class Net:
    """Servers and peers of one test, closed at its end."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.peers: list[Peer] = []

    async def server(self, tls: Any = None, **options: Any) -> Server:
        options.setdefault("journal", Journal())
        options.setdefault("tick", 0.02)
        server = Server(**options)
        await server.start("127.0.0.1", 0, tls=tls)
        self.servers.append(server)
        return server

    async def peer(self, server: Server, *, receive_buffer: int = 0) -> Peer:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer = Peer(sock)
        self.peers.append(peer)
        await asyncio.get_running_loop().sock_connect(sock, server.addresses[0])
        return peer

    async def publisher(self, server: Server, name: str = "cam") -> Peer:
        peer = await self.peer(server)
        await peer.publish(name)
        return peer

    async def player(self, server: Server, name: str = "cam", *, msid: int = 1, receive_buffer: int = 0) -> Peer:
        peer = await self.peer(server, receive_buffer=receive_buffer)
        await peer.play(name, msid=msid)
        await peer.until_code("NetStream.Play.Start")
        return peer

    async def watched(self, server: Server, name: str = "cam") -> tuple[Peer, Peer]:
        """A publisher, and a player that has its first picture."""
        publisher, player = await self.publisher(server, name), await self.player(server, name)
        await publisher.write(frame(0, key=True))
        await player.until(player.numbers)
        return publisher, player

    async def close(self) -> None:
        for peer in self.peers:
            peer.sock.close()
        for server in self.servers:
            await server.close()
            assert not server.clients
            assert not len(server.hub)


async def eventually(true: Callable[[], object], timeout: float = 5.0) -> None:
    """Wait for something that no event announces."""
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.005)


def journal(server: Server) -> Journal:
    assert isinstance(server.journal, Journal)
    return server.journal
