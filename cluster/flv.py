"""Reading FLV as it arrives, from a file or over HTTP (Adobe Flash Video File Format 10.1, annex E)."""

from __future__ import annotations

from struct import Struct
from typing import Final

from pyrtmp.errors import PeerError
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message

MAX_TAG_BYTES: Final = 0xFFFFFF
"""E.4.1: 24 bits of size."""

_MAX_HEADER: Final = 1024
_TAG: Final = Struct(">II3s").unpack_from
_TAG_BYTES: Final = 11
_SIZE_BYTES: Final = 4
"""Of the PreviousTagSize behind every tag; what it says is not needed, and often wrong."""
_FILTERED: Final = 0x20
"""E.4.1: the payload is encrypted."""
_TYPES: Final = (AUDIO, VIDEO, DATA_AMF0)


class FlvError(PeerError):
    """The bytes are not FLV, or a tag is larger than this side accepts."""

    reason = "flv"
    code = ""


class FlvReader:
    """Bytes in, messages out.  Timestamps are those of the tags, message stream ids 0.

    A tag's header is judged when it is there, whatever is still to come of the tag; bytes that are no tag are an error
    for good, nothing is searched for in what follows.  At most one tag of ``max_bytes`` of payload is kept.
    """

    def __init__(self, max_bytes: int = MAX_TAG_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._begun = False
        self._needed = 1
        """Bytes in the buffer without which there is nothing to do."""

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes (borrowed); the audio, video and data messages that are complete.  Raises ``FlvError``."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        if len(buffer) < self._needed or not (self._begun or self._begin()):
            return messages
        used = 0
        while len(buffer) >= (needed := used + _TAG_BYTES):
            # E.4.1: reserved (2 bits), filter (1), type (5), size (24); timestamp (24), its upper 8 bits; stream id
            head, time, msid = _TAG(buffer, used)
            type, size = head >> 24, head & 0xFFFFFF
            if type & ~_FILTERED not in _TYPES or msid != b"\0\0\0":
                raise FlvError(f"there is no FLV tag of type {type} and stream {int.from_bytes(msid, 'big')}")
            if size > self._max_bytes:
                raise FlvError(f"an FLV tag of {size} bytes is too long")
            body, needed = needed, needed + size + _SIZE_BYTES
            if needed > len(buffer):
                break
            if not type & _FILTERED:
                payload = bytes(memoryview(buffer)[body : body + size])
                messages.append(Message(type, time >> 8 | (time & 0xFF) << 24, 0, payload))
            used = needed
        self._needed = needed - used
        del buffer[:used]
        return messages

    def _begin(self) -> bool:
        """E.2: take the file header and the first PreviousTagSize off; whether they are complete."""
        buffer = self._buffer
        if not b"FLV".startswith(bytes(buffer[:3])):
            raise FlvError("this is not FLV: it does not begin with the letters FLV")
        if len(buffer) < 9:
            return False
        size = int.from_bytes(buffer[5:9], "big")
        if not 9 <= size <= _MAX_HEADER:
            raise FlvError(f"an FLV header of {size} bytes")
        if len(buffer) < size + _SIZE_BYTES:
            return False
        del buffer[: size + _SIZE_BYTES]
        self._begun = True
        return True
