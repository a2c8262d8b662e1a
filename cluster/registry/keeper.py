"""One node's dealings with the registry, all off the media path.

The registry may die and nobody's picture stops: what is held is kept, claims are granted here, look-ups get the last
answer.  When it is back everything is claimed again, and of two owners the one with the higher epoch stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import structlog

from cluster.registry.base import Registry, RegistryError, TakenError
from cluster.registry.challenges import ALIVE_SECONDS, Challenges, Verdict
from cluster.registry.events import Began, Copied, Draining, Ended, Event
from cluster.registry.locating import Locator
from cluster.registry.locks import Locks
from cluster.registry.records import Copy, Lease, Location, NodeRecord, Offer
from pyrtmp.names import StreamKey

NODE_SECONDS: Final = 4.0
"""A node that was not heard of for so long is not there."""
HEARTBEAT_SECONDS: Final = 1.0
TICK_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 0.5
"""Pause before what could not be renewed is tried again."""
CLOSE_SECONDS: Final = 1.0
"""Claims that are under way when the keeper is closed have so long."""
MAX_KNOWN: Final = 16384
"""Streams whose last epoch is remembered."""
MAX_UNSENT: Final = 4096
"""Events that wait to be sent; any more are left out."""
_ROUNDS: Final = 3
_AT_ONCE: Final = 32

_log = structlog.get_logger(__name__)


def clock() -> float:
    """Monotonic seconds; on Linux those of a machine that slept count, too: its leases ended meanwhile."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


@dataclass(slots=True)
class _Held:
    lease: Lease
    confirmed: float
    """When the registry was last asked for what it granted."""
    local: bool = False
    """Granted here while the registry was away."""
    doubtful: bool = False
    """It may have ended while this process stood still."""


class Keeper:
    """Holds this node's leases and copies, and knows the other nodes.

    ``node()`` is this node's record as of now.  ``on_lost(key, winner)`` says that a stream is another's from now on.
    ``on_challenge(key)`` asks whether the publisher of a stream here lets go of it (then the keeper releases it, and
    ``on_lost`` is not called).  ``on_began(key)`` says that a stream began on another node.
    """

    def __init__(
        self,
        registry: Registry,
        node: Callable[[], NodeRecord],
        *,
        lease_seconds: float = 10.0,
        on_lost: Callable[[StreamKey, Lease | None], None],
        on_challenge: Callable[[StreamKey], Awaitable[bool]],
        on_began: Callable[[StreamKey], None],
        alive_seconds: float = ALIVE_SECONDS,
        clock: Callable[[], float] = clock,
    ) -> None:
        self._registry = registry
        self._node = node
        self._id = node().id
        self._seconds = lease_seconds
        self._margin = min(lease_seconds / 10, 1.0)
        self._on_lost = on_lost
        self._on_challenge = on_challenge
        self._on_began = on_began
        self._clock = clock
        self._held: dict[StreamKey, _Held] = {}
        self._copies: dict[StreamKey, Copy] = {}
        self._known: dict[StreamKey, int] = {}
        self._locks = Locks()
        self._locator = Locator(registry, clock)
        self._challenges = Challenges(registry, self._id, self._decide, alive_seconds=alive_seconds)
        self._nodes: tuple[NodeRecord, ...] = ()
        self._was_draining = False
        self._was_there = False
        """Whether this node's record was written since the registry was away."""
        self._trouble = -math.inf
        """When the registry was last away, or forgot something."""
        self._ticked = clock()
        self._unsent: asyncio.Queue[Event] = asyncio.Queue(MAX_UNSENT)
        self._renew_now = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.reachable = False
        """Whether the registry answered the last time it was asked."""

    async def start(self) -> None:
        """Open the registry and be seen.  Does not raise when the registry is away."""
        self._ticked = self._clock()
        self._registry.listeners.append(self)
        await self._registry.open()
        with contextlib.suppress(RegistryError):
            await self._beat()
            self._trouble = -math.inf
        loops = (self._tick(), self._keep_renewed(), self._keep_seen(), self._send_events())
        self._loops = [asyncio.create_task(each) for each in loops]

    async def close(self) -> None:
        """Give everything back, as far as the registry can be reached, and close it."""
        for loop in self._loops:
            loop.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        self._loops = []
        await self._challenges.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
        for task in self._tasks:  # the registry's commands are not cancelled with them
            task.cancel()
        with contextlib.suppress(RegistryError):
            await self._in_turn(self._release_last, list(self._held))
            await self._in_turn(self._drop_copy_last, list(self._copies))
            await self._registry.drop_node(self._id)
        self._held.clear()
        self._copies.clear()
        if self in self._registry.listeners:
            self._registry.listeners.remove(self)
        await self._registry.close()

    # Streams of this node

    async def claim(self, key: StreamKey, publisher: str, lineage: str) -> Lease:
        """Own a stream.  Raises ``TakenError``; without a registry, everybody gets what he asks for."""
        task = self._spawn(self._claim(key, publisher, lineage))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._spawn(self._give_back(task))
            raise

    async def release(self, key: StreamKey, epoch: int | None = None) -> None:
        """Own it no more; with an ``epoch``, unless it was claimed once more since.  Does not raise."""
        await asyncio.shield(self._spawn(self._release(key, epoch)))

    def lease(self, key: StreamKey) -> Lease | None:
        """What this node has."""
        held = self._held.get(key)
        return None if held is None else held.lease

    @property
    def leases(self) -> list[Lease]:
        """All that this node has."""
        return [held.lease for held in self._held.values()]

    def fenced(self, key: StreamKey) -> bool:
        """Whether this node must not serve the stream as its owner: it is not, or stood still for so long that
        somebody else may be, and has not asked yet."""
        self._look()
        held = self._held.get(key)
        return held is None or held.doubtful

    def expired(self, now: float | None = None) -> list[StreamKey]:
        """Streams whose leases have ended as far as the registry is concerned: it is away, or they are fenced."""
        now = self._clock() if now is None else now
        return [key for key, held in self._held.items() if now - held.confirmed > self._seconds]

    async def hold_copy(self, key: StreamKey, lineage: str) -> None:
        """This node has a forwarded copy.  Does not raise."""
        record = self._node()
        copy = Copy(key=key, node=self._id, lineage=lineage, rtmp=record.rtmp, http=record.http, group=record.group)
        self._copies[key] = copy
        with contextlib.suppress(RegistryError):
            await self._registry.put_copies([copy], self._seconds)
            self._tell(Copied(key, self._id))

    async def drop_copy(self, key: StreamKey) -> None:
        """This node has it no more.  Does not raise."""
        if self._copies.pop(key, None) is not None:
            with contextlib.suppress(RegistryError):
                await self._registry.drop_copy(key, self._id)

    # The others

    async def locate(self, key: StreamKey) -> Location:
        """Where a stream is, as far as is known.  Does not raise."""
        location = await self._locator.locate(key)
        owner = location.owner
        held = self._held.get(key)
        if owner is not None:
            self._learn(key, owner.epoch)
        if held is not None:
            return replace(location, owner=held.lease)
        if owner is not None and self._ended(owner, self._nodes):
            return replace(location, owner=None)
        return location

    def nodes(self) -> tuple[NodeRecord, ...]:
        """The nodes as of about a second ago, or as they were last known."""
        return self._nodes

    def touch(self) -> None:
        """This node's record changed: tell it now."""
        self._beat_now.set()

    # cluster.registry.base.Listener

    def on_event(self, event: Event) -> None:
        """Another node, or this one, told something."""
        match event:
            case Began(key=key, node=node, epoch=epoch):
                self._locator.drop(key)
                self._learn(key, epoch)
                if node != self._id:
                    if (held := self._held.get(key)) is not None and epoch >= held.lease.epoch:
                        self._renew_now.set()
                    self._call(self._on_began, key)
            case Ended(key=key) | Copied(key=key):
                self._locator.drop(key)
            case Draining(node=node):
                self._nodes = tuple(replace(each, draining=each.draining or each.id == node) for each in self._nodes)
            case _:
                self._challenges.on_event(event)

    def on_back(self) -> None:
        """Events were missed, and the registry may have forgotten everything."""
        self._trouble = self._clock()
        self._locator.drop_all()
        self._renew_now.set()
        self._beat_now.set()

    # Claims

    async def _claim(self, key: StreamKey, publisher: str, lineage: str) -> Lease:
        record = self._node()
        offer = Offer(
            key=key,
            node=self._id,
            publisher=publisher,
            lineage=lineage,
            rtmp=record.rtmp,
            http=record.http,
            group=record.group,
            boot=record.boot,
        )
        async with self._locks.hold(key):
            over: int | None = None
            owner: Lease | None = None
            for _ in range(_ROUNDS):
                sent = self._clock()
                try:
                    lease = await self._ask(key, offer, over)
                except TakenError as taken:
                    owner = taken.lease
                    self._learn(key, owner.epoch)
                    if not await self._lets_go(owner):
                        raise
                    over = owner.epoch
                except RegistryError as error:
                    self._away(error)
                    return self._hold(Lease.of(offer, self._known.get(key, 0) + 1), sent, local=True)
                else:
                    return self._hold(lease, sent)
            assert owner is not None
            raise TakenError(owner)  # of many who took it over, another one was faster

    async def _ask(self, key: StreamKey, offer: Offer, over: int | None) -> Lease:
        """Claim; a connection that has just ended is no reason to do without the registry."""
        begun = self._clock()
        for again in (True, False):
            try:
                return await self._registry.claim(
                    key, offer, seconds=self._seconds, over=over, floor=self._known.get(key, 0)
                )
            except RegistryError:
                if not again or self._clock() - begun > RETRY_SECONDS:
                    raise
        raise AssertionError

    def _hold(self, lease: Lease, sent: float, *, local: bool = False) -> Lease:
        self._held[lease.key] = _Held(lease, sent, local)
        self._learn(lease.key, lease.epoch)
        self._locator.drop(lease.key)
        self._tell(Began(lease.key, self._id, lease.epoch))
        return lease

    async def _lets_go(self, owner: Lease) -> bool:
        """Whether another node's stream is to be had."""
        try:
            nodes = await self._registry.nodes()
        except RegistryError:
            return False
        if self._ended(owner, nodes):
            return True
        # After trouble the others may not have told of themselves again, nor hear events.
        steady = self._clock() - self._trouble > NODE_SECONDS
        if steady and all(each.id != owner.node for each in nodes):
            return True
        return await self._challenges.lets_go(owner, steady=steady)

    @staticmethod
    def _ended(owner: Lease, nodes: Iterable[NodeRecord]) -> bool:
        """Whether the process that claimed the stream is another one now."""
        return any(each.id == owner.node and each.boot != owner.boot for each in nodes)

    async def _decide(self, key: StreamKey) -> Verdict:
        """Another node wants a stream that it thinks is this node's."""
        held = self._held.get(key)
        if held is None:
            return "yields"
        try:
            yields = await self._on_challenge(key)
        except Exception:
            _log.exception("a challenge was not answered", stream=str(key))
            return "refuses"
        now = self._held.get(key)
        if not yields or (now is not None and now.lease.epoch != held.lease.epoch):
            return "refuses"
        await self._release(key, held.lease.epoch)
        return "yields"

    async def _give_back(self, claim: asyncio.Task[Lease]) -> None:
        """Nobody waits for that lease any more."""
        with contextlib.suppress(TakenError):
            lease = await claim
            await self._release(lease.key, lease.epoch)

    async def _release(self, key: StreamKey, epoch: int | None = None) -> None:
        async with self._locks.hold(key):
            with contextlib.suppress(RegistryError):
                await self._release_last(key, epoch)

    async def _release_last(self, key: StreamKey, epoch: int | None = None) -> None:
        held = self._held.get(key)
        if held is None or (epoch is not None and held.lease.epoch != epoch):
            return
        del self._held[key]
        self._locator.drop(key)
        if await self._registry.release(held.lease):
            ended = Ended(key, self._id, held.lease.epoch)
            if self._loops:
                self._tell(ended)
            else:
                await self._registry.publish(ended)

    async def _drop_copy_last(self, key: StreamKey) -> None:
        await self._registry.drop_copy(key, self._id)

    # Renewal

    async def _keep_renewed(self) -> None:
        pause = self._seconds / 3
        while True:
            await self._wait(self._renew_now, pause * random.uniform(0.9, 1.0))
            try:
                await self._renew()
                pause = self._seconds / 3
            except RegistryError as error:
                self._away(error)
                pause = min(RETRY_SECONDS, self._seconds / 3)

    async def _renew(self) -> None:
        """Raises ``RegistryError`` when something could not be renewed."""
        sent = self._clock()
        written = [held.lease for held in self._held.values() if not held.local]
        again = [key for key, held in self._held.items() if held.local]
        known = 0
        if written:
            renewal = await self._registry.renew(written, self._seconds)
            for lease in renewal.kept:
                held = self._held.get(lease.key)
                if held is not None and held.lease is lease:
                    held.confirmed = sent
                    held.doubtful = False
            again += [lease.key for lease, _ in renewal.lost]
            known = len(renewal.kept) + len(renewal.lost)
        await self._in_turn(self._reassert, again)
        if self._copies:
            await self._registry.put_copies(list(self._copies.values()), self._seconds)
        if known < len(written):
            raise RegistryError(f"{len(written) - known} leases could not be renewed")
        if written or again or self._copies:
            self._here()

    async def _reassert(self, key: StreamKey) -> None:
        """Claim again what the registry does not have."""
        if self._locks.busy(key):  # perhaps with a challenge, which takes long: next time, if it is still held then
            return
        async with self._locks.hold(key):
            held = self._held.get(key)
            if held is None:
                return
            sent = self._clock()
            try:
                lease = await self._registry.claim(key, held.lease.offer, seconds=self._seconds, epoch=held.lease.epoch)
            except TakenError as taken:
                del self._held[key]
                self._locator.drop(key)
                self._learn(key, taken.lease.epoch)
                _log.warning("another node has the stream", stream=str(key), node=taken.lease.node)
                self._call(self._on_lost, key, taken.lease)
                return
            if lease.epoch != held.lease.epoch or held.local:
                self._tell(Began(key, self._id, lease.epoch))
            held.lease = lease
            held.confirmed = sent
            held.local = held.doubtful = False
            self._learn(key, lease.epoch)

    # This process

    async def _tick(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(min(TICK_SECONDS, self._seconds / 20))

    def _look(self) -> None:
        """Whether this process stood still while a lease ended."""
        now = self._clock()
        gap = now - self._ticked
        self._ticked = now
        limit = self._seconds - self._margin
        if gap < min(1.0, limit / 4):
            return
        for held in self._held.values():
            age = now - held.confirmed
            if not held.local and age > limit >= age - gap:
                held.doubtful = True
        self._renew_now.set()
        self._beat_now.set()

    # Nodes

    async def _keep_seen(self) -> None:
        while True:
            await self._wait(self._beat_now, HEARTBEAT_SECONDS * random.uniform(0.9, 1.0))
            try:
                await self._beat()
            except RegistryError as error:
                self._was_there = False
                self._away(error)

    async def _beat(self) -> None:
        record = self._node()
        known = await self._registry.put_node(record, NODE_SECONDS)
        if self._was_there and not known:  # everything is lost, or this process stood still
            self._trouble = self._clock()
            self._renew_now.set()
        self._was_there = True
        if record.draining and not self._was_draining:
            self._tell(Draining(record.id))
        self._was_draining = record.draining
        self._nodes = tuple(await self._registry.nodes())
        self._here()

    def _here(self) -> None:
        if not self.reachable:
            self.reachable = True
            self._renew_now.set()
            _log.info("the registry answers")

    def _away(self, error: RegistryError) -> None:
        self._trouble = self._clock()
        if self.reachable:
            self.reachable = False
            _log.warning("the registry is away; streams go on", why=str(error))

    # Helpers

    def _learn(self, key: StreamKey, epoch: int) -> None:
        highest = max(epoch, self._known.pop(key, 0))
        self._known[key] = highest
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def _tell(self, event: Event) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._unsent.put_nowait(event)

    async def _send_events(self) -> None:
        while True:
            event = await self._unsent.get()
            with contextlib.suppress(RegistryError):  # the others find out a little later
                await self._registry.publish(event)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            _log.exception("what the registry told was not taken in")

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # is known now, whether or not somebody waits

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        """Until ``event``, which is taken, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        event.clear()

    @staticmethod
    async def _in_turn(work: Callable[[StreamKey], Awaitable[None]], keys: Iterable[StreamKey]) -> None:
        """Some at once.  Raises the first ``RegistryError``, and begins no more then."""
        rest = iter(keys)
        while some := list(islice(rest, _AT_ONCE)):
            for result in await asyncio.gather(*map(work, some), return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
