"""``cluster.workers.messages``: every message there and back, and nothing else."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import load
from cluster.tls.identity import Identity
from cluster.workers import messages
from cluster.workers.messages import (
    Answer,
    Ask,
    Began,
    Boot,
    Claim,
    Configure,
    Connection,
    Denied,
    Drain,
    Drained,
    Freed,
    Granted,
    Holds,
    LinkLost,
    Look,
    Peer,
    Ping,
    Pong,
    Ready,
    Released,
    Seen,
    Waiting,
    decode,
    decode_trusted,
    encode,
)

MANY = 1 << 62
EXAMPLES: list[messages.Message] = [
    Peer(7),
    Connection("rtmp", "192.0.2.1"),
    Connection("http", "2001:db8::1"),
    Connection("rtmps", "192.0.2.1"),
    Connection("https", "192.0.2.1"),
    Holds("live", "cam", 3),
    Freed("live/room", "cam"),
    Look("live/room", "cam"),
    Granted(1, None, None),
    Granted(MANY, -5, 12.5),
    Denied(2, "live/cam is already being published."),
    Ping(0),
    Ask(1, "numbers", []),
    Ask(2, "stream", ["live", "cam"]),
    Answer(1, True, '{"a":1}'),
    Answer(2, False, ""),
    Answer(3, True, None),
    Drain(30.5, True),
    Waiting(),
    Ready(),
    Pong(9, taken=1, connections=5, cpu=0.25),
    Pong(10, taken=MANY, connections=0, cpu=1e9),
    Claim(1, "live", "cam"),
    Claim(2, "live", "cam", copy=True),
    Claim(3, "live", "cam", pull=True),
    Began("live", "cam"),
    Released(1, "live", "cam", -MANY),
    Seen("live", "cam", MANY),
    LinkLost(4),
    Drained(),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_there_and_back(message: messages.Message) -> None:
    data = encode(message)
    assert decode(data) == message
    assert decode(memoryview(data)) == message
    assert decode_trusted(data) == message
    assert type(decode(data)) is type(message)


def test_every_message_has_an_example_and_a_code_of_its_own() -> None:
    assert {type(message) for message in EXAMPLES} == set(messages.Message.__args__)
    assert len({encode(message)[0] for message in EXAMPLES}) == len(messages.Message.__args__)


def test_the_configuration_is_taken_from_the_supervisor_only() -> None:
    config = load(None, ["node.workers=3"], {})
    boot, configure = Boot(1, 2, 1935, config), Configure(config)
    identity = Identity(b"chain", b"key", b"", ("localhost",), 0.0, 1.0)
    for message in (boot, configure, Boot(1, 2, 1935, config, identity, 443, 1936), Configure(config, identity)):
        data = encode(message)
        assert decode_trusted(memoryview(data)) == message
        with pytest.raises(ValueError, match="no such message"):
            decode(data)
    with pytest.raises(ValueError, match="no such message"):
        decode_trusted(encode(boot)[:1] + pickle.dumps({"not": "that"}))


def changed(message: messages.Message, **fields: Any) -> bytes:
    """The message with some fields replaced, or left out (``...``)."""
    data = encode(message)
    values = json.loads(data[1:])
    values.update(fields)
    return data[:1] + json.dumps({name: value for name, value in values.items() if value is not ...}).encode()


CLAIM, PONG, ASK = Claim(1, "live", "cam"), Pong(9, taken=1, connections=5, cpu=0.25), Ask(1, "kick", ["x"])
LONGEST = 8193


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes([len(EXAMPLES) + 1]), id="no such code"),
        pytest.param(b"\xfe", id="a pickle"),
        pytest.param(b"\x00", id="no fields"),
        pytest.param(encode(CLAIM)[:-1], id="cut"),
        pytest.param(encode(CLAIM) + b" {}", id="more behind it"),
        pytest.param(encode(CLAIM)[:1] + b"[1,2]", id="a list"),
        pytest.param(encode(CLAIM)[:1] + b"[" * 50_000, id="deep"),
        pytest.param(encode(CLAIM)[:1] + b"\xff\xff", id="no text"),
        pytest.param(changed(CLAIM, request=-1), id="negative"),
        pytest.param(changed(CLAIM, request=MANY + 1), id="too great"),
        pytest.param(changed(CLAIM, request=10**400), id="much too great"),
        pytest.param(changed(CLAIM, request=1.0), id="a fraction for a number"),
        pytest.param(changed(CLAIM, request="1"), id="text for a number"),
        pytest.param(changed(CLAIM, request=True), id="a truth for a number"),
        pytest.param(changed(CLAIM, app=5), id="a number for text"),
        pytest.param(changed(CLAIM, app=None), id="nothing for text"),
        pytest.param(changed(CLAIM, name="x" * (LONGEST + 1)), id="too long"),
        pytest.param(changed(CLAIM, name=...), id="one field less"),
        pytest.param(changed(CLAIM, more=1), id="one field more"),
        pytest.param(changed(Ready(), more=1), id="a field where there is none"),
        pytest.param(changed(PONG, cpu=-0.1), id="negative time"),
        pytest.param(changed(PONG, left={"a": -1}), id="negative count"),
        pytest.param(changed(PONG, left={"x" * (LONGEST + 1): 1}), id="long key"),
        pytest.param(changed(ASK, what="shutdown"), id="no such question"),
        pytest.param(changed(ASK, arguments=["x"] * 5), id="too many arguments"),
        pytest.param(changed(ASK, arguments="x"), id="text for arguments"),
        pytest.param(changed(Connection("rtmp", "a"), protocol="ftp"), id="no such protocol"),
        pytest.param(changed(Drain(1.0, False), seconds=86401), id="too long a time"),
        pytest.param(changed(Drain(1.0, False), gently=0), id="a number for a truth"),
        pytest.param(changed(Seen("a", "b", 0), time=MANY + 1), id="too late"),
        pytest.param(changed(Seen("a", "b", 0), time=-MANY - 1), id="too early"),
        pytest.param(changed(Answer(1, True, ""), body=5), id="a number for a body"),
    ],
)
def test_what_is_wrong_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_the_longest_names_that_can_be_allowed_fit() -> None:
    config = load(None, ["limits.max_name_bytes=4096"], {})
    app = "/".join(["x" * config.limits.max_name_bytes] * 2)
    assert decode(encode(Claim(1, app, "x" * config.limits.max_name_bytes)))


def test_what_is_sent_is_looked_at_as_well() -> None:
    with pytest.raises(ValueError):
        Claim(-1, "live", "cam")
    with pytest.raises(ValueError):
        Seen("live", "cam", 1.5)  # type: ignore[arg-type]


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    try:
        message = decode(data)
    except ValueError:
        return
    assert decode(encode(message)) == message


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = sorted({name for message in EXAMPLES for name in json.loads(encode(message)[1:])})


@settings(max_examples=300)
@given(code=st.integers(0, 30), fields=st.dictionaries(st.sampled_from(names), values))
def test_any_fields_are_a_message_or_a_value_error(code: int, fields: dict[str, Any]) -> None:
    try:
        message = decode(bytes([code]) + json.dumps(fields).encode())
    except ValueError:
        return
    assert decode(encode(message)) == message
