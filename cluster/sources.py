"""The source manager as one node uses it: who may publish a stream, and where it is to be had.

Over a registry that all nodes share (``cluster.registry``).  A node that is unknown to others asks nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, Protocol

import structlog

from cluster.config import Config
from cluster.edge.upstreams import Scheme, Upstream, spread
from cluster.placement import Placement
from cluster.registry import Keeper, Lease, NodeRecord, TakenError, connect, parse
from pyrtmp.errors import RefusedError
from pyrtmp.names import StreamKey

_log = structlog.get_logger(__name__)


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


class SourceManager:
    """``record``: this node as of now."""

    def __init__(self, config: Config, publishers: Publishers, record: Callable[[], NodeRecord]) -> None:
        self._config = config
        self._publishers = publishers
        self._copies: set[StreamKey] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.placement = Placement(config.node.group)
        url = config.registry.secret
        self.name = str(parse(url))
        """The registry, without passwords."""
        self.keeper = Keeper(
            connect(url, config.registry.key_prefix),
            record,
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
        """Its publisher left: give back whatever is held, a copy that became this node's own stream, too."""
        if key in self._copies:
            self._copies.discard(key)
            self._do(self.keeper.drop_copy(key))
        if self.keeper.lease(key) is not None:
            self._do(self.keeper.release(key))

    # Where streams are

    async def resolve(self, key: StreamKey) -> Sequence[Upstream]:
        """Nodes to fetch the stream from, the best first.  Does not raise.

        Those that have it: own group first, those that are not draining, the least busy, the owner.  An edge whose
        group has it not asks an origin of its group, which fetches it: one stream between two groups, however many
        edges there are.
        """
        location = await self.keeper.locate(key)
        records = {record.id: record for record in self.keeper.nodes()}
        group, own = self._config.node.group, self._config.node.id
        found: list[tuple[tuple[int, bool, float, bool], Upstream]] = []

        def add(id: str, rtmp: str, home: str, owner: bool) -> None:
            upstream = _upstream(rtmp, id)
            record = records.get(id)
            busy = record.stress if record is not None else 0.0
            if id != own and upstream is not None:
                rank = (2 * (home != group), record is not None and record.draining, round(busy, 1), not owner)
                found.append((rank, upstream))

        if location.owner is not None:
            add(location.owner.node, location.owner.rtmp, location.owner.group, True)
        for copy in location.copies:
            add(copy.node, copy.rtmp, copy.group, False)
        if found and self._config.node.role == "edge" and all(rank[0] for rank, _ in found):
            for record in records.values():
                upstream = _upstream(record.rtmp, record.id)
                if record.role == "origin" and record.group == group and upstream is not None and record.id != own:
                    found.append(((1, record.draining, spread(key, record.id), False), upstream))
        return [upstream for _, upstream in sorted(found, key=lambda each: each[0])]

    async def place(self, key: StreamKey) -> list[Upstream]:
        """Origins that a publisher of the stream should go to, the best first.  Does not raise.

        The one that has the stream already; then own group first, the least busy first.  Nobody who is draining or as
        busy as it should be, unless there is no other.
        """
        location = await self.keeper.locate(key)
        owner = "" if location.owner is None else location.owner.node
        now = monotonic()
        ranked = self.placement.origins(key, self.keeper.nodes(), owner, now)
        found = [(record.id, upstream) for record in ranked if (upstream := _upstream(record.rtmp, record.id))]
        if found and found[0][0] != owner:
            self.placement.sent(found[0][0], "publish", now)
        return [upstream for _, upstream in found]

    # Inside

    def _lost(self, key: StreamKey, winner: Lease | None) -> None:
        _log.warning("stream_lost", stream=str(key), node=None if winner is None else winner.node)
        self._publishers.lose(key)

    def _do(self, work: Coroutine[Any, Any, Any] | Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _upstream(address: str, node: str) -> Upstream | None:
    scheme: Scheme = "rtmps" if address.startswith("rtmps://") else "rtmp"
    host, _, port = address.removeprefix("rtmps://").rpartition(":")
    return Upstream(host.strip("[]"), int(port), node, scheme) if host and port.isdigit() else None
