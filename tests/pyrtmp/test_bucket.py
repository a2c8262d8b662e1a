"""``pyrtmp.bucket``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.bucket import Bucket


def test_it_leaks() -> None:
    bucket = Bucket(100.0)
    assert bucket.add(10, 100.0, 2) == 10
    assert bucket.level(103.0, 2) == 4
    assert bucket.add(1, 103.0, 2) == 5
    assert bucket.level(200.0, 2) == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), max_size=30), st.floats(0.1, 50))
def test_what_stays_below_the_rate_never_fills_it(amounts: list[tuple[float, float]], rate: float) -> None:
    bucket, now = Bucket(0.0), 0.0
    for amount, seconds in amounts:
        level = bucket.add(amount, now, rate)
        assert level >= amount
        now += amount / rate + seconds
        assert bucket.level(now, rate) == pytest.approx(0, abs=1e-6)
