"""AMF3 values <-> bytes (Action Message Format 3, January 2013).

Every value is a marker byte and its content.  Lengths, counts and integers are U29: one to four bytes, seven bits
each and eight in the fourth.  Most of them carry flags in their lowest bits: 0 says that the rest is an index
into a table of what came before.  There are three tables: strings (and names), complex values, and traits (the
class name and the fixed property names of an object).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from ..errors import AmfError, LocalError
from .limits import TOO_MANY, Reader, Shared, Writer
from .values import (
    UNDEFINED,
    Date,
    Dictionary,
    EcmaArray,
    Encodable,
    Special,
    TypedObject,
    Value,
    Vector,
    Xml,
    XmlDocument,
)

# 3.1 Overview: the markers
UNDEFINED_MARKER: Final = 0x00
NULL: Final = 0x01
FALSE: Final = 0x02
TRUE: Final = 0x03
INTEGER: Final = 0x04
DOUBLE: Final = 0x05
STRING: Final = 0x06
XML_DOCUMENT: Final = 0x07
DATE: Final = 0x08
ARRAY: Final = 0x09
OBJECT: Final = 0x0A
XML: Final = 0x0B
BYTE_ARRAY: Final = 0x0C
VECTOR_INT: Final = 0x0D
VECTOR_UINT: Final = 0x0E
VECTOR_DOUBLE: Final = 0x0F
VECTOR_OBJECT: Final = 0x10
DICTIONARY: Final = 0x11

EMPTY: Final = 0x01
"""U29 of an empty string written out: the end of a list of named values."""

U29_MAX: Final = (1 << 29) - 1
INTEGER_MIN: Final = -(1 << 28)
INTEGER_MAX: Final = (1 << 28) - 1

TRANSPARENT: Final = frozenset(
    {
        "flex.messaging.io.ArrayCollection",
        "flex.messaging.io.ArrayList",
        "flex.messaging.io.ObjectProxy",
    }
)
"""Externalizable classes whose body is one AMF3 value, and which mean that value.  The body of any other
externalizable class is private to it (3.12), so nothing behind it can be found."""

_double: Final = struct.Struct(">d")

Traits = tuple[str, bool, tuple[str, ...]]
"""Class name, dynamic?, fixed property names."""


class Decoder(Reader):
    """Reads AMF3 values.  The tables live as long as the decoder: one message body."""

    __slots__ = ("_complex3", "_strings", "_traits")

    def __init__(self, data: bytes | bytearray | memoryview, max_depth: int, max_items: int) -> None:
        super().__init__(data, max_depth, max_items)
        self._strings: list[str] = []
        self._complex3: list[Shared | None] = []
        self._traits: list[tuple[Traits | None, int]] = []  # with their bytes when written out

    def value3(self, depth: int) -> Value:
        """The next value, inside ``depth`` containers."""
        self.charge(1)
        marker = self.u8()
        if marker == STRING:
            return self.string3()
        if marker == INTEGER:
            number = self.u29()
            return number - (1 << 29) if number > INTEGER_MAX else number
        if marker == DOUBLE:
            return _double.unpack_from(self.data, self.take(8))[0]  # type: ignore[no-any-return]
        if marker <= TRUE:
            return (UNDEFINED, None, False, True)[marker]
        if marker > DICTIONARY:
            raise AmfError(f"unknown AMF3 marker {marker:#04x} at {self.pos - 1}")
        header = self.u29()
        if not header & 1:
            return self.reference(self._complex3, header >> 1, depth)
        read = _CONTAINERS.get(marker)
        if read is not None:
            return self.container(self._complex3, depth, partial(read, self, header >> 1))
        left, start = self.left, self.pos
        value = self._leaf(marker, header >> 1)
        self._complex3.append((value, 1 + left - self.left, 0, self.pos - start))
        return value

    def u29(self) -> int:
        """1.3.1 Variable Length Unsigned 29-bit Integer Encoding."""
        byte = self.u8()
        value = byte & 0x7F
        if byte < 0x80:
            return value
        for _ in range(2):
            byte = self.u8()
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        return value << 8 | self.u8()

    def string3(self) -> str:
        """1.3.2 Strings and UTF-8.  The empty string is never sent by reference, nor is it in the table."""
        header = self.u29()
        if not header & 1:
            index = header >> 1
            if index >= len(self._strings):
                raise AmfError(f"reference {index} to a string that is not there")
            string = self._strings[index]
            self.grow(len(string))
            return string
        if header == EMPTY:
            return ""
        size = header >> 1
        pos = self.take(size)
        string = str(self.data[pos : pos + size], "utf-8", "replace")
        self._strings.append(string)
        return string

    def _leaf(self, marker: int, size: int) -> Value:
        """What has a place in the table of complex values, but holds no others.  ``size``: bytes, or numbers."""
        if marker == DATE:
            return Date(_double.unpack_from(self.data, self.take(8))[0])
        if marker == VECTOR_INT:
            return Vector("int", *self._numbers(size, 4, "i"))
        if marker == VECTOR_UINT:
            return Vector("uint", *self._numbers(size, 4, "I"))
        if marker == VECTOR_DOUBLE:
            return Vector("double", *self._numbers(size, 8, "d"))
        pos = self.take(size)
        content = self.data[pos : pos + size]
        if marker == BYTE_ARRAY:
            return content
        text = str(content, "utf-8", "replace")
        return Xml(text) if marker == XML else XmlDocument(text)

    def _numbers(self, count: int, size: int, code: str) -> tuple[list[Value], bool]:
        """The content of a vector of numbers (3.15), and whether its length is fixed."""
        fixed = self.u8() != 0
        self.expect(count, size)
        self.charge(count)
        return list(struct.unpack_from(f">{count}{code}", self.data, self.take(count * size))), fixed

    def _array(self, count: int, depth: int) -> Value:
        """3.11: the named elements, then ``count`` elements that are only numbered."""
        named: dict[str, Value] = {}
        self._named_values(named, depth)
        self.expect(count, 1)
        dense = [self.value3(depth) for _ in range(count)]
        if not named:
            return dense
        return EcmaArray({str(index): value for index, value in enumerate(dense)} | named)

    def _named_values(self, into: dict[str, Value], depth: int) -> None:
        while name := self.string3():
            into[name] = self.value3(depth)

    def _object3(self, header: int, depth: int) -> Value:
        """3.12.  After the object's own flag: traits by reference (0), externalizable (11), else dynamic? and count."""
        traits = self._read_traits(header)
        if traits is None:
            return self.value3(depth)
        class_name, dynamic, names = traits
        properties: dict[str, Value] = TypedObject(class_name) if class_name else {}
        for name in names:
            properties[name] = self.value3(depth)
        if dynamic:
            self._named_values(properties, depth)
        return properties

    def _read_traits(self, header: int) -> Traits | None:
        """The traits of an object; None stands for those of a transparent wrapper."""
        if not header & 1:
            index = header >> 1
            if index >= len(self._traits):
                raise AmfError(f"reference {index} to traits that are not there")
            traits, size = self._traits[index]
            self.grow(size)
            return traits
        start = self.pos + self.growth
        class_name = self.string3()
        traits = None
        if not header & 2:
            count = header >> 3
            self.expect(count, 1)
            if count > self.left:  # each name is going to have a value
                raise AmfError(TOO_MANY)
            traits = (class_name, bool(header & 4), tuple([self.string3() for _ in range(count)]))
        elif class_name not in TRANSPARENT:
            raise AmfError(f"externalizable class {class_name[:64]!r} cannot be read")
        self._traits.append((traits, self.pos + self.growth - start))
        return traits

    def _object_vector(self, count: int, depth: int) -> Value:
        """3.15: a byte that says whether the length is fixed, the class of the elements, ``count`` values."""
        fixed = self.u8() != 0
        class_name = self.string3()
        self.expect(count, 1)
        return Vector("object", [self.value3(depth) for _ in range(count)], fixed, class_name)

    def _dictionary(self, count: int, depth: int) -> Value:
        """3.16: a byte that says whether keys are held weakly, then ``count`` keys and values."""
        weak = self.u8() != 0
        self.expect(count, 2)
        return Dictionary([(self.value3(depth), self.value3(depth)) for _ in range(count)], weak)


_CONTAINERS: Final[dict[int, Callable[[Decoder, int, int], Value]]] = {
    ARRAY: Decoder._array,
    OBJECT: Decoder._object3,
    VECTOR_OBJECT: Decoder._object_vector,
    DICTIONARY: Decoder._dictionary,
}
"""Called with the U29 that follows the marker, without its reference flag, and the depth inside."""

_NUMBERS: Final = {"int": (VECTOR_INT, "i"), "uint": (VECTOR_UINT, "I"), "double": (VECTOR_DOUBLE, "d")}
"""Marker and ``struct`` code of the vectors of numbers."""


class Encoder(Writer):
    """Writes AMF3 values.

    Strings and traits that come again are written as references, objects are not: a receiver gets a copy of
    whatever stands in two places.
    """

    __slots__ = ("_string_table", "_trait_table")

    def __init__(self, max_depth: int, max_items: int) -> None:
        super().__init__(max_depth, max_items)
        self._string_table: dict[str, int] = {}
        self._trait_table: dict[Traits, int] = {}

    def value3(self, value: Encodable, depth: int) -> None:
        """Append ``value``, which stands inside ``depth`` containers."""
        self.charge(1)
        out = self.out
        if value is None:
            out.append(NULL)
        elif isinstance(value, bool):
            out.append(TRUE if value else FALSE)
        elif isinstance(value, Xml):
            out.append(XML_DOCUMENT if isinstance(value, XmlDocument) else XML)
            self._bytes(value.encode())
        elif isinstance(value, str):
            out.append(STRING)
            self.string3(value)
        elif isinstance(value, int) and INTEGER_MIN <= value <= INTEGER_MAX:
            out.append(INTEGER)
            self.u29(value & U29_MAX)
        elif isinstance(value, (int, float)):
            out.append(DOUBLE)
            out += _double.pack(value)
        elif isinstance(value, Special):
            out.append(UNDEFINED_MARKER)  # AMF3 has no "unsupported"
        elif isinstance(value, (bytes, bytearray, memoryview)):
            out.append(BYTE_ARRAY)
            self._bytes(bytes(value))
        elif isinstance(value, Date):
            out += bytes((DATE, 1))
            out += _double.pack(value.ms)
        elif isinstance(value, Vector) and value.kind != "object":
            self._numbers(value)
        else:
            self._container(value, self.enter(depth))

    def u29(self, value: int) -> None:
        out = self.out
        if value < 0x80:
            out.append(value)
        elif value < 0x4000:
            out += bytes((value >> 7 | 0x80, value & 0x7F))
        elif value < 0x200000:
            out += bytes((value >> 14 | 0x80, value >> 7 & 0x7F | 0x80, value & 0x7F))
        elif value <= U29_MAX:
            out += bytes((value >> 22 | 0x80, value >> 15 & 0x7F | 0x80, value >> 8 & 0x7F | 0x80, value & 0xFF))
        else:
            raise LocalError(f"{value} does not fit into 29 bits")

    def string3(self, string: str) -> None:
        if not isinstance(string, str):
            raise LocalError(f"a name is a str, not {type(string).__name__}")
        if not string:
            self.out.append(EMPTY)
            return
        index = self._string_table.get(string)
        if index is not None:
            self.u29(index << 1)
            return
        self._string_table[string] = len(self._string_table)
        self._bytes(string.encode())

    def _bytes(self, data: bytes) -> None:
        self.u29(len(data) << 1 | 1)
        self.out += data

    def _container(self, value: Encodable, depth: int) -> None:
        out = self.out
        if isinstance(value, EcmaArray):
            out += bytes((ARRAY, EMPTY))  # no dense part
            self._named_values(value, depth)
        elif isinstance(value, TypedObject):
            self._sealed(value.class_name, value, depth)
        elif isinstance(value, Mapping):
            if "" in value:
                # A dynamic property cannot have the name that ends the list of them.
                self._sealed("", value, depth)
            else:
                out.append(OBJECT)
                self._traits(("", True, ()))
                self._named_values(value, depth)
        elif isinstance(value, Vector):
            out.append(VECTOR_OBJECT)
            self.u29(len(value.items) << 1 | 1)
            out.append(value.fixed)
            self.string3(value.class_name)
            for element in value.items:
                self.value3(element, depth)
        elif isinstance(value, Dictionary):
            out.append(DICTIONARY)
            self.u29(len(value.pairs) << 1 | 1)
            out.append(value.weak_keys)
            for key, item in value.pairs:
                self.value3(key, depth)
                self.value3(item, depth)
        elif isinstance(value, Sequence):
            out.append(ARRAY)
            self.u29(len(value) << 1 | 1)
            out.append(EMPTY)  # no named part
            for member in value:
                self.value3(member, depth)
        else:
            raise LocalError(f"{type(value).__name__} has no AMF form")

    def _named_values(self, values: Mapping[str, Encodable], depth: int) -> None:
        for name, value in values.items():
            if name == "":
                raise LocalError("an AMF3 array cannot have an element named by the empty string")
            self.string3(name)
            self.value3(value, depth)
        self.out.append(EMPTY)

    def _sealed(self, class_name: str, properties: Mapping[str, Encodable], depth: int) -> None:
        """An object all of whose properties are fixed by its traits, so that the next of its class is shorter."""
        self.out.append(OBJECT)
        self._traits((class_name, False, tuple(properties)))
        for value in properties.values():
            self.value3(value, depth)

    def _traits(self, traits: Traits) -> None:
        index = self._trait_table.get(traits)
        if index is not None:
            self.u29(index << 2 | 0b01)
            return
        self._trait_table[traits] = len(self._trait_table)
        class_name, dynamic, names = traits
        self.u29(len(names) << 4 | dynamic << 3 | 0b0011)
        self.string3(class_name)
        for name in names:
            self.string3(name)

    def _numbers(self, vector: Vector) -> None:
        marker, code = _NUMBERS[vector.kind]
        count = len(vector.items)
        self.charge(count)
        self.out.append(marker)
        self.u29(count << 1 | 1)
        self.out.append(vector.fixed)
        self.out += struct.pack(f">{count}{code}", *vector.items)
