"""Which worker gets the next connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

CPU_WEIGHT: Final = 0.5
"""How much of a worker's load is its share of the processor; the rest is how many connections it has."""

LEAST_CPU: Final = 0.05
"""Cores that the workers together must use before their shares say anything."""


class Loaded(Protocol):
    """A worker's load."""

    @property
    def connections(self) -> int:
        """Connections now, those on their way to it included."""

    @property
    def cpu_share(self) -> float:
        """Of one core, lately."""


Worker = TypeVar("Worker", bound=Loaded)


def place(workers: Sequence[Worker]) -> Worker | None:
    """The worker with the least load; None when there is none.

    Connections are counted at once and so keep a burst even; the processor's share, which lags, knows that one
    connection is a publisher of 20 Mbit/s and another does nothing.  Both are put into connections of average cost.
    """
    if not workers:
        return None
    connections = sum(worker.connections for worker in workers)
    cpu = sum(worker.cpu_share for worker in workers)
    if cpu < LEAST_CPU:
        return min(workers, key=lambda worker: worker.connections)
    cost = connections / cpu
    return min(
        workers,
        key=lambda worker: (1 - CPU_WEIGHT) * worker.connections + CPU_WEIGHT * worker.cpu_share * cost,
    )
