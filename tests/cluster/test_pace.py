from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.pace import DRIFT, Pace


def run(pace: Pace, looks: list[tuple[float, float]], session: int = 1) -> float:
    for now, time in looks:
        pace.look(now, time, session)
    return pace.behind


def test_a_publisher_that_keeps_up() -> None:
    assert run(Pace(), [(100 + second, float(second)) for second in range(60)]) == pytest.approx(0, abs=0.04)


def test_a_line_at_four_fifths_of_the_bit_rate() -> None:
    assert run(Pace(), [(100 + second, second * 0.8) for second in range(11)]) == pytest.approx(2.0, abs=0.3)


def test_one_that_falls_silent_gets_further_behind() -> None:
    pace = Pace()
    run(pace, [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)])
    assert run(pace, [(3.0, 2.0), (7.0, 2.0)]) == pytest.approx(5, abs=0.01)


def test_nothing_has_come_yet() -> None:
    assert run(Pace(), [(0.0, 0.0), (5.0, 0.0), (9.0, 0.0)]) == 0


def test_the_next_publisher_begins_anew() -> None:
    pace = Pace()
    assert run(pace, [(0.0, 0.0), (1.0, 1.0), (9.0, 1.0)]) > 7
    assert run(pace, [(10.0, 1.0), (11.0, 10.0), (12.0, 11.0)], session=2) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("jump", [-30.0, 30.0])
def test_a_jump_of_the_timestamps_is_no_delay(jump: float) -> None:
    looks = [(float(second), float(second)) for second in range(10)]
    looks += [(float(second), second + jump) for second in range(10, 20)]
    assert run(Pace(), looks) == pytest.approx(0, abs=0.05)


def test_catching_up_is_seen() -> None:
    pace = Pace()
    assert run(pace, [(0.0, 0.0), (1.0, 1.0), (6.0, 2.0)]) > 3.9
    assert run(pace, [(7.0, 7.0)]) < 0.1


@given(st.floats(-0.0001, 0.0001), st.integers(1, 24))
def test_clocks_that_differ_are_no_delay(drift: float, hours: int) -> None:
    looks = [(float(now), now * (1 + drift)) for now in range(0, hours * 3600, 60)]
    assert run(Pace(), looks) <= 60 * DRIFT
