"""HTTP-FLV over real sockets: what a viewer gets, and what is left when it is gone."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyrtmp.aio.client import Client
from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Hooks
from pyrtmp.kin import STRANGER, Kin, parse_header
from pyrtmp.message import Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings, Timeouts
from pyrtmp.stream import Stream
from tests.descriptors import descriptors
from tests.nginx import PROGRAM, nginx

HEAD = {"content-type": "video/x-flv", "cache-control": "no-store", "connection": "close", "server": "pyrtmp"}


async def test_the_event_loop() -> None:
    """The one that a node runs on; ``test_http`` runs on Python's own."""
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")


async def tags(reader: asyncio.StreamReader, count: int) -> list[tuple[int, int, bytes]]:
    """The next tags as (type, timestamp, payload)."""
    got = []
    async with asyncio.timeout(10):
        for _ in range(count):
            head = await reader.readexactly(11)
            payload = await reader.readexactly(int.from_bytes(head[1:4], "big"))
            assert int.from_bytes(await reader.readexactly(4), "big") == 11 + len(payload)
            assert head[8:] == bytes(3)
            got.append((head[0], int.from_bytes(head[4:7], "big") | head[7] << 24, payload))
    return got


def as_tags(feed: list[Message]) -> list[tuple[int, int, bytes]]:
    return [(message.type, message.timestamp, message.payload) for message in feed]


def as_file(feed: list[Message], flags: int = 5) -> bytes:
    """The FLV file by the specification, written out independently of the form under test."""
    data = b"FLV\x01" + bytes((flags,)) + struct.pack(">II", 9, 0)
    for message in feed:
        data += struct.pack(">B", message.type) + len(message.payload).to_bytes(3, "big")
        data += struct.pack(">I", message.timestamp)[1:] + struct.pack(">I", message.timestamp)[:1] + bytes(3)
        data += message.payload + struct.pack(">I", 11 + len(message.payload))
    return data


async def began(reader: asyncio.StreamReader, feed: list[Message]) -> bytes:
    """Read the first frame of each track, and what goes before; the rest of the file.

    Who waits for a stream begins with the newest group of pictures there is when he is first served.
    """
    data, start = as_file(feed), as_file(feed[:4])
    async with asyncio.timeout(10):
        assert await reader.readexactly(len(start)) == start
    return data[len(start) :]


async def begin(reader: asyncio.StreamReader, kit: Any) -> int:
    """Read the response head and the FLV header; its flags."""
    async with asyncio.timeout(10):
        status, headers = await kit.read_head(reader)
        assert status == 200 and headers.items() >= HEAD.items()
        assert "transfer-encoding" not in headers and "content-length" not in headers
        header = await reader.readexactly(13)
    assert header[:4] == b"FLV\x01" and header[5:] == bytes.fromhex("0000000900000000")
    return header[4]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_every_byte_from_the_first_to_the_last(bench: Any, kit: Any, version: str) -> None:
    reader, writer = await bench.ask("/live/cam.flv", version=version)
    feed = kit.messages(0, 200)
    async with await bench.publisher() as publisher:
        await bench.watched(1)
        await bench.send(publisher, feed[:4])
        status, headers = await kit.read_head(reader)
        assert status == 200 and headers.items() >= HEAD.items()
        assert "transfer-encoding" not in headers and "content-length" not in headers
        rest = await began(reader, feed)
        await bench.send(publisher, feed[4:])
        stream = await bench.arrived("live/cam", len(feed))
        async with asyncio.timeout(10):
            assert await reader.readexactly(len(rest)) == rest
    bench.server.hub.end(stream, 0)
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(("audio", "video", "flags"), [(True, True, 5), (True, False, 4), (False, True, 1)])
async def test_the_header_names_every_track(bench: Any, kit: Any, audio: bool, video: bool, flags: int) -> None:
    """Joins before, during and after the first messages: nobody loses a track."""
    feed = kit.messages(0, 40, audio=audio, video=video)
    readers = [await bench.ask("/live/cam.flv")]
    async with await bench.publisher() as publisher:
        for number, message in enumerate(feed):
            if number < 6:
                readers.append(await bench.ask("/live/cam.flv"))
            await bench.send(publisher, [message])
        await bench.arrived("live/cam", len(feed))
        # With one track it takes half a second to know that there is no other.
        await asyncio.sleep(0.55)
        await bench.send(publisher, kit.messages(40, 60, audio=audio, video=video))
        for reader, writer in readers:
            assert await begin(reader, kit) == flags
            writer.close()


async def test_a_joiner_begins_with_the_head_and_a_key_frame(bench: Any, kit: Any) -> None:
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 17))
        await bench.arrived("live/cam", 36)
        reader, writer = await bench.ask("/live/cam.flv")
        assert await begin(reader, kit) == 5
        head = await tags(reader, 2)
        assert head == [(9, 400, kit.AVC), (8, 400, kit.ASC)]
        assert await tags(reader, 14) == as_tags(kit.messages(10, 17))
        await bench.send(publisher, kit.messages(17, 30))
        assert await tags(reader, 26) == as_tags(kit.messages(17, 30))
        writer.close()


async def test_nobody_publishes(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(server={"stream": StreamSettings(play_wait_seconds=0.2)})
    began = asyncio.get_running_loop().time()
    answer = await bench.get("/live/cam.flv")
    assert asyncio.get_running_loop().time() - began > 0.15
    assert answer.status == 404
    assert answer.body == b"live/cam is not published\n"
    assert answer.headers["content-type"].startswith("text/plain")
    assert bench.server.counters.refused["play_timeout"] == 1


async def test_too_many_wait(make_bench: Any) -> None:
    bench = await make_bench(server={"stream": StreamSettings(max_waiting=2)})
    waiting = [await bench.ask(f"/live/{name}.flv") for name in ("a", "b")]
    await bench.until(lambda: sum(s.waiting for s in bench.server.hub) == 2)
    assert (await bench.get("/live/c.flv")).status == 404
    for _, writer in waiting:
        writer.close()


async def test_a_waiting_client_that_leaves_is_forgotten(bench: Any) -> None:
    writers = [(await bench.ask("/live/cam.flv"))[1] for _ in range(5)]
    await bench.until(lambda: sum(s.waiting for s in bench.server.hub) == 5)
    for writer in writers:
        writer.close()
    await bench.until(lambda: sum(s.waiting for s in bench.server.hub) == 0)


async def test_the_publisher_comes_back(bench: Any, kit: Any) -> None:
    publisher = await bench.publisher()
    await bench.send(publisher, kit.messages(0, 10))
    await bench.arrived("live/cam", 22)
    reader, writer = await bench.ask("/live/cam.flv")
    await begin(reader, kit)
    assert len(await tags(reader, 22)) == 22
    await publisher.close()
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        again = await tags(reader, 22)
        assert [payload for _, _, payload in again] == [m.payload for m in kit.messages(0, 10)]
        times = [time for _, time, _ in again]
        assert times == sorted(times) and times[0] >= 360  # the timeline is continued
    writer.close()


async def test_the_end_of_the_stream_ends_the_response(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(server={"stream": StreamSettings(grace_seconds=0.1)})
    publisher = await bench.publisher()
    await bench.send(publisher, kit.messages(0, 10))
    await bench.arrived("live/cam", 22)
    reader, writer = await bench.ask("/live/cam.flv")
    await begin(reader, kit)
    await publisher.close()
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"\x09")
    writer.close()
    assert not [c for c in bench.server.clients.values() if c.protocol == "flv"]


async def test_who_never_reads_is_let_go_and_disturbs_nobody(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(
        server={
            "timeouts": Timeouts(write_stall=0.3), "stream": StreamSettings(log_bytes=1 << 20, segment_bytes=1 << 16),
        }
    )
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        lazy = socket.create_connection(("127.0.0.1", bench.port))
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(b"GET /live/cam.flv HTTP/1.1\r\nHost: x\r\n\r\n")
        reader, writer = await bench.ask("/live/cam.flv")
        await begin(reader, kit)
        await tags(reader, 22)
        flv = lambda: [c for c in bench.server.clients.values() if c.protocol == "flv"]  # noqa: E731
        await bench.until(lambda: len(flv()) == 2)
        number = 10
        async with asyncio.timeout(10):
            while len(flv()) == 2:
                big = [Message(9, number * 40, 1, kit.picture(number, number % 10 == 0, 200_000))]
                await bench.send(publisher, big)
                assert await tags(reader, 1) == as_tags(big)
                number += 1
        assert bench.server.counters.stalls == 1 and bench.server.counters.viewers_failed == {"stall": 1}
        assert bench.server.counters.first_frames["flv"].total == 2
        writer.close()
        lazy.close()


async def test_nothing_is_left_of_those_who_left(bench: Any, kit: Any) -> None:
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        before = descriptors()
        for number in range(200):
            sock = socket.create_connection(("127.0.0.1", bench.port))
            sock.sendall(b"GET /live/cam.flv HTTP/1.1\r\nHost: x\r\n\r\n")
            if number % 3 == 0:  # RST
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 2:  # let it join before it leaves
                await bench.until(lambda: len(bench.server.clients) > 1)
            sock.close()
        await bench.until(lambda: len(bench.server.clients) == 1)
        await bench.until(lambda: not bench.site._connections.connections)
        await bench.until(lambda: descriptors() <= before + 1)
        assert not bench.site._connections._silent
        assert bench.server.hub.find("live", "cam").viewers == 0


async def test_requests_before_and_after_on_the_same_connection(bench: Any, kit: Any) -> None:
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        reader, writer = await bench.connect()
        asset = b"GET /_page/vendor/mpegts.js HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(asset * 20 + b"GET /live/cam.flv HTTP/1.1\r\nHost: x\r\n\r\n" + asset)
        await asyncio.sleep(0.1)  # the answers pile up in the transport, and the viewer must come after them
        for _ in range(20):
            status, headers = await kit.read_head(reader)
            body = await reader.readexactly(int(headers["content-length"]))
            assert status == 200 and len(body) > 100_000
        assert await begin(reader, kit) == 5
        assert (await tags(reader, 22))[2:] == as_tags(kit.messages(0, 10))[2:]
        writer.close()


async def test_who_never_reads_the_answers_before_does_not_become_a_viewer(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(server={"timeouts": Timeouts(write_stall=0.2)})
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        sock = socket.create_connection(("127.0.0.1", bench.port))
        asset = b"GET /_page/vendor/mpegts.js HTTP/1.1\r\nHost: x\r\n\r\n"
        sock.sendall(asset * 30 + b"GET /live/cam.flv HTTP/1.1\r\nHost: x\r\n\r\n")
        await bench.until(lambda: bench.site._connections.connections)
        await bench.until(lambda: not bench.site._connections.connections, 10)
        assert not bench.server.counters.plays["flv"]
        sock.close()


@pytest.mark.parametrize("sent", [0, 5, 1000])
async def test_a_body_on_get_is_ignored(bench: Any, kit: Any, sent: int) -> None:
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        reader, writer = await bench.ask("/live/cam.flv", headers="Content-Length: 1000\r\n", body=bytes(sent))
        await begin(reader, kit)
        await tags(reader, 22)
        writer.write(bytes(1000 - sent) + b"and more")
        await bench.send(publisher, kit.messages(10, 20))
        assert await tags(reader, 20) == as_tags(kit.messages(10, 20))
        assert not bench.site._connections.connections  # aiohttp has forgotten it, and its closing harmed nobody
        writer.close()


NODE = 'X-Pyrtmp-Kin: {"node": "edge", "hops": "edge", "wait": false}\r\n'


@pytest.mark.parametrize("headers", ["", "X-Pyrtmp-Kin: {}\r\n", "X-Pyrtmp-Kin: [[\r\n", NODE])
async def test_another_node_is_told_where_the_stream_comes_from(make_bench: Any, kit: Any, headers: str) -> None:
    bench = await make_bench(server={"node": "origin"})
    kin = Kin(node="encoder", hops=("encoder",), lineage="L").entry()
    async with await Client.connect(f"rtmp://127.0.0.1:{bench.server.addresses[0][1]}/live/cam", **kin) as publisher:
        await publisher.publish()
        await bench.send(publisher, kit.messages(0, 10))
        reader, writer = await bench.ask("/live/cam.flv", headers=headers)
        status, fields = await kit.read_head(reader)
        assert status == 200 and fields.items() >= HEAD.items()
        told = bench.server.hub.find("live", "cam").told
        said = Kin("origin", ("encoder", "origin"), "L", birth=told) if headers is NODE else STRANGER
        assert told and Kin.read(parse_header(fields.get("x-pyrtmp-kin"))) == said
        writer.close()


async def test_another_node_does_not_wait(bench: Any) -> None:
    async with asyncio.timeout(10):
        answer = await bench.get("/live/cam.flv", headers=NODE)
    assert answer.status == 404 and not len(bench.server.hub)


async def test_another_node_waits_a_moment_while_the_stream_is_looked_for(bench: Any) -> None:
    class Source:
        def want(self, stream: Stream, query: str = "") -> None:
            wanted.append(query)

    wanted: list[str] = []
    bench.server.hub.source = Source()
    began = asyncio.get_running_loop().time()
    assert (await bench.get("/live/cam.flv?token=a%2Fb", headers=NODE)).status == 404
    assert 0.9 < asyncio.get_running_loop().time() - began < 10
    assert wanted[0] == "token=a%2Fb"


async def test_another_node_is_let_in_where_viewers_are_turned_away(make_bench: Any, kit: Any) -> None:
    async def elsewhere(key: StreamKey) -> str:
        return "http://other:80"

    bench = await make_bench(site={"elsewhere": elsewhere})
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 10)
        bench.server.busy = lambda: True
        assert (await bench.get("/live/cam.flv")).headers["location"] == "http://other:80/live/cam.flv"
        reader, writer = await bench.ask("/live/cam.flv", headers=NODE)
        await begin(reader, kit)
        writer.close()
    bench.server.draining = True
    assert (await bench.get("/live/cam.flv", headers=NODE)).status == 503


async def test_head(bench: Any, kit: Any) -> None:
    assert (await bench.get("/live/cam.flv", method="HEAD")).status == 404
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        answer = await bench.get("/live/cam.flv", method="HEAD")
        assert answer.status == 200 and answer.body == b"" and answer.headers.items() >= HEAD.items()
        assert "content-length" not in answer.headers
        assert bench.server.hub.find("live", "cam").viewers == 0


async def test_kick_and_facts(bench: Any, kit: Any) -> None:
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        reader, writer = await bench.ask("/live/cam.flv?token=%41", headers="User-Agent: player/1\r\n")
        await begin(reader, kit)
        await tags(reader, 22)
        (client,) = [c for c in bench.server.clients.values() if c.protocol == "flv"]
        assert (client.role, str(client.key), client.agent) == ("play", "live/cam", "player/1")
        assert client.request.query == "token=%41" and client.request.parameters["User-Agent"] == "player/1"
        assert client.bytes_out > 22 * 50
        client.kick()
        assert await reader.read() == b""
        assert client.id not in bench.server.clients
        writer.close()


async def test_hooks_decide_and_are_told(make_bench: Any, kit: Any) -> None:
    done = []

    async def on_play(request: Any) -> None:
        await asyncio.sleep(0)
        if request.query != "key=1":
            raise RefusedError("NetStream.Play.Failed", "no key")
        if request.key.name == "broken":
            raise RuntimeError("bug")

    bench = await make_bench(server={"hooks": Hooks(on_play=on_play, on_play_done=done.append)})
    assert (await bench.get("/live/broken.flv?key=1")).status == 403
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        answer = await bench.get("/live/cam.flv")
        assert (answer.status, answer.body) == (403, b"NetStream.Play.Failed: no key\n")
        reader, writer = await bench.ask("/live/cam.flv?key=1")
        await begin(reader, kit)
        writer.close()
        await bench.until(lambda: done)
        assert str(done[0].key) == "live/cam" and done[0].protocol == "flv"


async def test_limits_of_connections(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(server={"max_connections": 2})
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        reader, writer = await bench.ask("/live/cam.flv")
        await begin(reader, kit)
        extra, _ = await bench.connect()
        status, headers = await kit.read_head(extra)
        body = await extra.read()
        assert (status, body) == (503, b"the server takes no more connections\n")
        assert headers["retry-after"] == "1" and len(body) == int(headers["content-length"])
        assert bench.server.counters.refused == {"connections": 1}
        writer.close()


# TLS: through aiohttp's transport


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    client = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    client.check_hostname = False
    return server, client


async def test_over_tls(make_bench: Any, kit: Any, tls: Any) -> None:
    bench = await make_bench(tls=tls, server={"stream": StreamSettings(grace_seconds=0.1)})
    feed = kit.messages(0, 100)
    reader, writer = await bench.ask("/live/cam.flv")
    other, leaving = await bench.ask("/live/cam.flv")
    publisher = await bench.publisher()
    await bench.watched(2)
    await bench.send(publisher, feed[:4])
    await kit.read_head(reader)
    rest = await began(reader, feed)
    await bench.send(publisher, feed[4:])
    await begin(other, kit)
    await bench.until(lambda: len(bench.server.clients) == 3)
    leaving.transport.abort()
    await bench.until(lambda: len(bench.server.clients) == 2)
    async with asyncio.timeout(10):
        assert await reader.readexactly(len(rest)) == rest
        await publisher.close()
        assert await reader.read() == b""
    writer.close()
    await bench.until(lambda: not bench.site._connections.connections)


async def test_over_tls_who_never_reads_is_let_go(make_bench: Any, kit: Any, tls: Any) -> None:
    bench = await make_bench(tls=tls, server={"timeouts": Timeouts(write_stall=0.2)})
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 10))
        await bench.arrived("live/cam", 22)
        reader, writer = await bench.ask("/live/cam.flv")
        await begin(reader, kit)
        writer.transport.pause_reading()
        number = 10
        async with asyncio.timeout(10):
            while len(bench.server.clients) == 2:
                await bench.send(publisher, [Message(9, number * 40, 1, kit.picture(number, True, 200_000))])
                await asyncio.sleep(0.005)
                number += 1
        await bench.until(lambda: not bench.site._connections.connections)
        writer.transport.abort()


# Behind nginx


@pytest.mark.e2e
@pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_through_nginx(make_bench: Any, kit: Any, tmp_path: Path, version: str) -> None:
    bench = await make_bench(server={"stream": StreamSettings(grace_seconds=0.1)})
    feed = kit.messages(0, 300)
    async with nginx(tmp_path, bench.port, version) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        writer.write(b"GET /live/cam.flv HTTP/1.0\r\nHost: x\r\n\r\n")
        await bench.until(lambda: sum(s.waiting for s in bench.server.hub) == 1)
        publisher: Client = await bench.publisher()
        await bench.send(publisher, feed[:10])
        async with asyncio.timeout(10):
            status, headers = await kit.read_head(reader)
            assert status == 200 and headers["content-type"] == "video/x-flv"
            data = as_file(feed)
            # The rest once the viewer is there: it begins with the newest key frame of what was sent before.
            assert await reader.readexactly(13) == data[:13]
            await bench.send(publisher, feed[10:])
            assert await reader.readexactly(len(data) - 13) == data[13:]
            await publisher.close()
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_without_room_for_a_log_a_viewer_is_refused(
    bench: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = await bench.publisher()
    await bench.send(publisher, kit.messages(0, 10))
    stream = await bench.arrived("live/cam", 10)

    def out_of_descriptors(form: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(stream, "lane", out_of_descriptors)
        answer = await bench.get("/live/cam.flv")
    assert (answer.status, answer.body) == (503, b"the server is out of resources\n")
    assert answer.headers["retry-after"] == "1"
    assert stream.live and not stream.viewers
    await publisher.close()
