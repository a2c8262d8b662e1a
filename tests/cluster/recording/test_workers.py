"""Recordings of a node with two workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pyrtmp.message import VIDEO
from tests.cluster.recording.conftest import read
from tests.cluster.workers.real_node import eventually, real_node


async def test_what_a_killed_worker_was_writing_is_completed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ("record.streams=live/*", f"record.directory={out}", "record.format=flv")
    async with real_node(tmp_path, *settings) as node:
        pids = await node.pids()
        publishers = [await node.publish(f"live/cam{worker}", worker) for worker in (0, 1)]
        # Its last bytes have to be on the disk: a file is written once a second.
        await eventually(lambda: len([each for each in out.rglob("*.part") if each.stat().st_size > 10_000]) == 2, 20)
        os.kill(pids[1], signal.SIGKILL)
        await publishers[1].lost()
        await eventually(lambda: list(out.rglob("*.flv")), 20)
        (path,) = out.rglob("*.flv")
        pictures = [each.timestamp for each in read(path) if each.type == VIDEO and each.payload[1] == 1]
        assert pictures == [n * 40 for n in range(len(pictures))] and len(pictures) > 20
        assert path.parent.name == "cam1"
        # The other worker goes on writing.
        assert publishers[0].alive and len(list((out / "live/cam0").glob("*.part"))) == 1
        assert (await node.event("recording_ended", 0, file=str(path))) > 0
    whole = out / "live/cam0"
    assert [each.suffix for each in whole.iterdir()] == [".flv"]
