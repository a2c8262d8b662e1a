"""What a real node tells of itself and of what clients show: to strangers, to operators, in its log."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from cluster.access.keys import hash_key, new_key
from cluster.access.signed import signed_query
from pyrtmp import Client
from pyrtmp.errors import RefusedError
from tests.cluster.access import issuer
from tests.cluster.workers.real_node import RealNode, children, real_node

SIGNING = "a-secret-to-sign-with-0123456789"
BEARER = "the-token-of-the-operators"
JWT_SECRET = "j" * 40
PATHS = (
    "summaries", "streams", "streams/live/cam", "clients", "forwards", "pulls", "recordings", "nodes", "workers",
    "version",
)  # fmt: skip


def rules(keys: dict[str, str]) -> list[str]:
    access = {
        "rules": ["publish,play * key signed token", "api-read,api-write * key allow:127.0.0.1"],
        "keys": [f"publish,play * {hash_key(keys['stream'])}", f"api-read * {hash_key(keys['api'])}"],
        "token_algorithms": ["HS256"],
    }
    return [
        *(f"access.{name}={json.dumps(value)}" for name, value in access.items()),
        f"access.signed_secret={SIGNING}", f"access.token_secret={JWT_SECRET}", f"api.token={BEARER}",
        "access.failures_per_minute=1000", "log.level=debug",
    ]  # fmt: skip


async def everything_said(*nodes: RealNode) -> str:
    """By the API to operators, by the metrics, on the page; in the logs; and in what ps shows."""
    said = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {BEARER}"}) as http:
        for node in nodes:
            base = f"http://127.0.0.1:{node.ports['api']}"
            clients: list[str] = []
            for path in (*(f"/api/v1/{each}" for each in PATHS), "/metrics"):
                async with http.get(base + path) as answer:
                    assert answer.status == 200, path
                    said.append(await answer.text())
                    if path.endswith("/clients"):
                        clients = [each["id"] for each in (await answer.json())["clients"]]
            for client in clients:
                async with http.get(f"{base}/api/v1/clients/{client}") as answer:
                    said.append(await answer.text())
            async with http.get(f"http://127.0.0.1:{node.ports['http']}/_page/streams.json") as answer:
                said.append(await answer.text())
            said.append(node.log.read_text())
            # The node's own command line is what the test typed.
            said += [Path(f"/proc/{pid}/cmdline").read_text() for pid in children(node.pid)]
    return "\n".join(said)


@pytest.mark.parametrize("workers", [0, 2])
async def test_credentials_are_shown_nowhere(tmp_path: Path, workers: int) -> None:
    """Keys, tokens and signatures of publishers and viewers, good and bad, at an origin and at an edge before it."""
    keys = {"stream": new_key(), "api": new_key(), "wrong": new_key(), "pushed": new_key()}
    claims = {"exp": time.time() + 600, "permissions": [{"action": "publish"}, {"action": "play"}]}
    token = issuer.token(claims, secret=JWT_SECRET)
    signed = signed_query(SIGNING, "play", "live/cam", int(time.time()) + 600, "")
    sign = next(part for part in signed.split("&") if part.startswith("sign=")).removeprefix("sign=")
    async with real_node(tmp_path / "origin", *rules(keys), workers=workers) as origin:
        onward = [
            "node.role=edge", "node.id=edge", f"edge.origins=127.0.0.1:{origin.ports['rtmp']}",
            f"forward.to=rtmp://127.0.0.1:9/push/{keys['pushed']}?key={keys['pushed']}",
        ]  # fmt: skip
        async with real_node(tmp_path / "edge", *rules(keys), *onward, workers=workers) as edge:
            await origin.publish(f"live/cam?key={keys['stream']}")
            await edge.publish(f"live/own?token={token}")
            for query in (f"key={keys['stream']}", f"token={token}", signed):
                for node in (origin, edge):
                    viewer = await node.play(f"live/cam?{query}")
                    await viewer.until(lambda frames: len(frames) > 1)
            url = f"rtmp://127.0.0.1:{edge.ports['rtmp']}/live"
            with suppress(RefusedError):
                async with await Client.connect(
                    f"{url}/cam?key={keys['wrong']}", tcUrl=f"{url}?key={keys['wrong']}", pageUrl=keys["wrong"],
                ) as client:
                    await client.publish()
            async with aiohttp.ClientSession() as http:
                base = f"http://127.0.0.1:{edge.ports['http']}/live/cam"
                flv = await http.get(f"{base}.flv?key={keys['stream']}")
                assert flv.status == 200
                for path in (f".flv?key={keys['wrong']}", f".m3u8?token={token[:-3]}AAA", f"/1.ts?key={keys['wrong']}"):
                    async with http.get(base + path, headers={"Authorization": f"Bearer {keys['wrong']}"}) as answer:
                        assert answer.status == 403
                        assert keys["wrong"] not in await answer.text()
                for bearer in (keys["api"], keys["wrong"]):
                    api = f"http://127.0.0.1:{edge.ports['api']}/api/v1/streams?key={keys['wrong']}"
                    async with http.get(api, headers={"Authorization": f"Bearer {bearer}"}) as answer:
                        assert (answer.status == 200) is (bearer == keys["api"])
                said = await everything_said(origin, edge)
                flv.close()
    assert "live/own" in said and "/push/***" in said  # there was something to say
    secrets = [*keys.values(), token, token.rsplit(".", 1)[1], sign, SIGNING, BEARER, JWT_SECRET]
    assert [secret for secret in secrets if secret in said] == []


HOSTILE = "\r\nHTTP/1.1 200 OK\r\nSet-Cookie: x=1\r\n\r\n\x1b[31m\u202e\u2028<script>alert(1)</script>\x00"


@pytest.mark.parametrize("form", ["text", "json"])
async def test_what_strangers_say_of_themselves_stays_in_its_line(tmp_path: Path, form: str) -> None:
    """In names, addresses, players' names and metadata; by RTMP and by HTTP."""
    async with real_node(tmp_path, f"log.format={form}", "log.level=debug", workers=0) as node:
        url = f"rtmp://127.0.0.1:{node.ports['rtmp']}/live/cam"
        more = {"flashVer": HOSTILE, "tcUrl": f"rtmp://h/live{HOSTILE}", "pageUrl": HOSTILE, "swfUrl": HOSTILE}
        async with await Client.connect(url, **more) as client:
            await client.publish()
            listed = await node.get("/api/v1/clients")
            assert [each["agent"] for each in listed["clients"]] == [HOSTILE[:128]]
            for agent in (b"\x1b[31mX", b"\xe9\xff", b"a\rb", b"\xe2\x80\xa8refused"):
                reader, writer = await asyncio.open_connection("127.0.0.1", node.ports["http"])
                writer.write(b"GET /live/cam.flv HTTP/1.1\r\nHost: h\r\nUser-Agent: " + agent + b"\r\n\r\n")
                assert (await reader.readline()).split()[1] in (b"200", b"400")
                writer.transport.abort()
        for name in (f"cam{HOSTILE}", "cam\nrefused", "../../etc/passwd", "a b", "ü"):
            with pytest.raises((RefusedError, ConnectionError)):
                async with await Client.connect(f"rtmp://127.0.0.1:{node.ports['rtmp']}/live/x", **more) as client:
                    client.url = replace(client.url, name=name)  # which no URL can have
                    await client.publish(timeout=5)
        lines = node.log.read_bytes().splitlines()
        assert len(lines) > 5
        for line in lines:
            text = line.decode("ascii" if form == "json" else "utf-8")
            assert text.isprintable(), text
            if form == "json" and text.startswith("{"):
                json.loads(text)
            assert not text.startswith(("HTTP/", "Set-Cookie", "refused"))
