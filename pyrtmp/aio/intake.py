"""Intake: while rounds are rare, they read the publishers' sockets themselves.

A message that has to wait for its round anyway need not wake the process when it comes.  While the pause between
rounds is long, the kernel is asked to report a publisher's socket only when much has gathered in it (SO_RCVLOWAT),
and every round begins by reading what has come.  One publisher's 75 wake-ups a second become as many as there are
rounds; nothing is read later than its round would have been.
"""

from __future__ import annotations

from typing import Final, Protocol

_START_SECONDS: Final = 0.010
"""From this pause on reading once per round is cheaper than being woken."""

_STOP_SECONDS: Final = 0.006
"""Below it the loop reads again; lower than the above, so that it does not change to and fro."""


_LONGEST_SECONDS: Final = 0.5
"""Above it the loop reads: a publisher must not seem silent (``stream.takeover_seconds``) for want of a round."""


class Source(Protocol):
    """A publisher's connection."""

    def gather(self, on: bool) -> None:
        """Have the kernel keep what comes until much has gathered, or report everything at once again."""

    def read(self) -> None:
        """Take what has come."""


class Intake:
    """The publishers of one process."""

    def __init__(self) -> None:
        self._sources: dict[Source, None] = {}
        self.active = False
        """Whether rounds must come regularly, because they read."""

    def add(self, source: Source) -> None:
        """A connection begins to publish."""
        if source not in self._sources:
            self._sources[source] = None
            if self.active:
                source.gather(True)

    def remove(self, source: Source) -> None:
        """It publishes nothing any more; unknown ones are ignored."""
        if source in self._sources:
            del self._sources[source]
            if self.active:
                source.gather(False)

    def read(self) -> None:
        """Take what has come on every socket."""
        for source in list(self._sources):
            source.read()

    def follow(self, pause: float) -> None:
        """Rounds are ``pause`` seconds apart from now on."""
        shortest = _STOP_SECONDS if self.active else _START_SECONDS
        active = bool(self._sources) and shortest <= pause <= _LONGEST_SECONDS
        if active is not self.active:
            self.active = active
            for source in self._sources:
                source.gather(active)

    def stop(self) -> None:
        """There will be no more rounds: leave reading to the loop."""
        self.follow(0.0)
