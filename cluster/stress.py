"""How busy a process is: its share of a core, and how late its event loop is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

SHARE_SECONDS: Final = 5.0
"""What a process's share of a core, and its lag, are taken over."""

BUSY_SHARE: Final = 0.8
"""A process that takes this part of a core is as busy as it should be."""

BUSY_LAG: Final = 0.05
"""One whose event loop is so late, in seconds, too."""

_LOOK_SECONDS: Final = 0.25


class Load:
    """The share of one core that this process takes."""

    def __init__(self, cpu: Callable[[], float] = time.process_time) -> None:
        self._cpu = cpu
        self._samples: deque[tuple[float, float]] = deque()

    def sample(self, now: float) -> None:
        """To be called about once a second."""
        samples = self._samples
        samples.append((now, self._cpu()))
        while samples[0][0] < now - SHARE_SECONDS - 0.5:
            samples.popleft()

    @property
    def share(self) -> float:
        """Over the last ``SHARE_SECONDS``."""
        if len(self._samples) < 2:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        return round((last[1] - first[1]) / (last[0] - first[0]), 3) if last[0] > first[0] else 0.0


class Lag:
    """How late the event loop calls what is due, on average over ``SHARE_SECONDS``: one long task says little."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._late: deque[float] = deque([0.0], maxlen=int(SHARE_SECONDS / _LOOK_SECONDS))
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look."""
        self._due = self._clock() + _LOOK_SECONDS
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.note(self._clock() - self._due)
        self.start()

    def note(self, late: float) -> None:
        """It was so late."""
        self._late.append(max(0.0, late))

    @property
    def seconds(self) -> float:
        """On average."""
        return round(sum(self._late) / len(self._late), 4)


def stress(share: float, lag: float) -> float:
    """0 for a process that has nothing to do, 1 for one that is as busy as it should be."""
    return max(share / BUSY_SHARE, lag / BUSY_LAG)
