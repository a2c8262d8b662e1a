"""How long to wait before the next attempt."""

from __future__ import annotations

import random


class Backoff:
    """Pauses in seconds that double from ``first`` to ``longest`` with each failure.

    Up to half of each is left out at random: what failed together should not come back together.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._pause = first

    def next(self) -> float:
        """The pause after one more failure."""
        pause = self._pause
        self._pause = min(2 * pause, self._longest)
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """The next failure counts as the first."""
        self._pause = self._first
