"""Workers that die or hang while the node serves.

In CI a few rounds; ``FAULT_ROUNDS=20`` is how the kept figures were made.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from tests.cluster.workers.real_node import (
    FPS,
    GOP,
    RealNode,
    Viewer,
    descriptors,
    eventually,
    exists,
    now,
    real_node,
)

ROUNDS: Final = int(os.environ.get("FAULT_ROUNDS", "3"))
STREAMS: Final = int(os.environ.get("FAULT_STREAMS", "2"))
"""Publishers on each worker."""
VIEWERS: Final = int(os.environ.get("FAULT_VIEWERS", "3"))
"""RTMP viewers of each stream on each worker, beside one by HTTP-FLV."""

REPLACED_SECONDS: Final = {signal.SIGKILL: 1.0, signal.SIGSTOP: 3.0}
SILENCE_SECONDS: Final = 1.0
"""Those who have nothing to do with the worker that died notice less than this; the machine is busy."""


class Round:
    """Streams on two workers, with viewers of each on both; then one of the workers is hurt."""

    def __init__(self, node: RealNode, number: int) -> None:
        self.node = node
        self.number = number
        self.victim = number % 2
        self.survivor = 1 - self.victim
        self.figures: dict[str, float] = {}

    async def begin(self) -> None:
        node = self.node
        self.publishers = {
            worker: [
                await node.publish(f"live/{self.number}-{worker}-{stream}", worker) for stream in range(STREAMS)
            ]
            for worker in (0, 1)
        }
        self.viewers: dict[tuple[int, int], list[Viewer]] = {}
        """By the worker that has the publisher, and the one that has the viewer."""
        for held in (0, 1):
            for seen in (0, 1):
                viewers = self.viewers[held, seen] = []
                for publisher in self.publishers[held]:
                    viewers.append(await node.play_flv(publisher.key, seen))
                    viewers += [await node.play(publisher.key, seen) for _ in range(VIEWERS)]
        for viewers in self.viewers.values():
            for viewer in viewers:
                await viewer.until(lambda frames: len(frames) > GOP)

    async def hurt(self, how: signal.Signals) -> None:
        pid = (await self.node.pids())[self.victim]
        self.wall, self.at = now(), monotonic()
        os.kill(pid, how)
        self.figures["replaced"] = await self.node.event("worker_ready", self.wall, worker=self.victim)
        assert self.figures["replaced"] < REPLACED_SECONDS[how]
        assert not exists(pid)

    async def come_back(self) -> None:
        """The publishers of the worker that died come again, with their clocks at 0."""
        coming = []
        for publisher in self.publishers[self.victim]:
            await publisher.lost()
            coming.append(self.node.publish_again(publisher.key, session=1))
        again = await asyncio.gather(*coming)
        self.figures["back"] = monotonic() - self.at
        stayed = self.viewers[self.victim, self.survivor]
        for viewer in stayed:
            await viewer.until(lambda frames: sum(frame.session == 1 for frame in frames) > 2 * GOP)
        self.figures["seen again"] = max(
            next(frame.arrived for frame in viewer.frames if frame.session == 1) - self.at for viewer in stayed
        )
        self.again = again

    async def judge(self) -> None:
        """Whoever is not of the worker that died lost nothing, not the connection either."""
        victim, survivor = self.victim, self.survivor
        for viewer in self.viewers[victim, victim] + self.viewers[survivor, victim]:
            await viewer.ended()
        untouched = self.viewers[survivor, survivor]
        stayed = self.viewers[victim, survivor]
        for publisher in self.publishers[survivor]:
            assert publisher.alive, publisher.error
        sent = {publisher.key: await publisher.stop() for publisher in self.publishers[survivor] + list(self.again)}
        for viewer in untouched + stayed:
            last = sent[viewer.key] - 1
            session = 1 if viewer in stayed else 0
            await viewer.until(lambda frames, wanted=(session, last): (frames[-1][:2]) >= wanted)
            assert not viewer.faults() + viewer.missing(sent[viewer.key], session)
        self.figures["silence"] = max(viewer.longest_silence(self.at) for viewer in untouched)
        assert self.figures["silence"] < SILENCE_SECONDS

    async def clear(self) -> None:
        node = self.node
        keys = [publisher.key for publishers in self.publishers.values() for publisher in publishers]
        await node.leave()
        await node.end(*keys)

        async def nothing_left() -> bool:
            return not (await node.get("/api/v1/streams"))["streams"] and not (await node.clients())

        await eventually(nothing_left)
        await node.settled()


async def footprint(node: RealNode) -> dict[str, dict[str, int]]:
    """Descriptors of the supervisor and of the workers at rest."""
    pids = {"supervisor": node.pid, **{f"worker {number}": pid for number, pid in (await node.pids()).items()}}
    return {name: descriptors(pid) for name, pid in pids.items()}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_a_worker_is_lost_and_nobody_else_notices(tmp_path: Path, how: signal.Signals) -> None:
    async with real_node(tmp_path, "stream.grace_seconds=10") as node:
        before = await footprint(node)
        worst: dict[str, float] = {}
        for number in range(ROUNDS):
            each = Round(node, number)
            await each.begin()
            await each.hurt(how)
            await each.come_back()
            await each.judge()
            await each.clear()
            print(how.name, number, {name: f"{value:.3f}" for name, value in each.figures.items()})
            for name, value in each.figures.items():
                worst[name] = max(worst.get(name, 0.0), value)
        print("worst of", ROUNDS, {name: f"{value:.3f}" for name, value in worst.items()})
        after = await footprint(node)
        assert after == before
        assert len(node.events("worker_lost")) == ROUNDS
        assert len(node.events("worker_hung")) == (ROUNDS if how is signal.SIGSTOP else 0)


async def test_time_goes_on_though_the_worker_that_knows_it_is_slow(tmp_path: Path) -> None:
    """Only the viewers' worker knows how far the stream had got, and it does nothing while the publisher comes back."""
    async with real_node(tmp_path) as node:
        first = await node.publish("live/a", 0)
        viewer = await node.play("live/a", 1)
        await viewer.until(lambda frames: len(frames) > 2 * FPS)
        # So that the publisher comes to the other one.
        idle = [(await node.connect("live/a", 1))[0] for _ in range(5)]
        pids = await node.pids()
        killed = now()
        os.kill(pids[1], signal.SIGSTOP)
        os.kill(pids[0], signal.SIGKILL)
        await first.lost()
        # Until then newcomers go to the one that does nothing.
        await node.event("worker_ready", killed, worker=0)
        coming = asyncio.create_task(node.publish_again("live/a", session=1))
        await asyncio.sleep(0.7)
        os.kill(pids[1], signal.SIGCONT)
        second = await coming
        assert await node.worker_of(second) == 0
        await viewer.until(lambda frames: frames[-1].session == 1 and frames[-1].number > GOP)
        assert not viewer.faults()
        for client in idle:
            client.abort()


async def test_a_worker_that_stands_still_for_a_second_is_not_lost(tmp_path: Path) -> None:
    async with real_node(tmp_path) as node:
        publishers = [await node.publish(f"live/{worker}", worker) for worker in (0, 1)]
        viewers = [await node.play(publisher.key, worker) for publisher in publishers for worker in (0, 1)]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > GOP)
        pid = (await node.pids())[0]
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
        for publisher in publishers:
            sent = await publisher.stop()
            for viewer in viewers:
                if viewer.key == publisher.key:
                    await viewer.until(lambda frames, last=sent - 1: frames[-1].number == last)
                    assert not viewer.faults() + viewer.missing(sent)
        assert not node.events("worker_hung", "worker_lost")
