"""The document names what the API serves, and what a real node answers conforms to it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster.api import Api
from cluster.config import load
from cluster.facts import PROTOCOLS
from cluster.node import Node
from cluster.openapi import OPERATIONS, PATH, document, reference
from pyrtmp.aio.client import Client
from tests.cluster.conftest import HERE
from tests.cluster.openapi.checking import faults
from tests.cluster.running import running
from tests.cluster.topologies import cluster
from tests.cluster.workers.real_node import RealNode, eventually

FILE = Path(__file__).parents[3] / "config" / "openapi.json"


class Asker:
    """Asks a node, and finds that each answer is one that the document has."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.asked: set[tuple[str, str, int]] = set()
        """Method, path as in the document, status."""

    async def __call__(self, method: str, path: str, *, query: str = "", status: int = 200, **values: str) -> Any:
        responses = document()["paths"][path][method]["responses"]
        headers = {"Content-Type": "application/json"} if method == "post" else {}
        async with self._http.request(method, path.format(**values) + query, headers=headers) as response:
            text = await response.text()
            assert response.status == status, text
            told = responses[str(status)]
            if "$ref" in told:
                told = document()["components"]["responses"][str(status)]
            [(content_type, content)] = told["content"].items()
            assert response.content_type == content_type
        answer = json.loads(text) if content_type == "application/json" else text
        assert faults(answer, content["schema"], document(), f"{method} {path}") == []
        self.asked.add((method, path, status))
        return answer


_NAMED = ("/api/v1/place", "/api/v1/explain")
"""What is asked about one stream."""


def test_the_file_is_what_the_code_says() -> None:
    assert FILE.read_text() == reference(), "run: make reference"


async def test_it_names_the_paths_that_are_served(node: Node) -> None:
    api = node._api
    assert isinstance(api, Api) and api._runner.app is not None
    served = {
        (route.method.lower(), route.resource.canonical.rstrip("/"))
        for route in api._runner.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    console = {("get", ""), ("get", "/console"), ("get", "/console/{name}")}
    assert console < served
    told = {(each.method, each.path.replace("{app}/{name}", "{key}")) for each in OPERATIONS}
    assert len(told) == len(OPERATIONS)
    assert served - console == told
    for each in OPERATIONS:
        named = [parameter["name"] for parameter in each.parameters if parameter["in"] == "path"]
        assert named == re.findall(r"{(\w+)}", each.path)


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    components = document()["components"]
    named = set(re.findall(r'"\$ref": "#/components/(\w+/\w+)"', reference()))
    there = {f"{kind}/{name}" for kind in ("schemas", "responses") for name in components[kind]}
    assert named == there
    for name, schema in components["schemas"].items():
        assert schema["description"].endswith("."), name


async def test_it_is_served(node: Node) -> None:
    async with aiohttp.ClientSession(f"http://{node.api_address}") as http:
        assert await Asker(http)("get", PATH) == json.loads(FILE.read_text())


async def test_one_process_answers_as_it_says(node: Node, live: str, tmp_path: Path) -> None:
    async with (
        aiohttp.ClientSession(f"http://{node.api_address}") as http, await Client.connect(live) as viewer
    ):  # fmt: skip
        ask = Asker(http)
        await anext(viewer.play())
        for path in document()["paths"]:
            if "{" not in path and "get" in document()["paths"][path] and path not in _NAMED:
                await ask("get", path)
        [stream] = (await ask("get", "/api/v1/streams", query="?start=0&count=1"))["streams"]
        assert stream["video"] and stream["audio"] and stream["viewers"]["total"] == 1
        for path in ("/api/v1/streams", "/api/v1/clients"):
            await ask("get", path, query="?count=x", status=400)
        one = (await ask("get", "/api/v1/streams/{app}/{name}", app="live", name="clip"))["stream"]
        assert one["metadata"]
        for client in (await ask("get", "/api/v1/clients"))["clients"]:
            await ask("get", "/api/v1/clients/{id}", id=client["id"])
        summary = (await ask("get", "/api/v1/summaries"))["data"]
        assert set(summary["clients"]["viewers"]) == set(PROTOCOLS)
        for kind in ("play", "publish"):
            await ask("get", "/api/v1/place", query=f"?stream=live/clip&kind={kind}")
        for name in ("live/clip", "live/none"):
            await ask("get", "/api/v1/explain", query=f"?stream={name}")
        for path in _NAMED:
            await ask("get", path, status=400)
        await ask("post", "/api/v1/reload", status=409)
        await ask("post", "/api/v1/restart", status=409)
        await ask("post", "/api/v1/recordings", query="?stream=live/clip", status=409)
        for query, status in (("?stream=live/clip", 200), ("?stream=live/none", 404), ("", 400)):
            await ask("delete", "/api/v1/recordings", query=query, status=status)
        await ask("delete", "/api/v1/clients/{id}", id=client["id"])
        await ask("delete", "/api/v1/streams/{app}/{name}", app="live", name="clip")
        for method in ("get", "delete"):
            await ask(method, "/api/v1/clients/{id}", id="none", status=404)
            await ask(method, "/api/v1/streams/{app}/{name}", app="live", name="none", status=404)
        await ask("post", "/api/v1/drain")
        await ask("post", "/api/v1/drain", status=409)
        await node.drain()
        await ask("get", "/readyz", status=503)
        await ask("get", "/api/v1/place", query="?stream=live/clip", status=503)
    async with (
        running(load(None, [*HERE, f"record.directory={tmp_path}"], {})) as place,
        aiohttp.ClientSession(f"http://{place.api_address}") as http,
        await Client.connect(f"rtmp://{place.rtmp_address}/live/cam") as publisher,
    ):
        await publisher.publish()
        other = Asker(http)
        for query, status in (("?stream=live/cam", 200), ("?stream=live/none", 404), ("", 400)):
            await other("post", "/api/v1/recordings", query=query, status=status)
        [recording] = (await other("get", "/api/v1/recordings"))["recordings"]
        assert recording["state"] == "starting"
        ask.asked |= other.asked
    assert {(method, path) for method, path, _ in ask.asked} == {(each.method, each.path) for each in OPERATIONS}
    for each in OPERATIONS:
        for status, _ in each.errors:
            # What a web page may not ask is asked in test_api.
            assert status == 415 or (each.method, each.path, status) in ask.asked


async def test_who_may_not_ask(node: Node) -> None:
    api = node._api
    assert api is not None
    api.configure(token="s3cret")
    async with aiohttp.ClientSession(f"http://{node.api_address}") as http:
        ask = Asker(http)
        for each in OPERATIONS:
            if each.path not in ("/healthz", "/readyz"):
                await ask(each.method, each.path, status=401, app="live", name="clip", id="none")
        for _ in range(100):
            async with http.get("/api/v1/nodes", headers={"Authorization": "Bearer wrong"}) as response:
                told = document()["components"]["responses"][str(response.status)]["content"]["application/json"]
                assert faults(await response.json(), told["schema"], document()) == []
            if response.status == 429:
                break
        assert response.status == 429


@pytest.mark.timeout(60)
async def test_a_cluster_answers_as_it_says(tmp_path: Path) -> None:
    """Workers, forwards, pulls, recordings and viewers by every protocol."""
    async with cluster(tmp_path) as nodes:
        await nodes.start("s")
        nodes._workers = 2
        recorded = ("record.streams=*", f"record.directory={tmp_path / 'files'}", "record.format=flv")
        master = await nodes.start("m", f"forward.to={nodes.rtmp('s')}", *recorded)
        nodes._workers = 0
        edge = await nodes.start("e", "node.role=edge", f"edge.origins={nodes.rtmp('s')}")
        await master.publish("live/cam")
        await nodes.has("s", "live/cam")
        await edge.play("live/cam")
        asks = {each: Asker(each.http) for each in (master, edge)}

        async def all_there() -> bool:
            forwards = (await asks[master]("get", "/api/v1/forwards"))["forwards"]
            pulls = (await asks[edge]("get", "/api/v1/pulls"))["pulls"]
            recordings = (await asks[master]("get", "/api/v1/recordings"))["recordings"]
            states = [each["state"] for each in (*forwards, *recordings)]
            return states == ["live", "recording"] and [each["upstream"] for each in pulls] != [None]

        await eventually(all_there)
        assert (await asks[edge]("get", "/api/v1/pulls"))["pulls"]
        for node, ask in asks.items():
            await look_around(node, ask)
        assert len((await asks[master]("get", "/api/v1/workers"))["workers"]) == 2
        assert (await asks[edge]("get", "/api/v1/streams"))["streams"][0]["pulled"]
        await asks[master]("post", "/api/v1/reload")
        await asks[master]("post", "/api/v1/restart")


async def look_around(node: RealNode, ask: Asker) -> None:
    """Ask for everything that there is to read."""
    for path in ("streams", "clients", "summaries", "workers", "forwards", "pulls", "recordings", "nodes"):
        answer = await ask("get", f"/api/v1/{path}")
        assert answer["server"]
    await ask("get", "/api/v1/streams/{app}/{name}", app="live", name="cam")
    await ask("get", "/api/v1/explain", query="?stream=live/cam")
    for client in (await ask("get", "/api/v1/clients"))["clients"]:
        await ask("get", "/api/v1/clients/{id}", id=client["id"])
