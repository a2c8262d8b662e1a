"""A back end that hangs, fails or talks nonsense about some clients of a real node: who else notices."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from pyrtmp import Client
from pyrtmp.errors import RefusedError
from tests.cluster.callbacks.backend import Answer, BackEnd, cut, endless, hang, status
from tests.cluster.workers.real_node import RealNode, real_node

DIALECTS = ("srs", "nginx-rtmp", "mediamtx")
BAD: dict[str, Answer] = {"bad-hang": hang, "bad-500": status(500), "bad-cut": cut, "bad-endless": endless}
CLIENTS = 4
"""Of each kind."""
DEADLINE = 2.0
"""Seconds that a question may take."""


async def bad(node: RealNode, name: str, what: str) -> tuple[str, float]:
    """Publish or play; how that was refused, and after how many seconds."""
    since = monotonic()
    async with await Client.connect(node.rtmp(f"live/{name}")) as client:
        try:
            if what == "publish":
                await client.publish()
            else:
                await anext(client.play())
        except RefusedError as error:
            return error.code, monotonic() - since
    return "", monotonic() - since


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_it_harms_the_clients_in_question_only(
    back_end: BackEnd, tmp_path: Path, dialect: str, workers: int
) -> None:
    back_end.answers |= BAD
    settings = (
        f"callbacks.url={back_end.url}", f"callbacks.dialect={dialect}", f"callbacks.deadline_seconds={DEADLINE}",
        "callbacks.retries=0", "access.failures_per_minute=0",
    )  # fmt: skip
    async with real_node(tmp_path, *settings, workers=workers) as node:
        publisher = await node.publish("live/good")
        viewers = [await node.play("live/good") for _ in range(2)]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > 5)
        since = monotonic()
        # Endless answers matter to SRS alone: the others are told all by the status.
        kinds = [name for name in BAD if dialect == "srs" or name != "bad-endless"]
        asked = [
            asyncio.create_task(bad(node, f"{name}-{number}", what))
            for name in kinds for number in range(CLIENTS) for what in ("publish", "play")
        ]  # fmt: skip
        await back_end.until("bad-hang", 2 * CLIENTS)

        began = monotonic()
        newcomers = [await node.publish("live/another"), await node.play("live/good")]
        await newcomers[1].until(lambda frames: len(frames) > 1)  # type: ignore[union-attr]
        assert monotonic() - began < DEADLINE  # while the others wait for their answers

        for code, seconds in await asyncio.gather(*asked):
            assert code in ("NetStream.Publish.Denied", "NetStream.Play.Failed")
            assert seconds < DEADLINE + 3
        for viewer in viewers:
            assert not viewer.faults() and viewer.longest_silence(since) < DEADLINE
        assert publisher.alive and newcomers[0].alive  # type: ignore[union-attr]
