"""Questions and answers over a channel, in either direction."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Final

from cluster.workers import messages
from cluster.workers.channel import Channel, attach, close_all, detach

SECONDS: Final = 3.0
"""How long an answer may take; whoever needs longer is hung and about to be replaced."""

_INLINE: Final = 4096
"""Longest answer that goes with its message."""


class Asking:
    """One side's questions, and its answers to the other's."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._requests = count(1)
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}

    async def ask(self, what: messages.Question, *arguments: str, seconds: float = SECONDS) -> bytes:
        """The answer.  Raises ``ConnectionError`` (the other side is gone, or says no) or ``TimeoutError``."""
        answer = await self._ask(what, arguments, seconds)
        if answer is None:
            raise ConnectionError(f"{what} was turned down")
        return answer

    async def agrees(self, what: messages.Question, *arguments: str, seconds: float = SECONDS) -> bool:
        """Whether the other side says yes; raises as ``ask`` does when it says nothing."""
        return await self._ask(what, arguments, seconds) is not None

    async def _ask(self, what: messages.Question, arguments: tuple[str, ...], seconds: float) -> bytes | None:
        if self._channel.closed:
            raise ConnectionError("the channel is closed")
        request = next(self._requests)
        waiting: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting[request] = waiting
        self._channel.send(messages.encode(messages.Ask(request, what, list(arguments))))
        try:
            async with asyncio.timeout(seconds):
                return await waiting
        finally:
            self._waiting.pop(request, None)

    def answered(self, message: messages.Answer, fds: list[int]) -> None:
        """An answer came.  Raises ``ValueError`` when its attachment is wrong."""
        if message.body is not None:
            body: bytes | None = message.body.encode()
        else:
            # Without a descriptor: they ran out on the way.  It is asked again some time.
            body = detach(fds) if fds else None
        close_all(fds)
        waiting = self._waiting.get(message.request)
        if waiting is not None and not waiting.done():
            waiting.set_result(body if message.ok else None)

    def answer(self, request: int, ok: bool, body: bytes) -> None:
        """Answer a question of the other side."""
        if len(body) <= _INLINE:
            self._channel.send(messages.encode(messages.Answer(request, ok, body.decode())))
            return
        try:
            fd = attach(body)
        except OSError:
            self._channel.send(messages.encode(messages.Answer(request, False, "")))
            return
        self._channel.send(messages.encode(messages.Answer(request, ok, None)), [fd], own=True)

    def close(self) -> None:
        """Nothing more will come."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("the other process is gone"))
