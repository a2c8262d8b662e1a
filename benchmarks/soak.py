"""Soak: memory and descriptors over a long time of joins and leaves, and what viewers that never read cost.

One stream is published throughout and watched throughout by a parsing viewer of each protocol.  Every cycle a crowd
joins it and leaves, half of it by TCP reset, and a second stream with a new name comes and goes with viewers of its
own.  Memory is sampled when each cycle has come to rest, so that a slope is a leak and not a crowd.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import proc
from benchmarks.clip import Clip, load_clip
from benchmarks.load import Crowd
from benchmarks.peers import Peer, Servers
from benchmarks.probe import StampedPublisher, Viewer, percentile
from benchmarks.report import Bar, Report, Row, figure, find, finish

RISE_KIB = 2048.0
"""RSS is flat when its slope over the measured part makes less than this: allocator noise of any long-lived process."""

RISE_DESCRIPTORS = 2.0

_STREAM = "soak"
_REST_SECONDS = 2.0
_SAMPLE_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--cycle", type=float, default=10.0, help="seconds from one wave of joins to the next")
    parser.add_argument("--joins", type=int, default=40, help="viewers that come and go per cycle")
    parser.add_argument("--mbps", type=float, default=2.0)
    parser.add_argument("--stalled", type=int, default=20, help="viewers that never read, after the soak; 0 for none")
    parser.add_argument("--stalled-seconds", type=float, default=30.0)


def run(options: argparse.Namespace, servers: Servers) -> Report:
    clip = load_clip(options.mbps)
    rows, series = [], {}
    for name in servers.names:
        row: Row = {"case": name, "server": name}
        with servers.start(name) as peer:
            samples = churn(peer, clip, options.minutes * 60, options.cycle, options.joins, row)
        series[name] = samples
        row |= slopes(samples)
        if options.stalled:
            with servers.start(name) as peer:
                row |= stall(peer, clip, options.stalled, options.stalled_seconds)
        rows.append(row)
    return Report(
        "soak",
        {"minutes": options.minutes, "cycle": options.cycle, "joins": options.joins, "mbps": options.mbps,
         "stalled": options.stalled},
        rows, _bars(rows, options.stalled), [], {"samples": series},
        ["RSS and fd rise: slope of a line through the resting samples of the last two thirds, times their duration.",
         "stalled MiB: the most that viewers who never read added to private memory, memfd pages and unsent bytes.",
         "flaws: frames lost, doubled or out of order at the viewers that read throughout."],
    )


def churn(peer: Peer, clip: Clip, seconds: float, cycle: float, joins: int, row: Row) -> list[Row]:
    """Publish, join and leave for so long; return the samples, and write what the steady viewers saw into ``row``."""
    samples: list[Row] = []
    steady = [Viewer(url) for url in _urls(peer, _STREAM)]
    start = time.monotonic()

    def sample(resting: bool) -> None:
        pids = peer.pids()
        memory = proc.memory(pids)
        samples.append({
            "seconds": time.monotonic() - start, "resting": resting, "rss": memory.rss, "pss": memory.pss,
            "memfd": memory.memfd, "fds": proc.descriptors(pids)})  # fmt: skip

    with StampedPublisher(peer.rtmp_url(_STREAM), clip) as publisher, Crowd() as crowd:
        with _all(steady):
            cycles = joined = 0
            while time.monotonic() - start < seconds:
                until = time.monotonic() + cycle
                stream = f"{_STREAM}.{cycles}"
                urls = [*_urls(peer, _STREAM), *_urls(peer, stream)]
                with StampedPublisher(peer.rtmp_url(stream), clip):
                    for url in urls:
                        crowd.join(url, joins // len(urls))
                    sample(resting=False)
                    time.sleep(max(0.0, until - _REST_SECONDS - time.monotonic()))
                    sample(resting=False)
                    count = joins // len(urls) * len(urls)
                    crowd.leave(count // 2)
                    crowd.leave(count - count // 2, reset=True)
                joined += count
                cycles += 1
                time.sleep(max(0.0, until - time.monotonic()))
                sample(resting=True)
                publisher.check()
                print(f"{peer.name} {samples[-1]}", file=sys.stderr, flush=True)
    row["joins"] = joined
    row["p99 ms"] = percentile([wait for viewer in steady for wait in viewer.seen.latency_ms], 99)
    row["frames"] = sum(viewer.seen.frames for viewer in steady)
    row["flaws"] = sum(viewer.seen.flaws for viewer in steady)
    row["error"] = next((viewer.seen.error for viewer in steady if viewer.seen.error), None)
    return samples


def slopes(samples: list[Row]) -> Row:
    """How far RSS and descriptors rise over the last two thirds."""
    resting = [sample for sample in samples if sample["resting"]]
    measured = resting[len(resting) // 3 :]
    span = measured[-1]["seconds"] - measured[0]["seconds"]
    return {
        "RSS MiB": measured[-1]["rss"] / 1024,
        "RSS rise KiB": _slope(measured, "rss") * span,
        "fds": measured[-1]["fds"],
        "fd rise": _slope(measured, "fds") * span,
    }


def stall(peer: Peer, clip: Clip, viewers: int, seconds: float) -> Row:
    """What viewers that ask for the stream and never read it add, while one of each protocol reads on."""
    urls = _urls(peer, _STREAM)
    healthy = [Viewer(url) for url in urls]
    with StampedPublisher(peer.rtmp_url(_STREAM), clip) as publisher, Crowd() as crowd:
        with _all(healthy):
            time.sleep(15)  # until the log has its full length
            before, most = _held_kib(peer), 0.0
            for number, url in enumerate(urls):
                crowd.join(url, viewers * (number + 1) // len(urls) - viewers * number // len(urls), reading=False)
            for viewer in healthy:
                viewer.restart_latency()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(_SAMPLE_SECONDS)
                most = max(most, _held_kib(peer) - before)
            publisher.check()
    return {
        "stalled MiB": most / 1024,
        "healthy max ms": max((percentile(viewer.seen.latency_ms, 100) or float("inf")) for viewer in healthy),
        "healthy flaws": sum(viewer.seen.flaws for viewer in healthy),
    }


def _all(viewers: list[Viewer]) -> ExitStack:
    with ExitStack() as stack:
        for viewer in viewers:
            stack.enter_context(viewer)
        return stack.pop_all()


def _held_kib(peer: Peer) -> float:
    memory = proc.memory(peer.pids())
    return memory.pss - memory.shared + memory.memfd + proc.unsent_bytes(peer.ports) / 1024


def _urls(peer: Peer, stream: str) -> list[str]:
    return [url for url in (peer.rtmp_url(stream), peer.flv_url(stream)) if url]


def _slope(samples: list[Row], key: str) -> float:
    """Least squares, per second."""
    times = [sample["seconds"] for sample in samples]
    values = [sample[key] for sample in samples]
    mean_time, mean_value = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - mean_time) ** 2 for at in times)
    if not spread:
        return 0.0
    products = ((at - mean_time) * (value - mean_value) for at, value in zip(times, values, strict=True))
    return float(sum(products) / spread)


def _bars(rows: list[Row], stalled: int) -> list[Bar]:
    ours = find(rows, server="pyrtmp")
    if ours is None:
        return []
    bars = [
        Bar("rise of RSS, resting", ours["RSS rise KiB"], RISE_KIB, "KiB"),
        Bar("rise of file descriptors, resting", ours["fd rise"], RISE_DESCRIPTORS),
        Bar("frames lost, doubled or out of order at steady viewers", ours["flaws"], 0),
    ]
    if stalled:
        bars += [
            Bar(f"{stalled} viewers that never read, together", ours["stalled MiB"], 32, "MiB"),
            Bar("frames lost, doubled or out of order beside them", ours["healthy flaws"], 0),
        ]
    return bars


def plot(report: Report, path: Path) -> None:
    made, (memory, files) = figure(2)
    for name, samples in report.series["samples"].items():
        colour = None
        for resting, style in ((True, "-"), (False, ":")):
            chosen = [sample for sample in samples if sample["resting"] is resting]
            minutes = [sample["seconds"] / 60 for sample in chosen]
            label = f"{name}, {'at rest' if resting else 'with the crowd'}"
            (line,) = memory.plot(
                minutes, [sample["rss"] / 1024 for sample in chosen], style, color=colour, label=label)
            colour = line.get_color()
            files.plot(minutes, [sample["fds"] for sample in chosen], style, color=colour, label=label)
    for axes, title in ((memory, "RSS, MiB"), (files, "open file descriptors")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("minutes")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    finish(made, report, path)
