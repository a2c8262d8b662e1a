"""Notifications: sent in the background, again when that fails, and as far as possible before the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from cluster.callbacks.events import AnswerError
from cluster.forward.backoff import Backoff
from pyrtmp.journal import Journal

MAX_QUEUED: Final = 1000
"""Notifications on their way or waiting for another try; beyond it new ones are lost."""
AT_ONCE: Final = 8
"""Most that are sent at once."""
FIRST_RETRY: Final = 0.5
LONGEST_RETRY: Final = 8.0
FLUSH_SECONDS: Final = 2.0
"""What they have at the end."""


class Notifications:
    """Sends each until it is accepted, or ``retries`` times more.  Two that overlap may arrive in any order."""

    def __init__(self, journal: Journal) -> None:
        self.retries = 0
        self.lost = 0
        """Given up, or never tried."""
        self._journal = journal
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    def send(self, what: str, send: Callable[[], Awaitable[None]]) -> None:
        """Have ``send`` called until it does not raise ``AnswerError``.  ``what`` is for the log."""
        if len(self._tasks) >= MAX_QUEUED:
            self._lose(what, f"{MAX_QUEUED} wait already")
            return
        task = asyncio.get_running_loop().create_task(self._deliver(what, send))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Try what waits once more, now; what is not through in ``FLUSH_SECONDS`` is lost."""
        self._closing.set()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=FLUSH_SECONDS)
        if late:
            self.lost += len(late)
            self._journal.warning("callbacks_lost", count=len(late), error="the server ends")
            for task in late:
                task.cancel()
            await asyncio.wait(late)

    async def _deliver(self, what: str, send: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        retries = self.retries
        while True:
            try:
                async with self._turn:
                    last = self._closing.is_set()
                    await send()
                return
            except AnswerError as error:
                if last or not retries:
                    self._lose(what, str(error))
                    return
            retries -= 1
            try:
                async with asyncio.timeout(backoff.next()):
                    await self._closing.wait()
            except TimeoutError:
                continue

    def _lose(self, what: str, error: str) -> None:
        self.lost += 1
        self._journal.warning("callback_lost", what=what, error=error)
