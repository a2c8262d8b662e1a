"""Where a stream is cut, the same for all who package it: its timeline is divided into slots, one segment each.

A segment begins at the first key frame of its slot.  Slots are as long as one group of pictures, or several, were
when the stream began (``pyrtmp.birth.Birth.pace``), and lie so that key frames that keep that pace come ``reach / 2``
behind a slot's beginning.  Where they do not keep it a segment begins at another frame: no more than ``reach`` later in
its slot than the segment before did in its own (so none is longer than the target duration), nor after ``last``.

::

    slot       |reach|    last |reach|    last |reach|    last |
    key frames |  K  .      .  |  K  .      .  |     .  K   .  |
    segments      [---------------[-----------------[-------------
                                                    not a key frame: K is more than reach later than the one before
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pyrtmp.birth import LATE, SOUND, UNSEEN, Birth

ROUNDED_MS: Final = 499
"""How much longer than the target duration a segment may be: 4.3.3.1 has durations rounded before they are compared."""
_MARGIN: Final = 1.1
_SLACK: Final = 0.05
_MIN_MS: Final = 1000
"""Numbers begin at the time in seconds: no slot is shorter, so that they never run ahead of it."""
_UNDECIDED_MS: Final = 2000
"""Sound without a picture for so long stays what counts; ``pyrtmp.birth`` sees it alike."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Milliseconds."""

    origin: int
    """Where slot 0 begins."""

    length: int
    reach: int

    target: int
    """Target duration, in seconds, that follows from it."""

    audible: bool
    """Whether it is the sound's: the stream had no picture when it began."""

    @property
    def last(self) -> int:
        return max(self.length - self.reach, self.length // 2)

    @property
    def patience(self) -> int:
        """After so many slots all who keep cutting begin at the same frame, wherever they began, unless frames are
        about as far apart as ``reach``.  Those may never come together: better segments of one's own than none."""
        return 2 * self.last // max(self.reach, 1) + 1

    def slot(self, time: int) -> int:
        """The slot that ``time`` is in."""
        return (time - self.origin) // self.length

    def start(self, slot: int) -> int:
        """Where ``slot`` begins."""
        return self.origin + slot * self.length

    def offset(self, time: int, slot: int) -> int:
        """How far in ``slot`` that is."""
        return max(time - self.start(slot), 0)

    def next(self, offset: int) -> int:
        """Where in its slot a segment begins at the latest without a key frame, when the one before it begins at
        ``offset`` in its own."""
        return min(offset + self.reach, self.last)

    @classmethod
    def of(
        cls, birth: Birth, shift: int, now: int, *, fragment: int, longest: int, forced: bool = False
    ) -> Grid | None:
        """The grid of a stream that has got to ``now``; None while it does not follow from what is known.

        ``shift`` is by how much ``now`` is later than in ``birth``.
        """
        pace, begun = birth.pace, birth.time + shift
        if pace == UNSEEN:
            return None
        if pace == SOUND and now - begun < _UNDECIDED_MS and not forced:
            return None
        if pace == 0 and now - begun <= longest and not forced:
            return None
        audible = pace in (SOUND, LATE)
        if audible:
            length, pace = fragment, 0
        elif pace == 0 or pace > longest:
            length = pace = longest
        else:
            slack = fragment * _SLACK if pace * 2 >= fragment else 0
            length = min(max(math.ceil((fragment - slack) / pace) * pace, _MIN_MS), longest)
        target = max(math.ceil((min(length * _MARGIN, longest) - ROUNDED_MS) / 1000), 1)
        reach = target * 1000 + ROUNDED_MS - length
        return cls(begun - min(reach, pace) // 2, length, reach, target, audible)
