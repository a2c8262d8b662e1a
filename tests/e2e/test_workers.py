"""Several worker processes: what comes out is what went in, also where viewers are not where the publisher is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import fidelity
import pytest
from fidelity import Segment, Tag
from node import Node, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE_SETTINGS = (*fidelity.SETTINGS, "node.workers=2")
SECONDS = 15
SPEED = 3.0
BASE = (1 << 24) - 5000
"""Past the extended timestamp."""


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 seconds of H.264 with B-frames, and AAC."""
    path = tmp_path_factory.mktemp("known") / "h264.flv"
    asyncio.run(fidelity.make_h264(path, SECONDS))
    return path


async def compare_everywhere(node: Node, key: str, path: Path) -> list[list[str]]:
    """Publishes an FLV with RTMP and HTTP-FLV viewers on every worker; the faults of each."""
    sent = list(fidelity.read_flv(path.read_bytes()))
    pulls: list[asyncio.Task[list[Tag]]] = []
    for pull, url in ((fidelity.pull_rtmp, node.rtmp(key)), (fidelity.pull_flv, node.flv(key))):
        for _ in range(4):
            pulls.append(asyncio.create_task(pull(url)))
            await node.until(key, lambda stream: stream["waiting"] == len(pulls))
    publishing = asyncio.create_task(fidelity.publish_tags(node.rtmp(key), sent, speed=SPEED, base=BASE))
    await node.until(key, lambda stream: stream["viewers"]["total"] == len(pulls))
    found = {(client["protocol"], client["worker"]) for client in await node.clients(key, "play")}
    assert found == {("rtmp", 0), ("rtmp", 1), ("flv", 0), ("flv", 1)}
    await publishing
    return [fidelity.tag_faults(sent, tags) for tags in await asyncio.gather(*pulls)]


async def test_rtmp_and_flv_from_every_worker(node: Node, h264: Path) -> None:
    reports = await compare_everywhere(node, "live/tags", h264)
    assert len(reports) == 8 and not any(reports)


async def test_rare_rounds(tmp_path: Path, h264: Path) -> None:
    async with running_node(tmp_path, *NODE_SETTINGS, "egress.min_delay_ms=350") as rare:
        reports = await compare_everywhere(rare, "live/rare", h264)
        assert len(reports) == 8 and not any(reports)


async def test_enhanced_rtmp(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "known.flv"
    await asyncio.to_thread(fidelity.make_enhanced, path, SECONDS, video="libx265", audio="libopus")
    reports = await compare_everywhere(node, "live/enhanced", path)
    assert len(reports) == 8 and not any(reports)


@pytest.mark.parametrize("container", ["ts", "fmp4"])
async def test_hls_from_every_worker(tmp_path: Path, h264: Path, container: str) -> None:
    async with running_node(tmp_path, *NODE_SETTINGS, f"hls.container={container}") as node:
        key, data = "live/hls", h264.read_bytes()
        sent = list(fidelity.read_flv(data))
        publishing = asyncio.create_task(fidelity.publish_tags(node.rtmp(key), sent, speed=SPEED, base=BASE))
        await node.until(key, lambda stream: stream["publish"]["active"])
        # Each keeps its connection, and connections go to the worker that has least of them.
        pulls: list[list[Segment]] = await asyncio.gather(*(fidelity.pull_hls(node.hls(key)) for _ in range(4)))
        await publishing
        known = fidelity.read_frames(data)
        for segments in pulls:
            assert not fidelity.frame_faults(known, fidelity.read_frames(fidelity.join(segments)))
            assert len(segments) > SECONDS / 2 - 1
        # The same segments, wherever they were fetched.
        assert all([each.data for each in segments] == [each.data for each in pulls[0]] for segments in pulls)
