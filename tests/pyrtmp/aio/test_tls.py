"""``pyrtmp.aio.tls`` at one end, Python's own TLS or openssl's at the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pyrtmp.aio.tls import TlsTransport
from tests.pyrtmp.aio.net import eventually
from tests.pyrtmp.aio.test_server import tls as tls  # a fixture: contexts of a server and of its clients

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


class Served(asyncio.Protocol):
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received = bytearray()
        self.told: list[str] = []
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> None:
        self.told.append("eof")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


class Bench:
    """A connection on loopback; ``error``: how its handshake failed."""

    def __init__(self, tls: Contexts, ends: tuple[socket.socket, socket.socket]) -> None:
        self.served = Served()
        self.error: OSError | None = None
        self.theirs, ours = ends
        self.theirs.setblocking(False)
        ours.setblocking(False)
        self._client = tls[1]
        self.transport = TlsTransport(tls[0], self._shaken)
        self.accepting = accept(ours, self.transport)

    def _shaken(self, error: OSError | None) -> asyncio.BaseProtocol | None:
        self.error = error
        return self.served

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The client, when both ends have shaken hands."""
        streams = await asyncio.open_connection(sock=self.theirs, ssl=self._client, server_hostname="127.0.0.1")
        await eventually(lambda: self.served.transport is not None)
        return streams

    async def connect_blocking(self) -> ssl.SSLSocket:
        """The same; it raises ``ssl.SSLError`` where the connection ends without a goodbye."""
        self._client.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # which older Pythons set
        def shake() -> ssl.SSLSocket:
            self.theirs.setblocking(True)
            return self._client.wrap_socket(self.theirs, server_hostname="127.0.0.1", suppress_ragged_eofs=False)

        theirs = await asyncio.to_thread(shake)
        await eventually(lambda: self.served.transport is not None)
        return theirs

    async def ended(self) -> Exception | None:
        async with asyncio.timeout(5):
            return await self.served.ended


def accept(sock: socket.socket, transport: TlsTransport) -> asyncio.Task[Any]:
    loop = asyncio.get_running_loop()
    return loop.create_task(loop.connect_accepted_socket(lambda: transport, sock))


def tcp() -> tuple[socket.socket, socket.socket]:
    """A client's end, and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return client, listening.accept()[0]


@pytest.fixture
async def make(tls: Contexts) -> AsyncIterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def one(contexts: Contexts = tls, ends: Callable[[], tuple[socket.socket, socket.socket]] = tcp) -> Bench:
        benches.append(Bench(contexts, ends()))
        return benches[-1]

    yield one
    for bench in benches:
        await bench.accepting
        bench.transport.abort()
        bench.theirs.close()
        if bench.served.transport is not None:
            await bench.ended()


def pattern(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + bytes(size % 251)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 65536, 65537, 3_000_000])
async def test_bytes_arrive_both_ways(tls: Contexts, make: Any, version: ssl.TLSVersion, size: int) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.minimum_version = client.maximum_version = version
    bench = make((tls[0], client))
    reader, writer = await bench.connect()
    assert bench.transport.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
    sent = pattern(size)
    writer.write(sent)
    await eventually(lambda: len(bench.served.received) == size)
    assert bench.served.received == sent
    for data in (sent, bytearray(sent), memoryview(sent)):
        bench.transport.write(data)
        assert await reader.readexactly(size) == sent
    bench.transport.writelines([b"head", sent, memoryview(b"tail")])
    assert await reader.readexactly(size + 8) == b"head" + sent + b"tail"
    assert bench.transport.get_write_buffer_size() == 0
    await close(writer)


async def test_a_peer_that_does_not_read(make: Any) -> None:
    bench = make()
    reader, writer = await bench.connect()
    served, transport = bench.served, bench.transport
    writer.transport.pause_reading()
    data = bytearray(pattern(1_000_000))
    count = 0
    while served.told != ["pause"]:
        transport.write(data)
        count += 1
    data[:] = bytes(len(data))  # what was given is kept as it was
    waiting = transport.get_write_buffer_size()
    assert waiting > transport.get_write_buffer_limits()[1]
    transport.write(b"the end")  # not before what waits
    assert transport.get_write_buffer_size() > waiting + 7
    writer.transport.resume_reading()
    async with asyncio.timeout(20):
        assert await reader.readexactly(count * len(data)) == pattern(1_000_000) * count
        assert await reader.readexactly(7) == b"the end"
    assert served.told == ["pause", "resume"]
    await close(writer)


async def test_progress_shows_before_all_is_sent(make: Any) -> None:
    bench = make()
    reader, writer = await bench.connect()
    writer.transport.pause_reading()
    bench.transport.set_write_buffer_limits(high=1 << 30)
    data = pattern(20_000_000)
    bench.transport.write(data)
    waiting = bench.transport.get_write_buffer_size()
    assert 0 < waiting < len(data)
    writer.transport.resume_reading()
    await reader.readexactly(len(data) // 2)
    await eventually(lambda: 0 < bench.transport.get_write_buffer_size() < waiting)
    assert not bench.served.told
    await close(writer)


async def test_what_comes_waits_while_reading_is_paused(make: Any) -> None:
    bench = make()
    _, writer = await bench.connect()
    bench.transport.pause_reading()
    assert not bench.transport.is_reading()
    sent = pattern(300_000)
    writer.write(sent)
    bench.transport.write(b"answer")
    assert not bench.served.received
    bench.transport.resume_reading()
    await eventually(lambda: len(bench.served.received) == len(sent))
    assert bench.served.received == sent
    await close(writer)


async def test_a_pause_in_the_middle(make: Any) -> None:
    bench = make()
    _, writer = await bench.connect()
    taken = bench.served.data_received

    def once(data: bytes) -> None:
        taken(data)
        bench.transport.pause_reading()
        asyncio.get_running_loop().call_soon(bench.transport.resume_reading)

    bench.served.data_received = once
    sent = pattern(500_000)
    writer.write(sent)
    await eventually(lambda: len(bench.served.received) == len(sent))
    assert bench.served.received == sent
    await close(writer)


async def test_closing_sends_the_rest_and_says_goodbye(make: Any) -> None:
    bench = make()
    theirs = await bench.connect_blocking()
    data = pattern(10_000_000)
    bench.transport.write(data)
    bench.transport.close()
    bench.transport.close()
    bench.transport.write(b"too late")
    assert bench.transport.is_closing() and not bench.served.ended.done()
    with theirs, theirs.makefile("rb") as file:
        assert await asyncio.to_thread(file.read) == data
    assert await bench.ended() is None


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_the_peer_can_tell_the_end_from_a_cut(make: Any, how: str) -> None:
    bench = make()
    theirs = await bench.connect_blocking()
    getattr(bench.transport, how)()
    assert await bench.ended() is None
    if how == "close":
        assert await asyncio.to_thread(theirs.recv, 1) == b""
    else:
        with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
            await asyncio.to_thread(theirs.recv, 1)
    theirs.close()


async def test_the_peer_ends_it(make: Any) -> None:
    bench = make()
    _, writer = await bench.connect()
    writer.write(b"last words")
    await close(writer)
    assert await bench.ended() is None
    assert (bench.served.received, bench.served.told) == (b"last words", ["eof"])
    assert bench.transport.get_extra_info("peername", "gone") == "gone"


async def test_the_peer_is_cut_off(make: Any) -> None:
    bench = make()
    theirs = await bench.connect_blocking()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    assert isinstance(await bench.ended(), ConnectionResetError)
    assert not bench.served.told
    bench.transport.write(b"nobody")
    bench.transport.close()


async def test_the_peer_is_cut_off_while_bytes_wait(make: Any) -> None:
    bench = make()
    theirs = await bench.connect_blocking()
    bench.transport.pause_reading()
    bench.transport.write(pattern(10_000_000))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    assert isinstance(await bench.ended(), OSError)
    assert bench.transport.get_write_buffer_size() == 0


async def test_garbage_in_place_of_a_record(make: Any) -> None:
    bench = make()
    _, writer = await bench.connect()
    raw = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    raw.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert isinstance(await bench.ended(), ssl.SSLError)
    raw.close()
    await close(writer)


@pytest.mark.parametrize("step", ["connection_made", "data_received", "eof_received"])
async def test_a_protocol_that_fails_loses_its_connection(make: Any, step: str) -> None:
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    bench = make()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    setattr(bench.served, step, fail)
    _, writer = await asyncio.open_connection(sock=bench.theirs, ssl=bench._client, server_hostname="127.0.0.1")
    writer.write(b"x")
    await close(writer)
    await bench.ended()
    assert isinstance(faults[0]["exception"], ZeroDivisionError) and len(faults) == 1


async def test_a_handshake_in_single_bytes(tls: Contexts, make: Any) -> None:
    bench = make()
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls[1].wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    shaken = False
    async with asyncio.timeout(10):
        while not shaken:
            try:
                client.do_handshake()
                shaken = True
            except ssl.SSLWantReadError:
                pass
            if shaken:
                client.write(b"hello")
            for byte in outgoing.read():
                await loop.sock_sendall(bench.theirs, bytes((byte,)))
                await asyncio.sleep(0)
            if not shaken:
                incoming.write(await loop.sock_recv(bench.theirs, 1))
    await eventually(lambda: bench.served.received == b"hello")


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """A server's context whose certificate has 40 KB, and a client's."""
    folder = tmp_path_factory.mktemp("wordy")
    names = ",".join(f"DNS:camera-{number}.example.org" for number in range(1500))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
         "/CN=x", "-addext", f"subjectAltName={names}", "-keyout", folder / "key", "-out", folder / "cert"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert", folder / "key")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return server, client


async def test_a_flight_longer_than_the_socket_takes(wordy: Contexts, make: Any) -> None:
    def narrow() -> tuple[socket.socket, socket.socket]:
        theirs, ours = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return theirs, ours

    bench = make(wordy, narrow)
    reader, writer = await bench.connect()
    bench.transport.write(b"welcome")
    assert await reader.readexactly(7) == b"welcome"
    await close(writer)


async def test_new_keys_on_the_way(tls: Contexts) -> None:
    """RFC 8446, 4.6.3: the client changes its keys and asks for the other side's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-connect", f"127.0.0.1:{listening.getsockname()[1]}", "-tls1_3",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        ours = (await asyncio.to_thread(listening.accept))[0]
    ours.setblocking(False)
    served = Served()
    transport = TlsTransport(tls[0], lambda error: served)
    accepting = accept(ours, transport)
    assert client.stdin is not None and client.stdout is not None and client.stderr is not None
    await eventually(lambda: served.transport is not None)
    for number in range(3):
        client.stdin.write(b"K\n")
        async with asyncio.timeout(5):
            while b"KEYUPDATE" not in await client.stderr.readline():
                pass
        client.stdin.write(b"word %d\n" % number)
        await eventually(lambda number=number: served.received.endswith(b"word %d\n" % number))
        transport.write(b"heard %d\n" % number)
        async with asyncio.timeout(5):
            while not (await client.stdout.readline()).endswith(b"heard %d\n" % number):
                pass
    client.stdin.close()
    await client.communicate()
    async with asyncio.timeout(5):
        await served.ended
    await accepting


async def test_an_aborted_handshake_tells_nobody(make: Any) -> None:
    bench = make()
    bench.transport.abort()
    async with asyncio.timeout(5):
        assert await asyncio.get_running_loop().sock_recv(bench.theirs, 1) == b""
    assert bench.error is None and bench.served.transport is None


async def test_a_peer_that_leaves_in_the_middle(make: Any) -> None:
    bench = make()
    await bench.accepting
    bench.theirs.close()
    await eventually(lambda: bench.error is not None)
    assert isinstance(bench.error, ConnectionError) and bench.served.transport is None
    assert bench.transport.is_closing()
