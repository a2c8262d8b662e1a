"""What one process of a node tells the others: its numbers, its streams, its clients, as JSON of bounded size.

Numbers of several processes add up.  Those of one that ended keep its counters, so that no total ever goes back.
"""

from __future__ import annotations

import functools
import os
import resource
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from pydantic import ConfigDict, TypeAdapter

from cluster.edge.pulls import PullFacts
from cluster.facts import ALONE, ClientFacts, Facts, StreamFacts
from cluster.forward.push import ForwardFacts
from cluster.marks import MAX_MARKS, Marks, mark
from cluster.paths import Paths
from cluster.recording.facts import RecordingFacts
from pyrtmp.counters import Counters
from pyrtmp.histogram import Histogram
from pyrtmp.stream import State, Stream

MAX_BYTES: Final = 32 * 1024 * 1024
"""Longest report; 20,000 streams with names of ordinary length take half of it."""
MAX_ENTRIES: Final = 20_000
"""Most streams or clients of one report; what is beyond is left out."""
MAX_REASONS: Final = 64
"""Most reasons of refusals that are told apart; hooks may make up their own."""

Entry = TypeVar("Entry")


class Rounds(Protocol):
    """A ``pyrtmp.aio.rounds.Rounds``."""

    @property
    def delay(self) -> float: ...


class Source(Protocol):
    """A ``pyrtmp.aio.server.Server``."""

    @property
    def counters(self) -> Counters: ...

    @property
    def rounds(self) -> Rounds: ...

    @property
    def hub(self) -> Iterable[Stream]: ...


class Packager(Protocol):
    """A ``hls.live.HlsService``."""

    @property
    def packaged(self) -> int: ...

    def memory(self) -> int: ...


# Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What passes between this node and others, and to its disk."""

    forwards: dict[str, int] = field(default_factory=dict)
    """By state."""
    forward_failures: int = 0
    pulls: int = 0
    pull_changes: int = 0
    pull_failures: int = 0
    pull_delays: Mapping[str, Histogram] = field(default_factory=dict)
    """By hops, see ``cluster.edge.pulls``."""
    nodes: int = 0
    """Connections of other nodes."""
    recordings: dict[str, int] = field(default_factory=dict)
    """By state."""
    recorded_files: int = 0
    recorded_bytes: int = 0
    recording_dropped: int = 0
    recording_failures: int = 0
    """See ``cluster.recording.facts.RecordingTotals``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What is so at this moment.  Nothing of it is left of a process that ended."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    resident_bytes: int = 0
    cpu_share: float = 0.0
    """Of one core, over ``cluster.stress.SHARE_SECONDS``; of several processes, the busiest one's."""
    clients: dict[str, dict[str, int]] = field(default_factory=dict)
    """Connections by protocol and role."""
    held: int = 0
    """Streams with a publisher."""
    gone: Marks = frozenset()
    """Streams whose publisher left: several processes may have viewers that wait for it."""
    awaited: Marks = frozenset()
    """Streams that never had one."""
    viewers: dict[str, int] = field(default_factory=dict)
    """Viewers that are connections, by protocol."""
    watchers: Marks = frozenset()
    """HLS players."""
    waiting: int = 0
    gop_bytes: int = 0
    log_bytes: int = 0
    hls_streams: int = 0
    hls_bytes: int = 0
    forwards: dict[str, int] = field(default_factory=dict)
    """Streams that are passed on, by state."""
    pulls: int = 0
    """Streams that are fetched from other nodes."""
    nodes: int = 0
    """Connections of other nodes."""
    recordings: dict[str, int] = field(default_factory=dict)
    """Streams that are written to files, by state."""
    loop_lag: float = 0.0
    """Seconds that the event loop is late, on average over ``cluster.stress.SHARE_SECONDS``; of several processes, the
    latest one's."""
    round_delay: float = 0.0
    """Seconds; of several processes, the longest."""
    kbps_in: float = 0.0
    """From publishers, kilobits per second over ``cluster.facts.LONG_SECONDS``."""
    kbps_out: float = 0.0
    """To viewers."""
    ingest_behind: float = 0.0
    """Seconds that a publisher is behind real time (``cluster.pace``); of several, the one that is furthest."""
    ingest_late: int = 0
    """Publishers that are more than ``cluster.pace.LATE_SECONDS`` behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What there is to count of a process, or of several together."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    worker: int = ALONE
    """``ALONE``: no worker, or several processes."""
    pid: int = 0
    restarts: int = 0
    """How many processes this worker had before; told by whoever starts them."""
    counters: Counters = field(default_factory=Counters)
    """Bytes of connections that have not ended are in these."""
    forward_failures: int = 0
    pull_changes: int = 0
    """Times that a stream went on from another upstream."""
    pull_failures: int = 0
    """Times that an upstream could not be reached, or was lost."""
    pull_delays: dict[str, Histogram] = field(default_factory=dict)
    """Seconds from where a stream is published to here, by the nodes it came through."""
    recorded_files: int = 0
    recorded_bytes: int = 0
    recording_dropped: int = 0
    """Messages."""
    recording_failures: int = 0
    round_trips: dict[str, Histogram] = field(default_factory=dict)
    """See ``cluster.paths``."""
    resent: dict[str, Histogram] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    ipc_bytes_in: int = 0
    """Received from other processes of the node."""
    ipc_bytes_out: int = 0
    now: Gauges = field(default_factory=Gauges)

    @classmethod
    def take(
        cls,
        server: Source,
        hls: Packager,
        facts: Facts,
        *,
        worker: int = ALONE,
        cpu_share: float = 0.0,
        loop_lag: float = 0.0,
        traffic: Traffic | None = None,
        paths: Paths | None = None,
    ) -> Numbers:
        """The numbers of this process as of the newest sample of ``facts``, which must be just taken."""
        tally = facts.tally
        traffic = traffic or Traffic()
        counters = _copy(server.counters)
        counters.bytes_in += tally.bytes_in
        counters.bytes_out.update(tally.bytes_out)
        clients: dict[str, dict[str, int]] = {}
        for (protocol, role), number in tally.clients.items():
            clients.setdefault(protocol, {})[role] = number
        viewers = Counter[str]()
        held = waiting = logs = groups = 0
        gone: list[int] = []
        awaited: list[int] = []
        for stream in server.hub:
            waiting += stream.waiting
            groups += stream.gop_size[1]
            for name, lane in stream.lanes.items():
                viewers[name] += len(lane.viewers)
                if not stream.relayed:  # the memory is the holder's
                    logs += lane.log.bytes
            if stream.state is State.LIVE:
                held += not stream.relayed
            elif stream.state in (State.GONE, State.AWAITED):
                (gone if stream.state is State.GONE else awaited).append(mark(str(stream.key)))
        return cls(
            worker=worker,
            pid=os.getpid(),
            counters=counters,
            forward_failures=traffic.forward_failures,
            pull_changes=traffic.pull_changes,
            pull_failures=traffic.pull_failures,
            pull_delays=_copies(traffic.pull_delays),
            recorded_files=traffic.recorded_files,
            recorded_bytes=traffic.recorded_bytes,
            recording_dropped=traffic.recording_dropped,
            recording_failures=traffic.recording_failures,
            round_trips={} if paths is None else _copies(paths.round_trips),
            resent={} if paths is None else _copies(paths.resent),
            cpu_seconds=round(time.process_time(), 3),
            now=Gauges(
                resident_bytes=resident_bytes(),
                cpu_share=cpu_share,
                clients=clients,
                held=held,
                gone=frozenset(gone[:MAX_MARKS]),
                awaited=frozenset(awaited[:MAX_MARKS]),
                viewers=dict(viewers),
                watchers=frozenset(islice(tally.watchers, MAX_MARKS)),
                waiting=waiting,
                gop_bytes=groups,
                log_bytes=logs,
                hls_streams=hls.packaged,
                hls_bytes=hls.memory(),
                forwards=traffic.forwards,
                pulls=traffic.pulls,
                nodes=traffic.nodes,
                recordings=traffic.recordings,
                loop_lag=loop_lag,
                round_delay=server.rounds.delay,
                kbps_in=tally.kbps_in,
                kbps_out=tally.kbps_out,
                ingest_behind=round(tally.behind, 3),
                ingest_late=tally.late,
            ),
        )

    def retired(self) -> Numbers:
        """What remains when the process has ended: its counters."""
        return replace(self, worker=ALONE, pid=0, restarts=0, now=Gauges())

    def to_json(self) -> bytes:
        """As ``from_json`` reads it."""
        return _numbers().dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Numbers:
        """Raises ``ValueError``."""
        if len(data) > MAX_BYTES:
            raise ValueError(f"a report of {len(data)} bytes")
        return _numbers().validate_json(data)

    # Derived

    @property
    def connections(self) -> int:
        """RTMP connections and HTTP-FLV viewers."""
        return sum(sum(roles.values()) for roles in self.now.clients.values())

    @property
    def publishers(self) -> int:
        """Connections that publish."""
        return sum(roles.get("publish", 0) for roles in self.now.clients.values())

    @property
    def viewers(self) -> dict[str, int]:
        """Viewers by protocol, HLS players included."""
        return {**self.now.viewers, "hls": len(self.now.watchers)}

    @property
    def streams(self) -> dict[str, int]:
        """Streams by state."""
        now = self.now
        return {
            State.AWAITED.value: len(now.awaited - now.gone),
            State.LIVE.value: now.held,
            State.GONE.value: len(now.gone),
        }


def merge(numbers: Iterable[Numbers]) -> Numbers:
    """All processes together."""
    return functools.reduce(_add_numbers, numbers, Numbers())


def _add_numbers(one: Numbers, other: Numbers) -> Numbers:
    sum: Numbers = _add(one, other)
    return replace(sum, worker=ALONE, pid=0)


_HIGHEST: Final = ("cpu_share", "loop_lag", "round_delay", "ingest_behind")


def _add(one: Any, other: Any) -> Any:
    """The sum of two values of the same kind: of their fields, of their entries; of sets, what is in either."""
    match one:
        case Numbers() | Gauges() | Counters():
            sums = {
                each.name: (max if each.name in _HIGHEST else _add)(getattr(one, each.name), getattr(other, each.name))
                for each in fields(one)
            }
            return replace(one, **sums)
        case Histogram():
            return one + other
        case Counter():
            return Counter({**one, **{key: one[key] + number for key, number in other.items()}})
        case dict():
            return {**one, **{key: _add(one[key], value) if key in one else value for key, value in other.items()}}
        case frozenset():
            return one | other
        case _:
            return one + other


def cut(reasons: Mapping[str, int]) -> Counter[str]:
    """The first ``MAX_REASONS`` reasons, and the rest as one."""
    kept = Counter(dict(islice(reasons.items(), MAX_REASONS)))
    rest = sum(islice(reasons.values(), MAX_REASONS, None))
    if rest:
        kept["other"] += rest
    return kept


def _copy(counters: Counters) -> Counters:
    """A copy that shares nothing, with no more reasons than can be told."""
    return replace(
        counters,
        refused=cut(counters.refused),
        plays=Counter(counters.plays),
        bytes_out=Counter(counters.bytes_out),
        viewers_failed=Counter(counters.viewers_failed),
        first_frames=_copies(counters.first_frames),
    )


def _copies(histograms: Mapping[str, Histogram]) -> dict[str, Histogram]:
    return {name: histogram.copy() for name, histogram in histograms.items()}


@functools.cache
def _numbers() -> TypeAdapter[Numbers]:
    return TypeAdapter(Numbers)


# Streams and clients


class Entries(Generic[Entry]):
    """A list as JSON and back."""

    def __init__(self, kind: type[Entry]) -> None:
        self._kind = kind

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[list[Entry]]:
        return TypeAdapter(list[self._kind])  # type: ignore[name-defined]

    def to_json(self, entries: Iterable[Entry]) -> bytes:
        """As ``from_json`` reads it: as many from the first on as may be told."""
        kept = list(islice(entries, MAX_ENTRIES))
        while len(data := self._adapter.dump_json(kept)) > MAX_BYTES:
            kept = kept[: len(kept) // 2]
        return data

    def from_json(self, data: bytes) -> list[Entry]:
        """Raises ``ValueError``."""
        if len(data) > MAX_BYTES:
            raise ValueError(f"a report of {len(data)} bytes")
        entries = self._adapter.validate_json(data)
        if len(entries) > MAX_ENTRIES:
            raise ValueError(f"a report of {len(entries)} entries")
        return entries


STREAMS: Final = Entries(StreamFacts)
CLIENTS: Final = Entries(ClientFacts)
FORWARDS: Final = Entries(ForwardFacts)
PULLS: Final = Entries(PullFacts)
RECORDINGS: Final = Entries(RecordingFacts)


# A process


def resident_bytes() -> int:
    """Memory of this process in RAM; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
