"""A node of two workers: what clients, operators and the machine see of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest
import pytest_asyncio

from pyrtmp import Client, RefusedError, StreamSettings
from tests.cluster.workers.real_node import (
    COMMAND,
    FPS,
    GOP,
    Publisher,
    RealNode,
    end_tree,
    eventually,
    exists,
    now,
    real_node,
    start_node,
    wait_for_exit,
)

shared = pytest.mark.asyncio(loop_scope="module")
"""For tests that leave the node as it was."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealNode]:
    async with real_node(tmp_path_factory.mktemp("node"), "stream.grace_seconds=5") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def key(node: RealNode, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A stream name of the test's own."""
    key = f"live/{re.sub(r'[^a-z0-9_]', '-', request.node.name)}"
    yield key
    await node.leave()
    await node.end(key)


# Streams


@shared
@pytest.mark.parametrize("worker", [0, 1])
async def test_viewers_of_every_worker_get_every_frame(node: RealNode, key: str, worker: int) -> None:
    early = [await node.play(key, each) for each in (0, 1)]
    publisher = await node.publish(key, worker)
    late = [await node.play(key, each) for each in (0, 1)]
    for viewer in early + late:
        await viewer.until(lambda frames: len(frames) > 3 * GOP)
    sent = await publisher.stop()
    for viewer in early + late:
        await viewer.until(lambda frames: frames[-1].number == sent - 1)
        assert not viewer.faults() + viewer.missing(sent)
        # From a socket to memory, a word to the other worker, from memory to a socket.
        assert viewer.delays()[len(viewer.frames) // 2] < 0.1
    assert [viewer.frames[0].number for viewer in early] == [0, 0]


# Publishers


@shared
@pytest.mark.parametrize("same", [True, False], ids=["same worker", "other worker"])
async def test_a_second_publisher_is_refused_while_the_first_one_sends(node: RealNode, key: str, same: bool) -> None:
    first = await node.publish(key, 0)
    viewers = [await node.play(key, each) for each in (0, 1)]
    for _ in range(3):
        with pytest.raises(RefusedError) as refusal:
            await node.publish(key, 0 if same else 1, session=1)
        assert refusal.value.code == "NetStream.Publish.BadName"
    sent = await first.stop()
    for viewer in viewers:
        await viewer.until(lambda frames: frames[-1].number == sent - 1)
        assert not viewer.faults() + viewer.missing(sent)


@shared
@pytest.mark.parametrize("worker", [0, 1], ids=["same worker", "other worker"])
async def test_a_silent_publisher_loses_its_stream(node: RealNode, key: str, worker: int) -> None:
    """P1: the first one's network is gone, its connection is not."""
    first = await node.publish(key, 0)
    viewers = [await node.play(key, each) for each in (0, 1)]
    for viewer in viewers:
        await viewer.until(lambda frames: len(frames) > GOP)
    first.fall_silent()
    began = monotonic()
    second: Publisher | None = None
    while second is None:
        try:
            second = await node.publish(key, worker, session=1)
        except RefusedError as error:
            assert error.code == "NetStream.Publish.BadName" and monotonic() - began < 10.0
            await asyncio.sleep(0.2)
    for viewer in viewers:
        await viewer.until(lambda frames: frames[-1].session == 1 and frames[-1].number > GOP)
        assert not viewer.faults()
    sessions = [[frame.session for frame in viewer.frames] for viewer in viewers]
    assert [sum(one != other for one, other in pairwise(each)) for each in sessions] == [1, 1]
    assert key in {client["stream"] for client in (await node.clients()).values() if client["publish"]}
    assert first.agent not in await node.clients()


@shared
async def test_of_many_publishers_at_once_one_wins(node: RealNode, key: str) -> None:
    """P2: and the name is free as soon as the last one is gone."""
    number, sessions = 20, 4
    viewer = await node.play(key)
    for session in range(sessions):
        clients = [await node.connect(key) for _ in range(number)]
        assert {(await node.clients())[agent]["worker"] for _, agent in clients} == {0, 1}
        results = await asyncio.gather(*(_publish(key, *each, session) for each in clients), return_exceptions=True)
        winners = [result for result in results if isinstance(result, Publisher)]
        refused = [result for result in results if isinstance(result, RefusedError)]
        assert (len(winners), len(refused)) == (1, number - 1), results
        assert {refusal.code for refusal in refused} == {"NetStream.Publish.BadName"}
        await viewer.until(lambda frames, session=session: frames and frames[-1].session == session)
        for client, _ in clients:
            client.abort()
        await winners[0].lost()
        gone = monotonic()
        again = await node.publish_again(key, session=session)
        assert monotonic() - gone < StreamSettings().takeover_seconds
        await node.leave(again)
    await eventually(lambda: _alone(node, key, viewer.agent))


async def _publish(key: str, client: Client, agent: str, session: int) -> Publisher:
    await client.publish()
    return Publisher(client, key, agent, session, 1000)


async def _alone(node: RealNode, key: str, agent: str) -> bool:
    stream = (await node.get(f"/api/v1/streams/{key}"))["stream"]
    return set(await node.clients()) == {agent} and not stream["publish"]["active"]


# Operators


@shared
async def test_operators_see_one_node(node: RealNode, key: str) -> None:
    publisher = await node.publish(key, 0)
    viewers = [await node.play(key, each) for each in (0, 1, 1)]
    for viewer in viewers:
        await viewer.until(lambda frames: len(frames) > GOP)
    clients = await node.clients()
    assert set(clients) == {publisher.agent, *(viewer.agent for viewer in viewers)}
    assert [clients[each.agent]["worker"] for each in (publisher, *viewers)] == [0, 0, 1, 1]
    assert [clients[each.agent]["role"] for each in (publisher, *viewers)] == ["publish", "play", "play", "play"]
    (stream,) = [each for each in (await node.get("/api/v1/streams"))["streams"] if each["id"] == key]
    assert stream["publish"] == {"active": True, "cid": clients[publisher.agent]["id"]}
    assert (stream["viewers"]["total"], stream["clients"], stream["worker"]) == (3, 4, 0)
    # Numbers are at most two seconds old.
    await eventually(lambda: _counts(node, viewers=3, publishers=1))
    workers = await node.workers()
    assert [workers[each]["streams_held"] for each in (0, 1)] == [1, 0]
    assert [workers[each]["viewers"] for each in (0, 1)] == [1, 2]
    assert {workers[each]["pid"] for each in (0, 1)} < node.children()


async def _counts(node: RealNode, *, viewers: int, publishers: int) -> bool:
    clients = (await node.get("/api/v1/summaries"))["data"]["clients"]
    return bool(clients["viewers"]["rtmp"] == viewers and clients["publishers"] == publishers)


@shared
@pytest.mark.parametrize("worker", [0, 1])
async def test_kick_and_end_reach_the_worker_that_has_it(node: RealNode, key: str, worker: int) -> None:
    publisher = await node.publish(key, worker)
    kicked, stays, other = await node.play(key, worker), await node.play(key, worker), await node.play(key, 1 - worker)
    for viewer in (kicked, stays, other):
        await viewer.until(lambda frames: len(frames) > 2)
    status, _ = await node.order("DELETE", f"/api/v1/clients/{(await node.clients())[kicked.agent]['id']}")
    assert status == 200
    await kicked.ended()
    assert publisher.alive and stays.watching and other.watching
    assert (await node.order("DELETE", f"/api/v1/streams/{key}"))[0] == 200
    for viewer in (stays, other):
        await viewer.ended(2.0)
        assert viewer.error is None  # told, not cut off
    await publisher.lost()
    assert (await node.order("DELETE", f"/api/v1/streams/{key}"))[0] == 404
    assert (await node.order("DELETE", "/api/v1/clients/nobody"))[0] == 404


# The machine


@shared
async def test_nobody_else_can_reach_the_control_channels(node: RealNode) -> None:
    unix = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        unix[fields[6]] = (int(fields[3], 16), fields[7:])
    listening = set()
    for line in [*Path("/proc/net/tcp").read_text().splitlines(), *Path("/proc/net/tcp6").read_text().splitlines()]:
        fields = line.split()
        if fields[3] == "0A":
            listening.add(fields[9])
    for pid in (node.pid, *node.children()):
        sockets = set()
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
        channels = sockets & set(unix)
        assert channels, "each has at least the channel to the supervisor"
        for inode in channels:
            flags, path = unix[inode]
            assert not path and not flags & 0x10000, "a Unix socket has a name, or listens"
        assert len(sockets & listening) == (3 if pid == node.pid else 0)


async def test_nothing_is_loaded_from_where_it_is_started(tmp_path: Path) -> None:
    """The directory may be anybody's."""
    for name in ("asyncio", "cluster", "hls", "pyrtmp", "uvloop"):
        (tmp_path / "here" / name).mkdir(parents=True)
        (tmp_path / "here" / name / "__init__.py").write_text("raise SystemExit('loaded')\n")
    async with real_node(tmp_path / "node", command=("env", f"--chdir={tmp_path / 'here'}", str(COMMAND))) as node:
        await node.settled()


async def test_it_ends_on_ctrl_c(tmp_path: Path) -> None:
    async with real_node(tmp_path, ends=True) as node:
        publisher = await node.publish("live/a", 0)
        viewers = [await node.play("live/a", each) for each in (0, 1)]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > 2)
        pids = {node.pid, *node.children()}
        os.killpg(node.pid, signal.SIGINT)
        for viewer in viewers:
            await viewer.ended()
            assert viewer.error is None and not viewer.damaged  # told, not cut off
        await publisher.lost()
        assert await wait_for_exit(node.process) == 0
        assert not any(map(exists, pids))
        assert not node.events("worker_lost", "supervisor_lost")


@pytest.mark.parametrize("after", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
async def test_it_ends_while_it_starts(tmp_path: Path, how: signal.Signals, after: float) -> None:
    node = await start_node(tmp_path, ready=False)
    try:
        await asyncio.sleep(after)
        pids = {node.pid, *node.children()}
        node.process.send_signal(how)
        await wait_for_exit(node.process, 5.0)
        await eventually(lambda: not any(map(exists, pids)))
        said = node.said()
        if not any("init_import_site" in line for line in said):  # Python itself was not ready for a signal
            assert not [line for line in said if "Traceback" in line], said
    finally:
        await node.close()
        end_tree(node.pid)
        node.process.wait()


async def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    node = await start_node(tmp_path)
    try:
        viewer, publisher = await node.play("live/a", 1), await node.publish("live/a", 0)
        await viewer.until(lambda frames: len(frames) > 2)
        workers = node.children()
        stopped = (await node.pids())[1]
        os.kill(stopped, signal.SIGSTOP)
        os.kill(node.pid, signal.SIGKILL)
        await eventually(lambda: not any(map(exists, workers)))
        await publisher.lost()
        await viewer.ended()
        for port in node.ports.values():
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
                listener.listen()
    finally:
        await node.close()
        end_tree(node.pid)
        node.process.wait()


async def test_a_worker_that_dies_at_once_is_not_started_in_a_loop(tmp_path: Path) -> None:
    async with real_node(tmp_path) as node:
        publisher = await node.publish("live/a", 1)
        viewer = await node.play("live/a", 1)
        await asyncio.sleep(1.1)  # it has lived
        pauses = []
        for _ in range(5):
            pid, wall = (await node.pids())[0], now()
            os.kill(pid, signal.SIGKILL)
            lost = await node.event("worker_lost", wall, worker=0)
            pauses.append(node.events("worker_lost")[-1]["replaced_in_seconds"])
            await node.event("worker_ended", wall, worker=0, pid=pid, how="signal 9")
            back = await node.event("worker_ready", wall, worker=0, timeout=20.0)
            assert back - lost >= pauses[-1] - 0.01
        assert pauses == [0, 0, 0.5, 1.0, 2.0]
        # Once it lived, all is forgotten.
        await asyncio.sleep(1.1)
        wall = now()
        os.kill((await node.pids())[0], signal.SIGKILL)
        await node.event("worker_lost", wall, worker=0, replaced_in_seconds=0.0)
        sent = await publisher.stop()
        await viewer.until(lambda frames: frames[-1].number == sent - 1)
        assert not viewer.faults() + viewer.missing(sent)


@pytest.mark.parametrize("executable", ["/bin/false", "/nonexistent"])
async def test_workers_that_cannot_start(tmp_path: Path, executable: str) -> None:
    code = f"import sys; sys.executable = {executable!r}; from cluster.cli import main; sys.exit(main(sys.argv[1:]))"
    node = await start_node(tmp_path, command=(sys.executable, "-c", code), ready=False)
    try:
        assert await wait_for_exit(node.process, 20.0) == 1
        assert [line for line in node.said() if line.startswith("pyrtmp: ")] == node.said()
        assert len(node.said()) == 1 and "worker" in node.said()[0]
    finally:
        await node.close()
        end_tree(node.pid)
        node.process.wait()


# Settings


async def test_new_settings_reach_the_workers(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("")
    async with real_node(tmp_path, config=file) as node:
        publisher = await node.publish("live/a", 0)
        viewers = [await node.play("live/a", each) for each in (0, 1)]
        file.write_text('[node]\nid = "other"\n[egress]\nmin_delay_ms = 350\n')
        wall = now()
        os.kill(node.pid, signal.SIGHUP)
        await node.event("reloaded", wall, changed="egress.min_delay_ms", needs_restart="node.id")
        since = monotonic() + 0.5
        for viewer in viewers:
            await viewer.until(lambda frames: frames and frames[-1].sent > since + 2.0)
            arrivals = [frame.arrived for frame in viewer.frames if frame.arrived > since]
            pauses = sum(after - before > 0.25 for before, after in pairwise(arrivals))
            assert pauses >= 3, "one of the workers serves as before"  # of six or seven
            assert not viewer.faults()
        # One that comes later has them too.
        os.kill((await node.pids())[1], signal.SIGKILL)
        await node.event("worker_ready", wall, worker=1)
        late, since = await node.play("live/a", 1), monotonic()
        await late.until(lambda frames: frames and frames[-1].sent > since + 1.0)
        assert late.longest_silence() > 0.25
        status, answer = await node.order("POST", "/api/v1/reload")
        assert (status, answer["changed"], answer["needs_restart"]) == (200, [], ["node.id"])
        assert publisher.alive


# Counting


async def test_totals_never_go_back(tmp_path: Path) -> None:
    async with real_node(tmp_path) as node:
        publishers = [await node.publish(f"live/{worker}", worker) for worker in (0, 1)]
        for worker in (0, 1):
            for key in ("live/0", "live/1"):
                await (await node.play(key, worker)).until(lambda frames: len(frames) > FPS)
        await eventually(lambda: _total(node, 'pyrtmp_plays_total{protocol="rtmp"}', 4))
        before = await node.metrics()
        assert before["pyrtmp_publishes_total"] == 2
        assert before['pyrtmp_viewers{protocol="rtmp"}'] == 4
        for number in range(3):
            os.kill((await node.pids())[number % 2], signal.SIGKILL)
            deadline = monotonic() + 20.0
            while before["pyrtmp_worker_restarts_total"] <= number or len(await node.workers()) < 2:
                assert monotonic() < deadline
                after = await node.metrics()
                totals = [name for name in before if name.partition("{")[0].endswith("_total")]
                assert len(totals) > 10
                assert not [name for name in totals if after.get(name, 0) < before[name]]
                before = after
                await asyncio.sleep(0.02)
        assert before["pyrtmp_worker_restarts_total"] == 3
        assert len(publishers) == 2


async def _total(node: RealNode, name: str, wanted: float) -> bool:
    return (await node.metrics())[name] == wanted
