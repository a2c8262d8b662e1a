"""What one node remembers of where streams are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from cluster.registry.base import Registry, RegistryError
from cluster.registry.records import Location
from pyrtmp.names import StreamKey

FOUND_SECONDS: Final = 1.0
NOT_FOUND_SECONDS: Final = 0.25
"""An answer is good for so long."""
MAX_ANSWERS: Final = 16384
"""Answers that are remembered, the newest ones."""

_NOWHERE: Final = Location()


@dataclass(slots=True)
class _Answer:
    location: Location
    until: float
    flight: int
    """Which look-up it is of: what began later counts."""


class Locator:
    """Look-ups: one at a time for each stream, remembered for a moment, and longer while the registry is away."""

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock
        self._answers: dict[StreamKey, _Answer] = {}
        self._flights: dict[StreamKey, asyncio.Task[Location]] = {}
        self._numbers = count(1)

    async def locate(self, key: StreamKey) -> Location:
        """Where the stream is as far as is known; does not raise."""
        answer = self._answers.get(key)
        if answer is not None and self._clock() < answer.until:
            return answer.location
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._look_up(key))
            flight.add_done_callback(lambda flight: self._landed(key, flight))
        return await asyncio.shield(flight)

    def drop(self, key: StreamKey) -> None:
        """Something happened to the stream: ask again, also where an answer is under way."""
        self._flights.pop(key, None)
        if key in self._answers:
            self._answers[key].until = 0.0

    def drop_all(self) -> None:
        """Events were missed."""
        self._flights.clear()
        for answer in self._answers.values():
            answer.until = 0.0

    async def _look_up(self, key: StreamKey) -> Location:
        number = next(self._numbers)
        try:
            location = await self._registry.lookup(key)
        except (RegistryError, ValueError):  # away; or a name that no stream has
            known = self._answers.get(key)
            location = known.location if known is not None else _NOWHERE
        overtaken = self._flights.get(key) is not asyncio.current_task()
        known = self._answers.get(key)
        if known is None or known.flight < number:
            self._remember(key, location, number, overtaken)
        return location

    def _remember(self, key: StreamKey, location: Location, flight: int, overtaken: bool) -> None:
        """For a moment; an answer that an event overtook only for when the registry is away."""
        seconds = FOUND_SECONDS if location else NOT_FOUND_SECONDS
        self._answers.pop(key, None)
        self._answers[key] = _Answer(location, 0.0 if overtaken else self._clock() + seconds, flight)
        if len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def _landed(self, key: StreamKey, flight: asyncio.Task[Location]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
