"""A process that stood still: it was stopped, or starved, and does not know what happened meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic


class Standstill:
    """Calls ``then`` when ``look`` was not called for ``seconds``, before anything else is done.

    Whoever sends looks before it does, so that nothing goes out that should not any more.
    """

    __slots__ = ("_looked", "seconds", "then")

    def __init__(self) -> None:
        self.seconds = inf
        self.then: Callable[[float], None] | None = None
        """Is told for how many seconds."""
        self._looked = monotonic()

    def look(self, now: float) -> None:
        """The process runs.  Called every second at least."""
        gap, self._looked = now - self._looked, now
        if gap > self.seconds and self.then is not None:
            self.then(gap)
