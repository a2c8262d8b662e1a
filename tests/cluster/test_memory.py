"""``cluster.memory``: when freed memory is given back, and that it is."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from cluster.memory import LEAST_BYTES, STREAM_BYTES, Trimmer

MIB = 1024 * 1024


def trims(*kept: int, streams: int = 1) -> list[int]:
    """After which of the looks at ``kept`` bytes, the same for each of the ``streams``, memory was given back."""
    looks: list[int] = []
    given: list[int] = []
    trimmer = Trimmer(lambda: given.append(len(looks)))
    for size in kept:
        trimmer.look([size // streams] * streams)
        looks.append(size)
    return given


def test_what_became_free_is_given_back_when_it_is_a_good_part() -> None:
    assert trims(10 * MIB, 20 * MIB, 19 * MIB, 18 * MIB, 16 * MIB) == [4]


def test_each_further_part_is_given_back() -> None:
    assert trims(100 * MIB, 80 * MIB, 70 * MIB, 66 * MIB, 0) == [1, 3, 4]


def test_it_counts_from_the_newest_peak() -> None:
    assert trims(100 * MIB, 60 * MIB, 80 * MIB, 70 * MIB, 55 * MIB) == [1, 4]


def test_little_is_not_worth_it() -> None:
    assert trims(LEAST_BYTES - 1, 0) == []
    assert trims(LEAST_BYTES, 0) == [1]


def test_little_for_each_of_many_streams_is_not_worth_it() -> None:
    group = [24 * MIB, 22 * MIB, 20 * MIB, 18 * MIB, 16 * MIB, 14 * MIB, 12 * MIB, 10 * MIB, 16 * MIB, 20 * MIB]
    assert trims(*group, *group, streams=64) == [2, 4, 6, 12, 14, 16]
    assert trims(*group, streams=128) == [4]


def test_a_stream_that_keeps_nothing_does_not_count() -> None:
    given: list[None] = []
    trimmer = Trimmer(lambda: given.append(None))
    trimmer.look([2 * STREAM_BYTES] * 20)
    trimmer.look([2 * STREAM_BYTES] * 10 + [0] * 10)
    assert given


def test_growth_and_standstill_give_nothing_back() -> None:
    assert trims(0, 10 * MIB, 10 * MIB, 300 * MIB) == []


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_pages_between_live_ones_go_back_to_the_system() -> None:
    trimmer = Trimmer()
    kept = [bytes(16 * 1024) for _ in range(4096)]
    trimmer.look([64 * MIB])
    before = resident()
    # Every other one stays, so that the heap cannot simply end earlier.
    del kept[::2]
    trimmer.look([32 * MIB])
    assert before - resident() > 16 * MIB


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    trimmer = Trimmer()
    trimmer.look([64 * MIB])
    trimmer.look([0])


def resident() -> int:
    assert sys.platform == "linux"
    fields = Path("/proc/self/smaps_rollup").read_text().split()
    return int(fields[fields.index("Pss_Anon:") + 1]) * 1024
