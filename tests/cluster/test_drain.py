"""Nodes that leave a cluster: what viewers elsewhere see of it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest

from cluster.edge.pull import HUNG_SECONDS
from pyrtmp import Client
from pyrtmp.errors import RefusedError
from pyrtmp.session.events import Event, StatusReceived
from tests.cluster.registry.servers import MISSING
from tests.cluster.topologies import Cluster, cluster
from tests.cluster.workers.real_node import FPS, GOP, RealNode, eventually, wait_for_exit


async def upstreams(node: RealNode) -> dict[str, Any]:
    """By stream."""
    return {each["stream"]: each["upstream"] for each in (await node.get("/api/v1/pulls"))["pulls"]}


async def ended(nodes: Cluster, name: str, within: float) -> float:
    """Wait until a node has ended well; how long that took."""
    began = monotonic()
    node = nodes.nodes[name]
    assert await wait_for_exit(node.process, within) == 0
    return monotonic() - began


@pytest.mark.parametrize("workers", [0, 2])
async def test_a_pulled_node_leaves_and_viewers_lose_nothing(tmp_path: Path, workers: int) -> None:
    async with cluster(tmp_path, workers=workers) as nodes:
        slave = await nodes.start("s")
        master = await nodes.start("m", f"forward.to={nodes.rtmp('s')}")
        edge = await nodes.start("e", "node.role=edge", f"edge.origins={nodes.rtmp('s', 'm')}")
        # Each stream comes from the slave or from the master, as its name will have it.
        keys = [f"live/cam{number}" for number in range(6)]
        publishers = [await master.publish(key) for key in keys]
        for key in keys:
            await nodes.has("s", key)
        viewers = [await edge.play(key) for key in keys]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > GOP)
        before = await upstreams(edge)
        assert set(before) == set(keys) and set(before.values()) == set(nodes.rtmp("s", "m").split(","))
        forwards = (await master.get("/api/v1/forwards"))["forwards"]
        assert {(each["stream"], each["target"], each["state"]) for each in forwards} == {
            (key, f"rtmp://{nodes.rtmp('s')}/{key}", "live") for key in keys
        }
        await eventually(lambda: _forwards(master, len(keys)))
        stream = (await edge.get(f"/api/v1/streams/{keys[0]}"))["stream"]
        assert (stream["pulled"], stream["upstream"]) == (True, before[keys[0]])

        status, _ = await slave.order("POST", "/api/v1/drain")
        assert status == 200
        assert await ended(nodes, "s", 20.0) < 8.0, "nobody was left"
        seen = [len(viewer.frames) for viewer in viewers]
        for viewer, number in zip(viewers, seen, strict=True):
            await viewer.until(lambda frames, number=number: len(frames) > number + FPS)
            assert not viewer.faults()
            assert viewer.longest_silence() < HUNG_SECONDS
        assert set((await upstreams(edge)).values()) == {nodes.rtmp("m")}
        assert (await edge.metrics())["pyrtmp_pull_changes_total"] >= 1
        assert all(publisher.alive for publisher in publishers)
        await eventually(lambda: _failures(master))


async def _forwards(node: RealNode, number: int) -> bool:
    return (await node.metrics())['pyrtmp_forwards{state="live"}'] == number


async def _failures(node: RealNode) -> bool:
    return (await node.metrics())["pyrtmp_forward_failures_total"] > 0


@MISSING
@pytest.mark.parametrize("workers", [0, 2])
async def test_publishers_leave_at_the_end_of_a_group_and_viewers_elsewhere_stay(tmp_path: Path, workers: int) -> None:
    async with cluster(tmp_path, workers=workers) as nodes:
        nodes.with_registry("node.drain_seconds=6")
        first = await nodes.start("o1")
        second = await nodes.start("o2")
        edge = await nodes.start("e", "node.role=edge")
        old = await first.publish("live/cam")
        here, there = await first.play("live/cam"), await edge.play("live/cam")
        for viewer in (here, there):
            await viewer.until(lambda frames: len(frames) > GOP)
        began = monotonic()
        first.process.send_signal(signal.SIGTERM)
        await eventually(lambda: _is_draining(second, "o1"))
        async with first.http.get("/readyz") as response:
            assert response.status == 503
        with pytest.raises(OSError):
            await Client.connect(first.rtmp("live/other"), timeout=2.0)
        lost = await old.lost(5.0) - began
        assert 1.8 < lost < 4.0, "a third of the time, not two, and the rest of a group of pictures"
        assert old.sent % GOP <= 2
        await eventually(lambda: not nodes.redis.ask("KEYS", "*lease*live/cam*"), 5.0)  # before it ends by itself
        await second.publish_again("live/cam", session=1)
        await there.until(lambda frames: frames[-1].session == 1 and frames[-1].number > GOP)
        assert not there.faults()
        # Who watches here stays while there is something to see: it is fetched from the other origin.
        await here.until(lambda frames: frames[-1].session == 1 and frames[-1].number > GOP)
        assert not here.faults()
        await ended(nodes, "o1", 15.0)
        assert monotonic() - began > 4.0
        assert there.watching
        await there.until(lambda frames: frames[-1].number > 3 * GOP)
        assert not there.faults()


async def _is_draining(node: RealNode, name: str) -> bool:
    return any(each["draining"] for each in (await node.get("/api/v1/nodes"))["nodes"] if each["id"] == name)


@MISSING
async def test_who_can_reconnect_is_asked_to(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        nodes.with_registry()
        node = await nodes.start("o1")
        said: dict[str, list[Event]] = {}
        clients = {}
        for name, abilities in (("able", 1.0 + 2), ("old", 2.0)):
            client = clients[name] = await Client.connect(node.rtmp(f"live/{name}"), capsEx=abilities)
            await client.publish()
            client._sink = said.setdefault(name, []).extend
        assert (await node.order("POST", "/api/v1/drain"))[0] == 200
        assert (await node.order("POST", "/api/v1/drain"))[0] == 409
        await eventually(lambda: said["able"])
        [asked] = said["able"]
        assert isinstance(asked, StatusReceived)
        assert (asked.msid, asked.level, asked.code) == (0, "status", "NetConnection.Connect.ReconnectRequest")
        assert not said["old"]
        await clients["able"].close()
        await clients["old"].close()
        assert await ended(nodes, "o1", 20.0) < 8.0, "at once when nobody is left"


@MISSING
@pytest.mark.parametrize("workers", [0, 2])
async def test_viewers_are_sent_elsewhere(tmp_path: Path, workers: int) -> None:
    async with cluster(tmp_path, workers=workers) as nodes:
        nodes.with_registry("http.redirect=true")
        origin = await nodes.start("o")
        first, second = [await nodes.start(name, "node.role=edge") for name in ("e1", "e2")]
        await origin.publish("live/cam")
        viewer = await first.play("live/cam")  # holds the drain
        await viewer.until(lambda frames: len(frames) > GOP)
        base = f"http://127.0.0.1:{first.ports['http']}"
        async with aiohttp.ClientSession() as http:
            assert (await first.order("POST", "/api/v1/drain"))[0] == 200
            await eventually(lambda: _is_draining(second, "e1"))
            for path in ("/live/cam.flv?token=a%20b", "/live/cam.m3u8", "/live/cam/index.m3u8?x"):
                async with http.get(base + path, allow_redirects=False) as response:
                    assert response.status == 307
                    assert response.headers["Location"] == f"http://127.0.0.1:{second.ports['http']}{path}"
                    assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert viewer.watching and not viewer.faults()
        await ended(nodes, "e1", 20.0)


async def test_without_a_registry_a_second_signal_is_now_and_so_it_is_with_one(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        node = await nodes.start("e", "node.role=edge", "edge.origins=127.0.0.1:9", "node.drain_seconds=60")
        await node.publish("live/cam")
        node.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert node.process.poll() is None
        node.process.send_signal(signal.SIGTERM)
        await ended(nodes, "e", 20.0)


async def test_nobody_new_on_a_connection_from_before(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        node = await nodes.start("e", "node.role=edge", "edge.origins=127.0.0.1:9", "node.drain_seconds=6")
        await node.publish("live/cam")
        base = f"http://127.0.0.1:{node.ports['http']}"
        async with aiohttp.ClientSession() as http:
            async with http.get(base + "/favicon.ico") as response:
                assert response.status == 204
            node.process.send_signal(signal.SIGTERM)
            await eventually(lambda: node.events("draining"))
            for path in ("/live/cam.flv", "/live/cam.m3u8"):
                async with http.get(base + path) as response:
                    assert response.status == 503 and response.headers["Retry-After"]
        await node.leave()
        await ended(nodes, "e", 20.0)


async def test_a_busy_node_takes_nobody_new(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        node = await nodes.start("o", "limits.max_cpu_share=0.001")
        # It took some time to start: wait until somebody is welcome, and what he does is too much.
        await eventually(lambda: _is_welcome(node), 15.0)
        publisher = await node.publish("live/cam")
        await eventually(lambda: _is_welcome(node, False), 15.0)
        with pytest.raises(RefusedError) as refused:
            await Client.connect(node.rtmp("live/cam"))
        assert (refused.value.code, str(refused.value)) == ("NetConnection.Connect.Rejected", "the server is busy")
        async with aiohttp.ClientSession() as http:
            for suffix in ("flv", "m3u8"):
                async with http.get(f"http://127.0.0.1:{node.ports['http']}/live/cam.{suffix}") as response:
                    assert response.status == 503 and "busy" in await response.text()
                    assert response.headers["Retry-After"]
        # Another node is one connection for all its viewers.
        other = await Client.connect(node.rtmp("live/cam"), pyrtmp={"node": "edge", "hops": ""})
        await other.close()
        assert publisher.alive


async def _is_welcome(node: RealNode, welcome: bool = True) -> bool:
    try:
        await (await Client.connect(node.rtmp("live/probe"))).close()
    except RefusedError:
        return not welcome
    return welcome
