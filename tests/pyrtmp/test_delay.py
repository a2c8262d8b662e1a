"""``pyrtmp.delay``: the delay between two nodes whose clocks have nothing to do with each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.delay import EXCHANGES, REMEMBERED, Arrivals, Meter, Standing

seconds = st.floats(0, 1e6)
short = st.floats(0, 2)


def exchange(meter: Meter, standing: Standing, *, asked: float, there: float, back: float, ahead: float) -> None:
    """A question that takes ``there`` seconds and an answer that takes ``back``, at a node whose clock is ``ahead``."""
    meter.asked(asked)
    meter.heard(standing.entry(0.0, asked + there + ahead), asked + there + back)


@given(ahead=seconds, came=seconds, delay=short, there=short, back=short, upstream=short)
def test_the_error_is_at_most_half_the_round_trip(
    ahead: float, came: float, delay: float, there: float, back: float, upstream: float
) -> None:
    """``upstream``: how late the frame was at the node that is asked, which had it from another one."""
    meter, arrivals = Meter(), Arrivals()
    arrivals.note(40, came + delay)
    standing = Standing(40, came + ahead + upstream, upstream)
    exchange(meter, standing, asked=came + delay, there=there, back=back, ahead=ahead)
    found = meter.look(arrivals, 0.0)
    assert found is not None and found.time == 40 and found.came == came + delay
    assert abs(found.delay - delay) <= (there + back) / 2 + 1e-6
    assert meter.look(arrivals, 0.0) is None  # told once


def test_the_quickest_exchange_counts() -> None:
    meter, arrivals = Meter(), Arrivals()
    for number, queued in enumerate((3.0, 0.0, 2.0)):
        came = 100.0 + 10 * number
        arrivals.note(1000 * number, came + 0.02)
        exchange(meter, Standing(1000 * number, came + 500), asked=came, there=0.005, back=0.005 + queued, ahead=500)
    found = meter.look(arrivals, 0.0)
    assert found is not None and found.delay == pytest.approx(0.02)


def test_an_exchange_is_forgotten_after_some_others() -> None:
    """Clocks drift: what was so long ago is not so now."""
    meter, arrivals = Meter(), Arrivals()
    exchange(meter, Standing(0, 0.0), asked=1.0, there=0.0, back=0.0, ahead=0.0)
    for number in range(EXCHANGES):
        exchange(meter, Standing(0, 10.0), asked=2.0 + number, there=0.1, back=0.1, ahead=-5.0)
    arrivals.note(0, 15.25)
    found = meter.look(arrivals, 0.0)
    assert found is not None and found.delay == pytest.approx(0.25)


def test_a_frame_that_has_not_come_is_waited_for() -> None:
    meter, arrivals = Meter(), Arrivals()
    exchange(meter, Standing(2000, 7.0), asked=7.0, there=0.0, back=0.0, ahead=0.0)
    assert meter.look(arrivals, 0.0) is None
    arrivals.note(2000, 7.1)
    found = meter.look(arrivals, 0.0)
    assert found is not None and found.delay == pytest.approx(0.1)


def test_what_was_kept_for_joiners_is_no_measure() -> None:
    meter, arrivals = Meter(), Arrivals()
    arrivals.note(2000, 9.0)
    exchange(meter, Standing(2000, 2.0), asked=9.1, there=0.0, back=0.0, ahead=0.0)
    assert meter.look(arrivals, since=9.5) is None
    arrivals.note(4000, 10.0)
    assert meter.look(arrivals, since=9.5) is None  # nothing was told of this one


@pytest.mark.parametrize(
    "entry",
    [
        None, "clock", [1.0], {}, {"clock": 1.0, "time": 2.0}, {"clock": "1", "time": 2.0, "came": 0.0},
        {"clock": True, "time": 2.0, "came": 0.0}, {"clock": float("nan"), "time": 2.0, "came": 0.0},
        {"clock": 1.0, "time": float("inf"), "came": 0.0}, {"clock": 1.0, "time": 2.0, "came": 1e300},
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_ignored(entry: Any) -> None:
    meter, arrivals = Meter(), Arrivals()
    arrivals.note(2, 0.0)
    meter.asked(0.0)
    meter.heard(entry, 0.1)
    assert not meter.waiting and meter.look(arrivals, 0.0) is None


def test_an_answer_nobody_asked_for_is_ignored() -> None:
    meter, arrivals = Meter(), Arrivals()
    arrivals.note(2, 0.0)
    meter.heard({"clock": 1.0, "time": 2.0, "came": 0.5}, 0.1)
    assert meter.look(arrivals, 0.0) is None


def test_arrivals_are_those_of_the_last_seconds() -> None:
    """Sound without a picture comes every 23 ms; a node that began later remembers the same frames."""
    times = [23 * number for number in range(2000)]
    early, late = Arrivals(), Arrivals()
    for time in times:
        early.note(time, time / 1000)
    for time in times[1234:]:
        late.note(time, time / 1000)
    known = [time for time in times if early.find(time) is not None]
    assert len(known) == REMEMBERED and times[-1] - known[0] > 7500
    assert [time for time in times[1250:] if late.find(time) is not None] == known
    assert early.newest == Standing(known[-1], known[-1] / 1000)
    early.clear()
    assert early.newest is None and early.find(known[-1]) is None
