from __future__ import annotations

from time import process_time

import pytest

from cluster.access.patterns import MAX_PATTERN, matches, pattern


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("live/cam", ["live/cam"], ["live/cam2", "xlive/cam", "live/cam/x", "LIVE/cam"]),
        ("live/*", ["live/cam", "live/a-b.c~d"], ["live/room/cam", "live", "live2/cam"]),
        ("live/cam-*", ["live/cam-1", "live/cam-"], ["live/cam", "live/xcam-1"]),
        ("live/*-hd", ["live/cam-hd"], ["live/cam-hd2", "live/x/cam-hd"]),
        ("*/cam", ["live/cam", "x/cam"], ["a/b/cam", "live/cam2"]),
        ("live/**", ["live/cam", "live/room/cam"], ["live", "alive/cam"]),
        ("**/cam", ["live/cam", "a/b/cam"], ["cam", "live/cams"]),
        ("*", ["live/cam", "a/b/c"], []),
        ("a.b/c", ["a.b/c"], ["axb/c"]),
    ],
)
def test_patterns(text: str, yes: list[str], no: list[str]) -> None:
    assert [each for each in yes + no if matches(text, each)] == yes


@pytest.mark.parametrize(
    "text", ["", "/", "live/", "/cam", "li*v*e/cam", "**/**", "a/***", "a b/c", "a/[x]", "é/x", "a\n"]
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError):
        pattern(text)
    assert not matches(text, "live/cam")


def test_no_pattern_is_expensive() -> None:
    """Out of a token it may be meant to be."""
    text = "/".join(["*a"] * (MAX_PATTERN // 3 - 1) + ["**"])
    assert len(text) <= MAX_PATTERN
    started = process_time()
    assert not matches(text, "/".join(["aaa"] * 64))
    assert not matches("**/" + "/".join(["*a"] * 80), "/".join(["a"] * 128) + "/b")
    assert process_time() - started < 5  # it would be years
