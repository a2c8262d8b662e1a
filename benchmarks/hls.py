"""HLS: what answering a request for a playlist or a segment costs the server.

One publisher of real RTMP; wrk asks for the same address again and again over connections that stay.  Every server
packages the same clip into segments of two seconds and a playlist of twelve, and serves them with what it has:
nginx-rtmp and SRS write files, which nginx's own file server and SRS's HTTP server send.

SRS puts ``Connection: Close`` on every file, so that wrk, like any player, connects anew for each; but it does not
close, and a client that does not mind can go on ("kept").  Bars compare with whichever is cheaper for SRS.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import resource
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import ProxyHandler, build_opener

from benchmarks import proc
from benchmarks.clip import load_clip
from benchmarks.load import PublisherGroup
from benchmarks.peers import Peer, PeerError, Servers
from benchmarks.report import Bar, Report, Row, draw_bars, figure, find, finish, medians, ratio

_STREAM = "hls"
_START_SECONDS = 30.0
_MIN_SEGMENTS = 3
_LIMITS = {"playlist": 1.2, "segment": 0.6}
"""Times what SRS spends."""
_LOOPBACK = build_opener(ProxyHandler({}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mbps", type=float, default=2.0, help="a segment is a quarter of that in MB (default 2)")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=4, help="measured per case and repetition")
    parser.add_argument("--reps", type=int, default=5)


def run(options: argparse.Namespace, servers: Servers) -> Report:
    if shutil.which("wrk") is None:
        raise PeerError("wrk is not installed: apt-get install wrk")
    load_clip(options.mbps)
    load = Load(options.mbps, options.connections, options.seconds)
    runs: list[Row] = []
    for repetition in range(options.reps):
        for name in servers.names:
            print(f"{repetition + 1}/{options.reps} {name}", file=sys.stderr, flush=True)
            with servers.start(name, hls=True) as peer:
                runs += measure(peer, load)
    rows = medians(runs, worst=("errors",))
    for row in rows:
        row["x srs"] = _against_srs(row, rows)
    bars = [
        Bar(f"CPU per {kind} against SRS", ours["x srs"] if (ours := find(rows, server="pyrtmp", kind=kind)) else None,
            limit, "x")
        for kind, limit in _LIMITS.items()
    ]
    bars.append(Bar("requests refused or cut off", sum(row["errors"] for row in rows if row["server"] == "pyrtmp"), 0))
    return Report(
        "hls",
        {"mbps": options.mbps, "connections": options.connections, "seconds": options.seconds,
         "repetitions": options.reps},
        rows, bars, runs,
        notes=["us/request: the server's CPU, reading and packaging the one stream included, by all requests.",
               "KB: size of the body.  x srs compares us/MB for segments, which are not of quite the same size "
               "everywhere, and us/request for playlists.",
               "304: the playlist for somebody who has it (If-None-Match: *).",
               "other CPU %: used by neither the server nor the benchmark; the figures are good when it is small."],
    )


@dataclass(frozen=True, slots=True)
class Load:
    """What every server is asked."""

    mbps: float
    connections: int
    seconds: int


def measure(peer: Peer, load: Load) -> Iterator[Row]:
    """One repetition against a server that has just started."""
    with PublisherGroup([peer.rtmp_url(_STREAM)], load.mbps, _START_SECONDS + 5 * load.seconds) as group:
        group.connect()
        playlist = peer.hls_url(_STREAM)
        _segments(playlist)
        for client in (_wrk, _keep_asking) if peer.name == "srs" else (_wrk,):
            yield _cost(peer, "playlist", playlist, load, client)
            yield _cost(peer, "segment", _segments(playlist)[-1], load, client)
        if peer.name == "pyrtmp":
            yield _cost(peer, "304", playlist, load, partial(_wrk, header="If-None-Match: *"))


def _segments(playlist: str) -> list[str]:
    """The URLs of the playlist's segments, once there are some."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            lines = _get(playlist).decode().splitlines()
        except HTTPError:
            lines = []
        uris = [urljoin(playlist, line) for line in lines if line and not line.startswith("#")]
        if len(uris) >= _MIN_SEGMENTS:
            return uris
        time.sleep(0.2)
    raise PeerError(f"{playlist} has no {_MIN_SEGMENTS} segments")


def _cost(peer: Peer, kind: str, url: str, load: Load, client: Callable[[str, Load], tuple[int, int]]) -> Row:
    size = 0 if kind == "304" else len(_get(url))
    reaped = _reaped_seconds()
    meter = proc.CpuMeter(peer.pids)
    requests, errors = client(url, load)
    usage = meter.read()
    # wrk has ended, so that it is no longer in the benchmark's own tree.
    wrk = (_reaped_seconds() - reaped) / usage.seconds
    each = usage.server * usage.seconds / requests * 1e6 if requests else None
    return {
        "case": f"{peer.name} {kind}" + (", kept" if client is _keep_asking else ""),
        "server": peer.name,
        "kind": kind,
        "KB": size / 1000,
        "us/request": each,
        "us/MB": each / size * 1e6 if each and kind == "segment" else None,
        "requests/s": requests / usage.seconds,
        "CPU %": usage.server * 100,
        "errors": errors,
        "other CPU %": max(0.0, usage.other - wrk) * 100,
    }


def _wrk(url: str, load: Load, *, header: str = "") -> tuple[int, int]:
    """Requests answered, and those refused or cut off."""
    words = ["wrk", "-t1", f"-c{load.connections}", f"-d{load.seconds}s", *(("-H", header) if header else ()), url]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    refused = re.findall(r"(?:Non-2xx or 3xx responses:|connect|read|write|timeout) (\d+)", output)
    found = re.search(r"(\d+) requests in", output)
    return int(found[1]) if found else 0, sum(map(int, refused))


def _keep_asking(url: str, load: Load) -> tuple[int, int]:
    """The same with connections that are kept whatever the answers say.  Bodies are dropped in the kernel."""
    parts = urlsplit(url)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    clients = {}
    with contextlib.ExitStack() as stack:
        epoll = stack.enter_context(select.epoll())
        for _ in range(load.connections):
            sock = stack.enter_context(socket.create_connection((parts.hostname, parts.port)))
            clients[sock.fileno()] = sock
            epoll.register(sock, select.EPOLLIN)
            sock.sendall(request)
        left = dict.fromkeys(clients, 0)
        buffer = bytearray(1 << 20)
        answered = 0
        end = time.monotonic() + load.seconds
        while time.monotonic() < end:
            for fd, _ in epoll.poll(0.1):
                sock = clients[fd]
                if left[fd]:
                    left[fd] -= sock.recv_into(buffer, left[fd], socket.MSG_TRUNC)
                else:
                    size = sock.recv_into(buffer)
                    head, _, body = bytes(buffer[:size]).partition(b"\r\n\r\n")
                    length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
                    if length is None or not head.startswith(b"HTTP/1.1 200 "):
                        return answered, 1
                    left[fd] = int(length[1]) - len(body)
                # SRS leaves Nagle's algorithm on: without this every answer waits 40 ms for its head's acknowledgement.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                if not left[fd]:
                    answered += 1
                    sock.sendall(request)
    return answered, 0


def _against_srs(row: Row, rows: Sequence[Row]) -> float | None:
    column = _figure(row)
    srs = [each[column] for each in rows if each["server"] == "srs" and each["kind"] == row["kind"] and each[column]]
    return ratio(row[column], min(srs, default=None))


def _figure(row: Row) -> str:
    return "us/MB" if row["kind"] == "segment" else "us/request"


def _get(url: str) -> bytes:
    with _LOOPBACK.open(url, timeout=20) as answer:
        body: bytes = answer.read()
    return body


def _reaped_seconds() -> float:
    """CPU of child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def plot(report: Report, path: Path) -> None:
    made, panels = figure(2, height=1.5 + 0.35 * len(report.rows))
    for axes, (kind, limit) in zip(panels, _LIMITS.items(), strict=True):
        rows = [row for row in report.rows if row["kind"] == kind or (row["kind"], kind) == ("304", "playlist")]
        column = _figure(rows[-1])
        costs = [row[column] for row in rows if row["server"] == "srs" and row[column]]
        draw_bars(
            axes, f"{kind}: server CPU, {column} (dashed: {limit} x SRS)", [row["case"] for row in rows],
            [row[column] for row in rows], limit=limit * min(costs) if costs else None)
    finish(made, report, path)
