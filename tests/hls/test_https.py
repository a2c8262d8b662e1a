"""``hls.http`` with TLS beside it: who comes without is sent there."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from hls.settings import HlsSettings
from tests.hls.conftest import read_head
from tests.hls.test_viewer import tls as tls  # a fixture: contexts of a server and of its clients
from tests.pyrtmp.aio.net import eventually


async def redirected(bench: Any, target: str, host: str, more: str = "", method: str = "GET") -> tuple[int, str]:
    """The status, and where to."""
    reader, writer = await bench.connect()
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode())
    async with asyncio.timeout(5):
        status, fields = await read_head(reader)
    writer.close()
    return status, fields.get("location", "")


@pytest.mark.parametrize(
    ("port", "host", "target", "location"),
    [
        (443, "live.example.org", "/live/cam.flv", "https://live.example.org/live/cam.flv"),
        (443, "live.example.org:8080", "/", "https://live.example.org/"),
        (8443, "[2001:db8::1]:8080", "/live/cam.m3u8?token=a%2Fb%20c", "https://[2001:db8::1]:8443/live/cam.m3u8?token=a%2Fb%20c"),
        (8443, "10.0.0.1", "//evil.org/x", "https://10.0.0.1:8443//evil.org/x"),
        (8443, "h", "/live/%0d%0aX:%20y", "https://h:8443/live/%0d%0aX:%20y"),
    ],
)  # fmt: skip
async def test_where_to(make_bench: Any, port: int, host: str, target: str, location: str) -> None:
    bench = await make_bench(site={"https_port": port})
    status, where = await redirected(bench, target, host)
    assert (status, where) == (308, location)


@pytest.mark.parametrize("host", ["", "a b", "evil.org/x", "user@evil.org", "h:port", "[::1", "x" * 300])
async def test_hosts_that_are_none(make_bench: Any, host: str) -> None:
    bench = await make_bench(site={"https_port": 443})
    assert await redirected(bench, "/", host) == (400, "")


async def test_who_is_not_sent(make_bench: Any, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    behind = await make_bench(site={"https_port": 443, "trust_forwarded_from": ("127.0.0.1",)})
    assert await redirected(behind, "/", "h") == (200, "")
    plain = await make_bench(site={"https_port": 443})
    assert await redirected(plain, "/live/cam.flv", "h", method="OPTIONS") == (204, "")  # a preflight must not be
    assert await redirected(plain, "/live/cam.flv", "h", method="HEAD") == (308, "https://h/live/cam.flv")
    secure = await make_bench(site={"https_port": 443}, tls=tls)
    assert await redirected(secure, "/", "h") == (200, "")
    await plain.site.start("127.0.0.1", 0, tls=tls[0])  # both at once
    assert len(plain.site.addresses) == 2
    plain.site.configure(cors_origins=(), trust_forwarded_from=(), hls=HlsSettings())
    assert await redirected(plain, "/", "h") == (200, "")


async def test_a_handshake_counts_as_a_connection_until_it_is_over(
    make_bench: Any, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    bench = await make_bench(server={"max_connections_per_address": 1}, site={"header_seconds": 0.3}, tls=tls)
    port = bench.site.addresses[0][1]
    silent, first = await asyncio.open_connection("127.0.0.1", port)
    await eventually(lambda: bench.site.connections == 1)
    turned_away, second = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        assert await turned_away.read() == b""
        await silent.read()
    first.close()
    second.close()
    assert bench.server.counters.refused == {"connections_per_address": 1, "tls": 1}
    reader, writer = await bench.connect()  # the one there may be: what its handshake held is not held any more
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await read_head(reader))[0] == 200
    writer.close()
