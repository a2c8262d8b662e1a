"""One worker process, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from cluster.reports import Numbers
from cluster.workers import messages
from cluster.workers.asking import Asking
from cluster.workers.channel import Channel, close_all, pair

HUNG_PINGS: Final = 8
"""Pings without an answer after which a worker counts as hung.  Counted, not timed: when the whole machine stood still
its workers are not to blame."""

BOOT_PINGS: Final = 60
"""The same while it begins to work."""

_SMOOTHING: Final = 0.3


class Phase(enum.Enum):
    """Where a process stands."""

    STARTING = "starting"
    WAITING = "waiting"
    """A spare: everything is imported."""
    BOOTING = "booting"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


class Process:
    """A child and the channel to it.

    ``on_message`` gets what concerns more than this process; ``on_lost`` is called once when it is gone, whatever
    ended it.
    """

    def __init__(
        self,
        serial: int,
        child: asyncio.subprocess.Process,
        sock: socket.socket,
        on_message: Callable[[Process, Any], None],
        on_lost: Callable[[Process, str], None],
    ) -> None:
        self.serial = serial
        self.slot = -1
        """Its place among the workers, once it has one."""
        self.phase = Phase.STARTING
        self.introduced = False
        """Whether it ever said that it waits."""
        self.lived = 0.0
        """Seconds it worked, once it has ended."""
        self._ready_at: float | None = None
        self.numbers: Numbers | None = None
        """What it reported last."""
        self.channel = Channel(sock, self._received, self._lost)
        self.asking = Asking(self.channel)
        self._child = child
        self._on_message = on_message
        self._on_lost = on_lost
        self._passed = 0
        self._pings = 0
        self._ready_ping = 0
        """The newest ping when it became ready."""
        self._ponged = 0
        self._pong: messages.Pong | None = None
        self._pong_at = 0.0
        self.cpu_share = 0.0
        """Of one core, lately."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def working(self) -> bool:
        """Whether it has streams and clients."""
        return self.phase in (Phase.READY, Phase.DRAINING)

    def enter(self, phase: Phase) -> None:
        """It is in that phase from now on."""
        if phase is Phase.READY:
            self._ready_at = monotonic()
            self._ready_ping = self._pings
        elif phase is Phase.ENDED and self.phase is not Phase.ENDED and self._ready_at is not None:
            self.lived = monotonic() - self._ready_at
        self.phase = phase

    def tell(self, message: messages.Message | messages.Boot | messages.Configure, fd: int | None = None) -> None:
        """Send a message; a descriptor goes over to the other process."""
        self.channel.send(messages.encode(message), () if fd is None else (fd,), own=True)

    # Load (cluster.workers.placing)

    @property
    def connections(self) -> int:
        """Connections now, those on their way to it included."""
        if self._pong is None:
            return self._passed
        return self._pong.connections + self._passed - self._pong.taken

    @property
    def answers(self) -> bool:
        """Whether it answered one of the last pings: clients are not sent to one that may be hung."""
        return self._pings - self._ponged <= 2

    @property
    def viewers(self) -> Mapping[str, int]:
        """Of streams there, as far as it said."""
        return {} if self._pong is None else self._pong.viewers

    def pass_connection(self, protocol: messages.Protocol, sock: socket.socket, address: str) -> None:
        """Hand a client's connection over, and close it here."""
        self._passed += 1
        message = messages.Connection(protocol, address)
        self.channel.send(messages.encode(message), (sock.detach(),), own=True)

    # Life

    def ping(self, viewers: dict[str, int] | None = None) -> bool:
        """Ask whether it is alive, and tell of viewers at other workers; whether it answered the earlier ones in time.
        """
        if self._pings - max(self._ponged, self._ready_ping) >= (HUNG_PINGS if self.working else BOOT_PINGS):
            return False
        self._pings += 1
        self.tell(messages.Ping(self._pings, viewers or {}))
        return True

    def kill(self) -> None:
        """End it at once, hung or not."""
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end; its exit code."""
        return await self._child.wait()

    def close(self) -> None:
        """Have nothing to do with it any more; it ends by itself."""
        self.enter(Phase.ENDED)
        self.channel.close()
        self.asking.close()

    # The channel

    def _received(self, data: memoryview, fds: list[int]) -> None:
        try:
            message = messages.decode(data)
            if isinstance(message, messages.Pong):
                self._ponged_with(message)
            elif isinstance(message, messages.Answer):
                self.asking.answered(message, fds)
            else:
                self._on_message(self, message)
        finally:
            close_all(fds)

    def _ponged_with(self, pong: messages.Pong) -> None:
        if not self._ponged < pong.number <= self._pings or pong.taken > self._passed:
            raise ValueError("a pong that answers no ping")
        now = monotonic()
        if self._pong is not None and now > self._pong_at:
            share = max(0.0, pong.cpu - self._pong.cpu) / (now - self._pong_at)
            self.cpu_share += (min(share, 1.0) - self.cpu_share) * _SMOOTHING
        self._ponged = pong.number
        self._pong = pong
        self._pong_at = now

    def _lost(self, reason: str) -> None:
        self.kill()
        self.asking.close()
        self.enter(Phase.ENDED)
        self._on_lost(self, reason)


async def spawn(
    serial: int, on_message: Callable[[Process, Any], None], on_lost: Callable[[Process, str], None]
) -> Process:
    """Start a process that waits to be told what to do.  Raises ``OSError``."""
    ours, theirs = pair()
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "cluster.workers.worker", str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True,
        )  # fmt: skip
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Process(serial, child, ours, on_message, on_lost)
