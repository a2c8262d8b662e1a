from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp import amf, control
from pyrtmp.errors import ChunkError, LimitError
from pyrtmp.message import AGGREGATE, AUDIO, DATA_AMF0, USER_CONTROL, VIDEO, WINDOW_ACK_SIZE, Message


@pytest.mark.parametrize(
    ("message", "type", "payload"),
    [
        (control.set_chunk_size(4096), 1, "00001000"),
        (control.acknowledgement(0x01020304), 3, "01020304"),
        (control.acknowledgement(2**32 + 7), 3, "00000007"),
        (control.window_ack_size(2_500_000), 5, "002625a0"),
        (control.set_peer_bandwidth(2_500_000), 6, "002625a002"),
        (control.set_peer_bandwidth(1, control.BANDWIDTH_HARD), 6, "0000000100"),
        (control.user_control(control.STREAM_BEGIN, 1), 4, "000000000001"),
        (control.user_control(control.STREAM_EOF, 1), 4, "000100000001"),
        (control.user_control(control.SET_BUFFER_LENGTH, 1, 3000), 4, "00030000000100000bb8"),
        (control.user_control(control.PING_REQUEST, 2**32 + 9), 4, "000600000009"),
    ],
)
def test_bodies(message: Message, type: int, payload: str) -> None:
    # 5.4, 7.1.7: control messages go on message stream 0, their timestamps are ignored
    assert message == Message(type, 0, 0, bytes.fromhex(payload))


@pytest.mark.parametrize("message", [control.acknowledgement(77), control.set_peer_bandwidth(77)])
def test_u32(message: Message) -> None:
    assert control.parse_u32(message) == 77


@pytest.mark.parametrize("size", range(4))
def test_short_u32(size: int) -> None:
    with pytest.raises(ChunkError, match="4 needed"):
        control.parse_u32(Message(WINDOW_ACK_SIZE, 0, 0, bytes(size)))


@given(st.integers(0, 0xFFFF), st.lists(st.integers(0, 2**32 - 1), max_size=3), st.binary(max_size=3))
def test_user_control_back(event: int, values: list[int], rest: bytes) -> None:
    body = control.user_control(event, *values).payload + rest
    assert control.parse_user_control(Message(USER_CONTROL, 0, 0, body)) == (event, values)


@pytest.mark.parametrize("body", [b"", b"\0"])
def test_user_control_without_an_event(body: bytes) -> None:
    with pytest.raises(ChunkError, match="event"):
        control.parse_user_control(Message(USER_CONTROL, 0, 0, body))


# 7.1.6 Aggregate


def part(type: int, timestamp: int, body: bytes, pointer: bool = True) -> bytes:
    header = bytes([type]) + len(body).to_bytes(3, "big") + (timestamp & 0xFFFFFF).to_bytes(3, "big")
    header += bytes([timestamp >> 24]) + bytes(3)
    return header + body + ((11 + len(body)).to_bytes(4, "big") if pointer else b"")


def aggregate(timestamp: int, *parts: bytes) -> Message:
    return Message(AGGREGATE, timestamp, 5, b"".join(parts))


def test_aggregate_without_offset() -> None:
    message = aggregate(1000, part(AUDIO, 1000, b"a"), part(VIDEO, 1010, b""), part(DATA_AMF0, 1020, b"ccc"))
    assert control.split_aggregate(message) == [
        Message(AUDIO, 1000, 5, b"a"), Message(VIDEO, 1010, 5, b""), Message(DATA_AMF0, 1020, 5, b"ccc")]


@pytest.mark.parametrize(
    ("outer", "inner", "times"),
    [
        (5000, (0, 20), [5000, 5020]),
        (0, (5000, 5020), [0, 20]),
        (2**32 - 10, (0, 20), [2**32 - 10, 10]),
        (0x01000000, (0x01000000, 0x01000010), [0x01000000, 0x01000010]),
        (100, (0x7F000000, 0x7F000000 - 40), [100, 60]),
    ],
)
def test_aggregate_timestamps_are_moved_together(outer: int, inner: tuple[int, int], times: list[int]) -> None:
    message = aggregate(outer, *(part(AUDIO, time, b"x") for time in inner))
    assert [m.timestamp for m in control.split_aggregate(message)] == times


def test_the_first_message_of_an_aggregate_counts_even_when_dropped() -> None:
    message = aggregate(100, part(99, 7, b"?"), part(AUDIO, 17, b"a"))
    assert control.split_aggregate(message) == [Message(AUDIO, 110, 5, b"a")]


def test_aggregate_within_aggregate_is_dropped() -> None:
    assert control.split_aggregate(aggregate(0, part(AGGREGATE, 0, part(AUDIO, 0, b"a")))) == []


def test_every_cut_of_an_aggregate() -> None:
    body = part(AUDIO, 0, b"abc") + part(VIDEO, 5, b"de")
    whole = control.split_aggregate(Message(AGGREGATE, 0, 1, body))
    # 18 bytes the first, with its back-pointer; 13 the second without.  Back-pointers may be missing at the end.
    good = {0: 0, 14: 1, 15: 1, 16: 1, 17: 1, 18: 1, 31: 2, 32: 2, 33: 2, 34: 2, 35: 2}
    for cut in range(len(body) + 1):
        message = Message(AGGREGATE, 0, 1, body[:cut])
        if cut in good:
            assert control.split_aggregate(message) == whole[: good[cut]]
        else:
            with pytest.raises(ChunkError, match="truncated"):
                control.split_aggregate(message)
    assert len(whole) == 2 and len(body) == 35


def test_aggregate_of_very_many_messages() -> None:
    one = part(99, 0, b"")
    assert control.split_aggregate(aggregate(0, one * control.MAX_AGGREGATED)) == []
    with pytest.raises(LimitError) as caught:
        control.split_aggregate(aggregate(0, one * (control.MAX_AGGREGATED + 1)))
    assert caught.value.reason == "aggregate"


# @setDataFrame


def test_set_data_frame_is_what_amf_says() -> None:
    assert amf.encode0("@setDataFrame") == control.SET_DATA_FRAME


@pytest.mark.parametrize(
    ("body", "stripped"),
    [
        (amf.encode0("@setDataFrame", "onMetaData", {"width": 1.0}), amf.encode0("onMetaData", {"width": 1.0})),
        (amf.encode0("onMetaData", "@setDataFrame"), amf.encode0("onMetaData", "@setDataFrame")),
        (amf.encode0("@setDataFrames"), amf.encode0("@setDataFrames")),
        (control.SET_DATA_FRAME, b""),
        (control.SET_DATA_FRAME[:-1], control.SET_DATA_FRAME[:-1]),
        (b"", b""),
    ],
)
def test_strip_set_data_frame(body: bytes, stripped: bytes) -> None:
    assert control.strip_set_data_frame(body) == stripped
