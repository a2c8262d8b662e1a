"""Several workers of one machine in one event loop: real servers, links and claims; viewers that keep every byte."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from cluster.workers import messages
from cluster.workers.asking import Asking
from cluster.workers.channel import Channel, close_all, pair
from cluster.workers.claims import Claimant, Registry
from cluster.workers.directory import Directory
from cluster.workers.hlslink import HlsFeeds
from cluster.workers.relay import Inlet, Link
from hls.flv import FlvForm
from hls.http import ViewerSite
from pyrtmp import amf
from pyrtmp.aio.publishing import yields
from pyrtmp.aio.server import Server
from pyrtmp.errors import RefusedError
from pyrtmp.forms import RtmpForm
from pyrtmp.lane import Lane
from pyrtmp.message import DATA_AMF0, Message
from pyrtmp.names import StreamKey
from pyrtmp.stream import Stream
from tests.pyrtmp.aio.net import Journal, Peer, frame

CAM = StreamKey("live", "cam")
METADATA = Message(DATA_AMF0, 0, 1, amf.encode0("onMetaData", {"videocodecid": 7.0}))


def holders(registry: Registry) -> dict[StreamKey, int]:
    """Who has claimed what, begun or not."""
    return {key: entry.holder for key, entry in registry._entries.items() if entry.holder is not None}


class Member:
    """One worker's servers, which listen themselves, and its channel to the supervisor."""

    def __init__(self, serial: int, sock: socket.socket, **options: Any) -> None:
        self.serial = serial
        self.journal = Journal()
        self.server = Server(journal=self.journal, tick=0.02, **options)
        self.channel = Channel(sock, self._received, lambda reason: None)
        self._asking = Asking(self.channel)
        self._challenges: list[asyncio.Future[None]] = []
        self.directory = Directory(self.server, serial, self._tell)
        self.claimant = self.server.claims = Claimant(self.server.hub, self._tell)
        self.site = ViewerSite(self.server, feeds=HlsFeeds(self.directory.hls_link))
        self.directory.hls = self.site.hls

    async def start(self) -> None:
        await self.server.start("127.0.0.1", 0)
        await self.site.start("127.0.0.1", 0)

    def _tell(self, message: messages.Message) -> None:
        self.channel.send(messages.encode(message))

    def _received(self, data: memoryview, fds: list[int]) -> None:
        match messages.decode(data):
            case messages.Holds() as holds:
                self.directory.add_holder(StreamKey(holds.app, holds.name), holds.serial)
            case messages.Freed() as freed:
                self.directory.remove_holder(StreamKey(freed.app, freed.name))
            case messages.Granted() as granted:
                self.claimant.granted(granted)
            case messages.Denied() as denied:
                self.claimant.denied(denied)
            case messages.Peer() as peer:
                self.directory.add_peer(peer.serial, socket.socket(fileno=fds.pop()))
            case messages.Ask() as question:
                self._challenges.append(asyncio.ensure_future(self._challenged(question)))
        close_all(fds)

    async def _challenged(self, question: messages.Ask) -> None:
        app, name = question.arguments
        hub = self.server.hub
        stream = hub.find(app, name)
        free = stream is None or not stream.held or await yields(stream, hub, self.server.counters)
        self._asking.answer(question.request, free, b"")

    def link(self, other: Member) -> Link:
        return self.directory._links[other.serial]

    def stream(self, key: StreamKey = CAM) -> Stream:
        stream = self.server.hub.find(*key)
        assert stream is not None
        return stream

    def inlet(self, key: StreamKey = CAM) -> Inlet:
        relay = self.stream(key).relay
        assert isinstance(relay, Inlet)
        return relay

    def lane(self, form: str = "rtmp", key: StreamKey = CAM) -> Lane:
        return self.stream(key).lanes[form]

    async def close(self) -> None:
        self.directory.close()
        await self.server.close()
        await self.site.close()
        self.channel.close()
        for challenge in self._challenges:
            challenge.cancel()


class Machine:
    """The members and what the supervisor does for them.  Everything is closed, and descriptors counted, at the end."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.members: dict[int, Member] = {}
        self.channels: dict[int, Channel] = {}
        self.asking: dict[int, Asking] = {}
        self.registry = Registry(self._announce, 15.0)
        self.said: list[messages.Message] = []
        """What the members told the supervisor."""
        self.viewers: list[Tape] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def member(self, **options: Any) -> Member:
        serial = len(self.members) + 1
        ours, theirs = pair()
        member = Member(serial, theirs, **{**self.options, **options})
        channel = self.channels[serial] = Channel(
            ours, lambda data, fds: self._said(member, messages.decode(data)), lambda reason: asking.close()
        )
        asking = self.asking[serial] = Asking(channel)
        await member.start()
        self.members[serial] = member
        for other in self.members.values():
            if other is not member:
                self.link(member, other)
        for key, holder in self.registry.held():
            self.tell(member, messages.Holds(*key, holder))
        return member

    async def two(self, **options: Any) -> tuple[Member, Member]:
        return await self.member(**options), await self.member(**options)

    def tell(self, member: Member, message: messages.Message, fd: int | None = None) -> None:
        self.channels[member.serial].send(messages.encode(message), () if fd is None else (fd,), own=True)

    def link(self, one: Member, other: Member) -> None:
        first, second = pair()
        self.tell(one, messages.Peer(other.serial), first.detach())
        self.tell(other, messages.Peer(one.serial), second.detach())

    async def lose(self, member: Member) -> None:
        """The process is gone at once, with all its sockets."""
        for link in list(member.directory._links.values()):
            link.channel.close()
        member.channel.close()
        self.channels.pop(member.serial).close()
        self.asking[member.serial].close()
        self.registry.forget_worker(member.serial)
        for client in list(member.server.clients.values()):
            client.kick()

    def _announce(self, key: StreamKey, serial: int | None) -> None:
        for member in self.members.values():
            if member.serial in self.channels:
                self.tell(member, messages.Freed(*key) if serial is None else messages.Holds(*key, serial))

    def _said(self, member: Member, message: messages.Message) -> None:
        if isinstance(message, messages.Answer):
            self.asking[member.serial].answered(message, [])
            return
        self.said.append(message)
        match message:
            case messages.Claim():
                task = asyncio.get_running_loop().create_task(self._claim(member, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case messages.Began():
                self.registry.began(StreamKey(message.app, message.name), member.serial)
            case messages.Released():
                key = StreamKey(message.app, message.name)
                self.registry.release(key, member.serial, message.request, message.time)
            case messages.Seen():
                self.registry.seen(StreamKey(message.app, message.name), message.time)

    async def _claim(self, member: Member, message: messages.Claim) -> None:
        key = StreamKey(message.app, message.name)

        async def challenge(serial: int) -> bool:
            try:
                return await self.asking[serial].agrees("challenge", *key)
            except (ConnectionError, TimeoutError):
                return False

        try:
            seen = await self.registry.claim(key, member.serial, message.request, challenge)
        except RefusedError as error:
            self.tell(member, messages.Denied(message.request, str(error)))
        else:
            self.tell(member, messages.Granted(message.request, *(seen or (None, None))))

    # Clients

    def _connect(self, tape: Tape, receive_buffer: int) -> None:
        self.viewers.append(tape)
        tape.sock.setblocking(False)
        if receive_buffer:
            tape.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    async def rtmp(self, member: Member, *, receive_buffer: int = 0) -> RtmpTape:
        """A connection, which says nothing yet."""
        tape = RtmpTape(socket.socket())
        self._connect(tape, receive_buffer)
        await asyncio.get_running_loop().sock_connect(tape.sock, member.server.addresses[0])
        return tape

    async def publisher(self, member: Member, name: str = "cam") -> RtmpTape:
        """It has pictures only, and says so."""
        tape = await self.rtmp(member)
        await tape.publish(name)
        await tape.write(METADATA)
        return tape

    async def player(
        self, member: Member, name: str = "cam", *, msid: int = 1, receive_buffer: int = 0
    ) -> RtmpTape:
        tape = await self.rtmp(member, receive_buffer=receive_buffer)
        await tape.play(name, msid=msid)
        await tape.until_code("NetStream.Play.Start")
        return tape

    async def flv(self, member: Member, name: str = "cam", *, receive_buffer: int = 0) -> FlvTape:
        tape = FlvTape(socket.socket())
        self._connect(tape, receive_buffer)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(tape.sock, member.site.addresses[0])
        await loop.sock_sendall(tape.sock, f"GET /live/{name}.flv HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return tape

    async def close(self) -> None:
        for tape in self.viewers:
            tape.sock.close()
        for task in list(self._tasks):
            task.cancel()
        for member in self.members.values():
            await member.close()
        for channel in self.channels.values():
            channel.close()


class Tape(Peer):
    """A client that keeps all bytes it received."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.raw = b""

    async def read(self, count: int = 65536) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, count)
        except ConnectionError:
            data = b""
        self.closed = not data
        self.raw += data
        self._take(data)

    def _take(self, data: bytes) -> None:
        raise NotImplementedError

    async def until_number(self, number: int) -> None:
        """Read until that picture is there."""
        await self.until(lambda: self.numbers()[-1:] == [number])

    def times(self) -> list[int]:
        return [message.timestamp for message in self.media()]

    def since(self, message: Message) -> bytes:
        """All bytes from the record of that message on."""
        buffers: list[bytes] = []
        self.form.encode([message], buffers)
        record = b"".join(buffers)
        assert self.raw.count(record) == 1
        return self.raw[self.raw.index(record) :]

    form: RtmpForm | FlvForm


class RtmpTape(Tape):
    form = RtmpForm()

    def _take(self, data: bytes) -> None:
        skip = min(self._skip, len(data))
        self._skip -= skip
        self.messages += self._reader.feed(data[skip:])


class FlvTape(Tape):
    form = FlvForm()
    _parsed = 0
    _header = b""

    def _take(self, data: bytes) -> None:
        if not self._parsed:
            head = self.raw.find(b"\r\n\r\n") + 4
            if head < 4 or len(self.raw) < head + 13:
                return
            assert self.raw.startswith(b"HTTP/1.1 200 "), self.raw[:100]
            self._header = self.raw[head : head + 13]
            self._parsed = head + 13
        rest = self.raw[self._parsed :]
        used = 0
        for type, start, used in self.form.records(rest):
            body = rest[start + 11 : used - 4]
            assert int.from_bytes(rest[used - 4 : used], "big") == used - start - 4
            time = int.from_bytes(rest[start + 4 : start + 7], "big") | rest[start + 7] << 24
            self.messages.append(Message(type, time, 1, body))
        self._parsed += used

    @property
    def tracks(self) -> tuple[bool, bool] | None:
        """What the file header says: audio, video."""
        if not self._header:
            return None
        assert self._header[:4] == b"FLV\x01" and self._header[5:] == b"\0\0\0\x09\0\0\0\0"
        return bool(self._header[4] & 4), bool(self._header[4] & 1)


async def gop(publisher: Peer, first: int, count: int = 10, size: int = 1000) -> list[Message]:
    """Publish so many pictures, the first one a key frame."""
    messages = [frame(n, size, key=n == first) for n in range(first, first + count)]
    await publisher.write(*messages)
    return messages


async def numbers_reach(tapes: Sequence[Tape], number: int) -> None:
    for tape in tapes:
        await tape.until_number(number)


def no_step_back(tape: Tape) -> None:
    times = tape.times()
    assert times == sorted(times)


def jumps(numbers: list[int]) -> list[int]:
    """Pictures that do not follow the one before."""
    return [after for before, after in pairwise(numbers) if after != before + 1]

