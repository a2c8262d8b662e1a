"""What the API answers: the fields of every kind of answer; ``cluster.api_fields`` fills them in.

The text under a class and under its fields is what ``openapi.json`` says of them.  Fields are called as SRS calls them
where it has them.
"""

from __future__ import annotations

from typing import Final, Literal, NotRequired, TypedDict

from cluster.doctoring import Finding
from cluster.facts import Plain

DEFAULT_COUNT: Final = 100
"""Entries of a list unless the query says ``count``."""
MAX_COUNT: Final = 10_000
"""Most entries of one list."""


class Envelope(TypedDict):
    """What every answer in JSON has."""

    code: int
    """0 when all is well, else the HTTP status."""
    server: str
    """The node: node.id."""
    service: str
    """Changes when the node is started again."""
    pid: str
    """Of the process that answers."""


class Error(TypedDict):
    """Why not; who may not ask is told no more than code and error."""

    code: int
    """The HTTP status."""
    server: NotRequired[str]
    service: NotRequired[str]
    pid: NotRequired[str]
    error: str
    """A sentence for people."""
    problems: NotRequired[list[str]]
    """Of a reload that was refused: a line for each mistake in the settings."""


class Done(TypedDict):
    """It was done, or is begun."""


class Version(TypedDict):
    """Which version runs."""

    major: int
    minor: int
    revision: int
    version: str


class VersionAnswer(TypedDict):
    """The version."""

    data: Version


class Rates(TypedDict):
    """Kilobits (1000 bits) per second over 30 seconds."""

    recv_30s: int
    send_30s: int


class Process(TypedDict):
    """All processes of the node together."""

    version: str
    pid: int
    ppid: int
    uptime: float
    """Seconds."""
    cpu_seconds: float
    """CPU time so far."""
    mem_kbyte: int
    """Resident memory, KiB."""
    https_port: int
    """Where viewers come by HTTPS; 0 where they cannot."""
    recordable: bool
    """Whether there is a place for recordings."""


class StreamCount(TypedDict):
    """How many streams there are."""

    total: int
    """Those that only viewers wait for included."""
    live: int
    waiting_viewers: int
    """Viewers that wait for a publisher."""


class ClientCount(TypedDict):
    """How many clients there are."""

    total: int
    """Connections."""
    publishers: int
    viewers: dict[str, int]
    """By protocol: rtmp, flv, hls."""


class Worker(TypedDict):
    """A worker process."""

    worker: int
    """Its number, from 0."""
    pid: int
    cpu_seconds: float
    """CPU time so far."""
    cpu_share: float
    """Part of one core that it takes."""
    mem_kbyte: int
    """Resident memory, KiB."""
    connections: int
    publishers: int
    viewers: int
    streams_held: int
    """Streams whose publisher is connected to it."""
    kbps_out: int
    """Kilobits per second to viewers."""
    ipc_bytes: int
    """Exchanged with other processes of the node so far."""
    restarts: int
    """Processes that this worker had before."""


class Registry(TypedDict):
    """Where nodes find each other."""

    url: str
    """Without password."""
    up: bool
    """Whether it answers."""


class Node(TypedDict):
    """A node of the cluster."""

    id: str
    role: Literal["origin", "edge"]
    group: str
    """node.group."""
    rtmp: str
    """host:port or rtmps://host:port where other nodes reach it."""
    http: str
    """host:port, or "" where it serves no viewers by HTTP."""
    stress: float
    """How busy it is: 0 idle, 1 as busy as it should be."""
    draining: bool


class ClusterSummary(TypedDict):
    """What there is beside this node, and where streams go."""

    stress: float
    """How busy this node is: 0 idle, 1 as busy as it should be."""
    registry: Registry | None
    http_prefix: str
    """http.prefix, what paths of viewers begin with."""
    nodes: list[Node]
    pulls: int
    """Streams fetched from other nodes."""
    forwards: dict[str, int]
    """Streams passed on, by state."""
    forward_failures: int
    """Times a forward failed or was refused."""
    recordings: dict[str, int]
    """Streams written to files, by state."""
    recorded_files: int
    """Complete ones."""
    recording_failures: int
    """Files that could not be begun, written to the end or put into another format."""


class Summary(TypedDict):
    """The node as a whole."""

    ok: bool
    now_ms: int
    """Unix time, milliseconds."""
    ready: bool
    """False while it drains."""
    self: Process
    streams: StreamCount
    clients: ClientCount
    kbps: Rates
    workers: list[Worker]
    """Empty where one process does everything."""
    cluster: NotRequired[ClusterSummary]


class SummaryAnswer(TypedDict):
    """The node as a whole."""

    data: Summary


class WorkersAnswer(TypedDict):
    """The worker processes."""

    workers: list[Worker]
    """Empty where one process does everything."""


class Publish(TypedDict):
    """Who publishes a stream."""

    active: bool
    cid: str
    """Id of the client, or ""."""


class Video(TypedDict):
    """As the sequence header says; 0 or "" where it does not."""

    codec: str
    """H264, HEVC, AV1, VP9, ..."""
    profile: str
    level: str
    width: int
    """Pixels shown."""
    height: int


class Audio(TypedDict):
    """As the sequence header says; 0 or "" where it does not."""

    codec: str
    """AAC, MP3, Opus, ..."""
    sample_rate: int
    """Hertz."""
    channel: int
    """How many."""
    profile: str


class Stream(TypedDict):
    """A stream that is published here, fetched from another node, or waited for."""

    id: str
    """app/name."""
    name: str
    vhost: str
    """Always __defaultVhost__."""
    app: str
    live_ms: int
    """Unix time of this answer, milliseconds."""
    clients: int
    """Viewers, those that wait, and the publisher."""
    frames: int
    """Video frames so far."""
    send_bytes: int
    recv_bytes: int
    kbps: Rates
    publish: Publish
    video: Video | None
    audio: Audio | None
    state: str
    """live; awaited: nobody published it yet; gone: its publisher left and may come back; ended."""
    uptime: float
    """Seconds since its publisher began; 0 without one."""
    publishes: int
    """Publishers so far."""
    pulled: bool
    """Whether it is fetched from another node."""
    upstream: str | None
    """Address of that node."""
    recv_kbps: float
    """Kilobits per second that arrive, over 5 seconds."""
    fps: float
    """Video frames per second that arrive."""
    gop_ms: int
    """Between the last two key frames, milliseconds."""
    behind_seconds: float
    """How far what arrives is behind real time."""
    viewers: dict[str, int]
    """total, and by protocol where there are any: rtmp, flv, hls."""
    waiting: int
    """Viewers that wait for a publisher."""
    health: Literal["problem", "warning", "advice", "good", "unknown"]
    """How bad the worst finding of the stream doctor is."""
    worker: int | None
    """Number of the worker that holds it; null where there are none."""


class StreamsAnswer(TypedDict):
    """Streams, in the order in which they began."""

    streams: list[Stream]


class StreamDetails(Stream):
    """A stream, with what is told of one only."""

    metadata: dict[str, Plain]
    """What its publisher's onMetaData said, as far as it is plain."""
    doctor: list[Finding]
    """What could be better, the worst first."""


class StreamAnswer(TypedDict):
    """One stream."""

    stream: StreamDetails


class Client(TypedDict):
    """A connection of a publisher or viewer; HLS players have none."""

    id: str
    vhost: str
    """Always __defaultVhost__."""
    stream: str
    """app/name, or ""."""
    ip: str
    url: str
    """/app/name, or ""."""
    name: str
    """The stream's, or ""."""
    type: str
    """publish, rtmp-play, flv-play, wait (for a publisher) or idle."""
    publish: bool
    alive: float
    """Seconds since it connected."""
    send_bytes: int
    recv_bytes: int
    kbps: Rates
    protocol: str
    """rtmp or flv."""
    role: str
    """publish, play, wait or idle."""
    agent: str
    """What it says it is."""
    node: str | None
    """node.id, if it says that it is another node."""
    session: str | None
    """What that node calls the session: the id of its pull, or of the publisher that it passes on."""
    worker: int | None
    """Number of the worker that it is connected to; null where there are none."""


class ClientsAnswer(TypedDict):
    """Clients, in the order in which they came."""

    clients: list[Client]


class ClientAnswer(TypedDict):
    """One client."""

    client: Client


class ReloadAnswer(TypedDict):
    """What came of reading the settings again, each as section.key."""

    changed: list[str]
    """In force now."""
    needs_restart: list[str]
    """As before, until the node is started again."""


class Forward(TypedDict):
    """A stream that is passed on to another server."""

    stream: str
    """app/name."""
    target: str
    """Without keys."""
    state: Literal["connecting", "live", "waiting"]
    """waiting: for the next attempt."""
    seconds: float
    """Since it entered that state."""
    delay: float
    """Seconds that the oldest byte that was not sent waits."""
    error: str
    """The last failure, or ""."""
    attempts: int
    reconnects: int
    """How often it went live again."""
    bytes: int
    messages: int
    dropped: int
    """Messages left out because the target did not keep up."""


class ForwardsAnswer(TypedDict):
    """All forwards."""

    forwards: list[Forward]


class Pull(TypedDict):
    """A stream that is fetched from another node."""

    stream: str
    """app/name."""
    id: str
    """Log lines of the node it comes from have it as session."""
    upstream: str | None
    """Address of that node; null while none has the stream."""
    node: str | None
    """Its id; null while none has the stream, and where it does not tell."""
    delay: float | None
    """Seconds from the node where it is published to this one; null while it is not known, and by HTTP-FLV."""
    error: str
    """Why it was refused or lost last, or ""."""
    seconds: float
    """Since somebody asked for it here."""
    changes: int
    """Times that it went on from another node."""


class PullsAnswer(TypedDict):
    """All pulls."""

    pulls: list[Pull]


class Recording(TypedDict):
    """A stream that is written to files."""

    stream: str
    """app/name."""
    state: Literal["starting", "recording", "waiting"]
    """starting: there was no key frame yet; waiting: for the next attempt, after a failure."""
    seconds: float
    """Since it entered that state."""
    file: str
    """The one that is being written, as it is called until it is complete, or ""."""
    media_seconds: float
    """Of media in it."""
    bytes: int
    """In it."""
    files: int
    """Complete ones, of this publisher."""
    dropped: int
    """Messages left out because the disk did not keep up, in all files of this publisher."""
    error: str
    """The last failure, or ""."""


class RecordingsAnswer(TypedDict):
    """All recordings."""

    recordings: list[Recording]


class NodesAnswer(TypedDict):
    """The nodes that this one knows, itself included."""

    registry: Registry | None
    """null without registry.url."""
    nodes: list[Node]


class PlaceAnswer(TypedDict):
    """The node that should take a publisher or viewer, and its URLs."""

    node: str
    """Its id."""
    rtmp: str
    flv: str | None
    """null where the node serves no viewers by HTTP."""
    hls: str | None


class Refused(TypedDict):
    """The newest of the refusals of one address."""

    what: str
    """publish, play or, for the whole application, connect."""
    address: str
    code: str
    """As the client was told: NetStream.Play.StreamNotFound, 404."""
    why: str
    at: float
    """Unix time."""
    times: int
    seconds: float
    """Since then."""


class Holder(TypedDict):
    """A node that has a stream."""

    node: str
    """Its id."""
    rtmp: str
    """host:port or rtmps://host:port where other nodes reach it."""
    group: str


class Owner(Holder):
    """The node where it is published."""

    epoch: int
    """Higher for each publish."""


class Located(Registry):
    """What the registry says of a stream."""

    owner: Owner | None
    copies: list[Holder]
    """Nodes that it is forwarded to."""


class Explained(TypedDict):
    """What a node can say of one name, whether anybody publishes it or not."""

    stream: str
    """app/name."""
    facts: StreamDetails | None
    """null where there is no such stream here."""
    publisher: Client | None
    nodes: list[Client]
    """Other nodes that play it from here."""
    pulls: list[Pull]
    forwards: list[Forward]
    recordings: list[Recording]
    refusals: list[Refused]
    """Those that are remembered, the newest first."""
    registry: Located | None
    """null without registry.url."""


class ExplainAnswer(TypedDict):
    """Who has a stream, who fetches it, who was refused."""

    explain: Explained
