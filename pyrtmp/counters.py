"""What is counted while a process runs; one object, passed to whoever counts, read by whoever reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


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
    skips: int = 0
    """Times a slow viewer was moved to a newer join point."""
    stalls: int = 0
    """Viewers let go because their socket took nothing."""
    dropped_messages: int = 0
    """Media messages that came where none is legal."""
    log_failures: int = 0
    """Rounds in which a wire log could not be written."""
    rounds: int = 0
    round_seconds: float = 0.0
    """Time spent in rounds."""
