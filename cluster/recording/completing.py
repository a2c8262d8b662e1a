"""Recordings whose last byte is written: the head is filled in, the format and the final name are given.

Everything here blocks, and belongs in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.recording.converting import Converter, ConvertError
from cluster.recording.facts import Recorded, explain
from cluster.recording.flvfile import Extent
from cluster.recording.naming import PART
from cluster.recording.partfile import PartFile, check_free, complete
from pyrtmp.names import StreamKey


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of a file."""

    path: str
    """What it is called now."""
    file: Recorded | None
    """None while it is not complete, or where there was not one frame in it."""
    error: Exception | None = None
    """Why it is not complete."""
    stays: str = ""
    """Why it is FLV, where it should be MP4."""


def finish(
    key: StreamKey, part: PartFile, extent: Extent | None, *, mp4: bool, min_free: int, converter: Converter
) -> Completion:
    """Complete ``part``; ``extent`` is what was written to it, None where that is to be found out."""
    path = part.path
    try:
        try:
            extent = part.seal(extent)
        except ValueError:
            part.discard()
            return Completion(str(path), None)
        stays = ""
        if mp4:
            try:
                path = _convert(part, min_free, converter)
            except (OSError, ConvertError) as error:
                if converter.closed:  # for the next start
                    part.close()
                    return Completion(str(path), None)
                stays = explain(error)
        if not mp4 or stays:
            path = part.rename()
        size = path.stat().st_size
    except OSError as error:
        part.close()
        return Completion(str(path), None, error)
    return Completion(str(path), Recorded(str(key), str(path), extent.milliseconds / 1000, size), stays=stays)


def _convert(part: PartFile, min_free: int, converter: Converter) -> Path:
    target = complete(part.path, "mp4")
    draft = target.with_name(target.name + PART)
    check_free(part.path, min_free + part.path.stat().st_size if min_free else 0)
    converter.convert(part.path, draft, part.fileno())
    draft.rename(target)
    part.discard()
    return target
