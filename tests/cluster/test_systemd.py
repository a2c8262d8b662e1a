from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cluster.systemd import Systemd
from tests.cluster.workers.real_node import real_node


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """systemd's end, and its address as it stands in the environment."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name if request.param == "path" else "\0" + name)
        sock.setblocking(False)
        yield sock, name if request.param == "path" else "@" + name


def heard(sock: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(sock.recv(4096).decode())
        except BlockingIOError:
            return found


async def test_what_is_told(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    systemd = Systemd.take(environment)
    assert environment == {"HOME": "/"}
    systemd.ready()
    said: list[str] = []
    async with asyncio.timeout(5):
        while said.count("WATCHDOG=1") < 4:
            said.append((await asyncio.get_running_loop().sock_recv(sock, 4096)).decode())
    assert said[0] == "READY=1" and set(said[1:]) == {"WATCHDOG=1"}
    systemd.stopping()
    systemd.close()
    assert heard(sock)[-1] == "STOPPING=1"
    await asyncio.sleep(0.1)
    assert heard(sock) == []


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"}])
async def test_a_watchdog_that_is_not_ours(manager: tuple[socket.socket, str], watchdog: dict[str, str]) -> None:
    sock, address = manager
    systemd = Systemd.take({"NOTIFY_SOCKET": address, **watchdog})
    systemd.ready()
    await asyncio.sleep(0.1)
    systemd.close()
    assert heard(sock) == ["READY=1"]


async def test_nobody_listens(tmp_path: Path) -> None:
    with capture_logs() as events:
        Systemd("").ready()
        assert not events
        Systemd(str(tmp_path / "gone")).ready()
    assert [each["event"] for each in events] == ["systemd_not_told"]


@pytest.mark.parametrize("workers", [0, 2])
async def test_a_real_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        async with real_node(tmp_path / "node", workers=workers, ends=True) as node:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(20):
                said = [(await loop.sock_recv(sock, 4096)).decode() for _ in range(4)]
                assert said == ["READY=1", *["WATCHDOG=1"] * 3]
                node.process.terminate()
                while (await loop.sock_recv(sock, 4096)) != b"STOPPING=1":
                    pass
                assert await asyncio.to_thread(node.process.wait) == 0
