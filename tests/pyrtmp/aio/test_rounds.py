from __future__ import annotations

import asyncio
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp import EgressSettings
from pyrtmp.aio.rounds import Rounds
from pyrtmp.counters import Counters
from tests.pyrtmp.aio.net import Net, eventually, frame, journal


def test_the_pause_follows_the_cost_within_its_bounds() -> None:
    settings = EgressSettings(share=0.1, soft_delay_ms=50, busy_share=0.5, min_delay_ms=5, max_delay_ms=300)
    rounds = Rounds(settings, Counters())
    assert rounds.delay == 0.005
    for cost, pause in (
        (0.002, 0.02),  # a share of a tenth
        (0.010, 0.05),  # rather spend more than be later
        (0.020, 0.05),
        (0.050, 0.1),  # until half of the core is gone
        (1.0, 0.3),
    ):
        for _ in range(100):
            rounds.charge(cost)
        assert rounds.delay == pytest.approx(pause, rel=0.01)


def test_one_long_round_does_not_make_the_next_ones_late() -> None:
    rounds = Rounds(EgressSettings(share=0.1), Counters())
    for _ in range(100):
        rounds.charge(0.002)
    rounds.charge(0.5)
    assert rounds.delay < 0.03


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=50),
    st.integers(0, 20), st.integers(20, 100), st.integers(100, 1000),
)  # fmt: skip
def test_reading_makes_rounds_no_rarer_than_the_soft_delay(
    rounds_taken: list[tuple[float, float]], least: int, soft: int, most: int
) -> None:
    settings = EgressSettings(min_delay_ms=least, soft_delay_ms=soft, max_delay_ms=most)
    without, rounds = Rounds(settings, Counters()), Rounds(settings, Counters())
    for cost, reading in rounds_taken:
        without.charge(cost)
        rounds.charge(cost, reading)
        assert least / 1000 <= rounds.delay <= most / 1000
        assert without.delay <= rounds.delay <= max(without.delay, soft / 1000)


def test_reading_alone_makes_rounds_rarer() -> None:
    rounds = Rounds(EgressSettings(share=0.1, soft_delay_ms=50), Counters())
    for _ in range(100):
        rounds.charge(0.0, 0.002)
    assert rounds.delay == pytest.approx(0.02, rel=0.01)


def test_settings_can_change() -> None:
    rounds = Rounds(EgressSettings(min_delay_ms=5), Counters())
    rounds.configure(EgressSettings(min_delay_ms=50, max_delay_ms=50))
    assert rounds.delay == 0.05


async def test_a_pinned_delay_bundles_messages(net: Net) -> None:
    server = await net.server(egress=EgressSettings(min_delay_ms=300, max_delay_ms=300))
    publisher, player = await net.watched(server)
    rounds = server.counters.rounds
    for n in range(1, 20):
        await publisher.write(frame(n))
    await player.until(lambda: player.numbers() == list(range(20)))
    assert server.counters.rounds - rounds <= 2


async def test_a_full_socket_does_not_make_the_loop_spin(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    await net.player(server, receive_buffer=4096)
    await publisher.write(*(frame(n, 60000, key=n == 0) for n in range(150)))
    (lane,) = server.hub.live()[0].lanes.values()
    (viewer,) = lane.viewers
    await eventually(lambda: viewer.segment is not None and not viewer.ready)
    before = server.counters.rounds
    player = await net.player(server)
    await player.until(lambda: len(player.numbers()) == 150)
    rounds = server.counters.rounds
    await asyncio.sleep(0.3)
    assert server.counters.rounds - rounds <= 20
    assert rounds > before


async def test_media_that_could_not_be_kept_are_counted_every_time_and_told_once(net: Net) -> None:
    """A file size limit is to a memory file what full memory is."""
    server = await net.server()
    publisher, player = await net.watched(server)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        for n in range(1, 4):
            await publisher.write(frame(n, 3000))
            await eventually(lambda n=n: server.counters.log_failures == n)  # type: ignore[misc]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (facts,) = journal(server).of("log_failed")
    assert facts["stream"] == "live/cam" and "OSError" in facts["error"]
    await publisher.write(frame(4, key=True))
    await player.until(lambda: player.numbers() == [0, 4])
