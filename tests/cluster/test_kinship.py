"""Nodes with ``node.secret``: who proves it is believed and not asked again; others are clients like any other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.access.keys import hash_key, new_key
from cluster.config import load
from cluster.node import Node
from cluster.publish import publish
from pyrtmp import Client, RefusedError
from pyrtmp.kin import Kin
from pyrtmp.kinship import ASKS, Kinship, admission
from pyrtmp.names import StreamKey
from tests.cluster.conftest import HERE
from tests.cluster.workers.real_node import eventually, real_node

CAM = "live/cam"
SECRET = "what-all-nodes-of-the-cluster-know"
OTHER = "what-nodes-of-some-other-cluster-know"
PUBLISH, PLAY = new_key(), new_key()
MINE = new_key()
"""One that only edges know."""


def rules(publish: str, play: str) -> list[str]:
    keys = f'access.keys=["publish * {hash_key(publish)}", "play * {hash_key(play)}"]'
    return ['access.rules=["* * key"]', keys]


class Cluster:
    """Nodes of this process, and what they logged."""

    def __init__(self, clip: Path, logged: list[Any]) -> None:
        self._clip = clip
        self._logged = logged
        self._nodes: list[Node] = []
        self._publishing: list[asyncio.Task[object]] = []

    async def origin(self, secret: str) -> Node:
        """Asks for ``PUBLISH`` and ``PLAY``."""
        return await self._start("origin", secret, *rules(PUBLISH, PLAY))

    async def edge(self, origin: Node, secret: str, *settings: str, scheme: str = "rtmp") -> Node:
        place = origin.http_address if scheme == "http" else origin.rtmp_address
        return await self._start("edge", secret, "node.role=edge", f"edge.origins={scheme}://{place}", *settings)

    async def _start(self, name: str, secret: str, *settings: str) -> Node:
        secrets = [f"node.secret={secret}"] if secret else []
        node = Node(load(None, [*HERE, f"node.id={name}", *secrets, *settings], {}))
        await node.start()
        self._nodes.append(node)
        return node

    async def publish(self, node: Node, stream: str) -> None:
        """Until the end of the test."""
        started = asyncio.Event()
        url = f"rtmp://{node.rtmp_address}/{stream}"
        self._publishing.append(asyncio.create_task(publish(self._clip, url, repeat=True, started=started.set)))
        await started.wait()

    def logged(self, *events: str) -> list[Any]:
        return [each for each in self._logged if each["event"] in events]

    def doubts(self) -> dict[str, set[str]]:
        """Why, by who wrote it: of a client or of an upstream."""
        found: dict[str, set[str]] = {"origin": set(), "edge": set()}
        for event in self.logged("kin_unproven"):
            assert event["address"] == "127.0.0.1" and event["log_level"] == "warning"
            found["origin" if "conn" in event else "edge"].add(event["why"].partition(": ")[0])
        return found

    async def close(self) -> None:
        for task in self._publishing:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, RefusedError):
                await task
        for node in reversed(self._nodes):
            await node.close()
        text = str(self._logged)
        assert not any(secret in text for secret in (SECRET, OTHER, PUBLISH, PLAY, MINE))


@pytest.fixture
async def cluster(clip: Path) -> AsyncIterator[Cluster]:
    with capture_logs() as logged:
        cluster = Cluster(clip, logged)
        yield cluster
        await cluster.close()


async def watch(node: Node, stream: str) -> None:
    """Until pictures have come.  Raises ``RefusedError``."""
    async with asyncio.timeout(10), await Client.connect(f"rtmp://{node.rtmp_address}/{stream}") as client:
        messages = client.play()
        for _ in range(10):
            await anext(messages)
        await messages.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", ["rtmp", "http"])
async def test_whom_the_edge_let_in_the_origin_does_not_ask(cluster: Cluster, scheme: str) -> None:
    origin = await cluster.origin(SECRET)
    edge = await cluster.edge(origin, SECRET, *rules(MINE, MINE), scheme=scheme)
    await cluster.publish(origin, f"{CAM}?key={PUBLISH}")
    await watch(edge, f"{CAM}?key={MINE}")
    (pulling,) = cluster.logged("pulling")
    assert pulling["node"] == "origin"  # so it is believed, too
    assert not cluster.logged("kin_unproven", "refused")
    with pytest.raises(RefusedError, match="permission"):
        await watch(edge, f"{CAM}?key={PLAY}")


@pytest.mark.parametrize("scheme", ["rtmp", "http"])
@pytest.mark.parametrize(
    "settings",
    [(), (*rules(MINE, MINE), 'access.rules=["publish * key"]'), ("callbacks.on_publish=http://127.0.0.1:9",)],
)
async def test_an_edge_without_rules_asks_the_origin_for_its_viewer(
    cluster: Cluster, scheme: str, settings: Sequence[str]
) -> None:
    """It has allowed nothing, at most publishing, so that its proof opens nothing."""
    origin = await cluster.origin(SECRET)
    edge = await cluster.edge(origin, SECRET, *settings, scheme=scheme)
    await cluster.publish(origin, f"{CAM}?key={PUBLISH}")
    wrong = asyncio.create_task(watch(edge, f"{CAM}?key={PUBLISH}"))
    await eventually(lambda: cluster.logged("upstream_refused"))
    assert cluster.logged("refused")[0]["why"] and not cluster.logged("pulling")
    await watch(edge, f"{CAM}?key={PLAY}")
    assert cluster.logged("pulling")[-1]["node"] == "origin" and not cluster.logged("kin_unproven")
    wrong.cancel()
    await asyncio.wait((wrong,))


async def test_who_guesses_at_an_edge_without_rules_shuts_out_nobody_else(cluster: Cluster) -> None:
    """To the origin all of them come from one address."""
    origin = await cluster._start("origin", SECRET, *rules(PUBLISH, PLAY), "access.failures_per_minute=2")
    edge = await cluster.edge(origin, SECRET)
    await cluster.publish(origin, f"{CAM}?key={PUBLISH}")
    guessing = [asyncio.create_task(watch(edge, f"live/other?key={number}")) for number in range(4)]
    await eventually(lambda: origin.server.counters.refused["throttled"])
    await watch(edge, f"{CAM}?key={PLAY}")
    for task in guessing:
        task.cancel()
    await asyncio.wait(guessing)


async def test_what_is_published_to_an_edge(cluster: Cluster) -> None:
    """By its rules, or with what the publisher showed where it has none."""
    origin = await cluster.origin(SECRET)
    plain, strict = await cluster.edge(origin, SECRET), await cluster.edge(origin, SECRET, *rules(MINE, MINE))
    await cluster.publish(strict, f"live/by-rules?key={MINE}")
    await watch(origin, f"live/by-rules?key={PLAY}")
    await cluster.publish(plain, f"live/passed-up?key={PUBLISH}")
    await watch(origin, f"live/passed-up?key={PLAY}")
    assert not cluster.logged("refused", "kin_unproven")
    await cluster.publish(plain, "live/nothing-shown")
    await eventually(lambda: cluster.logged("refused"))


PROOF, OURS, NONE = "its proof is wrong", "it does not take this node for one of its own", "it shows no proof"


@pytest.mark.parametrize("scheme", ["rtmp", "http"])
@pytest.mark.parametrize(
    ("of_origin", "of_edge", "says_origin", "says_edge"),
    [(SECRET, OTHER, {PROOF}, {OURS}), (SECRET, "", {NONE}, {OURS}), ("", SECRET, set(), {NONE})],
)
async def test_nodes_that_do_not_know_each_other(
    cluster: Cluster, scheme: str, of_origin: str, of_edge: str, says_origin: set[str], says_edge: set[str]
) -> None:
    """Each is a client or a server of another kind to the other: the viewer's own key opens, and nothing else does."""
    origin = await cluster.origin(of_origin)
    edge = await cluster.edge(origin, of_edge, *rules(PUBLISH, PLAY), scheme=scheme)
    await cluster.publish(origin, f"{CAM}?key={PUBLISH}")
    await watch(edge, f"{CAM}?key={PLAY}")
    assert [event["node"] for event in cluster.logged("pulling")] == [None]
    assert cluster.doubts() == {"origin": says_origin, "edge": says_edge}
    assert (origin.server.counters.refused["kin_unproven"] > 0) == bool(says_origin)


async def test_a_forward_to_a_node_that_does_not_know_this_one(cluster: Cluster) -> None:
    target = await cluster.origin(SECRET)
    for secret, says in ((SECRET, {}), (OTHER, {"origin": {PROOF}, "edge": {OURS}})):
        source = await cluster._start(
            "source", secret, *rules(MINE, MINE), f"forward.to=rtmp://{target.rtmp_address}/copy"
        )
        await cluster.publish(source, f"live/{len(says)}?key={MINE}")
        if says:
            await eventually(lambda: cluster.logged("forward_failed"))
            assert cluster.doubts() == says
        else:
            await watch(target, f"copy/0?key={PLAY}")


async def test_strangers_who_say_they_are_nodes(cluster: Cluster) -> None:
    """A proof of another conversation, and one for another stream."""
    node = await cluster.origin(SECRET)
    kinship = Kinship((SECRET,))
    kin = Kin("edge", ("edge",), admits=admission("publish", StreamKey("live", "cam")))

    async def ask(name: str, binding: bytes | None) -> None:
        client = await Client.connect(
            f"rtmp://{node.rtmp_address}/{name}",
            introduce=lambda own: kinship.entry(kin, ASKS, own if binding is None else binding),
        )
        async with client:
            await client.publish()

    await ask(CAM, None)
    assert not cluster.logged("kin_unproven", "refused")
    for name, binding in (("live/another", None), (CAM, bytes(32)), ("live/another", bytes(32))):
        with pytest.raises(RefusedError, match="permission"):
            await ask(name, binding)
    assert len(cluster.logged("refused")) == 3 and len(cluster.logged("kin_unproven")) == 2


async def test_a_secret_is_changed_while_nodes_run(cluster: Cluster) -> None:
    """First both everywhere, the new one second; then the new one first; then it alone."""
    origin = await cluster.origin(SECRET)
    edge = await cluster.edge(origin, SECRET, *rules(MINE, MINE))
    for round, secrets in enumerate((f"{SECRET} {OTHER}", f"{OTHER} {SECRET}", OTHER)):
        for node in (edge, origin):
            config = node.engine.config
            changed = load(None, [f"node.secret={secrets}"], {}).node.secret
            node.engine.configure(replace(config, node=replace(config.node, secret=changed)))
            await cluster.publish(origin, f"live/{node is edge}{round}?key={PUBLISH}")
            await watch(edge, f"live/{node is edge}{round}?key={MINE}")
    assert not cluster.logged("kin_unproven")


async def test_workers(tmp_path: Path) -> None:
    """Each of them has the secret."""
    secret = f"node.secret={SECRET}"
    async with real_node(tmp_path / "origin", "node.id=o", secret, *rules(PUBLISH, PLAY), workers=1) as origin:
        origins = f"edge.origins=127.0.0.1:{origin.ports['rtmp']}"
        async with real_node(
            tmp_path / "edge", "node.id=e", secret, "node.role=edge", origins, *rules(MINE, MINE), workers=1
        ) as edge:
            await edge.publish(f"{CAM}?key={MINE}")
            viewer = await origin.play(f"{CAM}?key={PLAY}")
            await viewer.until(lambda frames: len(frames) > 5)
            assert not edge.events("kin_unproven") and not origin.events("kin_unproven", "refused")
