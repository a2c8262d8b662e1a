from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.access.gate import Gate
from cluster.access.keys import hash_key, new_key
from cluster.api import Api
from cluster.config import AccessSettings, load
from cluster.facts import ClientFacts, StreamFacts
from cluster.node import Node
from cluster.reloading import Reloaded
from cluster.reports import Gauges, Numbers
from pyrtmp.aio.client import Client
from pyrtmp.counters import Counters


async def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def http(node: Node) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{node.api_address}") as session:
        yield session


async def get(http: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with http.get(path) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/json"
        answer = await response.json()
        assert answer["code"] == 0 and answer["server"] and answer["pid"]
        return dict(answer)


async def test_a_live_stream(node: Node, live: str, http: aiohttp.ClientSession) -> None:
    stream = node.server.hub.find("live", "clip")
    assert stream is not None
    async with await Client.connect(live) as viewer:
        messages = viewer.play()
        await anext(messages)
        await until(lambda: stream.video_frames >= 60)
        node.facts.sample()
        [facts] = (await get(http, "/api/v1/streams"))["streams"]
        assert (facts["id"], facts["app"], facts["name"]) == ("live/clip", "live", "clip")
        assert facts["video"] == {
            "codec": "H264", "profile": "Constrained Baseline", "level": "3", "width": 640, "height": 360,
        }  # fmt: skip
        assert facts["audio"] == {"codec": "AAC", "profile": "LC", "sample_rate": 48000, "channel": 2}
        assert facts["publish"]["active"] and facts["publish"]["cid"] in node.server.clients
        assert facts["fps"] == pytest.approx(25, rel=0.2)
        assert facts["gop_ms"] == 1000 and facts["uptime"] > 2
        assert facts["kbps"]["recv_30s"] > 100 and facts["recv_bytes"] > 10_000
        assert facts["viewers"] == {"total": 1, "rtmp": 1} and facts["clients"] == 2
        one = (await get(http, "/api/v1/streams/live/clip"))["stream"]
        assert one["id"] == "live/clip" and one["metadata"]["width"] == 640

        clients = (await get(http, "/api/v1/clients"))["clients"]
        assert sorted((each["type"], each["stream"], each["publish"]) for each in clients) == [
            ("publish", "live/clip", True), ("rtmp-play", "live/clip", False),
        ]  # fmt: skip
        player = next(each for each in clients if each["role"] == "play")
        assert player["ip"] == "127.0.0.1" and player["send_bytes"] > 1000
        assert (await get(http, f"/api/v1/clients/{player['id']}"))["client"]["id"] == player["id"]

        summary = (await get(http, "/api/v1/summaries"))["data"]
        assert summary["ready"] and summary["streams"]["live"] == 1
        assert summary["clients"] == {"total": 2, "publishers": 1, "viewers": {"rtmp": 1, "flv": 0, "hls": 0}}
        assert summary["self"]["mem_kbyte"] > 1000 and summary["self"]["https_port"] == 0
        await messages.aclose()  # type: ignore[attr-defined]


async def test_kick_a_client(node: Node, live: str, http: aiohttp.ClientSession) -> None:
    async with await Client.connect(live) as viewer:
        messages = viewer.play()
        await anext(messages)
        id = next(each.id for each in node.server.clients.values() if each.role == "play")
        async with http.delete(f"/api/v1/clients/{id}") as response:
            assert (response.status, (await response.json())["code"]) == (200, 0)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                async for _ in messages:
                    pass
        async with http.delete(f"/api/v1/clients/{id}") as response:
            assert response.status == 404
            assert "no such client" in (await response.json())["error"]
    assert len(node.server.hub.live()) == 1


async def test_end_a_stream(node: Node, live: str, http: aiohttp.ClientSession) -> None:
    async with http.delete("/api/v1/streams/live/clip") as response:
        assert (response.status, (await response.json())["code"]) == (200, 0)
    assert node.server.hub.live() == []
    await until(lambda: not node.server.clients)  # the publisher was let go


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/", 404, "nothing at this path"),
        ("GET", "/api/v1/nothing", 404, "nothing at this path"),
        ("GET", "/api/v1/streams/live/none", 404, "no such stream"),
        ("GET", "/api/v1/streams/none", 404, "no such stream"),
        ("DELETE", "/api/v1/streams/a/b/c", 404, "no such stream"),
        ("GET", "/api/v1/clients/none", 404, "no such client"),
        ("GET", "/api/v1/clients/%2e%2e%2f%00%ff", 404, "no such client"),
        ("POST", "/api/v1/streams", 405, "does not take this method"),
        ("DELETE", "/api/v1/clients", 405, "does not take this method"),
        ("OPTIONS", "/api/v1/clients/x", 405, "does not take this method"),
        ("GET", "/api/v1/streams?count=-1", 400, "count should be a number from 0 to 10000"),
        ("GET", "/api/v1/streams?count=10001", 400, "count should be a number"),
        ("GET", "/api/v1/clients?start=%D9%A1", 400, "start should be a number"),
        ("GET", "/api/v1/clients?start=" + "9" * 5000, 400, "start should be a number"),
    ],
)
async def test_errors_are_json(http: aiohttp.ClientSession, method: str, path: str, status: int, reason: str) -> None:
    from yarl import URL

    async with http.request(method, URL(path, encoded=True)) as response:
        assert response.status == status
        assert response.content_type == "application/json"
        answer = await response.json()
        assert answer["code"] == status and reason in answer["error"]
        assert ("Allow" in response.headers) == (status == 405)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_version(http: aiohttp.ClientSession) -> None:
    for path in ("/api/v1/version", "/api/v1/versions"):
        data = (await get(http, path))["data"]
        assert data["version"] == f"{data['major']}.{data['minor']}.{data['revision']}"


async def test_health_and_readiness(node: Node, http: aiohttp.ClientSession) -> None:
    async def ask(path: str) -> tuple[int, str]:
        async with http.get(path, headers={"Host": "balancer.example.org"}) as response:
            return response.status, (await response.text()).strip()

    assert await ask("/healthz") == (200, "ok")
    assert await ask("/readyz") == (200, "ready")
    await node.drain()
    assert await ask("/healthz") == (200, "ok")
    assert await ask("/readyz") == (503, "draining")


async def test_metrics_page(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = {each.name: each for each in text_string_to_metric_families(await response.text())}
    assert families["pyrtmp_ready"].samples[0].value == 1


async def test_a_name_that_somebody_gave_this_machine_is_not_enough(http: aiohttp.ClientSession) -> None:
    async with http.get("/api/v1/clients", headers={"Host": "rebound.example.org:1985"}) as response:
        assert response.status == 403
        assert "not by name" in (await response.json())["error"]


async def test_token() -> None:
    settings = ["rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "api.listen=127.0.0.1:0", "api.token=s3cret"]
    node = Node(load(None, [*settings, "node.workers=0"], {}))
    await node.start()
    try:
        async with aiohttp.ClientSession(f"http://{node.api_address}") as http:

            async def ask(path: str, **headers: str) -> int:
                async with http.get(path, headers=headers) as response:
                    return response.status

            for wrong in ("", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret", "é"):
                async with http.get("/metrics", headers={"Authorization": wrong}) as response:
                    assert response.status == 401
                    assert response.headers["WWW-Authenticate"].startswith("Bearer")
                    assert "Authorization: Bearer" in (await response.json())["error"]
            assert await ask("/metrics") == 401
            assert await ask("/api/v1/streams") == 401
            assert await ask("/nothing") == 401
            assert await ask("/healthz") == 200
            assert await ask("/readyz") == 200
            assert await ask("/metrics", Authorization="Bearer s3cret", Host="media.example.org") == 200
            assert await ask("/api/v1/streams", Authorization="bearer s3cret") == 200
    finally:
        await node.close()


async def test_a_connection_too_many_is_closed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.api._MAX_CONNECTIONS", 2)
    address = (node.api_address.host, node.api_address.port)
    pairs = [await asyncio.open_connection(*address) for _ in range(2)]
    for reader, writer in pairs:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    reader, writer = await asyncio.open_connection(*address)
    assert await reader.read() == b""
    writer.close()
    for _, each in pairs:
        each.close()
        await each.wait_closed()


async def test_what_is_not_http_is_answered_and_closed(node: Node) -> None:
    for bytes in (b"\x03" + b"\x00" * 1536, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5000 + b"\r\n"):
        reader, writer = await asyncio.open_connection(node.api_address.host, node.api_address.port)
        writer.write(bytes)
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(b"HTTP/1.0 400")
        writer.close()


# A node with workers


class Fleet:
    """Two workers, and what is left of a third."""

    def __init__(self) -> None:
        self.reloaded = Reloaded()
        self.orders: list[str] = []
        self.restarting = False
        self.parts = [
            Numbers(worker=1, pid=101, cpu_seconds=20, ipc_bytes_in=1, ipc_bytes_out=2, restarts=3),
            Numbers(
                worker=0, pid=100, cpu_seconds=10,
                now=Gauges(
                    resident_bytes=7 << 20, cpu_share=0.5, held=1, clients={"rtmp": {"publish": 1, "play": 2}},
                    viewers={"rtmp": 2}, watchers=frozenset({1, 2}), kbps_out=400.4, kbps_in=100.0,
                ),
            ),
            Numbers(worker=-1, cpu_seconds=1000),
        ]  # fmt: skip

    def ready(self) -> bool:
        return True

    async def numbers(self) -> list[Numbers]:
        return self.parts

    async def streams(self, start: int = 0, count: int | None = None) -> list[StreamFacts]:
        return []

    async def stream(self, app: str, name: str) -> StreamFacts | None:
        return None

    async def clients(self, start: int = 0, count: int | None = None) -> list[ClientFacts]:
        return []

    async def client(self, id: str) -> ClientFacts | None:
        return None

    async def kick_client(self, id: str) -> bool:
        return False

    async def end_stream(self, app: str, name: str) -> bool:
        return False

    async def reload(self) -> Reloaded:
        self.orders.append("reload")
        return self.reloaded

    async def restart_workers(self) -> bool:
        self.orders.append("restart")
        started, self.restarting = not self.restarting, True
        return started


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
async def workers(fleet: Fleet) -> AsyncIterator[aiohttp.ClientSession]:
    """The API of ``fleet``."""
    api = Api(fleet, node="n1", version="1.2.3")
    await api.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{api.addresses[0][1]}") as session:
        yield session
    await api.close()


async def test_workers(workers: aiohttp.ClientSession) -> None:
    first, second = (await get(workers, "/api/v1/workers"))["workers"]
    assert first == {
        "worker": 0, "pid": 100, "cpu_seconds": 10, "cpu_share": 0.5, "mem_kbyte": 7168, "connections": 3,
        "publishers": 1, "viewers": 4, "streams_held": 1, "kbps_out": 400, "ipc_bytes": 0, "restarts": 0,
    }  # fmt: skip
    assert (second["worker"], second["ipc_bytes"], second["restarts"]) == (1, 3, 3)
    data = (await get(workers, "/api/v1/summaries"))["data"]
    assert data["workers"] == [first, second]
    assert data["self"]["cpu_seconds"] > 1030 and data["self"]["mem_kbyte"] > 7168
    assert data["clients"] == {"total": 3, "publishers": 1, "viewers": {"rtmp": 2, "flv": 0, "hls": 2}}
    assert data["streams"] == {"total": 1, "live": 1, "waiting_viewers": 0}
    assert data["kbps"] == {"recv_30s": 100, "send_30s": 400}


async def test_one_process_has_no_workers(http: aiohttp.ClientSession, live: str) -> None:
    assert (await get(http, "/api/v1/workers"))["workers"] == []
    assert (await get(http, "/api/v1/summaries"))["data"]["workers"] == []
    assert (await get(http, "/api/v1/streams"))["streams"][0]["worker"] is None
    assert (await get(http, "/api/v1/clients"))["clients"][0]["worker"] is None


async def order(http: aiohttp.ClientSession, what: str, **headers: str) -> tuple[int, dict[str, Any]]:
    async with http.post(f"/api/v1/{what}", json={}, headers=headers) as response:
        return response.status, await response.json()


async def test_reload(fleet: Fleet, workers: aiohttp.ClientSession) -> None:
    fleet.reloaded = Reloaded(changed=("log.level",), needs_restart=("node.id",))
    status, answer = await order(workers, "reload")
    assert (status, answer["code"]) == (200, 0)
    assert (answer["changed"], answer["needs_restart"]) == (["log.level"], ["node.id"])
    fleet.reloaded = Reloaded(problems=("node.toml:3: hls.window: wrong", "node.toml:4: no such key"))
    status, answer = await order(workers, "reload")
    assert (status, answer["code"]) == (409, 409)
    assert answer["problems"] == ["node.toml:3: hls.window: wrong", "node.toml:4: no such key"]
    assert "stay as they are" in answer["error"]


async def test_restart(fleet: Fleet, workers: aiohttp.ClientSession) -> None:
    assert (await order(workers, "restart"))[0] == 200
    status, answer = await order(workers, "restart")
    assert status == 409 and "already" in answer["error"]
    fleet.parts = []
    status, answer = await order(workers, "restart")
    assert status == 409 and answer["error"] == "this node has no workers to restart"


@pytest.mark.parametrize("what", ["reload", "restart"])
async def test_no_web_page_gives_orders(fleet: Fleet, workers: aiohttp.ClientSession, what: str) -> None:
    """What a browser sends without asking first: forms, and text."""
    for type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        async with workers.post(f"/api/v1/{what}", data=b"{}", headers={"Content-Type": type}) as response:
            assert response.status == 415
            assert "application/json" in (await response.json())["error"]
    async with workers.post(f"/api/v1/{what}", skip_auto_headers=["Content-Type"]) as response:
        assert response.status == 415
    async with workers.get(f"/api/v1/{what}") as response:
        assert response.status == 405
    asked = {"Origin": "https://evil.org", "Access-Control-Request-Method": "POST"}
    async with workers.options(f"/api/v1/{what}", headers=asked) as response:
        assert response.status == 405 and "Access-Control-Allow-Origin" not in response.headers
    assert (await order(workers, what, Host="rebound.example.org"))[0] == 403
    assert fleet.orders == []


async def test_rules_of_access(fleet: Fleet) -> None:
    keys = {action: new_key() for action in ("api-read", "api-write")}
    access = AccessSettings(
        rules=("api-read * key", "api-write * deny:127.0.0.2 key"),
        keys=tuple(f"{action} * {hash_key(key)}" for action, key in keys.items()),
        failures_per_minute=4,
    )
    counters = Counters()
    api = Api(fleet, node="n1", version="1.2.3", token="s3cret", gate=Gate(access), counters=counters)
    await api.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.addresses[0][1]}") as http:

            async def ask(method: str, bearer: str, host: str = "node.example") -> int:
                headers = {"Host": host, **({"Authorization": f"Bearer {bearer}"} if bearer else {})}
                path = "/api/v1/streams" if method == "GET" else "/api/v1/clients/none"
                async with http.request(method, path, headers=headers) as response:
                    assert bearer == "" or bearer not in await response.text()
                    return response.status

            assert await ask("GET", "s3cret") == await ask("GET", keys["api-read"]) == 200
            assert await ask("DELETE", "s3cret") == await ask("DELETE", keys["api-write"]) == 404
            assert await ask("DELETE", keys["api-read"]) == await ask("GET", keys["api-write"]) == 403
            assert await ask("GET", "") == await ask("DELETE", "") == 401
            assert [await ask("GET", "guess") for _ in range(6)] == [403] * 4 + [429] * 2
            assert await ask("GET", keys["api-read"]) == 429
            assert await ask("GET", "") == 401
            async with http.get("/healthz") as response:
                assert response.status == 200
        assert counters.refused == {"key_of_another": 2, "no_credential": 3, "wrong_key": 4, "throttled": 3}
    finally:
        await api.close()


async def test_who_shows_nothing_asks_by_address(fleet: Fleet) -> None:
    """Else a web page could, with a name of its own for this machine, out of a browser that a rule lets in."""
    gate = Gate(AccessSettings(rules=("api-read,api-write * allow:127.0.0.1",)))
    api = Api(fleet, node="n1", version="1.2.3", token="s3cret", gate=gate)
    await api.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.addresses[0][1]}") as http:
            for host, status in (("127.0.0.1:1985", 200), ("evil.example", 403)):
                async with http.get("/api/v1/streams", headers={"Host": host}) as response:
                    assert response.status == status
    finally:
        await api.close()


async def test_what_opens_nothing_is_no_token(fleet: Fleet) -> None:
    """A page with a name of its own for this machine may show anything, too: the rule looks at the address."""
    gate = Gate(AccessSettings(rules=("api-read,api-write * allow:127.0.0.1",)))
    api = Api(fleet, node="n1", version="1.2.3", gate=gate)
    await api.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.addresses[0][1]}") as http:
            for host, status in (("127.0.0.1:1985", 200), ("evil.example", 403)):
                headers = {"Host": host, "Authorization": "Bearer anything"}
                async with http.get("/api/v1/streams", headers=headers) as response:
                    assert response.status == status
                assert (await order(http, "reload", **headers))[0] == status
        assert len(fleet.orders) == 1
    finally:
        await api.close()


@pytest.mark.parametrize("checks", ["allow:192.0.2.1", "deny:127.0.0.0/8", "deny"])
async def test_guesses_at_the_token_are_slowed_where_a_rule_looks_at_addresses(fleet: Fleet, checks: str) -> None:
    gate = Gate(AccessSettings(rules=(f"api-read * {checks}",), failures_per_minute=3))
    api = Api(fleet, node="n1", version="1.2.3", token="s3cret", gate=gate)
    await api.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.addresses[0][1]}") as http:

            async def ask(token: str) -> int:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                async with http.get("/metrics", headers=headers) as response:
                    return response.status

            assert [await ask("") for _ in range(5)] == [401] * 5
            assert [await ask(str(number)) for number in range(5)] == [403] * 3 + [429] * 2
    finally:
        await api.close()


async def test_guesses_at_the_token_are_slowed(fleet: Fleet) -> None:
    gate = Gate(AccessSettings(failures_per_minute=3))
    api = Api(fleet, node="n1", version="1.2.3", token="s3cret", gate=gate)
    await api.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.addresses[0][1]}") as http:

            async def ask(token: str) -> int:
                async with http.get("/metrics", headers={"Authorization": f"Bearer {token}"}) as response:
                    return response.status

            assert [await ask(str(number)) for number in range(5)] == [401] * 3 + [429] * 2
            assert await ask("s3cret") == 429
    finally:
        await api.close()


async def test_another_token(fleet: Fleet) -> None:
    api = Api(fleet, node="n1", version="1.2.3", token="old")
    await api.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.addresses[0][1]}") as http:
            assert (await order(http, "reload", Authorization="Bearer old"))[0] == 200
            api.configure(token="new")
            assert (await order(http, "reload", Authorization="Bearer old"))[0] == 401
            assert (await order(http, "reload", Authorization="Bearer new"))[0] == 200
    finally:
        await api.close()


@pytest.mark.parametrize("path", ["/api/v1/streams", "/metrics", "/console/", "/console/console.js", "/"])
async def test_names_that_it_answers_to(fleet: Fleet, path: str) -> None:
    counters = Counters()
    api = Api(
        fleet, node="n1", version="1.2.3", hosts=("node.example.org", "*.cluster.example.org"), counters=counters
    )
    await api.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.addresses[0][1]}") as http:

            async def ask(host: str) -> int:
                headers = {"Host": host, "Accept": "text/html"}
                async with http.get(path, headers=headers, allow_redirects=False) as response:
                    return response.status

            for host in ("node.example.org:1985", "Node.Example.ORG.", "a.cluster.example.org", "localhost"):
                assert await ask(host) in (200, 302), host
            for host in ("evil.org", "cluster.example.org", "node.example.org.evil.org", "10.0.0.1", "a/b", ""):
                assert await ask(host) == 421, host
            assert counters.refused["host"] == 6
            async with http.get("/healthz", headers={"Host": "balancer"}) as response:
                assert response.status == 200
            api.configure(token="", hosts=("10.0.0.1",))
            assert await ask("10.0.0.1:1985") in (200, 302) and await ask("node.example.org") == 421
    finally:
        await api.close()


async def test_a_rebound_name_gets_nothing_of_a_local_node(node: Node, http: aiohttp.ClientSession) -> None:
    for path in ("/", "/console/", "/console/console.js", "/api/v1/summaries", "/metrics"):
        async with http.get(path, headers={"Host": "rebound.example.org", "Accept": "text/html"}) as response:
            assert response.status == 403 and "as localhost" in (await response.json())["error"]
    assert node.server.counters.refused["host"] == 5


async def test_requests_per_minute(fleet: Fleet) -> None:
    counters = Counters()
    api = Api(fleet, node="n1", version="1.2.3", requests_per_minute=3, counters=counters)
    await api.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.addresses[0][1]}") as http:

            async def ask(path: str = "/api/v1/streams") -> int:
                async with http.get(path) as response:
                    assert response.status != 429 or response.headers["Retry-After"] == "1"
                    return response.status

            assert [await ask() for _ in range(5)] == [200] * 3 + [429] * 2
            assert await ask("/console/") == 429 and await ask("/healthz") == 200
            assert counters.refused == {"api_rate": 3}
            api.configure(token="", requests_per_minute=0)
            assert await ask() == 200
    finally:
        await api.close()
