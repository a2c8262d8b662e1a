from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrtmp.chunk import ChunkReader, encode, encode_header
from pyrtmp.errors import ChunkError, LimitError
from pyrtmp.message import ABORT, AGGREGATE, AUDIO, COMMAND_AMF0, DATA_AMF0, SET_CHUNK_SIZE, VIDEO, Message
from pyrtmp.settings import Limits

LIMITS = Limits()


def u24(value: int) -> bytes:
    return value.to_bytes(3, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def basic(fmt: int, csid: int, form: int = 0) -> bytes:
    """A basic header in 1, 2 or 3 bytes (``form``; 0: the shortest), written out from 5.3.1.1."""
    form = form or (1 if csid < 64 else 2 if csid < 320 else 3)
    if form == 1:
        return bytes([fmt << 6 | csid])
    if form == 2:
        return bytes([fmt << 6, csid - 64])
    return bytes([fmt << 6 | 1]) + (csid - 64).to_bytes(2, "little")


def fmt0(csid: int, timestamp: int, type: int, msid: int, payload: bytes, length: int | None = None) -> bytes:
    """A fmt 0 chunk; ``length`` of the message when it goes on after ``payload``."""
    size = len(payload) if length is None else length
    field, more = (timestamp, b"") if timestamp < 0xFFFFFF else (0xFFFFFF, u32(timestamp))
    return basic(0, csid) + u24(field) + u24(size) + bytes([type]) + msid.to_bytes(4, "little") + more + payload


def fmt1(csid: int, delta: int, type: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    field, more = (delta, b"") if delta < 0xFFFFFF else (0xFFFFFF, u32(delta))
    return basic(1, csid) + u24(field) + u24(size) + bytes([type]) + more + payload


def fmt2(csid: int, delta: int, payload: bytes) -> bytes:
    field, more = (delta, b"") if delta < 0xFFFFFF else (0xFFFFFF, u32(delta))
    return basic(2, csid) + u24(field) + more + payload


def fmt3(csid: int, payload: bytes, extended: int | None = None) -> bytes:
    return basic(3, csid) + (b"" if extended is None else u32(extended)) + payload


def set_chunk_size(size: int) -> bytes:
    return fmt0(2, 0, SET_CHUNK_SIZE, 0, u32(size))


def counting(size: int) -> bytes:
    return bytes(index * 7 + 3 & 0xFF for index in range(size))


def read(*parts: bytes, limits: Limits = LIMITS) -> list[Message]:
    reader = ChunkReader(limits)
    return [message for part in parts for message in reader.feed(part)]


def read_every_way(wire: bytes) -> list[Message]:
    """Whole, byte by byte and in two parts split at every offset: always the same."""
    whole = read(wire)
    assert read(*(wire[at : at + 1] for at in range(len(wire)))) == whole
    for at in range(1, len(wire)):
        assert read(wire[:at], wire[at:]) == whole, f"split at {at}"
    return whole


BODY = counting(300)
LATE = 0x01000000  # 4 h 40 min: the first hours in which timestamps need 32 bits

# name -> (message, csid, chunk size, wire): what the encoder writes, and what the reader makes of it.
VECTORS: dict[str, tuple[Message, int, int, bytes]] = {
    "one byte": (Message(AUDIO, 0, 1, b"x"), 4, 128, b"\x04\0\0\0\0\0\1\x08\1\0\0\0x"),
    "nothing": (Message(AUDIO, 7, 1, b""), 4, 128, b"\x04\0\0\7\0\0\0\x08\1\0\0\0"),
    "msid is little endian": (
        Message(VIDEO, 0x010203, 0x04030201, b"ab"), 6, 128, b"\x06\1\2\3\0\0\2\x09\1\2\3\4ab",
    ),
    "just one chunk": (Message(VIDEO, 5, 1, BODY[:128]), 6, 128, b"\x06\0\0\5\0\0\x80\x09\1\0\0\0" + BODY[:128]),
    "just two chunks": (
        Message(VIDEO, 5, 1, BODY[:256]), 6, 128,
        b"\x06\0\0\5\0\1\0\x09\1\0\0\0" + BODY[:128] + b"\xc6" + BODY[128:256],
    ),
    "three chunks": (
        Message(VIDEO, 5, 1, BODY), 6, 128,
        b"\x06\0\0\5\0\1\x2c\x09\1\0\0\0" + BODY[:128] + b"\xc6" + BODY[128:256] + b"\xc6" + BODY[256:],
    ),
    "last short timestamp": (Message(AUDIO, 0xFFFFFE, 1, b"x"), 4, 128, b"\x04\xff\xff\xfe\0\0\1\x08\1\0\0\0x"),
    "first extended timestamp": (
        Message(AUDIO, 0xFFFFFF, 1, b"x"), 4, 128, b"\x04\xff\xff\xff\0\0\1\x08\1\0\0\0\0\xff\xff\xffx",
    ),
    "extended timestamp, three chunks": (
        Message(VIDEO, 0x01020304, 1, BODY), 6, 128,
        b"\x06\xff\xff\xff\0\1\x2c\x09\1\0\0\0\1\2\3\4" + BODY[:128]
        + b"\xc6\1\2\3\4" + BODY[128:256] + b"\xc6\1\2\3\4" + BODY[256:],
    ),
    "csid 63": (Message(DATA_AMF0, 1, 0, b"x"), 63, 128, b"\x3f\0\0\1\0\0\1\x12\0\0\0\0x"),
    "csid 64": (Message(DATA_AMF0, 1, 0, b"x"), 64, 128, b"\x00\x00\0\0\1\0\0\1\x12\0\0\0\0x"),
    "csid 319, two chunks": (
        Message(DATA_AMF0, 1, 0, BODY[:129]), 319, 128,
        b"\x00\xff\0\0\1\0\0\x81\x12\0\0\0\0" + BODY[:128] + b"\xc0\xff" + BODY[128:129],
    ),
    "csid 320, two chunks": (
        Message(DATA_AMF0, 1, 0, BODY[:129]), 320, 128,
        b"\x01\x00\x01\0\0\1\0\0\x81\x12\0\0\0\0" + BODY[:128] + b"\xc1\x00\x01" + BODY[128:129],
    ),
    "csid 65599, extended timestamp": (
        Message(DATA_AMF0, 0xFFFFFFFF, 0, BODY[:129]), 65599, 128,
        b"\x01\xff\xff\xff\xff\xff\0\0\x81\x12\0\0\0\0\xff\xff\xff\xff" + BODY[:128]
        + b"\xc1\xff\xff\xff\xff\xff\xff" + BODY[128:129],
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_in_both_directions(name: str) -> None:
    message, csid, chunk_size, wire = VECTORS[name]
    assert b"".join(encode(message, csid, chunk_size=chunk_size)) == wire
    assert read_every_way(wire) == [message]


# Three things other Python servers got wrong.


def test_a_continuation_repeats_the_extended_timestamp() -> None:
    wire = fmt0(6, LATE, VIDEO, 1, BODY[:128], 200) + fmt3(6, BODY[128:200], LATE)
    assert read_every_way(wire) == [Message(VIDEO, LATE, 1, BODY[:200])]


def test_chunk_streams_320_and_65_are_two() -> None:
    wire = (
        fmt0(320, 1, VIDEO, 1, BODY[:128], 200) + fmt0(65, 2, AUDIO, 1, BODY[:128], 130)
        + fmt3(320, BODY[128:200]) + fmt3(65, b"ab")
    )
    assert read_every_way(wire) == [Message(VIDEO, 1, 1, BODY[:200]), Message(AUDIO, 2, 1, BODY[:128] + b"ab")]


def test_a_message_that_begins_with_fmt_3_is_one_delta_later() -> None:
    wire = fmt0(4, 1000, AUDIO, 1, b"ab") + fmt2(4, 20, b"cd") + fmt3(4, b"ef")
    assert [(m.timestamp, m.payload) for m in read_every_way(wire)] == [(1000, b"ab"), (1020, b"cd"), (1040, b"ef")]


# Headers


def test_every_fmt_takes_what_it_leaves_out_from_before() -> None:
    wire = (
        fmt0(5, 100, AUDIO, 7, b"abc") + fmt1(5, 10, VIDEO, b"de") + fmt2(5, 5, b"fg") + fmt3(5, b"hi")
        + fmt1(5, 0, AUDIO, b"j") + fmt3(5, b"k") + fmt0(5, 50, AUDIO, 8, b"l")
    )
    assert read_every_way(wire) == [
        Message(AUDIO, 100, 7, b"abc"), Message(VIDEO, 110, 7, b"de"), Message(VIDEO, 115, 7, b"fg"),
        Message(VIDEO, 120, 7, b"hi"), Message(AUDIO, 120, 7, b"j"), Message(AUDIO, 120, 7, b"k"),
        Message(AUDIO, 50, 8, b"l"),
    ]


def test_the_timestamp_of_fmt_0_is_the_delta_of_a_fmt_3_message() -> None:
    # 5.3.1.2.4: "If a Type 3 chunk follows a Type 0 chunk, then the timestamp delta for this Type 3 chunk is the same
    # as the timestamp of the Type 0 chunk."
    wire = fmt0(4, 30, AUDIO, 1, b"a") + fmt3(4, b"b")
    assert [m.timestamp for m in read_every_way(wire)] == [30, 60]


@pytest.mark.parametrize(
    ("csid", "form"),
    [(csid, 1) for csid in (2, 3, 63)] + [(csid, 2) for csid in (64, 65, 319)]
    + [(csid, 3) for csid in (64, 319, 320, 321, 65598, 65599)],
)
def test_chunk_stream_ids_in_all_forms(csid: int, form: int) -> None:
    header = u24(9) + u24(130) + bytes([AUDIO]) + (1).to_bytes(4, "little")
    wire = basic(0, csid, form) + header + BODY[:128] + basic(3, csid, form) + b"yz"
    assert read_every_way(wire) == [Message(AUDIO, 9, 1, BODY[:128] + b"yz")]


def test_the_two_forms_of_a_chunk_stream_id_are_one_stream() -> None:
    wire = basic(0, 70, 2) + fmt0(4, 9, AUDIO, 1, BODY[:128], 129)[1:] + basic(3, 70, 3) + b"z"
    assert read_every_way(wire) == [Message(AUDIO, 9, 1, BODY[:128] + b"z")]


def test_all_chunk_stream_ids_survive_encode() -> None:
    for csid in (*range(2, 400), *range(400, 65600, 97), 65599):
        assert read(set_chunk_size(2) + b"".join(encode(Message(AUDIO, 3, 1, b"abc"), csid, chunk_size=2))) == [
            Message(AUDIO, 3, 1, b"abc")]


@pytest.mark.parametrize("wire", [fmt2(4, 1, b""), fmt3(4, b"")])
def test_a_chunk_stream_cannot_begin_without_a_length(wire: bytes) -> None:
    for parts in ([wire], [wire[at : at + 1] for at in range(len(wire))]):
        with pytest.raises(ChunkError, match="begins with a fmt"):
            read(*parts)


def test_a_chunk_stream_may_begin_with_fmt_1() -> None:
    assert read_every_way(fmt1(4, 33, AUDIO, b"a") + fmt3(4, b"b")) == [
        Message(AUDIO, 33, 0, b"a"), Message(AUDIO, 66, 0, b"b")]


@pytest.mark.parametrize("chunk", [fmt0(4, 1, AUDIO, 1, b"a"), fmt1(4, 1, AUDIO, b"a"), fmt2(4, 1, b"a")])
def test_a_message_cannot_begin_inside_another_one_of_its_chunk_stream(chunk: bytes) -> None:
    with pytest.raises(ChunkError, match="inside an unfinished message"):
        read(fmt0(4, 1, AUDIO, 1, BODY[:128], 200) + chunk)


# Extended timestamps


@pytest.mark.parametrize("repeated", [True, False], ids=["repeated", "left out"])
@pytest.mark.parametrize("late", [0xFFFFFF, LATE, 0xFFFFFFFF])
def test_extended_timestamp_of_fmt_0_on_continuations(late: int, repeated: bool) -> None:
    again = late if repeated else None
    wire = fmt0(6, late, VIDEO, 1, BODY[:128], 300) + fmt3(6, BODY[128:256], again) + fmt3(6, BODY[256:], again)
    assert read_every_way(wire) == [Message(VIDEO, late, 1, BODY)]


@pytest.mark.parametrize("again", [LATE + 5, LATE + 5 + 70, None], ids=["delta", "absolute", "left out"])
@pytest.mark.parametrize("fmt", [1, 2])
def test_extended_delta_on_continuations(fmt: int, again: int | None) -> None:
    delta = LATE + 5
    begin = fmt1(6, delta, VIDEO, BODY[:128], 200) if fmt == 1 else fmt2(6, delta, BODY[:128])
    wire = fmt0(6, 70, VIDEO, 1, BODY[:128], 200) + fmt3(6, BODY[128:200]) + begin + fmt3(6, BODY[128:200], again)
    assert read_every_way(wire) == [Message(VIDEO, 70, 1, BODY[:200]), Message(VIDEO, 70 + delta, 1, BODY[:200])]


@pytest.mark.parametrize("again", [LATE, 2 * LATE, None], ids=["delta", "absolute", "left out"])
def test_extended_timestamp_on_a_new_message_of_fmt_3(again: int | None) -> None:
    wire = fmt0(6, LATE, AUDIO, 1, b"abcdef") + fmt3(6, b"ghijkl", again)
    assert read_every_way(wire) == [Message(AUDIO, LATE, 1, b"abcdef"), Message(AUDIO, 2 * LATE, 1, b"ghijkl")]


def test_a_payload_that_begins_like_the_extended_timestamp_is_not_cut() -> None:
    rest = u32(LATE)[:3] + b"!" + BODY[:60]
    wire = fmt0(6, LATE, VIDEO, 1, BODY[:128], 192) + fmt3(6, rest)
    assert read_every_way(wire) == [Message(VIDEO, LATE, 1, BODY[:128] + rest)]


def test_the_extended_timestamp_ends_with_the_next_short_one() -> None:
    wire = fmt0(6, LATE, VIDEO, 1, b"a") + fmt2(6, 1, b"b") + fmt3(6, b"c")
    assert [m.timestamp for m in read_every_way(wire)] == [LATE, LATE + 1, LATE + 2]


@pytest.mark.parametrize("chunk", [fmt1(6, 3, AUDIO, b"b"), fmt2(6, 3, b"b"), fmt2(6, 2**32 - 1, b"b")])
def test_timestamps_roll_over(chunk: bytes) -> None:
    delta = 2**32 - 1 if chunk[1:4] == b"\xff\xff\xff" else 3
    wire = fmt0(6, 2**32 - 1, AUDIO, 1, b"a") + chunk
    assert [m.timestamp for m in read_every_way(wire)] == [2**32 - 1, delta - 1]


def test_timestamps_roll_over_on_fmt_3() -> None:
    wire = fmt0(6, 2**32 - 30, AUDIO, 1, b"a") + fmt2(6, 20, b"b") + fmt3(6, b"c")
    assert [m.timestamp for m in read_every_way(wire)] == [2**32 - 30, 2**32 - 10, 10]


def test_the_encoder_writes_timestamps_modulo_2_to_the_32() -> None:
    assert encode_header(4, AUDIO, 2**32 + 5, 1, 3) == encode_header(4, AUDIO, 5, 1, 3)
    message = Message(AUDIO, 2**32 + LATE, 1, b"abc")
    assert b"".join(encode(message, 4, chunk_size=2)) == fmt0(4, LATE, AUDIO, 1, b"ab", 3) + fmt3(4, b"c", LATE)


def test_the_encoder_does_not_copy_a_payload_of_one_chunk() -> None:
    message = Message(VIDEO, 0, 5, BODY)
    header, payload = encode(message, 6, msid=9)
    assert payload is BODY
    assert read(set_chunk_size(65536) + header + payload) == [Message(VIDEO, 0, 9, BODY)]


# Set Chunk Size, Abort, interleaving


def test_chunk_size() -> None:
    reader = ChunkReader(LIMITS)
    assert reader.chunk_size == 128
    assert reader.feed(set_chunk_size(200)) == []
    assert reader.chunk_size == 200
    assert reader.feed(fmt0(4, 0, VIDEO, 1, BODY[:200])) == [Message(VIDEO, 0, 1, BODY[:200])]


@pytest.mark.parametrize("size", [1, 2, 100, 129, 172, 173, 4096])
def test_chunk_size_changes_between_the_chunks_of_a_message(size: int) -> None:
    rest = [BODY[at : at + size] for at in range(128, 300, size)]
    wire = fmt0(6, 0, VIDEO, 1, BODY[:128], 300) + set_chunk_size(size) + b"".join(fmt3(6, part) for part in rest)
    assert read_every_way(wire) == [Message(VIDEO, 0, 1, BODY)]


@pytest.mark.parametrize("chunk_size", [1, 127, 128, 129, 299])
def test_set_chunk_size_before_a_long_message_in_the_same_read(chunk_size: int) -> None:
    message = Message(VIDEO, 9, 1, BODY)
    wire = set_chunk_size(chunk_size) + b"".join(encode(message, 6, chunk_size=chunk_size)) * 2
    assert read(wire) == [message, message]


@pytest.mark.parametrize("size", [0, LIMITS.max_chunk_bytes + 1, 0x80000080])
def test_chunk_size_out_of_range(size: int) -> None:
    with pytest.raises(LimitError) as caught:
        read(set_chunk_size(size))
    assert caught.value.reason == "chunk_size"


def test_largest_chunk_size() -> None:
    reader = ChunkReader(LIMITS)
    reader.feed(set_chunk_size(LIMITS.max_chunk_bytes))
    assert reader.chunk_size == LIMITS.max_chunk_bytes


@pytest.mark.parametrize("type", [SET_CHUNK_SIZE, ABORT])
@pytest.mark.parametrize("size", [0, 3])
def test_short_control_messages(type: int, size: int) -> None:
    with pytest.raises(ChunkError, match="4 needed"):
        read(fmt0(2, 0, type, 0, bytes(size)))


@pytest.mark.parametrize("size", [0, 3, 4, 200])
def test_messages_of_type_0_are_dropped(size: int) -> None:
    wire = b"".join(encode(Message(0, 0, 0, bytes(size)), 3, chunk_size=128))
    assert read_every_way(wire + fmt0(4, 0, AUDIO, 1, b"a")) == [Message(AUDIO, 0, 1, b"a")]


def test_abort_discards_the_unfinished_message() -> None:
    reader = ChunkReader(LIMITS)
    reader.feed(fmt0(6, 10, VIDEO, 1, BODY[:128], 300) + fmt0(4, 10, AUDIO, 1, BODY[:128], 130))
    assert reader.held == 256
    assert reader.feed(fmt0(2, 0, ABORT, 0, u32(6))) == []
    assert reader.held == 128
    # What is aborted still is what later headers refer to.
    assert reader.feed(fmt1(6, 5, VIDEO, b"new") + fmt3(4, b"yz")) == [
        Message(VIDEO, 15, 1, b"new"), Message(AUDIO, 10, 1, BODY[:128] + b"yz")]
    assert reader.held == 0


def test_abort_of_a_chunk_stream_without_a_message() -> None:
    wire = fmt0(2, 0, ABORT, 0, u32(6)) + fmt0(2, 0, ABORT, 0, u32(2)) + fmt0(6, 1, VIDEO, 1, b"a")
    assert read_every_way(wire) == [Message(VIDEO, 1, 1, b"a")]


def test_interleaved_messages_arrive_in_the_order_they_end() -> None:
    wire = (
        fmt0(6, 1, VIDEO, 1, BODY[:128], 260)
        + fmt0(4, 2, AUDIO, 1, b"short")
        + fmt0(5, 3, DATA_AMF0, 1, BODY[:128], 129)
        + fmt3(6, BODY[128:256])
        + fmt3(5, b"!")
        + fmt1(4, 1, AUDIO, b"more")
        + fmt3(6, BODY[256:260])
    )
    assert read_every_way(wire) == [
        Message(AUDIO, 2, 1, b"short"), Message(DATA_AMF0, 3, 1, BODY[:128] + b"!"), Message(AUDIO, 3, 1, b"more"),
        Message(VIDEO, 1, 1, BODY[:260]),
    ]


def test_a_chunk_of_another_stream_late_in_a_row_of_chunks() -> None:
    # Everything is here at once, and the bytes where continuation headers are expected differ only at the end.
    body = counting(128 * 5)
    chunks = [body[at : at + 128] for at in range(0, 640, 128)]
    between = fmt0(4, 9, AUDIO, 1, BODY[:116])
    wire = fmt0(6, 1, VIDEO, 1, chunks[0], 640) + b"".join(fmt3(6, chunk) for chunk in chunks[1:3]) + between
    wire += b"".join(fmt3(6, chunk) for chunk in chunks[3:])
    assert read(wire) == [Message(AUDIO, 9, 1, BODY[:116]), Message(VIDEO, 1, 1, body)]


def test_empty_messages() -> None:
    wire = fmt0(4, 5, AUDIO, 1, b"") + fmt2(4, 5, b"") + fmt3(4, b"") * 3 + fmt1(4, 0, AUDIO, b"a")
    assert [m.timestamp for m in read_every_way(wire)] == [5, 10, 15, 20, 25, 25]


def test_nothing_is_fed() -> None:
    reader = ChunkReader(LIMITS)
    assert reader.feed(b"") == []
    assert reader.feed(b"\x04\0") == []
    assert reader.feed(b"") == []
    assert reader.feed(fmt0(4, 9, AUDIO, 1, b"a")[2:]) == [Message(AUDIO, 9, 1, b"a")]


# Limits

SMALL = Limits(max_message_bytes=1000, max_command_bytes=200, max_chunk_bytes=500, max_chunk_streams=3)


@pytest.mark.parametrize(
    ("type", "most"),
    [(AUDIO, 1000), (VIDEO, 1000), (AGGREGATE, 1000)]
    + [(type, 200) for type in (COMMAND_AMF0, DATA_AMF0, 7, 99, 0)]
    + [(type, 64) for type in range(1, 7)],
)
@pytest.mark.parametrize("fmt", [0, 1])
def test_message_length_is_limited_by_its_header(type: int, most: int, fmt: int) -> None:
    def header(length: int) -> bytes:
        return fmt0(4, 0, type, 1, b"", length) if fmt == 0 else fmt1(4, 0, type, b"", length)

    reader = ChunkReader(SMALL)
    assert reader.feed(header(most)) == []
    assert reader.held == 0
    with pytest.raises(LimitError, match=f"at most {most}") as caught:
        read(header(most + 1), limits=SMALL)
    assert caught.value.reason == "message_length"


def test_longest_message_arrives() -> None:
    message = Message(VIDEO, 0, 1, counting(1000))
    assert read(b"".join(encode(message, 6, chunk_size=128)), limits=SMALL) == [message]


def test_chunk_streams_are_limited() -> None:
    wire = b"".join(fmt0(csid, 0, AUDIO, 1, b"a") for csid in (3, 64, 400)) * 2
    assert len(read(wire, limits=SMALL)) == 6
    with pytest.raises(LimitError) as caught:
        read(wire + fmt0(5, 0, AUDIO, 1, b"a"), limits=SMALL)
    assert caught.value.reason == "chunk_streams"


def test_unfinished_messages_are_limited_together() -> None:
    limits = Limits(max_message_bytes=1000, max_chunk_bytes=500)
    reader = ChunkReader(limits)
    reader.feed(set_chunk_size(500) + b"".join(fmt0(csid, 0, VIDEO, 1, bytes(500), 1000) for csid in range(3, 7)))
    assert reader.held == 2000
    # Refused when it begins, before a byte of it is kept.
    with pytest.raises(LimitError) as caught:
        reader.feed(fmt0(7, 0, VIDEO, 1, b"", 1000))
    assert caught.value.reason == "unfinished"
    assert reader.held == 2000


def test_finished_messages_make_room() -> None:
    limits = Limits(max_message_bytes=1000)
    reader = ChunkReader(limits)
    reader.feed(set_chunk_size(500))
    for _ in range(5):
        reader.feed(b"".join(fmt0(csid, 0, VIDEO, 1, bytes(500), 1000) for csid in range(3, 7)))
        assert len(reader.feed(b"".join(fmt3(csid, bytes(500)) for csid in range(3, 7)))) == 4
        assert reader.held == 0


@pytest.mark.parametrize(("piece", "times"), [(1, 20000), (2, 20000), (3, 20000), (1448, 700)])
def test_memory_is_what_is_held_and_not_what_is_announced(piece: int, times: int) -> None:
    """Tiny reads must not cost an object each, and a long announcement alone costs nothing."""
    reader = ChunkReader(LIMITS)
    reader.feed(set_chunk_size(LIMITS.max_chunk_bytes) + fmt0(6, 0, VIDEO, 1, b"", LIMITS.max_message_bytes))
    stream = reader._current
    assert stream is not None
    assert sys.getsizeof(stream.body) < 100
    for _ in range(times):
        reader.feed(bytes(piece))
    assert reader.held == times * piece
    assert sys.getsizeof(stream.body) < 1.2 * reader.held + 100


def test_payloads_do_not_share_memory_with_what_was_fed() -> None:
    wire = fmt0(4, 0, AUDIO, 1, b"ab") + fmt0(6, 0, VIDEO, 1, BODY[:128], 130) + fmt3(6, b"cd")
    for message in read(wire):
        assert type(message.payload) is bytes
        assert sys.getsizeof(message.payload) < len(message.payload) + 64


# Everything at once

payloads = st.one_of(st.binary(max_size=20), st.integers(0, 2000).map(counting))
timestamps = st.one_of(st.integers(0, 5000), st.sampled_from([0xFFFFFE, 0xFFFFFF, LATE, 2**32 - 1]))
media = st.builds(
    Message, st.sampled_from([AUDIO, VIDEO, DATA_AMF0, COMMAND_AMF0]), timestamps,
    st.sampled_from([0, 1, 300, 2**32 - 1]), payloads,
)


class Sender:
    """Cuts messages into chunks with the present chunk size and any fmt that may be used; the other direction of the
    reader, written independently of the package's encoder."""

    def __init__(self, chance: random.Random) -> None:
        self.chunk_size = 128
        self.chance = chance

    def chunks(self, csid: int, messages: list[Message]) -> Iterator[bytes]:
        last: Message | None = None
        field = 0
        for message in messages:
            length = len(message.payload)
            fmts = [0]
            if last is not None and last.msid == message.msid:
                delta = (message.timestamp - last.timestamp) % 2**32
                fmts.append(1)
                if (last.type, len(last.payload)) == (message.type, length):
                    fmts.append(2)
                    if delta == field:
                        fmts.append(3)
            fmt = self.chance.choice(fmts)
            part = message.payload[: self.chunk_size]
            if fmt == 0:
                field = message.timestamp
                yield fmt0(csid, field, message.type, message.msid, part, length)
            elif fmt == 1:
                field = delta
                yield fmt1(csid, field, message.type, part, length)
            elif fmt == 2:
                field = delta
                yield fmt2(csid, field, part)
            else:
                yield fmt3(csid, part, field if field >= 0xFFFFFF else None)
            sent = len(part)
            while sent < length:
                part = message.payload[sent : sent + self.chunk_size]
                sent += len(part)
                yield fmt3(csid, part, field if field >= 0xFFFFFF else None)
            last = message

    def change_chunk_size(self, size: int) -> bytes:
        wire = b"".join(self.chunks(2, [Message(SET_CHUNK_SIZE, 0, 0, u32(size))]))
        self.chunk_size = size
        return wire


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from([3, 63, 64, 319, 320, 65599]), st.lists(media, max_size=5), max_size=4),
    st.lists(st.one_of(st.integers(1, 300), st.just(4096)), max_size=4),
    st.randoms(use_true_random=False),
)
def test_any_interleaving_any_chunk_sizes_any_cuts(
    plan: dict[int, list[Message]], sizes: list[int], chance: random.Random
) -> None:
    # A message stream id of its own says which chunk stream a message came by.
    for csid, messages in plan.items():
        for message in messages:
            message.msid = csid
    sender = Sender(chance)
    under_way = [sender.chunks(csid, messages) for csid, messages in plan.items()]
    wire = bytearray()
    while under_way:
        if sizes and chance.random() < 0.2:
            wire += sender.change_chunk_size(sizes.pop())
        chunks = chance.choice(under_way)
        chunk = next(chunks, None)
        if chunk is None:
            under_way.remove(chunks)
        else:
            wire += chunk

    cuts = sorted(chance.randrange(len(wire) + 1) for _ in range(chance.randrange(8)))
    reader = ChunkReader(LIMITS)
    received = [
        message for start, end in pairwise([0, *cuts, len(wire)]) for message in reader.feed(bytes(wire[start:end]))
    ]
    for csid, messages in plan.items():
        assert [message for message in received if message.msid == csid] == messages
    assert len(received) == sum(map(len, plan.values()))
    assert reader.held == 0
    assert reader.chunk_size == sender.chunk_size
    assert read(*(bytes((byte,)) for byte in wire)) == received


@given(media, st.sampled_from([2, 63, 64, 319, 320, 65599]), st.integers(1, 5000))
def test_what_is_encoded_is_read(message: Message, csid: int, chunk_size: int) -> None:
    wire = b"".join(encode(message, csid, chunk_size=chunk_size))
    assert read(set_chunk_size(chunk_size) + wire + wire) == [message, message]


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_read_or_refused(data: bytes, cut: int) -> None:
    outcomes = []
    for parts in ([data], [data[:cut], data[cut:]]):
        reader = ChunkReader(SMALL)
        messages: list[Message] = []
        try:
            for part in parts:
                messages += reader.feed(part)
        except (ChunkError, LimitError) as error:
            outcomes.append(str(error))
        else:
            outcomes.append(repr(messages))
        assert reader.held <= 2000
    assert outcomes[0] == outcomes[1]


def test_a_flood_of_empty_messages_is_refused() -> None:
    reader = ChunkReader(Limits())
    opening = encode_header(6, VIDEO, 0, 1, 0)
    assert len(reader.feed(opening + b"\xc6" * 1000)) == 1001
    with pytest.raises(LimitError) as refused:
        reader.feed(b"\xc6" * 2000)
    assert refused.value.reason == "empty"
