"""What is known of every stream and every client, as plain data: for the API, the metrics and the viewers' page.

Rates come from samples taken once a second, so that counting them costs the media path nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic
from typing import Any, Final, Protocol

from pyrtmp import media
from pyrtmp.codecs import AudioInfo, VideoInfo
from pyrtmp.message import AUDIO, VIDEO
from pyrtmp.names import StreamKey
from pyrtmp.stream import State, Stream

SHORT_SECONDS: Final = 5.0
"""What a rate is taken over where people watch it change."""
LONG_SECONDS: Final = 30.0
"""What a rate is taken over in fields that follow SRS (``recv_30s``)."""

PROTOCOLS: Final = ("rtmp", "flv", "hls")
"""How viewers watch."""


class Client(Protocol):
    """A connection or viewer, as ``pyrtmp.aio.server.Client`` has it."""

    id: str
    address: str
    protocol: str
    agent: str
    since: float

    @property
    def role(self) -> str: ...

    @property
    def key(self) -> StreamKey | None: ...

    @property
    def bytes_in(self) -> int: ...

    @property
    def bytes_out(self) -> int: ...


class Source(Protocol):
    """Where the facts are: a ``pyrtmp.aio.server.Server``."""

    @property
    def hub(self) -> Streams: ...

    @property
    def clients(self) -> Mapping[str, Client]: ...


class Streams(Protocol):
    """A ``pyrtmp.hub.Hub``."""

    def __iter__(self) -> Iterator[Stream]: ...

    def __len__(self) -> int: ...

    def find(self, app: str, name: str) -> Stream | None: ...


class Audience(Protocol):
    """Who watches by HLS, where a viewer is no connection: a ``hls.audience.Audience``."""

    @property
    def bytes_out(self) -> Mapping[StreamKey, int]: ...

    def viewers(self) -> Mapping[StreamKey, int]: ...


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """One stream now."""

    key: StreamKey
    state: str
    """``awaited``, ``live``, ``gone`` (its publisher left, viewers wait) or ``ended``."""
    uptime: float
    """Seconds since its publisher began; 0 without one."""
    publisher: str
    """The id of the client that publishes it, or ""."""
    publishes: int
    """Publishers so far, the present one included."""
    video: VideoInfo | None
    audio: AudioInfo | None
    fps: float
    """Video frames per second that arrive."""
    kbps_in: float
    """Kilobits (1000 bits) per second that arrive, over ``SHORT_SECONDS``."""
    kbps_in_30s: float
    kbps_out_30s: float
    """Kilobits per second that leave to all viewers together."""
    gop_ms: int
    """Media time between the last two key frames, milliseconds."""
    video_frames: int
    messages: int
    bytes_in: int
    bytes_out: int
    """Sent to viewers, as far as samples saw it."""
    viewers: Mapping[str, int]
    """By protocol."""
    waiting: int
    """Viewers that wait for a publisher."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the publisher's onMetaData said: the peer's words, any AMF value."""

    @property
    def total_viewers(self) -> int:
        """Viewers of all protocols."""
        return sum(self.viewers.values())


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """One connection now."""

    id: str
    address: str
    protocol: str
    """``rtmp`` or ``flv``."""
    role: str
    """``publish``, ``play``, ``wait`` or ``idle``."""
    key: StreamKey | None
    agent: str
    """What the client says it is."""
    seconds: float
    """Since it connected."""
    bytes_in: int
    bytes_out: int
    kbps_in_30s: float
    kbps_out_30s: float


class Facts:
    """Answers questions about a server.  ``sample`` is called once a second; times are monotonic seconds."""

    def __init__(self, source: Source, clock: Callable[[], float] = monotonic) -> None:
        self.audience: Audience | None = None
        """Who watches by HLS."""
        self._source = source
        self._clock = clock
        self._streams: dict[StreamKey, _StreamHistory] = {}
        self._clients: dict[str, _ClientHistory] = {}
        self._page: list[dict[str, Any]] = []
        self._page_until = 0.0

    def sample(self) -> None:
        """Take the next sample of everything; forget what is gone."""
        now = self._clock()
        sent: dict[StreamKey, int] = {}
        clients: dict[str, _ClientHistory] = {}
        for id, client in self._source.clients.items():
            history = self._clients.get(id) or _ClientHistory()
            clients[id] = history
            out = client.bytes_out
            key = client.key
            if key is not None:
                # A client that begins to play another stream begins to count anew.
                sent[key] = sent.get(key, 0) + max(0, out - history.bytes_out)
            history.add(now, client.bytes_in, out)
        self._clients = clients
        audience = self.audience
        watchers = audience.viewers() if audience is not None else {}
        packaged = audience.bytes_out if audience is not None else {}
        streams: dict[StreamKey, _StreamHistory] = {}
        for stream in self._source.hub:
            known = self._streams.get(stream.key)
            kept = known if known is not None and known.stream is stream else _StreamHistory(stream)
            kept.hls_viewers = watchers.get(stream.key, 0)
            kept.bytes_out += sent.get(stream.key, 0) + max(0, packaged.get(stream.key, 0) - kept.hls_bytes)
            kept.hls_bytes = packaged.get(stream.key, 0)
            kept.rates.add(now, stream.bytes_in, kept.bytes_out, stream.video_frames)
            streams[stream.key] = kept
        self._streams = streams

    def streams(self, start: int = 0, count: int | None = None) -> list[StreamFacts]:
        """All streams, or ``count`` of them from number ``start`` on, in the order in which they began."""
        stop = None if count is None else start + count
        return [self._describe(stream) for stream in islice(self._source.hub, start, stop)]

    def stream(self, app: str, name: str) -> StreamFacts | None:
        """One stream, if it is there."""
        stream = self._source.hub.find(app, name)
        return None if stream is None else self._describe(stream)

    def clients(self, start: int = 0, count: int | None = None) -> list[ClientFacts]:
        """All clients, or ``count`` of them from number ``start`` on, in the order in which they came."""
        stop = None if count is None else start + count
        return [self._describe_client(client) for client in islice(self._source.clients.values(), start, stop)]

    def client(self, id: str) -> ClientFacts | None:
        """One client, if it is there."""
        client = self._source.clients.get(id)
        return None if client is None else self._describe_client(client)

    def page(self) -> list[dict[str, Any]]:
        """The live streams for the viewers' page, at most a second old, however many pages ask."""
        now = self._clock()
        if now >= self._page_until:
            self._page = [_page_entry(each) for each in self.streams() if each.state == State.LIVE.value]
            self._page_until = now + 1.0
        return self._page

    def _describe(self, stream: Stream) -> StreamFacts:
        now = self._clock()
        history = self._streams.get(stream.key)
        if history is None or history.stream is not stream:
            history = self._streams[stream.key] = _StreamHistory(stream)
        live = stream.state is State.LIVE
        short = history.rates.over(SHORT_SECONDS) if live else _STILL
        long = history.rates.over(LONG_SECONDS)
        video, audio = history.describe()
        viewers = {name: len(lane.viewers) for name, lane in stream.lanes.items() if lane.viewers}
        if history.hls_viewers:
            viewers["hls"] = history.hls_viewers
        return StreamFacts(
            key=stream.key,
            state=stream.state.value,
            uptime=now - stream.started if live else 0.0,
            publisher=stream.publisher.id if stream.publisher is not None else "",
            publishes=stream.sessions,
            video=video,
            audio=audio,
            fps=round(short[2], 2),
            kbps_in=round(short[0] * 8 / 1000, 1),
            kbps_in_30s=round(long[0] * 8 / 1000, 1),
            kbps_out_30s=round(long[1] * 8 / 1000, 1),
            gop_ms=stream.gop_ms,
            video_frames=stream.video_frames,
            messages=stream.messages_in,
            bytes_in=stream.bytes_in,
            bytes_out=history.bytes_out,
            viewers=viewers,
            waiting=stream.waiting,
            metadata=stream.metadata,
        )

    def _describe_client(self, client: Client) -> ClientFacts:
        now = self._clock()
        history = self._clients.get(client.id)
        rate_in, rate_out = history.rates() if history is not None else (0.0, 0.0)
        return ClientFacts(
            id=client.id,
            address=client.address,
            protocol=client.protocol,
            role=client.role,
            key=client.key,
            agent=client.agent,
            seconds=now - client.since,
            bytes_in=client.bytes_in,
            bytes_out=client.bytes_out,
            kbps_in_30s=round(rate_in * 8 / 1000, 1),
            kbps_out_30s=round(rate_out * 8 / 1000, 1),
        )


_STILL: Final = (0.0, 0.0, 0.0)


class _Rates:
    """Totals over time.  A sample more than ``LONG_SECONDS`` old is dropped: 31 are kept, three numbers each."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int, int]] = deque()

    def add(self, now: float, bytes_in: int, bytes_out: int, frames: int) -> None:
        samples = self._samples
        samples.append((now, bytes_in, bytes_out, frames))
        while samples[0][0] < now - LONG_SECONDS - 0.5:
            samples.popleft()

    def over(self, seconds: float) -> tuple[float, float, float]:
        """Bytes in, bytes out and frames per second over the newest ``seconds`` that there are samples of."""
        samples = self._samples
        if len(samples) < 2:
            return _STILL
        last = samples[-1]
        # A tick is never quite on time: half a second more counts as within.
        first = next(each for each in samples if each[0] >= last[0] - seconds - 0.5)
        span = last[0] - first[0]
        if span <= 0:
            return _STILL
        return ((last[1] - first[1]) / span, (last[2] - first[2]) / span, (last[3] - first[3]) / span)


class _ClientHistory:
    """Three samples of a client: there may be thousands of them.  Its rates are over 15 to 30 seconds."""

    __slots__ = ("_base", "_last", "_next")

    def __init__(self) -> None:
        self._base: tuple[float, int, int] | None = None
        self._next = self._last = (0.0, 0, 0)

    @property
    def bytes_out(self) -> int:
        """In the newest sample."""
        return self._last[2]

    def add(self, now: float, bytes_in: int, bytes_out: int) -> None:
        sample = (now, bytes_in, bytes_out)
        if self._base is None or bytes_out < self._last[2]:
            self._base = self._next = sample
        elif now - self._next[0] >= LONG_SECONDS / 2:
            self._base, self._next = self._next, sample
        self._last = sample

    def rates(self) -> tuple[float, float]:
        """Bytes in and bytes out per second."""
        base, last = self._base, self._last
        if base is None or last[0] <= base[0]:
            return 0.0, 0.0
        span = last[0] - base[0]
        return (last[1] - base[1]) / span, (last[2] - base[2]) / span


class _StreamHistory:
    """What is remembered of a stream between samples."""

    __slots__ = ("_audio", "_video", "bytes_out", "hls_bytes", "hls_viewers", "rates", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.bytes_out = 0
        self.hls_viewers = 0
        self.hls_bytes = 0
        self.rates = _Rates()
        self._video: tuple[bytes, VideoInfo | None] = (b"", None)
        self._audio: tuple[bytes, AudioInfo | None] = (b"", None)

    def describe(self) -> tuple[VideoInfo | None, AudioInfo | None]:
        """What the sequence headers say; taken apart once for each that is new."""
        payload = self.stream.head_payload(VIDEO)
        if payload is not self._video[0]:
            self._video = (payload, media.describe_video(payload) if payload else None)
        payload = self.stream.head_payload(AUDIO)
        if payload is not self._audio[0]:
            self._audio = (payload, media.describe_audio(payload) if payload else None)
        return self._video[1], self._audio[1]


def viewers_by_protocol(streams: Iterable[StreamFacts]) -> dict[str, int]:
    """Viewers of all streams together, every protocol named."""
    totals = dict.fromkeys(PROTOCOLS, 0)
    for stream in streams:
        for protocol, number in stream.viewers.items():
            totals[protocol] = totals.get(protocol, 0) + number
    return totals


def _page_entry(stream: StreamFacts) -> dict[str, Any]:
    video, audio = stream.video, stream.audio
    return {
        "app": stream.key.app,
        "name": stream.key.name,
        "viewers": stream.total_viewers,
        "uptime": round(stream.uptime, 1),
        "kbps": round(stream.kbps_in),
        "video": video
        and {"codec": video.codec, "width": video.width, "height": video.height, "fps": stream.fps or video.fps},
        "audio": audio and {"codec": audio.codec},
    }
