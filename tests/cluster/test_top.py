"""``pyrtmp top``: frames of a real node, and a real terminal around it."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from cluster.node import Node
from cluster.remote import Remote, RemoteError
from cluster.top import Top, show
from pyrtmp import Client
from tests.pyrtmp.aio.net import eventually

SUMMARY: dict[str, Any] = {
    "server": "n1",
    "data": {
        "ready": True,
        "self": {"uptime": 3700, "cpu_seconds": 12.3, "mem_kbyte": 20480},
        "streams": {"live": 2, "waiting_viewers": 1},
        "clients": {"viewers": {"rtmp": 4, "flv": 2, "hls": 0}},
        "kbps": {"recv_30s": 4000, "send_30s": 12000},
        "cluster": {"stress": 0.25, "pulls": 2},
    },
}


def stream(id: str, viewers: int, kbps: float) -> dict[str, Any]:
    return {
        "id": id, "state": "live", "uptime": 61.0, "fps": 25.0, "recv_kbps": kbps, "gop_ms": 2000, "audio": None,
        "video": {"codec": "H264", "width": 0}, "publish": {"active": True}, "viewers": {"total": viewers},
        "waiting": 0, "health": "good",
    }  # fmt: skip


class Answers:
    """A ``Remote`` that has answers."""

    def __init__(self, *streams: dict[str, Any]) -> None:
        self.streams = list(streams)
        self.cpu = 12.3

    def ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        if "streams" in path:
            return {"streams": list(self.streams)}
        data = SUMMARY["data"]
        return {**SUMMARY, "data": {**data, "self": {**data["self"], "cpu_seconds": self.cpu}}}


def test_streams_by_viewers_and_the_processor_between_frames() -> None:
    now = [100.0]
    answers = Answers(
        stream("live/b", 1, 900), stream("live/a", 1, 900), stream("live/c", 1, 2000), stream("z/z", 7, 1)
    )
    top = Top(answers, lambda: now[0])  # type: ignore[arg-type]
    lines = top.frame()
    assert lines[:3] == [
        "n1 ready   up 1 h 01 min   CPU 12 s   memory 20 MiB   load 25%",
        "2 live   in 4,000 kbit/s   out 12,000 kbit/s   viewers 4 rtmp, 2 flv, 0 hls, 1 waiting   pulls 2",
        "",
    ]
    assert [line.split()[0] for line in lines[3:]] == ["STREAM", "z/z", "live/c", "live/a", "live/b"]
    now[0], answers.cpu = 102.0, 13.8
    assert "CPU 75%" in top.frame()[0]
    answers.streams = []
    assert top.frame()[-1] == "No streams."


def test_no_node_is_told_at_once() -> None:
    with pytest.raises(RemoteError):
        show(Remote("http://127.0.0.1:1"), io.StringIO(), io.StringIO())


async def test_once_where_there_is_no_terminal(node: Node, live: str) -> None:
    await eventually(lambda: node.server.hub.live())
    out = io.StringIO()
    await asyncio.to_thread(show, Remote(f"http://{node.api_address}"), out, io.StringIO())
    assert "live/clip" in out.getvalue() and "\x1b" not in out.getvalue()


class Terminal:
    """``pyrtmp top`` in a terminal of its own."""

    def __init__(self, api: str, columns: int, lines: int) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "top", "--api", api],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        self.shown += os.read(self._master, 65536).decode()

    @property
    def frames(self) -> list[list[str]]:
        """Those that are whole, as lines of text."""
        return [re.sub(r"\x1b\[[?0-9]*[a-zA-Z]", "", each).split("\r\n") for each in self.shown.split("\x1b[H")[1:-1]]

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    async def ended(self) -> int:
        await eventually(lambda: self.process.poll() is not None, 20.0)
        return self.process.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)


@pytest.mark.timeout(90)
async def test_a_terminal_of_any_size_is_given_back(node: Node) -> None:
    clients = [await Client.connect(f"rtmp://{node.rtmp_address}/live/{'x' * 60}-{n}") for n in range(12)]
    for client in clients:
        await client.publish()
    terminal = Terminal(f"http://{node.api_address}", 40, 8)
    try:
        await eventually(lambda: terminal.frames, 30.0)
        frame = terminal.frames[0]
        assert len(frame) == 8 and all(len(line) < 40 for line in frame)
        assert "ready" in frame[0] and frame[3].startswith("STREAM")
        terminal.resize(200, 30)
        await eventually(lambda: len(terminal.frames[-1]) == 16, 20.0)
        assert any(len(line) > 80 for line in terminal.frames[-1])
        terminal.type(b"xq")
        assert await terminal.ended() == 0
        assert terminal.shown.startswith("\x1b[?1049h\x1b[?25l") and terminal.shown.endswith("\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(terminal.slave) == terminal.before
    finally:
        terminal.close()
        for client in clients:
            await client.close()


@pytest.mark.timeout(90)
async def test_a_node_that_goes_away_is_waited_for_and_ctrl_c_leaves(node: Node) -> None:
    terminal = Terminal(f"http://{node.api_address}", 100, 20)
    try:
        await eventually(lambda: terminal.frames, 30.0)
        await node.close()
        await eventually(lambda: "no node answers" in terminal.shown, 20.0)
        assert terminal.process.poll() is None
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 0
        assert termios.tcgetattr(terminal.slave) == terminal.before
    finally:
        terminal.close()
