from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.flv import MAX_TAG_BYTES, FlvError, FlvReader
from hls.flv import FlvForm, header
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message

MESSAGES = [
    Message(DATA_AMF0, 0, 0, b"\x02\x00\x0aonMetaData"),
    Message(VIDEO, 0xFFFFFF, 0, b"\x17\x01" + bytes(300)),
    Message(AUDIO, 0x01000000, 0, b""),
    Message(VIDEO, 0xFFFFFFFF, 0, b"\x27"),
]


def flv(messages: list[Message] = MESSAGES) -> bytes:
    buffers = [header(True, True)]
    FlvForm().encode(messages, buffers)
    return b"".join(buffers)


def tag(head: str, payload: bytes = b"") -> bytes:
    """A file that begins with that tag; ``head`` in hexadecimal."""
    return header(True, True) + bytes.fromhex(head) + payload


def test_whole() -> None:
    assert FlvReader().feed(flv()) == MESSAGES


def test_byte_by_byte() -> None:
    reader = FlvReader()
    data = flv()
    assert [message for at in range(len(data)) for message in reader.feed(data[at : at + 1])] == MESSAGES


def test_split_at_every_offset() -> None:
    data = flv()
    for at in range(len(data)):
        reader = FlvReader()
        assert reader.feed(data[:at]) + reader.feed(data[at:]) == MESSAGES


ANY = st.builds(
    Message, st.sampled_from((AUDIO, VIDEO, DATA_AMF0)), st.integers(0, 0xFFFFFFFF), st.just(0), st.binary(max_size=60)
)


@given(st.lists(ANY, max_size=5), st.lists(st.integers(0, 400)))
def test_in_any_pieces(messages: list[Message], cuts: list[int]) -> None:
    data = flv(messages)
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = FlvReader(60)
    assert [message for start, end in pairwise(ends) for message in reader.feed(data[start:end])] == messages


@given(st.binary(max_size=60), st.integers(0, 60), st.booleans())
def test_of_garbage_it_says_only_that(garbage: bytes, cut: int, behind: bool) -> None:
    data = (flv() if behind else b"") + garbage
    reader = FlvReader(1000)
    try:
        for piece in (data[:cut], data[cut:]):
            reader.feed(piece)
    except FlvError as error:
        assert len(str(error)) < 100


@pytest.mark.parametrize(
    "time, timestamp",
    [("00000000", 0), ("ffffff00", 0xFFFFFF), ("00000001", 1 << 24), ("abcdef89", 0x89ABCDEF)],
)
def test_the_timestamp_has_its_upper_bits_behind_the_others(time: str, timestamp: int) -> None:
    assert FlvReader().feed(tag(f"09000001{time}000000", b"x" + bytes(4))) == [Message(VIDEO, timestamp, 0, b"x")]


def test_what_the_size_behind_a_tag_says_does_not_matter() -> None:
    assert FlvReader().feed(tag("0800000100000000000000", b"x" + b"\xff" * 4)) == [Message(AUDIO, 0, 0, b"x")]


@pytest.mark.parametrize("size, limit", [(11, 10), (MAX_TAG_BYTES, 4 << 20)])
def test_a_tag_that_is_too_long_is_refused_before_it_comes(size: int, limit: int) -> None:
    with pytest.raises(FlvError, match=f"{size} bytes is too long"):
        FlvReader(limit).feed(tag(f"09{size:06x}00000000000000"))


@pytest.mark.parametrize("head", ["0800000000000000000001", "0900000000000000800000", "4900000000000000000000",
                                  "8800000000000000000000", "0000000000000000000000", "464c560105000000090000"])
def test_what_is_no_tag_is_refused_for_good(head: str) -> None:
    reader = FlvReader()
    for data in (tag(head), flv()):
        with pytest.raises(FlvError, match="no FLV tag"):
            reader.feed(data)


def test_a_tag_that_drips_costs_little() -> None:
    """However many pieces a tag comes in, what is there already is not looked at again."""
    size = 4 << 20
    reader = FlvReader(size)
    reader.feed(tag(f"09{size:06x}00000000000000"))
    began = process_time()
    for _ in range(size // 64):
        assert reader.feed(bytes(64)) == []
    (message,) = reader.feed(bytes(4))
    assert message.payload == bytes(size)
    assert process_time() - began < 2  # 65,536 pieces; with a copy for each it would be minutes


def test_a_longer_header_is_skipped() -> None:
    """E.2: DataOffset is 9 for version 1; "this field is present to accommodate larger headers in future versions"."""
    data = flv()
    assert FlvReader().feed(data[:5] + b"\x00\x00\x00\x0c" + b"new" + data[9:]) == MESSAGES


def test_other_tags_are_left_out_or_refused() -> None:
    encrypted = Message(VIDEO | 0x20, 0, 0, b"secret")  # E.4.1: the filter bit
    buffers = [header(True, True)]
    FlvForm().encode([encrypted, *MESSAGES], buffers)
    assert FlvReader().feed(b"".join(buffers)) == MESSAGES
    buffers = [header(True, True)]
    FlvForm().encode([Message(3, 0, 0, b"?")], buffers)
    with pytest.raises(FlvError, match="no FLV tag of type 3"):
        FlvReader().feed(b"".join(buffers))


@pytest.mark.parametrize(
    "data", [b"<html>", b"F", b"FLX", b"FLV\x01\x05\x00\x00\x00\x03", b"FLV\x01\x05\xff\xff\xff\xff"]
)
def test_not_flv(data: bytes) -> None:
    reader = FlvReader()
    if data == b"F":
        assert reader.feed(data) == []
        data = b"ile not found"
    with pytest.raises(FlvError):
        reader.feed(data)


def test_a_real_file(clip: Path) -> None:
    messages = FlvReader().feed(clip.read_bytes())
    assert sum(message.type == VIDEO for message in messages) >= 75
