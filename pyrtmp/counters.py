"""What is counted while a process runs; one object, passed to whoever counts, read by whoever reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from pyrtmp.histogram import Histogram

FIRST_FRAME_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""A group of pictures kept for joiners starts a viewer at once; without one it waits for the next key frame."""


@dataclass(slots=True)
class Counters:
    """Totals since the process started."""

    connections: int = 0
    """RTMP connections accepted."""
    refused: Counter[str] = field(default_factory=Counter)
    """Connections ended by this side for what the peer did, by ``PeerError.reason`` or deadline."""
    publishes: int = 0
    takeovers: int = 0
    """Publishes that took a stream from a publisher that had fallen silent."""
    plays: Counter[str] = field(default_factory=Counter)
    """Viewers started, by protocol."""
    bytes_in: int = 0
    """Bytes received on RTMP connections that have ended."""
    bytes_out: Counter[str] = field(default_factory=Counter)
    """Media bytes sent to viewers that have left, by protocol."""
    viewers_failed: Counter[str] = field(default_factory=Counter)
    """Viewers that did not get what they asked for, or not to its end, by cause; see ``Server.viewer_failed``."""
    first_frames: dict[str, Histogram] = field(default_factory=dict)
    """Seconds from a viewer's request to its first bytes, by protocol."""
    skips: int = 0
    """Times a slow viewer was moved to a newer join point."""
    skipped_viewers: int = 0
    """Viewers that have left and had been moved at least once."""
    stalls: int = 0
    """Viewers let go because their socket took nothing."""
    dropped_messages: int = 0
    """Media messages that came where none is legal."""
    log_failures: int = 0
    """Rounds in which a wire log could not be written."""
    rounds: int = 0
    round_seconds: float = 0.0
    """Time spent in rounds."""

    def first_frame(self, protocol: str, seconds: float) -> None:
        """A viewer that asked so many seconds ago gets its first bytes."""
        times = self.first_frames.get(protocol)
        if times is None:
            times = self.first_frames[protocol] = Histogram(FIRST_FRAME_SECONDS)
        times.observe(seconds)
