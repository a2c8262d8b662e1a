"""Marks: 64 bits that stand for a thing, the same in every process, so that sets of things from several processes can
be counted together without naming what is in them."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice
from typing import Annotated, Final

from pydantic import PlainSerializer, PlainValidator

MAX_MARKS: Final = 20_000
"""Most marks of one set in a report; what is beyond is not counted."""

_BYTES: Final = 8


def mark(*parts: str) -> int:
    """The mark of what ``parts`` name together."""
    text = "\n".join(parts).encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=_BYTES).digest(), "big")


def _pack(marks: Iterable[int]) -> str:
    kept = list(islice(marks, MAX_MARKS))
    return b64encode(struct.pack(f">{len(kept)}Q", *kept)).decode("ascii")


def _unpack(text: object) -> frozenset[int]:
    if not isinstance(text, str) or len(text) > MAX_MARKS * 11:
        raise ValueError("should be a set of marks")
    data = b64decode(text, validate=True)
    if len(data) % _BYTES:
        raise ValueError("should be whole marks")
    return frozenset(struct.unpack(f">{len(data) // _BYTES}Q", data))


Marks = Annotated[frozenset[int], PlainValidator(_unpack), PlainSerializer(_pack, return_type=str)]
"""A set of marks; in JSON one text, a third of the size of numbers."""
