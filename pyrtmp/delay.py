"""How much later than the node that a stream is published to another one has it, whatever their clocks say.

::

    node that pulls                    node it pulls from
      asked  ----- "pyrtmpStanding" ---->
                                       clock: what its clock shows
      heard  <---- clock, time, came ---  time:  a frame, by its time on the stream's own timeline
                                       came:  when that frame was published, by the same clock

The two clocks may show anything; of one exchange it is known that theirs showed ``clock`` between ``asked`` and
``heard`` here.  The middle is taken for it, of the quickest of the last exchanges: then little was queued on the way.
So the error is at most half of that round trip.  When the frame came here is known, and the difference is the delay.

What the asked node has from another one itself is told with the delay there taken off ``came``: along a chain of pulls
delays add up, and what is measured is the way from the first node.  That is where the stream is published or forwarded
to: forwards push, and are not asked.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

CALL: Final = "pyrtmpStanding"
"""The command that asks; its answer's first value is an ``entry``."""

EXCHANGES: Final = 8
"""How many exchanges are remembered.  Clocks of machines part by less than 0.1 ms a second."""

GRID_MS: Final = 250
"""Of frames in the same quarter of a second only the first is remembered: without a picture all could be joined at."""
REMEMBERED: Final = 32
"""Frames whose arrival is remembered, at least eight seconds."""

_LIMIT: Final = 1e12


class Standing(NamedTuple):
    """A frame that others may compare with their own."""

    time: int
    """On the timeline that all copies share (``pyrtmp.birth.Birth``), milliseconds."""
    came: float
    """When it came to this node, monotonic seconds."""
    delay: float = 0.0
    """Seconds since it was published."""

    def entry(self, began: float, now: float) -> dict[str, float]:
        """What another node is told ``now``, by a clock that showed 0 when its connection ``began``."""
        return {"clock": now - began, "time": float(self.time), "came": self.came - self.delay - began}


class Arrivals:
    """When the newest frames came that a stream could be joined at."""

    __slots__ = ("_frames",)

    def __init__(self) -> None:
        self._frames: deque[Standing] = deque(maxlen=REMEMBERED)

    def note(self, time: int, came: float) -> None:
        """A frame of ``time`` came."""
        frames = self._frames
        if not frames or time // GRID_MS != frames[-1].time // GRID_MS:
            frames.append(Standing(time, came))

    def clear(self) -> None:
        """Another timeline begins."""
        self._frames.clear()

    @property
    def newest(self) -> Standing | None:
        """As a node tells it that the stream is published to."""
        return self._frames[-1] if self._frames else None

    def find(self, time: int) -> float | None:
        """When the frame of ``time`` came, if it did."""
        return next((each.came for each in self._frames if each.time == time), None)


class Meter:
    """Compares what one upstream says with what came from it."""

    def __init__(self) -> None:
        self._asked: float | None = None
        self._exchanges: deque[tuple[float, float]] = deque(maxlen=EXCHANGES)
        """Round trip, and how much more the clock here shows than theirs."""
        self._told: tuple[int, float] | None = None

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return self._asked is not None

    def asked(self, now: float) -> None:
        """The question was sent."""
        self._asked = now

    def heard(self, entry: object, now: float) -> None:
        """The answer came; anything that is none is ignored."""
        asked, self._asked = self._asked, None
        if asked is None or not isinstance(entry, Mapping):
            return
        clock, time, came = (_number(entry.get(name)) for name in ("clock", "time", "came"))
        if clock is None or time is None or came is None:
            return  # it does not know by now
        self._exchanges.append((now - asked, (asked + now) / 2 - clock))
        self._told = int(time), came

    def look(self, arrivals: Arrivals, since: float) -> Standing | None:
        """The frame that the upstream told of, once for each that is there; not one that came before ``since``: what
        is kept for joiners comes late by nature."""
        if self._told is None:
            return None
        time, published = self._told
        came = arrivals.find(time)
        if came is None:
            return None
        self._told = None
        if came < since:
            return None
        _, ahead = min(self._exchanges)
        return Standing(time, came, max(0.0, came - (published + ahead)))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if abs(value) < _LIMIT else None
