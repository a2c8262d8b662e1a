from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.cluster.callbacks.backend import BackEnd
from tests.cluster.callbacks.backend import back_end as serve


@pytest.fixture
async def back_end() -> AsyncIterator[BackEnd]:
    async with serve() as found:
        yield found
