"""The viewers' site over real sockets: addresses, headers, refusals, deadlines, HLS and the page."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from hls.http import CONTENT_SECURITY_POLICY, ViewerSite
from hls.live import Reply
from hls.settings import HlsSettings
from pyrtmp.aio.server import Server
from pyrtmp.errors import RedirectedError, RefusedError
from pyrtmp.hooks import Hooks
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings

NOT_STREAMS = [
    "/live/../cam.flv", "/live/%2e%2e/cam.flv", "/live/%2E%2E%2Fcam.flv", "/live/cam%00.flv", "/live/c%20m.flv",
    "/live/c+m.flv", "/live/%c3%bc.flv", "/live/%ff.flv", "/live//cam.flv", "/live/.flv", "/./cam.flv",
    "/live/" + "x" * 300 + ".flv", "/live/..m3u8", "/live/../index.m3u8", "/live/%0d%0aSet-Cookie:x/cam.flv",
    "/live/cam%3Fx.m3u8", "/live/../cam/1.ts",
]  # fmt: skip


async def first_playlist(bench: Any, feed: Any) -> Any:
    """Publish ``live/cam``, and the answer to who asked when it began."""
    bench.publishing = await bench.publisher()
    await bench.send(bench.publishing, feed[:20])
    await bench.arrived("live/cam", 20)
    first = asyncio.ensure_future(bench.get("/live/cam.m3u8"))
    await bench.until(lambda: len(bench.site.hls))
    await bench.send(bench.publishing, feed[20:])
    return await first


@pytest.fixture
async def packaged(make_bench: Any, make_feed: Any) -> Any:
    """A site with ``live/cam`` packaged."""
    bench = await make_bench()
    bench.first = await first_playlist(bench, make_feed("libx264", "aac", seconds=8, gop=1))
    while (await bench.get("/live/cam.m3u8")).body.count(b"#EXTINF") < 3:
        await asyncio.sleep(0.02)
    yield bench
    await bench.publishing.close()


# HLS


async def test_hls_in_both_forms(packaged: Any) -> None:
    assert packaged.first.status == 200
    for path, folder in (("/live/cam.m3u8", "/live/"), ("/live/cam/index.m3u8", "/live/cam/")):
        answer = await packaged.get(path + "?token=a%2Fb&x")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/vnd.apple.mpegurl"
        assert answer.headers["cache-control"] == "public, max-age=1"
        assert answer.headers["access-control-allow-origin"] == "*"
        uris = [line for line in answer.body.decode().splitlines() if line and not line.startswith("#")]
        assert len(uris) >= 3
        for uri in uris:
            assert uri.endswith(".ts?token=a%2Fb&x")
            segment = await packaged.get(folder + uri)
            assert segment.status == 200 and len(segment.body) % 188 == 0 and segment.body[0] == 0x47
            assert segment.headers["content-type"] == "video/mp2t"
            assert segment.headers["cache-control"] == "public, max-age=86400, immutable"
            assert "date" in segment.headers
    assert packaged.server.counters.plays["hls"] == packaged.server.counters.first_frames["hls"].total == 1
    assert not packaged.server.counters.viewers_failed
    assert sum(packaged.site.audience.viewers().values()) == 1


async def test_a_playlist_is_kept_until_it_changes(packaged: Any) -> None:
    later = await packaged.get("/live/cam.m3u8")
    assert later.body != packaged.first.body and later.headers["etag"] != packaged.first.headers["etag"]
    for number in range(100):
        answer = await packaged.get(f"/live/cam.m3u8?token={number}")
        assert f".ts?token={number}\n".encode() in answer.body
    assert len(packaged.site.hls._streams["live", "cam"]._replies) <= 64
    packaged.server.hub.end(packaged.server.hub.find("live", "cam"), 0)
    await packaged.until(lambda: packaged.site.hls._streams["live", "cam"].ended_at is not None)
    assert (await packaged.get("/live/cam.m3u8")).body.endswith(b"#EXT-X-ENDLIST\n")


async def test_a_query_cannot_add_lines_to_a_playlist(packaged: Any) -> None:
    answer = await packaged.get("/live/cam.m3u8?a=%0A%23EXT-X-ENDLIST%0A")
    assert answer.status == 200 and b"\n#EXT-X-ENDLIST" not in answer.body
    assert b".ts?a=%0A%23EXT-X-ENDLIST%0A\n" in answer.body


async def test_validators(packaged: Any) -> None:
    playlist = await packaged.get("/live/cam.m3u8")
    uri = re.search(rb"^cam/.*\.ts$", playlist.body, re.M)
    assert uri
    for path in ("/live/cam.m3u8", "/live/" + uri[0].decode(), "/", "/_page/vendor/mpegts.js"):
        full = await packaged.get(path)
        etag = full.headers["etag"]
        counted = packaged.server.counters.bytes_out["hls"]
        for condition in (etag, f"W/{etag}", f'"other", {etag}', f'W/"x",W/{etag}', "*"):
            answer = await packaged.get(path, headers=f"If-None-Match: {condition}\r\n")
            assert (answer.status, answer.body) == (304, b"")
            assert answer.headers["etag"] == etag
            assert answer.headers["cache-control"] == full.headers["cache-control"]
            assert "content-length" not in answer.headers
        assert packaged.server.counters.bytes_out["hls"] == counted
        assert (await packaged.get(path, headers='If-None-Match: "other"\r\n')).body == full.body
        head = await packaged.get(path, method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(full.body))


async def test_hls_of_nothing(bench: Any) -> None:
    answer = await bench.get("/live/cam.m3u8")
    assert (answer.status, answer.body) == (404, b"no such stream\n")
    answer = await bench.get("/live/cam/1.ts")
    assert (answer.status, answer.body) == (404, b"no such segment\n")
    assert not bench.site.audience.viewers()


async def test_hls_of_a_stream_without_a_segment_yet(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(site={"hls": HlsSettings(wait_seconds=0.1)})
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 5))
        await bench.arrived("live/cam", 12)
        answer = await bench.get("/live/cam.m3u8")
        assert (answer.status, answer.body) == (503, b"no segment is complete yet\n")
        assert answer.headers["retry-after"] == "1"


async def test_the_hook_refuses_hls(make_bench: Any) -> None:
    asked = []

    def on_play(request: Any) -> None:
        asked.append((request.protocol, str(request.key), request.query, request.parameters["Host"]))
        raise RefusedError("NetStream.Play.Failed", "no")

    bench = await make_bench(server={"hooks": Hooks(on_play=on_play)})
    for path in ("/live/cam.m3u8?t=%41", "/live/cam/index.m3u8", "/live/cam/1.ts"):
        answer = await bench.get(path)
        assert (answer.status, answer.body) == (403, b"NetStream.Play.Failed: no\n")
    assert asked[0] == ("hls", "live/cam", "t=%41", "x")
    assert len(asked) == 3


async def test_the_hook_has_another_stream_played_and_sends_elsewhere(packaged: Any) -> None:
    def on_play(request: Any) -> StreamKey:
        if request.key.name == "far":
            raise RedirectedError("https://192.0.2.1/live/far.m3u8?a=1")
        if request.key.name == "rtmp":
            raise RedirectedError("rtmp://192.0.2.1/live/far")
        return StreamKey("live", "cam")

    packaged.server.hooks = Hooks(on_play=on_play)
    for path in ("/live/far.m3u8", "/live/far/1.ts", "/live/far.flv"):
        answer = await packaged.get(path)
        assert (answer.status, answer.headers["location"]) == (307, "https://192.0.2.1/live/far.m3u8?a=1")
    assert (await packaged.get("/live/rtmp.m3u8")).status == 403
    answer = await packaged.get("/live/alias.m3u8")
    assert answer.status == 200
    segments = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    assert segments[0].startswith("alias/")
    assert (await packaged.get(f"/live/{segments[0]}")).status == 200


async def test_a_large_body_is_not_torn(bench: Any, kit: Any) -> None:
    bodies = {name: os.urandom(3_000_000) for name in ("1.ts", "2.ts")}

    async def segment(app: str, name: str, filename: str, *, query: str) -> Reply:
        return Reply(200, memoryview(bodies[filename]), "video/mp2t", "public", f'"{filename}"')

    bench.site.hls.segment = segment
    reader, writer = await bench.connect()
    writer.writelines(f"GET /live/cam/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for name in bodies)
    async with asyncio.timeout(10):
        for name, body in bodies.items():
            _, fields = await kit.read_head(reader)
            assert (fields["content-length"], fields["etag"]) == (str(len(body)), f'"{name}"')
            assert await reader.readexactly(len(body)) == body
    assert bench.site.audience.bytes_out["live", "cam"] == 6_000_000


# Names and methods


@pytest.mark.parametrize("path", NOT_STREAMS)
async def test_names_are_validated(bench: Any, path: str) -> None:
    answer = await bench.get(path)
    assert answer.status == 400 and answer.body.startswith(b"the name ")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert not len(bench.server.hub)


async def test_names_are_validated_by_the_limits_of_the_moment(bench: Any) -> None:
    assert (await bench.get("/live/cam.m3u8")).status == 404
    bench.server.limits = dataclasses.replace(bench.server.limits, max_name_bytes=7)
    assert (await bench.get("/live/cam.m3u8")).status == 400


@pytest.mark.parametrize(
    "path", ["/cam.flv", "/cam.m3u8", "/x", "/live/", "/_page/", "/_page/../http.py", "/_page/none"]
)
async def test_no_such_page(bench: Any, path: str) -> None:
    answer = await bench.get(path)
    assert answer.status == 404 and len(answer.body) > 10 and answer.body.endswith(b"\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_names_with_dots_and_slashes_are_different_streams(bench: Any, kit: Any) -> None:
    names = ["live/room.1", "live/room.2", "live/room", "live/a/b"]
    publishers = [await bench.publisher(name) for name in names]
    for number, (name, publisher) in enumerate(zip(names, publishers, strict=True)):
        await bench.send(publisher, kit.messages(0, number + 2))
        await bench.arrived(name, 2 * number + 6)
    for number, name in enumerate(names):
        reader, writer = await bench.ask(f"/{name}.flv")
        await kit.read_head(reader)
        await reader.readexactly(13)
        last = kit.sound(number + 1)
        async with asyncio.timeout(5):
            assert (await reader.readuntil(last)).count(kit.sound(0)) == 1
        writer.close()
    for publisher in publishers:
        await publisher.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_other_methods(bench: Any, method: str) -> None:
    answer = await bench.get("/live/cam.flv", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert answer.body == b"this server answers GET, HEAD and OPTIONS\n"


# CORS


async def test_cors_for_some_origins(make_bench: Any) -> None:
    bench = await make_bench(site={"cors_origins": ("https://a.example",)})
    for path in ("/", "/live/cam.m3u8", "/_page/streams.json"):
        answer = await bench.get(path, headers="Origin: https://a.example\r\n")
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert answer.headers["vary"] == "Origin"
        for headers in ("Origin: https://b.example\r\n", ""):
            answer = await bench.get(path, headers=headers)
            assert "access-control-allow-origin" not in answer.headers and answer.headers["vary"] == "Origin"


async def test_cors_on_flv(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(site={"cors_origins": ("https://a.example",)})
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 5))
        await bench.arrived("live/cam", 12)
        for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
            answer = await bench.get("/live/cam.flv", method="HEAD", headers=f"Origin: {origin}\r\n")
            assert answer.headers.get("access-control-allow-origin") == allowed


async def test_settings_change_while_it_runs(make_bench: Any, make_feed: Any) -> None:
    bench = await make_bench()
    assert (await bench.get("/")).headers["access-control-allow-origin"] == "*"
    bench.site.configure(
        cors_origins=["https://a.example"], trust_forwarded_from=[],
        hls=HlsSettings(fragment=4, max_fragment=40, window=60),
    )
    assert bench.site.audience.seconds == 120
    answer = await bench.get("/", headers="Origin: https://a.example\r\n")
    assert answer.headers["access-control-allow-origin"] == "https://a.example" and answer.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in (await bench.get("/", headers="Origin: https://b.example\r\n")).headers
    answer = await first_playlist(bench, make_feed("libx264", "aac", seconds=8, gop=1))
    assert answer.headers["cache-control"] == "public, max-age=2" and b"#EXTINF:4.0" in answer.body
    await bench.publishing.close()
    bench.site.configure(cors_origins=[], trust_forwarded_from=[], hls=HlsSettings())
    assert not {"access-control-allow-origin", "vary"} & (await bench.get("/")).headers.keys()


async def test_preflight(bench: Any) -> None:
    for path in ("/live/cam.flv", "/live/cam.m3u8", "/anything"):
        answer = await bench.get(path, method="OPTIONS", headers="Origin: https://a.example\r\n")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
        assert "Range" in answer.headers["access-control-allow-headers"]


# The page


async def test_the_page_and_everything_it_names(bench: Any) -> None:
    page = await bench.get("/")
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    paths = set(re.findall(rb'(?:src|href)="(_page/[^"]+)"', page.body)) | {b"_page/player.js"}
    assert len(paths) >= 5
    for path in paths:
        answer = await bench.get(f"/{path.decode()}")
        assert answer.status == 200 and answer.body
        assert answer.headers["content-type"] == (
            "text/css; charset=utf-8" if path.endswith(b".css") else "text/javascript; charset=utf-8"
        )
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert page.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert page.headers["cache-control"] == "no-cache" and page.headers["referrer-policy"] == "no-referrer"
    assert b"<script>" not in page.body and b"style=" not in page.body  # the policy would refuse both


def test_the_policy_allows_nothing_inline() -> None:
    assert CONTENT_SECURITY_POLICY == (
        "default-src 'self'; media-src 'self' blob:; worker-src 'self' blob:; script-src 'self'; "
        "img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'self'"
    )


async def test_favicon(bench: Any) -> None:
    assert (await bench.get("/favicon.ico")).status == 204


async def test_the_list(make_bench: Any) -> None:
    stream = {"app": "live", "name": "cam", "video": None, "audio": None, "viewers": 0, "uptime": 1.5, "kbps": 3}
    bench = await make_bench(site={"streams": lambda: [stream], "rtmp_port": 1936, "version": "1.2"})
    answer = await bench.get("/_page/streams.json")
    assert answer.status == 200 and answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert json.loads(answer.body) == {"streams": [stream], "rtmp_port": 1936, "rtmps_port": 0, "version": "1.2"}


async def test_the_list_may_be_awaited(make_bench: Any) -> None:
    async def streams() -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        return [{"name": "cam"}]

    bench = await make_bench(site={"streams": streams})
    assert json.loads((await bench.get("/_page/streams.json")).body)["streams"] == [{"name": "cam"}]


# Connections


async def test_the_date_goes_on(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for now, date in ((0.9, "Thu, 01 Jan 1970 00:00:00 GMT"), (1.0, "Thu, 01 Jan 1970 00:00:01 GMT")):
        monkeypatch.setattr("hls.answers.time", lambda now=now: now)
        assert (await bench.get("/")).headers["date"] == date


@pytest.mark.parametrize(
    ("version", "headers", "stays"),
    [("1.1", "", True), ("1.1", "Connection: close\r\n", False), ("1.0", "", False),
     ("1.0", "Connection: keep-alive\r\n", True)],
)  # fmt: skip
async def test_keep_alive(bench: Any, kit: Any, version: str, headers: str, stays: bool) -> None:
    reader, writer = await bench.ask("/", version=version, headers=headers)
    async with asyncio.timeout(5):
        for _ in range(2):
            _, fields = await kit.read_head(reader)
            await reader.readexactly(int(fields["content-length"]))
            expected = "close" if not stays else "keep-alive" if version == "1.0" else None
            assert fields.get("connection") == expected
            if not stays:
                assert await reader.read() == b""
                break
            writer.write(f"GET / HTTP/{version}\r\nHost: x\r\n{headers}\r\n".encode())


async def test_pipelined_requests_are_answered_in_order(bench: Any, kit: Any) -> None:
    reader, writer = await bench.connect()
    paths = ["/", "/nothing", "/_page/player.js", "/live/%00.flv", "/favicon.ico", "/live/cam.m3u8"] * 10
    writer.write("".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths).encode())
    async with asyncio.timeout(5):
        for status in [200, 404, 200, 400, 204, 404] * 10:
            got, fields = await kit.read_head(reader)
            await reader.readexactly(int(fields.get("content-length", "0")))
            assert got == status


@pytest.mark.parametrize(
    "data",
    [
        b"\x03" + bytes(1536),  # RTMP
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
        b"GET / HTTP/9.9.9\r\n\r\n",
        b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 20000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["rtmp", "tls", "version", "long line", "many headers", "long header", "length"],
)
async def test_what_is_not_http(bench: Any, kit: Any, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    reader, writer = await bench.connect()
    writer.write(data)
    async with asyncio.timeout(5):
        status, _ = await kit.read_head(reader)
        assert status == 400
        assert await reader.read() == b"the request is not valid HTTP\n"
    assert bench.server.counters.refused["http_malformed"] == 1
    assert len(caplog.records) == 1 and caplog.records[0].exc_info is None


@pytest.mark.parametrize("trickle", [b"", b"GET / HTTP/1.1\r\nX"])
async def test_a_head_has_a_deadline(make_bench: Any, trickle: bytes) -> None:
    bench = await make_bench(site={"header_seconds": 0.3})
    reader, writer = await bench.connect()
    writer.write(trickle)

    async def drip() -> None:
        while True:
            writer.write(trickle[-1:])
            await asyncio.sleep(0.05)

    task = asyncio.ensure_future(drip())
    async with asyncio.timeout(5):
        try:
            assert await reader.read() == b""
        except ConnectionResetError:  # a drip came between the server's close and its end here
            assert trickle
    task.cancel()
    assert bench.server.counters.refused["http_timeout"] == 1
    await bench.until(lambda: not bench.site._connections.connections)


async def test_a_waiting_request_is_not_hit_by_the_deadline(make_bench: Any) -> None:
    bench = await make_bench(
        site={"header_seconds": 0.2}, server={"stream": StreamSettings(play_wait_seconds=1.6)}
    )
    assert (await bench.get("/live/cam.flv")).status == 404
    assert not bench.server.counters.refused["http_timeout"]
    assert bench.server.counters.viewers_failed == {"not_found": 1}


async def test_silent_connections_disturb_nobody(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(site={"header_seconds": 0.5})
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 5))
        await bench.arrived("live/cam", 12)
        silent = [socket.create_connection(("127.0.0.1", bench.port)) for _ in range(500)]
        reader, writer = await bench.ask("/live/cam.flv")
        status, _ = await kit.read_head(reader)
        assert status == 200 and (await bench.get("/")).status == 200
        await bench.until(lambda: bench.server.counters.refused["http_timeout"] == 500)
        await bench.until(lambda: not bench.site._connections.connections)
        await bench.send(publisher, kit.messages(5, 6))
        async with asyncio.timeout(5):
            await reader.readuntil(kit.sound(5))
        writer.close()
        for sock in silent:
            assert sock.recv(1) == b""
            sock.close()


async def test_what_fails_here_is_one_line_and_a_500(make_bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    def streams() -> Any:
        raise RuntimeError("bug")

    bench = await make_bench(site={"streams": streams})
    answer = await bench.get("/_page/streams.json")
    assert (answer.status, answer.body) == (500, b"the server failed to answer\n")
    assert bench.server.counters.refused["internal"] == 1
    assert (await bench.get("/")).status == 200


class Door:
    """A listener elsewhere, which hands the connections it accepts to a site that listens nowhere."""

    def __init__(self, site: ViewerSite) -> None:
        self.site = site
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        self.writers.append(writer)
        self.hand_over()
        return reader, writer

    def hand_over(self) -> None:
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        self.site.accept(sock)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def behind_a_door(request: pytest.FixtureRequest) -> Any:
    """Runs ``test(door)`` on a loop of either kind."""

    def run(test: Callable[[Door], Any]) -> None:
        async def main() -> None:
            server = Server()
            door = Door(ViewerSite(server, header_seconds=0.3))
            try:
                async with asyncio.timeout(10):
                    await test(door)
            finally:
                await server.close()
                await door.site.close()
                door.listener.close()
                for writer in door.writers:
                    writer.transport.abort()
                await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return run


def test_connections_accepted_elsewhere(behind_a_door: Any, kit: Any) -> None:
    async def test(door: Door) -> None:
        reader, writer = await door.connect()
        for _ in range(2):
            writer.write(b"GET /live/cam/1.ts HTTP/1.1\r\nHost: x\r\n\r\n")
            status, fields = await kit.read_head(reader)
            assert (status, await reader.readexactly(int(fields["content-length"]))) == (404, b"no such segment\n")
        assert door.site.connections == 1
        malformed, writing = await door.connect()
        writing.write(b"\x03" + bytes(1536))
        assert (await kit.read_head(malformed))[0] == 400
        silent, _ = await door.connect()
        assert await silent.read() == b""
        refused = door.site._server.counters.refused
        assert (refused["http_malformed"], refused["http_timeout"]) == (1, 1)
        writing.close()
        while door.site.connections > 1:
            await asyncio.sleep(0.01)
        await door.site.close()
        assert await reader.read() == b"" and door.site.connections == 0
        late, _ = await door.connect()
        assert await late.read() == b""

    behind_a_door(test)


def test_connections_that_are_gone_when_they_are_handed_over(behind_a_door: Any) -> None:
    async def test(door: Door) -> None:
        for linger in (b"", b"\1\0\0\0\0\0\0\0"):  # closed, reset
            client = socket.create_connection(door.listener.getsockname())
            if linger:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.close()
            door.hand_over()
            await asyncio.sleep(0.05)
            assert door.site.connections == 0

    behind_a_door(test)


def test_closing_with_connections_that_just_came(behind_a_door: Any) -> None:
    async def test(door: Door) -> None:
        reader, _ = await door.connect()
        await door.site.close()
        assert await reader.read() == b"" and not door.site._server.counters.refused

    behind_a_door(test)


async def test_two_addresses() -> None:
    server = Server()
    await server.start("127.0.0.1", 0)
    site = ViewerSite(server)
    await site.start("127.0.0.1", 0)
    await site.start("127.0.0.1", 0)
    assert len({port for _, port in site.addresses}) == 2
    with pytest.raises(OSError):
        await site.start("127.0.0.1", site.addresses[0][1])
    await server.close()
    await site.close()
    assert site.addresses == []


async def test_who_does_not_read_the_answers_before_counts_all_the_same(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(server={"max_connections": 2})
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 5))
        await bench.arrived("live/cam", 12)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(("127.0.0.1", bench.port))
        with sock:
            await bench.until(lambda: bench.site.connections)
            (handler,) = bench.site._connections.connections
            transport = handler.transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
            asked = ("/_page/app.js", "/_page/app.js", "/_page/app.js", "/live/cam.flv")
            sock.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in asked))
            await bench.until(lambda: transport.get_write_buffer_limits() == (0, 0))  # it waits for these to be read
            reader, _ = await bench.connect()
            assert (await kit.read_head(reader))[0] == 503
            transport.abort()


async def test_closing_with_viewers_and_waiting_requests(bench: Any, kit: Any) -> None:
    async with await bench.publisher() as publisher:
        await bench.send(publisher, kit.messages(0, 5))
        await bench.arrived("live/cam", 12)
        watching = [(await bench.ask("/live/cam.flv"))[0] for _ in range(3)]
        for reader in watching:
            await kit.read_head(reader)
        waiting = [(await bench.ask(path))[0] for path in ("/live/other.flv", "/live/cam.m3u8")]
        await bench.until(lambda: bench.server.hub.find("live", "other") and len(bench.site.hls))
        idle, _ = await bench.connect()
        async with asyncio.timeout(8):
            await bench.server.close()
            await bench.site.close()
            for reader in watching:
                assert (await reader.read()).startswith(b"FLV")
            for reader in waiting:
                status, _ = await kit.read_head(reader)
                # What there was of live/cam may have become a last segment, or come too late for that.
                assert status in (200, 404, 503)
            assert await idle.read() == b""


# Behind a proxy


async def test_a_proxy_says_for_whom_it_asks(make_bench: Any, kit: Any) -> None:
    asked: list[str] = []
    hooks = Hooks(on_play=lambda request: asked.append(request.address))
    bench = await make_bench(
        server={"hooks": hooks, "max_connections_per_address": 2},
        site={"trust_forwarded_from": ("127.0.0.1",)},
    )
    publishing = await bench.publisher()
    await bench.send(publishing, kit.messages(0, 20))
    await bench.arrived("live/cam", 20)
    for headers in ("X-Forwarded-For: 198.51.100.1, 192.0.2.7\r\n",
                    "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 192.0.2.7, 127.0.0.1\r\n"):
        reader, _ = await bench.ask("/live/cam.flv", headers=headers)
        assert (await kit.read_head(reader))[0] == 200
    third, _ = await bench.ask("/live/cam.flv", headers=headers)
    assert (await kit.read_head(third))[0] == 503
    other, _ = await bench.ask("/live/cam.flv", headers="X-Forwarded-For: 2001:db8::7\r\n")
    assert (await kit.read_head(other))[0] == 200
    viewers = [client.address for client in bench.server.clients.values() if client.protocol == "flv"]
    assert viewers == ["192.0.2.7", "192.0.2.7", "2001:db8::7"]
    assert asked == ["192.0.2.7", "192.0.2.7", "192.0.2.7", "2001:db8::7"]
    await bench.get("/live/cam/1.ts", headers="X-Forwarded-For: 192.0.2.9\r\n")
    assert asked[-1] == "192.0.2.9"
    bench.site.configure(cors_origins=("*",), trust_forwarded_from=(), hls=HlsSettings())
    await bench.get("/live/cam/1.ts", headers="X-Forwarded-For: 192.0.2.9\r\n")
    assert asked[-1] == "127.0.0.1"
    await publishing.close()


async def test_nobody_else_is_believed(make_bench: Any, kit: Any) -> None:
    bench = await make_bench(site={"trust_forwarded_from": ("192.0.2.0/24",)})
    publishing = await bench.publisher()
    await bench.send(publishing, kit.messages(0, 20))
    await bench.arrived("live/cam", 20)
    reader, _ = await bench.ask("/live/cam.flv", headers="X-Forwarded-For: 192.0.2.7\r\n")
    assert (await kit.read_head(reader))[0] == 200
    assert {client.address for client in bench.server.clients.values()} == {"127.0.0.1"}
    await publishing.close()
