"""Brute force: an address that is wrong too often has to wait, whatever it shows."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from pyrtmp.networks import subscriber

MAX_ADDRESSES: Final = 8192
"""Addresses remembered at once; beyond it those that were wrong longest ago are forgotten."""


class Throttle:
    """A bucket for each address that was wrong: it holds ``per_minute`` failures and gets as many back in a minute.

    An IPv6 customer has a whole /64, which counts as one address.  ``per_minute`` 0 lets everybody try.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """Failures left, and since when; the one that failed last is the last."""

    def __len__(self) -> int:
        return len(self._buckets)

    def blocked(self, address: str) -> bool:
        """Whether it has to wait."""
        return bool(self._buckets) and bool(self.per_minute) and self._left(subscriber(address)) < 1

    def admits(self, address: str) -> bool:
        """Whether it may do one thing more, which is counted like a failure."""
        if self.blocked(address):
            return False
        self.failed(address)
        return True

    def failed(self, address: str) -> None:
        """It was wrong."""
        if not self.per_minute:
            return
        network = subscriber(address)
        left = self._left(network)
        self._buckets.pop(network, None)
        while len(self._buckets) >= MAX_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[network] = max(left - 1, 0.0), self._clock()

    def _left(self, network: str) -> float:
        left, since = self._buckets.get(network, (self.per_minute, 0.0))
        return min(left + (self._clock() - since) * self.per_minute / 60, self.per_minute)

