"""Who publishes what, on both sides of the channel.

``Registry`` (supervisor): one worker holds a stream; the others are told once its publisher has begun.
``Claimant`` (worker): asks before a client publishes.  See ``pyrtmp.aio.publishing.Claims``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from time import monotonic

from cluster.workers import messages
from pyrtmp.aio.publishing import too_many_streams
from pyrtmp.errors import RefusedError
from pyrtmp.hub import Hub
from pyrtmp.kin import Descent
from pyrtmp.names import StreamKey
from pyrtmp.stream import Stream


class Claimant:
    """The claims of one worker.  ``tell`` sends a message to the supervisor."""

    def __init__(self, hub: Hub, tell: Callable[[messages.Message], None]) -> None:
        self._hub = hub
        self._tell = tell
        self._requests = count(1)
        self._granted: dict[StreamKey, int] = {}
        """The newest grant for each stream."""
        self._pulled: dict[StreamKey, int] = {}
        """Those of pulls."""
        self._waiting: dict[int, tuple[StreamKey, asyncio.Future[tuple[int, float] | None]]] = {}
        hub.listeners.append(self)

    async def claim(self, key: StreamKey, *, copy: bool = False) -> tuple[int, float] | None:
        """See ``pyrtmp.aio.publishing.Claims``."""
        return await self._claim(key, copy=copy)

    async def claim_pull(self, key: StreamKey) -> tuple[int, float] | None:
        """See ``cluster.edge.pull.Claims``."""
        seen = await self._claim(key, pull=True)
        self._pulled[key] = self._granted[key]
        return seen

    def release_pull(self, key: StreamKey, time: int) -> None:
        """See ``cluster.edge.pull.Claims``.  A client may have claimed the stream since; that claim stays."""
        request = self._pulled.pop(key, None)
        if request is not None:
            if self._granted.get(key) == request:
                del self._granted[key]
            self._tell(messages.Released(request, *key, time))

    async def _claim(self, key: StreamKey, *, copy: bool = False, pull: bool = False) -> tuple[int, float] | None:
        request = next(self._requests)
        answer: asyncio.Future[tuple[int, float] | None] = asyncio.get_running_loop().create_future()
        self._waiting[request] = (key, answer)
        self._tell(messages.Claim(request, *key, copy, pull))
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.cancelled() and answer.exception() is None:  # granted at the same moment
                self._give_back(key, request)
            raise

    def release(self, key: StreamKey, time: int) -> None:
        """See ``pyrtmp.aio.publishing.Claims``."""
        request = self._granted.pop(key, None)
        if request is not None:
            self._tell(messages.Released(request, *key, time))

    def granted(self, message: messages.Granted) -> None:
        """The supervisor agreed."""
        key, answer = self._waiting.pop(message.request, (None, None))
        if key is None or answer is None:
            raise ValueError(f"nobody asked {message.request}")
        self._granted[key] = message.request
        if answer.done():  # the client went away meanwhile
            self._give_back(key, message.request)
        elif message.time is not None and message.at is not None:
            answer.set_result((message.time, message.at))
        else:
            answer.set_result(None)

    def _give_back(self, key: StreamKey, request: int) -> None:
        """Nobody waits for that grant any more."""
        # Later: others here who were granted the stream before have begun by then.
        asyncio.get_running_loop().call_soon(self._release_unused, key, request)

    def _release_unused(self, key: StreamKey, request: int) -> None:
        stream = self._hub.find(*key)
        if self._granted.get(key) == request and (stream is None or not stream.held):
            self.release(key, 0)

    def denied(self, message: messages.Denied) -> None:
        """The supervisor did not agree."""
        _, answer = self._waiting.pop(message.request, (None, None))
        if answer is not None and not answer.done():
            answer.set_exception(RefusedError(message.code, message.why, reason=message.reason))

    # pyrtmp.hub.HubListener

    def stream_started(self, stream: Stream) -> None:
        """The publisher is there: others may watch."""
        if not stream.relayed:
            self._tell(messages.Began(*stream.key, stream.lineage, list(stream.hops)))

    def stream_ended(self, stream: Stream) -> None:
        """Its publisher's connection releases the claim."""


@dataclass(slots=True)
class _Entry:
    holder: int | None = None
    """Serial of the worker that has the claim."""
    request: int = 0
    """Which of its claims that was."""
    pull: bool = False
    """It is fetched from another node."""
    began: bool = False
    """Its publisher is there."""
    descent: Descent = field(default_factory=Descent)
    time: int | None = None
    """How far the stream had got when its last holder left it, milliseconds."""
    at: float = 0.0
    """When that was."""
    asked: int = 0
    """Claims under way."""
    lost: bool = False
    """Its holder is lost, and with it how far the stream had got; those who have viewers of it know."""


class Registry:
    """The claims of the machine: plain bookkeeping, no channel.

    ``announce(key, serial)`` is called when a worker's publisher began (serial) and when nobody publishes any more
    (None).  What a stream had got to is remembered for ``grace`` seconds: as long as its viewers are kept.
    """

    def __init__(self, announce: Callable[[StreamKey, int | None], None], grace: float) -> None:
        self._announce = announce
        self._entries: dict[StreamKey, _Entry] = {}
        self._locks: dict[StreamKey, asyncio.Lock] = {}
        self.grace = grace
        self.most = 0
        """Streams that may be published at once; 0: any number."""

    def held(self) -> list[tuple[StreamKey, int]]:
        """What others may watch, and where."""
        return [(key, each.holder) for key, each in self._entries.items() if each.holder is not None and each.began]

    def lost(self, key: StreamKey) -> bool:
        """Whether the worker that held the stream is lost, and nobody has begun it anew: ask how far it had got."""
        entry = self._entries.get(key)
        return entry is not None and entry.lost

    async def claim(
        self, key: StreamKey, serial: int, request: int, challenge: Callable[[int], Awaitable[bool]] | None
    ) -> tuple[int, float] | None:
        """Give ``key`` to a worker; what is known of its time.

        ``challenge(holder)`` asks the worker that has it whether its publisher lets go; without it (a pull) the key
        must be free.  Raises ``RefusedError``.  One at a time for each key: of many who ask at once one gets it.
        """
        entry = self._entries.setdefault(key, _Entry())
        lock = self._locks.setdefault(key, asyncio.Lock())
        entry.asked += 1
        try:
            async with lock:
                holder = entry.holder
                if challenge is not None and (holder is None or entry.pull) and self._full():
                    raise too_many_streams()
                if holder is not None and (challenge is None or (holder != serial and not await challenge(holder))):
                    if entry.holder == holder:
                        raise RefusedError("NetStream.Publish.BadName", f"{key} is already being published.")
                if entry.holder is not None and entry.holder != serial:
                    self._free(key, entry)
                entry.holder = serial
                entry.request = request
                entry.pull = challenge is None
                if monotonic() - entry.at > self.grace:
                    entry.time = None  # of another stream of that name, as good as
                return None if entry.time is None else (entry.time, entry.at)
        finally:
            entry.asked -= 1
            self._tidy(key, entry)

    def descent(self, key: StreamKey) -> Descent:
        """Where a stream that others may watch comes from."""
        entry = self._entries.get(key)
        return Descent() if entry is None else entry.descent

    def began(self, key: StreamKey, serial: int, descent: Descent | None = None) -> None:
        """The worker's publisher is there; ignored when it does not have the claim."""
        entry = self._entries.get(key)
        if entry is not None and entry.holder == serial:
            entry.descent = descent or Descent()
            entry.began = True
            entry.lost = False
            self._announce(key, serial)

    def release(self, key: StreamKey, serial: int, request: int, time: int) -> bool:
        """The worker's publisher left; False when it does not have the claim, or claimed once more since."""
        entry = self._entries.get(key)
        if entry is None or (entry.holder, entry.request) != (serial, request):
            return False
        self._note(entry, time)
        self._free(key, entry)
        return True

    def holder(self, key: StreamKey) -> int | None:
        """The worker that has the claim."""
        entry = self._entries.get(key)
        return None if entry is None else entry.holder

    def seen(self, key: StreamKey, time: int) -> None:
        """Viewers had got so far when they lost the worker that held the stream.

        That may be heard before the loss itself.
        """
        self._note(self._entries.setdefault(key, _Entry()), time)

    def forget_worker(self, serial: int) -> list[StreamKey]:
        """That worker is gone: its claims are free; which they were."""
        freed = [key for key, entry in self._entries.items() if entry.holder == serial]
        for key in freed:
            entry = self._entries[key]
            entry.at = monotonic()
            entry.lost = entry.began
            self._free(key, entry)
        return freed

    def tick(self) -> None:
        """Now and then: forget what nobody has or needs."""
        for key, entry in list(self._entries.items()):
            self._tidy(key, entry)

    def _full(self) -> bool:
        if not self.most:
            return False
        return sum(each.holder is not None and not each.pull for each in self._entries.values()) >= self.most

    def _note(self, entry: _Entry, time: int) -> None:
        # Of several who saw it the one who got furthest counts.
        now = monotonic()
        if entry.time is None or time > entry.time or now - entry.at > self.grace:
            entry.time = time
        entry.at = now

    def _free(self, key: StreamKey, entry: _Entry) -> None:
        entry.holder = None
        if entry.began:
            entry.began = False
            self._announce(key, None)

    def _tidy(self, key: StreamKey, entry: _Entry) -> None:
        idle = entry.holder is None and not entry.asked
        if idle and ((entry.time is None and not entry.lost) or monotonic() - entry.at > self.grace):
            del self._entries[key]
            self._locks.pop(key, None)
