"""Who should serve: which of the nodes a newcomer is sent to."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

from cluster.edge.upstreams import Kind, spread
from cluster.openapi.answers import PlaceAnswer
from cluster.registry import NodeRecord
from pyrtmp.names import StreamKey

IDLE_STRESS: Final = 0.3
"""Less than this says nothing: nodes that have little to do are alike, and take turns."""

RECENT_SECONDS: Final = 5.0
RECENT_STRESS: Final[dict[Kind, float]] = {"publish": 0.01, "play": 0.0005}
"""What somebody counts who was sent to a node a moment ago."""


class NobodyError(Exception):
    """No node may take a newcomer; ``str()`` says why."""


class Recent:
    """What was sent to nodes a moment ago, and is not in what these tell of themselves yet."""

    def __init__(self) -> None:
        self._sent: dict[str, deque[tuple[float, float]]] = {}
        self._last: dict[str, float] = {}

    def add(self, node: str, now: float, stress: float) -> None:
        """One more."""
        self._sent.setdefault(node, deque(maxlen=1000)).append((now, stress))
        self._last[node] = now

    def of(self, node: str, now: float) -> float:
        """Stress that they will make."""
        sent = self._sent.get(node)
        while sent and now - sent[0][0] > RECENT_SECONDS:
            sent.popleft()
        return sum(stress for _, stress in sent or ())

    def last(self, node: str) -> float:
        """When somebody was sent there last; 0: never."""
        return self._last.get(node, 0.0)


class Placement:
    """Chooses nodes as one of them sees it, which is in ``group``."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._recent = Recent()

    def sent(self, node: str, kind: Kind, now: float) -> None:
        """Somebody goes there."""
        self._recent.add(node, now, RECENT_STRESS[kind])

    def full(self, node: NodeRecord, now: float) -> bool:
        """Whether it takes nobody new: it is draining, or as busy as it should be."""
        return node.draining or node.stress + self._recent.of(node.id, now) >= 1

    def origins(self, key: StreamKey, nodes: Iterable[NodeRecord], owner: str, now: float) -> list[NodeRecord]:
        """Origins for the publisher of a stream, the best first.

        The one that owns the stream already; then own group first, the least busy first, in turn.  Full ones last.
        """
        origins = [node for node in nodes if node.role == "origin"]
        return sorted(
            origins, key=lambda node: (self.full(node, now), node.id != owner, *self._order(key, node, now))
        )

    def players(
        self, key: StreamKey, nodes: Iterable[NodeRecord], holders: Collection[str], now: float
    ) -> list[NodeRecord]:
        """Nodes for a viewer of a stream, the best first: edges, own group first, then ``holders``, which have it.

        The least busy first, in turn.  Full ones last.
        """
        able = [node for node in nodes if node.role == "edge" or node.id in holders]
        return sorted(
            able, key=lambda node: (self.full(node, now), node.role != "edge", *self._order(key, node, now))
        )

    def choose(self, ranked: Iterable[NodeRecord], kind: Kind, now: float) -> NodeRecord:
        """The first one, which gets one more.  Raises ``NobodyError``."""
        best = next(iter(ranked), None)
        if best is None:
            what = "origin" if kind == "publish" else "edge, and no node that has the stream"
            raise NobodyError(f"there is no {what}")
        if self.full(best, now):
            raise NobodyError("all nodes that could take it are draining or busy")
        self.sent(best.id, kind, now)
        return best

    def _order(self, key: StreamKey, node: NodeRecord, now: float) -> tuple[bool, float, float, float]:
        stress = round(max(node.stress, IDLE_STRESS), 2) + self._recent.of(node.id, now)
        return node.group != self._group, round(stress, 6), self._recent.last(node.id), spread(key, node.id)


def urls(node: NodeRecord, key: StreamKey, prefix: str = "") -> PlaceAnswer:
    """Where to publish or play a stream at a node; ``prefix``: what paths begin with there."""
    http = f"http://{node.http}{prefix}/{key}" if node.http else None
    return {
        "node": node.id,
        "rtmp": f"{'' if '://' in node.rtmp else 'rtmp://'}{node.rtmp}/{key}",
        "flv": http and f"{http}.flv",
        "hls": http and f"{http}.m3u8",
    }
