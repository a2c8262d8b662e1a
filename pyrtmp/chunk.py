"""The RTMP chunk stream: messages cut into chunks and put together again (specification section 5.3).

A chunk on the wire::

    basic header     1 to 3 bytes   fmt (2 bits) and chunk stream id (6, 14 or 22 bits)          5.3.1.1
    message header   11, 7, 3 or 0  timestamp or delta (24), length (24), type (8), msid (32 LE)  5.3.1.2
    extended time    0 or 4 bytes   when the 24-bit field is 0xFFFFFF                             5.3.1.3
    payload          at most the sender's chunk size

``ChunkReader`` assembles; ``encode`` cuts.  The encoder is stateless on purpose: every message starts with a fmt 0
chunk, so its bytes depend on no connection and can be shared by all players of a stream.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from pyrtmp.errors import ChunkError, LimitError
from pyrtmp.message import ABORT, AGGREGATE, AUDIO, SET_CHUNK_SIZE, SET_PEER_BANDWIDTH, VIDEO, Message
from pyrtmp.settings import Limits

DEFAULT_CHUNK_SIZE: Final = 128
"""5.4.1: both sides start with 128 bytes."""

OUTGOING_CHUNK_SIZE: Final = 65536
"""What this package announces.  The largest that Flash, SRS and every other player read accepts: few messages
are longer, so nearly every one is a single chunk."""

MAX_EMPTY: Final = 1024
"""Messages without a payload that one ``feed`` may bring.  Behind a fmt 3 header each costs its sender one byte."""

EXTENDED: Final = 0xFFFFFF
"""5.3.1.3: this timestamp or delta says that the real one follows the message header."""

_CONTROL_BYTES: Final = 64
"""Longest protocol or user control message; the specification's own have at most ten bytes."""

_unpack1 = Struct(">I").unpack_from
_unpack2 = Struct(">II").unpack_from
_unpack3 = Struct(">III").unpack_from
_pack1 = Struct(">I").pack
_pack3 = Struct(">III").pack
_pack4 = Struct(">IIII").pack


class _ChunkStream:
    """What one chunk stream id remembers between chunks."""

    __slots__ = ("body", "delta", "extended", "length", "msid", "timestamp", "type")

    def __init__(self) -> None:
        self.timestamp = 0  # of the message being assembled, or of the last one
        self.delta = 0  # the field as it was sent: the next delta of fmt 3, and what its extended timestamp repeats
        self.extended = False
        self.length = 0
        self.type = 0
        self.msid = 0
        self.body = bytearray()  # of an unfinished message


class ChunkReader:
    """Turns received bytes into messages.

    Holds at most one incomplete chunk header (18 bytes) and the bodies of unfinished messages: together at most twice
    the longest message allowed, and the last chunk of one more while it arrives.  Set Chunk Size (1) and Abort (2)
    are obeyed here, because they change how the very next bytes are read; they are not reported.
    """

    __slots__ = (
        "_chunk_size",
        "_current",
        "_held",
        "_left",
        "_limits",
        "_max_held",
        "_max_message",
        "_streams",
        "_tail",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._chunk_size = DEFAULT_CHUNK_SIZE
        self._streams: dict[int, _ChunkStream] = {}
        self._tail = b""  # an incomplete chunk header
        self._current: _ChunkStream | None = None  # whose chunk payload is not all here yet
        self._left = 0  # bytes missing from that chunk
        self._held = 0  # bytes in all unfinished messages
        self._max_message = limits.max_message_bytes
        self._max_held = 2 * limits.max_message_bytes

    @property
    def chunk_size(self) -> int:
        """The peer's chunk size in bytes."""
        return self._chunk_size

    @property
    def held(self) -> int:
        """Bytes of unfinished messages."""
        return self._held

    def feed(self, data: bytes) -> list[Message]:
        """Take received bytes, give the messages they complete, in order.

        ``data`` is borrowed: payloads are copies.  Raises ``ChunkError`` or ``LimitError``; the reader is not
        usable afterwards.
        """
        # Every byte a publisher sends passes here: see benchmarks/micro_chunk.py before changing the loop.
        messages: list[Message] = []
        if self._tail:
            data = self._tail + data
        pos = 0
        end = len(data)
        streams = self._streams
        chunk_size = self._chunk_size
        max_message = self._max_message
        stream = self._current
        left = self._left
        held = self._held
        empty = 0
        while pos < end:
            if stream is None:
                start = pos
                first = data[pos]
                csid = first & 0x3F
                if csid < 2:
                    # 5.3.1.1: 0 announces one more byte (64 to 319), 1 two more (64 to 65599)
                    pos += csid + 1
                    if pos >= end:
                        pos = start
                        break
                    csid = data[pos] + 64 if csid == 0 else data[pos - 1] + data[pos] * 256 + 64
                known = streams.get(csid)
                if first < 0xC0:
                    # With the last byte of the basic header before it, a message header is whole words:
                    # .. TT TT TT | LL LL LL YY | II II II II   timestamp or delta, length, type, stream id
                    if first < 0x40:  # fmt 0
                        after = pos + 12
                        if after > end:
                            pos = start
                            break
                        field, size, msid = _unpack3(data, pos)
                    elif first < 0x80:  # fmt 1
                        after = pos + 8
                        if after > end:
                            pos = start
                            break
                        field, size = _unpack2(data, pos)
                    else:  # fmt 2
                        after = pos + 4
                        if after > end:
                            pos = start
                            break
                        (field,) = _unpack1(data, pos)
                    field &= 0xFFFFFF
                    extended = field == 0xFFFFFF
                    if extended:
                        if after + 4 > end:
                            pos = start
                            break
                        (field,) = _unpack1(data, after)
                        after += 4
                    pos = after
                    if known is None:
                        # librtmp opens a chunk stream with fmt 1 now and then; the delta then counts from 0.
                        if first >= 0x80:
                            raise ChunkError(f"chunk stream {csid} begins with a fmt 2 chunk")
                        known = self._new_stream(csid)
                    elif known.body:
                        raise ChunkError(f"chunk stream {csid}: fmt {first >> 6} chunk inside an unfinished message")
                    if first < 0x40:
                        timestamp = field
                        known.msid = 1 if msid == 0x01000000 else _little_endian(msid)
                    else:
                        timestamp = known.timestamp + field & 0xFFFFFFFF
                    if first < 0x80:
                        known.length = length = size >> 8
                        known.type = type = size & 0xFF
                        if length > max_message or (type != VIDEO and type != AUDIO):
                            self._check(type, length)
                    else:
                        length = known.length
                        type = known.type
                    # 5.3.1.2.4: a fmt 3 message after a fmt 0 one takes its timestamp as the delta
                    known.delta = field
                    known.extended = extended
                else:  # fmt 3
                    if known is None:
                        raise ChunkError(f"chunk stream {csid} begins with a fmt 3 chunk")
                    pos += 1
                    timestamp = known.timestamp
                    if not known.body:
                        # 5.3.1.2.4: a new message with everything as before, one delta later
                        timestamp = timestamp + known.delta & 0xFFFFFFFF
                    extended = known.extended
                    if extended:
                        skip = _repeated(data[pos : pos + 4], known.delta, timestamp)
                        if skip < 0:
                            pos = start
                            break
                        pos += skip
                    length = known.length
                    type = known.type
                known.timestamp = timestamp
                if type > ABORT and not known.body:
                    # Mostly the whole message is here: in one chunk, or in a row of chunks with one byte between them.
                    if length <= chunk_size:
                        stop = pos + length
                        if stop <= end:
                            if not length:
                                empty += 1
                                if empty > MAX_EMPTY:
                                    raise LimitError(f"more than {MAX_EMPTY} empty messages at once", reason="empty")
                            messages.append(Message(type, timestamp, known.msid, data[pos:stop]))
                            pos = stop
                            continue
                    elif csid < 64 and chunk_size >= DEFAULT_CHUNK_SIZE and not extended and not held:
                        # Not tried for tiny chunks: looking at so many bytes in vain could be made to cost much.
                        cut = pos + chunk_size
                        stop = pos + length + (length - 1) // chunk_size
                        if stop <= end and data[cut] == csid | 0xC0:
                            if stop - cut <= chunk_size + 1:
                                payload = data[pos:cut] + data[cut + 1 : stop]
                            else:
                                payload = _without_headers(data[pos:stop], chunk_size)
                            if payload:
                                messages.append(Message(type, timestamp, known.msid, payload))
                                pos = stop
                                continue
                left = length - len(known.body)
                if left > chunk_size:
                    left = chunk_size
                    if held + left > self._max_held:
                        raise LimitError(f"unfinished messages exceed {self._max_held} bytes", reason="unfinished")
                stream = known
            # The rest of a chunk, or what is here of it.
            take = end - pos
            if take > left:
                take = left
            body = stream.body
            body += data[pos : pos + take]
            held += take
            pos += take
            left -= take
            if left:
                break
            if len(body) == stream.length:
                payload = bytes(body)
                body.clear()
                held -= len(payload)
                if stream.type > ABORT:
                    messages.append(Message(stream.type, stream.timestamp, stream.msid, payload))
                else:
                    self._held = held
                    self._obey(stream.type, payload)
                    held = self._held
                    chunk_size = self._chunk_size
            stream = None
        self._tail = data[pos:] if pos < end else b""
        self._current = stream
        self._left = left
        self._held = held
        return messages

    def _new_stream(self, csid: int) -> _ChunkStream:
        if len(self._streams) >= self._limits.max_chunk_streams:
            raise LimitError(f"more than {self._limits.max_chunk_streams} chunk streams", reason="chunk_streams")
        stream = self._streams[csid] = _ChunkStream()
        return stream

    def _check(self, type: int, length: int) -> None:
        """Refuse a message by its announced length, before a byte of it is kept."""
        if type == AUDIO or type == VIDEO or type == AGGREGATE:
            most = self._limits.max_message_bytes
        elif SET_CHUNK_SIZE <= type <= SET_PEER_BANDWIDTH:
            most = _CONTROL_BYTES
        else:
            most = self._limits.max_command_bytes
        if length > most:
            raise LimitError(f"message of type {type} with {length} bytes, at most {most}", reason="message_length")

    def _obey(self, type: int, payload: bytes) -> None:
        """Set Chunk Size and Abort.  Type 0 is none of the specification's and dropped."""
        if type == 0:
            return
        if len(payload) < 4:
            raise ChunkError(f"control message {type} with {len(payload)} bytes, 4 needed")
        (value,) = _unpack1(payload)
        if type == SET_CHUNK_SIZE:
            # 5.4.1: "the maximum chunk size SHOULD be at least 128 bytes, and MUST be at least 1 byte"
            if not 1 <= value <= self._limits.max_chunk_bytes:
                raise LimitError(
                    f"chunk size {value}, allowed are 1 to {self._limits.max_chunk_bytes}", reason="chunk_size"
                )
            self._chunk_size = value
        else:
            # 5.4.2 Abort: the partially received message of that chunk stream is discarded
            stream = self._streams.get(value)
            if stream is not None:
                self._held -= len(stream.body)
                stream.body.clear()


def _repeated(seen: bytes, sent: int, absolute: int) -> int:
    """How many bytes to skip for the extended timestamp of a fmt 3 chunk; -1: more bytes are needed.

    ``seen`` is what follows the basic header, up to four bytes; ``sent`` the field of the last fmt 0, 1 or 2 chunk;
    ``absolute`` the message's timestamp.

    5.3.1.3: the field "is present in Type 3 chunks when the most recent Type 0, 1, or 2 chunk for the same chunk
    stream ID indicated the presence of an extended timestamp".  Old encoders leave it out, some write the absolute
    time after a delta.  So it is skipped only where the four bytes are what would stand there.
    """
    field, time = _pack1(sent), _pack1(absolute)
    if seen == field or seen == time:
        return 4
    if len(seen) < 4 and (field.startswith(seen) or time.startswith(seen)):
        return -1
    return 0


def _without_headers(chunks: bytes, chunk_size: int) -> bytes:
    """The message in a row of chunks with equal one-byte headers between them, or ``b""`` where they are not equal.

    ``chunks`` begins with the payload of the first.
    """
    headers = chunks[chunk_size :: chunk_size + 1]
    if headers.count(headers[0]) != len(headers):
        return b""
    message = bytearray(chunks)
    del message[chunk_size :: chunk_size + 1]
    return bytes(message)


def _little_endian(word: int) -> int:
    """The message stream id, the one little endian number on the wire (5.3.1.2.1), from or to a big endian word."""
    return int.from_bytes(word.to_bytes(4, "little"), "big")


def encode_header(csid: int, type: int, timestamp: int, msid: int, length: int) -> bytes:
    """The fmt 0 header of a message's first chunk: 12 bytes, 16 with an extended timestamp, for csid 2 to 63.

    ``timestamp`` in milliseconds, taken modulo 2^32 (5.3.1.2.1, 5.3.1.3).
    """
    timestamp &= 0xFFFFFFFF
    stream = msid << 24 if msid < 256 else _little_endian(msid)
    if timestamp < EXTENDED:
        return _pack3(csid << 24 | timestamp, length << 8 | type, stream)
    return _pack4(csid << 24 | EXTENDED, length << 8 | type, stream, timestamp)


def encode(
    message: Message, csid: int, *, msid: int | None = None, chunk_size: int = OUTGOING_CHUNK_SIZE
) -> list[bytes]:
    """One message as the buffers to send, in order: header, payload; with fmt 3 headers between when it is long.

    The payload itself is not copied when it fits one chunk.  ``csid`` 2 to 65599; ``msid`` instead of the message's.
    """
    payload = message.payload
    length = len(payload)
    if msid is None:
        msid = message.msid
    if csid < 64:
        header = encode_header(csid, message.type, message.timestamp, msid, length)
    else:
        header = _basic_header(0, csid) + encode_header(0, message.type, message.timestamp, msid, length)[1:]
    if length <= chunk_size:
        return [header, payload]
    again = _basic_header(3, csid)
    if message.timestamp & 0xFFFFFFFF >= EXTENDED:
        # 5.3.1.3: continuations repeat the extended timestamp
        again += header[-4:]
    buffers = [header, payload[:chunk_size]]
    for start in range(chunk_size, length, chunk_size):
        buffers += (again, payload[start : start + chunk_size])
    return buffers


def _basic_header(fmt: int, csid: int) -> bytes:
    """5.3.1.1: one byte for csid 2 to 63, two for 64 to 319, three up to 65599."""
    if csid < 64:
        return bytes((fmt << 6 | csid,))
    if csid < 320:
        return bytes((fmt << 6, csid - 64))
    return bytes((fmt << 6 | 1, csid - 64 & 0xFF, csid - 64 >> 8))
