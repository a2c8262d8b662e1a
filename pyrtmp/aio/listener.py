"""Listening sockets that outlive a shortage of descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from pyrtmp.counters import Counters
from pyrtmp.journal import Journal

_BACKLOG: Final = 1024

_MAX_ACCEPTS: Final = 64
"""Connections taken before others get their turn."""


class Listener:
    """Accepts on one socket and hands what comes, non-blocking, to ``accept`` with its address.

    Not ``loop.create_server``: when descriptors run out that either stops accepting for good or spins.  Here one
    descriptor is kept in reserve, so that a connection too many is accepted and closed at once instead of keeping
    the socket readable.
    """

    def __init__(
        self, sock: socket.socket, accept: Callable[[socket.socket, str], None], counters: Counters, journal: Journal
    ) -> None:
        self._socket = sock
        self._handler = accept
        self._counters = counters
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._reserve: int | None = os.open(os.devnull, os.O_RDONLY)
        self._exhausted = False
        name = sock.getsockname()
        self.address: tuple[str, int] = (str(name[0]), int(name[1]))
        self._loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_MAX_ACCEPTS):
            try:
                sock, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    self._journal.error("accept_failed", error=str(error))
                    return
                if not self._turn_away(error):
                    return
            else:
                self._exhausted = False
                sock.setblocking(False)
                self._handler(sock, str(peer[0]))

    def _turn_away(self, error: OSError) -> bool:
        """Out of descriptors: spend the reserve on telling one client at once; whether there was one."""
        if not self._exhausted:
            self._exhausted = True
            self._journal.error("out_of_descriptors", error=str(error))
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        try:
            self._socket.accept()[0].close()
            self._counters.refused["descriptors"] += 1
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY)
        return True

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._reserve is not None:
            os.close(self._reserve)


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of ``host``; an empty host is all IPv4 and IPv6 addresses."""
    sockets: list[socket.socket] = []
    try:
        for family, type, proto, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sock = socket.socket(family, type, proto)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(_BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
