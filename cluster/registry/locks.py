"""One at a time for each stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pyrtmp.names import StreamKey


class Locks:
    """A lock for each key that somebody waits for or holds."""

    def __init__(self) -> None:
        self._locks: dict[StreamKey, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    def busy(self, key: StreamKey) -> bool:
        """Whether somebody holds it."""
        return key in self._locks

    @contextlib.asynccontextmanager
    async def hold(self, key: StreamKey) -> AsyncIterator[None]:
        """Alone with this key."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users > 1:
                self._locks[key] = lock, users - 1
            else:
                del self._locks[key]
