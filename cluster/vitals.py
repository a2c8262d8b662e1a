"""How a stream is doing beyond its rates, from one look a second.

Nothing is counted per message.  A look compares what the stream counts anyway (messages, key frames, media time) with
the look before, and reads a few tags of the group of pictures at hand.  What comes and goes between two looks, as a key
frame every 200 ms does, is seen in part.  A look takes a few microseconds, however much the stream sends.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from pyrtmp import media
from pyrtmp.message import AUDIO, VIDEO, Message
from pyrtmp.stream import Stream

SETTLE_SECONDS: Final = 3.0
"""What a publisher sends at once when it begins, or a pull when it fetches the group at hand, is no pace."""
LEAST_SECONDS: Final = 0.5
"""A look that comes sooner after another one is none."""
PACE_SECONDS: Final = 30.0
"""What the pace is taken over."""
_LEAST_PACE_SECONDS: Final = 8.0
USUAL_LOOKS: Final = 60
"""How many looks the usual rates are the average of."""
GOPS: Final = 16
"""How many lengths of groups of pictures are remembered."""
JUMP_MS: Final = 2000
"""How much more the media time must move than the messages explain, to be a jump ahead."""
_OFFSETS: Final = 5
"""Looks whose median the distance of sound and picture is: they come in pieces."""
_MAX_STEPS: Final = 256
"""Messages looked through for the newest frame of each track."""
_HEADER_BYTES: Final = 64
"""Enough of a message for its tag header."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What the publisher's metadata say that can be checked; 0 where they say nothing."""

    fps: float = 0.0
    width: int = 0
    height: int = 0
    audio: bool = False
    video: bool = False

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Claims:
        """Of an onMetaData, whose values may be anything."""
        return cls(
            fps=_number(metadata, "framerate", 1000.0),
            width=int(_number(metadata, "width", 65536)),
            height=int(_number(metadata, "height", 65536)),
            audio=bool(metadata.get("audiocodecid")),
            video=bool(metadata.get("videocodecid")),
        )


@dataclass(frozen=True, slots=True)
class Vitals:
    """As of the newest look; durations are of the present publisher."""

    seconds: float = 0.0
    """Between the first look and the newest; 0 while there is nothing to compare."""
    silent: float = 0.0
    """Seconds since anything came."""
    key_age: float = 0.0
    """Seconds since a key frame was seen to have come, or since the first look."""
    shortest_gop_ms: int = 0
    """Of the last ``GOPS``; 0 while none is known."""
    longest_gop_ms: int = 0
    pace: float = 0.0
    """Media seconds that arrive per second, over ``PACE_SECONDS``; 0 while it is not known."""
    jumps_back: int = 0
    jumps_ahead: int = 0
    jumped_ms: int = 0
    """How far the newest jump went; negative: back."""
    jump_age: float = 0.0
    """Seconds since then."""
    reorder_ms: int = 0
    """How much later than it is decoded a picture is shown: above 0 the encoder makes B-frames."""
    sound_ahead_ms: int = 0
    """How far sound is ahead of the picture; negative: behind.  0 without both."""
    usual_kbps: float = 0.0
    """Kilobits per second that arrive, averaged over the last ``USUAL_LOOKS`` or as many as there were."""
    usual_fps: float = 0.0
    claims: Claims = Claims()


class Watch:
    """Looks at one stream; times are monotonic seconds."""

    __slots__ = (
        "_ahead", "_back", "_began", "_bytes", "_claims", "_frames", "_gops", "_jump_at", "_jumped", "_key",
        "_key_at", "_keys", "_looks", "_media", "_messages", "_metadata", "_newest", "_now", "_offsets", "_pace",
        "_per_message", "_reorder", "_session", "_silent", "_unsure", "_usual",
    )  # fmt: skip

    def __init__(self) -> None:
        self._metadata: Mapping[str, Any] | None = None
        self._claims = Claims()
        self._session = -1
        self._silent = 0.0
        self._now = 0.0
        self._media = self._keys = self._unsure = 0

    def look(self, stream: Stream, now: float) -> None:
        """Look at it; only at one whose messages pass here (``stream.held``)."""
        self._silent = now - stream.last_message
        if stream.metadata is not self._metadata:
            self._metadata = stream.metadata
            self._claims = Claims.read(stream.metadata)
        if stream.sessions != self._session or not self._media:  # another publisher, or no frame had come
            self._start(stream, now)
            return
        if now - self._now < LEAST_SECONDS:
            return
        self._see_time(stream, now)
        self._see_rates(stream, now)
        if stream.key_frames != self._keys:
            if stream.gop_ms and stream.key_frames > self._unsure:
                self._gops.append(stream.gop_ms)
            self._keys = stream.key_frames
            self._key_at = now
        self._see_tags(stream.recent)
        self._now = now

    def vitals(self) -> Vitals:
        """What is known now."""
        if self._session < 0:
            return Vitals()
        now = self._now
        return Vitals(
            seconds=now - self._began,
            silent=self._silent,
            key_age=now - self._key_at,
            shortest_gop_ms=min(self._gops, default=0),
            longest_gop_ms=max(self._gops, default=0),
            pace=self._measured_pace(),
            jumps_back=self._back,
            jumps_ahead=self._ahead,
            jumped_ms=self._jumped,
            jump_age=now - self._jump_at,
            reorder_ms=self._reorder,
            sound_ahead_ms=sorted(self._offsets)[len(self._offsets) // 2] if self._offsets else 0,
            usual_kbps=round(self._usual[0] * 8 / 1000, 1),
            usual_fps=round(self._usual[1], 2),
            claims=self._claims,
        )

    def _start(self, stream: Stream, now: float) -> None:
        """A publisher was not looked at before."""
        self._session = stream.sessions
        self._began = self._now = self._key_at = self._jump_at = now
        self._media, self._messages, self._bytes = stream.time, stream.messages_in, stream.bytes_in
        self._frames = stream.video_frames
        self._keys = self._unsure = stream.key_frames  # no later one has ended a group whose length can be believed
        self._key: Message | None = None
        self._gops: deque[int] = deque(maxlen=GOPS)
        self._pace: deque[tuple[float, int]] = deque()
        self._back = self._ahead = self._jumped = self._reorder = self._looks = 0
        self._per_message = 0.0
        self._newest: dict[int, int] = {}
        self._offsets: deque[int] = deque(maxlen=_OFFSETS)
        self._usual = (0.0, 0.0)

    def _see_time(self, stream: Stream, now: float) -> None:
        """Pace and jumps of the media time."""
        media, count = stream.time, stream.messages_in
        step, messages = media - self._media, count - self._messages
        # After a stall much comes at once: only what the number of messages does not explain is a jump.
        explained = max((now - self._now) * 1000, messages * self._per_message)
        jumped = step < 0 or (self._per_message > 0 and step > explained + JUMP_MS)
        if jumped:
            self._back += step < 0
            self._ahead += step > 0
            self._jumped = step
            self._jump_at = now
            self._pace.clear()
            self._offsets.clear()
            self._newest.clear()
            self._unsure = stream.key_frames + 1
        elif messages:
            each = step / messages
            self._per_message = each if not self._per_message else 0.8 * self._per_message + 0.2 * each
        if now - self._began >= SETTLE_SECONDS:
            self._pace.append((now, media))
            while self._pace[0][0] < now - PACE_SECONDS - 0.5:
                self._pace.popleft()
        self._media, self._messages = media, count

    def _see_rates(self, stream: Stream, now: float) -> None:
        self._looks += 1
        weight = 1 / min(self._looks, USUAL_LOOKS)
        span = now - self._now
        bytes, frames = (stream.bytes_in - self._bytes) / span, (stream.video_frames - self._frames) / span
        self._usual = (
            self._usual[0] + (bytes - self._usual[0]) * weight,
            self._usual[1] + (frames - self._usual[1]) * weight,
        )
        self._bytes, self._frames = stream.bytes_in, stream.video_frames

    def _see_tags(self, messages: Sequence[Message]) -> None:
        """``messages``: the group of pictures at hand, borrowed."""
        if not messages:
            return
        first = messages[0]
        if first is not self._key:
            # With B-frames every picture that others need is decoded early, the key frame too.
            self._key = first
            self._reorder = _composition_time(first)
        seen: dict[int, int] = {}
        for message in islice(reversed(messages), _MAX_STEPS):
            type = message.type
            if type not in seen and _is_frame(message):
                seen[type] = message.timestamp
                if len(seen) == 2:
                    break
        self._newest.update(seen)
        if AUDIO in self._newest and VIDEO in self._newest:
            self._offsets.append(self._newest[AUDIO] - self._newest[VIDEO])

    def _measured_pace(self) -> float:
        samples = self._pace
        if len(samples) < 2 or samples[-1][0] - samples[0][0] < _LEAST_PACE_SECONDS:
            return 0.0
        return (samples[-1][1] - samples[0][1]) / 1000 / (samples[-1][0] - samples[0][0])


def _is_frame(message: Message) -> bool:
    if message.type == VIDEO:
        return media.classify_video(message.payload) <= media.KEY
    return message.type == AUDIO and media.classify_audio(message.payload) == media.FRAME


def _composition_time(message: Message) -> int:
    if message.type != VIDEO:
        return 0
    try:
        tags = media.parse_video(message.payload[:_HEADER_BYTES])
    except media.MediaError:
        return 0  # several tracks in one message, or nonsense
    return max((abs(tag.composition_time) for tag in tags), default=0)


def _number(metadata: Mapping[str, Any], name: str, highest: float) -> float:
    value = metadata.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return float(value) if 0 < value <= highest else 0.0
