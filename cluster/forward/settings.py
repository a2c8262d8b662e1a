"""When a forward gives up, and what it may hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """Times in seconds."""

    connect: float = 10.0
    """For connecting, and again for the answer to publish."""

    buffer_bytes: int = 4 * 1024 * 1024
    """Most bytes that wait for a target; beyond it messages are dropped up to the next key frame."""

    buffer_seconds: float = 5.0
    """Longest time a byte waits for a target before messages are dropped; also what a target gets to take the rest
    when the stream is over."""

    stall: float = 10.0
    """A target that takes nothing for so long is closed and tried again."""

    check: float = 1.0
    """Pause between two looks at whether a target takes anything."""

    first_retry: float = 0.25
    """Pause after a failure; it doubles with each one that follows.  See ``Backoff``."""

    longest_retry: float = 10.0
    """Longest pause, and the one after a loop."""

    healthy: float = 30.0
    """After so long a connection the next failure counts as the first."""

    max_hops: int = 4
    """Most nodes a stream may have come through, this one included."""

    max_asks: int = 10
    """How often the question for more targets is asked while it fails, with the same pauses."""
