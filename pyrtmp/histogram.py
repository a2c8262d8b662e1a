"""How often a value fell where, in a bounded number of counts."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class Histogram:
    """Observations by size.  ``bounds`` are the upper ends of the buckets, which belong to them, in rising order."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    """One for each bound, and one for what is above the last."""
    sum: float = 0.0
    """Of all that was observed."""

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError(f"{len(self.counts)} counts for {len(self.bounds)} bounds")

    def observe(self, value: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def total(self) -> int:
        """How many were observed."""
        return sum(self.counts)

    def copy(self) -> Histogram:
        """One that shares nothing with this."""
        return replace(self, counts=list(self.counts))

    def __add__(self, other: Histogram) -> Histogram:
        """Both together.  Raises ``ValueError`` where their bounds differ."""
        if self.bounds != other.bounds:
            raise ValueError("histograms of other bounds")
        counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        return Histogram(self.bounds, counts, self.sum + other.sum)
