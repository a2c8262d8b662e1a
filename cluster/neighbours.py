"""The cluster as operators, encoders and players of one node see it; a node without a registry is all there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from cluster.edge.upstreams import Kind
from cluster.placement import NobodyError, Placement
from cluster.registry import Location, NodeRecord
from cluster.sources import SourceManager
from pyrtmp.names import StreamKey


@dataclass(frozen=True, slots=True)
class RegistryFacts:
    """What operators see of the registry."""

    name: str
    """Its URL without passwords."""
    up: bool
    """Whether it answered the last time it was asked."""


class Neighbours:
    """``record``: this node as of now.  ``busy``: whether it turns newcomers away.  ``prefix``: what viewers' paths
    begin with, at all nodes."""

    def __init__(
        self, record: Callable[[], NodeRecord], *, busy: Callable[[], bool] = lambda: False, prefix: str = ""
    ) -> None:
        self.prefix = prefix
        self.sources: SourceManager | None = None
        """Once this node is known to others."""
        self._record = record
        self._busy = busy
        self._alone = Placement("")

    @property
    def stress(self) -> float:
        """Of this node."""
        return self._record().stress

    @property
    def registry(self) -> RegistryFacts | None:
        """None where there is none."""
        if self.sources is None:
            return None
        return RegistryFacts(self.sources.name, self.sources.keeper.reachable)

    def nodes(self) -> list[NodeRecord]:
        """Those that are known, this one included, by name."""
        own = self._record()
        others = () if self.sources is None else self.sources.keeper.nodes()
        return sorted([own, *(each for each in others if each.id != own.id)], key=lambda node: node.id)

    async def locate(self, key: StreamKey) -> Location:
        """Where the registry says that a stream is; nowhere where there is none."""
        return Location() if self.sources is None else await self.sources.keeper.locate(key)

    async def place(self, key: StreamKey, kind: Kind) -> NodeRecord:
        """The node that should take a publisher or a viewer of a stream.  Raises ``NobodyError``."""
        return await self._place(key, kind, self.nodes())

    async def elsewhere(self, key: StreamKey) -> str:
        """Where a viewer should go that this node should not take: ``http://host:port``, or ""."""
        own = self._record()
        if not own.draining and own.stress < 1 and not self._busy():
            return ""
        others = [node for node in self.nodes() if node.id != own.id and node.http]
        try:
            return f"http://{(await self._place(key, 'play', others)).http}"
        except NobodyError:
            return ""

    async def _place(self, key: StreamKey, kind: Kind, nodes: list[NodeRecord]) -> NodeRecord:
        now = monotonic()
        if self.sources is None:
            return self._alone.choose(nodes, kind, now)
        placement = self.sources.placement
        location = await self.sources.keeper.locate(key)
        if kind == "publish":
            owner = "" if location.owner is None else location.owner.node
            return placement.choose(placement.origins(key, nodes, owner, now), kind, now)
        return placement.choose(placement.players(key, nodes, _holders(location), now), kind, now)


def _holders(location: Location) -> set[str]:
    owner = set() if location.owner is None else {location.owner.node}
    return owner | {copy.node for copy in location.copies}
