"""What is left to do in the directory of recordings: files that lost nodes did not complete, files that are too old."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cluster.recording.naming import PART, Naming
from cluster.recording.partfile import PartFile
from pyrtmp.names import StreamKey

_EMPTY_SECONDS: Final = 10.0
"""A file is locked before anything is written to it: one that is empty may have been begun just now."""


def left_behind(directory: Path, naming: Naming, now: float) -> Iterator[tuple[StreamKey, PartFile]]:
    """Files that nobody writes and nobody completed, locked now, with their streams.  Blocks.  ``now`` is Unix time."""
    for path, facts, key in _files(directory, naming):
        begun = facts.st_size > 0 or now - facts.st_mtime >= _EMPTY_SECONDS
        if begun and path.name.endswith(f".flv{PART}"):
            with contextlib.suppress(OSError):
                found = PartFile.left_behind(path)
                if found is not None:
                    yield key, found


def delete_old(directory: Path, naming: Naming, before: float) -> list[Path]:
    """Delete complete files that were last written before then (Unix time), and directories that are empty after that;
    what was deleted.  Blocks."""
    deleted = []
    for path, facts, _ in _files(directory, naming):
        if facts.st_mtime < before and not path.name.endswith(PART):
            with contextlib.suppress(OSError):
                path.unlink()
                deleted.append(path)
                for parent in path.relative_to(directory).parents[:-1]:
                    (directory / parent).rmdir()
    return deleted


def _files(directory: Path, naming: Naming) -> Iterator[tuple[Path, os.stat_result, StreamKey]]:
    """Regular files that ``naming`` could have named; links are not followed."""
    for place, _, names in os.walk(directory):
        for name in names:
            path = Path(place, name)
            key = naming.stream(path.relative_to(directory).as_posix())
            if key is None:
                continue
            try:
                facts = path.lstat()
            except OSError:  # gone meanwhile
                continue
            if stat.S_ISREG(facts.st_mode):
                yield path, facts, key
