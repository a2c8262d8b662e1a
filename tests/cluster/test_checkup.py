"""Planted faults, each of which is found, alone; and a healthy node, of which nothing is said."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import checkup
from cluster.checkup import Finding, Machine, _kin, examine
from cluster.cli import main
from cluster.config import Config, load
from config.ports import free_ports
from tests.cluster.registry.servers import MISSING, Server
from tests.cluster.workers.real_node import real_node

MEMORY = "MemTotal: 9 kB\nMemAvailable: {} kB\n"


def settings(*more: str) -> Config:
    ports = free_ports(3)
    here = [f"{name}.listen=127.0.0.1:{port}" for name, port in zip(("rtmp", "http", "api"), ports, strict=True)]
    return load(None, [*here, "node.workers=0", *more], {})


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Machine]:
    """One that is well, but for what is said."""

    def make(free: int = 4_000_000, backlog: int = 4096, **more: Any) -> Machine:
        root = tmp_path / "root"
        (root / "proc/sys/net/core").mkdir(parents=True)
        (root / "proc/meminfo").write_text(MEMORY.format(free))
        (root / "proc/sys/net/core/somaxconn").write_text(f"{backlog}\n")
        return Machine(**{"root": root, "descriptors": 1 << 20, "cores": 2, "clock": lambda: 0, **more})

    return make


async def found(config: Config, machine: Machine, *, running: bool = False) -> list[tuple[str, str]]:
    findings = [finding async for finding in examine(config, machine, running=running)]
    assert all(finding.what and finding.remedy for finding in findings)
    return [(finding.severity, finding.about) for finding in findings]


async def test_a_healthy_node(machine: Callable[..., Machine]) -> None:
    assert await found(settings(), machine()) == []


@pytest.mark.parametrize(
    ("fault", "options", "finding"),
    [
        ({"free": 300_000}, (), ("problem", "memory")),
        ({"backlog": 128}, (), ("warning", "net.core.somaxconn")),
        ({"descriptors": 1024}, (), ("problem", "limits.max_connections")),
        ({"cores": 1}, ("node.workers=2",), ("warning", "node.workers")),
        ({"clock": lambda: 5}, (), ("warning", "clock")),
        ({}, ("rtmp.listen=203.0.113.9:1935", "access.default=deny"), ("problem", "rtmp.listen")),
        ({}, ("rtmp.listen=0.0.0.0:0",), ("warning", "access.rules")),
    ],
)  # fmt: skip
async def test_this_machine(
    machine: Callable[..., Machine], fault: dict[str, Any], options: tuple[str, ...], finding: tuple[str, str]
) -> None:
    assert await found(settings(*options), machine(**fault)) == [finding]


async def test_the_disk_for_recordings(machine: Callable[..., Machine], tmp_path: Path) -> None:
    def record(directory: Path) -> Config:
        return settings("record.streams=live/*", f"record.directory={directory}", "record.min_free_bytes=1000")

    (tmp_path / "file").touch()
    here = machine(free_bytes=lambda path: 1000)
    full = replace(here, free_bytes=lambda path: 999)
    for directory in (tmp_path, tmp_path / "to" / "be" / "made"):
        assert await found(record(directory), here) == []
        assert await found(record(directory), full) == [("problem", "record.min_free_bytes")]
    for directory in (tmp_path / "file", tmp_path / "file" / "in" / "it"):
        assert await found(record(directory), here) == [("problem", "record.directory")]
    assert await found(settings(f"record.directory={tmp_path / 'file'}"), full) == []
    assert not (tmp_path / "to").exists()
    assert Machine().free_bytes(tmp_path) > 0


async def test_a_port_that_is_taken(machine: Callable[..., Machine]) -> None:
    config = settings()
    with socket.create_server(("127.0.0.1", config.http.listen.port)):
        here = machine()
        assert await found(config, here) == [("problem", "http.listen")]
        assert await found(config, here, running=True) == []


async def test_other_machines(
    machine: Callable[..., Machine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (gone,) = free_ports(1)
    async with real_node(tmp_path / "node", workers=0) as node:
        rtmp, http = node.ports["rtmp"], node.ports["http"]
        origins = f"edge.origins=127.0.0.1:{rtmp},http://127.0.0.1:{http}"
        here = machine()
        assert await found(settings("node.role=edge", origins), here) == []
        for wrong in (f"127.0.0.1:{gone}", f"127.0.0.1:{http}", f"http://127.0.0.1:{gone}"):
            assert await found(settings("node.role=edge", f"{origins},{wrong}"), here) == [("problem", "edge.origins")]
        assert await found(settings(f"forward.to=127.0.0.1:{gone}"), here) == [("problem", "forward.to")]
        # Where it runs it is asked, and its ports are its own.
        options = [f"--set={name}.listen=127.0.0.1:{port}" for name, port in node.ports.items()]
        assert await asyncio.to_thread(main, ["doctor", *options, "--set=node.workers=0", "--set=node.id=x"]) == 1
        capsys.readouterr()
        name = (await node.get("/api/v1/summaries"))["server"]
        code = await asyncio.to_thread(main, ["doctor", *options, "--set=node.workers=0", f"--set=node.id={name}"])
        said = capsys.readouterr().out
        assert ".listen" not in said and code == 0, said


async def test_links_that_strangers_reach(machine: Callable[..., Machine]) -> None:
    def kin(*more: str) -> list[str]:
        return [each.about for each in _kin(settings("node.role=edge", *more), here)]

    here = machine()
    assert kin("edge.origins=10.0.0.1:1935,origin.internal:1935") == []
    for public in ("8.8.8.8:1935", "rtmps://origin.example.org:1936", "10.0.0.1:1935,https://origin.example.org"):
        assert kin(f"edge.origins={public}") == ["node.secret"]
        assert kin(f"edge.origins={public}", f"node.secret={'s' * 32}") == []
    registry = "registry.url=redis://10.0.0.9"
    assert kin(registry, "node.advertise=8.8.8.8:1935") == ["node.secret"]
    assert kin(registry, "node.advertise=10.0.0.1:1935") == []


@contextlib.asynccontextmanager
async def slow_line(port: int, bytes_per_second: int) -> AsyncIterator[int]:
    """A port behind which another one is, a slow line away."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        try:
            back.write(await reader.readuntil(b"\r\n\r\n"))
            while data := await there.read(bytes_per_second // 20):
                writer.write(data)
                await asyncio.sleep(0.05)
        finally:
            back.close()
            writer.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_the_line_to_an_origin(machine: Callable[..., Machine], tmp_path: Path) -> None:
    async with real_node(tmp_path / "node", workers=0) as node, slow_line(node.ports["http"], 200_000) as slow:
        here = machine()
        for port, said in ((node.ports["http"], []), (slow, [("warning", "edge.origins")])):
            assert await found(settings("node.role=edge", f"edge.origins=http://127.0.0.1:{port}"), here) == said


@MISSING
async def test_the_line_to_origins_that_the_registry_knows(machine: Callable[..., Machine], tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    try:
        url = f"registry.url=redis://127.0.0.1:{server.port}"
        async with real_node(tmp_path / "node", url, "node.id=origin", workers=0) as node:
            edge, here = settings("node.role=edge", "node.id=edge", url), machine()
            assert await found(edge, here) == []
            assert await checkup._origins_in_registry(edge) == [f"127.0.0.1:{node.ports['http']}"]
    finally:
        server.kill()


@MISSING
async def test_redis(machine: Callable[..., Machine], tmp_path: Path) -> None:
    server = Server(tmp_path, "requirepass right").start()
    try:
        here, place = machine(), f"127.0.0.1:{server.port}"
        assert await found(settings(f"registry.url=redis://:right@{place}"), here) == []
        assert await found(settings(f"registry.url=redis://:wrong@{place}"), here) == [("problem", "registry.url")]
    finally:
        server.kill()
    assert await found(settings(f"registry.url=redis://:right@{place}"), here) == [("problem", "registry.url")]


def make_certificate(certificate: Path, key: Path) -> None:
    """For 30 days."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=x",
         "-addext", "subjectAltName=DNS:x", "-out", certificate, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip


async def test_certificates(machine: Callable[..., Machine], tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    make_certificate(certificate, key)
    key.chmod(0o600)
    (port,) = free_ports(1)
    config = settings(f"rtmps.listen=127.0.0.1:{port}", f"tls.certificate={certificate}", f"tls.key={key}")
    now = certificate.stat().st_mtime
    here = machine()

    async def at(days: float) -> list[tuple[str, str]]:
        moved = Machine(here.root, here.descriptors, here.cores, here.clock, lambda: now + days * 86400)
        return await found(config, moved)

    assert await at(0) == []
    assert await at(20) == [("warning", "tls.certificate")]
    assert await at(40) == [("problem", "tls.certificate")]
    key.chmod(0o644)
    assert await at(0) == [("warning", "tls.key")]
    key.write_text("nothing")
    assert await at(0) == [("problem", "tls.key")]


def test_as_people_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(Finding("problem", "x.y", "it is so", "Do that.")) == "problem  x.y: it is so\n         Do that."
    assert main(["doctor", "--set=rtmp.listen=203.0.113.9:1935"]) == 1
    told = capsys.readouterr().out
    assert "203.0.113.9 is no address of this machine" in told and "Problems: 1" in told
    assert main(["doctor", "--set=rtmp.listen=nowhere"]) == 2
