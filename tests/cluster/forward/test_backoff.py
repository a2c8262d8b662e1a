from __future__ import annotations

from cluster.forward.backoff import Backoff


def test_pauses_double_and_differ() -> None:
    backoff = Backoff(0.25, 10.0)
    for expected in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        assert expected / 2 <= backoff.next() <= expected
    backoff.reset()
    assert backoff.next() <= 0.25
    assert len({Backoff(1.0, 1.0).next() for _ in range(10)}) > 1


def test_no_failure_is_too_many() -> None:
    backoff = Backoff(0.25, 10.0)
    assert max(backoff.next() for _ in range(5000)) <= 10.0
