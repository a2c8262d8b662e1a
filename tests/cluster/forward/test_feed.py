from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pytest

from cluster.forward import PushSettings
from cluster.forward.feed import Counts, Feed
from pyrtmp import Client, Message, StreamKey, StreamSettings, amf
from pyrtmp.message import DATA_AMF0, VIDEO
from pyrtmp.stream import Stream
from tests.pyrtmp.aio.net import AUDIO_SEQUENCE, SEQUENCE, frame, number_of, sound

SETTINGS = PushSettings(buffer_bytes=10_000, buffer_seconds=5.0)
HEADER = Message(VIDEO, 0, 1, SEQUENCE)


class FakeClient:
    """Takes what it is told to take; every message costs 10 bytes beside its payload."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.unsent = 0

    def send_many(self, messages: Iterable[Message]) -> int:
        new = list(messages)
        self.sent += new
        size = sum(len(m.payload) + 10 for m in new)
        self.unsent += size
        return size

    def numbers(self) -> list[int]:
        """Of the pictures sent; -1 for anything else."""
        return [number_of(m) if m.type == VIDEO and m.payload[1] == 1 else -1 for m in self.sent]


class Publisher:
    id = "p"

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        raise NotImplementedError


class Subject:
    def __init__(self) -> None:
        self.now = 100.0
        self.stream = Stream(StreamKey("live", "cam"), StreamSettings(), lambda stream: None, self.now)
        self.stream.begin(Publisher(), self.now)
        self.client = FakeClient()
        self.counts = Counts()
        self.feed = Feed(self.stream, cast(Client, self.client), SETTINGS, self.counts, lambda: self.now)

    def push(self, *messages: Message) -> None:
        """One round."""
        for message in messages:
            self.stream.push(Message(message.type, message.timestamp, 1, message.payload))
        self.stream.flush()

    def begin(self) -> None:
        """Three pictures, all sent and taken."""
        self.push(HEADER, frame(0, key=True), frame(1))
        self.feed.begin()
        self.client.unsent = 0
        self.push(frame(2))
        self.client.unsent = 0


@pytest.fixture
def subject() -> Subject:
    return Subject()


def test_joins_with_the_head_at_the_key_frame(subject: Subject) -> None:
    subject.begin()
    assert subject.client.sent == [HEADER, frame(0, key=True), frame(1), frame(2)]
    assert subject.counts == Counts(subject.counts.bytes, 4, 0)


def test_without_a_group_at_hand_waits_for_the_next_key_frame(subject: Subject) -> None:
    subject.push(HEADER)
    subject.feed.begin()
    subject.push(frame(1))
    assert not subject.client.sent
    subject.push(frame(2), frame(3, key=True), frame(4))
    assert subject.client.numbers() == [-1, 3, 4]
    assert subject.counts.dropped == 0


def test_a_group_larger_than_the_buffer_is_not_sent(subject: Subject) -> None:
    subject.push(HEADER, frame(0, 8000, key=True), frame(1, 8000))
    subject.feed.begin()
    subject.push(frame(2))
    assert not subject.client.sent
    subject.push(frame(3, key=True))
    assert subject.client.numbers() == [-1, 3]


def test_sound_alone_is_joined_anywhere(subject: Subject) -> None:
    subject.push(Message(8, 0, 1, AUDIO_SEQUENCE), sound(0), sound(1))
    subject.feed.begin()
    subject.push(sound(2))
    assert [m.timestamp for m in subject.client.sent] == [40, 40, 80]


def test_too_many_bytes_are_dropped_up_to_a_key_frame(subject: Subject) -> None:
    subject.begin()
    subject.push(frame(3, 9000))
    subject.push(frame(4, 9000))
    assert subject.client.numbers() == [-1, 0, 1, 2, 3, 4]  # 4 found 9,019 bytes, which is allowed
    subject.push(frame(5))
    subject.push(sound(5), frame(6, key=True))  # no room
    subject.client.unsent = 6000
    subject.push(frame(7, key=True))  # less than allowed, but more than half of it
    subject.client.unsent = 4000
    subject.push(frame(8))
    subject.push(frame(9), frame(10, key=True), frame(11))
    subject.push(frame(12))
    assert subject.client.numbers() == [-1, 0, 1, 2, 3, 4, 10, 11, 12]  # the head is as it was
    assert subject.counts.dropped == 6


def test_waiting_for_too_long_is_dropping_too(subject: Subject) -> None:
    subject.begin()
    subject.push(frame(3, 100))
    subject.now += 4.9
    assert subject.feed.delay == pytest.approx(4.9)
    subject.push(frame(4, 100))
    subject.now += 0.2
    subject.push(frame(5, 100))
    assert subject.client.numbers()[-1] == 4
    subject.client.unsent = 50  # the newer one is still there
    assert subject.feed.delay == pytest.approx(0.2)
    subject.push(frame(6, key=True))
    assert subject.client.numbers()[-1] == 6
    subject.client.unsent = 0
    assert subject.feed.delay == 0


@pytest.mark.parametrize(
    "change",
    [
        Message(VIDEO, 0, 1, SEQUENCE + b"x"),
        Message(8, 0, 1, AUDIO_SEQUENCE),
        Message(DATA_AMF0, 0, 1, amf.encode0("onMetaData", {"width": 1.0})),
    ],
)
def test_a_head_that_changed_meanwhile_is_sent_again(subject: Subject, change: Message) -> None:
    subject.begin()
    subject.client.unsent = 20_000
    subject.push(frame(3))
    subject.push(change)
    subject.push(frame(4))
    subject.client.unsent = 0
    subject.client.sent.clear()
    subject.push(frame(5, key=True))
    assert change.payload in [m.payload for m in subject.client.sent[:-1]]
    assert subject.client.numbers()[-1] == 5


def test_a_change_of_head_while_sending_is_not_sent_twice(subject: Subject) -> None:
    subject.begin()
    subject.push(Message(VIDEO, 0, 1, SEQUENCE + b"x"), frame(3, key=True))
    subject.client.unsent = 20_000
    subject.push(frame(4))
    subject.client.unsent = 0
    subject.push(frame(5, key=True))
    assert subject.client.numbers() == [-1, 0, 1, 2, -1, 3, 5]


def test_stalled(subject: Subject) -> None:
    subject.begin()
    subject.now += 60
    assert subject.feed.stalled == 0  # nothing waits
    subject.push(frame(3))
    subject.now += 1
    subject.push(frame(4))
    assert subject.feed.stalled == 1
    subject.now += 1
    assert subject.feed.stalled == 2
    subject.client.unsent -= 1
    assert subject.feed.stalled == 0
    subject.now += 3
    assert subject.feed.stalled == 3


def test_the_end_detaches(subject: Subject) -> None:
    subject.begin()
    subject.feed.end()
    subject.push(frame(3))
    assert subject.client.numbers() == [-1, 0, 1, 2]
    assert not subject.stream.wanted


def test_others_hear_each_message_once_while_one_joins_again(subject: Subject) -> None:
    got: list[Message] = []

    class Other:
        def on_messages(self, messages: Any) -> None:
            got.extend(messages)

        def on_restart(self) -> None: ...

        def on_end(self) -> None: ...

    subject.begin()
    subject.stream.attach(Other())
    subject.client.unsent = 20_000
    subject.push(frame(3))
    subject.client.unsent = 0
    subject.push(frame(4, key=True))
    subject.push(frame(5))
    assert [m.timestamp // 40 for m in got] == [0, 0, 1, 2, 3, 4, 5]
    assert subject.client.numbers() == [-1, 0, 1, 2, 4, 5]
