"""AMF3 on the wire (sections of Action Message Format 3)."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from pyrtmp import amf
from pyrtmp.amf import UNDEFINED, UNSUPPORTED, Date, Dictionary, EcmaArray, TypedObject, Vector, Xml, XmlDocument
from pyrtmp.amf.amf3 import Encoder
from pyrtmp.errors import AmfError, LocalError


def wire(text: str) -> bytes:
    """Bytes written as hex, with text in quotes."""
    parts = text.split("'")
    return b"".join(part.encode() if index % 2 else bytes.fromhex(part) for index, part in enumerate(parts))


VECTORS: list[tuple[str, Any]] = [
    ("00", UNDEFINED),
    ("01", None),
    ("02", False),
    ("03", True),
    ("04 00", 0),  # 3.6, with the bounds of U29's lengths
    ("04 7f", 127),
    ("04 8100", 128),
    ("04 ff7f", 16383),
    ("04 818000", 16384),
    ("04 ffff7f", 2097151),
    ("04 80c08000", 2097152),
    ("04 bfffffff", 268435455),
    ("04 ffffffff", -1),
    ("04 c0808000", -268435456),
    ("05 3ff8000000000000", 1.5),
    ("05 41b0000000000000", 268435456.0),
    ("06 01", ""),
    ("06 07 e282ac", "€"),
    ("07 09 '<a/>'", XmlDocument("<a/>")),
    ("08 01 3ff0000000000000", Date(1.0)),
    ("09 01 01", []),
    ("09 05 01 0101", [None, None]),
    ("09 01 03'a' 01 01", EcmaArray(a=None)),
    ("0a 0b 01 01", {}),  # 3.12: dynamic, no sealed names, no class
    ("0a 0b 01 03'a' 01 01", {"a": None}),
    ("0a 23 03'C' 03'a' 03'b' 01 02", TypedObject("C", {"a": None, "b": False})),
    ("0a 13 01 01 01", {"": None}),  # an empty name can only be a sealed one
    ("0b 09 '<a/>'", Xml("<a/>")),
    ("0c 07 00ff01", b"\x00\xff\x01"),
    ("0d 05 00 00000001 ffffffff", Vector("int", [1, -1])),
    ("0e 05 01 00000001 ffffffff", Vector("uint", [1, 4294967295], True)),
    ("0f 03 00 3ff8000000000000", Vector("double", [1.5])),
    ("10 05 00 03'C' 01 06 00", Vector("object", [None, "C"], class_name="C")),
    ("11 03 01 0403 0404", Dictionary([(3, 4)], True)),
]


@pytest.mark.parametrize(("body", "value"), VECTORS)
def test_both_directions(body: str, value: Any) -> None:
    (decoded,) = amf.decode3(wire(body))
    assert decoded == value
    assert type(decoded) is type(value)
    assert amf.encode3(value) == wire(body)


def test_integers_that_do_not_fit_are_doubles() -> None:
    for number in ((1 << 28), -(1 << 28) - 1, 1 << 60):
        assert amf.decode3(amf.encode3(number)) == [float(number)]
        assert amf.encode3(number)[0] == 0x05


def test_unsupported_has_no_form_of_its_own() -> None:
    assert amf.encode3(UNSUPPORTED) == b"\0"


def test_text_that_is_not_utf_8() -> None:
    assert amf.decode3(wire("06 05 ff61")) == ["\ufffda"]
    assert amf.decode3(wire("0b 05 ff61")) == ["\ufffda"]


def test_byte_arrays_are_taken_from_every_buffer() -> None:
    for value in (b"ab", bytearray(b"ab"), memoryview(b"ab")):
        assert amf.encode3(value) == wire("0c 05 'ab'")


# 1.3.2 Strings, and their table


def test_strings_come_again_as_references_names_too() -> None:
    body = amf.encode3("a", {"a": "b"}, ["b", "", "", XmlDocument("a")])
    assert body == wire("06 03'a'  0a 0b 01 00 06 03'b' 01  09 09 01 06 02 06 01 06 01 07 03'a'")
    assert amf.decode3(body) == ["a", {"a": "b"}, ["b", "", "", "a"]]


def test_the_empty_string_takes_no_place_in_the_table() -> None:
    assert amf.decode3(wire("06 01 06 03'a' 06 00")) == ["", "a", "a"]


def test_many_strings() -> None:
    strings = [f"s{index}" for index in range(2000)]
    assert amf.decode3(amf.encode3(*strings, *strings)) == strings * 2


# 3.12 Object, and the table of traits


def test_traits_come_again_as_references() -> None:
    objects: list[amf.Value] = [TypedObject("C", {"a": 1, "b": 2}), {}, TypedObject("C", {"a": 3, "b": 4}), {"x": 5}]
    body = amf.encode3(*objects)
    assert body == wire(
        "0a 23 03'C' 03'a' 03'b' 0401 0402   0a 0b 01 01   0a 01 0403 0404   0a 05 03'x' 0405 01"
    )
    assert amf.decode3(body) == objects


def test_an_object_may_have_sealed_and_dynamic_properties() -> None:
    (value,) = amf.decode3(wire("0a 1b 03'C' 03'a' 0401  03'b' 0402 01"))
    assert value == TypedObject("C", {"a": 1, "b": 2})


def test_flex_wrappers_mean_what_they_wrap() -> None:
    collection = "0a 07 43'flex.messaging.io.ArrayCollection' 09 05 01 0401 0402"
    proxy = "0a 07 3b'flex.messaging.io.ObjectProxy' 0a 0b 01 03'a' 0401 01"
    array_list = "0a 07 37'flex.messaging.io.ArrayList' 09 01 01"
    assert amf.decode3(wire(collection + proxy + array_list)) == [[1, 2], {"a": 1}, []]
    # By reference, their traits (0a 01) and the wrapper itself (index 0) or what it wraps (index 1).
    first, second, third, fourth = amf.decode3(wire(collection + "0a 01 09 01 01" + "09 00" + "09 02"))
    assert first == [1, 2]
    assert second == []
    assert third is first
    assert fourth is first


def test_other_externalizable_classes_cannot_be_read() -> None:
    with pytest.raises(AmfError, match="'DSK'"):
        amf.decode3(wire("0a 07 07'DSK' 01"))


# 3.11 Array


def test_an_array_with_both_parts() -> None:
    (value,) = amf.decode3(wire("09 05 03'n' 0407 01 0401 0402"))
    assert value == {"0": 1, "1": 2, "n": 7}
    assert type(value) is EcmaArray


def test_what_amf3_cannot_tell() -> None:
    assert amf.decode3(amf.encode3(EcmaArray())) == [[]]
    assert amf.decode3(amf.encode3(Date(1.0, 60))) == [Date(1.0)]
    with pytest.raises(LocalError, match="empty string"):
        amf.encode3(EcmaArray({"": 1}))


# References to complex values


@pytest.mark.parametrize(
    "first",
    [
        "07 09 '<a/>'",
        "08 01 3ff0000000000000",
        "09 05 01 0101",
        "0a 0b 01 03'a' 01 01",
        "0b 09 '<a/>'",
        "0c 07 00ff01",
        "0d 03 00 00000001",
        "10 03 00 01 04 01",
        "11 03 00 0403 0404",
    ],
)
def test_a_reference_is_the_value_again(first: str) -> None:
    value, again = amf.decode3(wire(first) + wire(first)[:1] + b"\0")
    assert again is value


def test_references_count_from_the_outermost() -> None:
    whole, inner, date = amf.decode3(wire("09 05 01  09 01 01  08 01 3ff0000000000000   09 02  08 04"))
    assert isinstance(whole, list)
    assert inner is whole[0]
    assert date is whole[1]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("06 00", "string"),
        ("09 00", "not there"),
        ("09 01 01 09 02", "not there"),
        ("0a 01", "traits"),
        ("09 03 01 09 00", "contain itself"),
        ("0a 0b 01 03'a' 0a 00 01", "contain itself"),
        ("11 03 00 11 00 01", "contain itself"),
        ("10 03 00 01 10 00", "contain itself"),
        ("0a 07 43'flex.messaging.io.ArrayCollection' 0a 00", "contain itself"),
    ],
)
def test_references_to_nothing_or_to_oneself(body: str, said: str) -> None:
    with pytest.raises(AmfError, match=said):
        amf.decode3(wire(body))


def test_references_cost_what_they_stand_for() -> None:
    def doubling(levels: int) -> bytes:
        return b"\x09\x01\x01" + b"".join(
            b"\x09\x05\x01" + (b"\x09" + bytes([level << 1])) * 2 for level in range(levels)
        )

    assert len(amf.decode3(doubling(8))) == 9
    with pytest.raises(AmfError, match="more values"):
        amf.decode3(doubling(12))
    numbers = b"\x0d" + b"\x83\x51" + b"\0" + bytes(4 * 232) + b"\x0d\0" * 20  # 232 numbers, then 20 times again
    with pytest.raises(AmfError, match="more values"):
        amf.decode3(numbers)
    assert len(amf.decode3(numbers, max_items=21 * 233)) == 21


def test_names_without_a_chance_of_values_are_not_read() -> None:
    body = wire("0a 84f103 01") + b"\x03a" * 5000  # traits of 5000 names: 5000 << 4 | 3
    with pytest.raises(AmfError, match="more values"):
        amf.decode3(body)
    with pytest.raises(AmfError, match="truncated"):
        amf.decode3(body, max_items=6000)


# Refusals


@pytest.mark.parametrize("marker", [0x12, 0x61, 0xFF])
def test_markers_without_a_meaning(marker: int) -> None:
    with pytest.raises(AmfError, match=f"{marker:#04x} at 1"):
        amf.decode3(bytes([0x01, marker]) + bytes(20))


@pytest.mark.parametrize(
    "body",
    "04|04 ff|04 ffff|04 ffffff|05 00|06 05 61|08 01 00|09 03 01|0a 13 01|0c 05 61|0d 03 00 00|0d 03".split("|"),
)
def test_truncated(body: str) -> None:
    with pytest.raises(AmfError, match="truncated"):
        amf.decode3(bytes.fromhex(body))


@pytest.mark.parametrize(
    "head",
    [
        "06 ffffffff",
        "09 ffffffff 01",
        "0a ffffff0b 01",
        "0a fffffff3 01",
        "0b ffffffff",
        "0c ffffffff",
        "0d ffffffff 00",
        "0e ffffffff 00",
        "0f ffffffff 00",
        "10 ffffffff 00 01",
        "11 ffffffff 00",
    ],
)
def test_counts_are_not_believed(head: str) -> None:
    body = bytes.fromhex(head)
    tracemalloc.start()
    try:
        with pytest.raises(AmfError, match="truncated"):
            amf.decode3(body)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value", [Vector("int", [1 << 31]), Vector("uint", [-1]), Vector("int", ["a"]), Vector("double", ["a"])]
)
def test_vectors_of_what_they_cannot_hold(value: Any) -> None:
    with pytest.raises(LocalError):
        amf.encode3(value)


def test_lengths_beyond_29_bits() -> None:
    encoder = Encoder(max_depth=1, max_items=1)
    encoder.u29((1 << 29) - 1)
    assert encoder.out == b"\xff\xff\xff\xff"
    with pytest.raises(LocalError, match="29 bits"):
        encoder.u29(1 << 29)
