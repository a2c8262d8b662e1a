from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from tests.cluster.edge.nodes import Nodes
from tests.descriptors import descriptors
from tests.pyrtmp.aio.net import eventually


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    """Nothing it opened is open at the end, and no task is left."""
    (await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)).close()  # what a loop keeps for itself
    before, tasks = descriptors(), asyncio.all_tasks()

    def nothing_is_left() -> bool:
        return asyncio.all_tasks() - tasks <= {asyncio.current_task()} and descriptors() <= before

    nodes = Nodes()
    yield nodes
    await nodes.close()
    await eventually(nothing_is_left)


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that nodes run on."""
    return {"uvloop": uvloop.new_event_loop}
