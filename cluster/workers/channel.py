"""A channel: messages and descriptors between two processes over a pair of connected Unix sockets.

``SOCK_SEQPACKET`` keeps messages apart and says when the other side is gone.  A channel never blocks: what the peer
does not take now waits in a queue of bounded length, and a peer that lets it fill up is *stuck*.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

MAX_MESSAGE: Final = 64 * 1024
"""Most bytes of one message; what is longer goes as a descriptor of shared memory (``attach``)."""

MAX_ATTACHMENT: Final = 64 * 1024 * 1024
"""Most bytes of such an attachment."""

MAX_FDS: Final = 4
"""Most descriptors with one message."""

MAX_QUEUED: Final = 65536
"""Messages that may wait for the peer.  Some thousand come in one go when a worker is told what the others hold, or a
link with many streams is made anew."""

_MAX_READS: Final = 128
"""Messages taken before others get their turn."""

_BUFFER_BYTES: Final = 1024 * 1024
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)

_log = structlog.get_logger(__name__)

Handler = Callable[[memoryview, list[int]], None]
"""Takes a message and owns its descriptors.  The view is only good until it returns.  Raises ``ValueError`` on what it
does not understand, which ends the channel."""


class Channel:
    """One end.  ``on_message`` gets what comes; ``on_lost`` is called once when the peer is gone, stuck or wrong;
    ``on_taken`` when it has taken all that waited for it.

    They are called by the event loop; none after ``close``.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Handler,
        on_lost: Callable[[str], None],
        on_taken: Callable[[], None] | None = None,
    ) -> None:
        self._socket = sock
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_taken = on_taken
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._buffer = bytearray(MAX_MESSAGE + 1)
        self._view = memoryview(self._buffer)
        self._closed = False
        self.bytes_in = 0
        self.bytes_out = 0
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def backlog(self) -> int:
        """Messages that the peer has not taken."""
        return len(self._queue)

    @property
    def closed(self) -> bool:
        """Whether nothing goes through any more."""
        return self._closed

    def send(self, data: bytes, fds: Sequence[int] = (), *, own: bool = False) -> None:
        """Send a message, now or when the peer takes it.  Descriptors stay the caller's unless ``own`` is set."""
        if self._closed or (not self._queue and self._send(data, fds)):
            if own:
                _close(fds)
            return
        if len(self._queue) >= MAX_QUEUED:
            if own:
                _close(fds)
            self._loop.call_soon(self._lose, "stuck")
            return
        if not self._queue:
            self._loop.add_writer(self._socket.fileno(), self._writable)
        kept = tuple(fds) if own else tuple(os.dup(fd) for fd in fds)
        self._queue.append((data, kept))

    def _send(self, data: bytes, fds: Sequence[int]) -> bool:
        """Whether the message needs no more attention: sent, or the peer is gone."""
        try:
            if fds:
                socket.send_fds(self._socket, [data], list(fds))
            else:
                self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # ETOOMANYREFS: more descriptors under way than this user may have; they arrive, then there is room.
            if error.errno == _ETOOMANYREFS:
                return False
            # The peer is gone: whoever reads finds the end, behind what the peer said before.
            if not isinstance(error, ConnectionError):
                self._loop.call_soon(self._lose, f"broken: {error}")
            return True
        self.bytes_out += len(data)
        return True

    def _writable(self) -> None:
        queue = self._queue
        while queue:
            data, fds = queue[0]
            if not self._send(data, fds):
                return
            queue.popleft()
            _close(fds)
        if not self._closed:
            self._loop.remove_writer(self._socket.fileno())
            if self._on_taken is not None:
                self._on_taken()

    def _readable(self) -> None:
        for _ in range(_MAX_READS):
            if self._closed:
                return
            try:
                count, ancillary, flags, _ = self._socket.recvmsg_into(
                    [self._buffer], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionResetError:
                continue  # the peer is gone and left something unread; what it said before is still there
            except OSError:
                self._lose("gone")
                return
            fds = _descriptors(ancillary)
            if not count:
                _close(fds)
                self._lose("gone")
                return
            if flags & socket.MSG_TRUNC:
                _close(fds)
                self._lose("a message is too long")
                return
            # MSG_CTRUNC: out of descriptors.  The handler finds one missing and says so.
            self.bytes_in += count
            try:
                self._on_message(self._view[:count], fds)
            except ValueError as error:
                self._lose(f"not understood: {error}")
                return

    def _lose(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._on_lost(reason)

    def close(self) -> None:
        """Hang up; what waits is dropped."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        if self._queue:
            self._loop.remove_writer(self._socket.fileno())
        for _, fds in self._queue:
            _close(fds)
        self._queue.clear()
        self._socket.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends; neither is inherited by child processes unless passed on by name."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def attach(body: bytes) -> int:
    """A descriptor of shared memory that holds ``body``; the caller's.  Raises ``OSError``."""
    fd = os.memfd_create("pyrtmp-message", os.MFD_CLOEXEC)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        raise
    return fd


def detach(fds: list[int]) -> bytes:
    """What ``attach`` put into the only descriptor, which is closed.  Raises ``ValueError``."""
    try:
        if len(fds) != 1:
            raise ValueError("a message came without its attachment")
        size = os.fstat(fds[0]).st_size
        if size > MAX_ATTACHMENT:
            raise ValueError(f"an attachment has {size} bytes")
        return os.pread(fds[0], size, 0)
    except OSError as error:
        raise ValueError(f"an attachment cannot be read: {error}") from None
    finally:
        close_all(fds)


def close_all(fds: list[int]) -> None:
    """Close descriptors that came with a message and are not wanted."""
    _close(fds)
    fds.clear()


_ETOOMANYREFS: Final = 109


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, type, data in ancillary:
        if level == socket.SOL_SOCKET and type == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
