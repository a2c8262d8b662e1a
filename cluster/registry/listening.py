"""A subscription to one channel that comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis

PING_SECONDS: Final = 1.0
"""A connection that was silent for so long is asked whether it is there, and given up when it is silent once more."""
MIN_PAUSE: Final = 0.05
MAX_PAUSE: Final = 1.0
"""Seconds between attempts, doubled each time, with jitter."""
OPEN_SECONDS: Final = 2.0
_BURST: Final = 64


class Subscription:
    """``connect`` makes a client for each attempt; ``up`` is called whenever messages arrive from now on."""

    def __init__(
        self, connect: Callable[[], Redis], channel: str, received: Callable[[bytes], None], up: Callable[[], None]
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._received = received
        self._up = up
        self._attempted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pause = MIN_PAUSE
        self.listening = False
        """Whether messages arrive, as far as is known."""

    async def open(self) -> None:
        """Begin; returns after the first attempt, whatever came of it, or ``OPEN_SECONDS``."""
        self._task = asyncio.create_task(self._keep())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_SECONDS):
                await self._attempted.wait()

    async def close(self) -> None:
        """End.  This connection is nobody else's, so that it can be cancelled.

        Until it has ended: before Python 3.12 ``asyncio.wait_for``, which redis-py uses, may lose a cancellation.
        """
        task, self._task = self._task, None
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)

    async def _keep(self) -> None:
        while True:
            # Whatever redis-py raises (not only its own errors): the next attempt has new connections.
            with contextlib.suppress(Exception):
                await self._listen()
            self.listening = False
            self._attempted.set()
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(self._pause * 2, MAX_PAUSE)

    async def _listen(self) -> None:
        """Until the connection ends, which raises, or is silent."""
        client = self._connect()
        try:
            subscription: Any = client.pubsub()
            try:
                await subscription.subscribe(self._channel)
                await self._read(subscription)
            finally:
                await subscription.aclose()
        finally:
            await client.aclose()

    async def _read(self, subscription: Any) -> None:
        asked = False
        burst = 0
        while True:
            message = await subscription.get_message(timeout=PING_SECONDS)
            if message is None:
                if asked:
                    return
                asked = True
                await subscription.ping()
                continue
            asked = False
            if message["type"] == "subscribe":
                self._pause = MIN_PAUSE
                self.listening = True
                self._attempted.set()
                self._up()
            elif message["type"] == "message":
                self._received(message["data"])
            burst += 1
            if burst % _BURST == 0:  # what has arrived is read without waiting
                await asyncio.sleep(0)
