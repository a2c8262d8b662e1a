"""AMF0 values <-> bytes (Action Message Format 0, December 2007).

Every value is a marker byte and its content; numbers are big endian.  Names and short strings have a 16-bit
length.  A marker of its own, ``avmplus-object``, switches to AMF3 for one value.  Its content has AMF3's tables,
shared by all such values of one body.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from ..errors import AmfError, LocalError
from . import amf3
from .limits import TOO_MANY, Shared
from .values import (
    UNDEFINED,
    UNSUPPORTED,
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

# 2.1 Types Overview: the markers
NUMBER: Final = 0x00
BOOLEAN: Final = 0x01
STRING: Final = 0x02
OBJECT: Final = 0x03
MOVIE_CLIP: Final = 0x04
NULL: Final = 0x05
UNDEFINED_MARKER: Final = 0x06
REFERENCE: Final = 0x07
ECMA_ARRAY: Final = 0x08
OBJECT_END: Final = 0x09
STRICT_ARRAY: Final = 0x0A
DATE: Final = 0x0B
LONG_STRING: Final = 0x0C
UNSUPPORTED_MARKER: Final = 0x0D
RECORD_SET: Final = 0x0E
XML_DOCUMENT: Final = 0x0F
TYPED_OBJECT: Final = 0x10
AVMPLUS_OBJECT: Final = 0x11

_OBJECT_END: Final = bytes((OBJECT_END,))
_double: Final = struct.Struct(">d")
_marked_double: Final = struct.Struct(">Bd")
_marked_short: Final = struct.Struct(">BH")
_marked_long: Final = struct.Struct(">BI")
_u16: Final = struct.Struct(">H")
_u32: Final = struct.Struct(">I")
_date: Final = struct.Struct(">dh")


class Decoder(amf3.Decoder):
    """Reads AMF0 values.  As one of them may be AMF3, this is an AMF3 decoder too."""

    __slots__ = ("_complex0",)

    def __init__(self, data: bytes | bytearray | memoryview, max_depth: int, max_items: int) -> None:
        super().__init__(data, max_depth, max_items)
        self._complex0: list[Shared | None] = []

    def value0(self, depth: int) -> Value:
        """The next value, inside ``depth`` containers."""
        # charge(), u8() and take() are written out here and in _properties(): most of a body goes through them.
        self.left -= 1
        if self.left < 0:
            raise AmfError(TOO_MANY)
        pos = self.pos
        if pos >= self.end:
            raise AmfError(f"truncated: a value wanted at {pos}")
        self.pos = pos + 1
        marker = self.data[pos]
        if marker == STRING:
            return self._short_string()
        if marker == NUMBER:
            if pos + 9 > self.end:
                raise AmfError(f"truncated: a number wanted at {pos + 1}")
            self.pos = pos + 9
            return _double.unpack_from(self.data, pos + 1)[0]  # type: ignore[no-any-return]
        if marker == BOOLEAN:
            return self.u8() != 0
        if marker == NULL:
            return None
        if marker == OBJECT:
            return self.container(self._complex0, depth, self._object)
        if marker == ECMA_ARRAY:
            return self.container(self._complex0, depth, self._ecma_array)
        if marker == STRICT_ARRAY:
            return self.container(self._complex0, depth, self._strict_array)
        if marker == TYPED_OBJECT:
            return self.container(self._complex0, depth, self._typed_object)
        if marker == REFERENCE:
            index = _u16.unpack_from(self.data, self.take(2))[0]
            return self.reference(self._complex0, index, depth)
        if marker == AVMPLUS_OBJECT:
            self.left += 1  # the marker and the value behind it are one value
            return self.value3(depth)
        if marker == UNDEFINED_MARKER:
            return UNDEFINED
        if marker == UNSUPPORTED_MARKER:
            return UNSUPPORTED
        if marker == DATE:
            return Date(*_date.unpack_from(self.data, self.take(10)))
        if marker == LONG_STRING:
            return self._long_string()
        if marker == XML_DOCUMENT:
            return XmlDocument(self._long_string())
        # 2.6 and 2.16 reserve movie clip and record set for a future that did not come.
        raise AmfError(f"unknown AMF0 marker {marker:#04x} at {self.pos - 1}")

    def _short_string(self) -> str:
        data, start = self.data, self.pos + 2
        if start > self.end:
            raise AmfError(f"truncated: a length wanted at {self.pos}")
        stop = start + (data[start - 2] << 8 | data[start - 1])
        if stop > self.end:
            raise AmfError(f"truncated: {stop - start} bytes wanted at {start}, {self.end - start} there")
        self.pos = stop
        return str(data[start:stop], "utf-8", "replace")

    def _long_string(self) -> str:
        size = self._u32()
        pos = self.take(size)
        return str(self.data[pos : pos + size], "utf-8", "replace")

    def _u32(self) -> int:
        return _u32.unpack_from(self.data, self.take(4))[0]  # type: ignore[no-any-return]

    def _object(self, depth: int) -> Value:
        properties: dict[str, Value] = {}
        self._properties(properties, depth)
        return properties

    def _typed_object(self, depth: int) -> Value:
        typed = TypedObject(self._short_string())
        self._properties(typed, depth)
        return typed

    def _properties(self, into: dict[str, Value], depth: int, count: int = -1) -> None:
        """Read names and values up to the object's end; or up to the body's, if that comes after ``count`` of them.

        An empty name without the end marker behind it is a name like any other.
        """
        data, end = self.data, self.end
        seen = 0
        while True:
            start = self.pos + 2
            if start > end:
                if seen == count and self.pos == end:
                    return
                raise AmfError(f"truncated: a name wanted at {self.pos}")
            size = data[start - 2] << 8 | data[start - 1]
            if not size and data.startswith(_OBJECT_END, start):
                self.pos = start + 1
                return
            stop = start + size
            if stop > end:
                raise AmfError(f"truncated: a name of {size} bytes wanted at {start}")
            self.pos = stop
            into[str(data[start:stop], "utf-8", "replace")] = self.value0(depth)
            seen += 1

    def _ecma_array(self, depth: int) -> Value:
        """2.10 says a count and the elements; in fact an object's end closes them, and the count may be anything.

        A few writers leave the end out (lal before its pull request 237), so the end of the body serves as well,
        where the count agrees.
        """
        count = self._u32()
        array = EcmaArray()
        self._properties(array, depth, count)
        return array

    def _strict_array(self, depth: int) -> Value:
        count = self._u32()
        self.expect(count, 1)
        return [self.value0(depth) for _ in range(count)]


class Encoder(amf3.Encoder):
    """Writes AMF0 values.  With ``avmplus``, what AMF0 has no form for is switched to AMF3, else it is refused.

    References are not written: many receivers do not know them, and commands have no use for them.
    """

    __slots__ = ("_avmplus",)

    def __init__(self, max_depth: int, max_items: int, *, avmplus: bool = False) -> None:
        super().__init__(max_depth, max_items)
        self._avmplus = avmplus

    def value0(self, value: Encodable, depth: int) -> None:
        """Append ``value``, which stands inside ``depth`` containers."""
        self.left -= 1
        if self.left < 0:
            raise LocalError(TOO_MANY)
        out = self.out
        if isinstance(value, str):
            data = value.encode()
            if isinstance(value, Xml):
                out += _marked_long.pack(XML_DOCUMENT, len(data))
            elif len(data) > 0xFFFF:
                out += _marked_long.pack(LONG_STRING, len(data))
            else:
                out += _marked_short.pack(STRING, len(data))
            out += data
        elif value is None:
            out.append(NULL)
        elif isinstance(value, bool):
            out += bytes((BOOLEAN, value))
        elif isinstance(value, (int, float)):
            out += _marked_double.pack(NUMBER, value)
        elif isinstance(value, Special):
            out.append(UNDEFINED_MARKER if value is UNDEFINED else UNSUPPORTED_MARKER)
        elif isinstance(value, Date):
            out.append(DATE)
            out += _date.pack(value.ms, value.tz)
        elif isinstance(value, (bytes, bytearray, memoryview, Vector, Dictionary)):
            if not self._avmplus:
                raise LocalError(f"{type(value).__name__} has no AMF0 form")
            self.left += 1  # the marker and the value behind it are one value
            out.append(AVMPLUS_OBJECT)
            self.value3(value, depth)
        else:
            self._container0(value, self.enter(depth))

    def _container0(self, value: Encodable, depth: int) -> None:
        out = self.out
        if isinstance(value, Mapping):
            if isinstance(value, EcmaArray):
                out += _marked_long.pack(ECMA_ARRAY, len(value))
            elif isinstance(value, TypedObject):
                out.append(TYPED_OBJECT)
                out += _name(value.class_name)
            else:
                out.append(OBJECT)
            for name, item in value.items():
                out += _name(name)
                self.value0(item, depth)
            out += b"\0\0\t"  # an empty name, OBJECT_END
        elif isinstance(value, Sequence):
            out += _marked_long.pack(STRICT_ARRAY, len(value))
            for item in value:
                self.value0(item, depth)
        else:
            raise LocalError(f"{type(value).__name__} has no AMF form")


def _name(name: str) -> bytes:
    if not isinstance(name, str):
        raise LocalError(f"a name is a str, not {type(name).__name__}")
    data = name.encode()
    if len(data) > 0xFFFF:
        raise LocalError(f"a name of {len(data)} bytes does not fit into AMF0's 65535")
    return _u16.pack(len(data)) + data
