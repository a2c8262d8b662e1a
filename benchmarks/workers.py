"""Workers: what it costs to serve one stream's audience from several processes instead of one.

The same crowd, once with one worker and once with two.  Two probes watch, on different workers where there are two.
Beside the CPU of all processes together: each worker's share of it, and what passed between the processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import proc
from benchmarks.clip import load_clip
from benchmarks.fanout import PINNED
from benchmarks.load import Crowd
from benchmarks.peers import Peer, Servers
from benchmarks.probe import StampedPublisher, Viewer, percentile
from benchmarks.report import Bar, Report, Row, draw_bars, figure, find, finish, medians, ratio

MODES = (("adaptive", {}), ("350 ms", PINNED))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=1000)
    parser.add_argument("--mbps", type=float, default=1.0, help="of the stream, audio included (default 1)")
    parser.add_argument("--workers", default="1,2", metavar="FEW,MANY", help="compared (1,2)")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured per case and repetition")
    parser.add_argument("--warm", type=float, default=6.0, help="with the crowd before measuring")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--only", default="", metavar="WORD", help="only cases with this word in their name")


def run(options: argparse.Namespace, servers: Servers) -> Report:
    few, many = (int(part) for part in options.workers.split(","))
    cases = [
        (f"{workers} worker{'s' * (workers > 1)} {mode} {protocol}", workers, mode, settings, protocol)
        for mode, settings in MODES
        for protocol in ("rtmp", "flv")
        for workers in (few, many)
    ]
    cases = [case for case in cases if options.only in case[0]]
    runs: list[Row] = []
    for repetition in range(options.reps):
        for name, workers, mode, settings, protocol in cases:
            print(f"{repetition + 1}/{options.reps} {name}", file=sys.stderr, flush=True)
            with servers.start("pyrtmp", {**settings, "node.workers": str(workers)}) as peer:
                row = _measure(peer, protocol, options)
            runs.append({"case": name, "workers": workers, "mode": mode, "protocol": protocol, **row})
    rows = medians(runs, worst=("dead", "starved", "flaws"))
    bars = []
    for mode, _ in MODES:
        for protocol in ("rtmp", "flv"):
            one = find(rows, workers=few, mode=mode, protocol=protocol)
            more = find(rows, workers=many, mode=mode, protocol=protocol)
            if one and more:
                cost = ratio(more["us/viewer/s"], one["us/viewer/s"])
                bars += [
                    Bar(f"{protocol} {mode}, CPU of {many} workers against {few}", cost, 1.15, "x"),
                    Bar(f"{protocol} {mode}, busiest worker against the idlest", more["spread"], 1.2, "x"),
                    Bar(f"{protocol} {mode}, bytes between processes by media bytes sent", more["ipc %"], 0.1, "%"),
                ]
                if mode == "adaptive":
                    bars.append(Bar(f"{protocol} adaptive, p99 latency", more["p99 ms"], 60, "ms"))
    unwell = sum(row["starved"] + row["dead"] + row["flaws"] for row in rows)
    bars.append(Bar("viewers starved, let go or in error, frames lost, doubled or out of order", unwell, 0))
    return Report(
        "workers",
        {"viewers": options.viewers, "mbps": options.mbps, "seconds": options.seconds, "warm": options.warm,
         "repetitions": options.reps},
        rows, bars, runs,
        notes=[
            "us/viewer/s: the CPU of supervisor and workers by all viewers; supervisor %: its part, of a core.",
            "spread: CPU of the busiest worker by that of the idlest.",
            "ipc %: bytes over the Unix sockets between processes, by bytes sent to viewers.",
            "p50, p99: of the worse of two probes, one on each worker.",
        ],
    )


def _measure(peer: Peer, protocol: str, options: argparse.Namespace) -> Row:
    url = peer.url(protocol, "shared")
    with StampedPublisher(peer.rtmp_url("shared"), load_clip(options.mbps)) as publisher, ExitStack() as stack:
        probes = [stack.enter_context(Viewer(url)) for _ in range(2)]
        crowd = stack.enter_context(Crowd(0.0))
        for probe in probes:
            probe.has_key_frame.wait(10)
        crowd.join(url, options.viewers)
        time.sleep(options.warm)
        for probe in probes:
            probe.restart_latency()
        before, ipc_before = crowd.count(), _workers(peer)
        pids = [worker["pid"] for worker in ipc_before]
        cpu_before = [proc.cpu_seconds([pid]) for pid in pids]
        meter = proc.CpuMeter(peer.pids)
        time.sleep(options.seconds)
        usage = meter.read()
        cpu = [proc.cpu_seconds([pid]) - start for pid, start in zip(pids, cpu_before, strict=True)]
        after, ipc_after = crowd.count(), _workers(peer)
        publisher.check()
    received = sorted(end - start for start, end in zip(before.received, after.received, strict=True))
    middle = received[len(received) // 2]
    ipc = sum(each["ipc_bytes"] for each in ipc_after) - sum(each["ipc_bytes"] for each in ipc_before)
    return {
        "us/viewer/s": usage.server / (options.viewers + len(probes)) * 1e6,
        "CPU %": usage.server * 100,
        "supervisor %": max(0.0, usage.server - sum(cpu) / usage.seconds) * 100,
        "spread": max(cpu) / max(min(cpu), 0.01),
        "ipc kB/s": ipc / usage.seconds / 1000,
        "ipc %": ipc / max(sum(received), 1) * 100,
        "p50 ms": max(percentile(probe.seen.latency_ms, 50) or 0.0 for probe in probes),
        "p99 ms": max(percentile(probe.seen.latency_ms, 99) or 0.0 for probe in probes),
        "Mbit/s seen": sum(received) * 8e-6 / usage.seconds / options.viewers,
        "starved": sum(size < middle / 2 or size == 0 for size in received),
        "dead": after.dead,
        "flaws": sum(probe.seen.flaws for probe in probes),
        "client CPU %": (after.client_cpu - before.client_cpu) / usage.seconds * 100,
        "other CPU %": usage.other * 100,
    }


def _workers(peer: Peer) -> list[dict[str, Any]]:
    """The node's workers, as its API tells."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{peer.api_port}/api/v1/workers", timeout=5) as answer:
        workers: list[dict[str, Any]] = json.load(answer)["workers"]
        return workers


def plot(report: Report, path: Path) -> None:
    made, (cpu, latency) = figure(2, height=1.5 + 0.45 * len(report.rows))
    labels = [row["case"] for row in report.rows]
    draw_bars(cpu, "server CPU, us per viewer and second", labels, [row["us/viewer/s"] for row in report.rows])
    draw_bars(
        latency, "p99 latency, ms (dashed: bar for adaptive)", labels, [row["p99 ms"] for row in report.rows], limit=60)
    latency.set_yticklabels([])
    finish(made, report, path)
