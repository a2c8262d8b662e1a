"""The wire log: a live stream in one wire form, encoded once, read by every viewer at its own offset.

::

        evicted          kept for those who lag         newest join point       the end
      .---------.      .-----------.  .-----------.   .-----------|------.
      | segment |  x   | segment   |->| segment   |-->| segment   v      |
      '---------'      '-----------'  '-----------'   '------------------'
       closed when         ^ cursor: (segment, offset)            ^ cursor of a viewer that keeps up
       its last reader
       has left

A *record* is one message in this form.  Records are appended whole, so every published end is a record boundary.
Published bytes never change and segments are never used again: ``sendfile`` hands their pages to TCP, which may
still hold them when the segment is long closed.

A log is written by this process, or *follows* one in another: the same segments, adopted by descriptor, and told how
far they are published.  Both send from the same memory.

The log keeps what joiners need (from the newest join point on) and, for viewers that lag, what is younger than
``log_seconds`` and fits ``log_bytes``.  Older segments are *evicted*: taken from the chain, and closed when the last
viewer in the middle of a record has left them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

if sys.platform == "linux":
    import fcntl

_IOV_MAX: Final = 1024
"""Most buffers one system call takes on Linux."""

Buffers: TypeAlias = Sequence[bytes]


class Storage(Protocol):
    """Where the bytes of one segment live."""

    fd: int
    """A file descriptor that ``os.sendfile`` can read from, or -1."""

    def write(self, buffers: Buffers) -> None:
        """Append the buffers.  Raises ``OSError`` when there is no memory for all of them; then none is appended."""

    def read(self, offset: int, count: int) -> bytes:
        """A copy of ``count`` bytes from ``offset``."""

    def close(self) -> None:
        """Give the memory back; pages still in socket buffers stay until sent."""


class _Shared:
    """Shared memory behind a descriptor, which it owns."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self.fd, count, offset)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class MemfdStorage(_Shared):
    """Shared memory without a name (Linux): written once, sent from by the kernel."""

    __slots__ = ("_size",)

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError("memfd needs Linux")
        super().__init__(os.memfd_create("pyrtmp-log", os.MFD_CLOEXEC))
        # Nobody asks when the log was last read; keeping that time costs a sendfile 3 percent.
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_RDWR | os.O_NOATIME)
        self._size = 0

    def write(self, buffers: Buffers) -> None:
        end = self._size
        try:
            for start in range(0, len(buffers), _IOV_MAX):
                some = buffers[start : start + _IOV_MAX]
                wanted = sum(map(len, some))
                if os.pwritev(self.fd, some, end) != wanted:
                    raise OSError(errno.ENOSPC, "the log could not be written whole")
                end += wanted
        except OSError:
            # Give back what was written: it is not published, so nobody has seen it.
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, self._size)
            raise
        self._size = end


class AdoptedStorage(_Shared):
    """Memory that another process writes; this one reads up to where it is told."""

    __slots__ = ()

    def write(self, buffers: Buffers) -> None:
        raise OSError(errno.EROFS, "another process writes this segment")


class PlainStorage:
    """Ordinary memory, for platforms without memfd and for tests."""

    __slots__ = ("_data", "fd")

    def __init__(self) -> None:
        self.fd = -1
        self._data = bytearray()

    def write(self, buffers: Buffers) -> None:
        self._data += b"".join(buffers)

    def read(self, offset: int, count: int) -> bytes:
        return bytes(memoryview(self._data)[offset : offset + count])

    def close(self) -> None:
        self._data = bytearray()


def default_storage() -> Storage:
    """Memfd where there is one, else ordinary memory."""
    return MemfdStorage() if sys.platform == "linux" else PlainStorage()


class Segment:
    """A bounded piece of a log; ``size`` bytes of it are published."""

    __slots__ = ("_storage", "begun", "evicted", "fd", "next", "number", "readers", "size")

    def __init__(self, storage: Storage, begun: int) -> None:
        self._storage = storage
        self.fd = storage.fd
        self.size = 0
        self.begun = begun
        """Media time of its first record, milliseconds."""
        self.number = 0
        """Place in its log, counted from 1; 0 where a log waits for its first one."""
        self.next: Segment | None = None
        """The segment that goes on where this one ends, once it is full."""
        self.readers = 0
        """Cursors in this segment."""
        self.evicted = False
        """No longer part of the log; a reader leaves it at the next record boundary."""

    def write(self, buffers: Buffers, size: int) -> None:
        """Publish ``buffers``, ``size`` bytes together.  Raises ``OSError``; nothing is published then."""
        self._storage.write(buffers)
        self.size += size

    def read(self, offset: int, count: int) -> bytes:
        """A copy of published bytes."""
        return self._storage.read(offset, count)

    def leave(self) -> None:
        """One reader has gone; the last one to leave an evicted segment closes it."""
        self.readers -= 1
        if self.evicted and not self.readers:
            self.close()

    def close(self) -> None:
        self._storage.close()
        self.fd = -1


class WireLog:
    """An append-only chain of segments, bounded in bytes and media time.

    The bounds are looked at when a segment is begun, so the chain exceeds ``max_bytes`` by less than one segment and
    what is appended at once.  The segment of the join point is kept whatever its age, but not beyond ``max_bytes``.
    """

    __slots__ = (
        "_bytes",
        "_max_age",
        "_max_bytes",
        "_own",
        "_segment_bytes",
        "_segments",
        "_storage",
        "in_kernel",
        "join",
        "join_offset",
        "tail",
    )

    def __init__(
        self,
        *,
        segment_bytes: int,
        max_bytes: int,
        max_seconds: float,
        storage: Callable[[], Storage] = default_storage,
        follows: bool = False,
    ) -> None:
        self._storage = storage
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._max_age = int(max_seconds * 1000)
        self.tail = Segment(AdoptedStorage(-1) if follows else storage(), 0)
        self.tail.number = 0 if follows else 1
        self.in_kernel = follows or self.tail.fd >= 0
        """Whether ``sendfile`` can send from it."""
        self._own = not follows
        """Whether the tail is this process's to write."""
        self._segments: deque[Segment] = deque((self.tail,))
        self._bytes = 0
        self.join: Segment | None = None
        """Segment of the newest join point, or None when joiners must wait for the next one."""
        self.join_offset = 0

    @property
    def bytes(self) -> int:
        """Bytes in the chain, evicted segments left out."""
        return self._bytes

    @property
    def segments(self) -> int:
        """Segments in the chain."""
        return len(self._segments)

    def append(self, buffers: Buffers, size: int, timestamp: int) -> None:
        """Publish whole records, ``size`` bytes together; ``timestamp`` of the first, milliseconds.

        The records land in one segment.  Raises ``OSError`` when memory ran out; nothing is published then.
        """
        tail = self.tail
        if tail.size >= self._segment_bytes or not self._own:
            tail = self._grow(timestamp)
        elif not tail.size:
            tail.begun = timestamp
        tail.write(buffers, size)
        self._bytes += size

    def _grow(self, timestamp: int) -> Segment:
        tail = self.tail
        try:
            storage = self._storage()
        except OSError:
            # Out of descriptors: an overlong segment is better than a lost record, up to what the log may hold.
            self._trim(timestamp)
            if tail.size >= self._max_bytes or not self._own:
                raise
            return tail
        self._own = True
        return self._add(storage, timestamp)

    def _add(self, storage: Storage, begun: int) -> Segment:
        tail = self.tail
        following = Segment(storage, begun)
        following.number = tail.number + 1
        tail.next = following
        self.tail = following
        self._segments.append(following)
        if self.join is tail and self.join_offset == tail.size:
            # The same place, without keeping the full segment for it.
            self.join = following
            self.join_offset = 0
        self._trim(begun)
        return following

    # Following a log that another process writes

    def restart(self) -> None:
        """The log goes on elsewhere, or here again: readers finish their record and go on at the next join point."""
        number = self.tail.number
        self.close()
        self.tail = Segment(AdoptedStorage(-1), 0)
        self.tail.number = number
        self._segments.append(self.tail)
        self._own = False

    def adopt(self, fd: int, begun: int) -> Segment:
        """Go on with a segment of the other process; the log owns ``fd`` from here on.  Call ``restart`` first."""
        return self._add(AdoptedStorage(fd), begun)

    def extend(self, size: int) -> None:
        """The other process has published the tail up to ``size``.  Sizes only grow."""
        self._bytes += size - self.tail.size
        self.tail.size = size

    def join_at(self, segment: Segment | None, offset: int) -> None:
        """Joiners begin there; None: they must wait for the next join point."""
        self.join = None if segment is None or segment.evicted else segment
        self.join_offset = offset

    def mark_join(self) -> None:
        """The next record appended is where joiners begin."""
        self.join = self.tail
        self.join_offset = self.tail.size

    def drop_join(self) -> None:
        """Joiners must wait for the next join point (the present one is too far back)."""
        self.join = None

    def _trim(self, timestamp: int) -> None:
        segments = self._segments
        while len(segments) > 1:
            oldest = segments[0]
            if oldest is self.join:
                if self._bytes <= self._max_bytes:
                    break
                self.join = None
            following = segments[1]
            # The age of a segment is that of its youngest record: where the next one begins.
            young = 0 <= timestamp - following.begun <= self._max_age
            if oldest.readers and young and self._bytes <= self._max_bytes:
                break
            self._evict(segments.popleft())

    def _evict(self, segment: Segment) -> None:
        self._bytes -= segment.size
        segment.evicted = True
        segment.next = None
        if not segment.readers:
            segment.close()

    def close(self) -> None:
        """Evict everything; readers in the middle of a record may finish it."""
        self.join = None
        while self._segments:
            self._evict(self._segments.popleft())
