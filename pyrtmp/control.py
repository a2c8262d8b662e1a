"""Bodies of protocol control and user control messages, and messages that hold other messages.

Specification sections 5.4 (protocol control), 7.1.6 (aggregate) and 7.1.7 (user control).  All integers are
big endian.
"""

from __future__ import annotations

from typing import Final

from pyrtmp.errors import ChunkError, LimitError
from pyrtmp.message import (
    ACKNOWLEDGEMENT,
    AUDIO,
    DATA_AMF0,
    SET_CHUNK_SIZE,
    SET_PEER_BANDWIDTH,
    USER_CONTROL,
    VIDEO,
    WINDOW_ACK_SIZE,
    Message,
)

# 7.1.7 User Control Message Events
STREAM_BEGIN: Final = 0
STREAM_EOF: Final = 1
STREAM_DRY: Final = 2
SET_BUFFER_LENGTH: Final = 3
STREAM_IS_RECORDED: Final = 4
PING_REQUEST: Final = 6
PING_RESPONSE: Final = 7

# 5.4.5 Set Peer Bandwidth limit types
BANDWIDTH_HARD: Final = 0
BANDWIDTH_SOFT: Final = 1
BANDWIDTH_DYNAMIC: Final = 2

SET_DATA_FRAME: Final = b"\x02\x00\x0d@setDataFrame"
"""The AMF0 string that encoders put before ``onMetaData`` and players must not see."""

MAX_AGGREGATED: Final = 4096
"""Most messages in one aggregate message, a minute of media: empty ones would make 15 bytes cost a message each."""


def set_chunk_size(size: int) -> Message:
    """5.4.1: chunks from here on hold up to ``size`` bytes."""
    return Message(SET_CHUNK_SIZE, 0, 0, size.to_bytes(4, "big"))


def acknowledgement(sequence: int) -> Message:
    """5.4.3: ``sequence`` bytes received so far, modulo 2^32."""
    return Message(ACKNOWLEDGEMENT, 0, 0, (sequence & 0xFFFFFFFF).to_bytes(4, "big"))


def window_ack_size(size: int) -> Message:
    """5.4.4: acknowledge every ``size`` bytes."""
    return Message(WINDOW_ACK_SIZE, 0, 0, size.to_bytes(4, "big"))


def set_peer_bandwidth(size: int, limit: int = BANDWIDTH_DYNAMIC) -> Message:
    """5.4.5: have at most ``size`` unacknowledged bytes under way."""
    return Message(SET_PEER_BANDWIDTH, 0, 0, size.to_bytes(4, "big") + bytes((limit,)))


def user_control(event: int, *values: int) -> Message:
    """7.1.7: an event with its 32-bit values (stream id; stream id and buffer milliseconds; timestamp)."""
    return Message(
        USER_CONTROL, 0, 0, event.to_bytes(2, "big") + b"".join((v & 0xFFFFFFFF).to_bytes(4, "big") for v in values)
    )


def parse_u32(message: Message) -> int:
    """The value of an Acknowledgement, Window Acknowledgement Size or Set Peer Bandwidth message."""
    if len(message.payload) < 4:
        raise ChunkError(f"control message {message.type} with {len(message.payload)} bytes, 4 needed")
    return int.from_bytes(message.payload[:4], "big")


def parse_user_control(message: Message) -> tuple[int, list[int]]:
    """Event type and its 32-bit values; bytes short of a value are ignored, as other servers do."""
    body = message.payload
    if len(body) < 2:
        raise ChunkError("user control message without an event type")
    return int.from_bytes(body[:2], "big"), [int.from_bytes(body[i : i + 4], "big") for i in range(2, len(body) - 3, 4)]


def split_aggregate(message: Message) -> list[Message]:
    """7.1.6: the messages inside an aggregate message.

    Each is ``type (8) length (24) timestamp (24) timestamp high (8) stream id (24) payload back-pointer (32)``,
    laid out like an FLV tag.  The difference between the aggregate's timestamp and the first sub-message's is added to
    all of them.  Sub-messages other than audio, video and data are dropped.  Raises ``ChunkError`` for a truncated
    one, ``LimitError`` for more than ``MAX_AGGREGATED``; the back-pointers are not looked at.
    """
    body = message.payload
    messages: list[Message] = []
    pos = 0
    shift: int | None = None
    count = 0
    while pos < len(body):
        count += 1
        if count > MAX_AGGREGATED:
            raise LimitError(f"more than {MAX_AGGREGATED} messages in an aggregate message", reason="aggregate")
        if len(body) - pos < 11:
            raise ChunkError("aggregate message with a truncated header")
        type = body[pos]
        length = int.from_bytes(body[pos + 1 : pos + 4], "big")
        timestamp = int.from_bytes(body[pos + 4 : pos + 7], "big") | body[pos + 7] << 24
        pos += 11
        if length > len(body) - pos:
            raise ChunkError("aggregate message with a truncated payload")
        if shift is None:
            shift = message.timestamp - timestamp
        if type in (AUDIO, VIDEO, DATA_AMF0):
            messages.append(Message(type, timestamp + shift & 0xFFFFFFFF, message.msid, body[pos : pos + length]))
        pos += length + 4
    return messages


def strip_set_data_frame(body: bytes) -> bytes:
    """An AMF0 data message as players get it: without a leading ``@setDataFrame``."""
    return body[len(SET_DATA_FRAME) :] if body.startswith(SET_DATA_FRAME) else body
