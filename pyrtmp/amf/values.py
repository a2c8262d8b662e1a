"""The Python values that stand for AMF values.

==============================  =======================================================================
AMF                             Python
==============================  =======================================================================
number, double                  ``float``
integer (AMF3, 29 bits signed)  ``int``
boolean, null                   ``bool``, ``None``
undefined, unsupported          ``UNDEFINED``, ``UNSUPPORTED``
string, long string             ``str``; bytes that are not UTF-8 become U+FFFD
anonymous object                ``dict``
typed object                    ``TypedObject``
ECMA array, associative array   ``EcmaArray`` (a dense AMF3 part gets the keys "0", "1", ...)
strict array, dense array       ``list``
date                            ``Date``
XMLDocument, XML                ``XmlDocument``, ``Xml``
ByteArray (AMF3)                ``bytes``
Vector, Dictionary (AMF3)       ``Vector``, ``Dictionary``
movie clip, record set          refused: reserved, never seen on the wire
==============================  =======================================================================
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias


class Special(enum.Enum):
    """The values that Python has no word for.  They are false, as ``None`` is."""

    UNDEFINED = "undefined"
    UNSUPPORTED = "unsupported"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return self.name


UNDEFINED: Final = Special.UNDEFINED
UNSUPPORTED: Final = Special.UNSUPPORTED


class EcmaArray(dict[str, "Value"]):
    """An array with named elements, which is how ``onMetaData`` travels.  Equal to a ``dict`` of the same elements."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"EcmaArray({super().__repr__()})"


class TypedObject(dict[str, "Value"]):
    """An object of a registered class."""

    __slots__ = ("class_name",)

    def __init__(self, class_name: str, properties: Mapping[str, Value] | None = None) -> None:
        super().__init__(properties or {})
        self.class_name = class_name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypedObject) and self.class_name == other.class_name and dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __repr__(self) -> str:
        return f"TypedObject({self.class_name!r}, {super().__repr__()})"


class Xml(str):
    """An E4X ``XML`` value (AMF3).  AMF0 knows one kind of XML only and carries it as ``XMLDocument``."""

    __slots__ = ()


class XmlDocument(Xml):
    """A legacy ``XMLDocument`` value (AMF0 and AMF3)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Date:
    """``ms``: milliseconds since 1970-01-01 UTC.

    ``tz``: minutes; reserved in AMF0, where it should be 0 (2.13), and absent from AMF3.
    """

    ms: float
    tz: int = 0


@dataclass(slots=True)
class Vector:
    """An AMF3 ``Vector.<T>``: ``kind`` is T, ``fixed`` says that its length may not change.

    ``class_name`` is the class of an object vector's elements ("" or "*" for any).
    """

    kind: Literal["int", "uint", "double", "object"]
    items: list[Value]
    fixed: bool = False
    class_name: str = ""


@dataclass(slots=True)
class Dictionary:
    """An AMF3 ``Dictionary``, kept as pairs because a key may be any value, an object too."""

    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    weak_keys: bool = False


Value: TypeAlias = (
    "bool | int | float | str | bytes | Special | Date | Vector | Dictionary | list[Value] | dict[str, Value] | None"
)
"""What the decoders return."""

Encodable: TypeAlias = (
    "bool | int | float | str | bytes | bytearray | memoryview | Special | Date | Vector | Dictionary "
    "| Sequence[Encodable] | Mapping[str, Encodable] | None"
)
"""What the encoders take: every ``Value``, and the looser Python types that hold the same."""
