from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hls.flv import FlvForm, header
from pyrtmp.message import Message

TAGS = st.builds(
    Message,
    st.sampled_from((8, 9, 18)),
    st.integers(0, 1 << 33),
    st.just(1),
    st.binary(max_size=200),
)


def encode(messages: list[Message]) -> bytes:
    buffers: list[bytes] = []
    size = FlvForm().encode(messages, buffers)
    data = b"".join(buffers)
    assert size == len(data)
    return data


@pytest.mark.parametrize(("audio", "video", "flags"), [(True, True, 5), (True, False, 4), (False, True, 1)])
def test_the_header_names_the_tracks(audio: bool, video: bool, flags: int) -> None:
    data = bytes((0x46, 0x4C, 0x56, 1, flags, 0, 0, 0, 9, 0, 0, 0, 0))
    assert header(audio, video) == data
    assert FlvForm().prologue(audio, video) == data


@pytest.mark.parametrize(
    ("timestamp", "field"),
    [
        (0, "00000000"),
        (0x123456, "12345600"),
        (0xFFFFFF, "ffffff00"),
        (0x1000000, "00000001"),  # the upper 8 bits follow the lower 24
        (0x89ABCDEF, "abcdef89"),
        (0x1_00000005, "00000500"),  # past 49.7 days: wraps
    ],
)
def test_tag_layout(timestamp: int, field: str) -> None:
    tag = encode([Message(9, timestamp, 7, b"\x17\x01\x02")])
    assert tag.hex() == "09" + "000003" + field + "000000" + "170102" + "0000000e"


def test_payloads_are_not_copied() -> None:
    message = Message(8, 0, 1, bytes(1000))
    buffers: list[bytes] = []
    FlvForm().encode([message], buffers)
    assert any(part is message.payload for part in buffers)


@given(st.lists(TAGS, max_size=6))
def test_records_are_the_tags(messages: list[Message]) -> None:
    data = encode(messages)
    records = list(FlvForm().records(data))
    assert [type for type, _, _ in records] == [message.type for message in messages]
    assert b"".join(data[start:end] for _, start, end in records) == data


@given(st.lists(TAGS, min_size=1, max_size=3))
def test_only_whole_records_are_given(messages: list[Message]) -> None:
    data = encode(messages)
    ends = [end for _, _, end in FlvForm().records(data)]
    for cut in range(len(data)):
        assert [end for _, _, end in FlvForm().records(data[:cut])] == [end for end in ends if end <= cut]
