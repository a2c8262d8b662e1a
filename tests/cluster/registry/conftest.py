from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.cluster.registry.servers import Group, Server

_PREFIXES = count(1)


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests that do it no harm; each has its own prefix."""
    group = Group(tmp_path_factory.mktemp("redis"))
    yield group.add()
    group.end()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """Servers of one test."""
    group = Group(tmp_path)
    yield group
    group.end()


@pytest.fixture
def prefix() -> str:
    return f"test{next(_PREFIXES)}:"
