"""A chain of real nodes says how late a stream is at its end, and whose viewers it serves where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.topologies import Cluster, cluster
from tests.cluster.workers.real_node import GOP, RealNode, Viewer, eventually


async def chain(nodes: Cluster) -> tuple[RealNode, RealNode, RealNode]:
    """Origin, an edge that pulls from it, and one that pulls from that edge."""
    origin = await nodes.start("o1")
    near = await nodes.start("e1", "node.role=edge", f"edge.origins={nodes.rtmp('o1')}", "edge.linger_seconds=0.2")
    far = await nodes.start("e2", "node.role=edge", f"edge.origins={nodes.rtmp('e1')}", "edge.linger_seconds=0.2")
    return origin, near, far


async def pull(node: RealNode) -> dict[str, Any]:
    (found,) = (await node.get("/api/v1/pulls"))["pulls"]
    return dict(found)


async def watch_everywhere(node: RealNode, workers: int) -> list[Viewer]:
    viewers = [await node.play("live/cam", worker) for worker in (range(workers) if workers else (None,))]
    for viewer in viewers:
        await viewer.until(lambda frames: len(frames) > GOP)
    return viewers


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.timeout(90)
async def test_delays_and_ids_along_a_chain(tmp_path: Path, workers: int) -> None:
    async with cluster(tmp_path, workers=workers) as nodes:
        origin, near, far = await chain(nodes)
        publisher = await origin.publish("live/cam")
        viewers = await watch_everywhere(far, workers)

        async def known() -> bool:
            return None not in [(await pull(node))["delay"] for node in (near, far)]

        await eventually(known, 20.0)
        for node, upstream, hops in ((near, "o1", "1"), (far, "e1", "2")):
            found = await pull(node)
            assert 0 <= found["delay"] < 0.5 and found["node"] == upstream and found["error"] == ""
            count = f'pyrtmp_pull_delay_seconds_count{{hops="{hops}"}}'

            async def counted(node: RealNode = node, count: str = count) -> bool:
                return (await node.metrics())[count] >= 1

            await eventually(counted)

        # Who is served by whom, now and in the log.
        publishing = (await origin.clients())[publisher.agent]["id"]
        near_pull, far_pull = (await pull(near))["id"], (await pull(far))["id"]
        for node, puller, id in ((origin, "e1", near_pull), (near, "e2", far_pull)):
            (player,) = [each for each in (await node.get("/api/v1/clients"))["clients"] if each["role"] == "play"]
            assert (player["node"], player["session"]) == (puller, id)
        ids = {(await far.clients())[viewer.agent]["id"] for viewer in viewers}
        for viewer in viewers:
            await viewer.stop()
        await eventually(lambda: origin.events("stop"), 20.0)
        stops = {event["conn"]: event for event in far.events("stop")}
        assert {stops[id]["source"] for id in ids} == {far_pull}
        (ended,) = far.events("pull_ended")
        assert (ended["pull"], ended["upstream"]) == (far_pull, nodes.rtmp("e1"))
        (served,) = near.events("stop")
        assert (served["node"], served["session"], served["source"]) == ("e2", far_pull, near_pull)
        (served,) = origin.events("stop")
        assert (served["node"], served["session"], served["source"]) == ("e1", near_pull, publishing)


async def test_ids_of_a_pull_by_http(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        origin = await nodes.start("o1")
        where = f"http://127.0.0.1:{origin.ports['http']}"
        edge = await nodes.start("e1", "node.role=edge", f"edge.origins={where}", "edge.linger_seconds=0.2")
        publisher = await origin.publish("live/cam")
        viewers = await watch_everywhere(edge, 0)
        found = await pull(edge)
        assert (found["node"], found["delay"]) == ("o1", None)  # a question has no way back
        (player,) = await nodes.players("o1")
        assert (player["type"], player["node"], player["session"]) == ("flv-play", "e1", found["id"])
        publishing = (await origin.clients())[publisher.agent]["id"]
        await viewers[0].stop()
        await eventually(lambda: origin.events("stop"))
        (served,) = origin.events("stop")
        assert (served["node"], served["session"], served["source"]) == ("e1", found["id"], publishing)


async def test_ids_along_a_forward_and_up_from_an_edge(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        slave = await nodes.start("s1")
        master = await nodes.start("m1", f"forward.to={nodes.rtmp('s1')}")
        edge = await nodes.start("e1", "node.role=edge", f"edge.origins={nodes.rtmp('m1')}")
        publisher = await edge.publish("live/cam")
        await nodes.has("s1", "live/cam")
        at_edge = (await edge.clients())[publisher.agent]["id"]
        (at_master,) = (await master.get("/api/v1/clients"))["clients"]
        assert (at_master["node"], at_master["session"]) == ("e1", at_edge)
        (at_slave,) = (await slave.get("/api/v1/clients"))["clients"]
        assert (at_slave["node"], at_slave["session"]) == ("m1", at_master["id"])
        await publisher.stop()
        await eventually(lambda: slave.events("unpublish"))
        (event,) = slave.events("unpublish")
        assert (event["node"], event["session"]) == ("m1", at_master["id"])
        (event,) = master.events("unpublish")
        assert (event["node"], event["session"]) == ("e1", at_edge)
        (event,) = edge.events("unpublish")
        assert "node" not in event and "session" not in event
