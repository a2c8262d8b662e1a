"""What a registry does, whatever holds it.

Every write of a lease is compare-and-set on its epoch.  A method raises ``RegistryError`` when the registry does not
answer within about two seconds, ``ValueError`` for a key or record that is not valid (names are validated where they
enter, so that is a bug), ``TakenError`` where it says so, and nothing else.  A caller may be cancelled at any time;
what it asked for may happen all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from cluster.registry.events import Event
from cluster.registry.records import Copy, Lease, Location, NodeRecord, Offer
from pyrtmp.names import StreamKey


class RegistryError(Exception):
    """The registry cannot be asked; ``str()`` is for people and holds no secrets."""


class TakenError(Exception):
    """Somebody else owns the stream."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(f"{lease.key} is published to {lease.node}")
        self.lease = lease
        """The owner's."""


@dataclass(slots=True)
class Renewal:
    """What became of leases that were to be renewed; those in neither list are not known."""

    kept: list[Lease] = field(default_factory=list)
    lost: list[tuple[Lease, Lease | None]] = field(default_factory=list)
    """With the present owner's."""


class Listener(Protocol):
    """Who wants to know.  Called in the event loop; must not raise."""

    def on_event(self, event: Event) -> None:
        """A node told something; one's own events come back, too."""

    def on_back(self) -> None:
        """Events arrive from now on, after they did not: some were missed, and what was written may be lost."""


class Registry(Protocol):
    """The source manager."""

    listeners: list[Listener]

    async def open(self) -> None:
        """Begin to listen.  Does not raise when the registry is away: it may come later."""

    async def close(self) -> None:
        """Listen no more, close the connections."""

    async def claim(
        self, key: StreamKey, offer: Offer, *, seconds: float, over: int | None = None, epoch: int = 0, floor: int = 0
    ) -> Lease:
        """Own a stream for so long.  Raises ``TakenError``.

        A stream of nobody's, or of this node's, is granted with a new epoch above ``floor``; another node's, when
        its epoch is ``over``.  With an ``epoch``, what this node has is written again after the registry lost it:
        it keeps that epoch (or gets a higher one), and wins over another's that is lower.
        """

    async def renew(self, leases: Iterable[Lease], seconds: float) -> Renewal:
        """Own them for so long from now on."""

    async def release(self, lease: Lease) -> bool:
        """Whether it was still this one."""

    async def put_copies(self, copies: Iterable[Copy], seconds: float) -> None:
        """These copies can be had for so long from now on."""

    async def drop_copy(self, key: StreamKey, node: str) -> None:
        """The node has no copy any more."""

    async def lookup(self, key: StreamKey) -> Location:
        """Where the stream is."""

    async def put_node(self, record: NodeRecord, seconds: float) -> bool:
        """The node is there for so long from now on; whether it was until now."""

    async def drop_node(self, id: str) -> None:
        """The node leaves."""

    async def nodes(self) -> list[NodeRecord]:
        """The nodes that are there, by id."""

    async def publish(self, event: Event) -> None:
        """Tell all listeners of all nodes."""
