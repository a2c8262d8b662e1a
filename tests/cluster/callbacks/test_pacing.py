"""``cluster.callbacks.pacing``, and what it means for clients."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from cluster.callbacks.pacing import RateLimiter
from pyrtmp.errors import RefusedError
from tests.cluster.callbacks.backend import BackEnd, config, publishing
from tests.cluster.running import running


async def test_no_more_than_so_many() -> None:
    limiter, since = RateLimiter(50), monotonic()
    await asyncio.gather(*(limiter.turn() for _ in range(60)))
    assert monotonic() - since > 0.19  # a second's worth at once, and ten more


async def test_any_number() -> None:
    limiter = RateLimiter(0)
    async with asyncio.timeout(10):
        await asyncio.gather(*(limiter.turn() for _ in range(10_000)))


async def test_who_gives_up_costs_the_others_nothing() -> None:
    limiter = RateLimiter(4)
    for _ in range(4):
        await limiter.turn()
    since = monotonic()
    waiting = [asyncio.ensure_future(limiter.turn()) for _ in range(20)]
    await asyncio.sleep(0)
    for each in waiting[:-1]:
        each.cancel()
    await waiting[-1]
    assert monotonic() - since < 2.5  # of the five that all of them would have taken


async def test_questions_beyond_it_wait_and_then_fail(back_end: BackEnd) -> None:
    some = config(back_end.url, "mediamtx", "callbacks.per_second=2", "callbacks.deadline_seconds=1.2")
    async with running(some) as node:
        answers = await asyncio.gather(
            *(_publish_once(node, f"live/{number}") for number in range(10)), return_exceptions=True
        )
        assert all(answer is None or isinstance(answer, RefusedError) for answer in answers)
        # Two at once, and two in each second of those 1.2.
        assert len(back_end.asked) == answers.count(None) == 4
        assert node.server.counters.refused == {"callback_failed": 6}


async def _publish_once(node: object, stream: str) -> None:
    async with publishing(node, stream):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("per_second", [0.5, 1])
async def test_less_than_one_a_second(per_second: float) -> None:
    limiter = RateLimiter(per_second)
    await limiter.turn()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await limiter.turn()
