"""Smoke: every part of the benchmarks once, small and quick; proves that they run, not how fast anything is."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import fanout, ingest, latency
from benchmarks.clip import load_clip
from benchmarks.peers import NginxRtmp, Servers
from benchmarks.report import Bar, Report, Row, draw_bars, figure, finish

MBPS = 0.5
_VIEWERS = 20
_PUBLISHERS = 4
_TIMES = fanout.Times(settle=0.5, warm=0.5, measure=1.0)
_LATENCY_SECONDS = 0.5


def default_peers() -> str:
    return "pyrtmp,nginx" if NginxRtmp.is_installed() else "pyrtmp"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""


def run(options: argparse.Namespace, servers: Servers) -> Report:
    load_clip(MBPS)
    with ThreadPoolExecutor() as pool:  # side by side: nothing is compared here
        rows = [row for peer_rows in pool.map(lambda name: _measure(name, servers), servers.names) for row in peer_rows]
    ours = [row for row in rows if row["server"] == "pyrtmp"]
    return Report(
        "smoke", {"mbps": MBPS, "publishers": _PUBLISHERS}, rows,
        [Bar("viewers starved or let go, publishers let go", sum(row["unwell"] for row in ours), 0),
         Bar("frames lost, doubled or out of order", sum(row["flaws"] for row in ours), 0)],
        notes=["Too short to compare anything: use fanout, ingest, latency and soak for that."],
    )


def _measure(name: str, servers: Servers) -> list[Row]:
    rows = []
    with servers.start(name) as peer:
        reading = ingest.measure(peer, _PUBLISHERS, MBPS, _TIMES.warm, _TIMES.measure)
        for delay in latency.measure(peer, MBPS, _LATENCY_SECONDS, joins=1):
            case = fanout.Case(name, "", delay["protocol"], _VIEWERS, MBPS)
            crowd = fanout.measure(case, peer, _TIMES)
            rows.append({
                "case": delay["case"], "server": name, "protocol": delay["protocol"], "viewers": _VIEWERS,
                "us/viewer/s": crowd["us/viewer/s"], "p99 ms": delay["p99 ms"],
                "key frame ms": delay["key frame ms"], "us/message": reading["us/message"],
                "frames": delay["frames"], "unwell": crowd["starved"] + crowd["dead"] + reading["dead"],
                "flaws": crowd["flaws"] + delay["flaws"], "error": crowd["error"] or delay["error"],
            })  # fmt: skip
    return rows


def plot(report: Report, path: Path) -> None:
    made, (cpu, delay) = figure(2, height=1.5 + 0.5 * len(report.rows))
    labels = [row["case"] for row in report.rows]
    draw_bars(cpu, "server CPU, us per viewer and second", labels, [row["us/viewer/s"] for row in report.rows])
    draw_bars(delay, "p99 latency, ms", labels, [row["p99 ms"] for row in report.rows])
    finish(made, report, path)
