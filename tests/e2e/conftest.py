"""What the end-to-end tests share: a server in a process of its own, a browser, and the mark `e2e` on all of them.

A module that publishes one stream for many players has fixtures of module scope and runs in one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from clients_chromium import Browser, chromium, serve_pages
from node import Node, running_node


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A running server with the settings that the module names in `NODE_SETTINGS`, if it does."""
    settings = getattr(request.module, "NODE_SETTINGS", ())
    async with running_node(tmp_path_factory.mktemp("node"), *settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """A Chromium with an empty profile."""
    async with chromium(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other_origin() -> AsyncIterator[str]:
    """The base URL of a web site that is not the server's."""
    async with serve_pages() as base:
        yield base
