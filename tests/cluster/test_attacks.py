"""Strangers at every door of a real node with rules and keys: a clear status, nothing revealed, nobody else is hurt.

What single parts do with bad input is in their own tests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from cluster.access.keys import hash_key, new_key
from pyrtmp import Client
from pyrtmp.errors import RefusedError
from tests.cluster.callbacks.backend import back_end, config, status
from tests.cluster.running import running
from tests.cluster.workers.real_node import RealNode, real_node

KEY, TOKEN = new_key(), "the-token-of-the-operators"
GUESSES = 10

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealNode]:
    access = (
        "access.rules=publish * key", f"access.keys=publish * {hash_key(KEY)}", f"api.token={TOKEN}",
        f"access.failures_per_minute={GUESSES}",
    )  # fmt: skip
    async with real_node(tmp_path_factory.mktemp("node"), *access, workers=0) as found:
        publisher = await found.publish(f"live/cam?key={KEY}")
        yield found
        assert publisher.alive
        assert not found.events("internal_error")


async def ask(port: int, data: bytes) -> bytes:
    """All that comes back until the connection is closed, or for five seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        writer.write(data)
        async with asyncio.timeout(5):
            while part := await reader.read(1 << 16):
                answer += part
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return answer


HEAD = b" HTTP/1.1\r\nHost: localhost\r\n"
MALFORMED = {
    "no http": b"\x00\x01\x02\r\n\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "both lengths":
        b"POST /" + HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz" + HEAD,
    "two lengths": b"GET /" + HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a length with a sign": b"GET /" + HEAD + b"Content-Length: +4\r\n\r\nabcd",
    "another coding": b"GET /" + HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"GET /" + HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunks not last": b"GET /" + HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a folded line": b"GET /" + HEAD + b"X: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "two hosts": b"GET /" + HEAD + b"Host: evil.example\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a zero byte": b"GET /a\0b" + HEAD + b"\r\n",
    "a long path": b"GET /" + b"a" * 100_000 + HEAD + b"\r\n",
    "a long field": b"GET /" + HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    "many fields": b"GET /" + HEAD + b"".join(b"X%d: a\r\n" % number for number in range(20_000)) + b"\r\n",
}


@pytest.mark.parametrize("door", ["http", "api"])
@pytest.mark.parametrize("kind", MALFORMED)
async def test_what_is_not_http(node: RealNode, door: str, kind: str) -> None:
    """One answer, the connection's last: no second request is found in what follows."""
    answer = await ask(node.ports[door], MALFORMED[kind])
    if not answer and len(MALFORMED[kind]) > 50_000:
        return  # closed while there was more to come: the answer may be lost
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400 ") and answer.count(b"HTTP/1.") == 1
    assert b"\r\nServer: pyrtmp" in head and b"the request is not valid HTTP" in body
    assert door == "http" or json.loads(body) == {"code": 400, "error": "the request is not valid HTTP"}


SIDEWAYS = [
    "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/_page/../../etc/passwd", "/_page/vendor/..%2fapp.js",
    "/live/cam%00.flv", "/live/cam%0d%0aX:%20y.flv", "//evil.example/cam.flv", "/live/cam.flv.", "/live/cam.flv/",
    "/live/%EF%BC%8E%EF%BC%8E/cam.flv", "/live/%C0%AE%C0%AE/cam.flv", "/live/%252e%252e/cam.flv", "/live/CAM%20.m3u8",
    "/live/cam/..%2f..%2fcam/1.ts", "/live/" + "a" * 4000 + ".flv", "/console/%2e%2e/api.py", "/console/..%2fapi.js",
    "/healthz/../api/v1/streams", "/healthz/..;/api/v1/streams", "/healthz%2f..%2fapi/v1/streams", "//api/v1/streams",
    "/console/../api/v1/streams", "/console/..%2f..%2fapi%2fv1%2fstreams", "/api/v1//streams", "/API/v1/streams",
    "/api/v1/streams;a=/healthz", "/api/v1/streams/..%2f..%2fhealthz", "/api/v1/streams%00", "/metrics/", "/metrics%20",
]  # fmt: skip


@pytest.mark.parametrize("door", ["http", "api"])
@pytest.mark.parametrize("path", SIDEWAYS)
async def test_paths_that_lead_elsewhere(node: RealNode, door: str, path: str) -> None:
    answer = await ask(node.ports[door], f"GET {path}".encode() + HEAD + b"Connection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) in (400, 401, 404), head
    assert b"\r\nX: y" not in head and b"passwd" not in body and b"FLV" not in body
    for fact in (node.pid, "live/cam"):
        assert str(fact).encode() not in body


@pytest.mark.parametrize("path", ["/api/v1/streams", "/metrics", "/nothing", "/console/nothing"])
async def test_strangers_at_the_api_learn_nothing_of_the_node(node: RealNode, path: str) -> None:
    async with node.http.get(path) as answer:
        assert answer.status in (401, 404) and answer.headers["Server"] == "pyrtmp"
        assert set(await answer.json()) == {"code", "error"}


async def guess(node: RealNode, key: str, source: str = "127.0.0.1") -> str:
    """Publish with a key from an address of this machine; the code of the refusal."""
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def from_there(factory: object, host: str, port: int, **more: object) -> object:
        return await connect(factory, host, port, local_addr=(source, 0), **more)  # type: ignore[call-overload]

    loop.create_connection = from_there  # type: ignore[method-assign,assignment]
    try:
        client = await Client.connect(node.rtmp(f"live/own?key={key}"))
    finally:
        loop.create_connection = connect  # type: ignore[method-assign]
    async with client:
        try:
            await client.publish()
        except RefusedError as error:
            return error.code
    return ""


@pytest.mark.parametrize("workers", [0, 2])
async def test_brute_force_harms_only_its_own_address(tmp_path: Path, workers: int) -> None:
    """Each worker counts for itself, as ``access.failures_per_minute`` says."""
    access = (
        "access.rules=publish * key", f"access.keys=publish * {hash_key(KEY)}",
        f"access.failures_per_minute={GUESSES}",
    )  # fmt: skip
    async with real_node(tmp_path, *access, workers=workers) as node:
        tries = GUESSES * max(workers, 1) + 25
        for number in range(tries):
            assert await guess(node, f"guess-{number}", "127.0.0.7") == "NetStream.Publish.Denied"

        async def refused(reason: str) -> float:
            return (await node.metrics()).get(f'pyrtmp_refused_total{{reason="{reason}"}}', 0.0)

        async with asyncio.timeout(5):
            while await refused("wrong_key") + await refused("throttled") < tries:
                await asyncio.sleep(0.1)
        # A few come back while it goes on.
        assert GUESSES <= await refused("wrong_key") <= (GUESSES + 10) * max(workers, 1)
        assert await refused("throttled") >= 10
        assert await guess(node, KEY, "127.0.0.8") == ""


async def test_guesses_that_a_back_end_refuses(tmp_path: Path) -> None:
    """Where the stream's name, or what follows it, is the key: the back end is not asked without end."""
    async with back_end() as found:
        found.answers["guess"] = status(403)
        some = config(found.url, "nginx-rtmp", f"access.failures_per_minute={GUESSES}")
        async with running(some) as node:
            for number in range(GUESSES + 10):
                with pytest.raises(RefusedError):
                    async with await Client.connect(f"rtmp://{node.rtmp_address}/live/guess-{number}") as client:
                        await client.publish()
            assert GUESSES <= len(found.of("call=publish")) < GUESSES + 5
            assert node.server.counters.refused["throttled"] > 5
            # Players that are refused come back by themselves, which is no guessing.
            async with aiohttp.ClientSession() as http:
                async with http.get(f"http://{node.http_address}/live/guess.m3u8") as answer:
                    assert answer.status in (401, 403)
            assert len(found.of("call=play")) == 1
