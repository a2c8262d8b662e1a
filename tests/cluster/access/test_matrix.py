"""Every door of a real node x everything a client may show: who gets in, and what the others are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

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
from tests.cluster.access import issuer
from tests.cluster.conftest import HERE

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIGNING = "a-secret-to-sign-with"
KEYS = {"publish": new_key(), "play": new_key(), "other": new_key(), "api-read": new_key(), "api-write": new_key()}
DOORS = ("publish", "play", "flv", "playlist", "segment", "api-read", "api-write")
SHOWN = ("nothing", "wrong", "expired", "for another stream", "for another action", "from another address", "right")
KINDS = ("key", "sign", "jwt")


def settings() -> list[str]:
    access = {
        "rules": ["publish,play key/* key", "publish,play sign/* signed", "publish,play jwt/* token", "* * deny",
                  "api-read,api-write * key token"],
        "keys": [
            *(f"{action} key/cam {hash_key(KEYS[action])}" for action in ("publish", "play")),
            f"publish,play key/other {hash_key(KEYS['other'])}",
            *(f"{action} * {hash_key(KEYS[action])}" for action in ("api-read", "api-write")),
        ],
        "token_algorithms": ["HS256"],
    }  # fmt: skip
    texts = [f"access.{name}={json.dumps(value)}" for name, value in access.items()]
    secrets = [f"access.signed_secret={SIGNING}", f"access.token_secret={issuer.SECRET.replace(' ', '-')}"]
    return [*HERE, *texts, *secrets, "access.failures_per_minute=100000", "hls.fragment=1"]


def key_query(action: str, shown: str) -> str | None:
    if shown in ("expired", "from another address"):
        return None  # a key is neither
    others = {"publish": "play", "play": "publish", "api-read": "api-write", "api-write": "api-read"}
    keys = {"right": KEYS[action], "for another stream": KEYS["other"], "for another action": KEYS[others[action]]}
    return f"key={keys.get(shown, 'wrong')}"


def sign_query(action: str, shown: str) -> str | None:
    if action.startswith("api"):
        return None  # the API knows no signed URLs
    others = {"publish": "play", "play": "publish"}
    return signed_query(
        "another-secret-to-sign-with" if shown == "wrong" else SIGNING,
        others[action] if shown == "for another action" else action,
        "sign/other" if shown == "for another stream" else "sign/cam",
        int(time.time()) + (-1 if shown == "expired" else 3600),
        "127.0.0.2" if shown == "from another address" else "127.0.0.1",
    )


def jwt_query(action: str, shown: str) -> str | None:
    if shown == "from another address":
        return None  # a token says nothing of addresses
    others = {"publish": "play", "play": "publish", "api-read": "api-write", "api-write": "api-read"}
    permission = {"action": others[action] if shown == "for another action" else action}
    if not action.startswith("api"):
        permission["path"] = "jwt/other" if shown == "for another stream" else "jwt/*"
    elif shown == "for another stream":
        return None  # the API is not about one stream
    claims = {"exp": time.time() + (-60 if shown == "expired" else 3600), "permissions": [permission]}
    secret = issuer.SECRET.replace(" ", "-")
    return f"token={issuer.token(claims, secret=secret + 'x' if shown == 'wrong' else secret)}"


QUERIES: dict[str, Callable[[str, str], str | None]] = {"key": key_query, "sign": sign_query, "jwt": jwt_query}


def query(kind: str, action: str, shown: str) -> str | None:
    """What goes behind the ``?``; None: there is no such cell."""
    return "" if shown == "nothing" else QUERIES[kind](action, shown)


CELLS = [
    (kind, door, shown)
    for kind in KINDS
    for door in DOORS
    for shown in SHOWN
    if query(kind, door if door.startswith(("api", "publish")) else "play", shown) is not None
]


class Doors:
    """A node with the stream ``KIND/cam`` for every kind of credential, and an HLS segment of each."""

    def __init__(self, node: Node, http: aiohttp.ClientSession) -> None:
        self.node = node
        self.http = http
        self.segments: dict[str, str] = {}

    async def ask(self, kind: str, door: str, shown: str) -> tuple[int, str]:
        """HTTP status, or 200 and 0 for RTMP; and what the client is told."""
        action = door if door.startswith(("api", "publish")) else "play"
        text = query(kind, action, shown)
        if door in ("publish", "play"):
            # What is published already is refused as well, but in other words.
            return await self._rtmp(door, f"{kind}/cam?{text}" if text else f"{kind}/cam")
        if door == "api-read":
            return await self._http("GET", f"http://{self.node.api_address}/api/v1/streams", bearer=text)
        if door == "api-write":
            return await self._http("DELETE", f"http://{self.node.api_address}/api/v1/clients/none", bearer=text)
        paths = {"flv": f"/{kind}/cam.flv", "playlist": f"/{kind}/cam.m3u8", "segment": self.segments[kind]}
        return await self._http("GET", f"http://{self.node.http_address}{paths[door]}?{text}")

    async def _rtmp(self, door: str, stream: str) -> tuple[int, str]:
        async with await Client.connect(f"rtmp://{self.node.rtmp_address}/{stream}") as client:
            try:
                if door == "publish":
                    await client.publish()
                else:
                    messages = client.play()
                    await anext(messages)
                    await messages.aclose()  # type: ignore[attr-defined]
            except RefusedError as error:
                return 0, f"{error.code} {error}"
        return 200, ""

    async def _http(self, method: str, url: str, bearer: str | None = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {bearer.partition('=')[2]}"} if bearer else {}
        async with self.http.request(method, url, headers=headers) as response:
            if response.status == 200:
                await response.content.readexactly(9)
                return 200, response.headers.get("Cache-Control", "")
            return response.status, await response.text()

    async def find_segment(self, kind: str) -> None:
        """Also: the playlist passes its own query on, for all that belongs to it."""
        text = query(kind, "play", "right")
        async with self.http.get(f"http://{self.node.http_address}/{kind}/cam/index.m3u8?{text}") as response:
            lines = (await response.text()).splitlines()
            assert response.status == 200, lines
        segment = next(line for line in lines if line.endswith(f".ts?{text}"))
        self.segments[kind] = f"/{kind}/cam/{segment.partition('?')[0]}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def doors(clip: Path) -> AsyncIterator[Doors]:
    node = Node(load(None, settings(), {}))
    await node.start()
    tasks = []
    for kind in KINDS:
        started = asyncio.Event()
        url = f"rtmp://{node.rtmp_address}/{kind}/cam?{query(kind, 'publish', 'right')}"
        tasks.append(asyncio.create_task(publish(clip, url, repeat=True, started=started.set)))
        await started.wait()
    async with aiohttp.ClientSession() as http:
        found = Doors(node, http)
        await asyncio.gather(*(found.find_segment(kind) for kind in KINDS))
        yield found
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await task
    await node.close()


@pytest.mark.parametrize(("kind", "door", "shown"), CELLS)
async def test_a_cell(doors: Doors, kind: str, door: str, shown: str) -> None:
    status, told = await doors.ask(kind, door, shown)
    if door == "publish":
        # Somebody publishes it already, which only those learn who might.
        wanted = "BadName" if shown == "right" else "NetStream.Publish.Denied"
        assert wanted in told
    elif door == "play":
        assert status == 200 if shown == "right" else told.startswith("NetStream.Play.Failed")
    elif door == "api-write" and shown == "right":
        assert status == 404 and "no such client" in told
    else:
        assert status == {"right": 200, "nothing": 401}.get(shown, 403)
        assert shown != "right" or door != "segment" or told.startswith("private, ")


async def test_what_the_refused_are_told_is_always_the_same(doors: Doors) -> None:
    for door in ("publish", "play", "flv", "playlist", "segment"):
        cells = [cell for cell in CELLS if cell[1] == door and cell[2] not in ("right", "nothing")]
        told = {(await doors.ask(*cell))[1] for cell in cells}
        assert len(told) == 1, told
    # Whether there is such a stream is told to nobody who may not see it.
    base = f"http://{doors.node.http_address}"
    there = await doors._http("GET", f"{base}/key/cam.m3u8")
    assert there == await doors._http("GET", f"{base}/key/nobody.m3u8") and there[0] == 401


async def test_one_viewers_token_serves_nobody_else(doors: Doors) -> None:
    """However many have been let in just before, to the same file."""
    for kind in KINDS:
        assert (await doors.ask(kind, "segment", "right"))[0] == 200
        assert (await doors.ask(kind, "segment", "nothing"))[0] == 401
        assert (await doors.ask(kind, "segment", "wrong"))[0] == 403


async def test_reasons_are_for_operators(doors: Doors) -> None:
    refused = doors.node.server.counters.refused
    before = refused.copy()
    for kind, shown, reason in (
        ("key", "nothing", "no_credential"), ("key", "wrong", "wrong_key"),
        ("key", "for another stream", "key_of_another"), ("sign", "wrong", "bad_signature"),
        ("sign", "expired", "expired"), ("sign", "from another address", "wrong_address"),
        ("jwt", "wrong", "bad_token"), ("jwt", "expired", "expired"), ("jwt", "for another action", "not_permitted"),
    ):  # fmt: skip
        await doors.ask(kind, "playlist", shown)
        before[reason] += 1
        assert refused == before, (kind, shown)
