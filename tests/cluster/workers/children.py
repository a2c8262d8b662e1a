"""Processes that are none: the other end of a real channel, in the loop of the test, that does what a worker does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from itertools import count
from typing import Any

from cluster.workers import messages
from cluster.workers.channel import Channel, close_all, pair
from cluster.workers.process import Process

_PIDS = count(100_000)


class Child:
    """What ``asyncio.subprocess.Process`` is to a ``Process``, and what runs in it."""

    def __init__(self, serial: int, sock: socket.socket) -> None:
        self.pid = next(_PIDS)
        self.serial = serial
        self.signals: list[int] = []
        self.got: list[Any] = []
        self.fds: list[int] = []
        self.booted: messages.Boot | None = None
        self.pongs = True
        """Whether it answers pings."""
        self.drains = True
        """Whether it ends when it is told to."""
        self.stays = False
        """Whether it does not notice that its supervisor is gone."""
        self.readies = True
        """Whether it is ready as soon as it is told which worker it is."""
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._unanswered: list[int] = []
        self.channel = Channel(sock, self._received, lambda reason: None if self.stays else self.end(0))

    def say(self, message: messages.Message) -> None:
        self.channel.send(messages.encode(message))

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.got if isinstance(message, kind)]

    def _received(self, data: memoryview, fds: list[int]) -> None:
        self.fds += fds
        message = messages.decode_trusted(data)
        self.got.append(message)
        if isinstance(message, messages.Boot):
            self.booted = message
            if self.readies:
                self.say(messages.Ready())
        elif isinstance(message, messages.Ping):
            self._unanswered.append(message.number)
            if self.pongs:
                self.pong()
        elif isinstance(message, messages.Drain) and self.drains:
            self.say(messages.Drained())
            self.end(0)

    def pong(self, **facts: Any) -> None:
        """Answer the pings that came."""
        numbers, self._unanswered = self._unanswered, []
        for number in numbers:
            self.say(messages.Pong(number, **{"taken": 0, "connections": 0, "cpu": 0.0, **facts}))

    def end(self, code: int) -> None:
        self.channel.close()
        close_all(self.fds)
        if not self._ended.done():
            self._ended.set_result(code)

    # asyncio.subprocess.Process

    def send_signal(self, number: int) -> None:
        if self._ended.done():
            raise ProcessLookupError
        self.signals.append(number)
        assert number == signal.SIGKILL
        self.end(-number)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    @property
    def ended(self) -> bool:
        return self._ended.done()


def start(
    serial: int, on_message: Callable[[Process, Any], None], on_lost: Callable[[Process, str], None]
) -> tuple[Process, Child]:
    """A process and what runs in it, which has not said anything yet."""
    ours, theirs = pair()
    child = Child(serial, theirs)
    return Process(serial, child, ours, on_message, on_lost), child  # type: ignore[arg-type]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
