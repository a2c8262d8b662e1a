from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp import control
from pyrtmp.chunk import OUTGOING_CHUNK_SIZE, ChunkReader, encode
from pyrtmp.forms import CSIDS, PLAY_MSID, RtmpForm, with_msid
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from pyrtmp.settings import Limits

FORM = RtmpForm()


def player_reads(wire: bytes) -> list[Message]:
    """What a player makes of it that was told the chunk size."""
    reader = ChunkReader(Limits(max_command_bytes=1024 * 1024))
    reader.feed(b"".join(encode(control.set_chunk_size(OUTGOING_CHUNK_SIZE), 2)))
    messages = reader.feed(wire)
    assert reader.held == 0
    return messages


def encoded(messages: list[Message]) -> bytes:
    buffers: list[bytes] = []
    size = FORM.encode(messages, buffers)
    wire = b"".join(buffers)
    assert size == len(wire)
    return wire


def test_bytes() -> None:
    wire = encoded([Message(VIDEO, 0x010203, 7, b"ab"), Message(AUDIO, 2**32 + 0x010000, 7, b"c")])
    assert wire == b"\x06\1\2\3\0\0\2\x09\1\0\0\0ab" + b"\x04\1\0\0\0\0\1\x08\1\0\0\0c"
    assert encoded([Message(DATA_AMF0, 0xFFFFFF, 0, b"")]) == b"\x05\xff\xff\xff\0\0\0\x12\1\0\0\0\0\xff\xff\xff"


def test_each_kind_of_media_has_its_own_chunk_stream() -> None:
    assert sorted(CSIDS) == [AUDIO, VIDEO, DATA_AMF0]
    # 5.3.1.1: 2 is for protocol control; with_msid and records need the one-byte form
    assert len(set(CSIDS.values())) == 3 and all(2 < csid < 64 for csid in CSIDS.values())


def test_payloads_are_not_copied_and_buffers_are_appended_to() -> None:
    message = Message(VIDEO, 0, 1, bytes(OUTGOING_CHUNK_SIZE))
    buffers = [b"before"]
    assert FORM.encode([message], buffers) == 12 + OUTGOING_CHUNK_SIZE
    assert buffers[0] == b"before" and buffers[2] is message.payload
    assert FORM.encode([], buffers) == 0 and len(buffers) == 3


def test_no_prologue() -> None:
    assert FORM.prologue(True, True) == b"" and not FORM.needs_tracks


LENGTHS = [0, 1, 127, 128, OUTGOING_CHUNK_SIZE - 1, OUTGOING_CHUNK_SIZE, OUTGOING_CHUNK_SIZE + 1,
           2 * OUTGOING_CHUNK_SIZE, 2 * OUTGOING_CHUNK_SIZE + 1]
TIMES = [0, 0xFFFFFE, 0xFFFFFF, 0x01000000, 2**32 - 1, 2**32, 2**32 + 0xFFFFFF]


@given(st.lists(st.builds(
    lambda type, time, length: Message(type, time, 3, bytes([length & 0xFF]) * length),
    st.sampled_from([AUDIO, VIDEO, DATA_AMF0]), st.sampled_from(TIMES), st.sampled_from(LENGTHS)), max_size=6))
def test_records_are_what_was_encoded(messages: list[Message]) -> None:
    wire = encoded(messages)
    single = [encoded([message]) for message in messages]
    walked = list(FORM.records(wire))
    assert [(type, wire[start:end]) for type, start, end in walked] == [
        (message.type, record) for message, record in zip(messages, single, strict=True)]
    assert player_reads(wire) == [
        Message(m.type, m.timestamp % 2**32, PLAY_MSID, m.payload) for m in messages]


def test_records_stop_at_a_record_that_is_not_whole() -> None:
    messages = [Message(AUDIO, 5, 1, b"abc"), Message(VIDEO, 0xFFFFFF, 1, b"de"), Message(AUDIO, 6, 1, b"")]
    wire = encoded(messages)
    ends = [15, 15 + 18, 15 + 18 + 12]
    assert len(wire) == ends[-1]
    for cut in range(len(wire) + 1):
        assert [end for _, _, end in FORM.records(wire[:cut])] == [end for end in ends if end <= cut]


@pytest.mark.parametrize("length", [0, 3, OUTGOING_CHUNK_SIZE + 5])
@pytest.mark.parametrize("time", [9, 0x01000000])
@pytest.mark.parametrize("msid", [0, 2, 300, 2**32 - 1])
def test_another_message_stream_id(length: int, time: int, msid: int) -> None:
    record = encoded([Message(VIDEO, time, 1, b"x" * length)])
    assert player_reads(with_msid(record, msid)) == [Message(VIDEO, time, msid, b"x" * length)]
    assert with_msid(record, PLAY_MSID) == record
