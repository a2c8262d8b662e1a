"""``cluster.registry.records``, ``events`` and the keys in Redis: what comes from elsewhere is valid or not there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.registry import Answer, Began, Challenge, Copied, Copy, Draining, Ended, Lease, Location
from cluster.registry.events import EVENTS
from cluster.registry.records import COPIES, MAX_BYTES, MAX_EPOCH, NODES, OFFERS, Codec, key_problem
from cluster.registry.redis import Keys, _lease
from pyrtmp.names import StreamKey
from tests.cluster.registry.members import CAM, OTHER, offer, record

ALL: list[tuple[Codec[Any], Any]] = [
    (NODES, record(stress=0.25, draining=True, group="vienna", http="[::1]:8080")),
    (OFFERS, offer(publisher="10.0.0.1:5#7", lineage="x" * 256, group="eu-1", http="origin.example:8080")),
    (COPIES, Copy(key=OTHER, node="b", lineage="l", rtmp="10.0.0.2:1935")),
    (COPIES, Copy(key=OTHER, node="b", rtmp="rtmps://origin-1.example.org:1936")),
    (EVENTS, Began(CAM, "a", 1)),
    (EVENTS, Ended(OTHER, "a", MAX_EPOCH)),
    (EVENTS, Copied(CAM, "b")),
    (EVENTS, Challenge(CAM, "a", "b", "0123")),
    (EVENTS, Answer("0123", "a", "yields")),
    (EVENTS, Draining("a")),
]


@pytest.mark.parametrize(("codec", "value"), ALL, ids=lambda each: type(each).__name__)
def test_there_and_back(codec: Codec[Any], value: Any) -> None:
    assert codec.from_json(codec.to_json(value)) == value
    newer = json.dumps({**json.loads(codec.to_json(value)), "of a newer version": [1]}).encode()
    assert codec.from_json(newer) == value


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": "a b"},
        {"id": "a\n"},
        {"id": "x" * 65},
        {"role": "king"},
        {"group": "{x}"},
        {"rtmp": ""},
        {"rtmp": "10.0.0.1"},
        {"rtmp": "10.0.0.1:0"},
        {"rtmp": "10.0.0.1:65536"},
        {"rtmp": "10.0.0.1:80\r\n"},
        {"rtmp": "a@b:80"},
        {"rtmp": "-a:80"},
        {"rtmp": "rtmp://a:80"},
        {"rtmp": "rtmps://a"},
        {"rtmp": "rtmps://a:0"},
        {"http": "rtmps://a:80"},
        {"http": "http://a:80"},
        {"stress": -1},
        {"stress": "0.5"},
        {"stress": 1e300},
        {"draining": 1},
        {"draining": None},
        {"boot": "\x1b"},
        {"boot": "é"},
    ],
    ids=str,
)
def test_bad_nodes(change: dict[str, Any]) -> None:
    good = json.loads(NODES.to_json(record()))
    with pytest.raises(ValueError):
        NODES.from_json(json.dumps({**good, **change}).encode())
    with pytest.raises(ValueError):
        NODES.to_json(record(**change))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"kind":"began"}',
        b'{"kind":"unheard of"}',
        b'{"key":"live/cam","node":"a","epoch":1}',
        b'{"kind":"began","key":"live/cam","node":"a","epoch":0}',
        b'{"kind":"began","key":"live/cam","node":"a","epoch":"1"}',
        b'{"kind":"began","key":"live/cam","node":"a","epoch":1e99}',
        b'{"kind":"began","key":"live/../cam","node":"a","epoch":1}',
        b'{"kind":"began","key":"live/{cam}","node":"a","epoch":1}',
        b'{"kind":"began","key":"cam","node":"a","epoch":1}',
        b'{"kind":"began","key":["live","cam"],"node":"a","epoch":1}',
        b'{"kind":"answer","id":"1","to_node":"a","verdict":"maybe"}',
        b'{"kind":"draining","node":"' + b"a" * MAX_BYTES + b'"}',
        b"[" * 10_000,
    ],
    ids=lambda text: repr(text[:60]),
)
def test_bad_events(text: bytes) -> None:
    with pytest.raises(ValueError):
        EVENTS.from_json(text)


@given(st.binary(max_size=300) | st.builds(lambda part: b'7 a {"key":"live/cam",' + part + b"}", st.binary()))
def test_any_bytes(data: bytes) -> None:
    for codec, _ in ALL:
        try:
            value = codec.from_json(data)
        except ValueError:
            continue
        assert codec.from_json(codec.to_json(value)) == value
    assert _lease(CAM, data) is None


def test_leases_as_they_are_stored() -> None:
    mine = offer()
    data = OFFERS.to_json(mine)
    lease = _lease(CAM, b"7 a " + data)
    assert lease == Lease.of(mine, 7) and lease.offer == mine
    assert _lease(OTHER, b"7 a " + data) is None
    assert _lease(CAM, b"7 b " + data) is None
    assert _lease(CAM, b"07x a " + data) is None
    assert _lease(CAM, b"7 a  " + data) is None
    assert _lease(CAM, b"1" * 16 + b" a " + data) is None


def test_locations_are_true_when_there_is_something() -> None:
    copy = Copy(key=CAM, node="b", rtmp="h:1")
    assert not Location() and Location(Lease.of(offer(), 1)) and Location(None, (copy,))


names = st.text(max_size=20) | st.text("ab./{}*?[]\r\n\0 é", max_size=8)


@given(names, names)
def test_names_that_no_stream_has_never_reach_a_key(app: str, name: str) -> None:
    keys, key = Keys("p:"), StreamKey(app, name)
    if key_problem(key):
        for make in (keys.lease, keys.epoch, keys.copies):
            with pytest.raises(ValueError):
                make(key)
        with pytest.raises(ValueError):
            OFFERS.to_json(offer(key=key))
        return
    made = [keys.lease(key), keys.epoch(key), *keys.copies(key)]
    assert len(set(made)) == 4
    for each in made:
        assert re.fullmatch(r"p:[a-z]+:\{[A-Za-z0-9._~/-]+\}", each)
        assert re.findall(r"\{(.*?)\}", each) == [str(key)]  # what decides about the slot


@pytest.mark.parametrize("prefix", ["{", "a}", "a b", "é", "\n", "*", "x" * 65])
def test_prefixes(prefix: str) -> None:
    with pytest.raises(ValueError):
        Keys(prefix)
