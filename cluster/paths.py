"""How good the ways to clients are, by looking at some of their sockets every second (``pyrtmp.tcpinfo``)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final, Protocol

from pyrtmp.histogram import Histogram
from pyrtmp.tcpinfo import TcpInfo

LOOKS: Final = 50
"""Sockets of one sample: about half a millisecond, however many clients there are.  In five minutes, which alerts look
at, that is 15,000."""

KINDS: Final = ("publish", "rtmp", "flv")
"""Publishers, and viewers by protocol.  HLS players come by connections that are not theirs alone."""

ROUND_TRIP_SECONDS: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
RESENT_SHARE: Final = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Players notice from some hundredths on."""

_WORD: Final = 1 << 32


class Client(Protocol):
    """A ``pyrtmp.aio.server.Client``."""

    @property
    def protocol(self) -> str: ...

    @property
    def role(self) -> str: ...

    def path(self) -> TcpInfo | None: ...


class Paths:
    """Goes around ``clients``, ``LOOKS`` at every sample."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self.round_trips: dict[str, Histogram] = {}
        """Seconds, by kind of client; one observation for each look."""
        self.resent: dict[str, Histogram] = {}
        """What part of the segments sent to a viewer since the look before was sent again."""
        self._clients = clients
        self._next = 0
        self._seen: dict[str, tuple[int, int]] = {}
        """Segments, and those sent again, at the last look."""

    def sample(self) -> None:
        """Look at the next clients.  One that comes or goes meanwhile may move another out of its turn."""
        group = list(islice(self._clients.items(), self._next, self._next + LOOKS))
        self._next += len(group)
        for id, client in group:
            kind = "publish" if client.role == "publish" else client.protocol
            if kind != "publish" and client.role != "play":
                continue
            info = client.path()
            if info is not None:
                self._count(id, kind, info)
        if self._next >= len(self._clients):
            self._next = 0
            self._seen = {id: seen for id, seen in self._seen.items() if id in self._clients}

    def _count(self, id: str, kind: str, info: TcpInfo) -> None:
        if info.round_trip:
            self.round_trips.setdefault(kind, Histogram(ROUND_TRIP_SECONDS)).observe(info.round_trip)
        if kind == "publish":
            return  # nothing much is sent there
        segments, resent = self._seen.get(id, (0, 0))
        self._seen[id] = info.segments, info.resent
        sent = (info.segments - segments) % _WORD
        if sent:
            share = (info.resent - resent) % _WORD / sent
            self.resent.setdefault(kind, Histogram(RESENT_SHARE)).observe(min(share, 1.0))
