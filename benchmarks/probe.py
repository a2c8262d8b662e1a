"""What a viewer waits for: frames stamped with the clock on one side, watched on the other.

The stamp travels as an H.264 SEI message of the kind made for private data (H.264 Annex D.2.6, user_data_unregistered)
in front of the coded picture, so that a stamped stream is a valid one for every server and player.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.clip import Clip
from benchmarks.wire import Closed, RtmpClient, Tag, media, open_viewer

_UUID = b"benchmark-stamp!"
_DIGITS = 16 + 8  # nanoseconds and frame number in hexadecimal: no zero bytes, so no emulation prevention
_SEI = bytes([0x06, 0x05, len(_UUID) + _DIGITS]) + _UUID
_STAMP_AT = 5 + 4 + len(_SEI)  # behind the video tag header and the NAL unit's length


def stamp(tag: Tag, number: int, now: int) -> Tag:
    """The frame with ``now`` (nanoseconds, monotonic) and its number in front."""
    unit = _SEI + b"%016x%08x" % (now, number) + b"\x80"
    return tag._replace(payload=tag.payload[:5] + len(unit).to_bytes(4, "big") + unit + tag.payload[5:])


def read_stamp(tag: Tag) -> tuple[int, int] | None:
    """(nanoseconds, number) of a stamped frame."""
    if tag.payload[9:_STAMP_AT] != _SEI:
        return None
    digits = tag.payload[_STAMP_AT : _STAMP_AT + _DIGITS]
    return int(digits[:16], 16), int(digits[16:], 16)


class StampedPublisher:
    """Publishes a clip at real-time pace from its own thread: one write per message, each frame stamped as it goes."""

    def __init__(self, url: str, clip: Clip) -> None:
        self._client = RtmpClient(url)
        self._clip = clip
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.frames = 0
        self.last_key_frame = 0.0
        """When the latest key frame left, on the monotonic clock in seconds."""
        self.error: Exception | None = None

    def __enter__(self) -> StampedPublisher:
        try:
            self._client.publish()
        except BaseException:
            self._client.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def check(self) -> None:
        """Raise what ended the publisher, if anything did."""
        if self.error is not None:
            raise Closed(f"the publisher was cut off after {self.frames} frames: {self.error!r}")

    def _run(self) -> None:
        # The server's acknowledgements and pings are read so that they never fill its send queue.
        drain = threading.Thread(target=self._drain, name="publisher-drain", daemon=True)
        drain.start()
        try:
            start = time.monotonic()
            for tag in self._clip.loop():
                wait = start + tag.timestamp / 1000 - time.monotonic()
                if self._stop.wait(wait) if wait > 0 else self._stop.is_set():
                    return
                if tag.is_frame:
                    if tag.is_key_frame:
                        self.last_key_frame = time.monotonic()
                    tag = stamp(tag, self.frames, time.monotonic_ns())
                    self.frames += 1
                self._client.sock.sendall(media(tag, self._client.msid))
        except OSError as error:
            self.error = error

    def _drain(self) -> None:
        try:
            for _ in self._client.tags():
                pass
        except (OSError, Closed):
            pass  # the sending side reports a lost connection; closing one's own is no error


@dataclass(slots=True)
class Watched:
    """What one viewer saw.  Times in milliseconds; ``latency_ms`` has one entry per frame stamped since it joined."""

    first_media_ms: float | None = None
    first_key_frame_ms: float | None = None
    latency_ms: list[float] = field(default_factory=list)
    frames: int = 0
    lost: int = 0
    doubled: int = 0
    regressions: int = 0
    """Timestamps lower than the one before, within audio or within video."""
    error: str = ""

    @property
    def flaws(self) -> int:
        """Frames lost, doubled or out of order, and one for a connection that failed."""
        return self.lost + self.doubled + self.regressions + bool(self.error)


class Viewer:
    """Plays one URL in its own thread and keeps count; leave the ``with`` block to stop it and read ``seen``."""

    def __init__(self, url: str) -> None:
        self.seen = Watched()
        self.has_key_frame = threading.Event()
        self._url = url
        self._stopping = False
        self._mark = threading.Event()
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)

    def __enter__(self) -> Viewer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()

    def restart_latency(self) -> None:
        """Forget the latencies so far: what follows is the measurement."""
        self._mark.set()

    def _run(self) -> None:
        seen, joined = self.seen, time.monotonic_ns()
        number_before: int | None = None
        timestamps: dict[int, int] = {}
        try:
            client = open_viewer(self._url)
        except (OSError, Closed) as error:
            seen.error = repr(error)
            return
        try:
            for tag in client.tags():
                now = time.monotonic_ns()
                if self._stopping:
                    return
                if self._mark.is_set():
                    self._mark.clear()
                    seen.latency_ms.clear()
                since_ms = (now - joined) / 1e6
                if seen.first_media_ms is None:
                    seen.first_media_ms = since_ms
                seen.regressions += tag.timestamp < timestamps.get(tag.type, 0)
                timestamps[tag.type] = tag.timestamp
                if not tag.is_frame or (stamped := read_stamp(tag)) is None:
                    continue
                if tag.is_key_frame and seen.first_key_frame_ms is None:
                    seen.first_key_frame_ms = since_ms
                    self.has_key_frame.set()
                sent, number = stamped
                seen.frames += 1
                if sent >= joined:  # what the GOP cache holds was sent before
                    seen.latency_ms.append((now - sent) / 1e6)
                if number_before is not None:
                    seen.lost += max(0, number - number_before - 1)
                    seen.doubled += number <= number_before
                number_before = number if number_before is None else max(number, number_before)
        except (OSError, Closed) as error:
            seen.error = repr(error)
        finally:
            client.close()


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile, or None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
