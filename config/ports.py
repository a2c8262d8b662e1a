"""Free TCP ports for programs that must be told their port before they start."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

_LOWEST = 10_000


def free_ports(number: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on now, and that no connection will take before a program does.

    Each is given out once in a process, to whichever thread; processes begin at random places, so that two that ask at
    once hardly meet.
    """
    with _turn:
        return [next(_ports) for _ in range(number)]


def _search() -> Iterator[int]:
    below = _first_of_connections()
    start = random.randrange(_LOWEST, below)
    for port in (*range(start, below), *range(_LOWEST, start)):
        with socket.socket() as probe:
            # Where a server has just been, connections may linger (TIME_WAIT); servers do the same.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


def _first_of_connections() -> int:
    """Where the ports begin that the system gives connections of its own (ip(7), ip_local_port_range)."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        first = 32_768
    return first if first > _LOWEST + 1_000 else 32_768


_ports = _search()
_turn = threading.Lock()
