"""One timeline for a live stream: 32-bit timestamps unwrapped, strays pulled in, publishers joined end to end.

Only coded frames move the timeline.  Encoders stamp decoder configurations and metadata with 0, or with the time of
their own clock, whatever the frames around them say.
"""

from __future__ import annotations

from typing import Final

_HALF: Final = 1 << 31
_MASK: Final = (1 << 32) - 1

STEP_BACK_MS: Final = 1000
"""Sound and picture interleave loosely: a smaller step back is order, a larger one a jump."""

AHEAD_MS: Final = 10_000
"""How far ahead of the newest frame other messages may be: those of a slide show announce what comes seconds later."""

MIN_GAP_MS: Final = 100
"""Least distance between two publishers, so that one whose second track starts a little earlier than its first does
not reach back into what viewers have seen."""


class Timeline:
    """Times are milliseconds.  ``raw`` ones come off the wire, unsigned 32 bits; the others never wrap, and are
    negative only for a stream that starts near 0 and steps back."""

    __slots__ = ("_continue_at", "_peak", "_raw", "moved", "started", "time")

    def __init__(self) -> None:
        self.started = False
        """Whether a frame of the present publisher has come."""
        self.time = 0
        """Of the newest frame."""
        self.moved = 0
        """How much later the present publisher's first frame was put than it came."""
        self._raw = 0
        self._peak = 0
        """The latest time before the last step back, if that was a small one."""
        self._continue_at: int | None = None

    def restart(self, gap_ms: int) -> None:
        """Another publisher: its first frame comes ``gap_ms`` after the newest one, whatever its own clock says."""
        if self.started:
            self._continue_at = self.reached + max(gap_ms, MIN_GAP_MS)
        elif self._continue_at is not None:
            self._continue_at += max(gap_ms, 0)
        self.started = False

    def follow(self, time: int) -> None:
        """Another process writes the stream and has got to ``time``; ``restart`` goes on from there."""
        self.started = True
        self.time = self._peak = time

    def unwrap(self, raw: int) -> int:
        """Where ``raw`` would be, without going there."""
        return self.time + (raw - self._raw + _HALF & _MASK) - _HALF

    @property
    def reached(self) -> int:
        """How far it has got: the latest time that viewers have seen, of the track that is ahead."""
        return max(self.time, self._peak)

    def frame(self, raw: int) -> int:
        """The time of the next coded frame."""
        if not self.started:
            self._start(raw)
        else:
            # Section 4: timestamps roll over every 49.7 days; serial number arithmetic (RFC 1982) takes the nearest
            # reading of the difference.
            step = (raw - self._raw + _HALF & _MASK) - _HALF
            if step < 0:
                self._peak = max(self._peak, self.time) if step >= -STEP_BACK_MS else self.time + step
            self.time += step
        self._raw = raw
        return self.time

    def _start(self, raw: int) -> None:
        self.started = True
        self.time = self._peak = raw if self._continue_at is None else self._continue_at
        self.moved = self.time - raw
        self._continue_at = None

    def other(self, raw: int) -> int:
        """The time of a message that is no frame; the newest frame's if its own is far from that."""
        if not self.started:
            return raw if self._continue_at is None else self._continue_at
        step = (raw - self._raw + _HALF & _MASK) - _HALF
        return self.time + step if -STEP_BACK_MS <= step <= AHEAD_MS else self.time
