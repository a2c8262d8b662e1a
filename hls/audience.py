"""Who watches HLS: players that come and go with every request, counted by their last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from pyrtmp.names import StreamKey

MAX_MEMBERS: Final = 20_000
"""Players remembered at once; beyond it newcomers are served but not counted."""


@dataclass(slots=True)
class Watched:
    """What one player has had so far."""

    since: float
    """Monotonic seconds of its first request."""
    seen: float
    """And of its last one."""
    requests: int = 0
    bytes_out: int = 0


class Audience:
    """A player is an address and a User-Agent; it watches while it asks at least every ``seconds``.

    ``left`` is told of those that do not ask any more: stream, address, User-Agent and what they had.
    """

    def __init__(
        self, seconds: float, left: Callable[[StreamKey, str, str, Watched], None] = lambda *facts: None
    ) -> None:
        self.seconds = seconds
        self._left = left
        self._members: dict[tuple[StreamKey, str, str], Watched] = {}
        self._swept = 0.0
        self._watching: Counter[StreamKey] = Counter()
        self.bytes_out: Counter[StreamKey] = Counter()
        self.requests = 0

    def saw(self, key: StreamKey, address: str, agent: str, sent: int) -> bool:
        """A request was answered with ``sent`` bytes; whether its player is new."""
        member = (key, address, agent)
        now = monotonic()
        watched = self._members.get(member)
        new = watched is None
        if watched is None and len(self._members) < MAX_MEMBERS:
            watched = self._members[member] = Watched(now, now)
            self._watching[key] += 1
        if watched is not None:
            watched.seen = now
            watched.requests += 1
            watched.bytes_out += sent
        self.requests += 1
        self.bytes_out[key] += sent
        if now - self._swept > self.seconds / 2:
            self._sweep(now)
        return new

    def knows(self, key: StreamKey, address: str, agent: str) -> bool:
        """Whether a player watches."""
        watched = self._members.get((key, address, agent))
        return watched is not None and monotonic() - watched.seen < self.seconds

    def members(self) -> list[tuple[StreamKey, str, str]]:
        """The players: stream, address and User-Agent."""
        self._sweep(monotonic())
        return list(self._members)

    def watching(self, key: StreamKey) -> int:
        """Players of a stream, without a look at each of them: some may have left a moment ago."""
        return self.crowds()[key]

    def crowds(self) -> Counter[StreamKey]:
        """The same of all streams; not to be changed."""
        now = monotonic()
        if now - self._swept > self.seconds / 2:
            self._sweep(now)
        return self._watching

    def viewers(self) -> Counter[StreamKey]:
        """Players by stream."""
        return Counter(member[0] for member in self.members())

    def _sweep(self, now: float) -> None:
        self._swept = now
        gone = [(member, each) for member, each in self._members.items() if now - each.seen >= self.seconds]
        for member, each in gone:
            del self._members[member]
            self._left(*member, each)
        self._watching = Counter(member[0] for member in self._members)
        watched = self._watching.keys()
        self.bytes_out = Counter({key: sent for key, sent in self.bytes_out.items() if key in watched})
