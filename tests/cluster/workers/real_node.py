"""A node of several worker processes, and clients that count what they get.

    async with real_node(tmp_path) as node:
        publisher = await node.publish("live/cam")
        viewers = await node.viewers_everywhere("live/cam")
        ...
        assert not viewer.faults()

Every frame says which publisher sent it, its place, when it was sent, and its checksum: so *nothing lost* is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple

import aiohttp

from cluster.flv import FlvReader
from config.ports import free_ports
from pyrtmp import Client, Message
from pyrtmp.message import VIDEO

COMMAND = Path(sys.executable).with_name("pyrtmp")

FPS = 25
GOP = 12
"""A key frame about twice a second."""

SEQUENCE_HEADER = bytes.fromhex(
    "17000000000164001fffe100186764001facb402802dd80880000003008000001e078c195001000468ef3cb0fdf8f800"
)

_STAMP = struct.Struct(">IIdI")
_HEAD = 5
"""Bytes of a video tag before its data."""

PATIENCE = 10.0
"""Seconds to wait for what should come soon: the machine may be busy."""

_agents = count(1)


class Frame(NamedTuple):
    """A picture as it arrived."""

    session: int
    """Which publisher of the stream sent it, from 0."""
    number: int
    key: bool
    timestamp: int
    sent: float
    arrived: float


def make_frame(session: int, number: int, size: int, *, key: bool) -> Message:
    """A picture that says where it belongs; 40 ms after the one before it."""
    filler = bytes(((session * 31 + number) % 251,)) * size
    stamp = _STAMP.pack(session, number, monotonic(), zlib.crc32(filler))
    head = (b"\x17" if key else b"\x27") + b"\1\0\0\0"
    return Message(VIDEO, number * 1000 // FPS, 1, head + stamp + filler)


class Publisher:
    """Sends pictures in real time, beginning with time 0, until it is stopped or loses its connection."""

    def __init__(self, client: Client, key: str, agent: str, session: int, size: int, gop: int = GOP) -> None:
        self.key = key
        self.agent = agent
        self.session = session
        self.sent = 0
        """Pictures so far."""
        self.error: BaseException | None = None
        self.lost_at = 0.0
        self._client = client
        self._size = size
        self._gop = gop
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._task = asyncio.create_task(self._run())

    @property
    def alive(self) -> bool:
        """Whether it has its connection."""
        return not self._task.done()

    async def _run(self) -> None:
        try:
            await self._client.send(Message(VIDEO, 0, 1, SEQUENCE_HEADER))
            began = monotonic()
            for number in count():
                await asyncio.sleep(began + number / FPS - monotonic())
                if not self._quiet.is_set():
                    await self._quiet.wait()
                    began = monotonic() - number / FPS
                await self._client.send(make_frame(self.session, number, self._size, key=number % self._gop == 0))
                self.sent = number + 1
        except Exception as error:
            self.error = error
            self.lost_at = monotonic()

    def fall_silent(self) -> None:
        """Send nothing more, and keep the connection."""
        self._quiet.clear()

    async def lost(self, timeout: float = PATIENCE) -> float:
        """Wait until the connection is gone; when that was."""
        await asyncio.wait((self._task,), timeout=timeout)
        assert self.error is not None, f"{self.agent} still publishes {self.key}"
        return self.lost_at

    async def stop(self) -> int:
        """End the stream; how many pictures were sent."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self._client.close()
        return self.sent


class Viewer:
    """Plays a stream and keeps what came, without the payloads."""

    def __init__(
        self, messages: AsyncIterator[Message], close: Callable[[], Awaitable[None]], key: str, agent: str
    ) -> None:
        self.key = key
        self.agent = agent
        self.asked = monotonic()
        self.frames: list[Frame] = []
        self.damaged = 0
        self.error: BaseException | None = None
        self.ended_at = 0.0
        self._messages = messages
        self._close = close
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def watching(self) -> bool:
        """Whether the stream goes on for it."""
        return not self._task.done()

    async def _run(self) -> None:
        try:
            async for message in self._messages:
                payload = message.payload
                if message.type != VIDEO or payload[1] != 1:
                    continue
                session, number, sent, checksum = _STAMP.unpack_from(payload, _HEAD)
                self.damaged += zlib.crc32(payload[_HEAD + _STAMP.size :]) != checksum
                self.frames.append(
                    Frame(session, number, payload[0] == 0x17, message.timestamp, sent, monotonic())
                )
                self._more.set()
        except Exception as error:
            self.error = error
        self.ended_at = monotonic()
        self._more.set()

    async def until(self, enough: Callable[[list[Frame]], object], timeout: float = PATIENCE) -> None:
        """Wait until the frames are enough."""
        deadline = monotonic() + timeout
        while not enough(self.frames):
            self._more.clear()
            assert self.watching, f"{self} ended: {self.error!r}"
            try:
                await asyncio.wait_for(self._more.wait(), deadline - monotonic())
            except TimeoutError:
                raise AssertionError(f"{self} did not get enough within {timeout} s") from None

    async def ended(self, timeout: float = PATIENCE) -> float:
        """Wait until the stream or the connection ends; when that was."""
        await asyncio.wait((self._task,), timeout=timeout)
        assert not self.watching, f"{self} still watches"
        return self.ended_at

    async def stop(self) -> None:
        """Leave."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self._close()

    def __repr__(self) -> str:
        last = self.frames[-1] if self.frames else None
        return f"<{self.agent} of {self.key}, {len(self.frames)} frames, last {last}>"

    # Judging

    def faults(self, *, may_end: bool = False) -> list[str]:
        """What should not have been, in words: damage, loss, repetition, time that goes back, an end."""
        faults = [f"{self.damaged} damaged"] if self.damaged else []
        if not self.watching and not may_end:
            faults.append(f"it ended: {self.error!r}")
        if self.frames and not self.frames[0].key:
            faults.append("it does not begin with a key frame")
        for before, after in pairwise(self.frames):
            if after.session == before.session:
                if after.number != before.number + 1:
                    faults.append(f"{after.number} follows {before.number} in session {after.session}")
            elif after.session < before.session:
                faults.append(f"session {after.session} follows {before.session}")
            elif not after.key:
                faults.append(f"session {after.session} does not begin with a key frame")
            if after.timestamp <= before.timestamp:
                faults.append(
                    f"time {after.timestamp} follows {before.timestamp}, sessions {before.session} {after.session}"
                )
        return [f"{self.agent} of {self.key}: {fault}" for fault in faults]

    def missing(self, sent: int, session: int = 0) -> list[str]:
        """What of ``sent`` pictures it has not got, from its first one on."""
        numbers = {frame.number for frame in self.frames if frame.session == session}
        lost = sorted(set(range(min(numbers, default=0), sent)) - numbers)
        return [f"{self.agent} of {self.key} lost {len(lost)} of {sent}: {lost[:5]}"] if lost else []

    def longest_silence(self, since: float = 0.0) -> float:
        """Most seconds between two arrivals."""
        times = [frame.arrived for frame in self.frames if frame.arrived >= since]
        return max((after - before for before, after in pairwise(times)), default=0.0)

    def delays(self, since: float = 0.0) -> list[float]:
        """Seconds from sending to arrival, sorted; those of the frames at hand at the beginning left out."""
        return sorted(f.arrived - f.sent for f in self.frames if f.sent >= max(since, self.asked))


async def _read_flv(response: aiohttp.ClientResponse) -> AsyncIterator[Message]:
    assert response.status == 200
    reader = FlvReader()
    async for data in response.content.iter_any():
        for message in reader.feed(data):
            yield message


def _closing(response: aiohttp.ClientResponse) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        response.close()

    return close


class RealNode:
    """``pyrtmp serve`` and what a test wants of it."""

    def __init__(self, process: subprocess.Popen[bytes], ports: Mapping[str, int], log: Path) -> None:
        self.process = process
        self.log = log
        self.ports = ports
        self.http = aiohttp.ClientSession(f"http://127.0.0.1:{ports['api']}")
        self._clients: list[Publisher | Viewer] = []

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self.process.pid

    def rtmp(self, key: str) -> str:
        """The URL of a stream."""
        return f"rtmp://127.0.0.1:{self.ports['rtmp']}/{key}"

    # The API

    async def get(self, path: str) -> dict[str, Any]:
        """What the API answers."""
        async with self.http.get(path) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def order(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """Have the API do something; the status and the answer."""
        async with self.http.request(method, path, headers={"Content-Type": "application/json"}) as response:
            return response.status, await response.json()

    async def workers(self) -> dict[int, dict[str, Any]]:
        """By number."""
        return {each["worker"]: each for each in (await self.get("/api/v1/workers"))["workers"]}

    async def pids(self) -> dict[int, int]:
        """Process ids of the workers, by number."""
        return {number: each["pid"] for number, each in (await self.workers()).items()}

    async def clients(self) -> dict[str, dict[str, Any]]:
        """By agent; those that have not said their name are left out."""
        listed = (await self.get("/api/v1/clients?count=10000"))["clients"]
        return {each["agent"]: each for each in listed if each["agent"]}

    async def worker_of(self, client: Publisher | Viewer) -> int:
        """Which worker has a client."""
        number: int = (await self.clients())[client.agent]["worker"]
        return number

    async def metrics(self) -> dict[str, float]:
        """By name with labels."""
        async with self.http.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    # Processes

    def children(self) -> set[int]:
        """Worker processes, the spare too."""
        return children(self.pid)

    async def settled(self, *, workers: int = 2) -> None:
        """Wait until every place is filled and there is a spare."""

        async def full() -> bool:
            return len(self.children()) == workers + 1 and len(await self.workers()) == workers

        await eventually(full, 20.0)
        newest = self.children()
        # The spare may still be importing; it waits for its orders when it has nothing to run.
        await eventually(lambda: all(state_of(pid) == "S" for pid in newest), 20.0)

    # Clients

    async def connect(self, key: str, worker: int | None = None) -> tuple[Client, str]:
        """A connection that says nothing yet, and its agent; to a certain worker, if one is named.

        Where a connection goes is the node's choice: those that went elsewhere stay until one went right.
        """
        others = []
        try:
            for _ in range(100):
                agent = f"client-{next(_agents)}"
                client = await Client.connect(self.rtmp(key), flashVer=agent)
                if worker is None or (await self.clients())[agent]["worker"] == worker:
                    return client, agent
                others.append(client)
        finally:
            for other in others:
                await other.close()
        raise AssertionError(f"no connection came to worker {worker}")

    async def publish(
        self, key: str, worker: int | None = None, *, session: int = 0, size: int = 4000, gop: int = GOP
    ) -> Publisher:
        """Publish a stream, with a key frame every ``gop`` pictures; raises ``RefusedError``."""
        client, agent = await self.connect(key, worker)
        try:
            await client.publish()
        except BaseException:
            await client.close()
            raise
        publisher = Publisher(client, key, agent, session, size, gop)
        self._clients.append(publisher)
        return publisher

    async def publish_again(self, key: str, *, session: int, size: int = 4000, timeout: float = PATIENCE) -> Publisher:
        """As an encoder does that lost its connection: try until it is there.  To be refused is a fault."""
        deadline = monotonic() + timeout
        while True:
            try:
                return await self.publish(key, session=session, size=size)
            except (ConnectionError, TimeoutError):
                assert monotonic() < deadline, f"{key} cannot be published again"
                await asyncio.sleep(0.02)

    async def play(self, key: str, worker: int | None = None) -> Viewer:
        """Watch a stream, or wait for it."""
        client, agent = await self.connect(key, worker)
        viewer = Viewer(client.play(), client.close, key, agent)
        self._clients.append(viewer)
        return viewer

    async def play_flv(self, key: str, worker: int) -> Viewer:
        """Watch a stream by HTTP-FLV; it must be there.  A worker is found as in ``connect``."""
        others = []
        try:
            for _ in range(100):
                agent = f"client-{next(_agents)}"
                response = await self.http.get(
                    f"http://127.0.0.1:{self.ports['http']}/{key}.flv",
                    headers={"User-Agent": agent}, timeout=aiohttp.ClientTimeout(total=None),
                )  # fmt: skip
                if (await self.clients())[agent]["worker"] == worker:
                    viewer = Viewer(_read_flv(response), _closing(response), key, agent)
                    self._clients.append(viewer)
                    return viewer
                others.append(response)
        finally:
            for other in others:
                other.close()
        raise AssertionError(f"no connection came to worker {worker}")

    async def leave(self, *clients: Publisher | Viewer) -> None:
        """Close some clients; all of them, if none is named."""
        for client in clients or tuple(self._clients):
            await client.stop()
            if client in self._clients:
                self._clients.remove(client)

    async def end(self, *keys: str) -> None:
        """End streams as an operator does, so that nothing is kept for the grace time."""
        for key in keys:
            await self.order("DELETE", f"/api/v1/streams/{key}")

    # The log

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What was logged, or the events of some names."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                event = json.loads(line)
                if not names or event["event"] in names:
                    found.append(event)
        return found

    def said(self) -> list[str]:
        """Lines that are no events: what was printed, and what should not have been."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if not line.startswith("{")]

    async def event(self, name: str, since: float, timeout: float = PATIENCE, **fields: object) -> float:
        """Wait until something is logged; how many seconds after ``since`` (``time.time``) that was."""

        def when() -> float | None:
            for event in self.events(name):
                at = datetime.fromisoformat(event["time"]).timestamp()
                if at >= since and all(event.get(field) == value for field, value in fields.items()):
                    return at - since
            return None

        await eventually(lambda: when() is not None, timeout)
        found = when()
        assert found is not None
        return found

    async def close(self) -> None:
        """Let the clients go, then end the node by its own processes' ids."""
        for client in self._clients:
            with contextlib.suppress(OSError):
                await client.stop()
        await self.http.close()


@contextlib.asynccontextmanager
async def real_node(
    directory: Path, *settings: str, workers: int = 2, config: Path | None = None, ends: bool = False,
    command: Sequence[str] = (str(COMMAND),),
) -> AsyncIterator[RealNode]:
    """A node for the length of the block, which begins when it is ready.

    It must end by SIGTERM, unless the block ``ends`` it, with 0; leave no process; and have said nothing bad about
    itself.
    """
    node = await start_node(directory, *settings, workers=workers, config=config, command=command)
    try:
        members = {node.pid, *node.children()}
        yield node
        members |= node.children()
        await node.close()
        if not ends:
            assert node.process.poll() is None, f"the node ended with {node.process.poll()}:\n{tail(node.log)}"
            node.process.terminate()
        code = await wait_for_exit(node.process)
        assert code == 0, f"the node ended with {code}:\n{tail(node.log)}"
        await eventually(lambda: not any(map(exists, members)))
        assert not [line for line in node.said() if "Traceback" in line], tail(node.log, 60)
        assert not node.events("internal_error"), node.events("internal_error")
    finally:
        await node.close()
        end_tree(node.pid)
        node.process.wait()


async def start_node(
    directory: Path,
    *settings: str,
    workers: int = 2,
    config: Path | None = None,
    command: Sequence[str] = (str(COMMAND),),
    ready: bool = True,
    ports: Mapping[str, int] | None = None,
) -> RealNode:
    """Start a node, and wait until it is ready unless told otherwise; ``end_tree`` ends it."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "node.log"
    ports = ports or dict(zip(("rtmp", "http", "api"), free_ports(3), strict=True))
    argv = [*command, "serve", *(() if config is None else ("--config", str(config)))]
    for setting in (
        *(f"{section}.listen=127.0.0.1:{port}" for section, port in ports.items()),
        f"node.workers={workers}",
        "log.format=json",
        *settings,
    ):
        argv += ["--set", setting]
    process = _run(argv, log)
    node = RealNode(process, ports, log)
    if ready:
        try:
            await eventually(lambda: _is_ready(node), 30.0)
            if workers:
                await node.settled(workers=workers)
        except BaseException:
            await node.close()
            end_tree(process.pid)
            process.wait()
            raise
    return node


def _run(argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


async def _is_ready(node: RealNode) -> bool:
    if node.process.poll() is not None:
        raise AssertionError(f"the node ended with {node.process.poll()}:\n{tail(node.log)}")
    try:
        async with node.http.get("/readyz") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


# Processes


def end_tree(pid: int) -> None:
    """Kill a process and what it started; stopped ones too."""
    members = [pid, *children(pid)]
    for each in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


async def wait_for_exit(process: subprocess.Popen[bytes], timeout: float = 15.0) -> int:
    """Its exit code."""
    await eventually(lambda: process.poll() is not None, timeout)
    assert process.returncode is not None
    return process.returncode


def children(pid: int) -> set[int]:
    """The processes that it started and that live."""
    found = set()
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found |= set(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()))
    except OSError:
        return set()
    return {child for child in found if exists(child)}


def exists(pid: int) -> bool:
    """Whether a process runs, or is stopped; a zombie does not."""
    return state_of(pid) not in ("", "Z", "X")


def state_of(pid: int) -> str:
    """One letter, or "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def descriptors(pid: int) -> dict[str, int]:
    """How many of each kind a process has open; /dev/null, which libuv keeps from its first connection on, left out."""
    kinds: dict[str, int] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        kind = re.sub(r"\d+", "N", target)
        if kind != os.devnull:
            kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# This and that


async def eventually(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    deadline = monotonic() + timeout
    while True:
        met = condition()
        if asyncio.iscoroutine(met):
            met = await met
        if met:
            return
        assert monotonic() < deadline, f"this was not so within {timeout} s: {getattr(condition, '__name__', '')}"
        await asyncio.sleep(0.02)


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log, for the message of a failure."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def now() -> float:
    """What the log tells times in."""
    return time()
