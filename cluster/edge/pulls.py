"""All the streams that this process pulls: one pull each, whatever the number of viewers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cluster.edge.pull import Claims, Pull, Searches
from cluster.edge.upstreams import Upstreams
from cluster.tls.client import system_context
from pyrtmp.aio.server import Server
from pyrtmp.histogram import Histogram
from pyrtmp.names import StreamKey
from pyrtmp.stream import Stream

DELAY_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
HOPS: Final = ("1", "2", "3 or more")
"""Nodes that a stream came through."""


@dataclass(frozen=True, slots=True)
class PullFacts:
    """What operators see of one pull."""

    key: StreamKey
    upstream: str
    """Address, or "" while none has the stream."""
    seconds: float
    changes: int
    id: str = ""
    """Log lines of this node name it, and those of the upstream, of the session that serves it."""
    node: str = ""
    """The upstream's id, where it said one."""
    delay: float | None = None
    """Seconds from where the stream is published to here (``pyrtmp.delay``); None while that is not known."""
    error: str = ""
    """Why the last upstream was left, or did not deliver."""


class Pulls:
    """See ``pyrtmp.hub.Source``.  ``linger``: seconds that a stream is pulled after its last viewer left.

    ``tls``: what upstreams are verified with.  ``admits``: whether rules of this node say who may play a stream, so
    that upstreams that know it need not ask theirs.
    """

    def __init__(
        self, server: Server, upstreams: Upstreams, *, linger: Callable[[], float], claims: Claims | None = None,
        tls: Callable[[], ssl.SSLContext] = system_context, admits: Callable[[StreamKey], bool] = lambda key: False,
    ) -> None:
        self._server = server
        self._upstreams = upstreams
        self._linger = linger
        self._claims = claims
        self._tls = tls
        self._admits = admits
        self._pulls: dict[StreamKey, Pull] = {}
        self._searches = Searches()
        self._closed = False
        self.started = 0
        """Pulls so far."""
        self._changes = self._failures = 0
        """Of pulls that are over."""
        self.delays: dict[str, Histogram] = {}
        """Measured delays, by ``hops``."""

    def __len__(self) -> int:
        return len(self._pulls)

    def want(self, stream: Stream, query: str = "") -> None:
        """See ``pyrtmp.hub.Source``."""
        pull = self._pulls.get(stream.key)
        if pull is not None:
            pull.renew(stream, query)
        elif not self._closed:
            self.started += 1
            self._pulls[stream.key] = Pull(
                stream, self._server, self._upstreams, query,
                linger=self._linger, claims=self._claims, searches=self._searches, on_end=self._ended,
                on_delay=self._delayed, tls=self._tls, admits=self._admits,
            )

    def look(self, key: StreamKey) -> None:
        """Somebody publishes the stream, or moved it: whoever waits for it need not wait longer."""
        pull = self._pulls.get(key)
        if pull is not None:
            pull.look()

    def give_up(self, key: StreamKey) -> None:
        """Somebody publishes the stream on this machine."""
        pull = self._pulls.get(key)
        if pull is not None:
            pull.give_up()

    @property
    def changes(self) -> int:
        """Times that streams went on from another upstream, so far."""
        return self._changes + sum(pull.changes for pull in self._pulls.values())

    @property
    def failures(self) -> int:
        """Times that an upstream could not be reached, or was lost, so far."""
        return self._failures + sum(pull.failures for pull in self._pulls.values())

    def upstream(self, key: StreamKey) -> str:
        """Where a stream comes from, or ""."""
        pull = self._pulls.get(key)
        return "" if pull is None or pull.upstream is None else str(pull.upstream)

    def facts(self, now: float) -> list[PullFacts]:
        """All of them."""
        return [
            PullFacts(
                pull.key, "" if pull.upstream is None else str(pull.upstream), now - pull.since, pull.changes,
                id=pull.id, node=pull.node, delay=pull.delay, error=pull.error,
            )
            for pull in self._pulls.values()
        ]

    async def close(self) -> None:
        """Stop all."""
        self._closed = True
        if self._pulls:
            await asyncio.gather(*(pull.close() for pull in list(self._pulls.values())))

    def _delayed(self, pull: Pull, seconds: float) -> None:
        hops = HOPS[min(max(pull.hops, 1), len(HOPS)) - 1]
        self.delays.setdefault(hops, Histogram(DELAY_SECONDS)).observe(seconds)

    def _ended(self, pull: Pull) -> None:
        self._changes += pull.changes
        self._failures += pull.failures
        if self._pulls.get(pull.key) is pull:
            del self._pulls[pull.key]
