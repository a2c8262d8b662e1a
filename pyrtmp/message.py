"""RTMP messages: their type ids and the one class that carries them (specification sections 5.4, 6 and 7)."""

from __future__ import annotations

from typing import Final

# 5.4 Protocol Control Messages
SET_CHUNK_SIZE: Final = 1
ABORT: Final = 2
ACKNOWLEDGEMENT: Final = 3
USER_CONTROL: Final = 4
WINDOW_ACK_SIZE: Final = 5
SET_PEER_BANDWIDTH: Final = 6
# 7.1 Types of Messages
AUDIO: Final = 8
VIDEO: Final = 9
DATA_AMF3: Final = 15
SHARED_OBJECT_AMF3: Final = 16
COMMAND_AMF3: Final = 17
DATA_AMF0: Final = 18
SHARED_OBJECT_AMF0: Final = 19
COMMAND_AMF0: Final = 20
AGGREGATE: Final = 22


class Message:
    """One complete RTMP message.

    ``type`` is the message type id, ``timestamp`` milliseconds (unsigned 32 bits off the wire; a live stream's
    messages carry the unwrapped, never wrapping value), ``msid`` the message stream id, ``payload`` the message
    body, owned by the message and never modified.  ``join`` is set by the live stream: joiners may begin here.
    """

    __slots__ = ("join", "msid", "payload", "timestamp", "type")

    def __init__(self, type: int, timestamp: int, msid: int, payload: bytes) -> None:
        self.type = type
        self.timestamp = timestamp
        self.msid = msid
        self.payload = payload
        self.join = False

    def __repr__(self) -> str:
        return f"Message(type={self.type}, timestamp={self.timestamp}, msid={self.msid}, {len(self.payload)} bytes)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return (self.type, self.timestamp, self.msid, self.payload) == (
            other.type, other.timestamp, other.msid, other.payload)

    __hash__ = None  # type: ignore[assignment]
