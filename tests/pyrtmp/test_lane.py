from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import pytest

from pyrtmp.forms import RtmpForm
from pyrtmp.lane import Lane
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from pyrtmp.settings import StreamSettings
from pyrtmp.wirelog import PlainStorage, Segment

SETTINGS = StreamSettings(segment_bytes=200, log_bytes=2000, log_seconds=100.0)
META = Message(DATA_AMF0, 0, 0, b"meta")
HEADER = Message(VIDEO, 0, 1, b"sequence header")


class CountingForm(RtmpForm):
    """Says how often it was asked for how many messages."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(self, messages: Sequence[Message], buffers: list[bytes]) -> int:
        self.calls.append(len(messages))
        return super().encode(messages, buffers)


class FullStorage(PlainStorage):
    """No memory for what holds ``!``."""

    def write(self, buffers: Sequence[bytes]) -> None:
        if any(b"!" in buffer for buffer in buffers):
            raise OSError(errno.ENOSPC, "no space")
        super().write(buffers)


def frame(time: int, payload: bytes = b"frame", *, join: bool = False) -> Message:
    message = Message(VIDEO, time, 1, payload)
    message.join = join
    return message


def wire(*messages: Message) -> bytes:
    buffers: list[bytes] = []
    RtmpForm().encode(messages, buffers)
    return b"".join(buffers)


def chain(segment: Segment | None, offset: int = 0) -> bytes:
    read = b""
    while segment is not None:
        read += segment.read(offset, segment.size - offset)
        segment, offset = segment.next, 0
    return read


def new_lane(settings: StreamSettings = SETTINGS) -> tuple[Lane, Segment]:
    """A lane, and its first segment with a reader in it."""
    lane = Lane(RtmpForm(), settings, PlainStorage)
    first = lane.log.tail
    first.readers += 1
    return lane, first


def joined(lane: Lane) -> bytes:
    """What a joiner gets."""
    return lane.head() + chain(lane.log.join, lane.log.join_offset)


def test_messages_are_laid_out_once_and_in_order() -> None:
    form = CountingForm()
    lane = Lane(form, SETTINGS, PlainStorage)
    messages = [frame(0), Message(AUDIO, 3, 1, b"sound"), frame(40)]
    lane.publish(messages, (), 0)
    assert chain(lane.log.tail) == wire(*messages)
    assert lane.log.join is None
    assert form.calls == [3]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_joiners_begin_with_the_head_and_the_join_point(at: int) -> None:
    lane, first = new_lane()
    messages = [frame(40 * index + 7, join=index == at) for index in range(3)]
    lane.publish(messages, (META, HEADER), 5)
    assert chain(first) == wire(*messages)
    # The head carries the join point's time, so that players do not see time go back; metadata are time 0's.
    time = messages[at].timestamp
    head = [Message(META.type, 0, 0, META.payload), Message(HEADER.type, time, 0, HEADER.payload)]
    assert joined(lane) == wire(*head, *messages[at:])
    assert lane.generation == 1


def test_the_last_join_point_counts() -> None:
    lane, first = new_lane()
    messages = [frame(0, join=True), frame(40), frame(80, b"key", join=True), frame(120)]
    lane.publish(messages, (), 1)
    assert chain(first) == wire(*messages)
    assert joined(lane) == wire(*messages[2:])


def test_the_head_stays_with_its_join_point() -> None:
    lane, _ = new_lane()
    lane.publish([frame(0, join=True)], (HEADER,), 1)
    later = Message(VIDEO, 40, 1, b"other header")
    lane.publish([later, frame(40)], (later,), 2)
    assert joined(lane) == wire(HEADER, frame(0), later, frame(40))
    assert lane.generation == 1
    lane.publish([frame(80, join=True)], (later,), 2)
    assert joined(lane) == wire(Message(VIDEO, 80, 1, b"other header"), frame(80))
    assert lane.generation == 2


def test_the_head_is_made_once() -> None:
    lane = Lane(CountingForm(), SETTINGS, PlainStorage)
    assert lane.head() == b""
    lane.publish([frame(0, join=True)], (HEADER,), 1)
    assert lane.head() is lane.head()


def test_more_than_a_segment_is_spread_over_segments() -> None:
    lane, first = new_lane()
    messages = [frame(40 * index, b"x" * 90) for index in range(10)]
    lane.publish(messages, (), 0)
    assert chain(first) == wire(*messages)
    assert lane.log.segments == 5
    assert first.next is not None
    assert (first.begun, first.next.begun) == (0, 80)


def test_a_message_longer_than_a_segment_is_laid_out_once() -> None:
    form = CountingForm()
    lane = Lane(form, SETTINGS, PlainStorage)
    lane.publish([frame(0, b"x" * 1000)], (), 0)
    assert lane.log.tail.size == 1012
    assert form.calls == [1]


def test_viewers_that_copy_the_same_bytes_share_the_copy() -> None:
    lane, first = new_lane()
    lane.publish([frame(0), frame(40)], (), 0)
    size = first.size
    copy = lane.read(first, 0, size)
    assert copy == wire(frame(0), frame(40)) and lane.read(first, 0, size) is copy
    lane.publish([frame(80)], (), 0)
    assert lane.read(first, 12, size) == copy[12:]
    assert lane.read(first, 0, first.size) == chain(first)
    lane.publish([frame(120, b"x" * 200), frame(160, b"y" * 200)], (), 0)
    following = first.next
    assert following is not None
    assert lane.read(first, 0, 50) == chain(first)[:50] and lane.read(following, 0, 50) == chain(following)[:50]


def test_when_the_log_cannot_take_it_joiners_wait() -> None:
    lane = Lane(RtmpForm(), SETTINGS, FullStorage)
    lane.publish([frame(0, join=True)], (HEADER,), 1)
    with pytest.raises(OSError):
        lane.publish([frame(40, b"!")], (), 1)
    assert lane.log.join is None
    assert chain(lane.log.tail) == wire(frame(0))
    with pytest.raises(OSError):
        lane.publish([frame(80, b"!", join=True)], (), 1)
    assert lane.log.join is None
    lane.publish([frame(120, join=True)], (HEADER,), 1)
    assert joined(lane) == wire(Message(VIDEO, 120, 1, HEADER.payload), frame(120))


def test_close_gives_the_log_back() -> None:
    lane, first = new_lane()
    lane.publish([frame(0, join=True)], (), 0)
    lane.close()
    assert lane.log.join is None and lane.log.bytes == 0
    assert first.evicted
    assert first.read(0, first.size) == wire(frame(0))
    first.leave()
    assert first.read(0, 1) == b""


# Lanes whose log another process writes

linux = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is Linux")


def adopt(lane: Lane, data: bytes) -> Segment:
    """Go on with a segment of another process that holds ``data``."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(fd, data)
    segment = lane.log.adopt(fd, 0)
    lane.log.extend(len(data))
    return segment


def test_a_lane_is_idle_without_viewers_and_without_pins() -> None:
    lane, _ = new_lane()
    assert lane.idle
    lane.pins += 1
    assert not lane.idle
    lane.viewers[object()] = None  # type: ignore[index]
    lane.pins -= 1
    assert not lane.idle
    lane.viewers.clear()
    assert lane.idle


@linux
def test_a_lane_that_follows_offers_joiners_what_it_is_told() -> None:
    lane = Lane(RtmpForm(), SETTINGS, PlainStorage, follows=True)
    assert lane.log.in_kernel and lane.generation == 0 and joined(lane) == b""
    first = adopt(lane, wire(frame(0), frame(40, join=True)))
    lane.set_head(wire(META, HEADER), 7)
    lane.log.join_at(first, len(wire(frame(0))))
    assert joined(lane) == wire(META, HEADER, frame(40))
    assert lane.generation == 1
    lane.close()


def test_the_generation_changes_with_the_head_and_with_whoever_writes() -> None:
    """Viewers that were there before get a head again exactly when it may be another one."""
    lane, _ = new_lane()
    lane.publish([frame(0, join=True)], (HEADER,), 5)
    lane.publish([frame(40, join=True)], (HEADER,), 5)
    assert lane.generation == 1
    lane.restart()
    # Another process counts on its own, and may be at the same number.
    lane.set_head(wire(META), 5)
    assert (lane.generation, lane.head()) == (2, wire(META))
    lane.set_head(wire(META), 5)
    assert lane.generation == 2
    lane.set_head(wire(HEADER), 6)
    assert (lane.generation, lane.head()) == (3, wire(HEADER))
    lane.restart()
    lane.publish([frame(80, join=True)], (HEADER,), 6)
    assert lane.generation == 4
    assert joined(lane) == wire(Message(VIDEO, 80, 1, HEADER.payload), frame(80))


@linux
def test_after_a_restart_nothing_of_before_is_offered() -> None:
    lane, first = new_lane()
    lane.publish([frame(0, join=True)], (HEADER,), 1)
    lane.restart()
    assert first.evicted and lane.log.join is None
    assert first.read(0, first.size) == wire(frame(0))
    theirs = adopt(lane, wire(frame(40)))
    lane.set_head(wire(META), 1)
    assert lane.log.join is None
    lane.log.join_at(theirs, 0)
    assert joined(lane) == wire(META, frame(40))
    lane.close()
