"""What operators and back ends see of recordings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["starting", "recording", "waiting"]


@dataclass(frozen=True, slots=True)
class RecordingFacts:
    """One stream that is recorded."""

    stream: str
    state: State
    """``starting``: there was no key frame yet.  ``waiting``: for the next attempt, after a failure."""
    since: float
    """When it entered its present state, monotonic seconds."""
    file: str
    """The one that is being written, as it is called until it is complete; ``""`` for none."""
    seconds: float
    """Of media in it."""
    bytes: int
    """In it, those included that still wait for the disk."""
    files: int
    """How many are complete, of this publisher."""
    dropped: int
    """Messages left out because the disk did not keep up, in all files of this publisher."""
    error: str
    """The last failure, or ``""``."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A file that is complete."""

    stream: str
    path: str
    seconds: float
    bytes: int


@dataclass(slots=True)
class RecordingTotals:
    """Of all recordings of a process, those that are over included."""

    files: int = 0
    """Complete ones."""
    bytes: int = 0
    """Handed to the disk."""
    dropped: int = 0
    """Messages."""
    failures: int = 0
    """Files that could not be begun, or written to the end, or completed."""


def explain(error: BaseException) -> str:
    """An error in words."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__
