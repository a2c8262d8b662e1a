"""Play a stream as a viewer would, and report what arrives: codecs, size, rates, key frames, gaps."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from cluster.flv import FlvReader
from pyrtmp import media
from pyrtmp.aio.client import Client
from pyrtmp.codecs import AudioInfo, VideoInfo
from pyrtmp.errors import LocalError, RefusedError
from pyrtmp.message import AUDIO, VIDEO, Message

SILENCE_MS: Final = 500
"""Nothing arrives for so long: a player with a short buffer stops."""
JUMP_MS: Final = 1000
"""Two frames of one kind are further apart than this, in media time: something is missing."""

_CODEC_NAMES: Final = {
    "h264": "H.264", "hevc": "HEVC", "vvc": "VVC", "av1": "AV1", "vp9": "VP9", "vp8": "VP8", "aac": "AAC",
    "mp3": "MP3", "opus": "Opus", "flac": "FLAC", "ac3": "AC-3", "eac3": "E-AC-3", "": "unknown codec",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What a viewer saw.  Rates are per second of media; times in milliseconds unless the name says otherwise."""

    url: str
    seconds: float
    """How long it was watched."""
    media_seconds: float
    """From the first to the last timestamp."""
    first_media_ms: float | None
    """From the start of the connection to the first audio or video."""
    first_frame_ms: float | None
    """From the start of the connection to the first key frame (or sound, where there is no picture)."""
    video: VideoInfo | None
    audio: AudioInfo | None
    frames: int
    """Video frames."""
    fps: float
    video_kbps: float
    audio_kbps: float
    gop_ms: float | None
    """Mean media time between key frames."""
    silences: int
    """Times when nothing arrived for ``SILENCE_MS``."""
    longest_silence_ms: float
    jumps: int
    """Times when timestamps of one kind jumped by more than ``JUMP_MS``."""
    steps_back: int
    """Times when timestamps of one kind went back."""
    bytes: int

    @property
    def is_playing(self) -> bool:
        """Whether anything can be seen or heard."""
        return self.first_frame_ms is not None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    def as_text(self) -> str:
        """For people."""
        lines = [self.url]
        if not self.is_playing:
            return f"{self.url}\n  nothing to see or hear within {self.seconds:.1f} s"
        if self.video is not None:
            video = self.video
            parts = [_words(_CODEC_NAMES.get(video.codec, video.codec), video.profile, video.level)]
            parts += [f"{video.width}x{video.height}"] if video.width else []
            parts += [f"{self.fps:g} fps", f"{self.video_kbps:,.0f} kbit/s"]
            parts += [f"a key frame every {self.gop_ms / 1000:.1f} s"] if self.gop_ms else []
            lines.append(f"  video        {', '.join(parts)}")
        if self.audio is not None:
            audio = self.audio
            parts = [_words(_CODEC_NAMES.get(audio.codec, audio.codec), audio.profile)]
            parts += [f"{audio.sample_rate} Hz"] if audio.sample_rate else []
            parts += [f"{audio.channels} channel{'s' if audio.channels > 1 else ''}"] if audio.channels else []
            parts += [f"{self.audio_kbps:,.0f} kbit/s"]
            lines.append(f"  audio        {', '.join(parts)}")
        lines.append(f"  first frame  {self.first_frame_ms:.0f} ms after the start of the connection")
        flaws = [
            f"{what}: {number}"
            for number, what in (
                (self.silences, f"pauses of more than {SILENCE_MS} ms"),
                (self.jumps, "jumps of the timestamps"),
                (self.steps_back, "timestamps that go back"),
            )
            if number
        ]
        lines.append(f"  gaps         {', '.join(flaws) or 'none'}; longest pause {self.longest_silence_ms:.0f} ms")
        lines.append(
            f"  watched      {self.seconds:.1f} s, {self.frames} frames, {self.bytes / 1e6:.2f} MB"
        )
        return "\n".join(lines)


def _words(*parts: str) -> str:
    return " ".join(part for part in parts if part)


class Observer:
    """Takes messages with the time of their arrival, in seconds, and keeps count.  No I/O, no clock."""

    def __init__(self, url: str, started: float) -> None:
        self._url = url
        self._started = started
        self._first_media: float | None = None
        self._first_key: float | None = None
        self._last_arrival: float | None = None
        self._video: VideoInfo | None = None
        self._audio: AudioInfo | None = None
        self._bytes = {AUDIO: 0, VIDEO: 0}
        self._frames = 0
        self._first_time: dict[int, int] = {}
        self._last_time: dict[int, int] = {}
        self._keys: list[int] = []
        self._silences = 0
        self._longest = 0.0
        self._jumps = 0
        self._back = 0

    def take(self, message: Message, now: float) -> None:
        """One message that arrived at ``now``."""
        if message.type not in (AUDIO, VIDEO):
            return
        if message.type == VIDEO:
            kind = media.classify_video(message.payload)
            if kind in (media.SEQUENCE_HEADER, media.KEY):
                self._video = _richer(self._video, media.describe_video(message.payload))
        else:
            kind = media.classify_audio(message.payload)
            if kind == media.SEQUENCE_HEADER or self._audio is None:
                self._audio = media.describe_audio(message.payload)
        if kind not in (media.KEY, media.FRAME):
            return
        self._arrived(now)
        self._timed(message)
        self._bytes[message.type] += len(message.payload)
        if message.type == VIDEO:
            self._frames += 1
            if kind == media.KEY:
                self._keys.append(message.timestamp)
                if self._first_key is None:
                    self._first_key = now

    def _arrived(self, now: float) -> None:
        if self._first_media is None:
            self._first_media = now
        if self._last_arrival is not None:
            silence = (now - self._last_arrival) * 1000
            self._longest = max(self._longest, silence)
            self._silences += silence > SILENCE_MS
        self._last_arrival = now

    def _timed(self, message: Message) -> None:
        time = message.timestamp
        last = self._last_time.get(message.type)
        if last is None:
            self._first_time[message.type] = time
        else:
            self._back += time < last
            self._jumps += time - last > JUMP_MS
        self._last_time[message.type] = max(time, last or 0)

    def report(self, now: float) -> Report:
        """What was seen until ``now``."""

        def ms(at: float | None) -> float | None:
            return None if at is None else round((at - self._started) * 1000, 1)

        def kbps(type: int) -> float:
            span = self._span(type)
            return round(self._bytes[type] * 8 / span, 1) if span else 0.0  # bits per millisecond

        heard = self._first_key if self._frames else self._first_media
        silence = (now - self._last_arrival) * 1000 if self._last_arrival is not None else 0.0
        gaps = len(self._keys) - 1
        video_span = self._span(VIDEO)
        return Report(
            url=self._url,
            seconds=round(now - self._started, 3),
            media_seconds=round(max(self._span(AUDIO), video_span) / 1000, 3),
            first_media_ms=ms(self._first_media),
            first_frame_ms=ms(heard),
            video=self._video,
            audio=self._audio,
            frames=self._frames,
            fps=round((self._frames - 1) * 1000 / video_span, 2) if video_span else 0.0,
            video_kbps=kbps(VIDEO),
            audio_kbps=kbps(AUDIO),
            gop_ms=round((self._keys[-1] - self._keys[0]) / gaps, 1) if gaps > 0 else None,
            silences=self._silences + (silence > SILENCE_MS),
            longest_silence_ms=round(max(self._longest, silence), 1),
            jumps=self._jumps,
            steps_back=self._back,
            bytes=sum(self._bytes.values()),
        )

    def _span(self, type: int) -> int:
        return self._last_time.get(type, 0) - self._first_time.get(type, 0)


def _richer(known: VideoInfo | None, new: VideoInfo) -> VideoInfo:
    """A key frame of H.264 says less than its sequence header; one of VP8 says what nothing else does."""
    return new if known is None or new.codec != known.codec or (new.width and new != known) else known


async def probe(url: str, seconds: float) -> Report:
    """Watch ``url`` (rtmp, rtmps, or http, https with FLV) for ``seconds`` after its first media.

    Raises ``LocalError`` for a URL of another kind, ``RefusedError``, ``PeerError``, ``OSError``, ``TimeoutError``.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("rtmp", "rtmps"):
        messages = _play_rtmp(url)
    elif scheme in ("http", "https"):
        messages = _play_flv(url)
    else:
        raise LocalError(f"{url} is neither an rtmp:// URL nor an http:// URL of FLV")
    observer = Observer(url, monotonic())
    async with contextlib.aclosing(messages):
        first = await anext(messages, None)  # waits as long as the server lets a viewer wait
        if first is not None:
            observer.take(first, monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    async for message in messages:
                        observer.take(message, monotonic())
    return observer.report(monotonic())


async def _play_rtmp(url: str) -> AsyncGenerator[Message, None]:
    async with await Client.connect(url) as client:
        async for message in client.play():
            yield message


async def _play_flv(url: str) -> AsyncGenerator[Message, None]:
    import aiohttp

    reader = FlvReader()
    timeout = aiohttp.ClientTimeout(total=None, connect=10.0, sock_read=40.0)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url) as response:
            if response.status != 200:
                reason = (await response.content.read(200)).decode("utf-8", "replace").strip()
                raise RefusedError(f"HTTP {response.status}", reason or response.reason or "")
            async for data in response.content.iter_any():
                for message in reader.feed(data):
                    yield message
    except aiohttp.ClientError as error:
        raise ConnectionError(str(error)) from None
