"""The segments of one stream: which the playlist names, and which can still be fetched.

::

    oldest                                             newest
    [ retired: fetched by those with an older playlist ][ named ]
      as long again as the playlist, then forgotten       window

Numbers only go up, also from one window of a stream to the next: whoever makes a window says where they begin.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from hls.playlist import MediaPlaylist, Segment

__all__ = ["Numbers", "SegmentWindow"]

_MIN_TARGETS: Final = 3
"""RFC 8216 6.2.2: "The server MUST NOT remove a Media Segment from the Playlist File without an EXT-X-ENDLIST tag if
that would produce a Playlist whose duration is less than three times the target duration"."""


class Numbers(NamedTuple):
    """Where numbering stands."""

    sequence: int
    """Media sequence number of the next segment."""

    discontinuity: int
    """Discontinuities so far."""


@dataclass(frozen=True, slots=True)
class _Init:
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Stored:
    segment: Segment
    sequence: int
    data: bytes
    init: _Init | None
    independent: bool


class SegmentWindow:
    """Holds complete segments, newest last.

    ``window`` is the length of the playlist in seconds, ``max_bytes`` bounds all segments together.
    """

    def __init__(self, *, window: float, max_bytes: int, first: Numbers) -> None:
        self._window = window
        self._max_bytes = max_bytes
        self._next, self._discontinuities = first
        self._discontinuities_gone = first.discontinuity
        self._named: deque[_Stored] = deque()
        self._named_seconds = 0.0
        self._named_bytes = 0
        self._retired: deque[_Stored] = deque()
        self._retired_seconds = 0.0
        self._retired_bytes = 0
        self._files: dict[str, bytes] = {}
        self._init: _Init | None = None
        self._target = 0

    def __len__(self) -> int:
        """Segments that the playlist names."""
        return len(self._named)

    @property
    def numbers(self) -> Numbers:
        """Where another window of the stream would have to begin."""
        return Numbers(self._next, self._discontinuities)

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return self._named_bytes + self._retired_bytes

    def add(
        self,
        data: bytes,
        init: bytes | None,
        *,
        duration: float,
        target_duration: int,
        discontinuity: bool,
        independent: bool,
        time: datetime,
    ) -> None:
        """Append a complete segment; ``init`` is its initialization section if it is fMP4."""
        sequence = self._next
        self._next += 1
        if discontinuity:
            self._discontinuities += 1
        self._target = target_duration
        if init is None:
            self._init = None
        elif self._init is None or self._init.data != init:
            self._init = _Init(f"init-{sequence}.mp4", init)
            self._files[self._init.name] = init
        name = f"{sequence}.ts" if init is None else f"{sequence}.m4s"
        segment = Segment(
            uri=name,
            duration=duration,
            discontinuity=discontinuity,
            program_date_time=time,
            map_uri=None if self._init is None else self._init.name,
        )
        self._named.append(_Stored(segment, sequence, data, self._init, independent))
        self._named_seconds += duration
        self._named_bytes += len(data)
        self._files[name] = data
        self._shrink()

    def playlist(self, *, ended: bool) -> MediaPlaylist:
        """The playlist of the present moment; only with at least one segment."""
        return MediaPlaylist(
            target_duration=self._target,
            media_sequence=self._named[0].sequence,
            discontinuity_sequence=self._discontinuities_gone,
            segments=tuple(stored.segment for stored in self._named),
            independent_segments=all(stored.independent for stored in self._named),
            ended=ended,
        )

    def get(self, name: str) -> bytes | None:
        """The segment or initialization section of that name, unless it is unknown or forgotten."""
        return self._files.get(name)

    def _shrink(self) -> None:
        window = max(self._window, float(_MIN_TARGETS * self._target))
        # Half of the memory for what is named, so that it can still be fetched when it just left.
        while len(self._named) > 1 and (
            self._named_seconds - self._named[0].segment.duration >= window
            or self._named_bytes > self._max_bytes // 2
        ):
            self._retire()
        while self._retired and (
            self._retired_seconds - self._retired[0].segment.duration >= window + self._target
            or self.size > self._max_bytes
        ):
            self._forget()

    def _retire(self) -> None:
        stored = self._named.popleft()
        self._named_seconds -= stored.segment.duration
        self._named_bytes -= len(stored.data)
        self._retired.append(stored)
        self._retired_seconds += stored.segment.duration
        self._retired_bytes += len(stored.data)
        if stored.segment.discontinuity:
            self._discontinuities_gone += 1

    def _forget(self) -> None:
        stored = self._retired.popleft()
        self._retired_seconds -= stored.segment.duration
        self._retired_bytes -= len(stored.data)
        del self._files[stored.segment.uri]
        following = self._retired[0] if self._retired else self._named[0]
        if stored.init is not None and stored.init is not following.init and stored.init is not self._init:
            del self._files[stored.init.name]
