from __future__ import annotations

import asyncio
import time

from cluster.stress import Lag, stress


def test_the_busiest_of_both_counts() -> None:
    assert stress(0.8, 0.0) == 1.0
    assert stress(0.4, 0.1) == 2.0
    assert stress(0.0, 0.0) == 0.0


def test_lag_is_an_average() -> None:
    lag = Lag()
    assert lag.seconds == 0.0
    lag.note(0.2)
    assert 0.0 < lag.seconds <= 0.1
    for _ in range(20):
        lag.note(0.2)
    assert lag.seconds == 0.2
    lag.note(-1.0)
    assert 0.0 < lag.seconds < 0.2
    lag.close()  # in any state


async def test_a_loop_that_is_late() -> None:
    lag = Lag()
    lag.start()
    await asyncio.sleep(0.2)
    time.sleep(0.5)  # noqa: ASYNC251
    await asyncio.sleep(0.1)
    lag.close()
    assert lag.seconds > 0.1
