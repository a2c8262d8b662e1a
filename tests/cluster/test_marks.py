from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter

from cluster.marks import MAX_MARKS, Marks, mark

ADAPTER = TypeAdapter(Marks)


def test_a_mark_is_the_same_in_every_process() -> None:
    code = "from cluster.marks import mark; print(mark('live/cam', '10.0.0.1', 'VLC'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == mark("live/cam", "10.0.0.1", "VLC") < 1 << 64


def test_marks_differ() -> None:
    assert len({mark("a", "bc"), mark("ab", "c"), mark("abc"), mark("abc", ""), mark("\udcff")}) == 5


@pytest.mark.parametrize("marks", [frozenset[int](), frozenset({0, 1, (1 << 64) - 1}), frozenset(range(MAX_MARKS))])
def test_there_and_back(marks: frozenset[int]) -> None:
    assert ADAPTER.validate_json(ADAPTER.dump_json(marks)) == marks


def test_what_is_too_many_is_left_out() -> None:
    assert len(ADAPTER.validate_json(ADAPTER.dump_json(frozenset(range(MAX_MARKS + 10))))) == MAX_MARKS


@pytest.mark.parametrize("json", ["5", "null", "[1]", '"AAAA"', '"not base64!"', '"é"', f'"{"A" * 12 * MAX_MARKS}"'])
def test_what_is_none(json: str) -> None:
    with pytest.raises(ValueError):
        ADAPTER.validate_json(json)
