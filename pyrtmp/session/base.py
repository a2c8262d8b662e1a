"""What both ends of an RTMP connection share: handshake, chunks in and out, acknowledgements, pings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from pyrtmp import amf, control
from pyrtmp.chunk import DEFAULT_CHUNK_SIZE, OUTGOING_CHUNK_SIZE, ChunkReader, encode
from pyrtmp.errors import AmfError, LocalError, PeerError
from pyrtmp.handshake import ClientHandshake, ServerHandshake
from pyrtmp.message import (
    ACKNOWLEDGEMENT,
    COMMAND_AMF0,
    COMMAND_AMF3,
    DATA_AMF0,
    DATA_AMF3,
    SET_PEER_BANDWIDTH,
    USER_CONTROL,
    WINDOW_ACK_SIZE,
    Message,
)
from pyrtmp.session.events import Event, HandshakeDone, PongReceived, StreamSignalled
from pyrtmp.settings import Limits

CONTROL_CSID: Final = 2
COMMAND_CSID: Final = 3
STATUS_CSID: Final = 5

FOURCC: Final = ("av01", "vp09", "vp08", "hvc1", "avc1", "Opus", "fLaC", "ac-3", "ec-3", ".mp3", "mp4a")
"""Enhanced RTMP codecs this package passes on."""

RECONNECT: Final = 1
"""Enhanced RTMP v2 ``CapsExMask``: may be asked to reconnect."""

CAPS_EX: Final = 2 | 4 | 8
"""The same: Multitrack, ModEx, TimestampNanoOffset."""

WINDOW: Final = 2_500_000
"""Acknowledgement window in bytes that this package announces (Flash Media Server's value)."""

MIN_WINDOW: Final = 64 * 1024
"""Smallest window taken from a peer, in bytes: one of a few bytes would have every read acknowledged."""


class Session:
    """One RTMP connection without its socket: bytes in, events out, bytes to send collected.

    ``receive`` takes what the socket gave and returns what happened; ``take_output`` gives what must be written.
    Payloads of the messages returned are owned by them.  ``PeerError`` out of ``receive`` means the connection is
    over, and what the same bytes had brought before the fault is not reported: write ``take_output`` once more (it
    may hold the answer the error names), then close and use the session no more.  Nothing but ``PeerError`` is
    raised by what a peer sends.
    """

    def __init__(self, handshake: ServerHandshake | ClientHandshake, limits: Limits) -> None:
        self._limits = limits
        self._handshake: ServerHandshake | ClientHandshake | None = handshake
        self._reader = ChunkReader(limits)
        self._output: list[bytes] = []
        self._chunk_size = DEFAULT_CHUNK_SIZE
        self._received = 0
        self._acknowledged = 0
        self._window = WINDOW
        self._announced = 0  # the window last announced to the peer
        self._transaction = 0
        self._amf3 = False  # the form of the peer's last command, which answers take
        self._packets = b""  # C1 and S1
        self.peer_acknowledged = 0
        """Bytes the peer said it has received, modulo 2^32."""
        self.dropped_media = 0
        """Audio, video and data messages that came where none is legal, and data that does not decode."""

    @property
    def binding(self) -> bytes:
        """SHA-256 of C1 and S1: names this connection, and is known to both its ends.

        From the end of the handshake on; at a server until connect is answered, so that it need not keep them.
        """
        return sha256(self._packets).digest()

    @property
    def received(self) -> int:
        """Bytes received, handshake included."""
        return self._received

    def receive(self, data: bytes) -> list[Event]:
        """Take received bytes (borrowed), give what happened."""
        self._received += len(data)
        try:
            if self._handshake is not None:
                return self._shake_hands(self._handshake, data)
            messages = self._reader.feed(data)
            # 5.4.3: "The acknowledgment ... after receiving bytes equal to the window size"; half of it leaves
            # room for senders that stop at the window.
            if self._received - self._acknowledged >= self._window >> 1:
                self._acknowledged = self._received
                self._send(control.acknowledgement(self._received), CONTROL_CSID)
            return self._process(messages)
        except PeerError as error:
            self._fail(error)
            raise

    def take_output(self) -> bytes:
        """Everything to write since the last call."""
        if not self._output:
            return b""
        output = b"".join(self._output)
        self._output.clear()
        return output

    @property
    def has_output(self) -> bool:
        """Whether ``take_output`` would give anything."""
        return bool(self._output)

    def ping(self, value: int) -> None:
        """7.1.7 PingRequest; the peer answers with the same 32-bit value."""
        self._send(control.user_control(control.PING_REQUEST, value), CONTROL_CSID)

    def return_call(self, transaction: float, *values: Any) -> None:
        """Answer a ``CallReceived`` with ``_result``; a transaction of 0 wants no answer (7.2.1.2)."""
        if transaction:
            head = _result_head(transaction)
            self._send_encoded(COMMAND_CSID, head + amf.encode0(*values) if values else head)

    def fail_call(self, transaction: float, name: str) -> None:
        """Answer a ``CallReceived`` with ``_error``: there is no method of that name."""
        self._fail_call(transaction, f"Method not found ({name[:64]}).")

    def _fail_call(self, transaction: float, description: str) -> None:
        if transaction:
            info = {"level": "error", "code": "NetConnection.Call.Failed", "description": description}
            self._send_command(COMMAND_CSID, 0, "_error", transaction, None, info, amf3=self._amf3)

    def _shake_hands(self, handshake: ServerHandshake | ClientHandshake, data: bytes) -> list[Event]:
        reply = handshake.receive(data)
        if reply:
            self._output.append(reply)
        if not handshake.done:
            return []
        self._handshake = None
        self._packets = handshake.packets
        self._handshake_done()
        return [HandshakeDone(), *self._process(self._reader.feed(handshake.rest))]

    def _handshake_done(self) -> None:
        """Called once, before the first message is processed."""

    def _fail(self, error: PeerError) -> None:
        """Called once, when the connection ends by the peer's fault: the last chance to tell it why."""

    def _process(self, messages: Iterable[Message]) -> list[Event]:
        raise NotImplementedError

    def _send(self, message: Message, csid: int) -> None:
        if self._handshake is not None:
            raise LocalError("a message sent before the handshake is done")
        self._output += encode(message, csid, chunk_size=self._chunk_size)

    def _announce_window(self, size: int) -> None:
        self._announced = size
        self._send(control.window_ack_size(size), CONTROL_CSID)

    def _announce_chunk_size(self) -> None:
        self._send(control.set_chunk_size(OUTGOING_CHUNK_SIZE), CONTROL_CSID)
        self._chunk_size = OUTGOING_CHUNK_SIZE

    def _send_command(self, csid: int, msid: int, *values: Any, amf3: bool = False) -> None:
        body = amf.encode_command(values, amf3)
        self._send(Message(COMMAND_AMF3 if amf3 else COMMAND_AMF0, 0, msid, body), csid)

    def _send_encoded(self, csid: int, body: bytes) -> None:
        """A command from AMF0 values, in the form of the peer's last one."""
        if self._amf3:
            self._send(Message(COMMAND_AMF3, 0, 0, bytes((amf.FORMAT_BYTE,)) + body), csid)
        else:
            self._send(Message(COMMAND_AMF0, 0, 0, body), csid)

    def _decode(self, message: Message) -> list[Any]:
        return amf.decode_command(
            message.payload,
            message.type == COMMAND_AMF3,
            max_depth=self._limits.max_amf_depth,
            max_items=self._limits.max_amf_items,
        )

    def _decode_command(self, message: Message) -> tuple[str, float, list[Any]]:
        """7.2: command name, transaction id, and the rest (command object first)."""
        values = self._decode(message)
        if not values or not isinstance(values[0], str):
            raise AmfError("a command without a name")
        self._amf3 = message.type == COMMAND_AMF3
        return values[0], number(values, 1, 0.0), values[2:]

    def _data(self, message: Message) -> Message | None:
        """A data message as players get it; None, and counted, if it does not decode.

        Players can do without it, so that it does not end a publisher as a broken command does.
        """
        try:
            return normal_data(message, self._limits)
        except (AmfError, LocalError):
            self.dropped_media += 1
            return None

    def _on_control(self, message: Message) -> Event | None:
        """Types 3 to 6, the same for both ends."""
        type = message.type
        if type == USER_CONTROL:
            event, values = control.parse_user_control(message)
            value = values[0] if values else 0
            if event == control.PING_REQUEST:
                self._send(control.user_control(control.PING_RESPONSE, value), CONTROL_CSID)
            elif event == control.PING_RESPONSE:
                return PongReceived(value)
            elif event in (
                control.STREAM_BEGIN, control.STREAM_EOF, control.STREAM_DRY, control.STREAM_IS_RECORDED
            ):
                return StreamSignalled(event, value)
        elif type == ACKNOWLEDGEMENT:
            self.peer_acknowledged = control.parse_u32(message)
        elif type == WINDOW_ACK_SIZE:
            self._window = max(control.parse_u32(message), MIN_WINDOW)
        elif type == SET_PEER_BANDWIDTH:
            # 5.4.5: "SHOULD respond with a Window Acknowledgement Size message if the window size is different
            # from the last one sent"
            size = max(control.parse_u32(message), MIN_WINDOW)
            if size != self._announced:
                self._announce_window(size)
        return None


@lru_cache(maxsize=64)
def _result_head(transaction: float) -> bytes:
    """An answer to a call without its values, which most have none of.  Clients count their calls from 1."""
    return amf.encode0("_result", transaction, None)


def normal_data(message: Message, limits: Limits) -> Message:
    """A data message as AMF0 without ``@setDataFrame``, whatever the encoder's habit.

    7.1.2: an AMF3 data message (15) usually is an AMF0 body behind one zero byte.  Raises ``AmfError`` for a body
    that does not decode or has no name, ``LocalError`` for one with values that AMF0 has no form for.
    """
    body = message.payload
    amf3 = message.type == DATA_AMF3
    values = amf.decode_command(body, amf3, max_depth=limits.max_amf_depth, max_items=limits.max_amf_items)
    if amf3:
        body = amf.encode0(*values, max_depth=limits.max_amf_depth, max_items=limits.max_amf_items)
    body = control.strip_set_data_frame(body)
    if not body or not isinstance(values[0], str):
        raise AmfError("a data message without a name")
    return Message(DATA_AMF0, message.timestamp, message.msid, body)


def number(values: list[Any], index: int, default: float) -> float:
    """A finite number of a command, or ``default`` where there is none."""
    value = values[index] if index < len(values) else default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return default
    return float(value)
