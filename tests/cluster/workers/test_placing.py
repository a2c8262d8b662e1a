"""``cluster.workers.placing``: a burst stays even, and a busy worker gets fewer."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from cluster.workers.placing import LEAST_CPU, place


@dataclass
class Worker:
    connections: int = 0
    cpu_share: float = 0.0


def burst(workers: list[Worker], count: int) -> list[int]:
    """Place so many connections before anybody reports again; how many each got."""
    before = [worker.connections for worker in workers]
    for _ in range(count):
        chosen = place(workers)
        assert chosen is not None
        chosen.connections += 1
    return [worker.connections - had for worker, had in zip(workers, before, strict=True)]


def test_nobody_is_no_place() -> None:
    assert place([]) is None


@given(size=st.integers(1, 16), count=st.integers(0, 300), share=st.floats(0, 1))
def test_a_burst_is_even_where_all_are_equally_busy(size: int, count: int, share: float) -> None:
    got = burst([Worker(0, share) for _ in range(size)], count)
    assert sum(got) == count and max(got) - min(got) <= 1


@given(connections=st.lists(st.integers(0, 1000), min_size=1, max_size=8), share=st.floats(0, 1))
def test_the_one_with_fewer_connections_catches_up_first(connections: list[int], share: float) -> None:
    workers = [Worker(number, share) for number in connections]
    count = max(connections) * len(connections) - sum(connections)
    burst(workers, count)
    assert {worker.connections for worker in workers} == {max(connections)}


@given(share=st.floats(LEAST_CPU, 1), other=st.floats(LEAST_CPU, 1), size=st.integers(2, 8))
def test_of_equally_many_connections_the_less_busy_gets_the_next(share: float, other: float, size: int) -> None:
    workers = [Worker(100, max(share, other)) for _ in range(size)]
    workers[-1].cpu_share = min(share, other)
    if abs(share - other) > 1e-9:  # less is lost in rounding
        assert place(workers) is workers[-1]


def test_a_busy_worker_gets_fewer_but_is_not_left_out() -> None:
    busy, idle = Worker(100, 0.6), Worker(100, 0.4)
    got = burst([busy, idle], 400)
    assert 0 < got[0] < got[1]


def test_one_expensive_publisher_weighs_more_than_idle_connections() -> None:
    publisher, crowd = Worker(1, 0.9), Worker(5, 0.1)
    assert place([publisher, crowd]) is crowd
    crowd.connections = 60
    assert place([publisher, crowd]) is publisher


@given(shares=st.lists(st.floats(0, LEAST_CPU / 20), min_size=2, max_size=8), count=st.integers(0, 100))
def test_shares_of_next_to_nothing_say_nothing(shares: list[float], count: int) -> None:
    got = burst([Worker(0, share) for share in shares], count)
    assert max(got) - min(got) <= 1


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1)), min_size=1, max_size=16))
def test_nobody_with_more_of_both_is_chosen(loads: list[tuple[int, float]]) -> None:
    workers = [Worker(*load) for load in loads]
    chosen = place(workers)
    assert chosen is not None
    assert not any(
        worker.connections < chosen.connections and worker.cpu_share < chosen.cpu_share for worker in workers
    )
