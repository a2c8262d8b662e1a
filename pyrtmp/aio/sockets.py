"""Socket options of RTMP connections and viewers."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Final

from pyrtmp import tcpinfo
from pyrtmp.tcpinfo import TcpInfo

MAX_KERNEL_UNSENT: Final = 512 * 1024
"""Bytes that may wait in the kernel for a peer that does not take them.  Left to itself Linux lets a socket grow to
4 MiB; what is under way to a distant peer is not limited by this."""

GATHERED_BYTES: Final = 256 * 1024
"""A publisher's socket that is read by rounds is reported at once when so much has come."""

_TCP_NOTSENT_LOWAT: Final = 25  # of Linux; Python's socket module names it from 3.12 on


def set_keepalive(sock: socket.socket | None, stall: float) -> None:
    """Have the kernel notice peers that vanished, whether or not there is something to send.

    ``stall``: seconds for which a peer may take nothing before the server itself gives up.
    """
    if sock is None:
        return
    with contextlib.suppress(OSError), _bare(sock) as bare:  # others than TCP's refuse the first of these
        if sys.platform == "linux":
            bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
            bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
            bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
            bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int((stall + 5) * 1000))
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


@contextlib.contextmanager
def _bare(sock: socket.socket) -> Iterator[socket.socket]:
    """The socket itself: what uvloop's transports give makes another socket object for every option."""
    if isinstance(sock, socket.socket):
        yield sock
        return
    bare = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
    try:
        yield bare
    finally:
        bare.detach()


def bound_unsent(sock: socket.socket | None) -> None:
    """Have the socket refuse bytes early, so that a viewer that lags costs little and is moved ahead soon."""
    _set_tcp(sock, _TCP_NOTSENT_LOWAT, MAX_KERNEL_UNSENT)


def acknowledge_at_once(sock: socket.socket | None) -> None:
    """Not delay the next acknowledgement.

    Clients that leave Nagle's algorithm on send connect only when their half of the handshake is acknowledged,
    which costs their viewer 40 ms of nothing.
    """
    if sys.platform == "linux":
        _set_tcp(sock, socket.TCP_QUICKACK, 1)


def report_from(sock: socket.socket | None, count: int) -> None:
    """Have the socket count as readable only with ``count`` bytes in it, or at its end (``socket(7)`` SO_RCVLOWAT)."""
    if sock is not None and sys.platform == "linux":
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


def tcp_info(sock: socket.socket | None) -> TcpInfo | None:
    """What the kernel knows of the way to the peer; None where it does not say."""
    if sock is None or sys.platform != "linux":
        return None
    try:
        return tcpinfo.parse(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, tcpinfo.SIZE))
    except OSError:
        return None


def _set_tcp(sock: socket.socket | None, option: int, value: int) -> None:
    """Set an option of Linux's TCP; other sockets, which refuse it, and systems do without."""
    if sock is not None and sys.platform == "linux":
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
