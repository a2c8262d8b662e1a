"""``pyrtmp restart``: the workers are replaced one after the other while everybody is served."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Final

from tests.cluster.workers.real_node import (
    COMMAND,
    GOP,
    Publisher,
    RealNode,
    Viewer,
    eventually,
    exists,
    now,
    real_node,
)

STREAMS: Final = int(os.environ.get("FAULT_STREAMS", "2"))
VIEWERS: Final = int(os.environ.get("FAULT_VIEWERS", "2"))


class Encoder:
    """Publishes a stream for ever, as an encoder does: comes back at once when it loses its connection."""

    def __init__(self, node: RealNode, key: str) -> None:
        self.node = node
        self.key = key
        self.publishers: list[Publisher] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.publishers.append(await self.node.publish_again(self.key, session=len(self.publishers)))
            await self.publishers[-1].lost(600)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        assert self._task.cancelled(), self._task.exception()


class Player:
    """Watches a stream for ever: comes back at once."""

    def __init__(self, node: RealNode, key: str) -> None:
        self.node = node
        self.key = key
        self.viewers: list[Viewer] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                self.viewers.append(await self.node.play(self.key))
                await self.viewers[-1].ended(600)
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        assert self._task.cancelled(), self._task.exception()


async def test_a_rolling_restart(tmp_path: Path) -> None:
    async with real_node(tmp_path, "node.drain_seconds=2") as node:
        before = await node.pids()
        streams = [f"live/{number}" for number in range(2 * STREAMS)]
        encoders = [Encoder(node, key) for key in streams]
        await eventually(lambda: all(encoder.publishers for encoder in encoders))
        players = [Player(node, key) for key in streams for _ in range(2 * VIEWERS)]
        await eventually(lambda: all(player.viewers for player in players))
        for player in players:
            await player.viewers[0].until(lambda frames: len(frames) > GOP)

        wall, began = now(), monotonic()
        command = await asyncio.create_subprocess_exec(
            str(COMMAND), "restart", "--api", f"http://127.0.0.1:{node.ports['api']}", stdout=asyncio.subprocess.DEVNULL
        )
        assert await command.wait() == 0
        assert (await node.order("POST", "/api/v1/restart"))[0] == 409
        took = await node.event("workers_restarted", wall, timeout=30.0)
        after = await node.pids()
        assert not set(before.values()) & set(after.values()) and not any(map(exists, before.values()))

        for player in players:
            viewer = player.viewers[-1]
            since = monotonic()
            await viewer.until(lambda frames, since=since: frames and frames[-1].sent > since)
        for each in (*encoders, *players):
            await each.stop()
        # Each was let go once, or twice if it came to the other worker before that was replaced.
        assert {len(encoder.publishers) for encoder in encoders} <= {2, 3}
        assert {len(player.viewers) for player in players} <= {2, 3}
        faults = []
        silence = 0.0
        for player in players:
            for viewer in player.viewers:
                faults += viewer.faults(may_end=True)
            frames = [frame for viewer in player.viewers for frame in viewer.frames]
            arrivals = [began, *(frame.arrived for frame in frames if frame.arrived > began)]
            silence = max(silence, *(later - sooner for sooner, later in pairwise(arrivals)))
        print(f"restarted in {took:.1f} s, longest silence of {len(players)} viewers {silence:.3f} s")
        assert not faults
        assert silence < 2.0
        assert not node.events("worker_lost", "worker_hung", "worker_drain_cut_short", "drain_cut_short")
        assert (await node.metrics())["pyrtmp_worker_restarts_total"] == 2
