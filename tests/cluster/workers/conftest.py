from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from tests.cluster.workers.members import Machine
from tests.descriptors import descriptors
from tests.pyrtmp.aio.net import eventually

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background jobs so, and what ignores a signal hands that on to its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ON_BOTH_LOOPS = {"test_channel.py", "test_claims.py", "test_directory.py", "test_relay.py"}
"""Those with readers and writers of their own in the event loop of the test; the rest is about other processes."""


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name in ON_BOTH_LOOPS:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    """Nothing it opened is open at the end."""
    (await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)).close()  # what a loop keeps for itself
    before = descriptors()
    machine = Machine()
    yield machine
    await machine.close()
    await eventually(lambda: descriptors() <= before)
    assert descriptors() == before
