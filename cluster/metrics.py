"""What Prometheus scrapes.  Values are read when it does, so that metrics cost nothing between.

Every label value comes from a fixed set or is cut to one; names of streams and addresses of clients never become
labels (publishers choose the one, clients the other: a time series each would let them fill Prometheus).  Nor does a
process: the page is about the node, however many it has.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from cluster.edge.pulls import DELAY_SECONDS, HOPS
from cluster.facts import ALONE, PROTOCOLS
from cluster.pace import LATE_SECONDS
from cluster.paths import KINDS, RESENT_SHARE, ROUND_TRIP_SECONDS
from cluster.reports import Numbers, cut, merge
from pyrtmp.counters import FIRST_FRAME_SECONDS
from pyrtmp.histogram import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

ROLES: Final = ("publish", "play", "wait", "idle")
FORWARD_STATES: Final = ("connecting", "live", "waiting")
RECORDING_STATES: Final = ("starting", "recording", "waiting")
FAILURES: Final = ("refused", "not_found", "busy", "resources", "stall", "flood", "reset")
"""See ``pyrtmp.aio.server.Server.viewer_failed``."""


class Metrics:
    """The metrics page of one node."""

    def __init__(self, *, version: str, node: str) -> None:
        loop = "uvloop" if "uvloop" in sys.modules else "asyncio"
        self._info = {"version": version, "node": node, "python": platform.python_version(), "loop": loop}
        self._processes = _Processes()

    def page(
        self, numbers: Sequence[Numbers], *, ready: bool, stress: float = 0.0, registry_up: bool | None = None,
        certificate_expires: float | None = None,
    ) -> bytes:
        """Everything, in the text format 0.0.4.  ``numbers`` are of all processes that serve clients; ``registry_up``
        is None where there is no registry, ``certificate_expires`` where nothing listens with TLS."""
        return generate_latest(
            _Page(self._info, numbers, ready, stress, registry_up, certificate_expires, self._processes)
        )


@dataclass(frozen=True, slots=True)
class _Page(Collector):
    info: dict[str, str]
    numbers: Sequence[Numbers]
    ready: bool
    stress: float
    registry_up: bool | None
    certificate_expires: float | None
    processes: _Processes

    def collect(self) -> Iterator[Metric]:
        numbers = merge(self.numbers)
        yield InfoMetricFamily("pyrtmp_build", "What runs here.", self.info)
        yield _gauge("pyrtmp_ready", "1 while new clients are welcome, 0 while the node drains.", int(self.ready))
        yield from _clients(numbers)
        yield from _streams(numbers)
        yield from _totals(numbers)
        yield from _sending(numbers)
        yield from _quality(numbers)
        yield _gauge("pyrtmp_hls_streams", "Streams that are being packaged for HLS.", numbers.now.hls_streams)
        yield _gauge("pyrtmp_hls_memory_bytes", "Memory that HLS segments take.", numbers.now.hls_bytes)
        yield from _recordings(numbers)
        yield from _nodes(numbers)
        yield _gauge("pyrtmp_node_stress", "How busy the node is: 0 idle, 1 as busy as it should be.", self.stress)
        if self.registry_up is not None:
            yield _gauge("pyrtmp_registry_up", "1 while the registry answers.", int(self.registry_up))
        if self.certificate_expires is not None:
            yield _gauge(
                "pyrtmp_tls_certificate_expiry_timestamp_seconds",
                "When the certificate in use expires, in seconds since 1970.",
                self.certificate_expires,
            )
        yield from _workers(self.numbers, numbers)
        yield from self.processes.collect(self.numbers)


def _clients(numbers: Numbers) -> Iterator[Metric]:
    counters = numbers.counters
    clients = GaugeMetricFamily("pyrtmp_clients", "Connections now, by what they do.", labels=("protocol", "role"))
    present = {("rtmp", role): 0 for role in ROLES} | {("flv", "play"): 0}
    for protocol, roles in numbers.now.clients.items():
        present |= {(protocol, role): number for role, number in roles.items()}
    for labels, number in present.items():
        clients.add_metric(labels, number)
    yield clients
    yield _counter("pyrtmp_received_bytes", "Bytes received on RTMP connections.", counters.bytes_in)
    sent = dict.fromkeys(PROTOCOLS, 0) | dict(counters.bytes_out)
    yield _by("pyrtmp_sent_bytes", "Media bytes sent to viewers.", "protocol", sent)


def _streams(numbers: Numbers) -> Iterator[Metric]:
    now = numbers.now
    streams = GaugeMetricFamily(
        "pyrtmp_streams",
        "Streams: live, awaited by viewers, or gone (their publisher left and may come back).",
        labels=("state",),
    )
    for state, number in numbers.streams.items():
        streams.add_metric((state,), number)
    yield streams
    watching = GaugeMetricFamily("pyrtmp_viewers", "Viewers now.", labels=("protocol",))
    for protocol, number in (dict.fromkeys(PROTOCOLS, 0) | numbers.viewers).items():
        watching.add_metric((protocol,), number)
    yield watching
    yield _gauge("pyrtmp_waiting_viewers", "Viewers that wait for a publisher.", now.waiting)
    yield _gauge("pyrtmp_gop_bytes", "Memory that groups of pictures kept for joiners take.", now.gop_bytes)
    yield _gauge("pyrtmp_wire_log_bytes", "Memory that media kept for viewers takes.", now.log_bytes)


def _totals(numbers: Numbers) -> Iterator[Metric]:
    counters = numbers.counters
    yield _counter("pyrtmp_connections", "RTMP connections accepted.", counters.connections)
    yield _by(
        "pyrtmp_refused",
        "Connections and requests turned down or cut off for what the peer did or failed to do in time.",
        "reason",
        cut(counters.refused),
    )
    yield _counter("pyrtmp_publishes", "Publishers that began.", counters.publishes)
    yield _counter("pyrtmp_takeovers", "Streams taken from a publisher that had fallen silent.", counters.takeovers)
    yield _by("pyrtmp_plays", "Viewers that began.", "protocol", dict.fromkeys(PROTOCOLS, 0) | dict(counters.plays))
    yield _counter(
        "pyrtmp_dropped_messages", "Media messages that came where none is legal.", counters.dropped_messages
    )


def _sending(numbers: Numbers) -> Iterator[Metric]:
    counters = numbers.counters
    yield _counter("pyrtmp_skips", "Times a slow viewer was moved to a newer key frame.", counters.skips)
    yield _counter(
        "pyrtmp_skipped_viewers", "Viewers that left and had been moved at least once.", counters.skipped_viewers
    )
    yield _counter("pyrtmp_stalls", "Viewers let go because their socket took nothing.", counters.stalls)
    yield _counter("pyrtmp_log_failures", "Rounds in which media could not be kept for viewers.", counters.log_failures)
    yield _counter("pyrtmp_rounds", "Rounds of sending to all viewers.", counters.rounds)
    yield _counter("pyrtmp_round_seconds", "Time spent in rounds.", counters.round_seconds)
    delay = numbers.now.round_delay
    yield _gauge("pyrtmp_round_delay_seconds", "Present pause between two rounds, the longest of any worker.", delay)


def _quality(numbers: Numbers) -> Iterator[Metric]:
    """How well publishers and viewers are off."""
    counters, now = numbers.counters, numbers.now
    yield _by(
        "pyrtmp_viewer_failures",
        "Viewers that did not get what they asked for, or not to its end: refused; nobody published it in time; the "
        "node was busy or draining; it was out of resources; their socket took nothing; they left answers unread; "
        "their connection broke, which also is how many players leave. Other nodes are not counted.",
        "cause",
        dict.fromkeys(FAILURES, 0) | dict(counters.viewers_failed),
    )
    yield _histograms(
        "pyrtmp_first_frame_seconds",
        "From a viewer's request to its first bytes of media, waiting for a publisher included; HLS: to the answer "
        "with the first playlist.",
        "protocol", PROTOCOLS, FIRST_FRAME_SECONDS, counters.first_frames,
    )
    yield _histograms(
        "pyrtmp_round_trip_seconds",
        "TCP's smoothed round trip to publishers and viewers; some of them are looked at every second, in turn.",
        "client", KINDS, ROUND_TRIP_SECONDS, numbers.round_trips,
    )
    yield _histograms(
        "pyrtmp_resent_ratio",
        "What part of the segments sent to a viewer since it was last looked at had to be sent again.",
        "client", KINDS[1:], RESENT_SHARE, numbers.resent,
    )
    yield _gauge(
        "pyrtmp_ingest_behind_seconds",
        "How far the media of the publisher that is furthest behind lags behind real time: its line is too slow.",
        now.ingest_behind,
    )
    yield _gauge(
        "pyrtmp_ingest_late_streams", f"Publishers that are more than {LATE_SECONDS:g} s behind real time.",
        now.ingest_late,
    )


def _recordings(numbers: Numbers) -> Iterator[Metric]:
    recordings = GaugeMetricFamily(
        "pyrtmp_recordings",
        "Streams written to files: recording, starting (there was no key frame yet), or waiting for the next attempt.",
        labels=("state",),
    )
    for state in RECORDING_STATES:
        recordings.add_metric((state,), numbers.now.recordings.get(state, 0))
    yield recordings
    yield _counter("pyrtmp_recorded_files", "Files of recordings that are complete.", numbers.recorded_files)
    yield _counter("pyrtmp_recorded_bytes", "Bytes of recordings handed to the disk.", numbers.recorded_bytes)
    yield _counter(
        "pyrtmp_recording_dropped_messages",
        "Messages left out of recordings because the disk did not keep up.",
        numbers.recording_dropped,
    )
    yield _counter(
        "pyrtmp_recording_failures",
        "Files that could not be begun, written to the end or completed.",
        numbers.recording_failures,
    )


def _nodes(numbers: Numbers) -> Iterator[Metric]:
    now = numbers.now
    forwards = GaugeMetricFamily(
        "pyrtmp_forwards",
        "Streams passed on to other servers: live, connecting, or waiting for the next attempt.",
        labels=("state",),
    )
    for state in FORWARD_STATES:
        forwards.add_metric((state,), now.forwards.get(state, 0))
    yield forwards
    yield _counter("pyrtmp_forward_failures", "Times a forward failed or was refused.", numbers.forward_failures)
    yield _gauge("pyrtmp_pulls", "Streams fetched from other nodes.", now.pulls)
    yield _counter("pyrtmp_pull_changes", "Times a stream went on from another upstream.", numbers.pull_changes)
    yield _counter(
        "pyrtmp_pull_failures", "Times that an upstream could not be reached, or was lost.", numbers.pull_failures
    )
    yield _histograms(
        "pyrtmp_pull_delay_seconds",
        "How much later this node has a frame than the one that the stream is published or forwarded to, measured "
        "every few seconds of each pull by RTMP, by the number of nodes that it came through.",
        "hops", HOPS, DELAY_SECONDS, numbers.pull_delays,
    )
    yield _gauge("pyrtmp_node_connections", "Connections of other nodes.", now.nodes)
    yield _gauge(
        "pyrtmp_loop_lag_seconds", "How late the event loop is, on average, in the worker that is latest.", now.loop_lag
    )


def _workers(parts: Sequence[Numbers], numbers: Numbers) -> Iterator[Metric]:
    workers = [each for each in parts if each.worker != ALONE]
    yield _gauge("pyrtmp_workers", "Worker processes; 0 where one process does everything.", len(workers))
    # While one replaces another both are there, and know of the same restarts.
    restarts = {each.worker: each.restarts for each in sorted(workers, key=lambda each: each.restarts)}
    # And some place may have no worker just now.
    vacant = sum(each.restarts for each in parts if each.worker == ALONE)
    yield _counter("pyrtmp_worker_restarts", "Workers that were replaced.", sum(restarts.values()) + vacant)
    yield _gauge(
        "pyrtmp_worker_busiest_share", "Part of one core that the busiest process takes.", numbers.now.cpu_share
    )
    yield _counter(
        "pyrtmp_ipc_bytes",
        "Bytes that workers received from and sent to other processes of the node.",
        numbers.ipc_bytes_in + numbers.ipc_bytes_out,
    )


class _Processes:
    """The standard metrics of a process (``process_*``), for all of a node: the one that asks, and its workers."""

    _SUMS: Final = ("process_resident_memory_bytes", "process_virtual_memory_bytes")
    _HIGHEST: Final = ("process_open_fds",)
    _TEXTS: Final = {
        "process_resident_memory_bytes": "Resident memory of all processes of the node.",
        "process_virtual_memory_bytes": "Virtual memory of all processes of the node.",
        "process_cpu_seconds": "User and system CPU time of all processes of the node.",
        "process_open_fds": "Open file descriptors of the process that has most of them.",
        "process_max_fds": "Most file descriptors that a process may open.",
        "process_start_time_seconds": "Start time of the node since the Unix epoch.",
    }

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._collector = ProcessCollector(pid=lambda: self._pid, registry=None)

    def collect(self, numbers: Iterable[Numbers]) -> Iterator[Metric]:
        own = os.getpid()
        others = [each for each in numbers if each.pid != own]
        found = self._values(own)
        for pid in {each.pid for each in others if each.pid}:
            for name, value in self._values(pid).items():
                if name in self._SUMS:
                    found[name] = found.get(name, 0) + value
                elif name in self._HIGHEST:
                    found[name] = max(found.get(name, 0), value)
        if "process_cpu_seconds" in found:
            # As reported: that of those that ended, too.
            found["process_cpu_seconds"] += sum(each.cpu_seconds for each in others)
        for name, value in found.items():
            make = _counter if name == "process_cpu_seconds" else _gauge
            yield make(name, self._TEXTS[name], value)

    def _values(self, pid: int) -> dict[str, float]:
        """By name; what the system does not say is missing."""
        self._pid = pid
        return {family.name: family.samples[0].value for family in self._collector.collect()}


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    """A counter; the page adds ``_total`` to its name."""
    return CounterMetricFamily(name, text, value=value)


def _histograms(
    name: str, text: str, label: str, values: Iterable[str], bounds: Sequence[float], found: Mapping[str, Histogram]
) -> Metric:
    """One histogram for each value of the label, whether there is one already or not."""
    family = HistogramMetricFamily(name, text, labels=(label,))
    for value in values:
        histogram = found.get(value) or Histogram(tuple(bounds))
        ends = [*map(floatToGoString, histogram.bounds), "+Inf"]
        buckets = list(zip(ends, accumulate(histogram.counts), strict=True))
        family.add_metric((value,), buckets, histogram.sum)
    return family


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
