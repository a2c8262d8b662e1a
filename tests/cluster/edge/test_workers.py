"""An edge node of two workers: one pull for the machine, whatever happens to its workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic
from typing import Any

from tests.cluster.workers.real_node import GOP, RealNode, eventually, exists, now, real_node

KEY = "live/cam"


async def pulls(origin: RealNode) -> list[dict[str, Any]]:
    """Who plays at the origin."""
    listed = (await origin.get("/api/v1/clients?count=10000"))["clients"]
    return [each for each in listed if each["role"] == "play"]


def settings_of_edge(origin: RealNode) -> tuple[str, ...]:
    origins = f'edge.origins=["127.0.0.1:{origin.ports["rtmp"]}"]'
    return ("node.id=edge", origins, "edge.linger_seconds=1")


async def puller(edge: RealNode) -> int:
    """Number of the worker that pulls: it said so last."""
    last = edge.events("pulling")[-1]
    return int(last["worker"])


async def test_one_pull_for_the_machine(tmp_path: Path) -> None:
    async with real_node(tmp_path / "origin", "node.id=origin", workers=1) as origin:
        async with real_node(tmp_path / "edge", *settings_of_edge(origin)) as edge:
            publisher = await origin.publish(KEY)
            viewers = [await edge.play(KEY, worker) for worker in (0, 1, 0, 1)]
            for viewer in viewers:
                await viewer.until(lambda frames: len(frames) > 2 * GOP)
            print(f"first frames cold: {[round(v.frames[0].arrived - v.asked, 3) for v in viewers]}")
            assert len(await pulls(origin)) == 1

            # The worker that pulls dies.
            worker = await puller(edge)
            pid = (await edge.pids())[worker]
            killed, at = now(), monotonic()
            os.kill(pid, signal.SIGKILL)
            lost = [viewer for number, viewer in zip((0, 1, 0, 1), viewers, strict=True) if number == worker]
            kept = [viewer for viewer in viewers if viewer not in lost]
            for viewer in lost:
                await viewer.ended()
            for viewer in kept:
                frames = len(viewer.frames)
                await viewer.until(lambda frames, more=frames + 2 * GOP: len(frames) > more)
                print(f"viewers of the other worker waited {viewer.longest_silence(at - 0.2):.2f} s")
                assert viewer.longest_silence(at - 0.2) < 4
                times = [frame.timestamp for frame in viewer.frames]
                assert times == sorted(times)
            assert not exists(pid)
            await edge.event("worker_ready", killed, worker=worker)
            again = [await edge.play(KEY, number) for number in (0, 1)]
            for viewer in again:
                await viewer.until(lambda frames: len(frames) > GOP)

            async def one_pull() -> bool:
                return len(await pulls(origin)) == 1

            await eventually(one_pull)

            # Somebody publishes it here, on the worker that does not pull.
            other = 1 - await puller(edge)
            local = await edge.publish(KEY, other, session=1)
            for viewer in kept + again:
                await viewer.until(lambda frames: frames[-1].session == 1 and frames[-1].number > GOP)
                times = [frame.timestamp for frame in viewer.frames]
                assert times == sorted(times) and viewer.watching

            async def no_pull() -> bool:
                return not await pulls(origin)

            await eventually(no_pull)
            assert local.alive and publisher.alive

            # It leaves: the origin has the stream still.
            await edge.leave(local)
            for viewer in kept + again:
                await viewer.until(lambda frames: frames[-1].session == 0 and frames[-1].number > GOP)
            assert len(await pulls(origin)) == 1

            # Nobody watches.
            for viewer in viewers + again:
                await edge.leave(viewer)
            left = monotonic()
            await eventually(no_pull)
            print(f"the pull ended {monotonic() - left:.2f} s after its last viewer")
