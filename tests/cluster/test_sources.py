"""``cluster.sources``: what a node holds in the registry, and gives back."""

from __future__ import annotations

import pytest

from cluster.config import load
from cluster.registry import NodeRecord
from cluster.sources import SourceManager
from pyrtmp.names import StreamKey
from tests.pyrtmp.aio.net import eventually

CAM = StreamKey("live", "cam")


class Nobody:
    async def challenge(self, key: StreamKey) -> bool:
        return True

    def lose(self, key: StreamKey) -> None:
        raise AssertionError(key)

    def look(self, key: StreamKey) -> None:
        raise AssertionError(key)


@pytest.mark.parametrize("order", [(True, False), (False, True)], ids=["copy first", "own first"])
async def test_a_copy_that_becomes_its_own_stream_leaves_nothing(order: tuple[bool, bool]) -> None:
    """A slave's stream is published to it directly, or the other way round, before the first publisher is missed."""
    config = load(None, ["registry.url=memory://", "rtmp.listen=127.0.0.1:1935", "node.id=a"], {})
    sources = SourceManager(config, Nobody(), lambda: NodeRecord(id="a", role="origin", rtmp="127.0.0.1:1935"))
    await sources.start()
    for copy in order:
        await sources.claim(CAM, copy=copy)
    assert sources.keeper.lease(CAM) is not None
    sources.release(CAM)
    await eventually(lambda: sources.keeper.lease(CAM) is None)
    location = await sources.keeper.locate(CAM)
    assert location.owner is None and not location.copies
    await sources.close()
