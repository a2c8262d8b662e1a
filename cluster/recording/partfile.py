"""A recording on its way to the disk.  Everything here blocks, and belongs in the recorder's thread.

::

    NAME.flv.part   while it is written, under a lock (flock): unlocked, its node was lost
    NAME.flv        complete; or NAME.mp4, see ``cluster.recording.converting``
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Final

from cluster.recording.flvfile import HEAD_BYTES, Extent, measure
from cluster.recording.naming import PART

_MAX_TAKEN: Final = 1000
"""Numbers tried behind a name that is taken."""


class PartFile:
    """A file that is not complete.  After a failure nothing more is written to it, but it can be salvaged."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self._file = file
        self._broken: OSError | None = None

    @classmethod
    def create(cls, directory: Path, name: str) -> PartFile:
        """Begin ``NAME.flv.part``, or ``NAME-2``, where that is taken.  Raises ``OSError``."""
        for number in count(1):
            path = directory / f"{name}{f'-{number}' if number > 1 else ''}.flv{PART}"
            taken = complete(path, "flv").exists() or complete(path, "mp4").exists()
            try:
                if not taken:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    return cls._locked(path, path.open("x+b", buffering=0))
            except FileExistsError:
                if not path.exists():  # what stands there is in the place of a directory
                    raise
            if number == _MAX_TAKEN:
                raise FileExistsError(errno.EEXIST, f"{_MAX_TAKEN} files have that name already", str(path))
        raise AssertionError("it goes on for ever")

    @classmethod
    def _locked(cls, path: Path, file: FileIO) -> PartFile:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(path, file)

    @classmethod
    def left_behind(cls, path: Path) -> PartFile | None:
        """One whose node was lost, or None where somebody writes it.  Raises ``OSError``."""
        file = path.open("r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return cls(path, file)

    def fileno(self) -> int:
        """Its descriptor, which has the lock."""
        return self._file.fileno()

    def write(self, buffers: Sequence[bytes], min_free: int) -> None:
        """Append.  Raises ``OSError``, from then on always; what was written before stays."""
        if self._broken is not None:
            raise self._broken
        try:
            check_free(self._file.fileno(), min_free)
            left = memoryview(b"".join(buffers))
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._broken = error
            raise

    def seal(self, extent: Extent | None = None) -> Extent:
        """Fill in the head; without ``extent``, cut off what is not whole and look for it.

        Raises ``ValueError`` where there is not one frame, ``OSError``.
        """
        head = b""
        if extent is None or self._broken is not None:
            extent, head = measure(self._file)
            self._file.truncate(extent.size)
        if not head:
            self._file.seek(0)
            head = self._file.read(HEAD_BYTES)
        for offset, data in extent.patches(head):
            self._file.seek(offset)
            self._file.write(data)
        return extent

    def rename(self) -> Path:
        """It is complete as it is.  Raises ``OSError``."""
        path = complete(self.path, "flv")
        self.path.rename(path)
        self.close()
        return path

    def discard(self) -> None:
        """There is nothing in it, or another file has what is."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Let go of it, as it is."""
        with contextlib.suppress(OSError):
            self._file.close()


def complete(part: Path, ending: str) -> Path:
    """What the file of that ``NAME.flv.part`` is called when it is complete."""
    return part.with_name(f"{part.name.removesuffix(f'.flv{PART}')}.{ending}")


def check_free(where: int | Path, least: int) -> None:
    """Raises ``OSError``, for one where the disk has less than so many bytes free."""
    if least:
        facts = os.statvfs(where)
        if (free := facts.f_bavail * facts.f_frsize) < least:
            raise OSError(errno.ENOSPC, f"the disk has only {free >> 20} MiB free, of {least >> 20} MiB that it should")
