"""The registry in Redis: alone, behind Sentinels, or a Cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import NoScriptError

from cluster.registry import scripts
from cluster.registry.base import Listener, RegistryError, Renewal, TakenError
from cluster.registry.clients import Clients
from cluster.registry.events import EVENTS, Event
from cluster.registry.listening import Subscription
from cluster.registry.records import (
    COPIES,
    MAX_BYTES,
    NODES,
    OFFERS,
    Codec,
    Copy,
    Lease,
    Location,
    NodeRecord,
    Offer,
    key_problem,
)
from cluster.registry.scripts import Script
from cluster.registry.urls import Target, check_prefix
from pyrtmp.names import StreamKey

SECONDS: Final = 2.0
"""Longest wait for an answer: a connection that must be made first, and an answer."""
MAX_COPIES: Final = 64
MAX_NODES: Final = 1024
_SLOTS: Final = 8
"""Commands at once, each on its own connection; the others wait."""
_BATCH: Final = 256
_CLUSTER_BATCH: Final = 16

_LEASE: Final = re.compile(rb"([0-9]{1,15}) ([A-Za-z0-9._-]{1,64}) (\{.*)", re.DOTALL)

Result = TypeVar("Result")
Record = TypeVar("Record")
Call = tuple[tuple[str, ...], tuple[str | bytes | int, ...]]
"""Keys and arguments of a script."""


class RedisRegistry:
    """See ``cluster.registry.base.Registry``."""

    def __init__(self, target: Target, prefix: str) -> None:
        self.listeners: list[Listener] = []
        self._target = target
        self._keys = Keys(prefix)
        self._clients = Clients(target)
        self._client: Any = None
        self._subscription = Subscription(self._clients.listener, self._keys.channel, self._received, self._up)
        self._slots = asyncio.Semaphore(_SLOTS)
        self._many = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<RedisRegistry {self._target}>"

    async def open(self) -> None:
        """See ``Registry``."""
        if self._client is None:
            self._client = self._clients.commands()
            await self._subscription.open()

    async def close(self) -> None:
        """See ``Registry``."""
        await self._subscription.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SECONDS)
        self._client = None
        # redis-py connects again to what is closed: what a server that hangs still holds up ends first.  Until it has
        # ended, as in Subscription.close().
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=0.1)
        await self._clients.close()

    # Leases

    async def claim(
        self, key: StreamKey, offer: Offer, *, seconds: float, over: int | None = None, epoch: int = 0, floor: int = 0
    ) -> Lease:
        """See ``Registry``."""
        if offer.key != key:
            raise ValueError("the offer is for another stream")
        keys = (self._keys.lease(key), self._keys.epoch(key))
        data = OFFERS.to_json(offer)
        for _ in range(2):
            over_text = "" if over is None else over
            reply = await self._eval(scripts.CLAIM, keys, (offer.node, data, _ms(seconds), over_text, epoch, floor))
            match reply:
                case [1, bytes(granted)]:
                    return Lease.of(offer, int(granted))
                case [0, bytes(value)]:
                    present = _lease(key, value)
                    if present is not None:
                        raise TakenError(present)
                    over = int(value.partition(b" ")[0])  # no lease of ours: nobody's
                    epoch, floor = 0, max(floor, epoch - 1)
                case _:
                    raise RegistryError(f"{self._target} answered something else")
        raise RegistryError(f"{self._target}: the lease is not readable")

    async def renew(self, leases: Iterable[Lease], seconds: float) -> Renewal:
        """See ``Registry``."""
        leases = list(leases)
        calls: list[Call] = [
            ((self._keys.lease(each.key), self._keys.epoch(each.key)), (each.node, each.epoch, _ms(seconds)))
            for each in leases
        ]
        renewal = Renewal()
        for lease, reply in zip(leases, await self._eval_many(scripts.RENEW, calls), strict=True):
            if reply == 1:
                renewal.kept.append(lease)
            elif isinstance(reply, bytes):
                renewal.lost.append((lease, _lease(lease.key, reply)))
        return renewal

    async def release(self, lease: Lease) -> bool:
        """See ``Registry``."""
        reply = await self._eval(scripts.RELEASE, (self._keys.lease(lease.key),), (lease.node, lease.epoch))
        return bool(reply == 1)

    # Copies

    async def put_copies(self, copies: Iterable[Copy], seconds: float) -> None:
        """See ``Registry``."""
        calls: list[Call] = [
            (self._keys.copies(each.key), (each.node, COPIES.to_json(each), _ms(seconds), MAX_COPIES))
            for each in copies
        ]
        await self._eval_many(scripts.PUT, calls)

    async def drop_copy(self, key: StreamKey, node: str) -> None:
        """See ``Registry``."""
        await self._eval(scripts.DROP, self._keys.copies(key), (node,))

    async def lookup(self, key: StreamKey) -> Location:
        """See ``Registry``."""
        reply = await self._eval(scripts.LOOKUP, (self._keys.lease(key), *self._keys.copies(key)), (MAX_COPIES,))
        match reply:
            case [bytes(value), list(copies)]:
                found = [copy for copy in _records(COPIES, copies) if copy.key == key]
                return Location(_lease(key, value), tuple(sorted(found, key=lambda each: each.node)))
        raise RegistryError(f"{self._target} answered something else")

    # Nodes

    async def put_node(self, record: NodeRecord, seconds: float) -> bool:
        """See ``Registry``."""
        data = NODES.to_json(record)
        reply = await self._eval(scripts.PUT, self._keys.nodes, (record.id, data, _ms(seconds), MAX_NODES))
        if reply == 0:
            raise RegistryError(f"{self._target} has {MAX_NODES} nodes already")
        return bool(reply == 2)

    async def drop_node(self, id: str) -> None:
        """See ``Registry``."""
        await self._eval(scripts.DROP, self._keys.nodes, (id,))

    async def nodes(self) -> list[NodeRecord]:
        """See ``Registry``."""
        reply = await self._eval(scripts.LIST, self._keys.nodes, (MAX_NODES,))
        if not isinstance(reply, list):
            raise RegistryError(f"{self._target} answered something else")
        return sorted(_records(NODES, reply), key=lambda each: each.id)

    # Events

    async def publish(self, event: Event) -> None:
        """See ``Registry``."""
        data = EVENTS.to_json(event)
        await self._run(lambda: self._client.publish(self._keys.channel, data))

    def _received(self, data: bytes) -> None:
        try:
            event = EVENTS.from_json(data)
        except ValueError:
            return  # of a newer version, or nobody of ours
        for listener in self.listeners:
            listener.on_event(event)

    def _up(self) -> None:
        for listener in self.listeners:
            listener.on_back()

    # Commands

    async def _eval(self, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        return await self._run(lambda: self._script(script, keys, arguments))

    async def _eval_many(self, script: Script, calls: list[Call]) -> list[Any]:
        """The answers, or in their place why there is none; raises ``RegistryError`` where there is none at all."""
        if not calls:
            return []
        replies: list[Any] = []
        seconds = SECONDS + len(calls) / 500
        until = monotonic() + seconds
        try:
            await self._run(lambda: self._batches(script, calls, replies, until), seconds)
        except RegistryError as error:  # what has been answered until now counts
            replies = [*replies, *[error] * (len(calls) - len(replies))]
        if all(isinstance(each, Exception) for each in replies):
            raise self._error(replies[0])
        return replies

    async def _batches(self, script: Script, calls: list[Call], replies: list[Any], until: float) -> None:
        async with self._many:
            size = _CLUSTER_BATCH if self._clients.is_cluster else _BATCH
            for start in range(0, len(calls), size):
                if monotonic() >= until:  # nobody waits any more, except those who are next
                    raise RegistryError(f"{self._target} did not answer in time")
                batch = calls[start : start + size]
                try:
                    replies += await (self._abreast if self._clients.is_cluster else self._piped)(script, batch)
                except Exception as error:
                    replies += [error] * len(batch)

    async def _piped(self, script: Script, calls: list[Call]) -> list[Any]:
        """In one round trip."""
        replies: list[Any] = []
        while len(replies) < len(calls):
            pipe = self._client.pipeline(transaction=False)
            for keys, arguments in calls[len(replies) :]:
                pipe.evalsha(script.digest, len(keys), *keys, *arguments)
            for reply in await pipe.execute(raise_on_error=False):
                if isinstance(reply, NoScriptError):
                    replies.append(await self._script(script, *calls[len(replies)]))
                    break
                replies.append(reply)
        return replies

    async def _abreast(self, script: Script, calls: list[Call]) -> list[Any]:
        """One by one: a pipeline of a Cluster fails as a whole with one of its servers."""
        return await asyncio.gather(
            *(self._script(script, keys, arguments) for keys, arguments in calls), return_exceptions=True
        )

    async def _script(self, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        try:
            return await self._client.evalsha(script.digest, len(keys), *keys, *arguments)
        except NoScriptError:  # this also tells the server (of a Cluster: the one with these keys) the script
            return await self._client.eval(script.text, len(keys), *keys, *arguments)

    async def _run(self, call: Callable[[], Awaitable[Result]], seconds: float = SECONDS) -> Result:
        """Wait for a command, but do not cancel it: a command that has begun ends with its sockets' deadlines."""
        if self._client is None:
            raise RegistryError(f"{self._target} is not open")
        waits = True

        async def work() -> Result:
            async with self._slots:
                if not waits or self._client is None:
                    raise RegistryError(f"{self._target} did not answer in time")
                return await call()

        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            waits = False
        if not task.done() or task.cancelled():  # by close()
            raise RegistryError(f"{self._target} did not answer in time")
        error = task.exception()
        if error is not None:
            raise self._error(error) from None
        return task.result()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # is known now, whether or not somebody waits

    def _error(self, error: BaseException) -> RegistryError:
        """redis-py raises more than its own errors while servers go and come."""
        if isinstance(error, RegistryError):
            return error
        if isinstance(error, MasterNotFoundError):  # its text shows the clients
            return RegistryError(f"{self._target}: no sentinel answers with a master of that name")
        why = re.sub(r"[^ -~]+", " ", str(error))[:200]
        for secret in (self._target.password, self._target.sentinel_password):
            if secret and secret in why:
                why = ""
        return RegistryError(f"{self._target}: {type(error).__name__} {why}".rstrip())


class Keys:
    """What the keys are called; those of one stream are in one slot of a Cluster.

    The part in braces decides about the slot: names have no braces, nor has the prefix.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = check_prefix(prefix)
        self.channel = f"{prefix}events"
        self.nodes = (f"{prefix}{{nodes}}:index", f"{prefix}{{nodes}}:records")

    def lease(self, key: StreamKey) -> str:
        """Who owns the stream."""
        return self._name("lease", key)

    def epoch(self, key: StreamKey) -> str:
        """The highest epoch that was granted."""
        return self._name("epoch", key)

    def copies(self, key: StreamKey) -> tuple[str, str]:
        """Index and records."""
        return self._name("copies", key), self._name("copy", key)

    def _name(self, kind: str, key: StreamKey) -> str:
        if wrong := key_problem(key):
            raise ValueError(f"not the key of a stream: {wrong}")
        return f"{self._prefix}{kind}:{{{key}}}"


def _ms(seconds: float) -> int:
    return max(int(seconds * 1000), 1)


def _lease(key: StreamKey, value: bytes) -> Lease | None:
    """None for what is no lease of that stream."""
    match = _LEASE.fullmatch(value) if len(value) <= MAX_BYTES else None
    if match is None:
        return None
    try:
        offer = OFFERS.from_json(match[3])
    except ValueError:
        return None
    if offer.key != key or offer.node.encode() != match[2]:
        return None
    return Lease.of(offer, int(match[1]))


def _records(codec: Codec[Record], values: list[Any]) -> list[Record]:
    """Those that can be read."""
    records: list[Record] = []
    for value in values:
        if isinstance(value, bytes):
            try:
                records.append(codec.from_json(value))
            except ValueError:
                continue
    return records
