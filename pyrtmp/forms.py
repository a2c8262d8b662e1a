"""Wire forms: how one message is laid out for one kind of viewer.

A form is stateless, so its bytes can be shared by all viewers.  ``RtmpForm`` is here; HTTP-FLV's is in ``hls.flv``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from pyrtmp.chunk import OUTGOING_CHUNK_SIZE, encode, encode_header
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message

CSIDS: Final = {AUDIO: 4, VIDEO: 6, DATA_AMF0: 5}
"""The chunk stream of each kind of media in the RTMP form."""

PLAY_MSID: Final = 1
"""The message stream id in the RTMP form: what nearly every player is granted."""


class WireForm(Protocol):
    """Lays messages out."""

    name: str
    needs_tracks: bool
    """Whether the prologue says which tracks there are, so that a viewer must wait until that is known."""

    def encode(self, messages: Sequence[Message], buffers: list[bytes]) -> int:
        """Append the records of ``messages`` to ``buffers``; the number of bytes added.

        Payloads are not copied: the buffers hold the messages' own bytes.
        """

    def prologue(self, audio: bool, video: bool) -> bytes:
        """What a viewer gets before anything else, given the tracks the stream has."""

    def records(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """``(message type, start, end)`` of each whole record in ``data``, which begins at a record boundary."""


class RtmpForm:
    """Fmt 0 chunks on fixed chunk streams with message stream id 1 and chunks of 65536 bytes."""

    name = "rtmp"
    needs_tracks = False

    def encode(self, messages: Sequence[Message], buffers: list[bytes]) -> int:
        size = 0
        for message in messages:
            type = message.type
            payload = message.payload
            length = len(payload)
            if length <= OUTGOING_CHUNK_SIZE:
                header = encode_header(CSIDS[type], type, message.timestamp, PLAY_MSID, length)
                buffers += (header, payload)
                size += len(header) + length
            else:
                parts = encode(message, CSIDS[type], msid=PLAY_MSID)
                buffers += parts
                size += sum(map(len, parts))
        return size

    def prologue(self, audio: bool, video: bool) -> bytes:
        return b""

    def records(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        pos = 0
        while len(data) - pos >= 12:
            # csid (8) timestamp (24) length (24) type (8) msid (32)
            length = int.from_bytes(data[pos + 4 : pos + 7], "big")
            extended = 4 if data[pos + 1 : pos + 4] == b"\xff\xff\xff" else 0
            continuations = max(0, length - 1) // OUTGOING_CHUNK_SIZE
            end = pos + 12 + extended + length + continuations * (1 + extended)
            if end > len(data):
                return
            yield data[pos + 7], pos, end
            pos = end


def with_msid(record: bytes, msid: int) -> bytes:
    """An RTMP record for a player that was granted another message stream id."""
    return record[:8] + msid.to_bytes(4, "little") + record[12:]
