from __future__ import annotations

from pathlib import Path

import pytest

from cluster.flv import FlvError, FlvReader
from hls.flv import FlvForm, header
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message

MESSAGES = [
    Message(DATA_AMF0, 0, 0, b"\x02\x00\x0aonMetaData"),
    Message(VIDEO, 0xFFFFFF, 0, b"\x17\x01" + bytes(300)),
    Message(AUDIO, 0x01000000, 0, b""),
    Message(VIDEO, 0xFFFFFFFF, 0, b"\x27"),
]


def flv() -> bytes:
    buffers = [header(True, True)]
    FlvForm().encode(MESSAGES, buffers)
    return b"".join(buffers)


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
