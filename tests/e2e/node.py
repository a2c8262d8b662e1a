"""The server under test: `pyrtmp serve` in a process of its own, on free ports of 127.0.0.1.

    async with running_node(tmp_path, "stream.grace_seconds=1") as node:
        ... node.rtmp("live/demo"), node.flv("live/demo"), node.hls("live/demo"), node.page("live/demo") ...
        await node.until("live/demo", lambda stream: stream["waiting"] == 2)
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from clients_process import ClientError, running, tail

from config.ports import free_ports

COMMAND = Path(sys.executable).with_name("pyrtmp")


@dataclass(frozen=True, slots=True)
class Node:
    """A running server."""

    rtmp_port: int
    http_port: int
    api_port: int
    log: Path
    process: asyncio.subprocess.Process
    _client: aiohttp.ClientSession

    def rtmp(self, key: str) -> str:
        """The RTMP URL of the stream `key` (app/name), to publish and to play."""
        return f"rtmp://127.0.0.1:{self.rtmp_port}/{key}"

    def flv(self, key: str) -> str:
        """Its HTTP-FLV URL."""
        return f"http://127.0.0.1:{self.http_port}/{key}.flv"

    def hls(self, key: str) -> str:
        """Its HLS URL."""
        return f"http://127.0.0.1:{self.http_port}/{key}.m3u8"

    def page(self, key: str, player: str = "auto") -> str:
        """The node's own page with the stream in one of its players: flv, hls, or its choice."""
        return f"http://127.0.0.1:{self.http_port}/?player={player}#{key}"

    async def stream(self, key: str) -> dict[str, Any] | None:
        """What the API says about a stream; None if it does not know it."""
        async with self._client.get(f"http://127.0.0.1:{self.api_port}/api/v1/streams/{key}") as response:
            if response.status == 404:
                return None
            response.raise_for_status()
            stream: dict[str, Any] = (await response.json())["stream"]
            return stream

    async def clients(self, key: str, role: str) -> list[dict[str, Any]]:
        """The clients of a stream that `publish`, `play` or `wait`, oldest first."""
        async with self._client.get(f"http://127.0.0.1:{self.api_port}/api/v1/clients") as response:
            response.raise_for_status()
            clients = (await response.json())["clients"]
        return [client for client in clients if client["stream"] == key and client["role"] == role]

    async def until(
        self, key: str, condition: Callable[[dict[str, Any]], bool], *, timeout: float = 15.0
    ) -> dict[str, Any]:
        """Waits until the stream is as wanted and returns it."""
        deadline = time.monotonic() + timeout
        while (stream := await self.stream(key)) is None or not condition(stream):
            if self.process.returncode is not None or time.monotonic() > deadline:
                raise ClientError(f"{key} did not become what was wanted in {timeout} s: {stream}\n{tail(self.log)}")
            await asyncio.sleep(0.02)
        return stream

    async def until_live(self, key: str, *, timeout: float = 20.0) -> dict[str, Any]:
        """Waits until somebody publishes the stream and a frame of it has come."""
        return await self.until(
            key, lambda stream: stream["publish"]["active"] and stream["recv_bytes"] > 10_000, timeout=timeout
        )

    async def end(self, key: str) -> None:
        """Ends a stream as an operator does."""
        async with self._client.delete(f"http://127.0.0.1:{self.api_port}/api/v1/streams/{key}") as response:
            response.raise_for_status()

    async def kick(self, client: str) -> None:
        """Closes a client's connection as an operator does."""
        async with self._client.delete(f"http://127.0.0.1:{self.api_port}/api/v1/clients/{client}") as response:
            response.raise_for_status()

    def log_says(self, *words: str) -> list[str]:
        """Returns the lines of the server's log that hold all the words."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if all(word in line for word in words)]


@contextlib.asynccontextmanager
async def running_node(
    directory: Path, *settings: str, demo: bool = False, timeout: float = 15.0
) -> AsyncIterator[Node]:
    """Runs a server for the length of the block, which begins when it is ready.

    `settings` are section.key=value.  Raises ClientError when it did not end cleanly on SIGTERM, or logged an error.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "node.log"
    ports = dict(zip(("rtmp", "http", "api"), free_ports(3), strict=True))
    argv = [str(COMMAND), "serve", *(["--demo"] if demo else [])]
    for setting in (*(f"{section}.listen=127.0.0.1:{port}" for section, port in ports.items()), *settings):
        argv += ["--set", setting]
    async with aiohttp.ClientSession() as client:
        async with running(argv, log=log, grace=15.0) as process:
            deadline = time.monotonic() + timeout
            while not await _ready(client, ports["api"]):
                if process.returncode is not None or time.monotonic() > deadline:
                    raise ClientError(f"the server did not start:\n{tail(log)}")
                await asyncio.sleep(0.05)
            node = Node(ports["rtmp"], ports["http"], ports["api"], log, process, client)
            yield node
            died = process.returncode
        if died is not None or process.returncode != 0:
            raise ClientError(f"the server ended with {process.returncode}:\n{tail(log)}")
        if errors := [line for line in log.read_text().splitlines() if " error " in line or "Traceback" in line]:
            raise ClientError("the server complained:\n" + "\n".join(errors))


async def _ready(client: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with client.get(f"http://127.0.0.1:{port}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False
