"""How much of something comes on average: a leaky bucket."""

from __future__ import annotations


class Bucket:
    """What has come and not leaked away yet.  ``now`` is monotonic seconds, never less than the time before."""

    __slots__ = ("_level", "_since")

    def __init__(self, now: float) -> None:
        self._level = 0.0
        self._since = now

    def add(self, amount: float, now: float, per_second: float) -> float:
        """``amount`` more has come, while ``per_second`` leaked; how much is in it now."""
        self._level = self.level(now, per_second) + amount
        self._since = now
        return self._level

    def level(self, now: float, per_second: float) -> float:
        """How much is in it."""
        return max(0.0, self._level - (now - self._since) * per_second)
