"""The bytes of one file that is served: ordinary memory, or a sealed memory file that other processes have as well."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from typing import Final

if sys.platform == "linux":
    import fcntl

    _SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    _NEEDED: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE
    """Without them whoever wrote the file could change it, or end this process by cutting it."""

__all__ = ["Content"]

_SMALL: Final = 16 * 1024
"""Up to so many bytes a copy is cheaper than a mapping."""


class Content:
    """Bytes that never change.  Begins as ordinary memory; ``seal`` moves it, once and for all, to a memory file."""

    __slots__ = ("_data", "_fd", "_map", "size")

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._fd = -1
        self._map: mmap.mmap | None = None
        self.size = len(data)

    @classmethod
    def adopt(cls, fd: int, size: int) -> Content:
        """The sealed memory file behind ``fd``, which is taken over in any case.

        Raises ``ValueError`` if it is something else or has another size.
        """
        content = cls(b"")
        content._data = None
        content._fd = fd
        content.size = size
        try:
            if sys.platform != "linux":
                raise ValueError("memory files need Linux")
            sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _NEEDED == _NEEDED
            found = os.fstat(fd).st_size
            if not sealed or found != size:
                raise ValueError(f"a file of {found} bytes, sealed: {sealed}; {size} bytes expected")
        except OSError as error:
            content.close()
            raise ValueError(f"no memory file: {error.strerror}") from None
        except ValueError:
            content.close()
            raise
        return content

    def __del__(self) -> None:
        # The result of a muxer whose stream was forgotten meanwhile; all else is closed by who forgets it.
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it was given back."""
        return self._data is None and self._fd < 0

    def view(self) -> bytes | memoryview:
        """The bytes, read-only; a file of some size is mapped for that, for as long as anybody has the view.

        Raises ``OSError`` where there is no memory for it.
        """
        if self._data is not None:
            return self._data
        if self.size <= _SMALL:
            return os.pread(self._fd, self.size, 0)
        if self._map is None:
            # Shared mappings of files sealed like these need Linux 6.7; nobody writes, so this is the same memory.
            try:
                self._map = mmap.mmap(self._fd, self.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            except OSError:  # it takes a descriptor of its own
                return os.pread(self._fd, self.size, 0)
        return memoryview(self._map)

    def seal(self) -> None:
        """Move the bytes to a memory file.  Raises ``OSError``; they are where they were then."""
        if self._data is None:
            return
        if sys.platform != "linux":
            raise OSError("memory files need Linux")
        fd = os.memfd_create("pyrtmp-hls", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(self._data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._data = None

    def descriptor(self) -> int:
        """A new descriptor of the memory file, the caller's to close.  Raises ``OSError``."""
        self.seal()
        return os.dup(self._fd)

    def close(self) -> None:
        """Give the memory back; views handed out keep theirs until they are gone.  May be called again."""
        fd, self._fd = self._fd, -1
        self._data = None
        self._map = None  # unmapped with its last view: closing it would fail while there is one
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
