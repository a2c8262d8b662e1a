"""``pyrtmp.timeline``: unwrapping, steps back, jumps, headers with strange stamps, publisher after publisher."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.timeline import AHEAD_MS, MIN_GAP_MS, STEP_BACK_MS, Timeline

WRAP = 1 << 32
raws = st.integers(0, WRAP - 1)


def feed(timeline: Timeline, *raw: int) -> list[int]:
    return [timeline.frame(each % WRAP) for each in raw]


@pytest.mark.parametrize("start", [0, 1, 0xFFFFFF, 1 << 31, WRAP - 1])
def test_the_first_frame_keeps_its_own_time(start: int) -> None:
    assert feed(Timeline(), start, start + 40) == [start, start + 40]


def test_roll_over_goes_on_upwards_even_with_a_step_back_across_it() -> None:
    start = WRAP - 30
    assert feed(Timeline(), start, WRAP + 10, WRAP - 5, WRAP + 50) == [start, WRAP + 10, WRAP - 5, WRAP + 50]


def test_many_roll_overs_add_up() -> None:
    timeline = Timeline()
    times = [timeline.frame(n * (WRAP // 4) % WRAP) for n in range(20)]
    assert times == [n * (WRAP // 4) for n in range(20)]


def test_jumps_are_relayed_as_they_are() -> None:
    assert feed(Timeline(), 1000, 3_600_000, 40) == [1000, 3_600_000, 40]


@given(start=raws, steps=st.lists(st.integers(-(WRAP // 2) + 1, WRAP // 2 - 1)))
def test_any_walk_with_steps_below_half_the_range_is_unwrapped_exactly(start: int, steps: list[int]) -> None:
    timeline = Timeline()
    time = start
    assert timeline.frame(start) == start
    for step in steps:
        time += step
        assert timeline.frame(time % WRAP) == time
        assert timeline.time == time


@given(numbers=st.lists(raws, min_size=1))
def test_whatever_comes_out_is_what_came_in_modulo_the_range(numbers: list[int]) -> None:
    assert [time % WRAP for time in feed(Timeline(), *numbers)] == numbers


def test_headers_before_the_first_frame_do_not_start_the_timeline() -> None:
    timeline = Timeline()
    assert timeline.other(0) == 0
    assert not timeline.started
    assert timeline.frame(3_000_000_000) == 3_000_000_000


@given(start=raws, stray=raws)
def test_headers_with_any_stamp_stay_near_the_frames_and_do_not_move_them(start: int, stray: int) -> None:
    timeline = Timeline()
    timeline.frame(start)
    assert -STEP_BACK_MS <= timeline.other(stray) - start <= AHEAD_MS
    assert timeline.frame((start + 40) % WRAP) == start + 40


def test_headers_stamped_like_their_frames_keep_their_stamp() -> None:
    timeline = Timeline()
    timeline.frame(WRAP - 10)
    assert timeline.other(5) == WRAP + 5
    assert timeline.other(WRAP - 50) == WRAP - 50
    assert timeline.other(AHEAD_MS - 10) == WRAP - 10 + AHEAD_MS
    assert timeline.other(AHEAD_MS - 9) == WRAP - 10
    assert timeline.other(WRAP - 10 - STEP_BACK_MS - 1) == WRAP - 10


def test_another_publisher_goes_on_later_by_the_gap() -> None:
    timeline = Timeline()
    feed(timeline, 5000)
    timeline.restart(2500)
    assert timeline.other(0) == 7500
    assert feed(timeline, 123_456, 123_496) == [7500, 7540]


def test_another_publisher_at_once_still_begins_behind_everything_seen() -> None:
    timeline = Timeline()
    feed(timeline, 5000, 4900)
    timeline.restart(0)
    assert timeline.frame(0) == 5000 + MIN_GAP_MS


def test_after_a_jump_back_the_next_publisher_goes_on_from_there() -> None:
    timeline = Timeline()
    feed(timeline, 3_600_000, 40, 80)
    timeline.restart(1000)
    assert timeline.frame(0) == 1080


def test_publishers_without_a_frame_only_add_their_gap() -> None:
    timeline = Timeline()
    timeline.restart(1000)
    assert timeline.frame(77) == 77, "nothing was seen before: nothing to continue"
    timeline.restart(1000)
    timeline.restart(500)
    timeline.restart(-5)
    assert timeline.frame(9) == 1577


@given(
    sessions=st.lists(st.tuples(raws, st.lists(st.integers(0, 500), max_size=8), st.integers(-10, 20_000)), min_size=1)
)
def test_publisher_after_publisher_is_monotonic(sessions: list[tuple[int, list[int], int]]) -> None:
    timeline = Timeline()
    seen = -1
    for number, (start, steps, gap) in enumerate(sessions):
        if number:
            timeline.restart(gap)
        raw = start
        for step in (0, *steps):
            raw += step
            time = timeline.frame(raw % WRAP)
            assert time >= seen
            seen = time


# A stream that another process writes for a while


def test_it_goes_on_from_where_another_process_had_got() -> None:
    timeline = Timeline()
    timeline.follow(10_000)
    timeline.follow(10_040)
    assert (timeline.time, timeline.reached) == (10_040, 10_040)
    timeline.restart(500)
    assert feed(timeline, 0, 40) == [10_540, 10_580]


def test_it_follows_back_as_well_but_goes_on_from_the_last_place() -> None:
    timeline = Timeline()
    feed(timeline, 5000)
    timeline.restart(0)
    timeline.follow(3000)
    timeline.restart(0)
    assert feed(timeline, 77) == [3000 + MIN_GAP_MS]


def test_how_far_it_has_got_is_the_track_that_is_ahead() -> None:
    timeline = Timeline()
    assert timeline.reached == 0
    feed(timeline, 1000, 1400, 1040)
    assert (timeline.time, timeline.reached) == (1040, 1400)
    feed(timeline, 1300)
    assert timeline.reached == 1400
    feed(timeline, 1500)
    assert timeline.reached == 1500
    # A jump is not order: there is no way back from it.
    feed(timeline, 100)
    assert timeline.reached == 100


@given(
    before=st.lists(st.integers(0, 3000), min_size=1), gap=st.integers(0, 5000), start=raws,
    after=st.lists(st.integers(0, 3000)),
)
def test_who_goes_on_elsewhere_never_reaches_back(before: list[int], gap: int, start: int, after: list[int]) -> None:
    """As when a publisher moves: the one process says how far it has got, the other follows and begins."""
    old, new = Timeline(), Timeline()
    raw = 0
    seen = [old.frame(0)]
    for step in before:
        # Two tracks, one up to a second ahead of the other.
        raw += step
        seen += [old.frame(raw + STEP_BACK_MS - 1), old.frame(raw)]
    new.follow(old.reached)
    new.restart(gap)
    raw = start
    first = new.frame(raw)
    assert first == old.reached + max(gap, MIN_GAP_MS)
    assert first > max(seen[-2:])
    for step in after:
        raw = (raw + step) % WRAP
        assert new.frame(raw) >= first
