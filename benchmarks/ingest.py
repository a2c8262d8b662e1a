"""Ingest: what reading a publisher's messages costs, as a rule with nobody watching; with --record, also what writing
them to files does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks import proc
from benchmarks.clip import GOP_SECONDS, load_clip
from benchmarks.load import Crowd, PublisherGroup
from benchmarks.peers import Peer, Servers
from benchmarks.report import Bar, Report, Row, draw_bars, figure, find, finish, medians, ratio

_CPU_BAR = 2.2
_MEMORY_BAR = 200

_MOMENTS = 10
"""Looks at memory, spread over one group of pictures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--publishers", type=int, default=60)
    parser.add_argument("--mbps", type=float, default=2.0)
    parser.add_argument("--watched", type=int, default=0, help="how many of them have a viewer")
    parser.add_argument("--record", action="store_true", help="have each written to an FLV file")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured per server and repetition")
    parser.add_argument("--warm", type=float, default=5.0, help="published before measuring")
    parser.add_argument("--reps", type=int, default=3)


def run(options: argparse.Namespace, servers: Servers) -> Report:
    load_clip(options.mbps)
    runs = []
    for repetition in range(options.reps):
        for name in servers.names:
            print(f"{repetition + 1}/{options.reps} {name}", file=sys.stderr, flush=True)
            with servers.start(name, record=options.record) as peer:
                runs.append(measure(
                    peer, options.publishers, options.mbps, options.warm, options.seconds, watched=options.watched))
    rows = medians(runs, worst=("dead", "stalls"))
    nginx = find(rows, server="nginx")
    for row in rows:
        row["x nginx"] = ratio(row["us/message"], nginx["us/message"]) if nginx else None
    ours = find(rows, server="pyrtmp")
    # With viewers it is another question, and sending is in the figures too.
    bars = [] if options.watched else [
        Bar("CPU per message against nginx-rtmp", ours["x nginx"] if ours else None, _CPU_BAR, "x"),
        Bar("memory of a publisher beside its log", ours["KiB/publisher"] if ours else None, _MEMORY_BAR, "KiB"),
    ]
    if ours:
        bars.append(Bar("publishers let go", ours["dead"], 0))
    return Report(
        "recording" if options.record else "ingest",
        {"publishers": options.publishers, "watched": options.watched, "mbps": options.mbps,
         "seconds": options.seconds, "warm": options.warm, "repetitions": options.reps},
        rows, bars, runs,
        notes=["KiB/publisher: anonymous memory less that of the idle server, and less the group of pictures kept for "
               "joiners (GOP KiB, by the server's own account), at the worst of several moments of one group: all "
               "publishers send the same clip, so that what is kept rises and falls together.  log KiB: memfd pages "
               "per publisher, mapped or not.",
               "other CPU %: used by neither the server nor the benchmark; the figures are good when it is small."],
    )


def measure(
    peer: Peer, publishers: int, mbps: float, warm: float, seconds: float, *, watched: int = 0
) -> Row:
    """One repetition against a server that has just started."""
    idle = proc.memory(peer.pids())
    urls = [peer.rtmp_url(f"ingest{number}") for number in range(publishers)]
    with PublisherGroup(urls, mbps, warm + seconds + 10) as group, Crowd() as crowd:
        group.connect()
        for url in urls[:watched]:
            crowd.join(url, 1)
        time.sleep(warm)
        before, meter = group.count(), proc.CpuMeter(peer.pids)
        time.sleep(seconds)
        usage, after = meter.read(), group.count()
        beside, kept, full = max(
            (memory_beside(peer, idle) for _ in range(_MOMENTS)), key=lambda moment: moment[0])
    messages = after.messages - before.messages
    return {
        "case": peer.name,
        "server": peer.name,
        "publishers": publishers,
        "us/message": usage.server * usage.seconds / messages * 1e6 if messages else None,
        "CPU %": usage.server * 100,
        "messages/s": messages / usage.seconds,
        "Mbit/s each": (after.bytes - before.bytes) * 8e-6 / usage.seconds / publishers,
        "KiB/publisher": beside / publishers,
        "GOP KiB": kept / publishers,
        "log KiB": (full.memfd - idle.memfd) / publishers,
        "stalls": after.stalls - before.stalls,
        "dead": after.dead,
        "client CPU %": (after.client_cpu - before.client_cpu) / usage.seconds * 100,
        "other CPU %": usage.other * 100,
    }


def memory_beside(peer: Peer, idle: proc.Memory) -> tuple[float, float, proc.Memory]:
    """A moment: KiB that the server has grown by beside what it keeps for joiners, that, and all of its memory."""
    time.sleep(GOP_SECONDS / _MOMENTS)
    # Asked before and after: it rises and falls quickly, and a busy machine lets time pass in between.
    before = peer.kept_bytes()
    # Not PSS: what a server shares with whatever else runs (its libraries) changes with that.
    full = proc.memory(peer.pids())
    kept = (before + peer.kept_bytes()) / 2 / 1024
    return full.anonymous - idle.anonymous - kept, kept, full


def plot(report: Report, path: Path) -> None:
    made, (cpu, memory) = figure(2, height=1.5 + 0.5 * len(report.rows))
    labels = [row["case"] for row in report.rows]
    nginx = find(report.rows, server="nginx")
    draw_bars(
        cpu, f"server CPU, us per message (dashed: {_CPU_BAR} x nginx-rtmp)", labels,
        [row["us/message"] for row in report.rows], limit=_CPU_BAR * nginx["us/message"] if nginx else None)
    draw_bars(
        memory, "private memory per publisher, KiB (dashed: bar)", labels,
        [row["KiB/publisher"] for row in report.rows], limit=_MEMORY_BAR)
    finish(made, report, path)
