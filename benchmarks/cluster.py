"""Cluster: what a viewer at an edge waits for, and notices when the node is lost that its stream comes from.

    publisher -> master --forward--> slave, slave --pull--> edge -> viewer

The edge asks only the slaves.  Every case is also measured at the master, in the same minute.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import proc
from benchmarks.clip import load_clip
from benchmarks.fanout import PINNED
from benchmarks.load import Crowd
from benchmarks.peers import Peer, PeerError, Servers
from benchmarks.probe import StampedPublisher, Viewer, percentile
from benchmarks.report import Bar, Report, Row, draw_bars, figure, find, finish, medians

_STREAM = "cluster"

_PATIENCE = 30.0
"""Seconds until a viewer that sees nothing is given up."""

_ARRIVE = 3.0
"""Seconds a new publisher's copies have to get to the slaves."""

_WARM = 3.0
"""Seconds with the crowd before it is measured."""

_EMPTY_ORIGINS = 3

_NAMES = 12
"""Streams, so that one of them is as good as certain to be on the origin asked last."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mbps", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="watched at master and edge")
    parser.add_argument("--viewers", type=int, default=300, help="of an origin, then of an edge, for what they cost")
    parser.add_argument("--reps", type=int, default=3)


def run(options: argparse.Namespace, servers: Servers) -> Report:
    runs = []
    for repetition in range(options.reps):
        for name in servers.names:
            if name not in ("pyrtmp", "srs"):
                raise PeerError(f"{name} has no edges")
            print(f"{repetition + 1}/{options.reps} {name}", file=sys.stderr, flush=True)
            row: Row = {"case": name, "server": name}
            row |= _cold(servers, name, options.mbps)
            row |= _last(servers, name, options.mbps)
            row |= _hops(servers, name, options.mbps, options.seconds)
            for how in (signal.SIGKILL, signal.SIGSTOP):
                row |= _lost(servers, name, options.mbps, how)
            row |= _fanout(servers, name, options.mbps, options.viewers, options.seconds)
            runs.append(row)
    worst = ("gap killed ms", "gap hung ms", "cold ms", "cold, last origin ms", "flaws")
    rows = medians(runs, worst=worst)
    return Report(
        "cluster", {"mbps": options.mbps, "seconds": options.seconds, "repetitions": options.reps}, rows, _bars(rows),
        runs, {},
        ["cold ms: from opening a connection to an edge without the stream to the first key frame, worst repetition; "
         f"last origin: the worst of {_NAMES} streams, all on one of {_EMPTY_ORIGINS + 1} origins: for some it is "
         "the last one asked.",
         "hop p50, p99 ms: delay at the edge, two hops behind the master, less that at the master.",
         "gap ms: longest silence when the slave that the edge pulls from is killed (SIGKILL) or hangs (SIGSTOP).",
         "us/viewer/s: the server's CPU by its viewers; at the edge what fetching takes is in it.",
         "flaws: frames that came twice, times that went back, connections lost, in all of that."],
    )


def _watch(url: str, stack: ExitStack) -> Viewer:
    return stack.enter_context(Viewer(url))


def _cold(servers: Servers, name: str, mbps: float) -> Row:
    with ExitStack() as stack:
        origin = stack.enter_context(servers.member(name, "origin"))
        edge = stack.enter_context(servers.member(name, "edge", origins=[origin.address]))
        stack.enter_context(StampedPublisher(origin.rtmp_url(_STREAM), load_clip(mbps)))
        time.sleep(_ARRIVE)
        return {"cold ms": _first(edge)}


def _last(servers: Servers, name: str, mbps: float) -> Row:
    """The stream's origin is asked last.  Which one is asked when depends on the list, or on the name of the stream:
    of several of both, the slowest."""
    with ExitStack() as stack:
        origins = [
            stack.enter_context(servers.member(name, f"origin{number}")) for number in range(_EMPTY_ORIGINS + 1)
        ]
        names = [f"{_STREAM}{number}" for number in range(_NAMES)]
        for each in names:
            stack.enter_context(StampedPublisher(origins[0].rtmp_url(each), load_clip(mbps / 4)))
        time.sleep(_ARRIVE)
        addresses = [each.address for each in origins]
        waits = []
        for number, each in enumerate(names):
            turn = number % len(addresses)
            with servers.member(name, "edge", origins=addresses[turn:] + addresses[:turn]) as edge:
                waits.append(_first(edge, each))
        return {"cold, last origin ms": None if None in waits else max(wait for wait in waits if wait is not None)}


def _first(edge: Peer, stream: str = _STREAM) -> float | None:
    with Viewer(edge.rtmp_url(stream)) as viewer:
        viewer.has_key_frame.wait(_PATIENCE)
    return viewer.seen.first_key_frame_ms


def _recipe(servers: Servers, name: str, mbps: float, stack: ExitStack) -> tuple[Peer, list[Peer], Peer]:
    slaves = [stack.enter_context(servers.member(name, f"slave{number}")) for number in range(2)]
    addresses = [slave.address for slave in slaves]
    master = stack.enter_context(servers.member(name, "master", forward=addresses))
    edge = stack.enter_context(servers.member(name, "edge", origins=addresses))
    stack.enter_context(StampedPublisher(master.rtmp_url(_STREAM), load_clip(mbps)))
    time.sleep(_ARRIVE)
    return master, slaves, edge


def _hops(servers: Servers, name: str, mbps: float, seconds: float) -> Row:
    with ExitStack() as stack:
        master, _, edge = _recipe(servers, name, mbps, stack)
        viewers = [_watch(each.rtmp_url(_STREAM), stack) for each in (master, edge)]
        for viewer in viewers:
            viewer.has_key_frame.wait(_PATIENCE)
        time.sleep(1.0)
        for viewer in viewers:
            viewer.restart_latency()
        time.sleep(seconds)
    near, far = (viewer.seen.latency_ms for viewer in viewers)
    row: Row = {}
    for percent in (50, 99):
        here, there = percentile(near, percent), percentile(far, percent)
        row[f"hop p{percent} ms"] = None if here is None or there is None else there - here
    return row


def _lost(servers: Servers, name: str, mbps: float, how: signal.Signals) -> Row:
    what = "killed" if how is signal.SIGKILL else "hung"
    with ExitStack() as stack:
        _, slaves, edge = _recipe(servers, name, mbps, stack)
        viewer = _watch(edge.rtmp_url(_STREAM), stack)
        viewer.has_key_frame.wait(_PATIENCE)
        time.sleep(1.0)
        connected = proc.remote_ports(edge.pids())
        (pulled,) = (slave for slave in slaves if slave.rtmp_port in connected)
        pulled.signal(how)
        gap = _longest_silence(viewer, 12.0)
    seen = viewer.seen
    return {f"gap {what} ms": gap, f"flaws {what}": seen.doubled + seen.regressions + bool(seen.error)}


def _fanout(servers: Servers, name: str, mbps: float, viewers: int, seconds: float) -> Row:
    """What viewers of an edge cost beside what they cost at the origin, one crowd after the other."""
    row: Row = {}
    with ExitStack() as stack:
        more = PINNED if name == "pyrtmp" else {}
        origin = stack.enter_context(servers.member(name, "origin", more=more))
        edge = stack.enter_context(servers.member(name, "edge", origins=[origin.address], more=more))
        stack.enter_context(StampedPublisher(origin.rtmp_url(_STREAM), load_clip(mbps)))
        time.sleep(_ARRIVE)
        for what, server in (("origin", origin), ("edge", edge)):
            url = server.rtmp_url(_STREAM)
            with Viewer(url) as viewer, Crowd(0.0) as crowd:
                viewer.has_key_frame.wait(_PATIENCE)
                crowd.join(url, viewers)
                time.sleep(_WARM)
                meter = proc.CpuMeter(server.pids)
                time.sleep(seconds)
                row[f"{what} us/viewer/s"] = meter.read().server / (viewers + 1) * 1e6
    row["edge x origin"] = row["edge us/viewer/s"] / row["origin us/viewer/s"]
    return row


def _longest_silence(viewer: Viewer, seconds: float) -> float:
    """Milliseconds, looked at every five of them."""
    until = time.monotonic() + seconds
    frames, since, longest = viewer.seen.frames, time.monotonic(), 0.0
    while (now := time.monotonic()) < until:
        if viewer.seen.frames != frames:
            frames, since = viewer.seen.frames, now
        longest = max(longest, now - since)
        time.sleep(0.005)
    return longest * 1000


def _bars(rows: list[Row]) -> list[Bar]:
    row = find(rows, server="pyrtmp")
    if row is None:
        return []
    return [
        Bar("first key frame at a cold edge", row["cold ms"], 100, "ms"),
        Bar("first key frame, stream on the last of four origins", row["cold, last origin ms"], 150, "ms"),
        Bar("two hops add, p50", row["hop p50 ms"], 5, "ms"),
        Bar("two hops add, p99", row["hop p99 ms"], 50, "ms"),
        Bar("gap when the pulled node is killed", row["gap killed ms"], 500, "ms"),
        Bar("gap when the pulled node hangs", row["gap hung ms"], 3000, "ms"),
        Bar("fan-out at an edge beside an origin", row["edge x origin"], 1.05, "x"),
        Bar("frames twice or out of order, connections lost", row["flaws killed"] + row["flaws hung"], 0),
    ]


def plot(report: Report, path: Path) -> None:
    made, (cold, gap) = figure(2, height=2.0 + 0.6 * len(report.rows))
    cases = [row["case"] for row in report.rows]
    draw_bars(
        cold, "first key frame at a cold edge, stream on the last of four origins, ms", cases,
        [row["cold, last origin ms"] for row in report.rows], limit=150)
    draw_bars(
        gap, "gap when the pulled node is killed, ms", cases, [row["gap killed ms"] for row in report.rows], limit=500)
    finish(made, report, path)
