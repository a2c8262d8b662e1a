"""When a stream began, as all nodes that have a copy of it know it: the node it is published to says it, the others
pass it on.  What must come out the same everywhere (names of HLS segments, wall-clock times) is reckoned from here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

UNSEEN: Final = -2
SOUND: Final = -1
LATE: Final = 1
"""See ``Birth.pace``."""

NEVER: Final = -(1 << 52)
"""Before all times: what the time of something is that has not been."""

_LATE_MS: Final = 2000
"""Pictures that begin so much later than the sound do not change what was reckoned without them."""
_WRAP: Final = 1 << 32
_TOKEN: Final = re.compile(r"-?[0-9]{1,16}(?:\.-?[0-9]{1,16}){5}")


@dataclass(frozen=True, slots=True)
class Birth:
    """Times are milliseconds of the timeline of the node that the stream is published to."""

    wall: int
    """When its publisher began, Unix time in milliseconds."""

    time: int = 0
    """Timestamp of its first key frame; of its first sound, while or if there is no picture at first."""

    pace: int = UNSEEN
    """From its first key frame to its second.  ``UNSEEN``: nothing came yet, and ``time`` is not known.  ``SOUND``:
    sound only.  0: one key frame so far.  ``LATE``: the first key frame came long after the first sound."""

    def seen(self, time: int, key: bool) -> Birth:
        """With a join point at ``time``: a key frame, or sound without a picture."""
        if self.pace == UNSEEN:
            return replace(self, time=time, pace=0 if key else SOUND)
        if not key or self.pace > 0 or time <= self.time:
            return self
        if self.pace == SOUND:
            late = time - self.time >= _LATE_MS
            return replace(self, pace=LATE) if late else replace(self, time=time, pace=0)
        return replace(self, pace=time - self.time)


@dataclass(frozen=True, slots=True)
class Told:
    """What one node tells another of a stream's birth and of where it stands."""

    birth: Birth

    shift: int
    """How much later the times are that the node sends."""

    key: int
    """The newest key frame; without a picture, the newest sound."""

    before: int
    """The key frame before that; ``NEVER`` if there was none."""

    def __str__(self) -> str:
        birth = self.birth
        return f"{birth.wall}.{birth.time}.{birth.pace}.{self.shift}.{self.key}.{self.before}"

    @classmethod
    def read(cls, token: str) -> Told | None:
        """From its text; None if it is none."""
        if not _TOKEN.fullmatch(token):
            return None
        wall, time, pace, shift, key, before = map(int, token.split("."))
        limit = 1 << 52
        if not 0 <= wall <= limit or not UNSEEN <= pace <= limit or max(map(abs, (time, shift, key, before))) > limit:
            return None
        return cls(Birth(wall, time, pace), shift, key, before)

    def shifted(self, raw: int, time: int) -> int:
        """How much later than at the beginning times are that come as ``raw`` (32 bits) and are taken for ``time``."""
        origin = raw - self.shift
        if self.birth.pace != UNSEEN:
            origin += round((max(self.key, self.birth.time) - origin) / _WRAP) * _WRAP
        return time - origin
