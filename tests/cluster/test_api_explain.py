"""``/api/v1/explain``: one stream, whether anybody publishes it or not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster.config import load
from cluster.node import Node
from pyrtmp import Client, Message
from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Hooks, Request
from pyrtmp.message import VIDEO
from tests.cluster.registry.servers import MISSING
from tests.cluster.running import running
from tests.cluster.topologies import cluster
from tests.cluster.workers.real_node import SEQUENCE_HEADER, eventually, make_frame

HERE = ["rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "api.listen=127.0.0.1:0", "node.workers=0"]


async def explain(node: Node, stream: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(f"http://{node.api_address}") as http,
        http.get("/api/v1/explain", params={"stream": stream}) as response,
    ):
        assert response.status == 200
        return dict((await response.json())["explain"])


async def test_a_stream_that_nobody_knows(node: Node) -> None:
    assert await explain(node, "live/nobody") == {
        "stream": "live/nobody", "facts": None, "publisher": None, "nodes": [], "pulls": [], "forwards": [],
        "recordings": [], "refusals": [], "registry": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "the name is empty"), ("stream=cam", "a stream is app/name"), ("stream=live/..", "only dots"),
        ("stream=live/%1b%5b2J", "a character other"), ("stream=live/" + "a" * 2000, "longer than"),
    ],
)  # fmt: skip
async def test_what_is_no_stream(node: Node, query: str, reason: str) -> None:
    async with (
        aiohttp.ClientSession(f"http://{node.api_address}") as http, http.get(f"/api/v1/explain?{query}") as response
    ):
        assert response.status == 400 and reason in (await response.json())["error"]


async def test_who_publishes_and_who_was_refused(node: Node) -> None:
    url = f"rtmp://{node.rtmp_address}/live/cam"
    async with await Client.connect(url, flashVer="OBS/1") as publisher:
        await publisher.publish()
        await publisher.send(Message(VIDEO, 0, 1, SEQUENCE_HEADER))
        await publisher.send(make_frame(0, 0, 100, key=True))
        await eventually(lambda: node.server.hub.find("live", "cam") and node.server.hub.live()[0].video_frames)

        async def busy_publisher() -> None:
            while True:
                await publisher.send(make_frame(0, 1, 100, key=False))

        sending = asyncio.create_task(busy_publisher())
        for _ in range(2):
            with pytest.raises(RefusedError):
                async with await Client.connect(f"{url}?key=secret-of-somebody") as rival:
                    await rival.publish()
        sending.cancel()
        await asyncio.wait((sending,))
        found = await explain(node, "live/cam")
    assert found["facts"]["state"] == "live" and found["facts"]["doctor"] == []
    assert found["publisher"]["agent"] == "OBS/1" and found["publisher"]["node"] is None
    (refusal,) = found["refusals"]
    assert (refusal["what"], refusal["code"], refusal["times"]) == ("publish", "NetStream.Publish.BadName", 2)
    assert refusal["address"] == "127.0.0.1" and "already being published" in refusal["why"]
    assert 0 <= refusal["seconds"] < 10 and "secret" not in str(found)


async def test_players_of_all_protocols_that_found_nobody() -> None:
    settings = [*HERE, "stream.play_wait_seconds=0.1", "hls.wait_seconds=0.1"]
    async with running(load(None, settings, {})) as node:
        async with aiohttp.ClientSession(f"http://{node.http_address}") as http:
            reasons = {"/live/none.flv": "live/none is not published", "/live/none.m3u8": "no such stream"}
            for count, (path, why) in enumerate(reasons.items(), 1):
                async with http.get(path) as response:
                    assert response.status == 404
                (refusal,) = (await explain(node, "live/none"))["refusals"]
                assert (refusal["what"], refusal["code"], refusal["times"]) == ("play", "404", count)
                assert refusal["why"] == why
            async with http.get("/live/none/17.ts") as response:
                assert response.status == 404
        assert (await explain(node, "live/none"))["refusals"][0]["times"] == 2  # no player begins with a segment
        with pytest.raises(RefusedError):
            async with await Client.connect(f"rtmp://{node.rtmp_address}/live/none") as player:
                await anext(player.play())
        (refusal,) = (await explain(node, "live/none"))["refusals"]
        assert (refusal["code"], refusal["times"]) == ("NetStream.Play.StreamNotFound", 3)


async def test_whom_an_operator_cut_off(node: Node) -> None:
    client = await Client.connect(f"rtmp://{node.rtmp_address}/live/cam")
    await client.publish()
    assert node.engine.end_stream("live", "cam")
    (refusal,) = (await explain(node, "live/cam"))["refusals"]
    assert refusal["what"] == "publish" and refusal["code"] and refusal["why"]
    await client.close()


async def test_an_application_that_nobody_may_connect_to(node: Node) -> None:
    def refuse(request: Request) -> None:
        raise RefusedError("NetConnection.Connect.Rejected", "Not here.")

    node.server.hooks = Hooks(on_connect=refuse)
    with pytest.raises(RefusedError):
        await Client.connect(f"rtmp://{node.rtmp_address}/live/cam")
    (refusal,) = (await explain(node, "live/cam"))["refusals"]
    assert (refusal["what"], refusal["code"]) == ("connect", "NetConnection.Connect.Rejected")


@MISSING
@pytest.mark.parametrize("workers", [0, 2])
async def test_the_whole_cluster(tmp_path: Path, workers: int) -> None:
    """What every node of a chain says of a stream, and of one that nobody publishes."""
    async with cluster(tmp_path, workers=workers) as nodes:
        nodes.with_registry()
        await nodes.start("s1")
        origin = await nodes.start("o1", f"forward.to={nodes.rtmp('s1')}")
        edge = await nodes.start("e1", "node.role=edge", f"edge.origins={nodes.rtmp('o1')}")
        publisher = await origin.publish("live/cam")
        viewer = await edge.play("live/cam")
        await viewer.until(lambda frames: len(frames) > 2)
        await nodes.has("s1", "live/cam")

        async def told(name: str, stream: str = "live/cam") -> dict[str, Any]:
            return dict((await nodes.nodes[name].get(f"/api/v1/explain?stream={stream}"))["explain"])

        async def copied() -> bool:
            return bool((await told("o1"))["registry"]["copies"])

        await eventually(copied)
        at_edge = await told("e1")
        assert at_edge["facts"]["pulled"] and at_edge["facts"]["viewers"]["rtmp"] == 1
        assert at_edge["publisher"] is None
        (pull,) = at_edge["pulls"]
        upstream = await told(pull["node"])
        (node,) = upstream["nodes"]
        assert (node["node"], node["session"]) == ("e1", pull["id"])
        at_origin, at_copy = await told("o1"), await told("s1")
        assert at_origin["publisher"]["agent"] == publisher.agent
        (forward,) = at_origin["forwards"]
        assert forward["state"] == "live"
        assert (at_copy["publisher"]["node"], at_copy["publisher"]["session"]) == (
            "o1", at_origin["publisher"]["id"]
        )
        for each in (at_edge, at_origin, at_copy):
            assert each["registry"]["up"] and each["registry"]["owner"]["node"] == "o1"
            assert [holder["node"] for holder in each["registry"]["copies"]] == ["s1"]
        nothing = await told("e1", "live/none")
        assert (nothing["facts"], nothing["registry"]["owner"], nothing["registry"]["copies"]) == (None, None, [])
