"""The cluster of the files in this directory, on one machine: ``make cluster``.

::

    publishers --> haproxy --> master1, master2 --each to both--> slave1, slave2
                                     ^                                 ^
                                     '------- edge1, edge2 ------------'  <-- nginx <-- viewers

    all nodes <--who has what--> Redis

The files are taken as they are, but for the addresses (``10.0.0.x`` becomes this machine) and the paths of nginx.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from config.ports import free_ports

HERE: Final = Path(__file__).parent
PYRTMP: Final = Path(sys.executable).with_name("pyrtmp")

NODES: Final = {
    "master1": ("origin-master.toml", "10.0.0.11"),
    "master2": ("origin-master.toml", "10.0.0.12"),
    "slave1": ("slave.toml", "10.0.0.21"),
    "slave2": ("slave.toml", "10.0.0.22"),
    "edge1": ("edge.toml", "10.0.0.31"),
    "edge2": ("edge.toml", "10.0.0.32"),
}
START_SECONDS: Final = 40.0
STOP_SECONDS: Final = 15.0
AGAIN_SECONDS: Final = 3.0
"""A node that ended is started again after so long, as systemd does."""


class ClusterError(Exception):
    """Something does not run; ``str()`` is for people."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where one of the nodes listens, on 127.0.0.1."""

    name: str
    file: Path
    rtmp: int
    http: int
    api: int


class Cluster:
    """All the processes, each of them ended by its own id.  ``settings`` (section.key=value) are for every node."""

    def __init__(self, directory: Path, *, publish: int, watch: int, settings: Sequence[str] = ()) -> None:
        self.directory = directory
        """Files and logs."""
        self.publish = publish
        """haproxy's port."""
        self.watch = watch
        """nginx's port."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._settings = tuple(settings)
        ports = iter(free_ports(3 * len(NODES) + 1))
        self.nodes = {
            name: Node(name, directory / f"{name}.toml", next(ports), next(ports), next(ports)) for name in NODES
        }
        self.redis = next(ports)
        """Redis's port."""
        self._addresses = {"10.0.0.2:1935": f"127.0.0.1:{publish}", "10.0.0.3:80": f"127.0.0.1:{watch}"}
        self._addresses["10.0.0.5:6379"] = f"127.0.0.1:{self.redis}"
        for name, (_, address) in NODES.items():
            self._addresses[f"{address}:1935"] = f"127.0.0.1:{self.nodes[name].rtmp}"
            self._addresses[f"{address}:8080"] = f"127.0.0.1:{self.nodes[name].http}"
        # Edges fetch from the masters as 127.0.0.1, so haproxy connects as somebody else.
        self._addresses |= {"10.0.0.2": "127.0.0.2", "10.0.0.3": "127.0.0.1"}

    def write(self) -> None:
        """Write the files for this machine."""
        for name, (file, _) in NODES.items():
            (self.directory / f"{name}.toml").write_text(self._here((HERE / file).read_text()))
        haproxy = self._here((HERE / "haproxy.cfg").read_text())
        (self.directory / "haproxy.cfg").write_text(haproxy.replace("maxconn 20000", "maxconn 200"))
        nginx = self._here((HERE / "nginx.conf").read_text())
        temporary = "".join(
            f"    {each}_temp_path {self.directory}/{each};\n"
            for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        for before, after in (
            ("user www-data;\n", "user root;\n" if os.geteuid() == 0 else ""),
            ("worker_processes auto;\n", ""),
            ("worker_rlimit_nofile 65536;\n", ""),
            ("worker_connections 32768;", "worker_connections 500;"),
            ("/run/", f"{self.directory}/"),
            ("/var/log/nginx/", f"{self.directory}/nginx-"),
            ("/var/cache/nginx/hls", f"{self.directory}/cache"),
            ("http {\n", f"http {{\n{temporary}"),
        ):
            assert before in nginx, before
            nginx = nginx.replace(before, after)
        (self.directory / "nginx.conf").write_text(nginx)

    def _here(self, text: str) -> str:
        return re.sub(r"10\.0\.0\.\d+(:\d+)?", lambda match: self._addresses[match[0]], text)

    def command(self, name: str) -> list[str]:
        """What runs under that name."""
        directory = self.directory
        if name == "haproxy":
            return [_program("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")]
        if name == "nginx":
            config, errors = str(directory / "nginx.conf"), str(directory / "nginx-error.log")
            return [_program("nginx"), "-p", str(directory), "-e", errors, "-c", config, "-g", "daemon off;"]
        if name == "redis":
            options = {"bind": "127.0.0.1", "port": str(self.redis), "save": "", "dir": str(directory)}
            return [_program("redis-server"), *(word for key, value in options.items() for word in (f"--{key}", value))]
        node = self.nodes[name]
        settings = [f"{each}.listen=127.0.0.1:{getattr(node, each)}" for each in ("rtmp", "http", "api")]
        settings += [f"node.id={name}", f"node.advertise=127.0.0.1:{node.rtmp}", *self._settings]
        return [str(PYRTMP), "serve", "--config", str(node.file), *(f"--set={each}" for each in settings)]

    def start(self) -> None:
        """Start everything and wait until it answers.  Raises ``ClusterError``."""
        for port in (self.publish, self.watch):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise ClusterError(f"port {port}: {error.strerror}; --publish and --watch take others") from None
        self.write()
        # haproxy goes on as it finds the masters.
        for names in (("redis",), NODES, ("haproxy", "nginx")):
            for name in names:
                self.run(name)
            for name in names:
                self.wait(name)

    def run(self, name: str) -> None:
        """Start one of the processes, again if it ended."""
        with (self.directory / f"{name}.log").open("ab") as log:
            # A session of its own: Ctrl+C is for this process, which ends the others in order.
            self.processes[name] = subprocess.Popen(
                self.command(name), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, name: str) -> None:
        """Wait until it answers.  Raises ``ClusterError``."""
        process, deadline = self.processes[name], time.monotonic() + START_SECONDS
        while not self._answers(name):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"{name} did not start:\n{self.log(name)}")
            time.sleep(0.05)

    def log(self, name: str) -> str:
        """The last lines it wrote."""
        return "\n".join((self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-15:])

    def _answers(self, name: str) -> bool:
        try:
            if name in self.nodes:
                with urlopen(f"http://127.0.0.1:{self.nodes[name].api}/readyz", timeout=2) as response:
                    return bool(response.status == 200)
            port = {"haproxy": self.publish, "nginx": self.watch, "redis": self.redis}[name]
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return True
        except (OSError, URLError):
            return False

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """End one of the processes; its exit code."""
        process = self.processes[name]
        if process.poll() is None:
            process.send_signal(how)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # workers follow their supervisor
            return process.wait()

    def close(self) -> None:
        """End everything: viewers' side first, so that nobody looks for what is leaving."""
        for name in ("haproxy", "nginx", "edge1", "edge2", *NODES, "redis"):
            if name in self.processes and self.processes[name].poll() is None:
                self.processes[name].terminate()
        for name in list(self.processes):
            self.end(name)


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        raise ClusterError(f"{name} is not installed")
    return found


def _tell(cluster: Cluster) -> None:
    watch = f"127.0.0.1:{cluster.watch}"
    server = "rtmp://127.0.0.1" + (f":{cluster.publish}" if cluster.publish != 1935 else "")
    print(f"""
The cluster is running.  Ctrl+C ends it.  Logs are in {cluster.directory}

  Publish with OBS     Server {server}/live   Stream Key mystream
  Watch                http://{watch}/#live/demo   (the moving test picture)
                       http://{watch}/live/demo.flv   http://{watch}/live/demo.m3u8
""")
    for node in cluster.nodes.values():
        print(f"  {node.name:8} pid {cluster.processes[node.name].pid:<7} rtmp://127.0.0.1:{node.rtmp}   "
              f"http://127.0.0.1:{node.api}/api/v1/streams")
    print(f"  {'redis':8} pid {cluster.processes['redis'].pid}")
    print("\nkill a master that has the stream, or a slave, or redis, and keep watching.\n", flush=True)


async def run(cluster: Cluster, over: asyncio.Event) -> None:
    """Publish the test picture, and start again what ended, until it is ``over``."""
    from cluster.config import Address
    from cluster.demo import Demo

    demo = Demo()
    await demo.start(Address("127.0.0.1", cluster.publish))
    ended: dict[str, float] = {}
    try:
        while not over.is_set():
            for name, process in list(cluster.processes.items()):
                if process.poll() is not None and name not in ended:
                    ended[name] = time.monotonic()
                    print(f"{name} ended with {process.returncode}", flush=True)
                if name in ended and time.monotonic() - ended[name] > AGAIN_SECONDS:
                    del ended[name]
                    cluster.run(name)
                    print(f"{name} is started again, pid {cluster.processes[name].pid}", flush=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.2)
    finally:
        await demo.close()


async def main() -> int:
    parser = argparse.ArgumentParser(description="Run the cluster of the files in config/ on this machine.")
    parser.add_argument("--publish", type=int, default=1935, metavar="PORT", help="for publishers (1935)")
    parser.add_argument("--watch", type=int, default=8080, metavar="PORT", help="for viewers (8080)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for every node")
    arguments = parser.parse_args()
    over = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, over.set)
    with tempfile.TemporaryDirectory(prefix="pyrtmp-cluster-") as directory:
        cluster = Cluster(
            Path(directory), publish=arguments.publish, watch=arguments.watch,
            # Six nodes on one machine: one process each is enough.
            settings=("node.workers=0", *arguments.set),
        )
        try:
            await asyncio.to_thread(cluster.start)
            _tell(cluster)
            await run(cluster, over)
        except ClusterError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            cluster.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
