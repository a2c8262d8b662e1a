"""A node in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.config import Config
from cluster.node import Node
from pyrtmp import Hooks


@asynccontextmanager
async def running(config: Config, hooks: Hooks | None = None) -> AsyncIterator[Node]:
    """For the length of the block."""
    node = Node(config, hooks=hooks)
    await node.start()
    try:
        yield node
    finally:
        await node.close()
