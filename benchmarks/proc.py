"""What a process tree costs, read from /proc: CPU, memory, descriptors, unsent bytes (Linux only)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree in KiB.

    ``pss`` counts a shared page once over all that share it.  ``anonymous`` and ``shared`` split it: a log kept in
    memfd segments is ``shared`` while mapped, and its pages are in ``memfd`` whether mapped or not.
    """

    rss: int
    pss: int
    anonymous: int
    shared: int
    memfd: int


def tree(pid: int) -> list[int]:
    """``pid`` and its descendants, parents first."""
    found = [pid]
    for pid in found:
        with suppress(*_GONE):
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time used so far; the kernel counts in steps of 10 ms."""
    ticks = 0
    for pid in pids:
        with suppress(*_GONE):
            # The command name may hold spaces and brackets: fields are counted after the last bracket.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK


def busy_seconds() -> float:
    """Time that all processors together were not idle; stolen time counts, as it disturbs like work does."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    _, _, _, idle, waiting, *_ = fields
    return (sum(fields) - idle - waiting) / _TICK


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU over a span of time, as parts of one core."""

    seconds: float
    server: float
    other: float
    """What neither the server nor the benchmark used: how far this machine was not to itself."""


class CpuMeter:
    """Measures a server's CPU from the moment it is made; ``pids`` names the server's processes at any time."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._before = self._now()

    def read(self) -> Usage:
        before, now = self._before, self._now()
        seconds, server, own, busy = (end - start for start, end in zip(before, now, strict=True))
        return Usage(seconds, server / seconds, max(0.0, busy - own) / seconds)

    def _now(self) -> tuple[float, float, float, float]:
        # The server is a child of the benchmark, so that the benchmark's own tree holds both.
        return time.monotonic(), cpu_seconds(self._pids()), cpu_seconds(tree(os.getpid())), busy_seconds()


def memory(pids: Iterable[int]) -> Memory:
    totals = {"Rss": 0, "Pss": 0, "Pss_Anon": 0, "Pss_Shmem": 0}
    memfds: dict[int, int] = {}
    for pid in pids:
        with suppress(*_GONE):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in totals:
                    totals[name] += int(rest.split()[0])
        memfds.update(_memfds(pid))
    return Memory(
        rss=totals["Rss"], pss=totals["Pss"], anonymous=totals["Pss_Anon"], shared=totals["Pss_Shmem"],
        memfd=sum(memfds.values()) // 1024,
    )


def descriptors(pids: Iterable[int]) -> int:
    """Open file descriptors."""
    count = 0
    for pid in pids:
        with suppress(*_GONE):
            count += len(os.listdir(f"/proc/{pid}/fd"))
    return count


def unsent_bytes(ports: Iterable[int]) -> int:
    """Bytes in the send queues of sockets with one of these local ports: what slow readers make the kernel hold."""
    local = {f"{port:04X}" for port in ports}
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].rpartition(":")[2] in local:
            total += int(fields[4].partition(":")[0], 16)
    return total


def _memfds(pid: int) -> Iterator[tuple[int, int]]:
    """(inode, allocated bytes) of every memfd the process holds."""
    with suppress(*_GONE):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(*_GONE):
                path = f"/proc/{pid}/fd/{name}"
                if os.readlink(path).startswith("/memfd:"):
                    status = os.stat(path)
                    yield status.st_ino, status.st_blocks * 512


def remote_ports(pids: Iterable[int]) -> set[int]:
    """Ports that these processes have TCP connections to (IPv4)."""
    sockets: set[str] = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                sockets.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    established = "01"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[2].partition(":")[2], 16) for line in lines if line[3] == established and line[9] in sockets}
