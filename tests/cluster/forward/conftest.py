from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from cluster.forward import Forwarder, PushSettings, Target
from pyrtmp import Server
from tests.pyrtmp.aio.net import Net, journal

QUICK = PushSettings(first_retry=0.02, longest_retry=0.1, check=0.02)

Forwarding = Callable[..., Forwarder]


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    net = Net()
    yield net
    await net.close()


@pytest.fixture
async def forward(net: Net) -> AsyncIterator[Forwarding]:
    """Begins to forward the streams of a server, until the end of the test; see ``Forwarder`` for the options."""
    made: list[Forwarder] = []

    def forward(server: Server, *targets: Target, **options: Any) -> Forwarder:
        options = {"node": "here", "settings": QUICK, "journal": journal(server), **options}
        forwarder = Forwarder(server.hub, targets=targets, **options)
        made.append(forwarder)
        forwarder.start()
        return forwarder

    yield forward
    for forwarder in made:
        await forwarder.close()
        assert forwarder.facts() == []
    assert not [task for task in asyncio.all_tasks() if "Push" in repr(task)]


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test runs on both loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
