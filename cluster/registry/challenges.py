"""May a node have a stream that another one owns?  Both sides of the question.

The owner says ``alive`` at once, then asks its publisher.  One that does not say so within ``ALIVE_SECONDS`` is dead,
hung or cut off, and loses the stream; unless the question itself did not come back, which says that events do not
arrive here either.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Literal

from cluster.registry.base import Registry, RegistryError
from cluster.registry.events import Answer, Challenge, Event
from cluster.registry.records import Lease
from pyrtmp.names import StreamKey

ALIVE_SECONDS: Final = 0.5
VERDICT_SECONDS: Final = 10.0
"""An owner that is alive decides within so long, or keeps the stream."""
MAX_CHALLENGES: Final = 1024
"""Most that are answered at once; any more are refused."""

Verdict = Literal["yields", "refuses"]


class _Question:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.heard = False
        """It came back to who asked."""
        self.alive: asyncio.Future[None] = loop.create_future()
        self.verdict: asyncio.Future[Verdict] = loop.create_future()


class Challenges:
    """Those of one node.  ``decide(key)`` says what becomes of a stream that another node wants."""

    def __init__(
        self,
        registry: Registry,
        node: str,
        decide: Callable[[StreamKey], Awaitable[Verdict]],
        *,
        alive_seconds: float = ALIVE_SECONDS,
    ) -> None:
        self._registry = registry
        self._node = node
        self._decide = decide
        self._alive_seconds = alive_seconds
        self._questions: dict[str, _Question] = {}
        self._deciding: dict[StreamKey, asyncio.Task[Verdict]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def lets_go(self, lease: Lease, *, steady: bool = True) -> bool:
        """Whether the owner is gone, or gives the stream up.  Does not raise.

        Unless the registry is ``steady``, silence says nothing: the owner may not hear yet.
        """
        id = secrets.token_hex(8)
        question = self._questions[id] = _Question()
        try:
            await self._registry.publish(Challenge(lease.key, self._node, lease.node, id))
            await asyncio.wait({question.alive}, timeout=self._alive_seconds)
            if not question.alive.done():
                return steady and question.heard
            await asyncio.wait({question.verdict}, timeout=VERDICT_SECONDS)
            return question.verdict.done() and question.verdict.result() == "yields"
        except RegistryError:
            return False
        finally:
            del self._questions[id]

    def on_event(self, event: Event) -> None:
        """A challenge for this node, or the answer to one of its own."""
        match event:
            case Challenge(id=id) if id in self._questions and event.from_node == self._node:
                self._questions[id].heard = True
            case Challenge(to_node=node) if node == self._node:
                task = asyncio.create_task(self._answer(event, len(self._tasks) >= MAX_CHALLENGES))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Answer(id=id, to_node=node) if id in self._questions and node == self._node:
                self._answered(self._questions[id], event)

    async def close(self) -> None:
        """Answer no more."""
        tasks = [*self._tasks, *self._deciding.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _answered(self, question: _Question, answer: Answer) -> None:
        if not question.alive.done():
            question.alive.set_result(None)
        if answer.verdict != "alive" and not question.verdict.done():
            question.verdict.set_result(answer.verdict)

    async def _answer(self, challenge: Challenge, too_many: bool) -> None:
        with suppress(RegistryError):
            if too_many:
                await self._registry.publish(Answer(challenge.id, challenge.from_node, "refuses"))
                return
            await self._registry.publish(Answer(challenge.id, challenge.from_node, "alive"))
            verdict = await self._verdict(challenge.key)
            await self._registry.publish(Answer(challenge.id, challenge.from_node, verdict))

    async def _verdict(self, key: StreamKey) -> Verdict:
        """One for all who ask at the same time; the second of them finds that the stream is another's then."""
        deciding = self._deciding.get(key)
        if deciding is None:
            deciding = self._deciding[key] = asyncio.create_task(self._decided(key))
            deciding.add_done_callback(lambda _: self._deciding.pop(key, None))
        return await asyncio.shield(deciding)

    async def _decided(self, key: StreamKey) -> Verdict:
        return await self._decide(key)
