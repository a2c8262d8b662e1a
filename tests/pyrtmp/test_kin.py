"""``pyrtmp.kin``: what servers of one kind tell each other, read with care."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp import amf
from pyrtmp.kin import ENTRY, MAX_HEADER, MAX_HOPS, STRANGER, Kin, parse_header
from pyrtmp.kinship import Kinship

NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=80) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.builds(Kin, node=NAMES, hops=st.lists(NAMES, max_size=MAX_HOPS).map(tuple), lineage=NAMES, wait=st.booleans(),
              session=NAMES)
)
def test_what_is_said_is_read_also_over_the_wire(kin: Kin) -> None:
    assert Kin.read(kin.entry()) == kin
    (values,) = amf.decode0(amf.encode0({"app": "live", **kin.entry()}))
    assert Kin.read(values) == kin


@given(
    st.builds(
        Kin, node=NAMES, hops=st.lists(NAMES, max_size=MAX_HOPS + 1).map(tuple), lineage=NAMES, copy=st.booleans(),
        wait=st.booleans(), session=NAMES,
    )
)
def test_what_is_said_in_a_header_is_read(kin: Kin) -> None:
    text = Kinship().ask(kin)
    assert text.isascii() and text.isprintable() and len(text) <= MAX_HEADER // 2
    assert Kin.read(parse_header(text)) == kin


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["node", "hops", "lineage", "wait"]), inner),
    max_leaves=8,
)


@given(st.text(max_size=80) | JSON.map(json.dumps))
def test_nothing_that_a_header_says_does_harm(text: str) -> None:
    kin = Kin.read(parse_header(text))
    assert Kin.read(kin.entry()) == kin


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", "1", "\udcff", "[" * MAX_HEADER, '{"node":' * 200, '{"node": "a"' + " " * MAX_HEADER + "}"],
)
def test_a_header_that_cannot_be_read_is_a_strangers(text: str | None) -> None:
    assert Kin.read(parse_header(text)) == STRANGER


def test_no_name_ends_a_header() -> None:
    assert "\n" not in Kinship().ask(Kin(node="a\r\nSet-Cookie: x", lineage="\n\u2028\0"))


@given(
    st.dictionaries(st.sampled_from(["node", "hops", "lineage", "wait", "more"]), ANYTHING)
    | ANYTHING
)
def test_nothing_that_is_said_does_harm(entry: Any) -> None:
    kin = Kin.read({ENTRY: entry})
    assert len(kin.hops) <= MAX_HOPS + 1
    for name in (kin.node, kin.lineage, *kin.hops):
        assert name.isascii() and len(name) <= 64 and not set(name) & set(" /\\\n\r\0\"'")
    assert Kin.read(kin.entry()) == kin
    kin.came_through("a")


@pytest.mark.parametrize("values", [None, {}, {"other": {"node": "a"}}, {ENTRY: None}, {ENTRY: "a"}, {ENTRY: ["a"]}])
def test_others_are_strangers(values: dict[str, Any] | None) -> None:
    assert Kin.read(values) == STRANGER == Kin()
    assert STRANGER.wait and not STRANGER.came_through("") and not STRANGER.came_through("a")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "\na", "x" * 65, "é", "a\0", "*", 5.0, True, None, ["a"]])
def test_a_name_that_is_none_is_left_out(name: Any) -> None:
    kin = Kin.read({ENTRY: {"node": name, "lineage": name, "hops": name, "session": name}})
    assert (kin.node, kin.lineage, kin.session, kin.log_fields) == ("", "", "", {})
    assert all(hop in ("a", "b") for hop in kin.hops)


def test_what_a_log_line_says_of_a_node() -> None:
    assert Kin(node="e1", session="pull-7").log_fields == {"node": "e1", "session": "pull-7"}
    assert Kin(node="e1").log_fields == {"node": "e1"}
    assert Kin(session="pull-7").log_fields == {}  # who says no name is no node


@pytest.mark.parametrize("wait, patient", [(False, False), (True, True), (0.0, True), (None, True), ("no", True)])
def test_only_who_says_so_does_not_wait(wait: Any, patient: bool) -> None:
    assert Kin.read({ENTRY: {"wait": wait}}).wait is patient


def test_a_circle_is_seen() -> None:
    kin = Kin.read({ENTRY: {"hops": "a  b c"}})
    assert kin.hops == ("a", "b", "c")
    assert kin.came_through("b")
    assert not kin.came_through("d")
    assert not kin.came_through("")  # a server without a name knows no circle


def test_a_stream_goes_only_so_far() -> None:
    hops = [f"{number}".rjust(64, "n") for number in range(MAX_HOPS + 3)]
    assert not Kin.read({ENTRY: {"hops": " ".join(hops[: MAX_HOPS - 1])}}).came_through("me")
    for length in (MAX_HOPS, MAX_HOPS + 1, MAX_HOPS + 3):
        kin = Kin.read({ENTRY: {"hops": " ".join(hops[:length])}})
        assert kin.came_through("me") and kin.hops == tuple(hops[: min(length, MAX_HOPS + 1)])
    # However much is said, little is read.
    assert len(Kin.read({ENTRY: {"hops": "a " * 10_000_000}}).hops) == MAX_HOPS + 1
