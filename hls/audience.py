"""Who watches HLS: players that come and go with every request, counted by their last one."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import Final

from pyrtmp.names import StreamKey

MAX_MEMBERS: Final = 20_000
"""Players remembered at once; beyond it newcomers are served but not counted."""


class Audience:
    """A player is an address and a User-Agent; it watches while it asks at least every ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._members: dict[tuple[StreamKey, str, str], float] = {}
        self._swept = 0.0
        self.bytes_out: Counter[StreamKey] = Counter()
        self.requests = 0

    def saw(self, key: StreamKey, address: str, agent: str, sent: int) -> bool:
        """A request was answered with ``sent`` bytes; whether its player is new."""
        member = (key, address, agent)
        now = monotonic()
        new = member not in self._members
        if not new or len(self._members) < MAX_MEMBERS:
            self._members[member] = now
        self.requests += 1
        self.bytes_out[key] += sent
        if now - self._swept > self.seconds / 2:
            self._sweep(now)
        return new

    def knows(self, key: StreamKey, address: str, agent: str) -> bool:
        """Whether a player watches."""
        seen = self._members.get((key, address, agent))
        return seen is not None and monotonic() - seen < self.seconds

    def members(self) -> list[tuple[StreamKey, str, str]]:
        """The players: stream, address and User-Agent."""
        self._sweep(monotonic())
        return list(self._members)

    def viewers(self) -> Counter[StreamKey]:
        """Players by stream."""
        return Counter(member[0] for member in self.members())

    def _sweep(self, now: float) -> None:
        self._swept = now
        self._members = {member: seen for member, seen in self._members.items() if now - seen < self.seconds}
        watched = {member[0] for member in self._members}
        self.bytes_out = Counter({key: sent for key, sent in self.bytes_out.items() if key in watched})
