"""``python -m benchmarks``: choose a benchmark, run it, print its table, keep its results."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from benchmarks import cluster, fanout, guarded, hls, ingest, latency, smoke, soak, workers
from benchmarks.peers import PeerError, Servers

RESULTS = Path(__file__).parent / "results"

BENCHMARKS = {
    "fanout": (fanout, "pyrtmp,nginx"),
    "ingest": (ingest, "pyrtmp,nginx"),
    "latency": (latency, "pyrtmp,nginx"),
    "hls": (hls, "pyrtmp,nginx"),
    "workers": (workers, "pyrtmp"),
    "cluster": (cluster, "pyrtmp"),
    "guarded": (guarded, "pyrtmp"),
    "soak": (soak, "pyrtmp"),
    "smoke": (smoke, smoke.default_peers()),
}
"""Name -> (module, servers measured unless told otherwise)."""


def main() -> int:
    options = _parser().parse_args()
    module, _ = BENCHMARKS[options.benchmark]
    servers = Servers(
        tuple(options.peers.split(",")), options.srs, options.pyrtmp,
        dict(setting.split("=", 1) for setting in options.settings))
    signal.signal(signal.SIGTERM, _stop)
    try:
        report = module.run(options, servers)
    except PeerError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(report.markdown())
    for path in report.save(options.out, module.plot):
        print(path)
    return 1 if options.strict and report.has_failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure this server beside its peers.")
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, (module, peers) in BENCHMARKS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        command.add_argument("--peers", default=peers, help=f"of pyrtmp, nginx, nms, srs (default {peers})")
        command.add_argument("--srs", type=Path, metavar="PATH", help="an SRS binary")
        command.add_argument("--pyrtmp", type=Path, metavar="PATH", help="the pyrtmp command of another checkout")
        command.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE",
                             help="a setting for this server, in every case")
        command.add_argument("--out", type=Path, default=RESULTS, help="directory for the results")
        command.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
        module.add_arguments(command)
    return parser


def _stop(signal_number: int, frame: FrameType | None) -> None:
    """Leave through the ``with`` blocks, so that no server is left behind."""
    raise SystemExit(128 + signal_number)


if __name__ == "__main__":
    sys.exit(main())
