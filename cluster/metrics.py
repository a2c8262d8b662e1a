"""What Prometheus scrapes.  Values are read when it does, so that metrics cost nothing between.

Every label value comes from a fixed set or is cut to one; names of streams and addresses of clients never become
labels (publishers choose the one, clients the other: a time series each would let them fill Prometheus).
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from cluster.facts import PROTOCOLS, Audience, Source
from pyrtmp.counters import Counters
from pyrtmp.stream import State

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

ROLES: Final = ("publish", "play", "wait", "idle")

MAX_REASONS: Final = 64
"""Most values of the label ``reason``; refusals for any others are counted as ``other``."""


class Rounds(Protocol):
    """A ``pyrtmp.aio.rounds.Rounds``."""

    @property
    def delay(self) -> float: ...


class MetricsSource(Source, Protocol):
    """A ``pyrtmp.aio.server.Server``."""

    @property
    def counters(self) -> Counters: ...

    @property
    def rounds(self) -> Rounds: ...


class Packager(Protocol):
    """A ``hls.live.HlsService``."""

    def __len__(self) -> int: ...

    def memory(self) -> int: ...


class Metrics:
    """The metrics page of one node."""

    def __init__(
        self,
        server: MetricsSource,
        hls: Packager,
        audience: Audience,
        *,
        version: str,
        node: str,
        ready: Callable[[], bool],
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(
            _NodeCollector(server, hls, audience, {"version": version, "node": node}, ready)
        )
        ProcessCollector(registry=self._registry)

    def page(self) -> bytes:
        """Everything, in the text format 0.0.4."""
        return generate_latest(self._registry)


class _NodeCollector(Collector):
    def __init__(
        self,
        server: MetricsSource,
        hls: Packager,
        audience: Audience,
        info: dict[str, str],
        ready: Callable[[], bool],
    ) -> None:
        self._server = server
        self._hls = hls
        self._audience = audience
        self._info = {**info, "python": platform.python_version()}
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        loop = "uvloop" if "uvloop" in sys.modules else "asyncio"
        yield InfoMetricFamily("pyrtmp_build", "What runs here.", {**self._info, "loop": loop})
        yield _gauge("pyrtmp_ready", "1 while new clients are welcome, 0 while the node drains.", int(self._ready()))
        yield from self._clients()
        yield from self._streams()
        yield from self._totals()
        yield from self._sending()
        yield _gauge("pyrtmp_hls_streams", "Streams that are being packaged for HLS.", len(self._hls))
        yield _gauge("pyrtmp_hls_memory_bytes", "Memory that HLS segments take.", self._hls.memory())

    def _clients(self) -> Iterator[Metric]:
        counters = self._server.counters
        numbers = {("rtmp", role): 0 for role in ROLES} | {("flv", "play"): 0}
        received = counters.bytes_in
        sent = dict.fromkeys(PROTOCOLS, 0) | dict(counters.bytes_out)
        for client in self._server.clients.values():
            kind = (client.protocol, client.role)
            numbers[kind] = numbers.get(kind, 0) + 1
            if client.protocol == "rtmp":
                received += client.bytes_in
            sent[client.protocol] = sent.get(client.protocol, 0) + client.bytes_out
        clients = GaugeMetricFamily(
            "pyrtmp_clients", "Connections now, by what they do.", labels=("protocol", "role")
        )
        for labels, number in numbers.items():
            clients.add_metric(labels, number)
        yield clients
        yield _counter("pyrtmp_received_bytes", "Bytes received on RTMP connections.", received)
        yield _by("pyrtmp_sent_bytes", "Media bytes sent to viewers.", "protocol", sent)

    def _streams(self) -> Iterator[Metric]:
        states = {state.value: 0 for state in State if state is not State.ENDED}
        waiting = logs = groups = 0
        viewers = dict.fromkeys(PROTOCOLS, 0) | {"hls": sum(self._audience.viewers().values())}
        for stream in self._server.hub:
            states[stream.state.value] = states.get(stream.state.value, 0) + 1
            waiting += stream.waiting
            for name, lane in stream.lanes.items():
                viewers[name] = viewers.get(name, 0) + len(lane.viewers)
            groups += stream.gop_size[1]
            logs += sum(lane.log.bytes for lane in stream.lanes.values())
        streams = GaugeMetricFamily(
            "pyrtmp_streams",
            "Streams: live, awaited by viewers, or gone (their publisher left and may come back).",
            labels=("state",),
        )
        for state, number in states.items():
            streams.add_metric((state,), number)
        yield streams
        watching = GaugeMetricFamily("pyrtmp_viewers", "Viewers now.", labels=("protocol",))
        for protocol, number in viewers.items():
            watching.add_metric((protocol,), number)
        yield watching
        yield _gauge("pyrtmp_waiting_viewers", "Viewers that wait for a publisher.", waiting)
        yield _gauge("pyrtmp_gop_bytes", "Memory that groups of pictures kept for joiners take.", groups)
        yield _gauge("pyrtmp_wire_log_bytes", "Memory that media kept for viewers takes.", logs)

    def _totals(self) -> Iterator[Metric]:
        counters = self._server.counters
        yield _counter("pyrtmp_connections", "RTMP connections accepted.", counters.connections)
        yield _by(
            "pyrtmp_refused",
            "Connections and requests turned down or cut off for what the peer did or failed to do in time.",
            "reason",
            _cut(counters.refused),
        )
        yield _counter("pyrtmp_publishes", "Publishers that began.", counters.publishes)
        yield _counter("pyrtmp_takeovers", "Streams taken from a publisher that had fallen silent.", counters.takeovers)
        yield _by("pyrtmp_plays", "Viewers that began.", "protocol", dict.fromkeys(PROTOCOLS, 0) | dict(counters.plays))
        yield _counter(
            "pyrtmp_dropped_messages", "Media messages that came where none is legal.", counters.dropped_messages
        )

    def _sending(self) -> Iterator[Metric]:
        counters = self._server.counters
        yield _counter("pyrtmp_skips", "Times a slow viewer was moved to a newer key frame.", counters.skips)
        yield _counter("pyrtmp_stalls", "Viewers let go because their socket took nothing.", counters.stalls)
        yield _counter(
            "pyrtmp_log_failures", "Rounds in which media could not be kept for viewers.", counters.log_failures
        )
        yield _counter("pyrtmp_rounds", "Rounds of sending to all viewers.", counters.rounds)
        yield _counter("pyrtmp_round_seconds", "Time spent in rounds.", counters.round_seconds)
        yield _gauge("pyrtmp_round_delay_seconds", "Present pause between two rounds.", self._server.rounds.delay)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    """A counter; the page adds ``_total`` to its name."""
    return CounterMetricFamily(name, text, value=value)


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def _cut(reasons: Mapping[str, int]) -> dict[str, int]:
    """The first ``MAX_REASONS`` reasons by name and the rest as one: hooks may make up their own."""
    kept = dict(list(reasons.items())[:MAX_REASONS])
    rest = sum(list(reasons.values())[MAX_REASONS:])
    return kept | {"other": kept.get("other", 0) + rest} if rest else kept
