"""Whether a publisher keeps up with its own clock: what arrives late piles up in front of its line."""

from __future__ import annotations

from typing import Final

LATE_SECONDS: Final = 2.0
"""A publisher that is so far behind real time loses pictures soon: OBS drops frames from 0.7 to 0.9 s on."""

DRIFT: Final = 0.0005
"""An encoder's clock may be so much slower than this machine's (crystals: 0.0001) without being behind; so a delay that
stays is forgotten in time, too."""


class Pace:
    """One stream's media time against the clock, looked at now and then.  Times are seconds."""

    __slots__ = ("_least", "_looked", "_session", "_time", "behind")

    def __init__(self) -> None:
        self.behind = 0.0
        """How much later than its earliest media the newest came, each by its timestamp."""
        self._session = -1
        self._time = 0.0
        self._looked = 0.0
        self._least: float | None = None
        """Of what the clock was ahead of the media."""

    def look(self, now: float, time: float, session: int) -> None:
        """At ``now`` the stream has got to ``time``; ``session`` is the number of its publisher."""
        if session != self._session:
            self._session, self._time, self._least, self.behind = session, time, None, 0.0
        elif self._least is None and time == self._time:
            pass  # nothing has come of this publisher
        else:
            ahead = now - time
            # A step back of the timestamps says nothing about the line.
            if self._least is None or time < self._time:
                self._least = ahead
            else:
                self._least = min(self._least + DRIFT * (now - self._looked), ahead)
            self._time, self.behind = time, ahead - self._least
        self._looked = now
