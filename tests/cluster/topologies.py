"""Several real nodes, a real Redis, and clients that count what they get.

    async with cluster(tmp_path) as nodes:
        origin = await nodes.start("o1")
        edge = await nodes.start("e1", "node.role=edge", nodes.origins(origin))
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from tests.cluster.registry.servers import Server as Redis
from tests.cluster.workers.real_node import RealNode, end_tree, eventually, start_node, tail


class Cluster:
    """Nodes by their id."""

    def __init__(self, directory: Path, workers: int) -> None:
        self.nodes: dict[str, RealNode] = {}
        self.redis = Redis(directory)
        self.shared: list[str] = []
        """Settings of every node."""
        self._directory = directory
        self._workers = workers
        self._starts = 0
        self._settings: dict[str, tuple[str, ...]] = {}

    def with_registry(self, *settings: str, url: str = "") -> None:
        """Every node from now on shares a Redis, or the one at ``url``."""
        if not url:
            self.redis.start()
        self.shared += [f"registry.url={url or self.redis.url}", *settings]

    async def start(self, name: str, *settings: str) -> RealNode:
        """One more node, which is ready."""
        self._settings[name] = settings
        return await self._start(name, *settings)

    async def restart(self, name: str) -> RealNode:
        """Kill what is left of a node and start it again where it was."""
        old = self.nodes[name]
        await self.kill(name)
        return await self._start(name, *self._settings[name], ports=old.ports)

    async def _start(self, name: str, *settings: str, ports: Mapping[str, int] | None = None) -> RealNode:
        self._starts += 1
        directory = self._directory / f"{name}-{self._starts}"
        node = self.nodes[name] = await start_node(
            directory, f"node.id={name}", *self.shared, *settings, workers=self._workers, ports=ports
        )
        return node

    async def kill(self, name: str) -> None:
        """SIGKILL, all its processes."""
        node = self.nodes[name]
        end_tree(node.pid)
        node.process.wait()
        await node.close()

    def signal(self, name: str, number: signal.Signals) -> None:
        """To all its processes."""
        node = self.nodes[name]
        for pid in (node.pid, *node.children()):
            os.kill(pid, number)

    def rtmp(self, *names: str) -> str:
        """Addresses, as in a list of the configuration."""
        return ",".join(f"127.0.0.1:{self.nodes[name].ports['rtmp']}" for name in names)

    async def players(self, name: str) -> list[dict[str, Any]]:
        """Who plays at a node."""
        async with self.nodes[name].http.get("/api/v1/clients") as response:
            return [each for each in (await response.json())["clients"] if each["type"].endswith("play")]

    async def has(self, name: str, key: str) -> None:
        """Wait until a node has the stream."""
        async def there() -> bool:
            async with self.nodes[name].http.get("/api/v1/streams") as response:
                streams = (await response.json())["streams"]
            return any(f"{each['app']}/{each['name']}" == key and each["publish"]["active"] for each in streams)

        await eventually(there)

    def upstream(self, name: str) -> str:
        """The node that it pulled from last."""
        node: str = self.nodes[name].events("pulling")[-1]["node"]
        return node

    async def close(self) -> None:
        """End everything."""
        for name in self.nodes:
            await self.kill(name)
        self.redis.kill()


@contextlib.asynccontextmanager
async def cluster(directory: Path, *, workers: int = 0) -> AsyncIterator[Cluster]:
    """Nodes for the length of the block; what they said of themselves must be good."""
    nodes = Cluster(directory, workers)
    try:
        yield nodes
        for name, node in nodes.nodes.items():
            assert not node.events("internal_error"), (name, tail(node.log))
            assert not [line for line in node.said() if "Traceback" in line], (name, tail(node.log, 60))
    finally:
        await nodes.close()
