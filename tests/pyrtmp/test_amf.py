"""What AMF0 and AMF3 have in common: commands, limits, and that nothing but the documented exceptions comes out."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyrtmp import amf
from pyrtmp.amf import UNDEFINED, UNSUPPORTED, Date, Dictionary, EcmaArray, TypedObject, Value, Vector, Xml, XmlDocument
from pyrtmp.errors import AmfError, LocalError

patient = settings(deadline=None)  # a busy machine is no failure

CONNECT: list[Value] = [
    "connect",
    1.0,
    {
        "app": "live",
        "flashVer": "FMLE/3.0 (compatible; FMSc/1.0)",
        "tcUrl": "rtmp://127.0.0.1:1935/live",
        "fpad": False,
        "capabilities": 239.0,
        "fourCcList": ["av01", "hvc1"],
        "pageUrl": UNDEFINED,
        "objectEncoding": 0.0,
    },
]


def same(left: object, right: object) -> bool:
    """Equal, of the same types all the way down, NaN equal to NaN, 0.0 not to -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right)
    if isinstance(left, dict) and isinstance(right, dict):
        return (
            list(left) == list(right)
            and all(same(left[key], right[key]) for key in left)
            and getattr(left, "class_name", None) == getattr(right, "class_name", None)
        )
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Date) and isinstance(right, Date):
        return same(left.ms, right.ms) and left.tz == right.tz
    if isinstance(left, Vector) and isinstance(right, Vector):
        fields = (left.kind, left.fixed, left.class_name) == (right.kind, right.fixed, right.class_name)
        return fields and same(left.items, right.items)
    if isinstance(left, Dictionary) and isinstance(right, Dictionary):
        return left.weak_keys == right.weak_keys and same(left.pairs, right.pairs)
    return left == right


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = text.filter(bool)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    text,
    text.map(XmlDocument),
    st.just(UNDEFINED),
)


def containers(children: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(children, max_size=4),
        st.dictionaries(keys, children, max_size=4),
        st.dictionaries(keys, children, min_size=1, max_size=4).map(EcmaArray),
        st.builds(TypedObject, names, st.dictionaries(keys, children, max_size=4)),
    )


values0 = st.recursive(
    scalars | st.just(UNSUPPORTED) | st.builds(Date, st.floats(), st.integers(-32768, 32767)),
    lambda children: containers(children, text) | st.just(EcmaArray()),
    max_leaves=12,
)
values3 = st.recursive(
    st.one_of(
        scalars,
        text.map(Xml),
        st.integers(-(1 << 28), (1 << 28) - 1),
        st.binary(max_size=12),
        st.builds(Date, st.floats()),
        st.builds(Vector, st.just("int"), st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=4), st.booleans()),
        st.builds(Vector, st.just("uint"), st.lists(st.integers(0, (1 << 32) - 1), max_size=4), st.booleans()),
        st.builds(Vector, st.just("double"), st.lists(st.floats(), max_size=4), st.booleans()),
    ),
    lambda children: st.one_of(
        containers(children, names),
        st.builds(Vector, st.just("object"), st.lists(children, max_size=4), st.booleans(), text),
        st.builds(Dictionary, st.lists(st.tuples(children, children), max_size=3), st.booleans()),
    ),
    max_leaves=12,
)


@patient
@given(st.lists(values0, max_size=4))
def test_amf0_comes_back_as_it_went(values: list[Value]) -> None:
    assert same(amf.decode0(amf.encode0(*values)), values)


@patient
@given(st.lists(values3, max_size=4))
def test_amf3_comes_back_as_it_went(values: list[Value]) -> None:
    assert same(amf.decode3(amf.encode3(*values)), values)


# What only AMF3 can say is switched to, at whatever depth it stands.
@patient
@given(
    st.lists(
        values0 | st.lists(st.binary(max_size=8) | st.just(Vector("object", [1, "a"])), max_size=3),
        max_size=3,
    )
)
def test_commands_of_type_17_come_back_as_they_went(values: list[Value]) -> None:
    body = amf.encode_command(["call", *values], True)
    assert body.startswith(b"\0\2\0\4call")
    assert same(amf.decode_command(body, True), ["call", *values])


def check_any_bytes(body: bytes) -> None:
    """The decoders raise ``AmfError`` only; what they return can be printed, and encoded without loss."""
    for decode, encode in (
        (amf.decode0, lambda *values: amf.encode_command(values, True)[1:]),
        (amf.decode3, amf.encode3),
    ):
        try:
            values = decode(body)
        except AmfError:
            continue
        repr(values)
        again = encode(*values)
        assert encode(*decode(again)) == again


@patient
@given(st.binary(max_size=80))
@example(b"\x0a\0\0\0\1\7\0\0")  # AMF0: a list in itself
@example(b"\x09\x03\x01\x09\x00")  # AMF3: a list in itself
def test_any_bytes(body: bytes) -> None:
    check_any_bytes(body)


markers = st.sampled_from([bytes([marker]) for marker in range(0x13)])
fragments = st.sampled_from(
    [b"\0\0\x09", b"\0\1a", b"\0\0\0\1", b"\0\0\0\2", b"\0\0", b"\x01", b"\x03", b"\x02", b"\x05a", b"\x0b", b"\x07"]
)


@patient
@given(st.lists(markers | fragments | st.binary(max_size=9), max_size=30).map(b"".join))
def test_bytes_that_look_like_amf(body: bytes) -> None:
    check_any_bytes(body)


@settings(patient, max_examples=60)
@given(st.lists(values0, max_size=2), st.lists(values3, max_size=2), st.data())
def test_valid_bodies_with_one_byte_changed(first: list[Value], second: list[Value], data: st.DataObject) -> None:
    for body in (bytearray(amf.encode0(*first)), bytearray(amf.encode3(*second))):
        if body:
            at = data.draw(st.integers(0, len(body) - 1))
            body[at] = data.draw(st.integers(0, 255))
            check_any_bytes(bytes(body))


@settings(patient, max_examples=40)
@given(values0, values3)
def test_a_body_cut_short_is_an_error(first: Value, second: Value) -> None:
    # Something behind the first, since an ECMA array is allowed to end with the body.
    for body, decode in ((amf.encode0([first, None]), amf.decode0), (amf.encode3([second]), amf.decode3)):
        for size in range(1, len(body)):
            try:
                values = decode(body[:size])
            except AmfError:
                continue
            pytest.fail(f"{size} of {len(body)} bytes are {values}")


@pytest.mark.parametrize("as_type", [bytes, bytearray, memoryview])
def test_what_a_body_may_be(as_type: Any) -> None:
    body = bytearray(amf.encode_command(CONNECT, True))
    values = amf.decode_command(as_type(body), True)
    body[:] = bytes(len(body))  # nothing decoded may look back
    assert same(values, CONNECT)


# Commands


def test_a_type_20_body_is_plain_amf0() -> None:
    assert amf.encode_command(CONNECT, False) == amf.encode0(*CONNECT)
    assert same(amf.decode_command(amf.encode0(*CONNECT), False), CONNECT)


def test_a_type_17_body_with_and_without_its_format_byte() -> None:
    assert same(amf.decode_command(b"\0" + amf.encode0(*CONNECT), True), CONNECT)
    assert same(amf.decode_command(amf.encode0(*CONNECT), True), CONNECT)


def test_a_type_20_body_has_no_format_byte() -> None:
    # 0 is a number there, and so it is in everything behind the format byte.
    assert amf.decode_command(b"\0" + struct.pack(">d", 2.5), False) == [2.5]
    assert amf.decode_command(b"\0\0" + struct.pack(">d", 2.5), True) == [2.5]


def test_one_value_at_a_time_is_switched_to_amf3() -> None:
    body = b"\0" + amf.encode0("call", 2.0) + b"\x11\x04\x07" + amf.encode0(None) + b"\x11\x06\x03z"
    assert same(amf.decode_command(body, True), ["call", 2.0, 7, None, "z"])


def test_the_values_switched_to_amf3_share_their_tables() -> None:
    body = b"\0" + amf.encode0("call") + b"\x11\x06\x07abc" + b"\x11\x06\x00"
    assert amf.decode_command(body, True) == ["call", "abc", "abc"]
    twice = amf.encode_command([[Vector("object", ["abc"]), Vector("object", ["abc"])]], True)
    assert twice.count(b"abc") == 1
    assert same(amf.decode_command(twice, True), [[Vector("object", ["abc"]), Vector("object", ["abc"])]])


def test_an_empty_body() -> None:
    for amf3 in (False, True):
        assert amf.decode_command(b"", amf3) == []
    assert amf.decode_command(b"\0", True) == []


# Limits


def nested(depth: int) -> list[Value]:
    value: list[Value] = []
    for _ in range(depth - 1):
        value = [value]
    return value


CODECS = [(amf.encode0, amf.decode0), (amf.encode3, amf.decode3)]


@pytest.mark.parametrize(("encode", "decode"), CODECS)
@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: TypedObject("C", {"k": v})])
def test_the_depth_limit(encode: Any, decode: Any, wrap: Any) -> None:
    value: Value = 1.0
    for _ in range(32):
        value = wrap(value)
    body = encode(value)
    assert same(decode(body), [value])
    with pytest.raises(AmfError, match="deep"):
        decode(body, max_depth=31)
    with pytest.raises(LocalError, match="deep"):
        encode(wrap(value))
    with pytest.raises(AmfError, match="deep"):
        decode(encode(wrap(value), max_depth=33))


def test_the_depth_limit_counts_across_the_switch_to_amf3() -> None:
    amf3 = Vector("object", [Vector("object", [])])
    body = amf.encode_command([[[amf3]]], True)
    assert same(amf.decode_command(body, True, max_depth=4), [[[amf3]]])
    with pytest.raises(AmfError, match="deep"):
        amf.decode_command(body, True, max_depth=3)
    with pytest.raises(LocalError, match="deep"):
        amf.encode_command([[[amf3]]], True, max_depth=3)


@pytest.mark.parametrize(("encode", "decode"), CODECS)
def test_the_highest_depth_fits_the_interpreter(encode: Any, decode: Any) -> None:
    body = encode(nested(64), max_depth=64)
    assert decode(body, max_depth=64) == [nested(64)]
    with pytest.raises(LocalError):
        encode(1, max_depth=65)
    with pytest.raises(LocalError):
        decode(body, max_depth=65)


def test_endless_nesting_is_an_error_and_not_a_recursion_error() -> None:
    for body in (b"\3\0\1a" * 10_000, b"\x0a\0\0\0\1" * 10_000, b"\x08\0\0\0\0\0\1a" * 10_000, b"\x10\0\1C\0\1a" * 999):
        with pytest.raises(AmfError, match="deep"):
            amf.decode0(body)
    collection = b"\x0a\x07\x43flex.messaging.io.ArrayCollection"
    objects = b"\x0a\x0b\x01\x03a" + b"\x0a\x01\x00" * 9999
    for body in (b"\x09\x03\x01" * 9999, objects, collection + b"\x0a\x01" * 9999):
        with pytest.raises(AmfError, match="deep"):
            amf.decode3(body)
    with pytest.raises(AmfError, match="deep"):
        amf.decode0(b"\x0a\0\0\0\1" * 20 + b"\x11" + b"\x09\x03\x01" * 9999)


@pytest.mark.parametrize(("encode", "decode"), CODECS)
def test_the_item_limit(encode: Any, decode: Any) -> None:
    assert len(decode(encode(*[None] * 4096))) == 4096
    assert len(decode(encode([None] * 4095))[0]) == 4095
    body = encode([None] * 4096, max_items=4097)
    with pytest.raises(AmfError, match="more values"):
        decode(body)
    assert len(decode(body, max_items=4097)[0]) == 4096
    with pytest.raises(LocalError, match="more values"):
        encode([None] * 4096)


def test_the_item_limit_counts_the_numbers_of_a_vector() -> None:
    vector = Vector("int", [1] * 9)
    assert amf.decode3(amf.encode3(vector), max_items=10) == [vector]
    with pytest.raises(AmfError, match="more values"):
        amf.decode3(amf.encode3(vector), max_items=9)
    with pytest.raises(LocalError, match="more values"):
        amf.encode3(vector, max_items=9)


def test_references_do_not_multiply_bytes() -> None:
    """2000 references to 60 000 bytes: as an object, a string, a name in traits, a byte array."""
    long = b"x" * 60_000
    length = b"\x87\xa9\x41"  # U29 of 60 000 << 1 | 1
    bodies = [
        (amf.decode0, b"\x0a\0\0\0\1\x0c\0\0\xea\x60" + long, b"\7\0\0"),
        (amf.decode3, b"\6" + length + long, b"\6\0"),
        (amf.decode3, b"\x0a\x13\1" + length + long + b"\1", b"\x0a\1\1"),
        (amf.decode3, b"\x0c" + length + long, b"\x0c\0"),
    ]
    for decode, first, again in bodies:
        assert len(decode(first + again * 10)) == 11
        with pytest.raises(AmfError, match="references stand for more"):
            decode(first + again * 2000)


def test_values_in_themselves_end_the_encoders() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    for encode in (amf.encode0, amf.encode3):
        with pytest.raises(LocalError, match="contains itself"):
            encode(loop)
    twice: list[Any] = []
    for _ in range(31):
        twice = [twice, twice]  # 2 ** 32 values when written out
    for encode in (amf.encode0, amf.encode3):
        with pytest.raises(LocalError, match="more values"):
            encode(twice)


# Local misuse


@pytest.mark.parametrize("value", [object(), {1, 2}, "\ud800", {"\ud800": 1}, {1: 1}, 10**400, 1j, range])
def test_what_cannot_be_encoded(value: Any) -> None:
    for encode in (amf.encode0, amf.encode3):
        with pytest.raises(LocalError):
            encode(value)
        with pytest.raises(LocalError):
            encode({"in": [value]})


def test_looser_python_types_are_taken() -> None:
    class Code(StrEnum):
        START = "NetStream.Play.Start"

    class Number(IntEnum):
        ONE = 1

    loose: OrderedDict[str, Any] = OrderedDict(code=Code.START, number=Number.ONE, tuple=(1.5, True))
    plain = {"code": "NetStream.Play.Start", "number": 1, "tuple": [1.5, True]}
    assert same(amf.decode0(amf.encode0(loose)), [plain | {"number": 1.0}])
    assert same(amf.decode3(amf.encode3(loose)), [plain])


# The values


def test_specials_are_false_and_print_their_names() -> None:
    assert not UNDEFINED
    assert not UNSUPPORTED
    assert repr([UNDEFINED, UNSUPPORTED]) == "[UNDEFINED, UNSUPPORTED]"


def test_objects_compare_with_their_class() -> None:
    assert TypedObject("A", {"x": 1}) == TypedObject("A", {"x": 1})
    assert not TypedObject("A", {"x": 1}) != TypedObject("A", {"x": 1})
    assert TypedObject("A", {"x": 1}) != TypedObject("B", {"x": 1})
    assert TypedObject("A", {"x": 1}) != {"x": 1}
    assert EcmaArray(x=1) == {"x": 1}
    assert repr(TypedObject("A", {"x": 1})) == "TypedObject('A', {'x': 1})"
    assert repr(EcmaArray(x=1)) == "EcmaArray({'x': 1})"


def test_numbers_keep_every_bit() -> None:
    for number in (math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308):
        assert same(amf.decode0(amf.encode0(number)), [number])
        assert same(amf.decode3(amf.encode3(number)), [number])
