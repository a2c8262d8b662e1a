"""AMF0 and AMF3, both directions: the values in RTMP command and data messages (specification section 7.1.1, 7.1.2).

``decode0``, ``decode3`` and ``decode_command`` return owned values and keep nothing of the body they were given.
They raise ``AmfError`` and nothing else, whatever the bytes.  ``encode0``, ``encode3`` and ``encode_command`` raise
``LocalError`` for what has no AMF form.  Both hold to ``max_depth`` (containers inside containers, 64 at most) and
``max_items`` (values in the body, elements included; a reference counts as all it stands for), so a decoded body can
be encoded again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from ..errors import LocalError
from . import amf0, amf3
from .limits import DEFAULT_MAX_DEPTH, DEFAULT_MAX_ITEMS
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

__all__ = [
    "DEFAULT_MAX_DEPTH",
    "DEFAULT_MAX_ITEMS",
    "UNDEFINED",
    "UNSUPPORTED",
    "Date",
    "Dictionary",
    "EcmaArray",
    "Encodable",
    "Special",
    "TypedObject",
    "Value",
    "Vector",
    "Xml",
    "XmlDocument",
    "decode0",
    "decode3",
    "decode_command",
    "encode0",
    "encode3",
    "encode_command",
]

FORMAT_BYTE: Final = 0x00
"""First byte of a type 15 or 17 body."""

# A lone surrogate, an int beyond a double, a number that its field cannot hold.
_UNENCODABLE = (UnicodeEncodeError, OverflowError, struct.error)

_Bytes = bytes | bytearray | memoryview


def decode0(body: _Bytes, *, max_depth: int = DEFAULT_MAX_DEPTH, max_items: int = DEFAULT_MAX_ITEMS) -> list[Value]:
    """All AMF0 values of ``body``."""
    decoder = amf0.Decoder(body, max_depth, max_items)
    values = []
    while decoder.pos < decoder.end:
        values.append(decoder.value0(0))
    return values


def decode3(body: _Bytes, *, max_depth: int = DEFAULT_MAX_DEPTH, max_items: int = DEFAULT_MAX_ITEMS) -> list[Value]:
    """All AMF3 values of ``body``, which share their reference tables."""
    decoder = amf3.Decoder(body, max_depth, max_items)
    values = []
    while decoder.pos < decoder.end:
        values.append(decoder.value3(0))
    return values


def decode_command(
    body: _Bytes, amf3: bool, *, max_depth: int = DEFAULT_MAX_DEPTH, max_items: int = DEFAULT_MAX_ITEMS
) -> list[Value]:
    """The values of a command or data message: types 20 and 18, or with ``amf3`` types 17 and 15.

    A type 15 or 17 body is a format byte 0, then AMF0 values of which any may switch to AMF3.  Some peers leave
    the format byte out, which can be told: the first value is a name, and a string does not begin with 0.
    """
    if amf3 and body[:1] == b"\0":
        body = memoryview(body)[1:]
    return decode0(body, max_depth=max_depth, max_items=max_items)


def encode0(*values: Encodable, max_depth: int = DEFAULT_MAX_DEPTH, max_items: int = DEFAULT_MAX_ITEMS) -> bytes:
    """``values`` as AMF0, one after the other.  An int is a number, a double on the wire."""
    return _encode0(amf0.Encoder(max_depth, max_items), values)


def encode3(*values: Encodable, max_depth: int = DEFAULT_MAX_DEPTH, max_items: int = DEFAULT_MAX_ITEMS) -> bytes:
    """``values`` as AMF3, sharing their reference tables.  An int beyond 29 bits becomes a double.

    Three things AMF3 cannot tell: an empty ``EcmaArray`` from an empty list, ``UNSUPPORTED`` from ``UNDEFINED``,
    the time zone of a ``Date``.
    """
    encoder = amf3.Encoder(max_depth, max_items)
    try:
        for value in values:
            encoder.value3(value, 0)
    except _UNENCODABLE as error:
        raise LocalError(f"cannot be encoded: {error}") from None
    return bytes(encoder.out)


def encode_command(
    values: Iterable[Encodable],
    amf3: bool,
    *,
    max_depth: int = DEFAULT_MAX_DEPTH,
    max_items: int = DEFAULT_MAX_ITEMS,
) -> bytes:
    """The body of a command or data message, the reverse of ``decode_command``.

    With ``amf3`` only those values are switched to AMF3 that AMF0 has no form for (``bytes``, ``Vector``,
    ``Dictionary``): every receiver of types 15 and 17 reads AMF0, not every one AMF3.
    """
    encoder = amf0.Encoder(max_depth, max_items, avmplus=amf3)
    if amf3:
        encoder.out.append(FORMAT_BYTE)
    return _encode0(encoder, values)


def _encode0(encoder: amf0.Encoder, values: Iterable[Encodable]) -> bytes:
    try:
        for value in values:
            encoder.value0(value, 0)
    except _UNENCODABLE as error:
        raise LocalError(f"cannot be encoded: {error}") from None
    return bytes(encoder.out)
