"""Descriptors run out, and clients that mean harm: whoever was there before is served as before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from time import monotonic

import pytest

from tests.cluster.workers import flood
from tests.cluster.workers.real_node import GOP, RealNode, eventually, now, real_node


@contextlib.contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """A process can open nothing more meanwhile."""
    used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    lowest = next(number for number in count() if number not in used)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def knock(node: RealNode, number: int) -> list[socket.socket]:
    """Open connections that say nothing."""
    sockets = []
    for _ in range(number):
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", node.ports["rtmp"]))
        sockets.append(sock)
    return sockets


def closed(sock: socket.socket) -> bool:
    """Whether the other side has hung up."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("whose", ["supervisor", "worker"])
async def test_those_who_watch_do_not_notice_that_descriptors_run_out(tmp_path: Path, whose: str) -> None:
    async with real_node(tmp_path, "timeouts.handshake=60") as node:
        # Segments of the logs last longer than this test.
        publishers = [await node.publish(f"live/{worker}", worker, size=500) for worker in (0, 1)]
        viewers = [await node.play(publisher.key, worker) for publisher in publishers for worker in (0, 1)]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > GOP)
        wall, since = now(), monotonic()
        sockets: list[socket.socket] = []
        try:
            with without_descriptors(node.pid if whose == "supervisor" else (await node.pids())[0]):
                sockets = await knock(node, 200)
                await node.event("out_of_descriptors", wall)
                if whose == "worker":
                    # The other worker's clients are as welcome as ever.
                    await eventually(lambda: any(not closed(sock) for sock in sockets))
                for viewer in viewers:
                    await viewer.until(lambda frames: frames[-1].sent > since + 1.0)
                assert len(node.events("out_of_descriptors")) == 1
                assert not node.events("worker_lost", "link_lost", "log_failed")
        finally:
            for sock in sockets:
                sock.close()
        for worker in (0, 1):
            late = await node.play("live/0", worker)
            await late.until(lambda frames: len(frames) > 2)
            assert not late.faults()
        for publisher in publishers:
            sent = await publisher.stop()
            for viewer in viewers:
                if viewer.key == publisher.key:
                    await viewer.until(lambda frames, last=sent - 1: frames[-1].number == last)
                    assert not viewer.faults() + viewer.missing(sent)


async def test_workers_are_linked_as_soon_as_there_are_descriptors(tmp_path: Path) -> None:
    async with real_node(tmp_path) as node:
        with without_descriptors(node.pid):
            wall = now()
            os.kill((await node.pids())[0], signal.SIGKILL)
            await node.event("worker_ready", wall, worker=0)
        publisher = await node.publish("live/a", 0)
        viewer = await node.play("live/a", 1)
        await viewer.until(lambda frames: len(frames) > GOP)
        assert publisher.alive and not viewer.faults()
        assert len(node.events("out_of_descriptors")) == 1


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_address"])
async def test_limits_are_the_node_s_not_each_worker_s(tmp_path: Path, limit: str) -> None:
    async with real_node(tmp_path, f"limits.{limit}=5") as node:
        sockets = await knock(node, 12)
        try:
            await eventually(lambda: sum(map(closed, sockets)) == 7)
            # Each that goes makes room for one.
            next(sock for sock in sockets if not closed(sock)).close()
            await eventually(lambda: _room(node))
        finally:
            for sock in sockets:
                sock.close()


async def _room(node: RealNode) -> bool:
    try:
        client, _ = await node.connect("live/a")
    except OSError:
        return False
    await client.close()
    return True


@pytest.mark.parametrize("kind", flood.KINDS)
async def test_a_flooded_worker_does_not_slow_the_other_one(tmp_path: Path, kind: str) -> None:
    """Where each attack is a connection of its own all workers get their part: nobody loses anything."""
    async with real_node(tmp_path) as node:
        publishers = [await node.publish(f"live/{worker}", worker) for worker in (0, 1)]
        viewers = [[await node.play(f"live/{worker}", worker) for _ in range(4)] for worker in (0, 1)]
        for viewer in viewers[0] + viewers[1]:
            await viewer.until(lambda frames: len(frames) > GOP)
        process = await asyncio.create_subprocess_exec(
            sys.executable, flood.__file__, kind, str(node.ports["rtmp"]),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        try:
            quiet: tuple[int, ...] = ()
            if kind == "messages":
                await eventually(lambda: _has_come(node))
                quiet = (1 - await _worker(node),)
            else:
                await eventually(lambda: _refused(node, 3.0))
            since = monotonic()
            await asyncio.sleep(3.0)
            assert process.returncode is None
        finally:
            process.kill()
            await process.wait()
        worst = 0.0
        for worker in (0, 1):
            sent = await publishers[worker].stop()
            for viewer in viewers[worker]:
                await viewer.until(lambda frames, last=sent - 1: frames[-1].number == last)
                assert not viewer.faults() + viewer.missing(sent)
                if worker in quiet:
                    delays = viewer.delays(since)
                    worst = max(worst, delays[len(delays) * 95 // 100])
        print(f"{kind}: those on the other worker have 95 % of the frames within {worst * 1000:.0f} ms")
        assert worst < 1.0
        assert not node.events("worker_hung", "worker_lost")


async def _has_come(node: RealNode) -> bool:
    return (await node.clients()).get(flood.AGENT, {}).get("role") == "publish"


async def _worker(node: RealNode) -> int:
    worker: int = (await node.clients())[flood.AGENT]["worker"]
    return worker


async def _refused(node: RealNode, number: float) -> bool:
    metrics = await node.metrics()
    return sum(value for name, value in metrics.items() if name.startswith("pyrtmp_refused_total")) >= number
