"""One stream's HLS on several workers: made by the one that holds the stream, served by all of them.

::

    worker that holds the stream                              any other worker
    HlsService.share() -> Sharing --> Follower ~~~~~~~~~~~~~> Mirror --> HlsService.playlist(), .segment()
                                      '--- transport, not here ---'
                          metadata as JSON, descriptors of sealed memory; no media bytes

A ``Mirror`` is a ``Follower``: a transport calls on the mirror what is called on its own follower at the other end, in
the same order.  All of it runs on event loops, one call at a time.

The numbers of a stream's segments never go back for anybody who watches it, whichever worker holds it: a mirror says
which ones it has had (``Mirror.numbers``), they go with the request for the stream, and its holder stays above them.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol

from hls.content import Content
from hls.window import Entry, Numbers, SegmentWindow

__all__ = ["Feed", "Feeds", "Follower", "Mirror", "SharedSegment", "Sharing", "parse_numbers"]

_MAX_NUMBER: Final = 2**53 - 1
"""Players count in JavaScript's numbers."""
_MAX_SECONDS: Final = 86_400
_MAX_BYTES: Final = 1 << 40
_MAX_TIME: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999, Unix time."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Follower(Protocol):
    """Told of a stream's segments.  ``on_window`` comes first, ``on_lost`` last."""

    def on_window(self, numbers: Numbers) -> None:
        """The stream is here; all segments that can still be fetched follow, up to (not including) these numbers.

        They are one playlist: what has come before the last of them is not shown.
        """

    def on_segment(self, segment: SharedSegment) -> None:
        """The next segment, oldest first; its descriptors are the follower's to close."""

    def on_end(self) -> None:
        """The stream is over: the playlist has ended."""

    def on_restart(self) -> None:
        """It is not over after all: the playlist goes on."""

    def on_lost(self) -> None:
        """Nothing more will come, and nobody knows whether the stream goes on elsewhere."""


class Mirror(Follower, Protocol):
    """Serves what it is told of a stream that another worker holds.

    Takes over the descriptors of every segment, whatever becomes of it.  Calls after ``Feed.close`` are ignored.
    """

    @property
    def numbers(self) -> Numbers:
        """The numbers after those that were seen here, for ``HlsService.share`` on the holder's side."""


class Feed(Protocol):
    """A stream that another worker holds.  Feeds are equal while the holder is the same."""

    def open(self, mirror: Mirror) -> None:
        """Begin to tell ``mirror``; its ``on_lost`` says when that failed, or broke."""

    def close(self, mirror: Mirror) -> None:
        """Stop that; ignored when it has stopped by itself."""


class Feeds(Protocol):
    """Where streams are found that other workers hold."""

    def find(self, app: str, name: str) -> Feed | None:
        """The stream of that name; None if this worker holds it, or nobody does."""


@dataclass(slots=True, kw_only=True)
class SharedSegment:
    """One complete segment: what playlists say of it, and the descriptors of its bytes."""

    sequence: int
    """Its media sequence number; its name follows from that."""

    discontinuities: int
    """Discontinuities of the stream up to this segment, its own included."""

    discontinuity: bool
    """Whether it does not follow from the segment before."""

    duration: float
    """Seconds."""

    time: datetime
    """Wall-clock time of its first sample, with its zone."""

    independent: bool
    """Whether it can be decoded without the segments before it."""

    target_duration: int
    """Target duration of the playlist, with this segment in it; seconds."""

    first: int
    """Media sequence number that the playlist begins with, with this segment in it."""

    size: int
    """Bytes of the segment."""

    init: int | None
    """Media sequence number that its initialization section is named after; None for MPEG-TS."""

    init_size: int
    """Bytes of the initialization section where it comes along, the first time it is needed; else 0."""

    fds: list[int] = field(default_factory=list)
    """Descriptors of sealed memory files: the segment, and the initialization section if it comes along.  They belong
    to whoever has this object, which is for one owner."""

    def close(self) -> None:
        """Close the descriptors.  May be called again."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)

    def take(self) -> list[Content]:
        """The segment, and the initialization section if it comes along; the descriptors become theirs.

        Raises ``ValueError`` if one is no sealed memory file of the size it should have; all are closed then.
        """
        sizes = [self.size, self.init_size]
        contents: list[Content] = []
        try:
            while self.fds:
                contents.append(Content.adopt(self.fds.pop(0), sizes.pop(0)))
        except ValueError:
            for content in contents:
                content.close()
            self.close()
            raise
        return contents

    def to_dict(self) -> dict[str, Any]:
        """Everything but the descriptors, as plain data for JSON."""
        values = {name: getattr(self, name) for name in _NAMES}
        values["time"] = (self.time - _EPOCH) // _MICROSECOND
        return values

    @classmethod
    def from_dict(cls, values: object, fds: Sequence[int]) -> SharedSegment:
        """What ``to_dict`` made, with the descriptors that came with it, which are taken over.

        Raises ``ValueError`` if anything is wrong; the descriptors are still the caller's then.
        """
        if not isinstance(values, Mapping) or set(values) != set(_NAMES):
            raise ValueError("a segment has other fields")
        sequence = _integer(values, "sequence", 0, _MAX_NUMBER - 1)
        discontinuity = _boolean(values, "discontinuity")
        init = None if values["init"] is None else _integer(values, "init", 0, sequence)
        init_size = _integer(values, "init_size", 0, _MAX_BYTES)
        if init_size and init is None:
            raise ValueError("init_size without init")
        if len(fds) != (2 if init_size else 1) or any(type(fd) is not int or fd < 0 for fd in fds):
            raise ValueError("other descriptors than the segment says")
        return cls(
            sequence=sequence,
            discontinuities=_integer(values, "discontinuities", int(discontinuity), _MAX_NUMBER - 1),
            discontinuity=discontinuity,
            duration=_seconds(values, "duration"),
            time=_EPOCH + _integer(values, "time", 0, _MAX_TIME) * _MICROSECOND,
            independent=_boolean(values, "independent"),
            target_duration=_integer(values, "target_duration", 1, _MAX_SECONDS),
            first=_integer(values, "first", 0, _MAX_NUMBER),
            size=_integer(values, "size", 1, _MAX_BYTES),
            init=init,
            init_size=init_size,
            fds=list(fds),
        )


_NAMES: Final = tuple(each.name for each in fields(SharedSegment) if each.name != "fds")


class Sharing:
    """A stream handed to a follower, with one call per turn of the event loop; made by ``HlsService.share``.

    ``closed`` is called once, when this is over for whatever reason.
    """

    def __init__(self, window: SegmentWindow, follower: Follower, closed: Callable[[Sharing], None], log: Any) -> None:
        self._window = window
        self._follower = follower
        self._closed = closed
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._calls: deque[Callable[[], None]] = deque()
        self._turn: asyncio.Handle | None = None
        self._init: int | None = None
        """The initialization section that the follower has."""
        self._over = False
        self._call(partial(follower.on_window, window.reached))
        for entry in window.entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """A segment that the window has now."""
        section = None if entry.init is None else self._window.init(entry.init)
        self._call(partial(self._hand, entry, section, self._window.target_duration, self._window.first.sequence))

    def end(self) -> None:
        """The stream is over."""
        self._call(self._follower.on_end)

    def restart(self) -> None:
        """It goes on."""
        self._call(self._follower.on_restart)

    def lose(self) -> None:
        """Nothing more will come."""
        self._call(self._lose)

    def close(self) -> None:
        """Stop telling the follower; its ``on_lost`` is not called.  May be called again."""
        if self._over:
            return
        self._over = True
        self._calls.clear()
        if self._turn is not None:
            self._turn.cancel()
        self._closed(self)

    def _call(self, call: Callable[[], None]) -> None:
        if self._over:
            return
        self._calls.append(call)
        if self._turn is None:
            self._turn = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._turn = None
        try:
            self._calls.popleft()()
        except Exception as error:  # no descriptor or memory left, or the follower's own
            self._log.warning("hls_share_failed", error=repr(error))
            self._lose()
        if self._calls:
            self._turn = self._loop.call_soon(self._next)

    def _lose(self) -> None:
        self.close()
        try:
            self._follower.on_lost()
        except Exception as error:
            self._log.warning("hls_share_failed", error=repr(error))

    def _hand(self, entry: Entry, section: Content | None, target_duration: int, first: int) -> None:
        if entry.content.closed:
            return  # forgotten meanwhile
        fds = [entry.content.descriptor()]
        init_size = 0
        try:
            if section is not None and entry.init != self._init:
                fds.append(section.descriptor())
                init_size = section.size
        except BaseException:
            os.close(fds[0])
            raise
        self._init = entry.init
        segment = SharedSegment(
            sequence=entry.sequence,
            discontinuities=entry.discontinuities,
            discontinuity=entry.discontinuity,
            duration=entry.duration,
            time=entry.time,
            independent=entry.independent,
            target_duration=target_duration,
            first=first,
            size=entry.content.size,
            init=entry.init,
            init_size=init_size,
            fds=fds,
        )
        self._follower.on_segment(segment)


def parse_numbers(values: object) -> Numbers:
    """``Numbers`` after their way through JSON.  Raises ``ValueError``."""
    if not isinstance(values, list | tuple) or len(values) != 2:
        raise ValueError("numbers are a pair")
    pair = {"sequence": values[0], "discontinuity": values[1]}
    return Numbers(_integer(pair, "sequence", 0, _MAX_NUMBER), _integer(pair, "discontinuity", 0, _MAX_NUMBER))


def _integer(values: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = values[name]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is no number from {least} to {most}")
    return value


def _seconds(values: Mapping[str, Any], name: str) -> float:
    value = values[name]
    if type(value) is not float or not math.isfinite(value) or not 0.0 <= value <= _MAX_SECONDS:
        raise ValueError(f"{name} is no time in seconds")
    return value


def _boolean(values: Mapping[str, Any], name: str) -> bool:
    value = values[name]
    if type(value) is not bool:
        raise ValueError(f"{name} is neither true nor false")
    return value
