from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.names import StreamKey, make_key, problem, split_query


@pytest.mark.parametrize("name", ["live", "live/room-1", "a.b_c~d", "Cam01", "a..b", ".hidden", "a" * 256, "a/b/c/d"])
def test_good_names(name: str) -> None:
    assert problem(name, 256) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("a" * 257, "longer than 256"),
        ("/a", "empty part"),
        ("a/", "empty part"),
        ("a//b", "empty part"),
        ("/", "empty part"),
        (".", "only dots"),
        ("..", "only dots"),
        ("...", "only dots"),
        ("a/../b", "only dots"),
        ("../etc/passwd", "only dots"),
        *((f"a{bad}b", "character other") for bad in " \t\r\n\0\x1b\x7f?#%&=+:;,*{}[]()<>|\\\"'`$!@^é\u2028\ud800"),
        ("a\n", "character other than"),
    ],
)
def test_bad_names(name: str, why: str) -> None:
    assert why in problem(name, 256)


@given(st.text(max_size=40))
def test_nothing_but_the_allow_list_passes(name: str) -> None:
    parts = [re.fullmatch(r"[A-Za-z0-9._~\-]+", part) and set(part) != {"."} for part in name.split("/")]
    assert (problem(name, 40) == "") is all(parts)


@given(st.text(max_size=60))
def test_what_is_wrong_is_said_without_quoting_it(name: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9 .,'_~-]*", problem(name, 40))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("cam", ("cam", "")),
        ("cam?", ("cam", "")),
        ("cam?key=1&x=2", ("cam", "key=1&x=2")),
        ("cam?a?b", ("cam", "a?b")),
        ("?a", ("", "a")),
        ("", ("", "")),
    ],
)
def test_split_query(text: str, parts: tuple[str, str]) -> None:
    assert split_query(text) == parts


@pytest.mark.parametrize(
    ("app", "name", "key"),
    [
        ("live", "cam", ("live", "cam")),
        ("live", "room/cam", ("live/room", "cam")),
        ("live/room", "cam", ("live/room", "cam")),
        ("a/b", "c/d", ("a/b/c", "d")),
    ],
)
def test_a_key_does_not_depend_on_where_the_client_cut(app: str, name: str, key: tuple[str, str]) -> None:
    made = make_key(app, name)
    assert made == StreamKey(*key)
    assert str(made) == f"{app}/{name}"
    assert {made: 1}[StreamKey(*key)] == 1
