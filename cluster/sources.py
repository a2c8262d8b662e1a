"""The source manager as one node uses it: who may publish a stream, and where it is to be had.

Over a registry that all nodes share (``cluster.registry``).  A node that is unknown to others asks nobody.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from hashlib import blake2b
from time import monotonic
from typing import Any, Final, Protocol

import structlog

from cluster.config import Config
from cluster.edge.upstreams import Upstream
from cluster.registry import Keeper, Lease, NodeRecord, TakenError, connect, parse
from pyrtmp.errors import RefusedError
from pyrtmp.names import StreamKey

_MAX_STRESS: Final = 1e6

_log = structlog.get_logger(__name__)


BUSY_SHARE: Final = 0.8
"""A process that takes this part of a core is as busy as it should be."""


RECENT_SECONDS: Final = 5.0
RECENT_STRESS: Final = 0.01
"""What a stream counts that was sent to a node a moment ago."""


class NodeClaims:
    """See ``pyrtmp.aio.publishing.Claims``: where one process takes all publishers of the node."""

    def __init__(self, sources: SourceManager) -> None:
        self._sources = sources

    async def claim(self, key: StreamKey, *, copy: bool = False) -> tuple[int, float] | None:
        await self._sources.claim(key, copy=copy)
        return None

    def release(self, key: StreamKey, time: int) -> None:
        self._sources.release(key)


class Publishers(Protocol):
    """Those of this node."""

    async def challenge(self, key: StreamKey) -> bool:
        """Whether the stream's publisher here lets go of it: it is silent, or there is none."""

    def lose(self, key: StreamKey) -> None:
        """The stream is another node's now: whoever publishes it here stops, viewers stay."""

    def look(self, key: StreamKey) -> None:
        """Another node began to publish the stream: viewers that wait for it need not wait longer."""


class Recent:
    """Streams that were sent to nodes a moment ago, and are not in what these tell of themselves yet."""

    def __init__(self) -> None:
        self._sent: dict[str, deque[float]] = {}

    def add(self, node: str, now: float) -> None:
        """One more."""
        self._sent.setdefault(node, deque(maxlen=1000)).append(now)

    def of(self, node: str, now: float) -> float:
        """Stress that they will make."""
        sent = self._sent.get(node)
        while sent and now - sent[0] > RECENT_SECONDS:
            sent.popleft()
        return RECENT_STRESS * len(sent or ())


class SourceManager:
    """``rtmp``: where other nodes reach this one.  ``stress``: how busy it is, 1 for full."""

    def __init__(
        self, config: Config, publishers: Publishers, *,
        rtmp: str, http: str, stress: Callable[[], float], draining: Callable[[], bool],
    ) -> None:
        self._config = config
        self._publishers = publishers
        self._rtmp = rtmp
        self._http = http
        self._stress = stress
        self._draining = draining
        self._boot = secrets.token_hex(8)
        self._copies: set[StreamKey] = set()
        self._recent = Recent()
        self._tasks: set[asyncio.Task[Any]] = set()
        url = config.registry.secret
        self.name = str(parse(url))
        """The registry, without passwords."""
        self.keeper = Keeper(
            connect(url, config.registry.key_prefix),
            self._record,
            lease_seconds=config.registry.lease_seconds,
            on_lost=self._lost,
            on_challenge=publishers.challenge,
            on_began=publishers.look,
        )

    async def start(self) -> None:
        """Be seen by the others.  A registry that is away is no error: it may come later."""
        await self.keeper.start()
        if not self.keeper.reachable:
            _log.warning("registry_away", registry=self.name)

    async def close(self) -> None:
        """Give everything back."""
        await self.keeper.close()

    def drain(self) -> None:
        """Tell the others at once that this node takes nobody new."""
        self.keeper.touch()

    # Claims

    async def claim(self, key: StreamKey, *, copy: bool) -> None:
        """A client of this node wants to publish; ``copy``: another node does, which owns the stream.

        Raises ``RefusedError``.
        """
        if self._config.node.role == "edge":
            return  # it is passed up to an origin, which owns it
        if copy:
            self._copies.add(key)
            self._do(self.keeper.hold_copy(key, ""))
            return
        try:
            await self.keeper.claim(key, "", "")
        except TakenError as taken:
            raise RefusedError("NetStream.Publish.BadName", f"{key} is already being published.") from taken

    def release(self, key: StreamKey) -> None:
        """Its publisher left."""
        if key in self._copies:
            self._copies.discard(key)
            self._do(self.keeper.drop_copy(key))
        elif self.keeper.lease(key) is not None:
            self._do(self.keeper.release(key))

    # Where streams are

    async def resolve(self, key: StreamKey) -> Sequence[Upstream]:
        """Nodes to fetch the stream from, the best first.  Does not raise.

        Those that have it: own group first, then the ones that are not draining, then the least busy.  An edge whose
        group has it not asks an origin of its group, which fetches it: one stream between two groups, however many
        edges there are.
        """
        location = await self.keeper.locate(key)
        records = {record.id: record for record in self.keeper.nodes()}
        group, own = self._config.node.group, self._config.node.id
        found: list[tuple[tuple[int, bool, bool, float], Upstream]] = []

        def add(id: str, rtmp: str, home: str, owner: bool) -> None:
            upstream = _upstream(rtmp, id)
            record = records.get(id)
            busy = min(record.stress, _MAX_STRESS) if record is not None else 0.0
            if id != own and upstream is not None:
                rank = (2 * (home != group), record is not None and record.draining, not owner, round(busy, 1))
                found.append((rank, upstream))

        if location.owner is not None:
            add(location.owner.node, location.owner.rtmp, location.owner.group, True)
        for copy in location.copies:
            add(copy.node, copy.rtmp, copy.group, False)
        if found and self._config.node.role == "edge" and all(rank[0] for rank, _ in found):
            for record in records.values():
                upstream = _upstream(record.rtmp, record.id)
                if record.role == "origin" and record.group == group and upstream is not None and record.id != own:
                    found.append(((1, record.draining, False, _spread(key, record.id)), upstream))
        return [upstream for _, upstream in sorted(found, key=lambda each: each[0])]

    async def place(self, key: StreamKey) -> list[Upstream]:
        """Origins that a publisher of the stream should go to, the best first.  Does not raise.

        The one that has the stream already; then own group first, the least busy first.  Nobody who is draining or as
        busy as it should be, unless there is no other.
        """
        location = await self.keeper.locate(key)
        owner = "" if location.owner is None else location.owner.node
        now = monotonic()
        found: list[tuple[tuple[bool, bool, bool, float, float], str, Upstream]] = []
        for record in self.keeper.nodes():
            upstream = _upstream(record.rtmp, record.id)
            if record.role == "origin" and upstream is not None:
                stress = record.stress + self._recent.of(record.id, now)
                full = record.draining or stress >= 1
                elsewhere = record.group != self._config.node.group
                rank = (full, record.id != owner, elsewhere, round(stress, 2), _spread(key, record.id))
                found.append((rank, record.id, upstream))
        found.sort(key=lambda each: each[0])
        if found and found[0][1] != owner:
            self._recent.add(found[0][1], now)
        return [upstream for _, _, upstream in found]

    # Inside

    def _record(self) -> NodeRecord:
        node = self._config.node
        return NodeRecord(
            id=node.id, role=node.role, group=node.group, rtmp=self._rtmp, http=self._http,
            stress=max(0.0, min(self._stress(), _MAX_STRESS)), draining=self._draining(), boot=self._boot,
        )

    def _lost(self, key: StreamKey, winner: Lease | None) -> None:
        _log.warning("stream_lost", stream=str(key), node=None if winner is None else winner.node)
        self._publishers.lose(key)

    def _do(self, work: Coroutine[Any, Any, Any] | Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _upstream(address: str, node: str) -> Upstream | None:
    host, _, port = address.rpartition(":")
    return Upstream(host.strip("[]"), int(port), node) if host and port.isdigit() else None


def _spread(key: StreamKey, node: str) -> float:
    """The same order of the nodes at every edge, another one for each stream."""
    return int.from_bytes(blake2b(f"{key} {node}".encode(), digest_size=6).digest()) / (1 << 48)
