"""What a worker has of a stream that another one packages: the same window, the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hls.sharing import Feed, SharedSegment
from hls.window import ZERO, Entry, Numbers, SegmentWindow

__all__ = ["HlsMirror"]


class Owner(Protocol):
    """Who shows the mirror's window, once it may."""

    window: SegmentWindow
    """What is shown now."""

    def may_show(self, mirror: HlsMirror) -> bool:
        """Whether ``mirror.window``, as complete as the holder's, may be shown."""

    def mirrored(self, mirror: HlsMirror) -> None:
        """``mirror.window`` is shown from now on, or has one more segment."""

    def mirror_over(self, mirror: HlsMirror, over: bool) -> None:
        """The stream is over, or is not after all."""

    def mirror_lost(self, mirror: HlsMirror) -> None:
        """Nothing more will come."""


class HlsMirror:
    """One subscription to a feed; a ``hls.sharing.Mirror``.

    Its window is shown when it is as complete as the holder's and none of its numbers is below what is shown.  A
    holder whose numbers are lower goes above them with its next segment, having been told by ``numbers``.
    """

    def __init__(
        self, owner: Owner, feed: Feed, window: SegmentWindow, *, clock: Callable[[], float], log: Any
    ) -> None:
        self._owner = owner
        self._clock = clock
        self._log = log
        self._until = 0
        self._closed = False
        self.feed = feed
        self.window = window
        self.opened = False
        """Whether the holder has answered."""
        self.produced = False
        """Whether its window is shown."""
        self.lost_at: float | None = None
        """When the feed was lost, by ``clock``."""

    @property
    def numbers(self) -> Numbers:
        """The numbers after those that were seen here."""
        shown = self._owner.window
        return shown.numbers if len(shown) else ZERO

    def open(self) -> None:
        """Begin."""
        self.feed.open(self)

    def retire(self) -> None:
        """Another producer takes over: go on until it has a segment."""

    def close(self) -> None:
        """Stop; a window that was never shown is forgotten.  May be called again."""
        if self._closed:
            return
        self._closed = True
        if self.lost_at is None:
            self.feed.close(self)
        if not self.produced:
            self.window.close()

    def on_window(self, numbers: Numbers) -> None:
        """The stream is here; what follows up to these numbers is one playlist."""
        self._until = numbers.sequence
        self.opened = True

    def on_segment(self, segment: SharedSegment) -> None:
        """The next segment; takes its descriptors over."""
        if not self._listening:
            segment.close()
            return
        try:
            self._put(segment)
        except ValueError as error:
            self._log.error("hls_feed_broken", error=str(error))
            self.feed.close(self)
            self.on_lost()
            return
        if not self.produced:
            if segment.sequence < self._until - 1 or not self._owner.may_show(self):
                return
            self.produced = True
        self._owner.mirrored(self)

    def on_end(self) -> None:
        """The playlist has ended."""
        if self._listening:
            self._owner.mirror_over(self, True)

    def on_restart(self) -> None:
        """The playlist goes on."""
        if self._listening:
            self._owner.mirror_over(self, False)

    def on_lost(self) -> None:
        """Nothing more will come; what there is stays."""
        if self._listening:
            self.lost_at = self._clock()
            self._owner.mirror_lost(self)

    @property
    def _listening(self) -> bool:
        return not self._closed and self.lost_at is None

    def _put(self, segment: SharedSegment) -> None:
        content, *sections = segment.take()
        section = sections[0] if sections else None
        entry = Entry(
            sequence=segment.sequence,
            discontinuities=segment.discontinuities,
            discontinuity=segment.discontinuity,
            duration=segment.duration,
            time=segment.time,
            independent=segment.independent,
            content=content,
            init=segment.init,
        )
        try:
            if not self.opened:
                raise ValueError("a segment before the window")
            self.window.put(entry, section, target_duration=segment.target_duration, first=segment.first)
        except ValueError:
            for each in (content, *sections):
                each.close()
            raise
