"""AMF0 on the wire (sections of Action Message Format 0)."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from pyrtmp import amf
from pyrtmp.amf import UNDEFINED, UNSUPPORTED, Date, EcmaArray, TypedObject, Vector, Xml, XmlDocument
from pyrtmp.errors import AmfError, LocalError

VECTORS: list[tuple[str, Any]] = [
    ("00 3ff8000000000000", 1.5),  # 2.2
    ("01 00", False),  # 2.3
    ("01 01", True),
    ("02 0000", ""),  # 2.4
    ("02 0003 e282ac", "€"),
    ("03 000009", {}),  # 2.5
    ("03 0001 61 05 0001 62 0101 000009", {"a": None, "b": True}),
    ("03 0000 05 000009", {"": None}),  # an empty name is one unless the end marker follows
    ("05", None),  # 2.7
    ("06", UNDEFINED),  # 2.8
    ("08 00000001 0001 61 05 000009", EcmaArray(a=None)),  # 2.10
    ("0a 00000002 05 0101", [None, True]),  # 2.12
    ("0b 3ff0000000000000 ffc4", Date(1.0, -60)),  # 2.13
    ("0d", UNSUPPORTED),  # 2.15
    ("0f 00000004 3c612f3e", XmlDocument("<a/>")),  # 2.17
    ("10 0001 43 0001 61 05 000009", TypedObject("C", {"a": None})),  # 2.18
]


@pytest.mark.parametrize(("wire", "value"), VECTORS)
def test_both_directions(wire: str, value: Any) -> None:
    body = bytes.fromhex(wire)
    (decoded,) = amf.decode0(body)
    assert decoded == value
    assert type(decoded) is type(value)
    assert amf.encode0(value) == body


def test_an_int_is_a_number() -> None:
    assert amf.encode0(1) == amf.encode0(1.0) == bytes.fromhex("003ff0000000000000")


def test_strings_beyond_16_bits_are_long_strings() -> None:
    for size, marker in ((65535, 0x02), (65536, 0x0C)):
        body = amf.encode0("x" * size)
        assert body[0] == marker
        assert amf.decode0(body) == ["x" * size]
    assert amf.decode0(bytes.fromhex("0c 00000001 78")) == ["x"]
    # The limit is one of bytes, not of characters.
    assert amf.encode0("é" * 32768)[0] == 0x0C


def test_a_name_beyond_16_bits_has_no_form() -> None:
    with pytest.raises(LocalError):
        amf.encode0({"x" * 65536: 1})
    with pytest.raises(LocalError):
        amf.encode0(TypedObject("x" * 65536))
    assert len(amf.decode0(amf.encode0({"x" * 65535: 1}))) == 1


def test_text_that_is_not_utf_8() -> None:
    assert amf.decode0(b"\2\0\2\xff\x61") == ["\ufffda"]
    assert amf.decode0(b"\3\0\1\xff\5\0\0\x09") == [{"\ufffd": None}]
    assert amf.decode0(b"\2\0\3\xed\xa0\x80") == ["\ufffd\ufffd\ufffd"]  # a surrogate


def test_a_boolean_is_any_byte_but_zero() -> None:
    assert amf.decode0(b"\1\x02") == [True]


def test_xml_has_one_form() -> None:
    assert amf.encode0(Xml("<a/>")) == amf.encode0(XmlDocument("<a/>"))


@pytest.mark.parametrize("value", [b"x", bytearray(b"x"), memoryview(b"x"), Vector("int", []), amf.Dictionary()])
def test_what_only_amf3_can_say(value: Any) -> None:
    with pytest.raises(LocalError, match="no AMF0 form"):
        amf.encode0(value)
    assert amf.encode_command([value], True)[:2] == b"\0\x11"


def test_a_time_zone_beyond_16_bits() -> None:
    with pytest.raises(LocalError):
        amf.encode0(Date(0.0, 40000))


# 2.10 ECMA Array


@pytest.mark.parametrize("count", ["00000000", "00000001", "00000009", "ffffffff"])
def test_the_count_of_an_ecma_array_means_nothing(count: str) -> None:
    body = bytes.fromhex("08" + count + "0001 61 05  0001 62 05  000009 05")
    assert amf.decode0(body) == [{"a": None, "b": None}, None]


def test_an_ecma_array_may_end_with_the_body_after_the_promised_count() -> None:
    assert amf.decode0(bytes.fromhex("08 00000002 0001 61 05  0001 62 05")) == [{"a": None, "b": None}]
    assert amf.decode0(bytes.fromhex("08 00000000")) == [{}]
    elements = "0001 61 05  0001 62 05"
    for body in (f"08 00000001 {elements}", f"08 00000003 {elements}", f"08 00000002 {elements} 00"):
        with pytest.raises(AmfError, match="truncated"):
            amf.decode0(bytes.fromhex(body))


def test_an_object_may_not_end_with_the_body() -> None:
    for body in ("03", "03 0001 61 05", "10 0001 43", "10 0001 43 0001 61 05"):
        with pytest.raises(AmfError, match="truncated"):
            amf.decode0(bytes.fromhex(body))


# 2.9 Reference


def test_references_count_objects_and_arrays_in_order_of_their_beginning() -> None:
    inner, ecma, strict, typed = "03 000009", "08 00000000 000009", "0a 00000001 05", "10 0001 43 000009"
    body = f"0a 00000004 {inner} {ecma} {strict} {typed}" + "".join(f"07 000{index}" for index in range(5))
    whole, *references = amf.decode0(bytes.fromhex(body))
    expected: list[Any] = [{}, EcmaArray(), [None], TypedObject("C")]
    assert whole == expected
    assert references == [expected, *expected]
    assert [type(value) for value in references] == [list, dict, EcmaArray, list, TypedObject]
    assert isinstance(whole, list)
    assert references[0] is whole
    assert references[3] is whole[2]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("07 0000", "not there"),
        ("03 000009 07 0001", "not there"),
        ("02 0001 61 07 0000", "not there"),  # only complex values are counted
        ("0a 00000001 07 0000", "contain itself"),
        ("03 0001 61 08 00000001 0001 62 07 0000 000009 000009", "contain itself"),
        ("07 00", "truncated"),
    ],
)
def test_references_to_nothing_or_to_oneself(body: str, said: str) -> None:
    with pytest.raises(AmfError, match=said):
        amf.decode0(bytes.fromhex(body))


def doubling(levels: int) -> bytes:
    """A list; then lists, side by side, of two references to the one before: 2 ** levels values to print."""
    pair = b"\x0a\0\0\0\2"
    return b"\x0a\0\0\0\0" + b"".join(
        pair + b"\7" + level.to_bytes(2, "big") + b"\7" + level.to_bytes(2, "big") for level in range(levels)
    )


def test_references_cost_what_they_stand_for() -> None:
    assert len(amf.decode0(doubling(8))) == 9
    with pytest.raises(AmfError, match="more values"):
        amf.decode0(doubling(12))


def test_references_count_as_the_depth_they_bring() -> None:
    def chain(levels: int) -> bytes:
        one = b"\x0a\0\0\0\1\7"
        return b"\x0a\0\0\0\0" + b"".join(one + level.to_bytes(2, "big") for level in range(levels))

    assert len(amf.decode0(chain(31))) == 32
    with pytest.raises(AmfError, match="deep"):
        amf.decode0(chain(32))
    # The deepest branch counts, not the last one.
    one = b"\x0a\0\0\0\1"
    deep_then_flat = b"\x0a\0\0\0\2" + one * 30 + b"\5" + b"\x0a\0\0\0\0" + one * 2 + b"\7\0\0"
    with pytest.raises(AmfError, match="deep"):
        amf.decode0(deep_then_flat)
    assert len(amf.decode0(deep_then_flat, max_depth=33)) == 2


# Refusals


@pytest.mark.parametrize("marker", [0x04, 0x09, 0x0E, 0x12, 0x61, 0xFF])
def test_markers_without_a_meaning(marker: int) -> None:
    with pytest.raises(AmfError, match=f"{marker:#04x} at 1"):
        amf.decode0(bytes([0x05, marker]) + bytes(20))


@pytest.mark.parametrize(
    "wire",
    ["00 3ff800000000", "01", "02", "02 00", "02 0002 61", "0a 000000", "0b 3ff000000000000000", "0c 0000000261", "11"],
)
def test_truncated(wire: str) -> None:
    with pytest.raises(AmfError, match="truncated"):
        amf.decode0(bytes.fromhex(wire))


@pytest.mark.parametrize("head", ["0a ffffffff", "0a 7fffffff 05", "0c ffffffff", "0f ffffffff 61", "02 ffff"])
def test_counts_are_not_believed(head: str) -> None:
    body = bytes.fromhex(head)
    tracemalloc.start()
    try:
        with pytest.raises(AmfError, match="truncated"):
            amf.decode0(body)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
