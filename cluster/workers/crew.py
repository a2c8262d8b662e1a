"""The crew: keeps every place filled with a worker that answers, and a spare at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import Any, Final, Protocol

import structlog

from cluster.config import Config
from cluster.tls.identity import Identity
from cluster.workers import messages
from cluster.workers.crowds import elsewhere
from cluster.workers.process import Phase, Process, spawn

PING_SECONDS: Final = 0.25

LIVED_SECONDS: Final = 1.0
"""A worker that worked for less died at once."""

_LONGEST_PAUSE: Final = 10.0

_log = structlog.get_logger(__name__)


class CrewListener(Protocol):
    """Told of the crew's doings."""

    def worker_ready(self, process: Process) -> None:
        """A worker can take connections."""

    def worker_gone(self, process: Process) -> None:
        """A worker that was ready is gone."""

    def worker_said(self, process: Process, message: Any) -> None:
        """A message that is not about the process itself.  Raises ``ValueError``, which ends the process."""


class _Slot:
    """A worker's place."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.restarts = -1
        self.failures = 0
        """Workers that died at once, one after the other."""
        self.timer: asyncio.TimerHandle | None = None
        self.ready = asyncio.Event()


class Crew:
    """``size`` workers and a spare process, which takes the place of one that dies."""

    def __init__(self, size: int, config: Config, listener: CrewListener) -> None:
        self.config = config
        self.identity: Identity | None = None
        """What workers that start show to clients that come with TLS."""
        self._rtmp_port = self._https_port = self._rtmps_port = 0
        self._listener = listener
        self._slots = [_Slot(number) for number in range(size)]
        self._serials = count(1)
        self._processes: dict[int, Process] = {}
        """Every process that has not ended, by serial."""
        self._spare: Process | None = None
        self._spawning = 0
        self._wanted: list[_Slot] = []
        """Places to fill with the next process that waits."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._pinging: asyncio.TimerHandle | None = None
        self._closing = False

    def __len__(self) -> int:
        """Places."""
        return len(self._slots)

    def __iter__(self) -> Iterator[Process]:
        """Those that have clients, or may get them."""
        return iter([process for process in self._processes.values() if process.working])

    def __getitem__(self, serial: int) -> Process | None:
        """The process with that serial, if it works."""
        process = self._processes.get(serial)
        return process if process is not None and process.working else None

    def restarts(self, slot: int) -> int:
        """How many workers that place had before."""
        return max(0, self._slots[slot].restarts)

    def start(self, rtmp_port: int, https_port: int = 0, rtmps_port: int = 0) -> None:
        """Fill every place; the ports are what the workers tell viewers."""
        self._rtmp_port, self._https_port, self._rtmps_port = rtmp_port, https_port, rtmps_port
        for slot in self._slots:
            self._fill(slot)
        self._pinging = asyncio.get_running_loop().call_later(PING_SECONDS, self._ping)

    async def all_ready(self) -> bool:
        """Wait until every place is filled; False when a worker cannot even start."""
        waits = [asyncio.ensure_future(slot.ready.wait()) for slot in self._slots]
        try:
            while not all(slot.ready.is_set() for slot in self._slots):
                if any(slot.failures >= 3 for slot in self._slots):
                    return False
                await asyncio.wait(waits, timeout=PING_SECONDS)
            return True
        finally:
            for wait in waits:
                wait.cancel()

    async def replace(self, number: int, seconds: float) -> None:
        """Put another worker in a place, then drain the one that was there for at most ``seconds``."""
        slot = self._slots[number]
        old = slot.process
        if old is None or old.phase is not Phase.READY:
            await slot.ready.wait()  # it is being filled already
            return
        slot.process = None
        slot.ready.clear()
        self._fill(slot)
        await slot.ready.wait()
        if old.phase is Phase.READY:
            old.enter(Phase.DRAINING)
            old.tell(messages.Drain(seconds, True))
            try:
                async with asyncio.timeout(seconds + 3.0):
                    await old.wait()
            except TimeoutError:
                _log.warning("worker_drain_cut_short", worker=number, pid=old.pid)
                old.kill()

    async def drain(self, seconds: float, *, handover: bool) -> None:
        """Have all workers let their clients go within ``seconds``, to other nodes or for good, and end."""
        self._closing = True
        working = list(self)
        for process in working:
            process.enter(Phase.DRAINING)
            process.tell(messages.Drain(seconds, False, handover))
        await asyncio.gather(*(process.wait() for process in working))

    async def close(self) -> None:
        """End every process."""
        self._closing = True
        if self._pinging is not None:
            self._pinging.cancel()
        for slot in self._slots:
            if slot.timer is not None:
                slot.timer.cancel()
        for process in list(self._processes.values()):
            process.kill()
            process.close()
        for task in list(self._tasks):
            await asyncio.wait((task,))

    # Processes

    def _spawn(self) -> None:
        if self._closing:
            return
        self._spawning += 1
        self._do(self._spawn_one())

    async def _spawn_one(self) -> None:
        serial = next(self._serials)
        try:
            process = await spawn(serial, self._said, self._gone)
        except OSError as error:
            self._spawning -= 1
            _log.error("worker_not_started", error=str(error))
            self._retry()
            return
        self._processes[serial] = process
        if self._closing:
            process.kill()
        code = await process.wait()
        if not process.introduced:
            self._spawning -= 1
        if process.phase is not Phase.ENDED:
            process.close()
            self._gone(process, _how(code))
        elif code and process.slot >= 0 and not self._closing:
            _log.info("worker_ended", worker=process.slot, pid=process.pid, how=_how(code))
        self._processes.pop(serial, None)

    def _do(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _need(self) -> None:
        """As many processes on their way as there are places to fill, and a spare."""
        missing = len(self._wanted) + (self._spare is None) - self._spawning
        for _ in range(missing):
            self._spawn()

    def _fill(self, slot: _Slot) -> None:
        slot.timer = None
        if self._closing:
            return
        self._wanted.append(slot)
        if self._spare is not None:
            process, self._spare = self._spare, None
            self._boot(process)
        else:
            self._need()

    def _boot(self, process: Process) -> None:
        slot = self._wanted.pop(0)
        slot.process = process
        slot.restarts += 1
        process.slot = slot.number
        process.enter(Phase.BOOTING)
        process.tell(
            messages.Boot(
                slot.number, process.serial, self._rtmp_port, self.config, self.identity, self._https_port,
                self._rtmps_port,
            )
        )

    def _said(self, process: Process, message: Any) -> None:
        if isinstance(message, messages.Waiting) and process.phase is Phase.STARTING:
            self._spawning -= 1
            process.introduced = True
            process.enter(Phase.WAITING)
            if self._wanted:
                self._boot(process)
            else:
                self._spare = process
        elif isinstance(message, messages.Ready) and process.phase is Phase.BOOTING:
            process.enter(Phase.READY)
            self._slots[process.slot].ready.set()
            _log.info("worker_ready", worker=process.slot, pid=process.pid)
            self._listener.worker_ready(process)
            self._need()
        elif isinstance(message, messages.Drained) and process.phase is Phase.DRAINING:
            pass  # it ends now
        elif process.working:
            self._listener.worker_said(process, message)
        else:
            raise ValueError(f"{type(message).__name__} from a process that is {process.phase.value}")

    def _gone(self, process: Process, reason: str) -> None:
        """The channel broke, or the process ended."""
        if process is self._spare:
            self._spare = None
        if process.slot >= 0:
            self._listener.worker_gone(process)
        slot = self._slots[process.slot] if process.slot >= 0 else None
        if self._closing:
            return
        if slot is not None and slot.process is process:
            self._lost(slot, process, reason)
        elif slot is None:
            self._retry()

    def _retry(self) -> None:
        """A process did not get so far as to be a worker."""
        if self._wanted:
            self._wanted[0].failures += 1
        asyncio.get_running_loop().call_later(1.0, self._need)

    def _lost(self, slot: _Slot, process: Process, reason: str) -> None:
        slot.process = None
        slot.ready.clear()
        slot.failures = 0 if process.lived >= LIVED_SECONDS else slot.failures + 1
        # The first time at once.  Again and again: not in a loop that eats the machine.
        pause = 0.0 if slot.failures < 2 else min(0.5 * 2 ** (slot.failures - 2), _LONGEST_PAUSE)
        _log.error("worker_lost", worker=slot.number, pid=process.pid, reason=reason, replaced_in_seconds=pause)
        if pause:
            slot.timer = asyncio.get_running_loop().call_later(pause, self._fill, slot)
        else:
            self._fill(slot)

    def _ping(self) -> None:
        self._pinging = asyncio.get_running_loop().call_later(PING_SECONDS, self._ping)
        processes = list(self._processes.values())
        for process in processes:
            if process.phase not in (Phase.BOOTING, Phase.READY, Phase.DRAINING):
                continue
            others = elsewhere(other.viewers for other in processes if other is not process and other.working)
            if not process.ping(others):
                _log.error("worker_hung", worker=process.slot, pid=process.pid)
                process.kill()


def _how(code: int) -> str:
    """In words, how a process ended."""
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
