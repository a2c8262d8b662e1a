"""The segments of one stream: which the playlist names, and which can still be fetched.

::

    oldest                                             newest
    [ retired: fetched by those with an older playlist ][ named ]
      as long again as the playlist, then forgotten       window

Numbers only go up, also from one window of a stream to the next: whoever makes a window says where they begin.  A
playlist's numbers have no gaps; where they have to jump, everything before the jump is retired at once.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from hls.content import Content
from hls.playlist import MediaPlaylist, Segment

__all__ = ["ZERO", "Entry", "Numbers", "SegmentWindow"]

_MIN_TARGETS: Final = 3
"""RFC 8216 6.2.2: "The server MUST NOT remove a Media Segment from the Playlist File without an EXT-X-ENDLIST tag if
that would produce a Playlist whose duration is less than three times the target duration"."""

_INIT_MASK: Final = (1 << 30) - 1
"""Below all numbers that segments have, which are Unix times."""


class Numbers(NamedTuple):
    """Where numbering stands."""

    sequence: int
    """Media sequence number of the next segment."""

    discontinuity: int
    """Discontinuities so far."""

    def reaches(self, other: Numbers) -> bool:
        """Whether neither is below the other's."""
        return self.sequence >= other.sequence and self.discontinuity >= other.discontinuity

    def above(self, other: Numbers) -> Numbers:
        """The higher of each."""
        return Numbers(max(self.sequence, other.sequence), max(self.discontinuity, other.discontinuity))


ZERO: Final = Numbers(0, 0)
"""Below all that a stream has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One segment in a window."""

    sequence: int
    """Media sequence number; names are made of it."""

    discontinuities: int
    """Discontinuities of the stream up to here, its own included."""

    discontinuity: bool
    duration: float
    time: datetime
    independent: bool
    content: Content

    init: int | None
    """The number that its initialization section is named after, that of a segment or one made of its content; None for
    MPEG-TS."""

    @property
    def name(self) -> str:
        return f"{self.sequence}.ts" if self.init is None else f"{self.sequence}.m4s"

    @property
    def segment(self) -> Segment:
        """Its part of a playlist."""
        return Segment(
            uri=self.name,
            duration=self.duration,
            discontinuity=self.discontinuity,
            program_date_time=self.time,
            map_uri=None if self.init is None else _init_name(self.init),
        )

    @property
    def before(self) -> Numbers:
        """The numbers before it: what a playlist says that begins with it."""
        return Numbers(self.sequence, self.discontinuities - self.discontinuity)


def _init_name(number: int) -> str:
    return f"init-{number}.mp4"


@dataclass(slots=True)
class _Init:
    """An initialization section."""

    content: Content
    users: int = 0
    """Segments here that need it."""


class SegmentWindow:
    """Holds complete segments, newest last, and closes those it forgets.

    ``window`` is the length of the playlist in seconds, ``max_bytes`` bounds all segments together.
    """

    def __init__(self, *, window: float, max_bytes: int) -> None:
        self._window = window
        self._max_bytes = max_bytes
        self._numbers = self._floor = ZERO
        self._jumps = False
        """Whether the next segment begins a playlist of its own."""
        self._named: deque[Entry] = deque()
        self._named_seconds = 0.0
        self._named_bytes = 0
        self._retired: deque[Entry] = deque()
        """In the order in which they left the playlist."""
        self._retired_seconds = 0.0
        self._retired_bytes = 0
        self._files: dict[str, Content] = {}
        self._inits: dict[int, _Init] = {}
        self.target_duration = 0
        """The playlist's, in seconds."""
        self.whole = False
        """Whether the playlist begins where everybody's does: segments have left it, or it has the very first one."""

    def __len__(self) -> int:
        """Segments that the playlist names."""
        return len(self._named)

    @property
    def entries(self) -> Sequence[Entry]:
        """All segments that can be fetched, in the order of their numbers."""
        return (*sorted(self._retired, key=lambda entry: entry.sequence), *self._named)

    @property
    def newest(self) -> Entry:
        """The newest segment; only with at least one."""
        return self._named[-1]

    @property
    def first(self) -> Numbers:
        """Where the playlist begins; only with at least one segment."""
        return self._named[0].before

    @property
    def reached(self) -> Numbers:
        """Where the newest segment has left the numbers."""
        return self._numbers

    @property
    def numbers(self) -> Numbers:
        """Where another window of the stream would have to begin."""
        return self._numbers.above(self._floor)

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return self._named_bytes + self._retired_bytes

    @property
    def end(self) -> datetime | None:
        """When the newest segment ended, by the wall clock."""
        return self.newest.time + timedelta(seconds=self.newest.duration) if self._named else None

    def limit(self, *, window: float, max_bytes: int) -> None:
        """Other limits from the next segment on."""
        self._window = window
        self._max_bytes = max_bytes

    def skip(self, numbers: Numbers) -> None:
        """Numbers up to these have been seen elsewhere: no segment added from now on is below them, and from the next
        one on the playlist may follow where they were seen."""
        self._floor = self._floor.above(numbers)
        if self._named and self.first.sequence >= numbers.sequence and not self.first.reaches(numbers):
            self._jumps = True

    def add(
        self,
        content: Content,
        init: bytes | None,
        *,
        duration: float,
        target_duration: int,
        discontinuity: bool,
        independent: bool,
        time: datetime,
        sequence: int | None = None,
    ) -> None:
        """Append a complete segment; ``init`` is its initialization section if it is fMP4.

        ``sequence`` is the number it has everywhere; without one it is the next.  It is the next as well where that
        number has been used: numbers never go back.
        """
        if sequence is not None and sequence > self.numbers.sequence:
            self._floor = Numbers(sequence, self._floor.discontinuity)
        if self._jumps or not self._numbers.reaches(self._floor):
            self._numbers = self._numbers.above(self._floor)
            self._jumps = False
            if self._named:
                discontinuity = True
            while self._named:
                self._retire()
        named, (sequence, discontinuities) = sequence is not None, self._numbers
        number = section = None
        if init is not None:
            number = self._named_init(init) if named else self._same_init(init)
            if number is None:
                number, section = sequence, Content(init)
            elif number not in self._inits:
                section = Content(init)
        entry = Entry(
            sequence=sequence,
            discontinuities=discontinuities + discontinuity,
            discontinuity=discontinuity,
            duration=duration,
            time=time,
            independent=independent,
            content=content,
            init=number,
        )
        self._append(entry, section)
        # A playlist that goes on with segments of another worker keeps the longer target: theirs are still in it.
        self.target_duration = max(target_duration, self.target_duration)
        window = self._span()
        # Half of the memory for what is named, so that it can still be fetched when it just left.
        while len(self._named) > 1 and (
            self._named_seconds - self._named[0].duration >= window or self._named_bytes > self._max_bytes // 2
        ):
            self._retire()
        self._shrink()

    def put(self, entry: Entry, init: Content | None, *, target_duration: int, first: int) -> None:
        """Append a segment that another worker has numbered; ``init`` if its initialization section came along.

        The playlist begins with the segment numbered ``first``, if that is here already.  Raises ``ValueError`` if
        the segment does not fit behind the others; nothing has been taken over then.
        """
        sequence, discontinuities = self._numbers
        # Those retired may be of several workers; what is named behind one another counts on.
        if entry.sequence < sequence or (entry.sequence > first and entry.before.discontinuity < discontinuities):
            raise ValueError("the numbers go back")
        if init is None and entry.init is not None and entry.init not in self._inits:
            raise ValueError("the initialization section is missing")
        while self._named and entry.sequence > sequence:
            self._retire()
        self._append(entry, init)
        self.target_duration = target_duration
        while len(self._named) > 1 and self._named[0].sequence < first:
            self._retire()
        self._shrink()

    def may_follow(self, other: SegmentWindow) -> bool:
        """Whether this playlist may be shown to those who know the other one: no number goes back."""
        if not (self._named and other._named):
            return len(self._named) > 0
        if self.first.sequence >= other.reached.sequence:
            return self.first.reaches(other.reached)
        return self.first.reaches(other.first) and self.reached.reaches(other.reached)

    def inherit(self, other: SegmentWindow) -> None:
        """Retire the segments of ``other``, a window of the same stream before this one; it is empty then."""
        mine = {entry.sequence for entry in self.entries}
        begin = self.first.sequence
        retired, named = (
            [entry for entry in entries if entry.sequence not in mine and entry.sequence < begin]
            for entries in (other._retired, other._named)
        )
        for entry in (*retired, *named):
            section = None if entry.init is None or entry.init in self._inits else other._inits[entry.init]
            self._hold(entry, None if section is None else section.content)
            del other._files[entry.name]
            if section is not None and entry.init is not None:
                del other._files[_init_name(entry.init)]
            self._retired_seconds += entry.duration
            self._retired_bytes += entry.content.size
        self._retired = deque((*retired, *self._retired, *named))
        other.close()
        self._shrink()

    def playlist(self, *, ended: bool) -> MediaPlaylist:
        """The playlist of the present moment; only with at least one segment."""
        sequence, discontinuity = self.first
        return MediaPlaylist(
            target_duration=self.target_duration,
            media_sequence=sequence,
            discontinuity_sequence=discontinuity,
            segments=tuple(entry.segment for entry in self._named),
            independent_segments=all(entry.independent for entry in self._named),
            ended=ended,
        )

    def get(self, name: str) -> bytes | memoryview | None:
        """The segment or initialization section of that name, unless it is unknown or forgotten."""
        content = self._files.get(name)
        return None if content is None else content.view()

    def init(self, number: int) -> Content:
        """The initialization section named after that segment; one that a segment here needs."""
        return self._inits[number].content

    def close(self) -> None:
        """Forget everything; the numbers stay."""
        for content in self._files.values():
            content.close()
        self._files.clear()
        self._inits.clear()
        self._named.clear()
        self._retired.clear()
        self._named_seconds = self._retired_seconds = 0.0
        self._named_bytes = self._retired_bytes = 0

    def _same_init(self, data: bytes) -> int | None:
        """The number of the newest segment's initialization section, if that is the same."""
        newest = self._named or self._retired
        number = newest[-1].init if newest else None
        return number if number is not None and self._inits[number].content.view() == data else None

    def _named_init(self, data: bytes) -> int:
        """A name for an initialization section that follows from its content."""
        number = zlib.crc32(data) & _INIT_MASK
        while number in self._inits and self._inits[number].content.view() != data:
            number += 1
        return number

    def _append(self, entry: Entry, init: Content | None) -> None:
        self._hold(entry, init)
        self._named.append(entry)
        self._named_seconds += entry.duration
        self._named_bytes += entry.content.size
        self._numbers = Numbers(entry.sequence + 1, entry.discontinuities)

    def _hold(self, entry: Entry, init: Content | None) -> None:
        self._files[entry.name] = entry.content
        if entry.init is None:
            return
        section = self._inits.get(entry.init)
        if section is None:
            assert init is not None
            section = self._inits[entry.init] = _Init(init)
            self._files[_init_name(entry.init)] = init
        elif init is not None:
            init.close()
        section.users += 1

    def _span(self) -> float:
        return max(self._window, float(_MIN_TARGETS * self.target_duration))

    def _shrink(self) -> None:
        """Forget what has been retired for long enough, or takes too much memory."""
        kept = max(self._span(), self._named_seconds) + self.target_duration
        while self._retired and (
            self._retired_seconds - self._retired[0].duration >= kept or self.size > self._max_bytes
        ):
            self._forget()

    def _retire(self) -> None:
        self.whole = True
        entry = self._named.popleft()
        self._named_seconds -= entry.duration
        self._named_bytes -= entry.content.size
        self._retired.append(entry)
        self._retired_seconds += entry.duration
        self._retired_bytes += entry.content.size

    def _forget(self) -> None:
        entry = self._retired.popleft()
        self._retired_seconds -= entry.duration
        self._retired_bytes -= entry.content.size
        self._files.pop(entry.name).close()
        if entry.init is not None:
            section = self._inits[entry.init]
            section.users -= 1
            if not section.users:
                del self._inits[entry.init]
                self._files.pop(_init_name(entry.init)).close()
