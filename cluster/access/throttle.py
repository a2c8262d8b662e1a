"""Brute force: an address that is wrong too often has to wait, whatever it shows."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address
from time import monotonic
from typing import Final

from pyrtmp.networks import parse_address

MAX_ADDRESSES: Final = 8192
"""Addresses remembered at once; beyond it those that were wrong longest ago are forgotten."""


class Throttle:
    """A bucket for each address that was wrong: it holds ``per_minute`` failures and gets as many back in a minute.

    An IPv6 customer has a whole /64, which counts as one address.  ``per_minute`` 0 lets everybody try.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str | int, tuple[float, float]] = {}
        """Failures left, and since when; the one that failed last is the last."""

    def __len__(self) -> int:
        return len(self._buckets)

    def blocked(self, address: str) -> bool:
        """Whether it has to wait."""
        return bool(self._buckets) and bool(self.per_minute) and self._left(_network(address)) < 1

    def failed(self, address: str) -> None:
        """It was wrong."""
        if not self.per_minute:
            return
        network = _network(address)
        left = self._left(network)
        self._buckets.pop(network, None)
        while len(self._buckets) >= MAX_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[network] = max(left - 1, 0.0), self._clock()

    def _left(self, network: str | int) -> float:
        left, since = self._buckets.get(network, (self.per_minute, 0.0))
        return min(left + (self._clock() - since) * self.per_minute / 60, self.per_minute)


def _network(text: str) -> str | int:
    address = parse_address(text)
    return int(address) >> 64 if isinstance(address, IPv6Address) else str(address or text)
