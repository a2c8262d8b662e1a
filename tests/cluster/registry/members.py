"""Nodes of a test: keepers, and what they were told."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from cluster.registry import Event, Keeper, Lease, NodeRecord, Offer, Registry
from pyrtmp.names import StreamKey

CAM, OTHER = StreamKey("live", "cam"), StreamKey("live/room", "other")


def record(id: str = "a", **more: Any) -> NodeRecord:
    return NodeRecord(**{"id": id, "role": "origin", "rtmp": "127.0.0.1:1935", "boot": f"boot-of-{id}", **more})


def offer(node: str = "a", key: StreamKey = CAM, **more: Any) -> Offer:
    return Offer(**{"key": key, "node": node, "rtmp": "127.0.0.1:1935", "boot": f"boot-of-{node}", **more})


class Clock:
    """Seconds that go by, and more when the test says so."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return monotonic() + self.ahead


class Tape:
    """A listener."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.backs = 0

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_back(self) -> None:
        self.backs += 1


class Member:
    """A node: its keeper, and what it was told."""

    def __init__(self, registry: Registry, id: str = "a", *, clock: Any = monotonic, **options: Any) -> None:
        self.registry = registry
        self.record = record(id)
        self.lost: list[tuple[StreamKey, Lease | None]] = []
        self.began: list[StreamKey] = []
        self.challenged: list[StreamKey] = []
        self.yields = False
        self.delay = 0.0
        self.keeper = Keeper(
            registry,
            lambda: self.record,
            on_lost=lambda key, winner: self.lost.append((key, winner)),
            on_challenge=self._challenge,
            on_began=self.began.append,
            clock=clock,
            **{"alive_seconds": 1.0, **options},
        )

    async def _challenge(self, key: StreamKey) -> bool:
        self.challenged.append(key)
        await asyncio.sleep(self.delay)
        return self.yields

    async def claim(self, key: StreamKey = CAM) -> Lease:
        return await self.keeper.claim(key, f"publisher-at-{self.record.id}", "lineage")

    def hang(self) -> None:
        """Like a process that is stopped: nothing of it runs any more, and nobody is told."""
        for task in [*self.keeper._loops, *self.keeper._tasks]:
            task.cancel()
        self.keeper._loops = []
        self.registry.listeners.remove(self.keeper)

    async def wake(self) -> None:
        """Go on after ``hang``."""
        await self.keeper.start()


async def eventually(true: Any, timeout: float = 5.0) -> None:
    """Wait for something that no event announces."""
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.01)
