"""Guarded: what it costs to be open to the world.

Three questions, all beside a server that lets everybody in, in interleaved runs:

- everything: the same crowd, on a server with access rules, signed URLs, a back end that is asked and told, limits, TLS
  ports, logs as JSON and Prometheus looking every ten seconds.  Being let in costs once; watching should cost the same.
- TLS: viewers by HTTPS and RTMPS; by HTTPS also with nginx in front of this server, as a reverse proxy that ends TLS,
  and from SRS, if its binary is given.
- strangers: who comes without credentials, or with wrong ones, is refused; what that takes of the server's CPU.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from benchmarks import fanout, proc
from benchmarks.clip import load_clip
from benchmarks.fanout import PINNED, Case, Times
from benchmarks.peers import Peer, PeerError, PyRtmp, Servers, Srs, nginx_command
from benchmarks.report import Bar, Report, Row, draw_bars, figure, find, finish, medians, ratio
from benchmarks.tls import Certificate, new_certificate
from benchmarks.wire import Closed, RtmpClient
from cluster.access.keys import hash_key, new_key
from cluster.access.signed import signed_query

_MOST = 1.05
"""Fan-out with everything switched on, against all of it off."""

_STRANGER_US = 1000.0

_SCRAPE_SECONDS = 10.0
"""As config/prometheus.yml has it."""

_SECRET = _KEY = new_key()
_WEB = build_opener(ProxyHandler({}), HTTPSHandler(context=ssl._create_unverified_context()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=500)
    parser.add_argument("--mbps", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured per case and repetition")
    parser.add_argument("--settle", type=float, default=3.0, help="with one viewer before the crowd comes")
    parser.add_argument("--warm", type=float, default=4.0, help="with the crowd before measuring")
    parser.add_argument("--strangers", type=int, default=500, help="of each kind")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--only", default="", metavar="WORD", help="only crowds with this word in their name")


def run(options: argparse.Namespace, servers: Servers) -> Report:
    load_clip(options.mbps)
    times = Times(options.settle, options.warm, options.seconds)
    # SRS takes RSA keys only.  That makes its handshakes dearer, and nothing of what is measured.
    with _backend() as backend, new_certificate() as certificate, new_certificate(rsa=True) as for_srs:
        def case(mode: str, protocol: str, peer: str = "pyrtmp") -> Case:
            return Case(peer, mode, protocol, options.viewers, options.mbps)

        starts: list[tuple[Case, Callable[[], Peer]]] = []
        for protocol in ("rtmp", "flv"):
            starts += [
                (case("open", protocol), lambda: servers.start("pyrtmp", PINNED)),
                (case("everything", protocol), lambda: Everything(backend, certificate, servers.settings or {})),
            ]
        for protocol in ("rtmps", "https"):
            starts.append((case("TLS", protocol), lambda: Tls(certificate, servers.settings or {})))
        starts.append((case("behind nginx", "https"), lambda: BehindNginx(certificate, PINNED)))
        if (binary := servers.srs) is not None:
            starts += [(case("", "flv", "srs"), lambda: Srs(binary)),
                       (case("TLS", "https", "srs"), lambda: Srs(binary, certificate=for_srs))]
        starts = [(case, start) for case, start in starts if options.only in case.name]
        crowds: list[Row] = []
        refusals: list[Row] = []
        for repetition in range(options.reps):
            for each, start in starts:
                print(f"{repetition + 1}/{options.reps} {each.name}", file=sys.stderr, flush=True)
                with start() as peer, _scraped(peer if each.mode == "everything" else None):
                    crowds.append(fanout.measure(each, peer, times))
            print(f"{repetition + 1}/{options.reps} strangers", file=sys.stderr, flush=True)
            with Everything(backend, certificate, {"access.failures_per_minute": "0"}) as peer:
                refusals += _refusals(peer, options.strangers)
    rows = medians(crowds, worst=("starved", "dead", "flaws"))
    for row in rows:
        plain = {"rtmps": "rtmp", "https": "flv"}.get(row["protocol"], row["protocol"])
        off = find(rows, server=row["server"], mode="open" if row["server"] == "pyrtmp" else "", protocol=plain)
        row["x plain"] = ratio(row["us/viewer/s"], off["us/viewer/s"]) if off else None
    shown = ("case", "us/viewer/s", "x plain", "us/stranger", "CPU %", "p99 ms", "KiB/viewer", "starved", "dead",
             "flaws", "other CPU %", "error")
    strangers = medians(refusals)
    return Report(
        "guarded",
        {"viewers": options.viewers, "mbps": options.mbps, "seconds": options.seconds, "strangers": options.strangers,
         "repetitions": options.reps},
        [{column: row.get(column) for column in shown} for row in (*rows, *strangers)],
        _bars(rows, strangers), crowds + refusals,
        notes=[
            "All at 350 ms between rounds (SRS's default).  us/viewer/s: CPU of the server, and of what stands in "
            "front of it, by all viewers.",
            "us/stranger: CPU of the server by connections that were refused, one after the other, the handshake of "
            "TLS included.  The brake on wrong guesses (access.failures_per_minute) is off: with it they cost less.",
            "other CPU %: used by neither the server nor the benchmark; the figures are good when it is small.",
        ],
    )  # fmt: skip


class Tls(PyRtmp):
    """Nothing but TLS ports beside the plain ones."""

    def __init__(self, certificate: Certificate, settings: Mapping[str, str]) -> None:
        super().__init__({**PINNED, **settings})
        self._settings |= {
            "rtmps.listen": f"127.0.0.1:{self.rtmps_port}", "https.listen": f"127.0.0.1:{self.https_port}",
            "tls.certificate": str(certificate.file), "tls.key": str(certificate.key),
        }  # fmt: skip


class Everything(Tls):
    """All that keeps strangers out and operators informed."""

    def __init__(self, backend: str, certificate: Certificate, settings: Mapping[str, str]) -> None:
        super().__init__(certificate, {
            "access.rules": "publish live/* key,play live/*-flv signed callback,play live/* callback,api-read * key,"
                            "api-write * token",
            "access.default": "deny",
            "access.keys": f"publish live/* {hash_key(_KEY)},api-read * {hash_key(_KEY)}",
            "access.signed_secret": _SECRET,
            "access.token_secret": _SECRET,
            "callbacks.url": backend,
            "callbacks.secret": _SECRET,
            "log.format": "json",
            **settings,
        })  # fmt: skip

    def publish_url(self, stream: str) -> str:
        return f"{self.rtmp_url(stream)}?key={_KEY}"

    def url(self, protocol: str, stream: str) -> str:
        return f"{super().url(protocol, stream)}?{signed_query(_SECRET, 'play', f'live/{stream}', _in_an_hour())}"


class _Front(Peer):
    """nginx that ends TLS for a server of plain HTTP-FLV, one worker, unbuffered as live streams are."""

    name = "nginx"
    has_flv = False

    def __init__(self, certificate: Certificate, behind: int) -> None:
        super().__init__()
        self._certificate = certificate
        self._behind = behind

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.https_port,)

    def command(self, directory: Path) -> Sequence[str]:
        return nginx_command(directory, f"""
            http {{
                access_log off;
                server {{
                    listen 127.0.0.1:{self.https_port} ssl;
                    ssl_certificate {self._certificate.file};
                    ssl_certificate_key {self._certificate.key};
                    location / {{
                        proxy_pass http://127.0.0.1:{self._behind};
                        proxy_http_version 1.1;
                        proxy_buffering off;
                    }}
                }}
            }}
        """)


class BehindNginx(PyRtmp):
    """This server with nginx in front of it."""

    def __init__(self, certificate: Certificate, settings: Mapping[str, str]) -> None:
        super().__init__({**PINNED, **settings})
        self._front = _Front(certificate, self.http_port)

    def url(self, protocol: str, stream: str) -> str:
        return self._front.url(protocol, stream)

    def pids(self) -> list[int]:
        return super().pids() + self._front.pids()

    def __enter__(self) -> Peer:
        super().__enter__()
        try:
            self._front.__enter__()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._front.__exit__()
        super().__exit__()


class _Answers(BaseHTTPRequestHandler):
    """A back end that says yes, in SRS's words."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n0")

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def _backend() -> Iterator[str]:
    """Its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hooks"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _scraped(peer: Peer | None) -> Iterator[None]:
    """Prometheus looks at it."""
    if peer is None:
        yield
        return
    done, failures = threading.Event(), list[OSError]()

    def scrape() -> None:
        try:
            while not done.wait(_SCRAPE_SECONDS):
                with _WEB.open(_asking(f"http://127.0.0.1:{peer.api_port}/metrics", _KEY), timeout=5) as answer:
                    answer.read()
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise PeerError(f"/metrics: {failures[0]}")


def _refusals(peer: Peer, strangers: int) -> Iterator[Row]:
    """One repetition, kind by kind."""
    site = f"127.0.0.1:{peer.http_port}/live/guarded"
    other = signed_query(_SECRET, "play", "live/another", _in_an_hour())
    kinds: dict[str, Callable[[], bool]] = {
        "publish, RTMP, no key": lambda: _is_refused(peer.rtmp_url("guarded"), RtmpClient.publish),
        "publish, RTMP, wrong key": lambda: _is_refused(
            f"{peer.rtmp_url('guarded')}?key={new_key()}", RtmpClient.publish),
        "play, RTMP, signed for another stream": lambda: _is_refused(
            f"{peer.rtmp_url('guarded-flv')}?{other}", _play),
        "play, RTMPS, signed for another stream": lambda: _is_refused(
            f"rtmps://127.0.0.1:{peer.rtmps_port}/live/guarded-flv?{other}", _play),
        "FLV, signed for another stream": lambda: _is_forbidden(f"http://{site}-flv.flv?{other}"),
        "HLS, signed for another stream": lambda: _is_forbidden(f"http://{site}-flv.m3u8?{other}"),
        "HLS segment, signed for another stream": lambda: _is_forbidden(f"http://{site}-flv/1.ts?{other}"),
        "FLV, HTTPS, signed for another stream": lambda: _is_forbidden(
            f"https://127.0.0.1:{peer.https_port}/live/guarded-flv.flv?{other}"),
        "API, wrong key": lambda: _is_forbidden(
            _asking(f"http://127.0.0.1:{peer.api_port}/api/v1/streams", new_key())),
    }  # fmt: skip
    for kind, come in kinds.items():
        if not come():
            raise PeerError(f"{kind}: was let in")
        meter = proc.CpuMeter(peer.pids)
        for _ in range(strangers):
            come()
        usage = meter.read()
        yield {
            "case": kind, "us/stranger": usage.server * usage.seconds / strangers * 1e6,
            "other CPU %": usage.other * 100,
        }  # fmt: skip


def _is_refused(url: str, ask: Callable[[RtmpClient], object]) -> bool:
    try:
        client = RtmpClient(url)
        try:
            ask(client)
        finally:
            client.close()
    except (Closed, OSError):
        return True
    return False


def _play(client: RtmpClient) -> None:
    client.play()
    if b"NetStream.Play.Start" not in (answer := client.status()) and b"NetStream.Play.Reset" not in answer:
        raise Closed(f"play refused: {answer!r}")


def _asking(url: str, key: str) -> Request:
    return Request(url, headers={"Authorization": f"Bearer {key}"})


def _is_forbidden(url: str | Request) -> bool:
    try:
        with _WEB.open(url, timeout=5):
            return False
    except HTTPError as error:
        error.close()
        return error.code in (401, 403)


def _in_an_hour() -> int:
    return int(time.time()) + 3600


def _bars(rows: Sequence[Row], strangers: Sequence[Row]) -> list[Bar]:
    bars = []
    for protocol in ("rtmp", "flv"):
        row = find(rows, mode="everything", protocol=protocol)
        bars.append(Bar(f"fan-out with everything on, {protocol}", row["x plain"] if row else None, _MOST, "x"))
    most = max((row["us/stranger"] for row in strangers), default=None)
    bars.append(Bar("a refused stranger, the dearest kind", most, _STRANGER_US, "us"))
    ours = [row for row in rows if row["server"] == "pyrtmp"]
    unwell = sum(row["starved"] + row["dead"] + row["flaws"] for row in ours)
    bars.append(Bar("viewers starved, let go or in error, frames lost, doubled or out of order", unwell, 0))
    return bars


def plot(report: Report, path: Path) -> None:
    crowds = [row for row in report.rows if row["us/viewer/s"] is not None]
    strangers = [row for row in report.rows if row["us/stranger"] is not None]
    made, (cpu, refused) = figure(2, width=8.0, height=1.5 + 0.45 * max(len(crowds), len(strangers)))
    draw_bars(
        cpu, "CPU of the server and of what is in front of it, us per viewer and second",
        [row["case"] for row in crowds], [row["us/viewer/s"] for row in crowds])
    draw_bars(
        refused, "CPU per refused stranger, us (dashed: bar)", [row["case"] for row in strangers],
        [row["us/stranger"] for row in strangers], limit=_STRANGER_US)
    finish(made, report, path)
