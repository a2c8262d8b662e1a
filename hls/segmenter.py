"""When to cut: live messages in, drafts of segments out.

No I/O, no clock: everything is decided from the stream's own timeline.  A draft is closed

* at the first key frame (or any frame while there is no video) ``fragment`` seconds after its beginning.  An earlier
  one will do if it is the first after a line of a fixed time grid, multiples of ``fragment``: the grid belongs to the
  timeline, not to the moment packaging began, so those who package the same stream come to cut at the same frames;
* at any frame when the next key frame is so late that the segment would be longer than the target duration, or its
  messages take too much memory;
* by whatever breaks the timeline: another decoder configuration, a jump in the timestamps, another publisher.  The
  next draft then carries the mark ``discontinuity``.

A stream that says when it was born is cut along a grid instead, which all who package it have in common (``born``,
``hls.grid``): whoever joins later leaves out what it has not seen whole (``Draft.whole``).

The target duration follows from the first draft and the distance between key frames, and never changes after that.

    timestamps    1000        2000        3000        4000        5000        6000      grid lines: 2000, 4000, 6000
    key frames    K           K           K           K           K           K
    drafts        [----------][----------------------][----------------------][---      fragment = 2 s
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from hls.grid import ROUNDED_MS, Grid
from pyrtmp.birth import NEVER, Birth
from pyrtmp.media import (
    FRAME,
    KEY,
    SEQUENCE_HEADER,
    AudioTag,
    MediaError,
    VideoTag,
    classify_audio,
    classify_video,
    parse_audio,
    parse_video,
)
from pyrtmp.message import AUDIO, VIDEO, Message

__all__ = ["Draft", "Segmenter"]

_JUMP_MS: Final = 1000
"""A forward step of the timestamps beyond this is a discontinuity, unless frames are that rare anyway."""
_BACKWARD_MS: Final = 200
"""A backward step within a track beyond this is a discontinuity; encoders that round badly stay below it."""
_RARE: Final = 3
"""... which is known by the step before: a multiple of that is still the stream's pace."""
_DEFAULT_INTERVAL_MS: Final = 40
"""Taken for the length of a frame as long as only one has been seen."""
_SLACK: Final = 0.05
"""The part of a fragment by which a key frame may come early: a two-second distance between key frames is 1999 ms now
and then, because RTMP rounds to milliseconds."""
_MARGIN: Final = 1.1
"""What the target duration leaves room for, as a multiple of the longest draft to be expected: a key frame may be late.
Not more, because players stay three target durations behind the live edge."""
_MESSAGE_OVERHEAD: Final = 200
"""Bytes counted for a message beside its payload."""

_LEGACY_VIDEO: Final = frozenset({7, 12})
_LEGACY_AUDIO: Final = frozenset({2, 10, 14})
"""FLV codec ids that HLS has a place for: AVC, HEVC; MP3, AAC, MP3 at 8 kHz."""


@dataclass(slots=True)
class Draft:
    """A closed segment before it is muxed.  Times are milliseconds of the stream's timeline."""

    start: int
    """Timestamp of the first frame."""

    discontinuity: bool
    """Whether it does not follow from the draft before."""

    messages: list[Message] = field(default_factory=list)
    """Audio and video frames in stream order; no sequence headers."""

    video_header: VideoTag | None = None
    """The sequence header its video frames are decoded with."""

    audio_header: AudioTag | None = None
    """The sequence header its audio frames are decoded with."""

    has_video: bool = False

    independent: bool = True
    """Whether its video, if there is any, begins with a key frame."""

    duration: int = 0
    """Until the first frame of the next draft; where that does not follow at once, one frame beyond the last."""

    size: int = 0
    """Bytes of memory the messages take."""

    target_duration: int = 0
    """Whole seconds that no duration of this stream's drafts rounds above; the same in all of them."""

    slot: int | None = None
    """Its place in the grid."""

    born: int = 0
    """Unix time at which the stream began, whole seconds: what the numbers of its slots begin with."""

    shift: int = 0
    """How much later its times are than those that the stream was born with."""

    whole: bool = True
    """Whether it is what everybody else has in that place."""

    first: bool = False
    """Whether it is what a joiner has first."""


class _Track:
    """What is remembered of audio, or of video, since the last discontinuity.  Milliseconds."""

    __slots__ = ("interval", "last")

    def __init__(self) -> None:
        self.last: int | None = None
        self.interval = _DEFAULT_INTERVAL_MS

    def forget(self) -> None:
        self.last = None
        self.interval = _DEFAULT_INTERVAL_MS

    def advance(self, timestamp: int) -> None:
        if self.last is not None and timestamp > self.last:
            self.interval = min(timestamp - self.last, _JUMP_MS)
        self.last = timestamp


class Segmenter:
    """Cuts one stream.  Keeps the messages it is given until their draft is handed out, and never changes them.

    ``fragment`` and ``max_fragment`` are seconds, ``max_bytes`` bounds the memory of the open draft.
    """

    def __init__(self, *, fragment: float, max_fragment: float, max_bytes: int) -> None:
        self._fragment_ms = round(fragment * 1000)
        self._slack_ms = round(fragment * 1000 * _SLACK)
        self._max_fragment_ms = round(max_fragment * 1000)
        self._limit_ms = self._max_fragment_ms
        self._max_bytes = max_bytes
        self._target: int | None = None
        self._draft: Draft | None = None
        self._discontinuity = True
        self._video_header: VideoTag | None = None
        self._audio_header: AudioTag | None = None
        self._needs_key = True
        self._video = _Track()
        self._audio = _Track()
        self._latest: int | None = None
        self._step = 0
        self._key: int | None = None
        self._key_distance = 0
        self.birth: Birth | None = None
        """When the stream was born; kept by whoever calls, once ``born`` has been."""
        self.shift = 0
        self._grid: Grid | None = None
        self._ready: list[Draft] = []
        self._before: int | None = None
        self._first = False
        self._low: int | None = None
        """The earliest that the open draft's beginning may be in its slot for others; None: they have the same."""
        self._doubts = 0
        """How many drafts ended before that was known."""
        self._past: int | None = None
        """The slot of the last draft."""

    def born(self, birth: Birth, shift: int, before: int | None) -> None:
        """What comes next belongs to a stream of that birth, ``shift`` later; ``before`` is the key frame before it."""
        self.birth, self.shift, self._before = birth, shift, before
        self._grid = self._past = self._low = None
        self._first = True

    @property
    def fresh(self) -> bool:
        """Whether no frame has come since ``born``, which may be said again until then."""
        return self._first

    @property
    def audible(self) -> bool:
        """Whether the grid is that of the sound."""
        return self._grid is not None and self._grid.audible

    def feed(self, messages: Iterable[Message]) -> list[Draft]:
        """Take messages in; the drafts that they close."""
        drafts: list[Draft] = []
        for message in messages:
            draft = self.push(message)
            if self._ready:
                drafts += self.drain()
            if draft is not None:
                drafts.append(draft)
        return drafts

    def drain(self) -> list[Draft]:
        """Drafts that were closed before the one that was returned last."""
        ready, self._ready = self._ready, []
        return ready

    @property
    def target_duration(self) -> int | None:
        """Whole seconds that no draft's duration rounds above; None until the first draft is closed."""
        return self._target

    @property
    def latest(self) -> int:
        """The highest timestamp since the last discontinuity, milliseconds; 0 if nothing came since."""
        return 0 if self._latest is None else self._latest

    def push(self, message: Message) -> Draft | None:
        """Take a message in.  Returns the draft it closes, if any; whatever is neither audio nor video is ignored."""
        if message.type == VIDEO:
            return self._push_video(message)
        if message.type == AUDIO:
            return self._push_audio(message)
        return None

    def restart(self) -> Draft | None:
        """The stream is over, or another publisher goes on with it: sequence headers come anew.  Returns the draft it
        closes, if there is one."""
        draft = self._break()
        self._video_header = None
        self._audio_header = None
        self._needs_key = True
        return draft

    def _push_video(self, message: Message) -> Draft | None:
        payload = message.payload
        kind = classify_video(payload)
        if kind != KEY and kind != FRAME:
            return self._video_header_arrived(payload) if kind == SEQUENCE_HEADER else None
        if self._needs_key and kind != KEY:
            return None  # nothing to decode it from
        first = payload[0]
        if first < 0x80:
            if first & 0x0F not in _LEGACY_VIDEO:
                return None
        elif first & 0x0F >= 6 and _default_video(payload) is None:  # 6 multitrack, 7 ModEx
            return None
        self._needs_key = False
        if kind == KEY:
            if self._key is not None:
                self._key_distance = max(message.timestamp - self._key, 0)
            self._key = message.timestamp
        return self._add(message, self._video, kind == KEY)

    def _push_audio(self, message: Message) -> Draft | None:
        payload = message.payload
        kind = classify_audio(payload)
        if kind != FRAME:
            return self._audio_header_arrived(payload) if kind == SEQUENCE_HEADER else None
        first = payload[0] if payload else 0
        if first >> 4 != 9:
            if first >> 4 not in _LEGACY_AUDIO:
                return None
        elif first & 0x0F >= 5 and _default_audio(payload) is None:  # 5 multitrack, 7 ModEx
            return None
        return self._add(message, self._audio, self._video.last is None)

    def _video_header_arrived(self, payload: bytes) -> Draft | None:
        header = _default_video(payload)
        # Encoders repeat their headers, some with every key frame: only a different one is news.
        if header is None or header == self._video_header:
            return None
        draft = self._break() if self._video.last is not None else None
        self._video_header = header
        self._needs_key = True
        return draft

    def _audio_header_arrived(self, payload: bytes) -> Draft | None:
        header = _default_audio(payload)
        if header is None or header == self._audio_header:
            return None
        draft = self._break() if self._audio.last is not None else None
        self._audio_header = header
        return draft

    def _add(self, message: Message, track: _Track, opens: bool) -> Draft | None:
        """Put a frame into the open draft, closing that first if need be.

        ``opens``: a segment may well begin with this frame (a key frame, or any audio while there is no video).
        """
        timestamp = message.timestamp
        closed = None
        if self._latest is not None and self._jumps(timestamp, track.last, self._latest):
            closed = self._break()
        elif self.birth is None and self._draft is not None and self._is_due(self._draft, message, opens):
            closed = self._close(self._draft, timestamp)
        if self.birth is not None:
            if closed is not None:
                self._ready.append(closed)
                closed = None
            self._place(message)
        else:
            draft = self._draft
            if draft is None:
                draft = self._draft = Draft(timestamp, self._discontinuity)
                self._discontinuity = False
            _append(draft, message)
        track.advance(timestamp)
        if self._latest is None:
            self._latest = timestamp
        elif timestamp > self._latest:
            self._step = timestamp - self._latest
            self._latest = timestamp
        return closed

    def _jumps(self, timestamp: int, last: int | None, latest: int) -> bool:
        step = timestamp - latest
        if step > _JUMP_MS and step > _RARE * self._step:
            self._step = step  # the next one like it is this stream's pace
            return True
        return last is not None and timestamp < last - _BACKWARD_MS

    def _is_due(self, draft: Draft, message: Message, opens: bool) -> bool:
        elapsed = message.timestamp - draft.start
        if opens and elapsed * 2 >= self._fragment_ms:
            slack = self._slack()
            if elapsed >= self._fragment_ms - slack:
                return True
            if (message.timestamp + slack) // self._fragment_ms > (draft.start + slack) // self._fragment_ms:
                return True
        if draft.size + len(message.payload) > self._max_bytes:
            return True
        # The last frame that the draft has room for opens the next one.
        return elapsed + max(self._video.interval, self._audio.interval) > self._limit_ms

    # Along the grid

    def _place(self, message: Message) -> None:
        """Put a frame into the open draft, closing those first whose time is over."""
        time = message.timestamp
        grid = self._grid or self._choose_grid(time)
        draft = self._draft
        if draft is not None and grid is not None and draft.slot is None:
            # Until now there was no grid: cut once more.
            self._draft, self._discontinuity, self._first = None, draft.discontinuity, draft.first
            for each in draft.messages:
                self._place(each)
            draft = self._draft
        if draft is not None and draft.size + len(message.payload) > self._max_bytes:
            self._discontinuity = True
            self._finish(draft, time)
            draft = None
        while draft is not None and grid is not None and draft.slot is not None:
            begins = grid.start(draft.slot + 1)
            if time < begins:
                break
            offset = grid.offset(draft.start, draft.slot)
            late = time - begins
            if late < grid.length and late <= offset + grid.reach:
                if not self._opens(message):
                    break
                self._compare(grid, draft, message, len(draft.messages))
                self._finish(draft, time)
                self._open(message, draft_slot=grid.slot(time))
                return
            index = _beginning(grid, draft, message, offset)
            self._compare(grid, draft, message, index)
            if index == len(draft.messages):
                # Nothing there to begin with.
                gap = grid.slot(time) > (self._past or 0) + 1
                self._discontinuity = self._discontinuity or gap
                self._finish(draft, time)
                self._open(message, draft_slot=grid.slot(time))
                return
            draft = self._split(draft, index)
        if draft is None:
            self._open(message)
        else:
            _append(draft, message)

    def _compare(self, grid: Grid, draft: Draft, message: Message, index: int) -> None:
        """Here the next draft begins with frame ``index`` of ``draft`` or, behind them, with ``message``: does it for
        those as well whose ``draft`` began as early as may be?"""
        if self._low is None or draft.slot is None:
            return
        self._doubts += 1
        low = _beginning(grid, draft, message, self._low)
        if low == index or self._doubts > grid.patience:
            self._low = None
        elif low < index:
            slot = draft.slot + 1 if index < len(draft.messages) else grid.slot(message.timestamp)
            self._low = grid.offset(draft.messages[low].timestamp, slot)
        else:
            self._low = 0  # sound far ahead of its picture

    def _opens(self, message: Message) -> bool:
        if message.type == VIDEO:
            return classify_video(message.payload) == KEY
        return self._video.last is None and self.audible

    def _choose_grid(self, time: int, forced: bool = False) -> Grid | None:
        assert self.birth is not None
        grid = self._grid = Grid.of(
            self.birth, self.shift, time, fragment=self._fragment_ms, longest=self._max_fragment_ms, forced=forced
        )
        if grid is not None:
            self._target = grid.target
        return grid

    def _open(self, message: Message, draft_slot: int | None = None) -> None:
        """A draft that begins with ``message``: in ``draft_slot`` it follows from the one before."""
        grid, time = self._grid, message.timestamp
        opens = self._opens(message)
        if self._first and grid is not None and not grid.audible and not opens:
            return  # sound ahead of the first picture, which is not there for everybody
        draft = Draft(time, self._discontinuity, first=self._first, shift=self.shift)
        self._discontinuity = False
        if grid is not None:
            slot = draft.slot = grid.slot(time) if draft_slot is None else draft_slot
            if self._first:
                before = self._before
                seen = before is not None and before < time and grid.slot(before) < slot
                beginning = before == NEVER
                sure = beginning or (seen and grid.offset(time, slot) <= grid.reach)
                self._low, self._doubts = None if sure else 0, 0
                draft.whole = beginning or (seen and sure)
                self._first = False
            elif draft_slot is None:
                self._low = None
                draft.whole = slot != self._past
            else:
                draft.whole = self._low is None
            self._past = slot
        elif self._first:
            self._first = False
        self._draft = draft
        _append(draft, message)

    def _settle(self, draft: Draft) -> None:
        """It breaks off before the grid is known: it is all there is of the first slot, or of a grid that follows."""
        grid = self._choose_grid(draft.start, forced=True)
        if grid is None:
            draft.slot = 0
            return
        self._draft, self._discontinuity, self._first = None, draft.discontinuity, draft.first
        for each in draft.messages:
            self._place(each)

    def _finish(self, draft: Draft, following: int) -> None:
        self._ready.append(self._close(draft, following))

    def _split(self, draft: Draft, index: int) -> Draft:
        """Close what is before ``index``; the rest is the open draft, in the next slot."""
        assert draft.slot is not None
        rest = draft.messages[index:]
        head = replace(draft, messages=[], size=0, has_video=False, independent=True)
        for message in draft.messages[:index]:
            _append(head, message)
        self._finish(head, rest[0].timestamp)
        assert draft.slot is not None
        slot = draft.slot + 1
        tail = Draft(
            rest[0].timestamp, self._discontinuity, slot=slot, shift=self.shift, whole=self._low is None
        )
        self._discontinuity = False
        for message in rest:
            _append(tail, message)
        self._past = slot
        self._draft = tail
        return tail

    def _slack(self) -> int:
        """How early a draft may be cut: not at all if there will be another occasion soon."""
        return self._slack_ms if self._key_distance * 2 >= self._fragment_ms else 0

    def _close(self, draft: Draft, following: int) -> Draft:
        """Close ``draft``; ``following`` is the timestamp of the frame that comes next."""
        draft.duration = max(following - draft.start, 0)
        if self.birth is not None:
            draft.born = self.birth.wall // 1000
        draft.video_header = self._video_header
        draft.audio_header = self._audio_header
        self._draft = None
        if self._target is None:
            self._target = self._choose_target(draft.duration)
            self._limit_ms = min(self._target * 1000 + ROUNDED_MS, self._max_fragment_ms)
        draft.target_duration = self._target
        # 4.3.3.1: "The EXTINF duration of each Media Segment in the Playlist file, when rounded to the nearest
        # integer, MUST be less than or equal to the target duration".  Frames further apart leave a hole.
        longest = self._target * 1000 + ROUNDED_MS
        if draft.duration > longest:
            draft.duration = longest
            self._discontinuity = True
        return draft

    def _choose_target(self, first: int) -> int:
        """Target duration, in seconds, when the first draft took ``first`` ms."""
        expected: float = max(first, self._fragment_ms)
        if self._key_distance:
            groups = math.ceil((self._fragment_ms - self._slack()) / self._key_distance)
            expected = max(expected, groups * self._key_distance)
        expected = max(min(expected * _MARGIN, self._max_fragment_ms), first)
        return max(math.ceil((expected - ROUNDED_MS) / 1000), 1)

    def _break(self) -> Draft | None:
        """Close the open draft, if there is one; the next does not follow from it."""
        draft = self._draft
        if draft is not None and self.birth is not None and draft.slot is None:
            self._settle(draft)
            draft = self._draft
        if draft is not None:
            ends = [track.last + track.interval for track in (self._video, self._audio) if track.last is not None]
            self._close(draft, max(ends))
        if self.birth is not None and self.birth.pace <= 0:
            self._grid = None  # it may have been made for want of a better one
        self._discontinuity = True
        self._video.forget()
        self._audio.forget()
        self._latest = None
        self._key = None
        return draft


def _append(draft: Draft, message: Message) -> None:
    if message.type == VIDEO and not draft.has_video:
        draft.has_video = True
        draft.independent = classify_video(message.payload) == KEY
    draft.messages.append(message)
    draft.size += len(message.payload) + _MESSAGE_OVERHEAD


def _beginning(grid: Grid, draft: Draft, message: Message, offset: int) -> int:
    """Which frame of ``draft`` begins the next one if this one began at ``offset``; behind them all is ``message``.

    The last of the pictures (or, without one, of the sounds) that come in time; not the very first.
    """
    assert draft.slot is not None
    begins, latest = grid.start(draft.slot + 1), grid.next(offset)
    found: tuple[bool, int] | None = None
    for index, each in enumerate((*draft.messages, message)):
        late = each.timestamp - begins
        if late > offset + grid.reach or late >= grid.length:
            return index if found is None else found[1]
        if index and 0 <= late <= latest:
            found = max(found or (False, 0), (each.type == VIDEO, index))
    return len(draft.messages)  # a key frame, and in time


def _default_video(payload: bytes) -> VideoTag | None:
    """The default track's part of a video message; None if there is none, or it cannot be read."""
    try:
        return next((tag for tag in parse_video(payload) if tag.track == 0), None)
    except MediaError:
        return None


def _default_audio(payload: bytes) -> AudioTag | None:
    """The default track's part of an audio message; None if there is none, or it cannot be read."""
    try:
        return next((tag for tag in parse_audio(payload) if tag.track == 0), None)
    except MediaError:
        return None
