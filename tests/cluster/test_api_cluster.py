"""The API's part about other nodes, of one node and of several with a registry."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from cluster.config import load
from cluster.node import Node
from tests.cluster.registry.servers import MISSING
from tests.cluster.topologies import cluster
from tests.cluster.workers.real_node import FPS, eventually

HERE = ["rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "api.listen=127.0.0.1:0", "node.workers=0", "node.id=n"]


async def test_a_node_alone() -> None:
    node = Node(load(None, HERE, {}))
    await node.start()
    try:
        async with aiohttp.ClientSession(f"http://{node.api_address}") as http:
            async with http.get("/api/v1/nodes") as response:
                answer = await response.json()
            assert answer["registry"] is None
            [own] = answer["nodes"]
            assert (own["id"], own["role"], own["draining"]) == ("n", "origin", False)
            assert own["rtmp"] == str(node.rtmp_address)
            for path in ("forwards", "pulls"):
                async with http.get(f"/api/v1/{path}") as response:
                    assert (await response.json())[path] == []
            for kind in ("publish", "play"):
                async with http.get(f"/api/v1/place?stream=live/cam&kind={kind}") as response:
                    answer = await response.json()
                    assert answer["node"] == "n" and answer["rtmp"] == f"rtmp://{node.rtmp_address}/live/cam"
                    assert answer["flv"] == f"http://{node.http_address}/live/cam.flv"
                    assert answer["hls"] == f"http://{node.http_address}/live/cam.m3u8"
            async with http.get("/metrics") as response:
                page = await response.text()
            assert "pyrtmp_node_stress" in page and "pyrtmp_registry_up" not in page
            await node.drain()
            async with http.get("/api/v1/place?stream=live/cam") as response:
                assert response.status == 503 and "Retry-After" in response.headers
                assert "draining or busy" in (await response.json())["error"]
    finally:
        await node.close()


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "the name is empty"), ("stream=cam", "a stream is app/name"), ("stream=live/a%20b", "a character other"),
        ("stream=live/cam&kind=watch", "publish or play"), ("stream=live/" + "a" * 2000, "longer than"),
    ],
)  # fmt: skip
async def test_places_for_what_is_no_stream(node: Node, query: str, reason: str) -> None:
    async with (
        aiohttp.ClientSession(f"http://{node.api_address}") as http, http.get(f"/api/v1/place?{query}") as response
    ):
        assert response.status == 400 and reason in (await response.json())["error"]


@MISSING
@pytest.mark.parametrize("workers", [0, 2])
async def test_streams_are_placed_evenly_and_players_at_edges(tmp_path: Path, workers: int) -> None:
    async with cluster(tmp_path) as nodes:
        nodes.with_registry()
        names = [f"o{number}" for number in range(4)]
        for name in names[1:]:
            await nodes.start(name)
        nodes._workers = workers
        asked = await nodes.start("o0")

        async def place(stream: str, kind: str = "publish") -> dict[str, str]:
            answer: dict[str, str] = await asked.get(f"/api/v1/place?stream={stream}&kind={kind}")
            return answer

        async def known(number: int) -> bool:
            return len((await asked.get("/api/v1/nodes"))["nodes"]) == number

        async def calm() -> bool:
            """What starting took is over; a machine with other work makes them lag."""
            nodes = (await asked.get("/api/v1/nodes"))["nodes"]
            return len(nodes) == 4 and max(node["stress"] for node in nodes) < 0.3

        await eventually(calm, 60)
        found = Counter([(await place(f"live/cam{number}"))["node"] for number in range(60)])
        assert set(found) == set(names) and all(12 <= number <= 18 for number in found.values()), found

        publisher = await nodes.nodes["o2"].publish("live/cam")

        async def owned() -> bool:
            return (await place("live/cam"))["node"] == "o2"

        await eventually(owned)
        answer = await place("live/cam", "play")
        assert answer["node"] == "o2" and answer["rtmp"] == nodes.nodes["o2"].rtmp("live/cam")
        nodes._workers = 0
        edge = await nodes.start("e", "node.role=edge")
        await eventually(lambda: known(5))

        async def preferred() -> bool:
            return (await place("live/cam", "play"))["node"] == "e"

        await eventually(preferred, 30)  # it is an edge; what starting took is over
        assert (await edge.get("/api/v1/place?stream=live/cam&kind=publish"))["node"] == "o2"
        viewer = await edge.play("live/cam")
        await viewer.until(lambda frames: len(frames) > FPS)
        assert (await edge.order("POST", "/api/v1/drain"))[0] == 200

        async def left() -> bool:
            return (await place("live/cam", "play"))["node"] == "o2"

        await eventually(left)
        metrics = await asked.metrics()
        assert metrics["pyrtmp_registry_up"] == 1 and metrics["pyrtmp_node_stress"] < 5
        nodes.redis.kill()

        async def away() -> bool:
            return not (await asked.get("/api/v1/nodes"))["registry"]["up"]

        await eventually(away)
        assert (await asked.metrics())["pyrtmp_registry_up"] == 0
        assert publisher.alive and viewer.watching


@MISSING
@pytest.mark.parametrize("workers", [0, 2])
async def test_what_workers_fetch_and_pass_on(tmp_path: Path, workers: int) -> None:
    async with cluster(tmp_path, workers=workers) as nodes:
        nodes.with_registry()
        origin = await nodes.start("o")
        edge = await nodes.start("e", "node.role=edge", "forward.to=127.0.0.1:9")
        keys = [f"live/cam{number}" for number in range(3)]
        for key in keys:
            await origin.publish(key)
        viewers = [await edge.play(key) for key in keys]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > FPS)
        pulls = (await edge.get("/api/v1/pulls"))["pulls"]
        assert sorted(each["stream"] for each in pulls) == keys
        assert {each["upstream"] for each in pulls} == {nodes.rtmp("o")} and all(each["seconds"] > 0 for each in pulls)
        assert all(each["pulled"] for each in (await edge.get("/api/v1/streams"))["streams"])
        assert not any(each["pulled"] for each in (await origin.get("/api/v1/streams"))["streams"])
        await edge.publish("live/own")  # goes up to the origin, and to a target that is not there

        async def passed_on() -> bool:
            found = {each["state"] for each in (await edge.get("/api/v1/forwards"))["forwards"]}
            metrics = await edge.metrics()
            return "live" in found and metrics["pyrtmp_forward_failures_total"] > 0 and metrics["pyrtmp_pulls"] == 3

        await eventually(passed_on)
        listed = (await edge.get("/api/v1/forwards"))["forwards"]
        failed = [each for each in listed if each["target"].endswith(":9/live/own")]
        assert failed[0]["error"] and failed[0]["state"] in ("waiting", "connecting")
        summary = (await edge.get("/api/v1/summaries"))["data"]["cluster"]
        assert summary["pulls"] == 3 and [each["id"] for each in summary["nodes"]] == ["e", "o"]
