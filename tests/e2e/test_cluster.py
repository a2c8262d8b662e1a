"""The cluster of config/ as operators build it: real haproxy, real nginx, and viewers who stay when a machine is lost.

Every stream comes to one master and from there to both slaves.  Redis tells edges who has it: as long as nobody is busy
that is the master, which dies.  Without Redis they take it from whichever of the four comes first in their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from time import monotonic, time
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from clients_chromium import Browser, Page
from clients_ffmpeg import ffmpeg_play, ffmpeg_publishing
from clients_process import ClientError
from clients_vlc import vlc_play

from cluster.edge.upstreams import Upstream, Upstreams
from cluster.flv import FlvReader
from config.cluster import Cluster
from config.ports import free_ports
from pyrtmp import Client, Message
from pyrtmp.message import VIDEO
from pyrtmp.names import make_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

FPS = 25
SIZE = (320, 180)
SETTINGS = ("node.workers=0", "hls.fragment=1", "hls.window=6", "node.drain_seconds=5", "log.format=json")
VIEWER = "127.0.0.9"
MASTERS, SLAVES, EDGES = ("master1", "master2"), ("slave1", "slave2"), ("edge1", "edge2")
BACK_SECONDS = 1.0
"""From the publisher's return to the next picture, for every viewer."""

_agents = count(1)


class Site:
    """The cluster, and what its operators and viewers see."""

    def __init__(self, cluster: Cluster, http: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.http = http

    def published(self, key: str) -> str:
        return f"rtmp://127.0.0.1:{self.cluster.publish}/{key}"

    def watched(self, path: str) -> str:
        return f"http://127.0.0.1:{self.cluster.watch}/{path}"

    def rtmp(self, name: str, key: str) -> str:
        return f"rtmp://127.0.0.1:{self.cluster.nodes[name].rtmp}/{key}"

    async def ask(self, name: str, path: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.cluster.nodes[name].api}/api/v1/{path}"
        async with self.http.get(url) as response:
            answer: dict[str, Any] = await response.json() if response.status == 200 else {}
            return answer

    async def clients(self, name: str) -> dict[str, dict[str, Any]]:
        """Those of a node that play or wait, by id."""
        clients = (await self.ask(name, "clients"))["clients"]
        return {each["id"]: each for each in clients if each["role"] in ("play", "wait")}

    async def watched_by_hls(self, name: str, key: str) -> bool:
        """Whether HLS players ask that node."""
        stream = (await self.ask(name, f"streams/{key}")).get("stream", {})
        return bool(stream.get("viewers", {}).get("hls"))

    async def live(self, name: str, key: str) -> bool:
        """Whether a node has the stream, and a picture of it."""
        if self.cluster.processes[name].poll() is not None:
            return False
        with contextlib.suppress(aiohttp.ClientError):
            stream = (await self.ask(name, f"streams/{key}")).get("stream")
            return stream is not None and stream["publish"]["active"] and stream["recv_bytes"] > 0
        return False

    async def master_of(self, key: str, timeout: float = 20.0) -> str:
        """The master that has the publisher."""
        found: list[str] = []

        async def has() -> bool:
            found[:] = [name for name in MASTERS if await self.live(name, key)]
            return bool(found)

        await until(has, timeout, f"a master has {key}")
        assert len(found) == 1, found
        return found[0]

    def events(self, name: str, *events: str) -> list[dict[str, Any]]:
        """What a node has logged."""
        lines = (self.cluster.directory / f"{name}.log").read_text(errors="replace").splitlines()
        found: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in found if not events or each["event"] in events]

    async def returned(self, name: str, key: str, since: float) -> float:
        """When the publisher of a stream was back, at another master."""
        offset = time() - monotonic()
        found: list[float] = []

        async def has() -> bool:
            times = [datetime.fromisoformat(each["time"]).timestamp() - offset
                     for each in self.events(name, "publish") if each["stream"] == key]
            found[:] = [each for each in times if each > since]
            return bool(found)

        await until(has, 20, f"{name} has {key}")
        return found[0]

    async def restart(self, name: str) -> None:
        """Start a node again, and wait until haproxy has seen it."""
        self.cluster.run(name)
        await asyncio.to_thread(self.cluster.wait, name)
        if name in MASTERS:
            await asyncio.sleep(2.5)  # two checks, a second apart

    async def key(self, first: tuple[str, ...], prefix: str) -> str:
        """A stream that edges look for at these nodes before all others."""
        nodes = {node.rtmp: node.name for node in self.cluster.nodes.values()}
        upstreams = Upstreams([Upstream("127.0.0.1", self.cluster.nodes[name].rtmp) for name in MASTERS + SLAVES])
        for number in count():
            key = f"live/{prefix}{number}"
            order = [nodes[each.port] for each in await upstreams.find(make_key(*key.split("/")))]
            if set(order[: len(first)]) == set(first):
                return key
        raise AssertionError


async def until(true: Callable[[], Any], timeout: float, what: str) -> None:
    deadline = monotonic() + timeout
    while not await true():
        if monotonic() > deadline:
            raise ClientError(f"not so within {timeout} s: {what}")
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def encoder(url: str, directory: Path, again: float = 0.2) -> AsyncIterator[None]:
    """ffmpeg that publishes, and is started again when it ended, as OBS does by itself: ``again`` seconds later."""
    directory.mkdir()

    async def publish() -> None:
        for number in count():
            log = directory / f"{number}.log"
            async with ffmpeg_publishing(url, log=log, size=SIZE, fps=FPS, gop=FPS, kbps=300) as process:
                await process.wait()
            await asyncio.sleep(again)

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass(slots=True)
class Viewer:
    """Somebody who keeps one connection, and when each picture came."""

    name: str
    key: str
    arrived: list[float] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    ended: str = ""

    def take(self, message: Message) -> None:
        if message.type == VIDEO and message.payload[1] == 1:
            self.arrived.append(monotonic())
            self.times.append(message.timestamp)

    def faults(self) -> list[str]:
        found = [f"{self.name} ended: {self.ended}"] if self.ended else []
        found += [f"{self.name}: time {b} follows {a}" for a, b in pairwise(self.times) if b < a]
        return found


@contextlib.asynccontextmanager
async def viewers(site: Site, key: str) -> AsyncIterator[list[Viewer]]:
    """By HTTP-FLV over nginx, until every edge has one, and by RTMP from every edge."""
    watching: list[Viewer] = []
    tasks: list[asyncio.Task[None]] = []

    async def flv(viewer: Viewer) -> None:
        reader = FlvReader()
        timeout = aiohttp.ClientTimeout(total=None)
        async with site.http.get(
            site.watched(f"{key}.flv"), headers={"User-Agent": viewer.name}, timeout=timeout
        ) as response:
            assert response.status == 200
            assert response.headers.getall("Access-Control-Allow-Origin") == ["*"]
            async for data in response.content.iter_any():
                for message in reader.feed(data):
                    viewer.take(message)

    async def rtmp(viewer: Viewer, url: str) -> None:
        async with await Client.connect(url, flashVer=viewer.name) as client:
            async for message in client.play():
                viewer.take(message)

    async def keep(viewer: Viewer, work: Any) -> None:
        try:
            await work
            viewer.ended = "the end"
        except Exception as error:
            viewer.ended = repr(error)

    def start(kind: str, run: Callable[[Viewer], Any]) -> None:
        viewer = Viewer(f"{kind}-{next(_agents)}", key)
        watching.append(viewer)
        tasks.append(asyncio.create_task(keep(viewer, run(viewer))))

    async def every_edge() -> bool:
        found = [{each["protocol"] for each in (await site.clients(name)).values() if each["stream"] == key}
                 for name in EDGES]
        return all(each >= {"flv", "rtmp"} for each in found)

    try:
        for name in EDGES:
            start(f"rtmp-{name}", lambda viewer, name=name: rtmp(viewer, site.rtmp(name, key)))  # type: ignore[misc]
            start("flv", flv)
        await until(every_edge, 10, "nginx spreads viewers over all edges")
        for viewer in watching:
            await until(lambda viewer=viewer: _many(viewer), 10, f"{viewer.name} sees {key}")  # type: ignore[misc]
        yield watching
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _many(viewer: Viewer) -> bool:
    return len(viewer.arrived) > FPS


@dataclass(slots=True)
class HlsPlayer:
    """Asks nginx as players do; ``problems`` is what a player would stumble over."""

    sequences: list[int] = field(default_factory=list)
    segments: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def hls_player(site: Site, key: str) -> AsyncIterator[HlsPlayer]:
    player = HlsPlayer()

    async def play() -> None:
        while True:
            async with site.http.get(site.watched(f"{key}.m3u8"), headers={"User-Agent": "player"}) as response:
                text = await response.text()
                if response.status != 200:
                    player.problems.append(f"playlist: {response.status}")
                else:
                    assert response.headers.getall("Access-Control-Allow-Origin") == ["*"]
                    player.sequences.append(int(re.findall(r"MEDIA-SEQUENCE:(\d+)", text)[0]))
            for uri in re.findall(r"^[^#].*$", text, re.MULTILINE) if response.status == 200 else ():
                if uri not in player.segments:
                    async with site.http.get(site.watched(f"live/{uri}")) as response:
                        player.segments[uri] = len(await response.read())
                        if response.status != 200 or player.segments[uri] < 1000:
                            player.problems.append(f"{uri}: {response.status}")
            await asyncio.sleep(0.5)

    task = asyncio.create_task(play())
    try:
        yield player
    finally:
        if task.done():
            player.problems.append(repr(task.exception()))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    player.problems += [f"number {b} follows {a}" for a, b in pairwise(player.sequences) if b < a]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory(prefix="pyrtmp-cluster-") as directory:
        publish, watch = free_ports(2)
        cluster = Cluster(Path(directory), publish=publish, watch=watch, settings=SETTINGS)
        try:
            await asyncio.to_thread(cluster.start)
            # Not nginx's own address, to see whose the edges take it for.
            connector = aiohttp.TCPConnector(local_addr=(VIEWER, 0))
            async with aiohttp.ClientSession(connector=connector) as http:
                yield Site(cluster, http)
        finally:
            await asyncio.to_thread(cluster.close)
            problems = [
                f"{name}: {line}"
                for name in cluster.nodes
                for line in (cluster.directory / f"{name}.log").read_text(errors="replace").splitlines()
                if '"level": "error"' in line or "Traceback" in line
            ]
        assert not problems, "\n".join(problems)


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def whole(site: Site) -> None:
    """What the test before has ended is there again."""
    for name, process in site.cluster.processes.items():
        if process.poll() is not None:
            await site.restart(name)


async def lose(site: Site, keys: tuple[str, ...], how: signal.Signals, watching: list[Viewer]) -> str:
    """End the master that has the streams, and wait until all have pictures again; which one has them now."""
    before = {name: await site.clients(name) for name in EDGES}
    lost = await site.master_of(keys[0])
    at = monotonic()
    ending = asyncio.create_task(asyncio.to_thread(site.cluster.end, lost, how))
    other = MASTERS[1 - MASTERS.index(lost)]
    returned = {key: await site.returned(other, key, at) for key in keys}
    code = await ending

    async def back() -> bool:
        return all(viewer.ended or viewer.arrived[-1] > returned[viewer.key] for viewer in watching)

    with contextlib.suppress(ClientError):
        await until(back, 10, "pictures are back")
    late = []
    for viewer in watching:
        # What was on its way when the master ended came until shortly after; the next one is the new publisher's.
        times = [each for each in viewer.arrived if each > at - 1.0]
        last, first = max(pairwise(times), key=lambda pair: pair[1] - pair[0])
        after = first - returned[viewer.key]
        print(f"{how.name} {viewer.key} {viewer.name}: no picture for {first - last:.2f} s, back {after:+.2f} s after"
              f" the publisher, who came {returned[viewer.key] - at:.2f} s after the end of {lost}")
        if after > BACK_SECONDS:
            late.append(f"{viewer.name}: {after:.2f} s")
    assert not late, late
    assert not [fault for viewer in watching for fault in viewer.faults()]
    assert code == (-how if how == signal.SIGKILL else 0)
    after_loss = {name: await site.clients(name) for name in EDGES}
    for name in EDGES:
        assert before[name].keys() <= after_loss[name].keys(), "a viewer's connection was dropped"
    return other


async def test_a_master_is_killed(site: Site, browser: Browser, tmp_path: Path) -> None:
    """Everybody watches; the edges have the stream from the master that dies."""
    key = await site.key(MASTERS, "killed")
    page_url = f"{site.watched('?player=flv')}#{key}"
    async with encoder(site.published(key), tmp_path / "encoder", again=2.5):
        master = await site.master_of(key)
        for name in SLAVES:
            await until(lambda name=name: site.live(name, key), 5, f"{name} has {key}")  # type: ignore[misc]
        # The publisher is known by its own address, not by haproxy's.
        (publisher,) = [each for each in (await site.ask(master, "clients"))["clients"] if each["role"] == "publish"]
        assert publisher["ip"] == "127.0.0.1"
        # What is sent out of each edge and of nginx is a picture that moves, with sound.
        played = await asyncio.gather(
            *(ffmpeg_play(site.rtmp(name, key), seconds=2, directory=tmp_path / name) for name in EDGES),
            ffmpeg_play(site.watched(f"{key}.flv"), seconds=2, directory=tmp_path / "flv"),
            ffmpeg_play(site.watched(f"{key}.m3u8"), seconds=2, directory=tmp_path / "hls"),
        )
        for seen in played:
            assert seen.moving and seen.audible and not seen.backward_dts and not seen.complaints, seen
        vlc = asyncio.create_task(vlc_play(site.rtmp("edge2", key), seconds=12, log=tmp_path / "vlc.log"))
        async with (
            viewers(site, key) as watching,
            hls_player(site, key) as hls,
            browser.open(page_url) as page,
        ):
            await page.until_playing(timeout=10)
            through = asyncio.create_task(
                ffmpeg_play(site.watched(f"{key}.flv"), seconds=8, directory=tmp_path / "through", timeout=20)
            )
            await page.watch(2.0)
            for name in EDGES:
                here = (await site.clients(name)).values()
                assert VIEWER in {each["ip"] for each in here if each["protocol"] == "flv"}, here
            other = await lose(site, (key,), signal.SIGKILL, watching)
            assert other != master
            resuming = await page.watch(1.0)
            watched = await page.watch(3.0)
            print(f"Chromium: {resuming.frames} frames in the first second, then {watched.frames} in 3 s")
            assert watched.moving and watched.last.state == "playing" and watched.frames > 2 * FPS, watched
            assert len([url for url in page.requests if ".flv" in url]) == 1 and not page.faults
            seen = await through
            assert seen.moving and seen.audible and not seen.backward_dts, seen
            shown = await vlc
            assert shown.moving and shown.audible and shown.displayed > 6 * FPS, shown
            # Nothing came for three seconds, and of its clock it may speak.
            clock = ("called too late", "no reference clock", "onvert timestamp", "Timestamp conversion")
            assert not [line for line in shown.complaints if not any(words in line for words in clock)], shown
        assert not hls.problems and len(hls.segments) > 5, hls


async def test_a_master_is_stopped(site: Site, tmp_path: Path) -> None:
    """It drains.  One stream is watched from it, the other one from a slave."""
    keys = (await site.key(MASTERS, "stopped"), await site.key(SLAVES, "copied"))
    async with contextlib.AsyncExitStack() as stack:
        # Both on one master: haproxy sends them to the only one there is.
        first, second = MASTERS
        await asyncio.to_thread(site.cluster.end, first)
        for key in keys:
            await stack.enter_async_context(encoder(site.published(key), tmp_path / key.rpartition("/")[2]))
            assert await site.master_of(key) == second
        await site.restart(first)
        watching = []
        for key in keys:
            watching += await stack.enter_async_context(viewers(site, key))
        assert await lose(site, keys, signal.SIGTERM, watching) == first


async def test_a_slave_is_killed(site: Site, tmp_path: Path) -> None:
    """Those who watch from it go on with another copy of the same pictures.  Redis is away."""
    site.cluster.end("redis", signal.SIGKILL)
    key = await site.key(SLAVES, "slave")
    names = {node.rtmp: node.name for node in site.cluster.nodes.values()}
    async with encoder(site.published(key), tmp_path / "encoder"):
        await site.master_of(key)
        async with viewers(site, key) as watching:
            pulling = [each for each in site.events("edge1", "pulling") if each["stream"] == key]
            lost = names[int(pulling[-1]["upstream"].rpartition(":")[2])]
            assert lost in SLAVES
            before = {name: await site.clients(name) for name in EDGES}
            at = monotonic()
            site.cluster.end(lost, signal.SIGKILL)
            await asyncio.sleep(3.0)
            for viewer in watching:
                gap = max(b - a for a, b in pairwise(each for each in viewer.arrived if each > at - 1.0))
                print(f"SIGKILL of {lost}, {viewer.name}: no picture for {gap:.2f} s")
                assert gap < BACK_SECONDS and not viewer.faults()
                # Not one is missing, not one comes twice.
                steps = {b - a for a, b in pairwise(viewer.times)}
                assert steps <= {1000 // FPS}, steps
            for name in EDGES:
                assert before[name].keys() <= (await site.clients(name)).keys()


async def test_an_edge_is_killed(site: Site, tmp_path: Path) -> None:
    """HLS goes on from the other one; who watched there by RTMP is not concerned."""
    key = await site.key(SLAVES, "edge")
    async with encoder(site.published(key), tmp_path / "encoder"):
        await site.master_of(key)
        async with hls_player(site, key) as hls:
            await until(lambda: _playing(hls), 20, "HLS plays")
            for name in EDGES:
                await until(lambda name=name: site.watched_by_hls(name, key), 10, f"{name} is asked")  # type: ignore
            lost, other = EDGES
            stay = Viewer("rtmp", key)
            async with await Client.connect(site.rtmp(other, key)) as client:
                play = asyncio.create_task(_take(client, stay))
                await until(lambda: _many(stay), 10, "RTMP plays")
                playing = asyncio.create_task(
                    ffmpeg_play(site.watched(f"{key}.m3u8"), seconds=9, directory=tmp_path / "hls", timeout=20)
                )
                await asyncio.sleep(2.0)
                site.cluster.end(lost, signal.SIGKILL)
                count = len(hls.segments)
                await until(lambda: _more(hls, count + 3), 15, "HLS goes on")
                seen = await playing
                print(f"HLS by ffmpeg: {seen}")
                assert seen.moving and seen.audible and not seen.backward_dts and seen.seconds > 8, seen
                play.cancel()
                await asyncio.gather(play, return_exceptions=True)
            assert not stay.faults()
            gaps = [b - a for a, b in pairwise(stay.arrived[FPS:])]
            assert max(gaps) < 1.0, max(gaps)
        assert not hls.problems, hls
        assert _consecutive(hls), hls


async def _take(client: Client, viewer: Viewer) -> None:
    async for message in client.play():
        viewer.take(message)
    viewer.ended = "the end"


async def _playing(hls: HlsPlayer) -> bool:
    return len(hls.segments) >= 3


def _numbers(hls: HlsPlayer) -> list[int]:
    return [int(uri.rpartition("/")[2].partition(".")[0]) for uri in hls.segments]


def _consecutive(hls: HlsPlayer) -> list[int]:
    """The numbers of its segments; none if one is missing."""
    numbers = _numbers(hls)
    return numbers if numbers == list(range(numbers[0], numbers[0] + len(numbers))) else []


async def _more(hls: HlsPlayer, count: int) -> bool:
    return len(hls.segments) >= count


async def _same(site: Site, key: str, numbers: list[int]) -> int:
    """How many of these segments both edges have; they are the same."""
    found = 0
    for number in numbers:
        bodies = []
        for name in EDGES:
            async with site.http.get(f"http://127.0.0.1:{site.cluster.nodes[name].http}/{key}/{number}.ts") as response:
                bodies.append(await response.read() if response.status == 200 else b"")
        found += all(bodies)
        assert bodies[0] == bodies[1] or not all(bodies), number
    return found


async def _plays(page: Page) -> None:
    """Wait until it shows two seconds of pictures."""
    until = monotonic() + 30
    while not ((watched := await page.watch(2.0)).moving and watched.frames > FPS):
        assert monotonic() < until, watched


async def test_hls_of_either_edge(site: Site, browser: Browser, tmp_path: Path) -> None:
    """nginx asks the edges in turn, and one of them begins later.  No player notices."""
    key = await site.key(MASTERS, "hls")
    async with encoder(site.published(key), tmp_path / "encoder"):
        await site.master_of(key)
        page_url = f"{site.watched('?player=hls')}#{key}"
        async with hls_player(site, key) as hls, browser.open(page_url) as page:
            await page.until_playing(timeout=15)
            await until(lambda: _more(hls, 6), 20, "there is more to play than the newest segment")
            seen, shown, watched = await asyncio.gather(
                ffmpeg_play(site.watched(f"{key}.m3u8"), seconds=8, directory=tmp_path / "hls", timeout=30),
                vlc_play(site.watched(f"{key}.m3u8"), seconds=12, log=tmp_path / "vlc.log"),
                page.watch(10.0),
            )
            assert seen.moving and seen.audible and not seen.backward_dts and not seen.complaints, seen
            assert shown.moving and shown.audible and shown.displayed > 6 * FPS, shown
            # It began at the live edge, so it may have had to wait; but it got all there is.
            assert watched.moving, watched
            await _plays(page)
            assert await page.evaluate("document.querySelector('video').buffered.length") == 1
            assert not hls.problems and len(hls.segments) > 10, hls
            before = _consecutive(hls)
            assert before, hls
            assert await _same(site, key, before[-8:]) >= 3
            assert not page.faults
            # The stream is born anew at the other master: numbers leap ahead.
            await lose(site, (key,), signal.SIGKILL, [])
            back = monotonic()
            await _plays(page)
            plays = monotonic() - back
            await until(lambda: _more(hls, len(before) + 8), 20, "HLS goes on")
            after = [number for number in _numbers(hls) if number not in before]
            print(f"Chromium, HLS: has played for 2 s after {plays:.0f} s; numbers {before[-1]}, then {after}")
            assert not hls.problems
            assert await _same(site, key, after[-6:]) >= 3
