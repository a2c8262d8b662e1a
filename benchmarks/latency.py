"""Latency: what a single viewer waits for each frame, and a joiner for the first picture."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.clip import GOP_SECONDS, load_clip
from benchmarks.peers import Peer, Servers
from benchmarks.probe import StampedPublisher, Viewer, percentile
from benchmarks.report import Bar, Report, Row, draw_bars, figure, find, finish, medians

_STREAM = "latency"
_PERCENTS = (0, 1, *range(5, 95, 5), 95, 97, 99, 99.5, 100)
"""Percentiles kept for the plot."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mbps", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="watched per case and repetition")
    parser.add_argument("--joins", type=int, default=8, help="mid-GOP joins per case and repetition")
    parser.add_argument("--reps", type=int, default=3)


def run(options: argparse.Namespace, servers: Servers) -> Report:
    runs = []
    for repetition in range(options.reps):
        for name in servers.names:
            print(f"{repetition + 1}/{options.reps} {name}", file=sys.stderr, flush=True)
            with servers.start(name) as peer:
                runs += measure(peer, options.mbps, options.seconds, options.joins)
    rows = medians(runs, worst=("max ms", "worst key frame ms", "flaws"))
    curves = {
        row["case"]: [
            [percent, max(run["latency"][index] for run in runs if run["case"] == row["case"] and run["latency"])]
            for index, percent in enumerate(_PERCENTS)
        ]
        for row in rows
        if all(run["latency"] for run in runs if run["case"] == row["case"])
    }
    for row in rows:
        del row["latency"], row["joins ms"]
    return Report(
        "latency",
        {"mbps": options.mbps, "seconds": options.seconds, "joins": options.joins, "repetitions": options.reps},
        rows, _bars(rows), runs, {"curves": curves},
        ["key frame ms: from opening the connection to the first key frame, joining at points spread over the GOP.",
         "The plot shows each percentile's worst repetition."],
    )


def measure(peer: Peer, mbps: float, seconds: float, joins: int) -> list[Row]:
    """One repetition against a fresh server: joins, then one viewer for a while, by every protocol it has."""
    protocols = ("rtmp", "flv") if peer.has_flv else ("rtmp",)
    with StampedPublisher(peer.rtmp_url(_STREAM), load_clip(mbps)) as publisher:
        while not publisher.last_key_frame:
            publisher.check()
            time.sleep(0.01)
        rows = [_measure(peer, protocol, publisher, seconds, joins) for protocol in protocols]
        publisher.check()
    return rows


def _measure(peer: Peer, protocol: str, publisher: StampedPublisher, seconds: float, joins: int) -> Row:
    url = peer.url(protocol, _STREAM)
    waits, flaws, errors = [], 0, []
    for number in range(joins):
        _sleep_into_gop(publisher, (number + 0.5) / joins)
        with Viewer(url) as joiner:
            joiner.has_key_frame.wait(GOP_SECONDS * 3)
        waits.append(joiner.seen.first_key_frame_ms)
        flaws += joiner.seen.flaws + (joiner.seen.first_key_frame_ms is None)
        errors.append(joiner.seen.error)
    with Viewer(url) as viewer:
        viewer.has_key_frame.wait(GOP_SECONDS * 3)
        viewer.restart_latency()
        time.sleep(seconds)
    latency = viewer.seen.latency_ms
    errors.append(viewer.seen.error)
    seen_waits = [wait for wait in waits if wait is not None]
    return {
        "case": f"{peer.name} {protocol}",
        "server": peer.name,
        "protocol": protocol,
        "p50 ms": percentile(latency, 50),
        "p99 ms": percentile(latency, 99),
        "max ms": percentile(latency, 100),
        "key frame ms": percentile(seen_waits, 50),
        "worst key frame ms": max(seen_waits) if len(seen_waits) == joins else None,
        "frames": viewer.seen.frames,
        "flaws": flaws + viewer.seen.flaws,
        "error": next(filter(None, errors), None),
        "joins ms": waits,
        "latency": [percentile(latency, percent) for percent in _PERCENTS] if latency else [],
    }


def _sleep_into_gop(publisher: StampedPublisher, part: float) -> None:
    """Sleep until this part of a GOP has been published."""
    at = publisher.last_key_frame + part * GOP_SECONDS
    now = time.monotonic()
    time.sleep(at - now if at > now else at + GOP_SECONDS - now)


def _bars(rows: list[Row]) -> list[Bar]:
    bars = []
    for protocol, name in (("rtmp", "RTMP"), ("flv", "HTTP-FLV")):
        if row := find(rows, server="pyrtmp", protocol=protocol):
            bars += [
                Bar(f"{name} p50", row["p50 ms"], 3, "ms"),
                Bar(f"{name} p99", row["p99 ms"], 25, "ms"),
                Bar(f"{name} first key frame of a joiner, worst", row["worst key frame ms"], 60, "ms"),
                Bar(f"{name} frames lost, doubled or out of order", row["flaws"], 0),
            ]
    return bars


def plot(report: Report, path: Path) -> None:
    made, (curve, join) = figure(2)
    for case, points in report.series["curves"].items():
        percents, values = zip(*points, strict=True)
        curve.plot(values, percents, label=case, linewidth=2 if case.startswith("pyrtmp") else 1.2)
    curve.set_xscale("log")
    curve.set_xlabel("latency, ms")
    curve.set_ylabel("% of frames at most so late")
    curve.grid(alpha=0.3, which="both")
    curve.legend(fontsize=8)
    curve.set_title("latency of one viewer", fontsize=10)
    draw_bars(
        join, "worst wait for the first key frame, ms (dashed: bar)", [row["case"] for row in report.rows],
        [row["worst key frame ms"] for row in report.rows], limit=60)
    finish(made, report, path)
