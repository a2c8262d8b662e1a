"""Clusters of real nodes that lose their members while people watch.

``FAULT_ROUNDS`` sets how often a node is lost (default 2), ``OUTAGE_SECONDS`` how long the registry is away (5).
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from cluster.edge.pull import HUNG_SECONDS
from cluster.registry import Registry, RegistryError, connect
from pyrtmp.names import StreamKey
from tests.cluster.registry.members import offer
from tests.cluster.registry.servers import MISSING, Group, master_and_replica
from tests.cluster.registry.servers import cluster as redis_cluster
from tests.cluster.topologies import cluster
from tests.cluster.workers.real_node import FPS, GOP, eventually, exists

ROUNDS: Final = int(os.environ.get("FAULT_ROUNDS", "2"))

OUTAGE_SECONDS: Final = float(os.environ.get("OUTAGE_SECONDS", "5"))

WHOLE_SECONDS: Final = 5.0
"""Longest time until a registry that is back knows all streams."""

GAP_SECONDS: Final = {signal.SIGKILL: HUNG_SECONDS, signal.SIGSTOP: 2.5 * HUNG_SECONDS}
"""Longest silence of a viewer when the node is lost that its stream is fetched from, and another has a copy: a
connection that ends says so at once, one that hangs is waited for."""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_a_slave_is_lost_and_viewers_go_on_with_the_other(
    tmp_path: Path, how: signal.Signals, workers: int
) -> None:
    async with cluster(tmp_path, workers=workers) as nodes:
        await nodes.start("s1")
        await nodes.start("s2")
        master = await nodes.start("m", f"forward.to={nodes.rtmp('s1', 's2')}")
        edge = await nodes.start("e", "node.role=edge", f"edge.origins={nodes.rtmp('s1', 's2')}")
        publisher = await master.publish("live/cam")
        for slave in ("s1", "s2"):
            await nodes.has(slave, "live/cam")
        viewer = await edge.play("live/cam")
        await viewer.until(lambda frames: len(frames) > GOP)
        print(f"cold: {viewer.frames[0].arrived - viewer.asked:.3f} s")
        worst = 0.0
        for number in range(ROUNDS):
            lost = nodes.upstream("e")
            at = monotonic()
            nodes.signal(lost, how)
            other = {"s1": "s2", "s2": "s1"}[lost]
            await eventually(lambda other=other: nodes.upstream("e") == other)
            await viewer.until(lambda frames: len(frames) > 2 and frames[-3].arrived > monotonic() - 0.5)
            gap = viewer.longest_silence(at - 0.2)
            worst = max(worst, gap)
            print(f"{how.name} {number} {lost}: {gap:.3f} s")
            await nodes.restart(lost)
            await nodes.has(lost, "live/cam")
        assert worst < GAP_SECONDS[how]
        if how is signal.SIGKILL:
            assert not viewer.faults()
            sent = publisher.sent
            await viewer.until(lambda frames: frames[-1].number >= sent - 1)
            assert not viewer.missing(sent)
        else:
            # What the hung one kept is lost, up to the other's key frame; nothing comes twice or late.
            assert all(" follows " in fault and "time" not in fault for fault in viewer.faults())
            numbers = [frame.number for frame in viewer.frames]
            assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("workers", [0, 2])
async def test_a_pull_ends_soon_after_the_last_viewer(tmp_path: Path, workers: int) -> None:
    async with cluster(tmp_path, workers=workers) as nodes:
        origin = await nodes.start("o")
        edge = await nodes.start(
            "e", "node.role=edge", f"edge.origins={nodes.rtmp('o')}", "edge.linger_seconds=1.5", "hls.fragment=1",
            "hls.window=3", "hls.linger=3", "hls.wait_seconds=0.5",
        )
        await origin.publish("live/cam")
        site = f"http://127.0.0.1:{edge.ports['http']}/live/cam"

        async def pulls() -> int:
            return len(await nodes.players("o"))

        # A second more than lingering takes, and twice that for a machine with other work.
        for protocol, longest in (("rtmp", 5.0), ("flv", 5.0), ("hls", 11.0)):
            if protocol == "rtmp":
                watching = [await edge.play("live/cam") for _ in range(4)]  # on both workers
                for viewer in watching:
                    await viewer.until(lambda frames: len(frames) > FPS)
                assert await pulls() == 1
                for viewer in watching:
                    await viewer.stop()
            elif protocol == "flv":
                responses = [await edge.http.get(f"{site}.flv") for _ in range(4)]
                for response in responses:
                    await response.content.readexactly(1000)
                assert await pulls() == 1
                for response in responses:
                    response.close()
            else:
                async with edge.http.get(f"{site}.m3u8") as playlist:
                    assert playlist.status == 503  # numbers are no pictures: there is nothing to package
                assert await pulls() == 1
            left = monotonic()

            async def ended() -> bool:
                return not await pulls()

            await eventually(ended, longest)
            print(f"{protocol}, {workers} workers: the pull ended after {monotonic() - left:.2f} s")


@MISSING
async def test_an_owner_that_slept_past_its_lease_shows_nobody_another_frame(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        nodes.with_registry("registry.lease_seconds=2")
        first, second = await nodes.start("o1"), await nodes.start("o2")
        edge = await nodes.start("e1", "node.role=edge")
        old = await first.publish("live/cam")
        viewers = {name: await nodes.nodes[name].play("live/cam") for name in ("e1", "o1", "o2")}
        for viewer in viewers.values():
            await viewer.until(lambda frames: len(frames) > GOP)
        nodes.signal("o1", signal.SIGSTOP)
        new = await second.publish_again("live/cam", session=1)
        await viewers["e1"].until(lambda frames: frames[-1].session == 1)
        await asyncio.sleep(2.5)  # longer than the lease
        woken = monotonic()
        nodes.signal("o1", signal.SIGCONT)
        await old.lost()
        for name, viewer in viewers.items():
            await viewer.until(lambda frames: frames[-1].session == 1 and frames[-1].number > new.sent - FPS)
            assert not viewer.faults(), name
            stale = [frame for frame in viewer.frames if frame.session == 0 and frame.arrived > woken]
            assert not stale, name
        assert edge.process.poll() is None


@MISSING
async def test_a_publisher_comes_back_at_another_origin_and_everybody_stays(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        nodes.with_registry()
        first, second = await nodes.start("o1"), await nodes.start("o2")
        edges = [await nodes.start(f"e{number}", "node.role=edge") for number in range(2)]
        await first.publish("live/cam")
        viewers = [await node.play("live/cam") for node in (*edges, second)]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > GOP)
        await nodes.kill("o1")
        back = monotonic()
        await second.publish_again("live/cam", session=1)
        for viewer in viewers:
            await viewer.until(lambda frames: frames[-1].session == 1 and frames[-1].number > GOP)
            assert not viewer.faults()
        picture = [next(frame.arrived for frame in viewer.frames if frame.session == 1) - back for viewer in viewers]
        print("picture back after", [f"{each:.2f}" for each in picture])
        del nodes.nodes["o1"]


@MISSING
async def test_two_centres_share_one_copy_and_redis_is_missed_by_nobody(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        nodes.with_registry()
        origin = await nodes.start("ao", "node.group=a")
        await nodes.start("ae", "node.group=a", "node.role=edge")
        await nodes.start("bo", "node.group=b")
        for name in ("be", "bf"):
            await nodes.start(name, "node.group=b", "node.role=edge")
        publisher = await origin.publish("live/cam")
        viewers = [await nodes.nodes[name].play("live/cam") for name in ("ae", "be", "bf", "be", "bf")]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > GOP)
        assert {name: nodes.upstream(name) for name in ("ae", "be", "bf", "bo")} == {
            "ae": "ao", "be": "bo", "bf": "bo", "bo": "ao"
        }
        assert len(await nodes.players("ao")) == 2  # its own edge, and the other centre
        # Without the registry what goes on goes on, and what is known is found.
        nodes.redis.kill()
        late = [await nodes.nodes[name].play("live/cam") for name in ("ae", "bo")]
        for viewer in late:
            await viewer.until(lambda frames: len(frames) > GOP)
        other = await nodes.nodes["bo"].publish("live/other")
        nodes.redis.start()
        back = monotonic()
        await eventually(lambda: len(nodes.redis.ask("KEYS", "*lease*")) == 2)
        print(f"leases whole {monotonic() - back:.2f} s after the registry was back")
        seen = await nodes.nodes["ae"].play("live/other")
        await seen.until(lambda frames: len(frames) > GOP)
        for viewer in (*viewers, *late, seen):
            assert not viewer.faults()
        assert publisher.alive and other.alive


@MISSING
@pytest.mark.parametrize("how", ["away", "Sentinel", "Cluster"])
@pytest.mark.timeout(120 + 2 * OUTAGE_SECONDS)
async def test_a_registry_that_is_lost_costs_no_picture(tmp_path: Path, how: str) -> None:
    keys = [StreamKey("live", f"cam{number}") for number in range(4)]
    group = Group(tmp_path)
    try:
        async with cluster(tmp_path) as nodes:
            if how == "Sentinel":
                lost = await asyncio.to_thread(master_and_replica, group, 3)
                url = group.sentinel_url
            elif how == "Cluster":
                await asyncio.to_thread(redis_cluster, group)
                lost, url = group.servers[0], group.cluster_url
            else:
                lost, url = nodes.redis.start(), nodes.redis.url
            nodes.with_registry(url=url)
            origins = [await nodes.start(name) for name in ("o1", "o2")]
            edges = [await nodes.start(name, "node.role=edge") for name in ("e1", "e2")]
            publishers = [await origins[number % 2].publish(str(key)) for number, key in enumerate(keys)]
            viewers = [await edge.play(str(key)) for key in keys for edge in edges[:1]]
            for viewer in viewers:
                await viewer.until(lambda frames: len(frames) > GOP)
            lost.kill()
            # The other edge may fetch what it has never fetched, from the node where it last knew it to be.
            registry = connect(url)
            if how == "away":
                again = monotonic() + OUTAGE_SECONDS
                viewers += [await edges[0].play(str(key)) for key in keys]
                for viewer in viewers[-len(keys):]:
                    await viewer.until(lambda frames: len(frames) > GOP)
                await asyncio.sleep(again - monotonic())
                lost.start()  # empty
            await registry.open()
            back = await answers(registry)
            async with asyncio.timeout(WHOLE_SECONDS):
                for number, key in enumerate(keys):
                    while await owner(registry, key) != f"o{number % 2 + 1}":
                        await asyncio.sleep(0.02)
            print(f"{how}: leases whole {monotonic() - back:.2f} s after the registry was back")
            await registry.close()
            viewers += [await edges[1].play(str(key)) for key in keys]
            for viewer in viewers[-len(keys):]:
                await viewer.until(lambda frames: len(frames) > GOP)
            for number, publisher in enumerate(publishers):
                sent = publisher.sent
                for viewer in viewers[number :: len(keys)]:
                    await viewer.until(lambda frames, sent=sent: frames[-1].number >= sent - 1)
                    assert not viewer.faults()
                    assert not viewer.missing(sent)
                assert publisher.alive
    finally:
        group.end()


async def owner(registry: Registry, key: StreamKey) -> str:
    """The node that publishes a stream, as far as the registry knows."""
    try:
        lease = (await registry.lookup(key)).owner
    except RegistryError:
        return ""
    return "" if lease is None else lease.node


async def answers(registry: Registry) -> float:
    """When the registry takes claims again."""
    async with asyncio.timeout(30):
        for number in range(16):  # wherever a Cluster keeps them
            key = StreamKey("new", f"s{number}")
            while True:
                try:
                    await registry.claim(key, offer("new", key), seconds=10)
                    break
                except RegistryError:
                    await asyncio.sleep(0.02)
    return monotonic()


@MISSING
async def test_what_is_published_to_an_edge_belongs_to_an_origin(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        nodes.with_registry()
        for name in ("o1", "o2"):
            await nodes.start(name)
        near, far = [await nodes.start(name, "node.role=edge") for name in ("e1", "e2")]
        publisher = await near.publish("live/cam")
        viewers = [await node.play("live/cam") for node in (near, far)]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > GOP)
        owner = nodes.upstream("e2")
        assert owner in ("o1", "o2")
        pid = nodes.nodes[owner].pid
        await nodes.kill(owner)
        del nodes.nodes[owner]
        await eventually(lambda: nodes.upstream("e2") != owner)
        sent = publisher.sent
        for viewer in viewers:
            await viewer.until(lambda frames: frames[-1].number > sent)
            assert viewer.watching and all("time" not in fault for fault in viewer.faults())
        assert not viewers[0].faults() and not exists(pid)
        # Somebody else's stream of that name is refused where it is owned, and the edge tells its client.
        with pytest.raises(Exception, match=r"already being published|closed"):
            intruder = await far.publish("live/cam", session=7)
            await intruder.lost()
            raise intruder.error or AssertionError
