"""A registry in one process: for a node alone, or for the nodes of a test that share it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, Generic, TypeVar

from cluster.registry.base import Listener, Renewal, TakenError
from cluster.registry.events import EVENTS, Event
from cluster.registry.records import COPIES, NODES, OFFERS, Copy, Lease, Location, NodeRecord, Offer, key_problem
from pyrtmp.names import StreamKey

MAX_EPOCHS: Final = 16384
"""Streams whose epochs are remembered after they ended."""

Value = TypeVar("Value")


class _Expiring(Generic[Value]):
    """Values that end by themselves."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[str, tuple[Value, float]] = {}
        self._sweep_at = 64

    def get(self, name: str) -> Value | None:
        value, end = self._values.get(name, (None, 0.0))
        return value if self._clock() < end else None

    def put(self, name: str, value: Value, seconds: float) -> bool:
        """Whether there was one."""
        was = self.get(name) is not None
        if len(self._values) >= self._sweep_at:
            self._sweep_at = 2 * len(self.all()) + 64
        self._values[name] = value, self._clock() + seconds
        return was

    def drop(self, name: str) -> None:
        self._values.pop(name, None)

    def all(self) -> list[Value]:
        """By name."""
        now = self._clock()
        self._values = {name: each for name, each in self._values.items() if now < each[1]}
        return [value for _, (value, _) in sorted(self._values.items(), key=lambda item: item[0])]


class MemoryRegistry:
    """See ``cluster.registry.base.Registry``."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.listeners: list[Listener] = []
        self._clock = clock
        self._epochs: dict[StreamKey, int] = {}
        self.forget()

    def forget(self) -> None:
        """Lose everything, as a server that starts again empty."""
        self._epochs.clear()
        self._leases = _Expiring[Lease](self._clock)
        self._copies: dict[StreamKey, _Expiring[Copy]] = {}
        self._nodes = _Expiring[NodeRecord](self._clock)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def claim(
        self, key: StreamKey, offer: Offer, *, seconds: float, over: int | None = None, epoch: int = 0, floor: int = 0
    ) -> Lease:
        """See ``Registry``."""
        _check(key)
        OFFERS.to_json(offer)
        present = self._leases.get(str(key))
        highest = max(self._epochs.get(key, 0), present.epoch if present else 0)
        if present is None:
            granted = epoch if epoch >= highest and epoch else highest + 1
        elif present.node == offer.node:
            granted = max(present.epoch, epoch) if epoch else highest + 1
        elif epoch and (epoch, offer.node) > (present.epoch, present.node):
            granted = epoch
        elif over == present.epoch:
            granted = highest + 1
        else:
            raise TakenError(present)
        granted = granted if epoch else max(granted, floor + 1)
        self._epochs.pop(key, None)
        self._epochs[key] = max(highest, granted)
        if len(self._epochs) > MAX_EPOCHS:
            del self._epochs[next(iter(self._epochs))]
        lease = Lease.of(offer, granted)
        self._leases.put(str(key), lease, seconds)
        return lease

    async def renew(self, leases: Iterable[Lease], seconds: float) -> Renewal:
        """See ``Registry``."""
        renewal = Renewal()
        for lease in leases:
            _check(lease.key)
            present = self._leases.get(str(lease.key))
            if _same(present, lease):
                self._leases.put(str(lease.key), lease, seconds)
                renewal.kept.append(lease)
            else:
                renewal.lost.append((lease, present))
        return renewal

    async def release(self, lease: Lease) -> bool:
        """See ``Registry``."""
        _check(lease.key)
        if not _same(self._leases.get(str(lease.key)), lease):
            return False
        self._leases.drop(str(lease.key))
        return True

    async def put_copies(self, copies: Iterable[Copy], seconds: float) -> None:
        """See ``Registry``."""
        for copy in copies:
            _check(copy.key)
            COPIES.to_json(copy)
            self._copies.setdefault(copy.key, _Expiring(self._clock)).put(copy.node, copy, seconds)

    async def drop_copy(self, key: StreamKey, node: str) -> None:
        """See ``Registry``."""
        _check(key)
        if key in self._copies:
            self._copies[key].drop(node)
            if not self._copies[key].all():
                del self._copies[key]

    async def lookup(self, key: StreamKey) -> Location:
        """See ``Registry``."""
        _check(key)
        copies = self._copies.get(key)
        return Location(self._leases.get(str(key)), tuple(copies.all()) if copies else ())

    async def put_node(self, record: NodeRecord, seconds: float) -> bool:
        """See ``Registry``."""
        NODES.to_json(record)
        return self._nodes.put(record.id, record, seconds)

    async def drop_node(self, id: str) -> None:
        """See ``Registry``."""
        self._nodes.drop(id)

    async def nodes(self) -> list[NodeRecord]:
        """See ``Registry``."""
        return self._nodes.all()

    async def publish(self, event: Event) -> None:
        """See ``Registry``."""
        EVENTS.to_json(event)
        for listener in self.listeners:
            asyncio.get_running_loop().call_soon(listener.on_event, event)


def _check(key: StreamKey) -> None:
    if wrong := key_problem(key):
        raise ValueError(f"not the key of a stream: {wrong}")


def _same(present: Lease | None, lease: Lease) -> bool:
    return present is not None and (present.node, present.epoch) == (lease.node, lease.epoch)
