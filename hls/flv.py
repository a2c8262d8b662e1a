"""HTTP-FLV: a live stream as an endless FLV file (Adobe Flash Video File Format 10.1, annex E).

::

    FLV header   "FLV" version 1, flags (4 audio, 1 video), header size 9          9 bytes
    PreviousTagSize0                                                               4 bytes, 0
    tag          type (8) size (24) timestamp (24) timestamp high (8) stream id (24, 0)   11 bytes
                 payload, then the tag's size (11 + payload, 32 bits)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct

from pyrtmp.message import Message

_TAG = Struct(">II3x").pack
_U32 = Struct(">I").pack


def header(audio: bool, video: bool) -> bytes:
    """The file header and the first PreviousTagSize.  Players set up exactly the tracks it names."""
    return b"FLV\x01" + bytes((4 * audio | video,)) + b"\x00\x00\x00\x09\x00\x00\x00\x00"


class FlvForm:
    """FLV tags; see ``pyrtmp.forms.WireForm``."""

    name = "flv"
    needs_tracks = True

    def encode(self, messages: Sequence[Message], buffers: list[bytes]) -> int:
        size = 15 * len(messages)
        for message in messages:
            payload = message.payload
            length = len(payload)
            timestamp = message.timestamp
            buffers += (
                _TAG(message.type << 24 | length, (timestamp & 0xFFFFFF) << 8 | timestamp >> 24 & 0xFF),
                payload,
                _U32(length + 11),
            )
            size += length
        return size

    def prologue(self, audio: bool, video: bool) -> bytes:
        return header(audio, video)

    def records(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        pos = 0
        while len(data) - pos >= 15:
            end = pos + 15 + int.from_bytes(data[pos + 1 : pos + 4], "big")
            if end > len(data):
                return
            yield data[pos], pos, end
            pos = end
