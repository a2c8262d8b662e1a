"""HLS between two workers: segments that one has made, for players that ask the other.

Messages on the link, after the subscription's id (32 bits, chosen by the reader), JSON:

    HLS_OPEN     [app, name, [media sequence, discontinuity]]     the numbers that players here have seen
    HLS_CLOSE
    HLS_WINDOW   [media sequence, discontinuity]
    HLS_SEGMENT  see ``hls.sharing.SharedSegment``; with its descriptors
    HLS_END, HLS_RESTART, HLS_LOST
    HLS_NUMBERS  [media sequence, discontinuity]     above all that players of the sender have seen; id 0
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Any, Final, Protocol

from hls.live import HlsService
from hls.sharing import Feed, Mirror, SharedSegment, Sharing, parse_numbers
from hls.window import ZERO, Numbers
from pyrtmp.names import StreamKey, problem

MAX_NAME: Final = 8193
"""Bytes of an application's and a stream's name, the longest that can be allowed, and the slash between them."""

MAX_SUBSCRIPTIONS: Final = 65536
"""Streams that one worker may follow at another."""

_ID: Final = Struct("<BI")


class HlsKind(IntEnum):
    """What a message is."""

    OPEN = 32
    CLOSE = 33
    WINDOW = 34
    SEGMENT = 35
    END = 36
    RESTART = 37
    LOST = 38
    NUMBERS = 39


class Send(Protocol):
    """Sends one message over the link, which owns the descriptors from there on."""

    def __call__(self, data: bytes, fds: list[int] | None = None) -> None: ...


class HlsLink:
    """The HLS of one link, in both directions."""

    def __init__(self, send: Send, service: HlsService) -> None:
        self._send = send
        self._service = service
        self._mirrors: dict[int, Mirror] = {}
        self._sharings: dict[int, Sharing] = {}
        self._next = 1
        self._told = ZERO

    def tell_numbers(self) -> None:
        """Say how far numbers have got here, so that a stream that moves to the other worker begins above them."""
        numbers = self._service.numbers
        if numbers != self._told:
            self._told = numbers
            self._say(HlsKind.NUMBERS, 0, list(numbers))

    # The reader's side

    def open(self, key: StreamKey, mirror: Mirror) -> None:
        """Have the other worker tell ``mirror`` of its stream."""
        sid, self._next = self._next, self._next + 1
        self._mirrors[sid] = mirror
        self._say(HlsKind.OPEN, sid, [*key, list(mirror.numbers)])

    def close_mirror(self, mirror: Mirror) -> None:
        """Stop that; ignored when it has stopped."""
        for sid in [sid for sid, each in self._mirrors.items() if each is mirror]:
            del self._mirrors[sid]
            self._say(HlsKind.CLOSE, sid)

    # Both

    def handle(self, data: memoryview, fds: list[int]) -> None:
        """Take a message and its descriptors.  Raises ``ValueError``."""
        kind, sid = _ID.unpack_from(data)
        values = json.loads(bytes(data[_ID.size :])) if len(data) > _ID.size else None
        if kind == HlsKind.OPEN:
            self._opened(sid, values)
        elif kind == HlsKind.CLOSE:
            sharing = self._sharings.pop(sid, None)
            if sharing is not None:
                sharing.close()
        elif kind == HlsKind.NUMBERS:
            self._service.skip(parse_numbers(values))
        else:
            self._tell(kind, sid, values, fds)

    def _tell(self, kind: int, sid: int, values: Any, fds: list[int]) -> None:
        """What the worker that makes the segments says."""
        mirror = self._mirrors.get(sid)
        if kind == HlsKind.SEGMENT:
            if mirror is not None:
                self._take(sid, mirror, values, fds)
        elif kind == HlsKind.WINDOW:
            numbers = parse_numbers(values)
            if mirror is not None:
                mirror.on_window(numbers)
        elif kind in (HlsKind.END, HlsKind.RESTART, HlsKind.LOST):
            if mirror is not None:
                if kind == HlsKind.LOST:
                    del self._mirrors[sid]
                _SAYINGS[HlsKind(kind)](mirror)
        else:
            raise ValueError(f"there is no kind {kind}")

    def _take(self, sid: int, mirror: Mirror, values: Any, fds: list[int]) -> None:
        if len(fds) < (2 if isinstance(values, dict) and values.get("init_size") else 1):
            # Descriptors ran out on the way: a playlist with a hole is worse than one that stands still for a moment.
            self.close_mirror(mirror)
            mirror.on_lost()
            return
        segment = SharedSegment.from_dict(values, fds)
        fds.clear()
        mirror.on_segment(segment)

    # The holder's side

    def _opened(self, sid: int, values: Any) -> None:
        if not isinstance(values, list) or len(values) != 3 or sid in self._sharings:
            raise ValueError("not what opens a stream")
        app, name, numbers = values
        if not (isinstance(app, str) and isinstance(name, str)) or problem(f"{app}/{name}", MAX_NAME):
            raise ValueError("not the name of a stream")
        if len(self._sharings) >= MAX_SUBSCRIPTIONS:
            raise ValueError("too many streams are followed")
        sharing = self._service.share(app, name, _Follower(self, sid), numbers=parse_numbers(numbers))
        if sharing is None:
            self._say(HlsKind.LOST, sid)
        else:
            self._sharings[sid] = sharing

    def say(self, kind: HlsKind, sid: int, values: Any = None, fds: list[int] | None = None) -> None:
        """Tell the reader."""
        if kind == HlsKind.LOST:
            self._sharings.pop(sid, None)
        self._say(kind, sid, values, fds)

    def _say(self, kind: HlsKind, sid: int, values: Any = None, fds: list[int] | None = None) -> None:
        body = b"" if values is None else json.dumps(values).encode()
        self._send(_ID.pack(kind, sid) + body, fds)

    def close(self) -> None:
        """The link is gone."""
        sharings, self._sharings = self._sharings, {}
        for sharing in sharings.values():
            sharing.close()
        mirrors, self._mirrors = self._mirrors, {}
        for mirror in mirrors.values():
            mirror.on_lost()


_SAYINGS: Final[dict[HlsKind, Callable[[Mirror], None]]] = {
    HlsKind.END: lambda mirror: mirror.on_end(),
    HlsKind.RESTART: lambda mirror: mirror.on_restart(),
    HlsKind.LOST: lambda mirror: mirror.on_lost(),
}


class _Follower:
    """Passes on what ``HlsService.share`` tells.  See ``hls.sharing.Follower``."""

    def __init__(self, link: HlsLink, sid: int) -> None:
        self._link = link
        self._sid = sid

    def on_window(self, numbers: Numbers) -> None:
        self._link.say(HlsKind.WINDOW, self._sid, list(numbers))

    def on_segment(self, segment: SharedSegment) -> None:
        fds, segment.fds = segment.fds, []
        self._link.say(HlsKind.SEGMENT, self._sid, segment.to_dict(), fds)

    def on_end(self) -> None:
        self._link.say(HlsKind.END, self._sid)

    def on_restart(self) -> None:
        self._link.say(HlsKind.RESTART, self._sid)

    def on_lost(self) -> None:
        self._link.say(HlsKind.LOST, self._sid)


class HlsFeeds:
    """Where streams are found that other workers hold.  See ``hls.sharing.Feeds``.

    ``find`` gives the HLS of the link to the worker that holds a stream.
    """

    def __init__(self, find: Callable[[StreamKey], HlsLink | None]) -> None:
        self._find = find

    def find(self, app: str, name: str) -> Feed | None:
        """See ``hls.sharing.Feeds``."""
        key = StreamKey(app, name)
        link = self._find(key)
        return None if link is None else _Feed(link, key)


@dataclass(frozen=True, slots=True)
class _Feed:
    """One stream at one worker.  Equal while the holder is the same: links are not used again."""

    link: HlsLink
    key: StreamKey

    def open(self, mirror: Mirror) -> None:
        self.link.open(self.key, mirror)

    def close(self, mirror: Mirror) -> None:
        self.link.close_mirror(mirror)
