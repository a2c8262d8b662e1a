"""Every alert of config/alerts.yml fires on a fault of a real node, and a node that is well beside it has none.

All faults are planted at once; a real Prometheus watches all nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import shutil
import signal
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus import PATIENCE, Prometheus, prometheus

from cluster.access.keys import hash_key, new_key
from config.ports import free_ports
from pyrtmp import Client, Message
from pyrtmp.errors import RefusedError
from pyrtmp.message import AGGREGATE, AUDIO
from tests.cluster.tls.authority import Authority
from tests.cluster.topologies import Cluster, cluster
from tests.cluster.workers.real_node import FPS, RealNode, descriptors, eventually, now

EXPECTED: dict[str, set[str]] = {
    "well": set(),
    "gone": {"NodeDown"},
    "leaving": {"NodeDrainsForLong", "CertificateExpiresSoon", "MediaNotKept"},
    "busy": {"NodeIsBusy", "ProcessorIsFull", "WorkerReplaced"},
    "late": {"EventLoopIsLate", "NodeIsBusy"},
    "slow": {
        "IngestBehindRealTime", "FirstFrameIsSlow", "ViewersAreSkipped", "NetworkLosesSegments", "RecordingFails",
    },
    "lonely": {
        "RegistryAway", "PullsFail", "ViewersWaitForPublisher", "StreamFailureRate", "ForwardDown", "ManyRefused",
        "OutOfDescriptorsSoon",
    },
}
"""By node: what fires.  On one that is ill more may, where the machine is slow; on one that is well nothing does."""

TOLD = {
    "leaving": {"log_failed"},
    "busy": {"worker_lost", "worker_ended"},
    "slow": {"recording_failed"},
    "lonely": {"upstream_failed", "forward_failed", "refused"},
}
"""By node: lines of the log that the alerts send the reader to."""

_FULL = "max_over_time(min_over_time(pyrtmp_worker_busiest_share[3s])[1m:1s]) > 0.9"
"""Whether a process had nearly a core for three seconds on end."""

_SO_ATTACH_FILTER = 26  # of Linux; Python's socket module does not name it


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
async def test_every_alert_fires_on_a_real_fault(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        await _start(nodes, tmp_path)
        names = {f"127.0.0.1:{node.ports['api']}": name for name, node in nodes.nodes.items()}
        async with prometheus(tmp_path, names) as server:
            assert {rule["name"] for rule in await server.rules()} == set().union(*EXPECTED.values())
            # It must have seen what is counted before that rises.
            await eventually(lambda: server.all_up(names), PATIENCE)
            await _plant_and_watch(nodes, server, names)
        for name, events in TOLD.items():
            assert {each["event"] for each in nodes.nodes[name].events()} >= events


async def _start(nodes: Cluster, directory: Path) -> None:
    nodes.redis.start()
    well = await nodes.start("well")
    await well.publish("live/cam")
    await well.play("live/cam")
    certificate = Authority(directory).issue(days=5)
    rtmps, dead = free_ports(2)
    no_directory = directory / "file"
    no_directory.touch()
    settings = {
        "gone": [],
        "leaving": [
            f"edge.origins={nodes.rtmp('well')}", "node.drain_seconds=600", f"rtmps.listen=127.0.0.1:{rtmps}",
            *certificate.settings,
        ],
        "busy": ["node.workers=1"],
        "late": [],
        "slow": [
            "stream.gop_seconds=1", "stream.log_seconds=1", "timeouts.write_stall=60", "record.streams=lessons/*",
            f"record.directory={no_directory / 'recordings'}",
        ],
        "lonely": [
            f"registry.url={nodes.redis.url}", f"edge.origins=127.0.0.1:{dead}", "stream.play_wait_seconds=3",
            f'forward.apps={{"fwd": ["127.0.0.1:{dead}"]}}', "timeouts.handshake=60",
            'access.rules=["publish members/* key"]', f'access.keys=["publish members/* {hash_key(new_key())}"]',
        ],
    }  # fmt: skip
    async with asyncio.TaskGroup() as starting:
        for name, own in settings.items():
            starting.create_task(nodes.start(name, *own))


async def _plant_and_watch(nodes: Cluster, server: Prometheus, names: Mapping[str, str]) -> None:
    """Until every alert has fired that should; ``names`` of the nodes by address."""
    fired: dict[str, set[str]] = {name: set() for name in EXPECTED}
    faults = [asyncio.create_task(fault(nodes)) for fault in FAULTS]

    async def all_fired() -> bool:
        for fault in faults:
            if fault.done():
                fault.result()
        for alert in await server.firing():
            fired[names[alert["labels"]["instance"]]].add(alert["labels"]["alertname"])
            for text in alert["annotations"].values():
                assert text and "<no value>" not in text and "{{" not in text, alert
        return all(fired[name] >= expected for name, expected in EXPECTED.items())

    try:
        deadline = monotonic() + PATIENCE
        while monotonic() < deadline and not await all_fired():
            await asyncio.sleep(0.2)
    finally:
        for fault in faults:
            fault.cancel()
        await asyncio.gather(*faults, return_exceptions=True)
    missing = {name: expected - fired[name] for name, expected in EXPECTED.items()}
    if missing["busy"] and not await server.query(_FULL):
        missing["busy"] -= {"ProcessorIsFull", "NodeIsBusy"}  # this machine had no whole core for it
    assert not any(missing.values()), missing
    assert not fired["well"]


# Faults: each goes on until it is cancelled, or has been planted when it returns.


async def _machine_dies(nodes: Cluster) -> None:
    await nodes.kill("gone")


async def _viewer_stays(nodes: Cluster) -> None:
    """At a node that drains; its stream goes on, but there is no memory left for it: its files may not grow."""
    leaving = nodes.nodes["leaving"]
    viewer = await leaving.play("live/cam")
    await viewer.until(len)
    status, _ = await leaving.order("POST", "/api/v1/drain")
    assert status == 200
    _limit(leaving, resource.RLIMIT_FSIZE, 200_000)


async def _worker_dies(nodes: Cluster) -> None:
    """And the one in its place gets an encoder that sends sound in crumbs, as many as the node takes."""
    busy = nodes.nodes["busy"]
    [pid] = (await busy.pids()).values()
    killed = now()
    os.kill(pid, signal.SIGKILL)
    await busy.event("worker_ready", killed)
    pid = busy.events("worker_ready")[-1]["pid"]
    with contextlib.suppress(OSError):  # where this is allowed: a core of its own, whatever else this machine does
        os.setpriority(os.PRIO_PROCESS, pid, -10)
        Path(f"/proc/{pid}/autogroup").write_text("-10")
    crumb = bytes((AUDIO, 0, 0, 2, *bytes(7), 0xAF, 1, 0, 0, 0, 13))  # as in FLV: tag header, data, size of both
    client = await Client.connect(busy.rtmp("live/crumbs"))
    try:
        await client.publish()
        while True:
            await client.send(Message(AGGREGATE, 0, 1, crumb * 500))
    finally:
        await client.close()


async def _machine_is_paused(nodes: Cluster) -> None:
    """Again and again, as a virtual one is that gets too little of the real one."""
    while True:
        nodes.signal("late", signal.SIGSTOP)
        await asyncio.sleep(0.6)
        nodes.signal("late", signal.SIGCONT)
        await asyncio.sleep(0.2)


async def _descriptors_are_taken(nodes: Cluster) -> None:
    """By clients that say nothing."""
    lonely = nodes.nodes["lonely"]
    _limit(lonely, resource.RLIMIT_NOFILE, 200)
    with contextlib.ExitStack() as clients:
        for _ in range(170 - sum(descriptors(lonely.pid).values())):
            clients.enter_context(socket.create_connection(("127.0.0.1", lonely.ports["rtmp"])))
        await asyncio.Event().wait()


async def _nobody_has_it(nodes: Cluster) -> None:
    """What viewers ask for, and the origin is away."""
    lonely = nodes.nodes["lonely"]

    async def miss() -> None:
        async with lonely.http.get(f"http://127.0.0.1:{lonely.ports['http']}/live/nobody.flv") as response:
            assert response.status == 404

    await asyncio.gather(*(miss() for _ in range(15)))


async def _encoder_is_held_up(nodes: Cluster) -> None:
    publisher = await nodes.nodes["slow"].publish("live/late")
    await eventually(lambda: publisher.sent > FPS)
    publisher.fall_silent()


async def _key_frames_are_rare(nodes: Cluster) -> None:
    """More so than what is kept for joiners."""
    slow = nodes.nodes["slow"]
    publisher = await slow.publish("live/rare", gop=5 * FPS)
    await eventually(lambda: publisher.sent > 1.2 * FPS)
    for _ in range(12):
        await slow.play("live/rare")


async def _lines_are_bad(nodes: Cluster) -> None:
    """Those of all viewers: they lose segments, and take much less than the stream has."""
    slow = nodes.nodes["slow"]
    publisher = await slow.publish("live/fat", size=40_000)
    await eventually(lambda: publisher.sent)
    await asyncio.gather(*(_watch_badly(slow, "live/fat") for _ in range(12)))


async def _target_is_away(nodes: Cluster) -> None:
    await nodes.nodes["lonely"].publish("fwd/cam")


async def _recordings_have_no_place(nodes: Cluster) -> None:
    """Above their directory there is a file, which stops root, too."""
    await nodes.nodes["slow"].publish("lessons/cam")


async def _registry_dies(nodes: Cluster) -> None:
    nodes.redis.kill()


async def _encoder_has_a_wrong_key(nodes: Cluster) -> None:
    """And tries again and again."""
    lonely = nodes.nodes["lonely"]
    while True:
        client = await Client.connect(lonely.rtmp(f"members/cam?key={new_key()}"))
        try:
            with pytest.raises(RefusedError):
                await client.publish()
        finally:
            await client.close()
        await asyncio.sleep(0.05)


FAULTS: tuple[Callable[[Cluster], Coroutine[Any, Any, None]], ...] = (
    _machine_dies, _viewer_stays, _worker_dies, _machine_is_paused, _descriptors_are_taken, _nobody_has_it,
    _encoder_is_held_up, _key_frames_are_rare, _lines_are_bad, _target_is_away, _recordings_have_no_place,
    _registry_dies, _encoder_has_a_wrong_key,
)  # fmt: skip


def _limit(node: RealNode, what: int, soft: int) -> None:
    _, hard = resource.prlimit(node.pid, what)
    resource.prlimit(node.pid, what, (soft, hard))


async def _watch_badly(node: RealNode, key: str) -> None:
    """By HTTP-FLV, 80 kB/s at most."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)  # as on Ethernet
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", node.ports["http"]))
        _lose_segments(sock)
        await loop.sock_sendall(sock, f"GET /{key}.flv HTTP/1.1\r\nHost: node\r\n\r\n".encode())
        while await loop.sock_recv(sock, 8192):
            await asyncio.sleep(0.1)
        raise AssertionError(f"{key} ended")


def _lose_segments(sock: socket.socket) -> None:
    """Have the kernel drop one in five that arrive, before TCP sees it (socket(7), SO_ATTACH_FILTER)."""
    program = (
        (0x20, 0, 0, 0xFFFFF038),  # ld: a random number (linux/filter.h, SKF_AD_RANDOM)
        (0x35, 1, 0, (1 << 32) // 5),  # jge: over the next one
        (0x06, 0, 0, 0),  # ret: drop it
        (0x06, 0, 0, 0xFFFFFFFF),  # ret: keep it whole
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    filter = struct.pack("HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter)
