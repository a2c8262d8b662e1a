"""Intake: a publisher's socket is read when it is time for what it brings, not for every message.

A viewer wants each message at once, so the loop reads a publisher as soon as something has come: 75 wake-ups a second.
Fewer do where nobody is kept waiting by that:

* Rounds are rare.  What comes has to wait for one anyway, so every round begins by reading the publishers.
* Nobody watches.  Of many publishers those without a viewer are read *at leisure*, a few times a second, until
  somebody begins to watch.

Meanwhile the kernel reports a publisher's socket only at its end or when much has gathered in it (SO_RCVLOWAT).
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

MANY: Final = 8
"""From so many publishers on those without a viewer are read at leisure; a few are not worth another timer."""

LEISURE_SECONDS: Final = 0.2
"""How long one without a viewer is left unread (SRS reads publishers every 350 ms)."""

BATCH: Final = 16
"""Most publishers read in one go at leisure: a millisecond or two, for which everybody else waits."""

_START_SECONDS: Final = 0.010
"""From this pause on reading once per round is cheaper than being woken."""

_STOP_SECONDS: Final = 0.006
"""Below it the loop reads again; lower than the above, so that it does not change to and fro."""

_LONGEST_SECONDS: Final = 0.5
"""Above it the loop reads: a publisher must not seem silent (``stream.takeover_seconds``) for want of a round."""


class Source(Protocol):
    """A publisher's connection."""

    @property
    def watched(self) -> bool:
        """Whether anybody wants what it publishes."""

    def gather(self, on: bool) -> None:
        """Have the kernel keep what comes until much has gathered, or report everything at once again."""

    def read(self) -> None:
        """Take what has come."""


class Intake:
    """The publishers of one process."""

    def __init__(self) -> None:
        self.active = False
        """Whether rounds must come regularly, because they read."""
        self._sources: dict[Source, bool] = {}
        """Whether they are in a hurry: read by rounds or the loop.  The others are read at leisure."""
        self._turn: list[Source] = []
        """Those still to be looked at before the first one's turn comes again."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, source: Source) -> None:
        """A connection begins to publish."""
        if source not in self._sources:
            self._sources[source] = True
            if self.active:
                source.gather(True)
            if self._timer is None and len(self._sources) >= MANY:
                self._schedule(LEISURE_SECONDS)

    def remove(self, source: Source) -> None:
        """It publishes nothing any more; unknown ones are ignored."""
        hurried = self._sources.pop(source, None)
        if hurried is not None and (self.active or not hurried):
            source.gather(False)

    def hurry(self, publisher: object) -> None:
        """Somebody begins to watch ``publisher``, which may be none of these: its turn to be looked at is too late."""
        self._set_hurried(cast(Source, publisher), True)

    def read(self) -> None:
        """Take what has come from those in a hurry."""
        for source in [source for source, hurried in self._sources.items() if hurried]:
            source.read()

    def follow(self, pause: float) -> None:
        """Rounds are ``pause`` seconds apart from now on."""
        shortest = _STOP_SECONDS if self.active else _START_SECONDS
        active = bool(self._sources) and shortest <= pause <= _LONGEST_SECONDS
        if active is not self.active:
            self.active = active
            for source, hurried in self._sources.items():
                if hurried:
                    source.gather(active)

    def stop(self) -> None:
        """There will be no more rounds: leave reading to the loop."""
        self.follow(0.0)
        if self._timer is not None:
            self._timer.cancel()
            self._end_leisure()

    # At leisure

    def _schedule(self, pause: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(pause, self._look)

    def _look(self) -> None:
        """Look at the next few publishers, and read those that nobody watches."""
        if len(self._sources) < MANY:
            self._end_leisure()
            return
        if not self._turn:
            self._turn = list(self._sources)
        batch, self._turn = self._turn[:BATCH], self._turn[BATCH:]
        self._schedule(LEISURE_SECONDS * len(batch) / len(self._sources))
        for source in batch:
            if source in self._sources:  # it may have gone meanwhile
                watched = source.watched
                self._set_hurried(source, watched)
                if not watched:
                    source.read()

    def _end_leisure(self) -> None:
        self._timer = None
        self._turn.clear()
        for source in self._sources:
            self._set_hurried(source, True)

    def _set_hurried(self, source: Source, hurried: bool) -> None:
        if self._sources.get(source, hurried) is not hurried:
            self._sources[source] = hurried
            if not self.active:
                source.gather(not hurried)
