"""Not more than so many requests per second."""

from __future__ import annotations

import asyncio
from time import monotonic

from pyrtmp.bucket import Bucket


class RateLimiter:
    """``per_second`` of something, up to a second's worth of them at once; 0: any number."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._bucket = Bucket(monotonic())
        self._next = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until the next one may be, first come first served.  Who gives up waiting costs the others nothing."""
        if not self._per_second:
            return
        async with self._next:
            room = max(self._per_second, 1.0) - 1.0
            while (over := self._bucket.level(monotonic(), self._per_second) - room) > 0:
                await asyncio.sleep(over / self._per_second)
            self._bucket.add(1.0, monotonic(), self._per_second)
