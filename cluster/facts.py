"""What is known of every stream and every client, as plain data: for the API, the metrics and the viewers' page.

Rates come from samples taken once a second, so that counting them costs the media path nothing.

A node may be several processes.  The one whose connection publishes a stream *holds* it; others that have viewers of it
know it too, as a relay.  ``merge_streams`` makes one entry of what they all say.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import monotonic
from typing import Any, Final, Protocol, TypeAlias

from cluster.marks import Marks, mark
from cluster.pace import LATE_SECONDS, Pace
from cluster.vitals import Vitals, Watch
from pyrtmp import media
from pyrtmp.codecs import AudioInfo, VideoInfo
from pyrtmp.kin import Kin
from pyrtmp.message import AUDIO, VIDEO
from pyrtmp.names import StreamKey
from pyrtmp.stream import State, Stream

SHORT_SECONDS: Final = 5.0
"""What a rate is taken over where people watch it change."""
LONG_SECONDS: Final = 30.0
"""What a rate is taken over in fields that follow SRS (``recv_30s``)."""

PROTOCOLS: Final = ("rtmp", "flv", "hls")
"""How viewers watch."""

ALONE: Final = -1
"""The number of a process that is no worker: the only one of its node."""

MAX_METADATA: Final = 64
"""Most entries of a publisher's metadata that are told."""

Plain: TypeAlias = "bool | int | float | str"
"""What every reader of JSON understands."""


class Client(Protocol):
    """A connection or viewer, as ``pyrtmp.aio.server.Client`` has it."""

    id: str
    address: str
    protocol: str
    agent: str
    kin: Kin
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

    def members(self) -> Iterable[tuple[StreamKey, str, str]]:
        """The players: stream, address and User-Agent of each."""


# What is told


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
    since: float
    """Monotonic seconds of its beginning; one clock for all processes of a machine."""
    held: bool
    """Whether its publisher is connected to the process that tells this."""
    worker: int
    """The process that tells this."""
    upstream: str = ""
    """Address of the node that it is fetched from, or ""."""
    pulled: bool = False
    """Whether this node fetches it from another one."""
    behind: float = 0.0
    """Seconds that what arrives is behind real time (``cluster.pace``)."""
    watchers: Marks = frozenset()
    """Marks of the HLS players: one may ask several processes."""
    metadata: Mapping[str, Plain] = field(default_factory=dict)
    """What the publisher's onMetaData said, as far as it is plain; only where one stream is asked for."""
    vitals: Vitals = field(default_factory=Vitals)
    """How it is doing, as far as its messages pass the process that tells this."""

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
    since: float
    """Monotonic seconds of its beginning; one clock for all processes of a machine."""
    worker: int
    """The process that it is connected to."""
    node: str = ""
    """Its id, where it is another node."""
    session: str = ""
    """What it is for there: the id of a pull, or of the publisher of a stream that is passed on."""


@dataclass(slots=True)
class Tally:
    """What all clients and streams added up to when a sample was taken."""

    clients: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By protocol and role."""
    bytes_in: int = 0
    """Received by RTMP from those that are connected."""
    bytes_out: Counter[str] = field(default_factory=Counter)
    """Sent to those that are connected, by protocol."""
    watchers: set[int] = field(default_factory=set)
    """Marks of the HLS players."""
    kbps_in: float = 0.0
    """Kilobits per second that arrive, over ``LONG_SECONDS``."""
    kbps_out: float = 0.0
    """Kilobits per second that leave to viewers, over ``LONG_SECONDS``."""
    behind: float = 0.0
    """Seconds behind real time of the publisher that is furthest."""
    late: int = 0
    """Publishers that are more than ``LATE_SECONDS`` behind."""


class Facts:
    """Answers questions about a server.  ``sample`` is called once a second; times are monotonic seconds."""

    def __init__(self, source: Source, clock: Callable[[], float] = monotonic, *, worker: int = ALONE) -> None:
        self.audience: Audience | None = None
        """Who watches by HLS."""
        self.upstream: Callable[[StreamKey], str] = lambda key: ""
        """Where a stream that is pulled comes from."""
        self.tally = Tally()
        """As of the newest sample."""
        self._source = source
        self._clock = clock
        self._worker = worker
        self._streams: dict[StreamKey, _StreamHistory] = {}
        self._clients: dict[str, _ClientHistory] = {}
        self._marks: dict[tuple[StreamKey, str, str], int] = {}
        self._totals = _Totals()
        self._page: list[dict[str, Any]] = []
        self._page_until = 0.0

    def sample(self) -> None:
        """Take the next sample of everything; forget what is gone."""
        now = self._clock()
        tally = Tally()
        sent: dict[StreamKey, int] = {}
        kinds: list[tuple[str, str]] = []
        totals: dict[str, int] = {}
        clients: dict[str, _ClientHistory] = {}
        for id, client in self._source.clients.items():
            history = self._clients.get(id) or _ClientHistory()
            clients[id] = history
            received, out = client.bytes_in, client.bytes_out
            protocol = client.protocol
            kinds.append((protocol, client.role))
            totals[protocol] = totals.get(protocol, 0) + out
            if protocol == "rtmp":
                tally.bytes_in += received
            key = client.key
            if key is not None:
                # A client that begins to play another stream begins to count anew.
                sent[key] = sent.get(key, 0) + max(0, out - history.bytes_out)
            history.add(now, received, out)
        self._clients = clients
        tally.clients.update(kinds)
        tally.bytes_out.update(totals)
        audience = self.audience
        watchers = self._watchers(audience) if audience is not None else {}
        packaged = audience.bytes_out if audience is not None else {}
        tally.watchers.update(*watchers.values())
        streams: dict[StreamKey, _StreamHistory] = {}
        for stream in self._source.hub:
            known = self._streams.get(stream.key)
            kept = known if known is not None and known.stream is stream else _StreamHistory(stream)
            kept.watchers = frozenset(watchers.get(stream.key, ()))
            more = sent.get(stream.key, 0) + max(0, packaged.get(stream.key, 0) - kept.hls_bytes)
            kept.bytes_out += more
            kept.hls_bytes = packaged.get(stream.key, 0)
            self._totals.add(max(0, stream.bytes_in - kept.bytes_in), more)
            kept.bytes_in = stream.bytes_in
            kept.rates.add(now, stream.bytes_in, kept.bytes_out, stream.video_frames)
            if stream.held:
                kept.watch.look(stream, now)
                kept.pace.look(now, stream.time / 1000, stream.sessions)
                if not stream.pulled:
                    tally.behind = max(tally.behind, kept.pace.behind)
                    tally.late += kept.pace.behind > LATE_SECONDS
            streams[stream.key] = kept
        self._streams = streams
        tally.kbps_in, tally.kbps_out = self._totals.kbps(now)
        self.tally = tally

    def _watchers(self, audience: Audience) -> dict[StreamKey, set[int]]:
        """Marks of the HLS players by stream; each is made once, while its player watches."""
        known = self._marks
        members = {member: known.get(member) or mark(str(member[0]), *member[1:]) for member in audience.members()}
        self._marks = members
        found: dict[StreamKey, set[int]] = {}
        for member, its_mark in members.items():
            found.setdefault(member[0], set()).add(its_mark)
        return found

    def streams(self, start: int = 0, count: int | None = None) -> list[StreamFacts]:
        """All streams, or ``count`` of them from number ``start`` on, in the order in which they began."""
        stop = None if count is None else start + count
        return [self._describe(stream) for stream in islice(self._source.hub, start, stop)]

    def stream(self, app: str, name: str) -> StreamFacts | None:
        """One stream with its metadata, if it is there."""
        stream = self._source.hub.find(app, name)
        return None if stream is None else replace(self._describe(stream), metadata=plain(stream.metadata))

    def clients(self, start: int = 0, count: int | None = None) -> list[ClientFacts]:
        """All clients, or ``count`` of them from number ``start`` on, in the order in which they came."""
        stop = None if count is None else start + count
        return [self._describe_client(client) for client in islice(self._source.clients.values(), start, stop)]

    def client(self, id: str) -> ClientFacts | None:
        """One client, if it is there."""
        client = self._source.clients.get(id)
        return None if client is None else self._describe_client(client)

    def links(self, key: StreamKey) -> list[ClientFacts]:
        """The publisher of a stream, and other nodes that play it or wait for it."""
        return [
            self._describe_client(client)
            for client in self._source.clients.values()
            if client.key == key and (client.role == "publish" or client.kin.node)
        ]

    def page(self) -> list[dict[str, Any]]:
        """The live streams for the viewers' page, at most a second old, however many pages ask."""
        now = self._clock()
        if now >= self._page_until:
            self._page = page(self.streams())
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
        if history.watchers:
            viewers["hls"] = len(history.watchers)
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
            since=history.since,
            held=stream.held,
            worker=self._worker,
            pulled=stream.pulled and stream.live,
            upstream=self.upstream(stream.key) if stream.pulled and stream.live else "",
            behind=round(history.pace.behind, 2) if stream.held else 0.0,
            watchers=history.watchers,
            vitals=history.watch.vitals() if stream.held else Vitals(),
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
            # A header of HTTP may hold bytes that are not UTF-8.
            agent=client.agent.encode("utf-8", "replace").decode(),
            seconds=now - client.since,
            bytes_in=client.bytes_in,
            bytes_out=client.bytes_out,
            kbps_in_30s=round(rate_in * 8 / 1000, 1),
            kbps_out_30s=round(rate_out * 8 / 1000, 1),
            since=client.since,
            worker=self._worker,
            node=client.kin.node,
            session=client.kin.session,
        )


# Samples

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

    __slots__ = (
        "_audio", "_video", "bytes_in", "bytes_out", "hls_bytes", "pace", "rates", "since", "stream", "watch",
        "watchers",
    )  # fmt: skip

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.since = stream.started
        self.bytes_in = stream.bytes_in
        self.bytes_out = 0
        self.watchers: frozenset[int] = frozenset()
        self.hls_bytes = 0
        self.rates = _Rates()
        self.watch = Watch()
        self.pace = Pace()
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


class _Totals:
    """Bytes of all streams together, those that are gone included."""

    __slots__ = ("_bytes_in", "_bytes_out", "_rates")

    def __init__(self) -> None:
        self._bytes_in = self._bytes_out = 0
        self._rates = _Rates()

    def add(self, bytes_in: int, bytes_out: int) -> None:
        """So many more of one stream."""
        self._bytes_in += bytes_in
        self._bytes_out += bytes_out

    def kbps(self, now: float) -> tuple[float, float]:
        """Kilobits in and out per second until ``now``."""
        self._rates.add(now, self._bytes_in, self._bytes_out, 0)
        rate_in, rate_out, _ = self._rates.over(LONG_SECONDS)
        return round(rate_in * 8 / 1000, 1), round(rate_out * 8 / 1000, 1)


# Facts of several processes

_RANKS: Final = {State.LIVE.value: 3, State.GONE.value: 2, State.AWAITED.value: 1}


def merge_streams(
    lists: Iterable[Iterable[StreamFacts]], start: int = 0, count: int | None = None
) -> list[StreamFacts]:
    """What all processes say, one entry for each stream, in the order in which they began.

    With ``start`` and ``count``, that part of it; each list must hold the first ``start + count`` of its process.
    """
    found: dict[StreamKey, list[StreamFacts]] = {}
    for each in lists:
        for stream in each:
            found.setdefault(stream.key, []).append(stream)
    merged = [_merge_stream(each) for each in found.values()]
    merged.sort(key=lambda stream: (stream.since, stream.key))
    return merged[start : None if count is None else start + count]


def _merge_stream(parts: Sequence[StreamFacts]) -> StreamFacts:
    """One stream: as its holder says (without one, whoever knows it most alive), and the viewers of all."""
    # Who only relayed a stream that is gone does not know its codecs.
    base = max(parts, key=lambda part: (part.held, _RANKS.get(part.state, 0), bool(part.video or part.audio)))
    if len(parts) == 1:
        return base
    watchers = frozenset[int]().union(*(part.watchers for part in parts))
    viewers: dict[str, int] = {}
    for part in parts:
        for protocol, number in part.viewers.items():
            viewers[protocol] = viewers.get(protocol, 0) + number
    if watchers:
        viewers["hls"] = len(watchers)
    return replace(
        base,
        since=min(part.since for part in parts),
        # A holder that had no viewers of its own forgot the publishers before; who relayed them to viewers did not.
        publishes=max(part.publishes for part in parts),
        bytes_out=sum(part.bytes_out for part in parts),
        kbps_out_30s=round(sum(part.kbps_out_30s for part in parts), 1),
        viewers=viewers,
        waiting=sum(part.waiting for part in parts),
        watchers=watchers,
    )


def merge_clients(
    lists: Iterable[Iterable[ClientFacts]], start: int = 0, count: int | None = None
) -> list[ClientFacts]:
    """The clients of all processes in the order in which they came; ``start`` and ``count`` as in ``merge_streams``."""
    merged = sorted((client for each in lists for client in each), key=lambda client: (client.since, client.id))
    return merged[start : None if count is None else start + count]


# For readers


def page(streams: Iterable[StreamFacts]) -> list[dict[str, Any]]:
    """The live ones of ``streams`` as the viewers' page lists them."""
    return [_page_entry(each) for each in streams if each.state == State.LIVE.value]


def plain(metadata: Mapping[str, Any]) -> dict[str, Plain]:
    """The publisher's metadata, any AMF values, as far as they are plain: numbers, truth values and short texts."""
    kept: dict[str, Plain] = {}
    for name, value in islice(metadata.items(), MAX_METADATA):
        if isinstance(value, str):
            kept[name[:64]] = str(value[:256])
        elif isinstance(value, bool | int) or (isinstance(value, float) and abs(value) < 1e300):
            kept[name[:64]] = value
    return kept


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
