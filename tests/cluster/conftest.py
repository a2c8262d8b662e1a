from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest

from cluster.config import load
from cluster.demo import encode
from cluster.node import Node
from cluster.publish import publish
from pyrtmp.errors import RefusedError

HERE = ["rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "api.listen=127.0.0.1:0", "node.workers=0"]
"""Settings for any free ports, in one process."""


class _Until:
    """Ends the demo's encoder after so many pictures, without waiting for real time."""

    def __init__(self, pictures: int) -> None:
        self._left = pictures

    def is_set(self) -> bool:
        return self._left <= 0

    def wait(self, timeout: float) -> bool:
        self._left -= 1
        return False


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FLV file: three seconds of the demo's picture and sound, 640x360 at 25 frames, a key frame every second."""
    path = tmp_path_factory.mktemp("clip") / "clip.flv"
    with av.open(str(path), "w", format="flv", options={"flvflags": "no_duration_filesize"}) as output:
        encode(output, _Until(76))  # type: ignore[arg-type]
    return path


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node on free ports, in the test's own event loop."""
    node = Node(load(None, HERE, {}))
    await node.start()
    yield node
    await node.close()


@pytest.fixture
async def live(node: Node, clip: Path) -> AsyncIterator[str]:
    """``live/clip`` is published to the node; its RTMP URL."""
    url = f"rtmp://{node.rtmp_address}/live/clip"
    started = asyncio.Event()
    task = asyncio.create_task(publish(clip, url, repeat=True, started=started.set))
    await started.wait()
    yield url
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError, RefusedError):
        await task
