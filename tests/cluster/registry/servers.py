"""Real Redis servers, Sentinels and Clusters on free loopback ports, each in a directory of the test."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from config.ports import free_ports

MISSING = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


def wait_until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    """For what another process does, before the test begins."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if true():
                return
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


class Server:
    """A redis-server process; it keeps nothing when it is started again."""

    def __init__(self, directory: Path, *options: str, port: int | None = None, sentinel: bool = False) -> None:
        self.port = port or free_ports(1)[0]
        self._directory = directory / f"redis-{self.port}"
        self._options = options
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        assert self._process is None
        self._directory.mkdir(exist_ok=True)
        config = self._directory / "redis.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self._directory}", *self._options]
        if not self._sentinel:
            lines += ['save ""', "appendonly no", "repl-diskless-sync-delay 0"]
        config.write_text("".join(f"{line}\n" for line in lines))
        with open(self._directory / "log", "ab") as log:
            command = ["redis-server", str(config), *(["--sentinel"] if self._sentinel else [])]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self._answers)
        return self

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, (self._directory / "log").read_text()
        if any(option.startswith("port 0") for option in self._options):
            return True
        with socket.create_connection(("127.0.0.1", self.port), 1) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(100).startswith((b"+PONG", b"-NOAUTH"))

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def ask(self, *command: Any, password: str | None = None) -> Any:
        """One command, in place of redis-cli."""
        with redis.Redis(port=self.port, password=password, socket_timeout=5, protocol=2) as client:
            return client.execute_command(*command)

    def info(self, name: str) -> Any:
        return self.ask("INFO").get(name)


class Group:
    """Several servers that end together."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.servers: list[Server] = []
        self.sentinels: list[Server] = []

    def add(self, *options: str) -> Server:
        server = Server(self._directory, *options)
        self.servers.append(server)
        return server.start()

    def add_sentinel(self, master: int, quorum: int, *options: str) -> Server:
        server = Server(
            self._directory,
            f"sentinel monitor cam 127.0.0.1 {master} {quorum}",
            "sentinel down-after-milliseconds cam 500",
            "sentinel failover-timeout cam 3000",
            *options,
            sentinel=True,
        )
        self.sentinels.append(server)
        return server.start()

    def end(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            server.kill()

    @property
    def sentinel_url(self) -> str:
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels) + "/cam"

    @property
    def cluster_url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{each.port}" for each in self.servers)


def master_and_replica(group: Group, sentinels: int) -> Server:
    """A master with a replica that is in step, watched; the master."""
    master = group.add()
    replica = group.add(f"replicaof 127.0.0.1 {master.port}")
    wait_until(lambda: replica.info("master_link_status") == "up")
    watchers = [group.add_sentinel(master.port, sentinels // 2 + 1) for _ in range(sentinels)]
    for watcher in watchers:
        wait_until(lambda w=watcher: int(_facts(w)["num-slaves"]) == 1)  # type: ignore[misc]
        wait_until(lambda w=watcher: int(_facts(w)["num-other-sentinels"]) == sentinels - 1)  # type: ignore[misc]
    return master


def _facts(sentinel: Server) -> dict[str, str]:
    with redis.Redis(port=sentinel.port, protocol=2, decode_responses=True) as client:
        facts: dict[str, str] = client.sentinel_master("cam")  # type: ignore[assignment]
        return facts


def cluster(group: Group, masters: int = 3, replicas: bool = True) -> None:
    """A Cluster; the first servers of the group are its masters, the others replicas of them in the same order."""
    count = masters * (2 if replicas else 1)
    buses = free_ports(count)
    servers = [group.add("cluster-enabled yes", "cluster-node-timeout 1000", f"cluster-port {bus}") for bus in buses]
    bounds = [16384 * number // masters for number in range(masters + 1)]
    for server, first, end in zip(servers, bounds, bounds[1:], strict=False):
        server.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
    for number, (server, bus) in enumerate(zip(servers, buses, strict=True)):
        server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        servers[0].ask("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
    for server in servers:
        wait_until(lambda s=server: len(s.ask("CLUSTER NODES")) == count)  # type: ignore[misc]
    for master, replica in zip(servers, servers[masters:], strict=False):
        replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID").decode())
    for replica in servers[masters:]:
        wait_until(lambda s=replica: s.info("master_link_status") == "up")  # type: ignore[misc]
    for server in servers:
        wait_until(lambda s=server: b"cluster_state:ok" in _raw(s, "CLUSTER INFO"))  # type: ignore[misc]


def _raw(server: Server, command: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), 1) as sock:
        sock.sendall(command.encode() + b"\r\n")
        return sock.recv(65536)
