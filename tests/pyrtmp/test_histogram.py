from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.histogram import Histogram

BOUNDS = (0.1, 1.0, 10.0)
VALUES = st.lists(st.floats(0, 100))


def filled(values: list[float]) -> Histogram:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    return histogram


def test_a_bound_belongs_to_its_bucket() -> None:
    assert filled([0.0, 0.1, 0.10001, 1.0, 10.0, 10.5]).counts == [2, 2, 1, 1]


@given(VALUES, VALUES)
def test_two_add_up_to_one_of_all(one: list[float], other: list[float]) -> None:
    both, added = filled(one + other), filled(one) + filled(other)
    assert both.counts == added.counts and both.sum == pytest.approx(added.sum)
    assert both.total == len(one) + len(other)


def test_a_copy_shares_nothing() -> None:
    histogram = filled([1.0])
    copy = histogram.copy()
    histogram.observe(1.0)
    assert (copy.total, histogram.total) == (1, 2)


def test_bounds_and_counts_fit() -> None:
    with pytest.raises(ValueError, match="2 counts for 3 bounds"):
        Histogram(BOUNDS, [1, 2])
    with pytest.raises(ValueError, match="other bounds"):
        Histogram(BOUNDS) + Histogram((1.0,))
