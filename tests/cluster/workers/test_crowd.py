"""Many viewers that come at once; ``CROWD=1000`` is how the kept figures were made."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any, Final

from tests.cluster.workers import crowd
from tests.cluster.workers.real_node import GOP, RealNode, real_node

CROWD: Final = int(os.environ.get("CROWD", "250"))
SECONDS: Final = 2.0
STAY_SECONDS: Final = 3.0


async def come(node: RealNode, key: str, number: int) -> dict[str, Any]:
    """So many viewers within ``SECONDS``; what became of them."""
    arguments = (str(node.ports["rtmp"]), key, str(number), str(SECONDS), str(STAY_SECONDS))
    process = await asyncio.create_subprocess_exec(
        sys.executable, crowd.__file__, *arguments, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), SECONDS + STAY_SECONDS + 20.0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    report: dict[str, Any] = json.loads(output)
    return report


async def test_a_crowd_joins(tmp_path: Path) -> None:
    async with real_node(tmp_path) as node:
        publisher = await node.publish("live/a", 0)
        watching = [await node.play("live/a", worker) for worker in (0, 0, 1, 1)]
        for viewer in watching:
            await viewer.until(lambda frames: len(frames) > GOP)
        began = monotonic()
        coming = asyncio.create_task(come(node, "live/a", CROWD))
        # When all are there
        await asyncio.sleep(SECONDS + 2.0)
        clients = (await node.get("/api/v1/clients?count=10000"))["clients"]
        report = await coming
        joins = sorted(report["joins"])
        print(
            f"{CROWD} joins in {SECONDS:g} s: first key frame after {joins[len(joins) // 2] * 1000:.0f} ms (p50), "
            f"{joins[len(joins) * 99 // 100] * 1000:.0f} (p99), {joins[-1] * 1000:.0f} (worst); those who watched: "
            f"longest silence {max(viewer.longest_silence(began) for viewer in watching) * 1000:.0f} ms, delay "
            f"{max(viewer.delays(began)[-1] for viewer in watching) * 1000:.0f} ms (worst)"
        )
        workers = Counter(client["worker"] for client in clients if client["agent"] == "crowd")
        assert sum(workers.values()) == CROWD and min(workers.values()) > CROWD / 4
        assert len(joins) == CROWD and joins[-1] < 1.0
        assert report["lost"] == report["missing"] == 0
        sent = await publisher.stop()
        for viewer in watching:
            await viewer.until(lambda frames: frames[-1].number == sent - 1)
            assert not viewer.faults() + viewer.missing(sent)
