"""Every door of a real node x everything that may be shown there: who gets in, and what the others are told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from cluster.access.keys import hash_key, new_key
from cluster.access.signed import signed_query
from cluster.config import load
from cluster.node import Node
from cluster.publish import publish
from pyrtmp.aio.client import Client
from pyrtmp.errors import RefusedError
from pyrtmp.kin import HEADER, Kin
from pyrtmp.kinship import ASKS, MAX_AGE, Kinship, admission
from pyrtmp.names import StreamKey
from tests.cluster.access import issuer
from tests.cluster.conftest import HERE
from tests.cluster.tls.authority import Authority

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLE = """
                  nothing  wrong   expired  other-stream  other-action  other-address  right
publish           Denied   Denied  Denied   Denied        Denied        Denied         BadName
publish-rtmps     Denied   Denied  Denied   Denied        Denied        Denied         BadName
play              Failed   Failed  Failed   Failed        Failed        Failed         200
play-rtmps        Failed   Failed  Failed   Failed        Failed        Failed         200
flv               401      403     403      403           403           403            200
flv-https         401      403     403      403           403           403            200
playlist          401      403     403      403           403           403            200
playlist-https    401      403     403      403           403           403            200
segment           401      403     403      403           403           403            200
segment-https     401      403     403      403           403           403            200
api-read          401      403     403      -             403           403            200
api-write         401      403     403      -             403           403            404
console           200      200     200      -             200           200            200
node-publish      Denied   Denied  Denied   Denied        Denied        BadName        BadName
node-play         Failed   Failed  Failed   Failed        Failed        200            200
node-flv          401      401     401      401           401           200            200
"""
"""What is answered; "-": the API is not about one stream.  BadName: somebody publishes it already, which only those
learn who might.  404: the client that may be disconnected is not there.  The console is files without data, for
everybody.  Nodes are known by their proof wherever they are; one that proves nothing has shown nothing."""

_HEAD, *_ROWS = (line.split() for line in TABLE.strip().splitlines())
SHOWN = tuple(_HEAD)
EXPECTED = {(row[0], shown): answer for row in _ROWS for shown, answer in zip(SHOWN, row[1:], strict=True)}

SIGNING = "a-secret-to-sign-with"
NODES = "a-secret-that-only-nodes-of-the-cluster-know"
KEYS = {"publish": new_key(), "play": new_key(), "other": new_key(), "api-read": new_key(), "api-write": new_key()}
TOKENS = issuer.SECRET.replace(" ", "-")
OTHERS = {"publish": "play", "play": "publish", "api-read": "api-write", "api-write": "api-read"}
ELSEWHERE = "127.0.0.2"

CONFIGURATION = f"""
[node]
secret = "{NODES}"
[hls]
fragment = 1
[access]
rules = ["publish,play key/* deny:{ELSEWHERE} key", "publish,play sign/* signed",
         "publish,play jwt/* deny:{ELSEWHERE} token", "* * deny", "api-read,api-write * deny:{ELSEWHERE} key token"]
keys = ["publish key/cam {hash_key(KEYS["publish"])}", "play key/cam {hash_key(KEYS["play"])}",
        "publish,play key/other {hash_key(KEYS["other"])}",
        "api-read * {hash_key(KEYS["api-read"])}", "api-write * {hash_key(KEYS["api-write"])}"]
signed_secret = "{SIGNING}"
token_secret = "{TOKENS}"
token_algorithms = ["HS256"]
failures_per_minute = 100000
"""


def key_query(action: str, shown: str) -> str | None:
    if shown == "expired":
        return None  # a key does not
    right = KEYS[action]
    keys = {"right": right, "other-address": right, "other-stream": KEYS["other"], "other-action": KEYS[OTHERS[action]]}
    return f"key={keys.get(shown, 'wrong')}"


def sign_query(action: str, shown: str) -> str | None:
    if action.startswith("api"):
        return None  # the API knows no signed URLs
    return signed_query(
        "another-secret-to-sign-with" if shown == "wrong" else SIGNING,
        OTHERS[action] if shown == "other-action" else action,
        "sign/other" if shown == "other-stream" else "sign/cam",
        int(time.time()) + (-1 if shown == "expired" else 3600),
        "127.0.0.1",
    )


def jwt_query(action: str, shown: str) -> str | None:
    permission = {"action": OTHERS[action] if shown == "other-action" else action}
    if not action.startswith("api"):
        permission["path"] = "jwt/other" if shown == "other-stream" else "jwt/*"
    claims = {"exp": time.time() + (-60 if shown == "expired" else 3600), "permissions": [permission]}
    return f"token={issuer.token(claims, secret=TOKENS + 'x' if shown == 'wrong' else TOKENS)}"


QUERIES: dict[str, Callable[[str, str], str | None]] = {"key": key_query, "sign": sign_query, "jwt": jwt_query}
CLIENTS = tuple(QUERIES)


def action_of(door: str) -> str:
    if door == "console":
        return "api-read"
    return door if door.startswith("api") else "publish" if "publish" in door else "play"


def query(kind: str, action: str, shown: str) -> str | None:
    """What goes behind the ``?``; None: there is no such cell."""
    return "" if shown == "nothing" else QUERIES[kind](action, shown)


CELLS = [
    (kind, door, shown)
    for (door, shown), answer in EXPECTED.items()
    for kind in (("node",) if door.startswith("node") else CLIENTS)
    if answer != "-" and (kind == "node" or query(kind, action_of(door), shown) is not None)
]


class Elsewhere:
    """Relays of a machine with another address."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []

    async def reach(self, port: int) -> int:
        """The port that leads to another one of 127.0.0.1."""

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, away = await asyncio.open_connection("127.0.0.1", port, local_addr=(ELSEWHERE, 0))
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(_copy(reader, away), _copy(there, writer))

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def close(self) -> None:
        for server in self._servers:
            server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


class Doors:
    """A node with the stream ``KIND/cam`` for every kind of credential, and an HLS segment of each."""

    def __init__(self, node: Node, http: aiohttp.ClientSession, tls: ssl.SSLContext, elsewhere: dict[int, int]) -> None:
        self.node = node
        self.http = http
        self.segments: dict[str, str] = {}
        self._tls = tls
        self._elsewhere = elsewhere

    async def ask(self, kind: str, door: str, shown: str) -> tuple[str, str]:
        """The code, of RTMP its last part, 200 for yes; and what else is told."""
        if kind == "node":
            return await self._ask_as_node(door, shown)
        action = action_of(door)
        text = query(kind, action, shown) or ""
        if door in ("publish", "play", "publish-rtmps", "play-rtmps"):
            return await self._rtmp(door, shown, f"{kind}/cam?{text}" if text else f"{kind}/cam")
        if door.startswith("api") or door == "console":
            method, path = {
                "api-read": ("GET", "/api/v1/streams"), "api-write": ("DELETE", "/api/v1/clients/none"),
                "console": ("GET", "/console/"),
            }[door]  # fmt: skip
            headers = {"Authorization": f"Bearer {text.partition('=')[2]}"} if text else {}
            return await self._http(method, door, shown, path, headers)
        paths = {"flv": f"/{kind}/cam.flv", "playlist": f"/{kind}/cam.m3u8", "segment": self.segments.get(kind, "")}
        return await self._http("GET", door, shown, f"{paths[door.partition('-')[0]]}?{text}")

    async def _ask_as_node(self, door: str, shown: str) -> tuple[str, str]:
        """A proof: none; with another secret; of before; of what was allowed for another stream or to another end."""
        action = action_of(door)
        secrets = {"nothing": (), "wrong": (f"another-{NODES}",)}.get(shown, (NODES,))
        before = (lambda: time.time() - MAX_AGE - 5) if shown == "expired" else time.time
        kinship = Kinship(secrets, now=before)
        admits = admission(
            OTHERS[action] if shown == "other-action" else action,
            StreamKey("key", "other" if shown == "other-stream" else "cam"),
        )
        kin = Kin("edge", ("edge",), wait=False, admits=admits)
        if door == "node-flv":
            return await self._http("GET", "flv", shown, "/key/cam.flv", {HEADER: kinship.ask(kin)})

        def introduce(binding: bytes) -> Mapping[str, Any]:
            return kinship.entry(kin, ASKS, bytes(32) if shown == "expired" else binding)

        return await self._rtmp(action, shown, "key/cam", introduce=introduce)

    def _port(self, door: str, shown: str) -> int:
        node = self.node
        places = {"rtmps": node.rtmps_address, "https": node.https_address}
        api = door.startswith("api") or door == "console"
        plain = node.api_address if api else node.rtmp_address if is_rtmp(door) else node.http_address
        address = places.get(door.rpartition("-")[2], plain)
        assert address is not None
        return self._elsewhere[address.port] if shown == "other-address" else address.port

    async def _rtmp(self, door: str, shown: str, stream: str, **more: Any) -> tuple[str, str]:
        scheme = "rtmps" if door.endswith("rtmps") else "rtmp"
        url = f"{scheme}://127.0.0.1:{self._port(door, shown)}/{stream}"
        async with await Client.connect(url, tls=self._tls, **more) as client:
            try:
                if door.startswith("publish"):
                    await client.publish()
                else:
                    messages = client.play()
                    await anext(messages)
                    await messages.aclose()  # type: ignore[attr-defined]
            except RefusedError as error:
                return error.code.rpartition(".")[2], f"{error.code} {error}"
        return "200", ""

    async def _http(
        self, method: str, door: str, shown: str, path: str, headers: Mapping[str, str] | None = None
    ) -> tuple[str, str]:
        scheme = "https" if door.endswith("https") else "http"
        url = f"{scheme}://127.0.0.1:{self._port(door, shown)}{path}"
        async with self.http.request(method, url, headers=headers, ssl=self._tls) as response:
            if response.status == 200:
                await response.content.readexactly(9)
                return "200", response.headers.get("Cache-Control", "")
            return str(response.status), await response.text()

    async def find_segment(self, kind: str) -> None:
        """Also: the playlist passes its own query on, for all that belongs to it."""
        text = query(kind, "play", "right")
        async with self.http.get(f"http://{self.node.http_address}/{kind}/cam/index.m3u8?{text}") as response:
            lines = (await response.text()).splitlines()
            assert response.status == 200, lines
        segment = next(line for line in lines if line.endswith(f".ts?{text}"))
        self.segments[kind] = f"/{kind}/cam/{segment.partition('?')[0]}"


def is_rtmp(door: str) -> bool:
    return door.partition("-")[0] in ("publish", "play")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def doors(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    folder = tmp_path_factory.mktemp("node")
    (folder / "node.toml").write_text(CONFIGURATION)
    authority = Authority(folder)
    secure = ["rtmps.listen=127.0.0.1:0", "https.listen=127.0.0.1:0", *authority.issue().settings]
    node = Node(load(folder / "node.toml", [*HERE, *secure], {}))
    await node.start()
    elsewhere = Elsewhere()
    tasks = []
    for kind in CLIENTS:
        started = asyncio.Event()
        url = f"rtmp://{node.rtmp_address}/{kind}/cam?{query(kind, 'publish', 'right')}"
        tasks.append(asyncio.create_task(publish(clip, url, repeat=True, started=started.set)))
        await started.wait()
    addresses = (node.rtmp_address, node.rtmps_address, node.http_address, node.https_address, node.api_address)
    ports = {each.port: await elsewhere.reach(each.port) for each in addresses if each is not None}
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http:
        found = Doors(node, http, authority.client(), ports)
        await asyncio.gather(*(found.find_segment(kind) for kind in CLIENTS))
        yield found
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await task
    elsewhere.close()
    await node.close()


@pytest.mark.parametrize(("kind", "door", "shown"), CELLS)
async def test_a_cell(doors: Doors, kind: str, door: str, shown: str) -> None:
    status, told = await doors.ask(kind, door, shown)
    assert status == EXPECTED[door, shown], told
    if door.startswith("segment") and shown == "right":
        assert told.startswith("private, ")
    if door == "api-write" and shown == "right":
        assert "no such client" in told


async def test_what_the_refused_are_told_is_always_the_same(doors: Doors) -> None:
    for door in ("publish", "play", "flv", "playlist", "segment"):
        cells = [cell for cell in CELLS if cell[1] == door and cell[2] not in ("right", "nothing")]
        told = {(await doors.ask(*cell))[1] for cell in cells}
        assert len(told) == 1, told
    # Whether there is such a stream is told to nobody who may not see it.
    there = await doors._http("GET", "playlist", "nothing", "/key/cam.m3u8")
    assert there == await doors._http("GET", "playlist", "nothing", "/key/nobody.m3u8") and there[0] == "401"


async def test_one_viewers_token_serves_nobody_else(doors: Doors) -> None:
    """However many have been let in just before, to the same file."""
    for kind in CLIENTS:
        assert (await doors.ask(kind, "segment", "right"))[0] == "200"
        assert (await doors.ask(kind, "segment", "nothing"))[0] == "401"
        assert (await doors.ask(kind, "segment", "wrong"))[0] == "403"


async def test_reasons_are_for_operators(doors: Doors) -> None:
    refused = doors.node.server.counters.refused
    before = refused.copy()
    for kind, shown, reason in (
        ("key", "nothing", "no_credential"), ("key", "wrong", "wrong_key"),
        ("key", "other-stream", "key_of_another"), ("sign", "wrong", "bad_signature"),
        ("sign", "expired", "expired"), ("sign", "other-address", "wrong_address"),
        ("jwt", "wrong", "bad_token"), ("jwt", "expired", "expired"), ("jwt", "other-action", "not_permitted"),
    ):  # fmt: skip
        await doors.ask(kind, "playlist", shown)
        before[reason] += 1
        assert refused == before, (kind, shown)


async def test_a_proof_over_http_is_good_once(doors: Doors) -> None:
    kin = Kin("edge", ("edge",), wait=False, admits=admission("play", StreamKey("key", "cam")))
    shown = {HEADER: Kinship((NODES,)).ask(kin)}
    assert (await doors._http("GET", "flv", "right", "/key/cam.flv", shown))[0] == "200"
    assert (await doors._http("GET", "flv", "right", "/key/cam.flv", shown))[0] == "401"
