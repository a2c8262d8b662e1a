"""Fan-out: what one viewer more costs, in CPU, memory and delay.

One stamped publisher feeds a crowd that drains it and one probe that watches it.  Per case and repetition: start the
server, publish, let one viewer watch until the stream's memory has settled, let the crowd join, wait, measure.
Repetitions are interleaved (A B C A B C), so that a noisy minute hits every server, and the medians are compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import proc
from benchmarks.clip import load_clip
from benchmarks.load import Crowd
from benchmarks.peers import Peer, Servers
from benchmarks.probe import StampedPublisher, Viewer, percentile
from benchmarks.report import Bar, Report, Row, draw_bars, figure, find, finish, medians, ratio

PINNED = {"egress.min_delay_ms": "350", "egress.max_delay_ms": "350"}
"""Both delays at what SRS's merged write always waits: servers compared at equal delay."""

SCALING_MBPS = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """One server in one setting with one crowd."""

    peer: str
    mode: str
    protocol: str
    viewers: int
    mbps: float
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.peer, self.mode, self.protocol, f"{self.viewers} x {self.mbps:g}")))


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each phase of a run."""

    settle: float
    """One viewer alone, until the stream's log has its full length: memory and CPU before the crowd."""
    warm: float
    """The crowd, not yet measured."""
    measure: float
    drain_ms: float = 0.0
    """See ``Crowd``; milliseconds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=500)
    parser.add_argument("--mbps", type=float, default=2.0, help="of the stream, audio included (default 2)")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured per case and repetition")
    parser.add_argument("--settle", type=float, default=14.0, help="with one viewer before the crowd comes")
    parser.add_argument("--warm", type=float, default=5.0, help="with the crowd before measuring")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--drain-ms", type=float, default=0.0,
                        help="how often the crowd reads; 0: as soon as something has come (default)")
    parser.add_argument("--scaling", default="200,2000", metavar="FEW,MANY",
                        help="crowds of 0.5 Mbit/s viewers compared per viewer; 0 leaves it out")
    parser.add_argument("--only", default="", metavar="WORD", help="only cases with this word in their name")


def run(options: argparse.Namespace, servers: Servers) -> Report:
    few, many = scaling = [int(part) for part in options.scaling.split(",")] if options.scaling != "0" else [0, 0]
    cases = [case for name in servers.names for case in cases_of(name, options.viewers, options.mbps)]
    if "pyrtmp" in servers.names and many:
        cases += [Case("pyrtmp", "350 ms", "rtmp", viewers, SCALING_MBPS, PINNED) for viewers in scaling]
    cases = [case for case in cases if options.only in case.name]
    times = Times(options.settle, options.warm, options.seconds, options.drain_ms)
    runs = []
    for repetition in range(options.reps):
        for case in cases:
            print(f"{repetition + 1}/{options.reps} {case.name}", file=sys.stderr, flush=True)
            with servers.start(case.peer, case.settings) as peer:
                runs.append(measure(case, peer, times))
    rows = medians(runs, worst=("starved", "dead", "flaws"))
    for row in rows:
        nginx = find(rows, server="nginx", protocol="rtmp", viewers=row["viewers"], mbps=row["mbps"])
        row["x nginx"] = ratio(row["us/viewer/s"], nginx["us/viewer/s"]) if nginx else None
    return Report(
        "fanout",
        {"seconds": options.seconds, "settle": options.settle, "warm": options.warm, "repetitions": options.reps,
         "drain ms": options.drain_ms},
        rows, _bars(rows, options.viewers, options.mbps, few, many), runs,
        notes=[
            "us/viewer/s: the server's CPU, its share of reading the publisher included, by all viewers; "
            "marginal: less what the server used with one viewer.",
            "KiB/viewer: PSS with the crowd less PSS with one viewer.",
            "other CPU %: used by neither the server nor the benchmark; the figures are good when it is small.",
            "starved: viewers that got less than half of what the median viewer got.",
        ],
    )


def cases_of(name: str, viewers: int, mbps: float) -> list[Case]:
    match name:
        case "pyrtmp":
            return [
                Case(name, mode, protocol, viewers, mbps, settings)
                for mode, settings in (("350 ms", PINNED), ("adaptive", {}))
                for protocol in ("rtmp", "flv")
            ]
        case "nginx":
            return [Case(name, "", "rtmp", viewers, mbps)]
        case _:
            return [Case(name, "", protocol, viewers, mbps) for protocol in ("rtmp", "flv")]


def measure(case: Case, peer: Peer, times: Times) -> Row:
    """One repetition against a server that has just started."""
    stream = f"fanout-{case.protocol}"
    url = peer.url(case.protocol, stream)
    with (
        StampedPublisher(peer.publish_url(stream), load_clip(case.mbps)) as publisher,
        Viewer(url) as viewer,
        Crowd(times.drain_ms) as crowd,
    ):
        viewer.has_key_frame.wait(times.settle)
        meter = proc.CpuMeter(peer.pids)
        time.sleep(times.settle)
        alone = meter.read()
        memory_before = proc.memory(peer.pids())
        crowd.join(url, case.viewers)
        time.sleep(times.warm)
        before = crowd.count()
        viewer.restart_latency()
        meter = proc.CpuMeter(peer.pids)
        time.sleep(times.measure)
        crowded = meter.read()
        after = crowd.count()
        latency = list(viewer.seen.latency_ms)
        memory_after = proc.memory(peer.pids())
        publisher.check()
    received = sorted(end - start for start, end in zip(before.received, after.received, strict=True))
    middle = received[len(received) // 2]
    return {
        "case": case.name,
        "server": case.peer,
        "mode": case.mode,
        "protocol": case.protocol,
        "viewers": case.viewers,
        "mbps": case.mbps,
        "us/viewer/s": crowded.server / (case.viewers + 1) * 1e6,
        "marginal": (crowded.server - alone.server) / case.viewers * 1e6,
        "CPU %": crowded.server * 100,
        "p50 ms": percentile(latency, 50),
        "p99 ms": percentile(latency, 99),
        "KiB/viewer": (memory_after.pss - memory_before.pss) / case.viewers,
        "PSS MiB": memory_after.pss / 1024,
        "Mbit/s seen": sum(received) * 8e-6 / crowded.seconds / case.viewers,
        "starved": sum(size < middle / 2 or size == 0 for size in received),
        "dead": after.dead,
        "flaws": viewer.seen.flaws,
        "client CPU %": (after.client_cpu - before.client_cpu) / crowded.seconds * 100,
        "other CPU %": crowded.other * 100,
        "error": viewer.seen.error or None,
    }


def _bars(rows: list[Row], viewers: int, mbps: float, few: int, many: int) -> list[Bar]:
    def value(column: str, mode: str, protocol: str, count: int = viewers, rate: float = mbps) -> float | None:
        row = find(rows, server="pyrtmp", mode=mode, protocol=protocol, viewers=count, mbps=rate)
        return row[column] if row else None

    cost = "us/viewer/s"
    nginx = find(rows, server="nginx", viewers=viewers, mbps=mbps)
    nginx_cost = nginx[cost] if nginx else None
    pinned = value(cost, "350 ms", "rtmp")
    bars = [
        Bar("RTMP pinned to 350 ms, CPU against nginx-rtmp", ratio(pinned, nginx_cost), 0.2, "x"),
        Bar("HTTP-FLV against RTMP, both pinned", ratio(value(cost, "350 ms", "flv"), pinned), 1.25, "x"),
        Bar("RTMP adaptive, CPU against nginx-rtmp", ratio(value(cost, "adaptive", "rtmp"), nginx_cost), 0.8, "x"),
        Bar("RTMP adaptive, p99 latency", value("p99 ms", "adaptive", "rtmp"), 60, "ms"),
        Bar("HTTP-FLV adaptive, p99 latency", value("p99 ms", "adaptive", "flv"), 60, "ms"),
        Bar(f"per viewer, {many} against {few} of {SCALING_MBPS} Mbit/s",
            ratio(value(cost, "350 ms", "rtmp", many, SCALING_MBPS), value(cost, "350 ms", "rtmp", few, SCALING_MBPS)),
            1.15, "x"),
        Bar("memory of an RTMP viewer", value("KiB/viewer", "350 ms", "rtmp"), 16, "KiB"),
        Bar("memory of an HTTP-FLV viewer", value("KiB/viewer", "350 ms", "flv"), 16, "KiB"),
    ]
    ours = [row for row in rows if row["server"] == "pyrtmp"]
    if ours:
        unwell = sum(row["starved"] + row["dead"] + row["flaws"] for row in ours)
        bars.append(Bar("viewers starved, let go or in error, frames lost, doubled or out of order", unwell, 0))
    return bars


def plot(report: Report, path: Path) -> None:
    made, (cpu, latency, memory) = figure(3, height=1.5 + 0.45 * len(report.rows))
    labels = [row["case"] for row in report.rows]
    draw_bars(cpu, "server CPU, us per viewer and second", labels, [row["us/viewer/s"] for row in report.rows])
    draw_bars(
        latency, "p99 latency, ms (dashed: bar for adaptive)", labels, [row["p99 ms"] for row in report.rows], limit=60)
    draw_bars(
        memory, "memory per viewer, KiB PSS (dashed: bar)", labels, [row["KiB/viewer"] for row in report.rows],
        limit=16)
    for axes in (latency, memory):
        axes.set_yticklabels([])
    finish(made, report, path)
